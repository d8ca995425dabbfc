//! A Socket.IO client, packet by packet.

use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use crate::client::Socket;
use crate::gateway::{Gateway, PATIENCE};

/// A connection over a WebSocket, past the handshake of Engine.IO.
#[derive(Debug)]
pub struct SocketIo {
    pub socket: Socket,
}

impl Gateway {
    /// Opens a connection that is in no namespace.
    pub async fn socketio(&self) -> SocketIo {
        let mut socket = self.open("/socket.io/?EIO=4&transport=websocket", &[]).await;
        let open = socket.text().await;
        assert!(open.starts_with('0'), "{open}");
        SocketIo { socket }
    }

    /// Connects a client to the main namespace. Returns its id there, too.
    pub async fn in_main(&self) -> (SocketIo, String) {
        let mut client = self.socketio().await;
        let sid = client.enter("/", "").await;
        (client, sid)
    }
}

impl SocketIo {
    /// Sends a packet of Socket.IO.
    pub async fn send(&mut self, packet: &str) {
        self.socket.send(format!("4{packet}")).await;
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.socket.send(Message::binary(bytes.to_vec())).await;
    }

    /// Joins a namespace, and returns the client's id there.
    pub async fn enter(&mut self, namespace: &str, auth: &str) -> String {
        let (packet, before) = match namespace {
            "/" => (format!("0{auth}"), "0".to_owned()),
            other => (format!("0{other},{auth}"), format!("0{other},")),
        };
        self.send(&packet).await;
        let answer = self.next_packet().await;
        let welcome = answer.strip_prefix(&before).unwrap_or_else(|| panic!("not let in: {answer}"));
        let welcome: Value = serde_json::from_str(welcome).expect("JSON");
        welcome["sid"].as_str().expect("an id").to_owned()
    }

    /// Returns the next packet of Socket.IO. Pings are answered.
    pub async fn next_packet(&mut self) -> String {
        let packet = self.read_packet();
        // Bounded, because pings could go on for ever.
        tokio::time::timeout(2 * PATIENCE, packet).await.expect("a packet in time")
    }

    async fn read_packet(&mut self) -> String {
        loop {
            let text = self.socket.text().await;
            match text.strip_prefix('4') {
                Some(packet) => return packet.to_owned(),
                None if text == "2" => self.socket.send("3").await,
                None => panic!("no packet of Socket.IO: {text}"),
            }
        }
    }

    /// Returns the next attachment.
    pub async fn bytes(&mut self) -> Vec<u8> {
        match self.socket.data().await {
            Message::Binary(bytes) => bytes.to_vec(),
            other => panic!("not bytes: {other:?}"),
        }
    }

    /// Checks that no message is waiting: the next one must be this event, which the namespace publishes to all.
    pub async fn has_been_told_all(&mut self) {
        self.send(r#"2["say","mark"]"#).await;
        assert_eq!(self.next_packet().await, r#"2["say","mark"]"#);
    }
}
