//! Tests permessage-deflate on the wire: one compressed frame for all clients, valid for every negotiated window.

use bytes::BytesMut;
use serde_json::{Value, json};
use shared::framing::websocket::{
    Assembler, Deflater, FrameEvent, FrameHeader, Inflater, Limits, Opcode, Role, encode_masked,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::gateway::{Gateway, PATIENCE, gateway};
use crate::http;

const LIMITS: Limits = Limits { message_bytes_max: 1 << 20, frame_bytes_max: 1 << 20, fragments_max: 100 };

/// A client that inflates, using the project's own framing in the client's role.
#[derive(Debug)]
pub struct Deflating {
    stream: TcpStream,
    assembler: Assembler,
    unread: Vec<u8>,
    /// The extension header of the node's response.
    agreed: String,
}

/// A message that a client read, and the length of its frame.
#[derive(PartialEq, Eq, Debug)]
pub struct Frame {
    text: String,
    wire_bytes: usize,
    compressed: bool,
}

impl Frame {
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn is_compressed(&self) -> bool {
        self.compressed
    }
}

impl Deflating {
    pub async fn open(gateway: &Gateway, path: &str, offer: &str) -> Self {
        let headers = format!("Sec-WebSocket-Extensions: {offer}\r\n");
        let mut stream = http::open_upgrade(gateway.address, path, &headers).await;
        let answer = http::answer(&mut stream).await.expect("an answer");
        assert_eq!(answer.status, 101);
        let agreed = answer.header("sec-websocket-extensions").unwrap_or_default().to_owned();
        let assembler = Assembler::new(Role::Client, !agreed.is_empty());
        Self { stream, assembler, unread: answer.body, agreed }
    }

    pub async fn send(&mut self, text: &str, compress: bool) {
        let mut payload = BytesMut::new();
        if compress {
            assert!(Deflater::new(6).deflate(text.as_bytes(), &mut payload), "it gets smaller");
        } else {
            payload.extend_from_slice(text.as_bytes());
        }
        let length = payload.len() as u64;
        let header = FrameHeader { fin: true, rsv1: compress, opcode: Opcode::Text, mask: None, length };
        let mut frame = BytesMut::new();
        encode_masked(header, &payload, [1, 2, 3, 4], &mut frame);
        self.stream.write_all(&frame).await.expect("sent");
    }

    pub async fn next(&mut self) -> Frame {
        tokio::time::timeout(PATIENCE, self.read()).await.expect("a message in time")
    }

    async fn read(&mut self) -> Frame {
        loop {
            // One frame at a time, so that its length is known.
            if let Ok(Some((header, head))) = FrameHeader::parse(&self.unread) {
                let whole = head + header.length as usize;
                if self.unread.len() >= whole {
                    let mut frame: Vec<u8> = self.unread.drain(..whole).collect();
                    let mut unread = &mut frame[..];
                    let mut inflater = Inflater::new();
                    let event =
                        self.assembler.next(&mut unread, &LIMITS, &mut inflater).expect("a sound frame");
                    let Some(FrameEvent::Message(message)) = event else { continue };
                    let text = String::from_utf8(message.data.to_vec()).expect("text");
                    return Frame { text, wire_bytes: whole, compressed: header.rsv1 };
                }
            }
            let count = self.stream.read_buf(&mut self.unread).await.expect("bytes");
            assert!(count > 0, "the node ended the stream");
        }
    }
}

/// Returns text with repetitions over short and long distances.
pub fn repetitive(length: usize) -> String {
    let mut text = String::new();
    for number in 0.. {
        if text.len() >= length {
            break;
        }
        text.push_str(&format!("price {} of symbol {}; ", number * 7919 % 1000, number % 50));
    }
    text.truncate(length);
    text
}

#[tokio::test]
async fn every_window_reads_the_same_publications() {
    let gateway = gateway().start().await;
    let mut clients = Vec::new();
    let offers = [
        "",
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; server_max_window_bits=15; client_no_context_takeover",
        "permessage-deflate; server_max_window_bits=12",
        "permessage-deflate; server_max_window_bits=10",
        "permessage-deflate; server_max_window_bits=9",
        "permessage-deflate; server_max_window_bits=8",
    ];
    for offer in offers {
        // Two clients of each kind, so that each shared frame is read twice.
        clients.push(Deflating::open(&gateway, "/raw/chat", offer).await);
        clients.push(Deflating::open(&gateway, "/raw/chat", offer).await);
    }
    gateway.metric_becomes("tidegate_subscriptions", clients.len() as f64).await;
    for length in [10, 199, 200, 256, 257, 500, 1024, 1025, 4096, 5000, 33_000, 200_000] {
        let text = json!(repetitive(length)).to_string();
        gateway.publish("chat", serde_json::from_str::<Value>(&text).expect("JSON")).await;
        for client in &mut clients {
            let frame = client.next().await;
            assert!(frame.text == text, "{length} characters after {:?}", client.agreed);
            if client.agreed.is_empty() || length < 199 {
                assert!(!frame.compressed);
            } else if client.agreed.ends_with("takeover") || client.agreed.ends_with("=15") {
                assert!(frame.compressed && frame.wire_bytes < text.len() * 2 / 3, "{length}: {frame:?}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_not_understood_in_an_offer_declines_it() {
    let gateway = gateway().start().await;
    for offer in
        ["permessage-deflate; server_max_window_bits=7", "permessage-bzip2", "permessage-deflate; huh"]
    {
        assert_eq!(Deflating::open(&gateway, "/raw/chat", offer).await.agreed, "", "{offer}");
    }
    let off = crate::gateway::gateway().with("websocket.compression", false).start().await;
    assert_eq!(Deflating::open(&off, "/raw/chat", "permessage-deflate").await.agreed, "");
}

#[tokio::test]
async fn compressed_commands_are_read_and_answers_come_compressed() {
    let gateway = gateway().start().await;
    let mut client = Deflating::open(&gateway, "/connection/websocket", "permessage-deflate").await;
    assert!(client.agreed.contains("server_no_context_takeover"));
    client.send("{\"id\":1,\"connect\":{}}", false).await;
    assert!(client.next().await.text.contains("\"connect\""));
    client.send("{\"id\":2,\"subscribe\":{\"channel\":\"stream:s\"}}", false).await;
    client.next().await;
    let text = repetitive(20_000);
    client
        .send(&json!({ "id": 3, "publish": { "channel": "stream:s", "data": text } }).to_string(), true)
        .await;
    let mut seen = 0;
    while seen < 2 {
        let frame = client.next().await;
        if frame.text.contains("\"pub\"") {
            assert!(frame.compressed && frame.text.contains(&text));
        }
        seen += 1;
    }
    client.send("{\"id\":4,\"history\":{\"channel\":\"stream:s\",\"limit\":1}}", false).await;
    let page = client.next().await;
    assert!(page.compressed && page.text.contains(&text), "what is for one client is compressed too");
}

#[tokio::test]
async fn a_small_frame_that_inflates_past_the_limit_closes_with_1009() {
    let gateway = gateway().with("websocket.message_bytes_max", 10_000).start().await;
    let mut bomb = Deflating::open(&gateway, "/raw/chat", "permessage-deflate").await;
    bomb.send(&"0".repeat(5_000_000), true).await;
    let mut end = Vec::new();
    let read = bomb.stream.read_to_end(&mut end);
    tokio::time::timeout(PATIENCE, read).await.expect("an end in time").expect("a clean end");
    assert_eq!(&end[2..4], 1009_u16.to_be_bytes());
}
