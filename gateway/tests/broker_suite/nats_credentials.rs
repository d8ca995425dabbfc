//! Tests nodes that log in to a server with operators and accounts, with a credentials file as `nsc` writes it.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};
use tidegate::broker::nats::{NatsConfig, NatsUrl};

use crate::harness::{ALL, Nats, channel, eventually};

/// Returns a JWT with these claims about `subject`, signed by `issuer`.
fn token(issuer: &KeyPair, subject: &KeyPair, name: &str, says: &Value) -> String {
    let head = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let claims = json!({
        "jti": name,
        "iat": 1_700_000_000,
        "iss": issuer.public_key(),
        "sub": subject.public_key(),
        "name": name,
        "nats": says,
    });
    let mut text = [head, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
    let signature = issuer.sign(text.as_bytes()).expect("it has the seed");
    write!(text, ".{}", BASE64_URL_SAFE_NO_PAD.encode(signature)).expect("a text takes all");
    text
}

/// Returns the JWT of an account that may store this many bytes in streams: -1 for any number, 0 for none.
fn account(operator: &KeyPair, account: &KeyPair, name: &str, storage: i64) -> String {
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
        "mem_storage": storage, "disk_storage": storage, "streams": -1, "consumer": -1,
    });
    token(operator, account, name, &json!({ "limits": limits, "type": "account", "version": 2 }))
}

/// Returns the credentials file of a user of this account.
fn credentials(account: &KeyPair) -> String {
    let user = KeyPair::new_user();
    let says =
        json!({ "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2 });
    let (token, seed) = (token(account, &user, "node", &says), user.seed().expect("it has one"));
    format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_log_in_with_a_credentials_file_and_are_told_when_it_is_of_a_stranger() {
    let (operator, ours, system) = (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
    let settings = format!(
        "operator: {}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload {{ {}: {}, {}: {} }}",
        token(&operator, &operator, "operator", &json!({ "type": "operator", "version": 2 })),
        system.public_key(),
        ours.public_key(),
        account(&operator, &ours, "tidegate", -1),
        system.public_key(),
        account(&operator, &system, "system", 0),
    );
    let nats = Nats::with(&settings, "");
    let directory = tempfile::tempdir().expect("a directory");
    let with = |name: &str, text: &str| {
        let file = directory.path().join(name);
        std::fs::write(&file, text).expect("a file");
        let url = NatsUrl::new(nats.server.url());
        NatsConfig { url, credentials_file: Some(file), timeout_ms: 1_000, ..nats.config.clone() }
    };
    let node = nats.node_with(&with("ours.creds", &credentials(&ours)));
    node.listens().await;
    let a = channel("a");
    node.subscribe(&a).await;
    node.publish(&a, "kept").await;
    eventually("it is heard", async || node.heard.texts(&a) == ["kept"]).await;
    assert_eq!(node.history(&a, ALL).await, ["kept"]);
    // A user of an account that the operator does not know.
    let stranger = nats.node_with(&with("stranger.creds", &credentials(&KeyPair::new_account())));
    eventually("it is told why", async || {
        let told = stranger.broker.canary().await.expect_err("refused").to_string();
        assert!(!told.contains("SU"), "no seed is in it: {told}");
        told.to_lowercase().contains("authorization")
    })
    .await;
}
