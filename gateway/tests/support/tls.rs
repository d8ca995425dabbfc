//! A certificate for tests, and streams to a node that uses it.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::gateway::{Description, Gateway};

#[derive(Debug)]
pub struct Certificate {
    directory: TempDir,
}

impl Certificate {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        std::fs::write(directory.path().join("certificate.pem"), made.cert.pem()).expect("written");
        std::fs::write(directory.path().join("key.pem"), made.signing_key.serialize_pem()).expect("written");
        Self { directory }
    }

    /// Returns its file of this name: `certificate.pem`, `key.pem`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Configures a node with it.
    pub fn on(&self, description: Description) -> Description {
        let file = |name: &str| self.directory.path().join(name).display().to_string();
        description
            .with("tls.certificate_file", file("certificate.pem"))
            .with("tls.key_file", file("key.pem"))
    }

    pub async fn connect(&self, gateway: &Gateway) -> TlsStream<TcpStream> {
        self.connect_offering(gateway, &[]).await
    }

    /// Connects, and offers these ALPN protocols.
    pub async fn connect_offering(&self, gateway: &Gateway, protocols: &[&str]) -> TlsStream<TcpStream> {
        let certificate = CertificateDer::from_pem_file(self.directory.path().join("certificate.pem"));
        let mut roots = RootCertStore::empty();
        roots.add(certificate.expect("a certificate")).expect("a sound one");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(gateway.address).await.expect("the node listens");
        stream.set_nodelay(true).expect("an open socket");
        let name = ServerName::try_from("localhost").expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("a TLS handshake")
    }
}
