//! Tests tokens that are signed with keys that their issuer publishes.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use rcgen::{KeyPair, PublicKeyData};
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate::auth::{AuthConfig, TokenRequest, issue};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::gateway::{Description, eventually, gateway};

/// An issuer, which signs tokens and publishes its public keys, or is down.
struct Issuer {
    address: String,
    published: Arc<Mutex<Option<Vec<Value>>>>,
    fetches: Arc<Mutex<usize>>,
    directory: TempDir,
}

impl Issuer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (published, fetches) = (Arc::new(Mutex::new(Some(vec![]))), Arc::new(Mutex::new(0)));
        let (set, count) = (published.clone(), fetches.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                *count.lock() += 1;
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let answer = match &*set.lock() {
                    Some(keys) => {
                        let body = json!({ "keys": keys }).to_string();
                        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
                    }
                    None => "HTTP/1.1 500 Down\r\nContent-Length: 0\r\n\r\n".to_owned(),
                };
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self { address, published, fetches, directory: tempfile::tempdir().expect("a directory") }
    }

    /// Publishes a further key, with which tokens can be signed.
    fn publish(&self, kid: &str) {
        let key = KeyPair::generate().expect("a key");
        std::fs::write(self.directory.path().join(kid), key.serialize_pem()).expect("a file");
        let point = key.der_bytes();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
        let jwk = json!({ "kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "x": x, "y": y });
        self.published.lock().get_or_insert_default().push(jwk);
    }

    fn token(&self, kid: &str, named: &str) -> String {
        let request = TokenRequest {
            user: "ann".to_owned(),
            private_key_file: Some(self.directory.path().join(kid)),
            kid: Some(named.to_owned()),
            ..TokenRequest::default()
        };
        issue(&AuthConfig::default(), 1_700_000_000, &request).expect("a token")
    }

    fn describe(&self, interval_ms: u64) -> Description {
        gateway()
            .with("auth.jwks_url", format!("http://{}/keys", self.address))
            .with("auth.jwks_allow_http", true)
            .with("auth.jwks_interval_ms", interval_ms)
    }

    fn fetches(&self) -> usize {
        *self.fetches.lock()
    }
}

#[tokio::test]
async fn a_key_that_is_published_while_the_gateway_runs_opens_its_tokens_at_once() {
    let issuer = Issuer::start().await;
    issuer.publish("first");
    let gateway = issuer.describe(100).start().await;
    let mut ann = gateway.connect_with(json!({ "token": issuer.token("first", "first") })).await;
    ann.subscribe("news").await;
    issuer.publish("second");
    // If the gateway has just fetched the keys, an unknown key stays unknown until the interval is over.
    eventually("the new key opens a token", async || {
        let mut stranger = gateway.stranger().await;
        stranger.ask("connect", json!({ "token": issuer.token("second", "second") })).await;
        stranger.try_push().await.is_ok_and(|reply| reply["connect"]["client"].is_string())
    })
    .await;
    gateway.connect_as("bob").await;
}

#[tokio::test]
async fn made_up_names_of_keys_cause_no_fetch_each() {
    let issuer = Issuer::start().await;
    issuer.publish("real");
    let gateway = issuer.describe(600_000).start().await;
    gateway.connect_with(json!({ "token": issuer.token("real", "real") })).await;
    let before = issuer.fetches();
    for number in 0..20 {
        let mut stranger = gateway.stranger().await;
        let token = issuer.token("real", &format!("made up {number}"));
        stranger.ask("connect", json!({ "token": token })).await;
        assert_eq!(stranger.closed().await.0, 3500);
    }
    assert_eq!(issuer.fetches(), before);
}

#[tokio::test]
async fn while_the_issuer_is_down_known_keys_serve_and_others_are_to_come_again() {
    let issuer = Issuer::start().await;
    issuer.publish("real");
    let gateway = issuer.describe(100).start().await;
    gateway.connect_with(json!({ "token": issuer.token("real", "real") })).await;
    *issuer.published.lock() = None;
    eventually("the issuer is found to be down", async || {
        let mut stranger = gateway.stranger().await;
        stranger.ask("connect", json!({ "token": issuer.token("real", "other") })).await;
        stranger.try_push().await.is_ok_and(|reply| reply["error"]["code"] == 100)
    })
    .await;
    assert!(gateway.metric("tidegate_jwks_fetches_total{result=\"failed\"}").await > 0.0);
    gateway.connect_with(json!({ "token": issuer.token("real", "real") })).await;
}
