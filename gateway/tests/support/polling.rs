//! An Engine.IO client that polls: with requests that fetch packets, and others that bring them.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;

use crate::gateway::Gateway;
use crate::http::{self, Answer};
use crate::tls::Certificate;

/// The path of the raw endpoint.
pub const PATH: &str = "/engine.io/";

/// The section of the raw endpoint.
pub const ENDPOINT: &str = "[raw.paths.\"/engine.io/\"]\nchannel = \"chat\"\ntransport = \"engine_io\"\n";

#[derive(Clone, Debug)]
pub struct Poller {
    pub address: SocketAddr,
    pub sid: String,
    /// The handshake, as the node sent it.
    pub handshake: Value,
}

impl Gateway {
    /// Opens a session of a polling client.
    pub async fn poller(&self) -> Poller {
        self.poller_with("").await
    }

    /// Opens a session, with further header lines in the first request.
    pub async fn poller_with(&self, headers: &str) -> Poller {
        let path = format!("{PATH}?EIO=4&transport=polling");
        let packet = text(http::request(self.address, "GET", &path, headers, "").await);
        Poller::greeted(self.address, &packet)
    }

    /// Opens a session by a request over TLS.
    pub async fn poller_over(&self, certificate: &Certificate) -> Poller {
        let path = format!("{PATH}?EIO=4&transport=polling");
        let mut stream = certificate.connect(self).await;
        let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("sent");
        let packet = text(http::answer(&mut stream).await.expect("an answer"));
        Poller::greeted(self.address, &packet)
    }
}

impl Poller {
    fn greeted(address: SocketAddr, packet: &str) -> Self {
        assert!(packet.starts_with('0'), "{packet}");
        let handshake: Value = serde_json::from_str(&packet[1..]).expect("JSON");
        let sid = handshake["sid"].as_str().expect("a name").to_owned();
        Self { address, sid, handshake }
    }

    fn path(&self, transport: &str) -> String {
        format!("{PATH}?EIO=4&transport={transport}&sid={}", self.sid)
    }

    /// Returns the path at which the session's client probes a WebSocket.
    pub fn websocket(&self) -> String {
        self.path("websocket")
    }

    /// Returns the beginning of a request that brings packets.
    pub fn post(&self) -> String {
        format!("POST {}", self.path("polling"))
    }

    /// Returns the same client, with requests to another node.
    pub fn at(&self, node: &Gateway) -> Self {
        Self { address: node.address, ..self.clone() }
    }

    pub async fn request(&self, method: &str, headers: &str, body: &str) -> Answer {
        http::request(self.address, method, &self.path("polling"), headers, body).await
    }

    /// Fetches the packets that wait, or come next.
    pub async fn fetch(&self) -> String {
        text(self.request("GET", "", "").await)
    }

    /// Fetches packets in the background.
    pub fn fetching(&self) -> JoinHandle<String> {
        let poller = self.clone();
        tokio::spawn(async move { poller.fetch().await })
    }

    /// Fetches until this many bytes have come.
    pub async fn fetch_all(&self, bytes: usize) -> String {
        let mut fetched = self.fetch().await;
        while fetched.len() < bytes {
            fetched = fetched + "\u{1e}" + &self.fetch().await;
        }
        fetched
    }

    pub async fn bring(&self, packets: &str) {
        assert_eq!(text(self.request("POST", "", packets).await), "ok");
    }

    /// Returns the status of a request that fetches.
    pub async fn status(&self) -> u16 {
        self.request("GET", "", "").await.status
    }
}

fn text(answer: Answer) -> String {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=UTF-8"));
    String::from_utf8(answer.body).expect("text")
}
