//! Tests Redis and NATS over TLS, with certificates of an authority that only the configuration names.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tidegate::broker::BrokerEvents;
use tidegate::broker::nats::{self, NatsUrl};
use tidegate::broker::redis::{RedisBroker, RedisConfig, RedisMode, RedisUrl};

use crate::harness::{Backend, Heard, Nats, Redis, channel, eventually};
use crate::redis_server::RedisServer;

/// The certificate files of one side of a connection.
struct Files {
    authority: PathBuf,
    certificate: PathBuf,
    key: PathBuf,
}

/// Creates an authority, and a certificate for `name` signed by it.
fn files(redis: &Redis, name: &str) -> Files {
    files_in(redis.server.directory(), name)
}

fn files_in(directory: &Path, name: &str) -> Files {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let authority = CertifiedIssuer::self_signed(params, key).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec![name.into()]).expect("parameters");
    // With the same name as its authority, the certificate would be taken for a self-signed one.
    params.distinguished_name.push(DnType::CommonName, name);
    let certificate = params.signed_by(&key, &authority).expect("a certificate");
    let file = |kind: &str, text: String| {
        let path = directory.join(format!("{name}-{kind}.pem"));
        fs::write(&path, text).expect("a file in the test's directory");
        path
    };
    Files {
        authority: file("authority", authority.pem()),
        certificate: file("certificate", certificate.pem()),
        key: file("key", key.serialize_pem()),
    }
}

/// Turns TLS on at a free port, for all clients or for those with a certificate of this authority. Returns the port and
/// the server's files.
fn with_tls(redis: &Redis, clients: Option<&Files>) -> (u16, Files) {
    let server = files(redis, "localhost");
    let authority = clients.map_or(&server.authority, |clients| &clients.authority);
    for (option, path) in [
        ("tls-ca-cert-file", authority),
        ("tls-cert-file", &server.certificate),
        ("tls-key-file", &server.key),
    ] {
        redis.server.ask::<()>(&["CONFIG", "SET", option, path.to_str().expect("a text")]);
    }
    let asked = if clients.is_some() { "yes" } else { "no" };
    redis.server.ask::<()>(&["CONFIG", "SET", "tls-auth-clients", asked]);
    let port = (0..5)
        .map(|_| crate::redis_server::free_port())
        .find(|port| redis.server.try_ask::<()>(&["CONFIG", "SET", "tls-port", &port.to_string()]).is_ok());
    (port.expect("Redis listens for TLS"), server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_behind_tls_is_used_when_its_authority_is_known() {
    let mut redis = Redis::new();
    let (port, server) = with_tls(&redis, None);
    redis.config.url = RedisUrl::new(format!("rediss://localhost:{port}"));
    redis.config.ca_file = Some(server.authority);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_asks_for_a_certificate_is_shown_one() {
    let mut redis = Redis::new();
    let client = files(&redis, "node");
    let (port, server) = with_tls(&redis, Some(&client));
    redis.config.url = RedisUrl::new(format!("rediss://localhost:{port}"));
    redis.config.ca_file = Some(server.authority.clone());
    let stranger = redis.node();
    let error = stranger.broker.canary().await.expect_err("no certificate");
    assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");

    redis.config.client_cert_file = Some(client.certificate.clone());
    redis.config.client_key_file = Some(client.key.clone());
    let node = redis.node();
    node.listens().await;

    for (certificate, key) in [(&client.certificate, &server.key), (&client.key, &client.key)] {
        redis.config.client_cert_file = Some(certificate.clone());
        redis.config.client_key_file = Some(key.clone());
        let events: std::sync::Arc<dyn BrokerEvents> = std::sync::Arc::new(Heard::default());
        let started = RedisBroker::start(&redis.config, "node", events, Default::default());
        let error = started.expect_err("a key that does not fit, a file without certificates");
        assert!(error.to_string().contains("client's certificate"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_and_their_master_behind_tls_are_used_and_names_in_certificates_are_those_that_they_tell() {
    let mut redis = Redis::new();
    let (master, server) = with_tls(&redis, None);
    let port = crate::redis_server::free_port();
    let settings = format!(
        "tls-port {port}\ntls-replication yes\ntls-auth-clients no\ntls-ca-cert-file {}\ntls-cert-file {}\ntls-key-file \
         {}\nsentinel resolve-hostnames yes\nsentinel announce-hostnames yes\nsentinel monitor watched localhost \
         {master} 1",
        server.authority.display(),
        server.certificate.display(),
        server.key.display(),
    );
    let _sentinel = RedisServer::start_sentinel_with(redis.server.program(), &settings);
    redis.config.mode = RedisMode::Sentinel;
    redis.config.url = RedisConfig::default().url;
    redis.config.addresses = vec![format!("localhost:{port}")];
    redis.config.sentinel_master = "watched".to_owned();
    redis.config.sentinel_tls = true;
    redis.config.tls = true;
    redis.config.ca_file = Some(server.authority);
    let node = redis.node();
    let a = channel("a");
    node.subscribe(&a).await;
    node.publish(&a, "secret").await;
    eventually("it is heard", async || node.heard.texts(&a) == ["secret"]).await;

    redis.config.addresses = vec![format!("127.0.0.1:{port}")];
    let stranger = redis.node();
    let error = stranger.broker.canary().await.expect_err("a certificate for another name").to_string();
    assert!(error.contains("no Sentinel answers") && error.contains("certificate"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_behind_tls_is_used_by_who_knows_its_authority_and_has_a_certificate_of_the_one_that_it_knows()
{
    let directory = tempfile::tempdir().expect("a directory");
    let (server, client) = (files_in(directory.path(), "localhost"), files_in(directory.path(), "node"));
    let settings = format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}",
        server.certificate, server.key, client.authority
    );
    let nats = Nats::with(&settings, "");
    let url = NatsUrl::new(format!("tls://localhost:{}", nats.server.port()));
    let config = nats::NatsConfig {
        url,
        ca_file: Some(server.authority),
        client_cert_file: Some(client.certificate),
        client_key_file: Some(client.key),
        timeout_ms: 500,
        ..nats.config.clone()
    };
    let node = nats.node_with(&config);
    node.listens().await;
    let a = channel("a");
    node.subscribe(&a).await;
    node.publish(&a, "secret").await;
    eventually("it is heard", async || node.heard.texts(&a) == ["secret"]).await;
    let without_certificate =
        nats::NatsConfig { client_cert_file: None, client_key_file: None, ..config.clone() };
    let without_authority = nats::NatsConfig { ca_file: None, ..config };
    for stranger in [without_certificate, without_authority] {
        let stranger = nats.node_with(&stranger);
        let error = stranger.broker.canary().await.expect_err("no connection");
        assert!(matches!(error, tidegate::broker::BrokerError::Unreachable(_)), "{error}");
    }
}
