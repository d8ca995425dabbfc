//! Tests which addresses requests go to, and which ones they never go to.

use std::net::SocketAddr;

use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::*;

/// Resolves every name to these addresses.
fn leads_to(addresses: &'static [&'static str]) -> ResolveFuture {
    Arc::new(move |_| {
        let addresses = addresses.iter().map(|address| address.parse().unwrap());
        Ok(addresses.map(|address| SocketAddr::new(address, 0)).collect())
    })
}

async fn answering() -> Application {
    Application::start(|_| json(r#"{"result":{}}"#)).await
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = answering().await;
    let location = elsewhere.url("/");
    let application = Application::start(move |_| {
        Some(Response::builder().status(307).header("location", &location).body(Full::default()).unwrap())
    })
    .await;
    let (backend, metrics) = backend(&BackendConfig { connect: at(application.url("/")), ..patient() });
    assert_eq!(connect(&backend).await, refused(ErrorCode::Internal));
    assert_eq!(results(&metrics, "connect", "status"), "1");
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn a_name_that_leads_to_private_addresses_is_not_gone_to_unless_that_is_allowed() {
    let application = answering().await;
    let url = format!("http://app.example:{}/", application.address.port());
    let config = BackendConfig { connect: at(url), ..patient() };
    for private in [&["127.0.0.1"][..], &["10.0.0.1", "::1", "169.254.169.254"]] {
        let (backend, metrics) = backend_with(&config, leads_to(private));
        assert_eq!(connect(&backend).await, refused(ErrorCode::Internal), "{private:?}");
        assert_eq!(results(&metrics, "connect", "private_address"), "1");
    }
    assert_eq!(application.connections(), 0);

    let allowed = BackendConfig { allow_private_addresses: true, ..config };
    let (backend, _) = backend_with(&allowed, leads_to(&["127.0.0.1"]));
    assert_eq!(connect(&backend).await, Ok(Some(Identity::default())));
    assert_eq!(
        application.requests()[0].header("host").unwrap(),
        format!("app.example:{}", application.address.port())
    );
}

#[tokio::test]
async fn an_address_in_the_configuration_and_localhost_are_the_operators_own_word() {
    let application = answering().await;
    let port = application.address.port();
    for url in
        [application.url("/"), format!("http://localhost:{port}/"), format!("http://LOCALHOST:{port}/")]
    {
        let config = BackendConfig { connect: at(url.clone()), ..patient() };
        let (backend, _) = backend_with(&config, leads_to(&["127.0.0.1"]));
        assert_eq!(connect(&backend).await, Ok(Some(Identity::default())), "{url}");
    }
}

#[tokio::test]
async fn a_name_that_leads_nowhere_is_unreachable() {
    let lost: ResolveFuture = Arc::new(|_| Err(std::io::Error::other("no such name")));
    let config = BackendConfig { connect: at("http://app.example/".into()), ..patient() };
    let (backend, metrics) = backend_with(&config, lost);
    assert_eq!(connect(&backend).await, refused(ErrorCode::Internal));
    assert_eq!(results(&metrics, "connect", "unreachable"), "1");
}

#[tokio::test]
async fn over_tls_a_backend_shows_who_it_is() {
    let made = rcgen::generate_simple_self_signed(vec!["app.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    let application = Application::start_with(|_| json(r#"{"result":{}}"#), Some(acceptor)).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    std::fs::write(&file, made.cert.pem()).unwrap();

    let port = application.address.port();
    for (host, ca_file, trusted) in [
        ("app.example", Some(file.clone()), true),
        ("other.example", Some(file), false),
        ("app.example", None, false),
    ] {
        let config = BackendConfig {
            ca_file,
            allow_private_addresses: true,
            retries: 0,
            connect: at(format!("https://{host}:{port}/")),
            ..patient()
        };
        let (backend, _) = backend_with(&config, leads_to(&["127.0.0.1"]));
        assert_eq!(connect(&backend).await.is_ok(), trusted, "{host}");
    }
    assert_eq!(application.requests().len(), 1);
}

#[tokio::test]
async fn a_file_of_authorities_that_holds_none_is_told_before_anything_runs() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    std::fs::write(&file, "nothing").unwrap();
    let config =
        BackendConfig { ca_file: Some(file), connect: at("http://127.0.0.1:1/".into()), ..patient() };
    let metrics = Arc::new(Metrics::new());
    let started = Backend::start(&config, "node-1", Clock::start(), &metrics, &Handle::current());
    assert!(started.unwrap_err().to_string().contains("ca.pem"));
}
