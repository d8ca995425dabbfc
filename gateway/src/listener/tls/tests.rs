//! Tests TLS with real handshakes over sockets, and with certificates that change meanwhile.

use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::*;

/// A directory with a certificate and its key, which can be changed.
struct Certificates {
    directory: tempfile::TempDir,
}

impl Certificates {
    fn new() -> Self {
        let certificates = Self { directory: tempfile::tempdir().unwrap() };
        certificates.renew();
        certificates
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes another certificate and its key.
    fn renew(&self) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        self.replace("certificate.pem", &made.cert.pem());
        self.replace("key.pem", &made.signing_key.serialize_pem());
    }

    /// Replaces a file atomically, as programs that renew certificates do.
    fn replace(&self, name: &str, text: &str) {
        std::fs::write(self.file("new"), text).unwrap();
        std::fs::rename(self.file("new"), self.file(name)).unwrap();
    }

    fn config(&self) -> TlsConfig {
        TlsConfig {
            certificate_file: Some(self.file("certificate.pem")),
            key_file: Some(self.file("key.pem")),
            ..TlsConfig::default()
        }
    }

    /// Returns a client that trusts only the current certificate.
    fn client(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.file("certificate.pem")).unwrap()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
        TlsConnector::from(Arc::new(config))
    }
}

type Pair = (client::TlsStream<TcpStream>, server::TlsStream<TcpStream>);

async fn handshake(tls: &ListenerTls, connector: &TlsConnector) -> std::io::Result<Pair> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let client = TcpStream::connect(listener.local_addr()?).await?;
    let (server, _) = listener.accept().await?;
    let name = ServerName::try_from("localhost").unwrap();
    let acceptor = TlsAcceptor::from(tls.server());
    tokio::try_join!(connector.connect(name, client), acceptor.accept(server))
}

async fn echo((client, server): &mut Pair) {
    client.write_all(b"still here").await.unwrap();
    client.flush().await.unwrap();
    let mut received = [0; 10];
    server.read_exact(&mut received).await.unwrap();
    assert_eq!(&received, b"still here");
}

#[tokio::test]
async fn a_new_certificate_serves_new_connections_and_old_ones_stay() {
    let certificates = Certificates::new();
    let tls = ListenerTls::load(&certificates.config()).unwrap().unwrap();
    let first_client = certificates.client(rustls::ALL_VERSIONS);
    let mut first = handshake(&tls, &first_client).await.unwrap();
    assert_eq!(first.0.get_ref().1.alpn_protocol(), Some(ALPN_HTTP1));

    assert!(!tls.reload_if_changed().unwrap());
    certificates.renew();
    assert!(tls.reload_if_changed().unwrap());

    echo(&mut first).await;
    assert!(handshake(&tls, &first_client).await.is_err(), "the old certificate is gone");
    let mut second = handshake(&tls, &certificates.client(rustls::ALL_VERSIONS)).await.unwrap();
    echo(&mut second).await;
}

#[tokio::test]
async fn files_that_cannot_be_used_leave_the_old_certificate_in_place() {
    let certificates = Certificates::new();
    let tls = ListenerTls::load(&certificates.config()).unwrap().unwrap();
    let client = certificates.client(rustls::ALL_VERSIONS);
    let certificate = std::fs::read_to_string(certificates.file("certificate.pem")).unwrap();

    certificates.replace("certificate.pem", "no certificate at all");
    assert!(matches!(tls.reload_if_changed(), Err(TlsError::NoCertificate { .. })));
    assert!(!tls.reload_if_changed().unwrap(), "the same fault is told once");
    handshake(&tls, &client).await.unwrap();

    certificates.renew();
    certificates.replace("certificate.pem", &certificate);
    assert!(matches!(tls.reload_if_changed(), Err(TlsError::Unusable { .. })), "key of another certificate");
    handshake(&tls, &client).await.unwrap();

    std::fs::remove_file(certificates.file("key.pem")).unwrap();
    assert!(matches!(tls.read(), Err(TlsError::Unreadable { .. })));
    handshake(&tls, &client).await.unwrap();
}

#[tokio::test]
async fn a_certificate_that_was_read_serves_from_when_it_is_told_to() {
    let certificates = Certificates::new();
    let tls = ListenerTls::load(&certificates.config()).unwrap().unwrap();
    let old = certificates.client(rustls::ALL_VERSIONS);
    certificates.renew();
    let fresh = tls.read().unwrap();
    handshake(&tls, &old).await.unwrap();
    tls.serve(fresh);
    assert!(handshake(&tls, &old).await.is_err());
    handshake(&tls, &certificates.client(rustls::ALL_VERSIONS)).await.unwrap();
    assert!(!tls.reload_if_changed().unwrap(), "what serves has been seen");
}

#[tokio::test]
async fn versions_older_than_the_oldest_allowed_are_refused() {
    let certificates = Certificates::new();
    let config = TlsConfig { version_min: TlsVersion::Tls13, ..certificates.config() };
    let tls = ListenerTls::load(&config).unwrap().unwrap();
    assert!(handshake(&tls, &certificates.client(&[&rustls::version::TLS12])).await.is_err());
    assert!(handshake(&tls, &certificates.client(&[&rustls::version::TLS13])).await.is_ok());
}

#[tokio::test]
async fn the_watch_takes_changed_files_and_counts_them() {
    let certificates = Certificates::new();
    let tls = Arc::new(ListenerTls::load(&certificates.config()).unwrap().unwrap());
    let metrics = Arc::new(Metrics::new());
    let stop = CancellationToken::new();
    let watch = tokio::spawn(tls.clone().watch(Duration::from_millis(5), metrics.clone(), stop.clone()));

    certificates.renew();
    wait_for(&metrics, "changed", 1).await;
    // The watch may have read the files between the two replacements; that counts as a failure.
    let failed = reloads(&metrics, "failed");
    certificates.replace("key.pem", "no key");
    wait_for(&metrics, "failed", failed + 1).await;

    stop.cancel();
    tokio::time::timeout(Duration::from_secs(30), watch).await.unwrap().unwrap();
}

async fn wait_for(metrics: &Metrics, result: &str, least: u64) {
    let counted = async {
        while reloads(metrics, result) < least {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), counted).await.expect(result);
}

fn reloads(metrics: &Metrics, result: &str) -> u64 {
    let text = String::from_utf8(metrics.render().unwrap()).unwrap();
    let series = format!("tidegate_tls_reloads_total{{result=\"{result}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&series)).map_or(0, |count| count.parse().unwrap())
}

#[test]
fn tls_is_off_without_a_certificate() {
    assert!(ListenerTls::load(&TlsConfig::default()).unwrap().is_none());
}

#[tokio::test]
async fn a_client_that_comes_back_brings_its_session() {
    let certificates = Certificates::new();
    let tls = ListenerTls::load(&certificates.config()).unwrap().unwrap();
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let connector = certificates.client(&[version]);
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let mut pair = handshake(&tls, &connector).await.unwrap();
            // With TLS 1.3, a client gets its session ticket only when it reads after the handshake.
            pair.1.write_all(b"x").await.unwrap();
            pair.1.flush().await.unwrap();
            pair.0.read_exact(&mut [0]).await.unwrap();
            kinds.push(pair.1.get_ref().1.handshake_kind());
        }
        assert_eq!(kinds, [Some(HandshakeKind::Full), Some(HandshakeKind::Resumed)]);
    }
}
