//! Redis behind TLS, with a certificate of an authority that only the configuration knows.

use std::fs;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tidegate::broker::redis::RedisUrl;

use crate::harness::{Backend, Redis, channel, eventually};

/// Turns TLS on at a free port. Gives that port and the file of the authority.
fn with_tls(redis: &Redis) -> (u16, PathBuf) {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let authority = CertifiedIssuer::self_signed(params, key).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["localhost".into()]).expect("parameters");
    let certificate = params.signed_by(&key, &authority).expect("a certificate");

    let file = |name: &str, text: String| {
        let path = redis.server.directory().join(name);
        fs::write(&path, text).expect("a file in the test's directory");
        path
    };
    let authority = file("authority.pem", authority.pem());
    let certificate = file("certificate.pem", certificate.pem());
    let key = file("key.pem", key.serialize_pem());
    for (option, path) in
        [("tls-ca-cert-file", &authority), ("tls-cert-file", &certificate), ("tls-key-file", &key)]
    {
        redis.server.ask::<()>(&["CONFIG", "SET", option, path.to_str().expect("a text")]);
    }
    redis.server.ask::<()>(&["CONFIG", "SET", "tls-auth-clients", "no"]);
    let port = (0..5)
        .map(|_| crate::redis_server::free_port())
        .find(|port| redis.server.try_ask::<()>(&["CONFIG", "SET", "tls-port", &port.to_string()]).is_ok());
    (port.expect("Redis listens for TLS"), authority)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_behind_tls_is_used_when_its_authority_is_known() {
    let mut redis = Redis::new();
    let (port, authority) = with_tls(&redis);
    redis.config.url = RedisUrl::new(format!("rediss://localhost:{port}"));
    redis.config.ca_file = Some(authority);
    let node = redis.node();
    let a = channel("a");
    node.subscribe(&a).await;
    node.publish(&a, "secret").await;
    eventually("it is heard", async || node.heard.texts(&a) == ["secret"]).await;

    redis.config.ca_file = None;
    let stranger = redis.node();
    let error = stranger.broker.canary().await.expect_err("an unknown authority");
    assert!(error.to_string().contains("certificate"), "{error}");
}
