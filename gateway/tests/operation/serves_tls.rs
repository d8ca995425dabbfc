//! Tests `wss`: a client over TLS, and a certificate that changes while it is connected.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rustix::process::Signal;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::program::{PATIENCE, Serving, program};

type Client = WebSocketStream<TlsStream<TcpStream>>;

/// A certificate in files, which can be replaced.
struct Certificate {
    directory: tempfile::TempDir,
}

impl Certificate {
    fn new() -> Self {
        let certificate = Self { directory: tempfile::tempdir().unwrap() };
        certificate.renew();
        certificate
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Replaces the certificate with another one.
    fn renew(&self) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        for (name, text) in
            [("certificate.pem", made.cert.pem()), ("key.pem", made.signing_key.serialize_pem())]
        {
            std::fs::write(self.file("new"), text).unwrap();
            std::fs::rename(self.file("new"), self.file(name)).unwrap();
        }
    }

    /// Returns a connector that trusts only the certificate that is in the files now.
    fn connector(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.file("certificate.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        TlsConnector::from(Arc::new(config))
    }
}

async fn gateway(certificate: &Certificate) -> Serving {
    program()
        .env("TIDEGATE_TLS__CERTIFICATE_FILE", certificate.file("certificate.pem").to_str().unwrap())
        .env("TIDEGATE_TLS__KEY_FILE", certificate.file("key.pem").to_str().unwrap())
        .env("TIDEGATE_TLS__RELOAD_INTERVAL_S", "3600")
        .serve()
        .await
}

async fn connect(gateway: &Serving, connector: &TlsConnector) -> std::io::Result<Client> {
    let stream = TcpStream::connect(&gateway.address).await?;
    let stream = connector.connect(ServerName::try_from("localhost").unwrap(), stream).await?;
    let url = format!("wss://{}/raw/chat:hello", gateway.address);
    let opened = tokio_tungstenite::client_async(url, stream).await;
    opened.map(|(client, _)| client).map_err(std::io::Error::other)
}

/// Publishes through the first client, and waits until all of them have received it.
async fn all_hear(clients: &mut [&mut Client], text: &str) {
    let heard = async {
        clients[0].send(Message::text(text)).await.unwrap();
        for client in clients.iter_mut() {
            while client.next().await.unwrap().unwrap() != Message::text(text) {}
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.unwrap();
}

/// Publishes until a client that has just connected receives it, and so is subscribed.
async fn is_subscribed(client: &mut Client, text: &str) {
    let heard = async {
        loop {
            client.send(Message::text(text)).await.unwrap();
            let next = tokio::time::timeout(Duration::from_millis(100), client.next());
            if next.await.is_ok_and(|message| message.unwrap().unwrap() == Message::text(text)) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, heard).await.unwrap();
}

#[tokio::test]
async fn a_changed_certificate_serves_newcomers_and_leaves_the_others_connected() {
    let certificate = Certificate::new();
    let gateway = gateway(&certificate).await;
    let mut first = connect(&gateway, &certificate.connector()).await.unwrap();
    // A connector that has not connected yet: a resumed TLS session would not show the certificate.
    let old = certificate.connector();
    is_subscribed(&mut first, "first").await;

    certificate.renew();
    gateway.signal(Signal::HUP);
    let new = certificate.connector();
    let returned = async {
        loop {
            match connect(&gateway, &new).await {
                Ok(client) => return client,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let mut second = tokio::time::timeout(PATIENCE, returned).await.unwrap();
    assert!(connect(&gateway, &old).await.is_err(), "the old certificate is still shown");

    is_subscribed(&mut second, "second").await;
    // Longer than one TLS record, so that it comes in several.
    let long = "long ".repeat(12_000);
    all_hear(&mut [&mut first, &mut second], &long).await;
    assert!(gateway.terminate().await.success());
}

#[tokio::test]
async fn whoever_does_not_speak_tls_is_not_served_and_counted() {
    let certificate = Certificate::new();
    let gateway = gateway(&certificate).await;
    let url = format!("ws://{}/raw/chat:hello", gateway.address);
    assert!(tokio_tungstenite::connect_async(url).await.is_err());
    let counted = async {
        while !metrics(&gateway).await.contains("tidegate_handshakes_total{result=\"tls\"} 1\n") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, counted).await.unwrap();
}

async fn metrics(gateway: &Serving) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let mut stream = TcpStream::connect(&gateway.internal).await.unwrap();
    let request = "GET /metrics HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
