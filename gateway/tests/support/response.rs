//! A client that receives everything in one response, and sends its commands in other requests.

use std::collections::VecDeque;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::gateway::{Gateway, PATIENCE};

use crate::http::{self, Answer};

/// A response that is read as it comes.
pub struct Response<S> {
    stream: S,
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// Bytes that have been read and not parsed, with the chunks' framing.
    raw: Vec<u8>,
    /// The body, without the framing.
    body: Vec<u8>,
    /// The remaining messages of the last event.
    messages: VecDeque<Value>,
    chunked: bool,
    ended: bool,
}

/// Sends a request by HTTP/1.1 and reads the head of the response.
pub async fn ask(
    gateway: &Gateway,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> Response<TcpStream> {
    let stream = TcpStream::connect(gateway.address).await.expect("the node listens");
    ask_on(stream, "HTTP/1.1", method, path, headers, body).await
}

/// The same on an open stream, with this version of HTTP.
pub async fn ask_on<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    version: &str,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> Response<S> {
    let length = body.len();
    let head = format!("{method} {path} {version}\r\nHost: x\r\nContent-Length: {length}\r\n{headers}\r\n");
    stream.write_all(format!("{head}{body}").as_bytes()).await.expect("the request is taken");
    Response::read(stream).await
}

impl<S: AsyncRead + Unpin> Response<S> {
    /// Reads the head of the next response.
    pub async fn read(stream: S) -> Self {
        let (raw, body) = (Vec::new(), Vec::new());
        let mut response = Self {
            stream,
            status: 0,
            headers: Vec::new(),
            raw,
            body,
            messages: VecDeque::new(),
            chunked: false,
            ended: false,
        };
        let end = loop {
            if let Some(end) = find(&response.raw, b"\r\n\r\n") {
                break end;
            }
            assert!(response.more().await, "the response ended before its head did");
        };
        let head = String::from_utf8_lossy(&response.raw[..end]).into_owned();
        response.raw.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        response.status = status.and_then(|status| status.parse().ok()).expect("a status");
        response.headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        response.chunked = response.header("transfer-encoding") == Some("chunked");
        response
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// Returns the body up to this text, without the text. `None` if the body ends first.
    pub async fn until(&mut self, end: &str) -> Option<String> {
        loop {
            self.unchunk();
            if let Some(at) = find(&self.body, end.as_bytes()) {
                let found = self.body.drain(..at + end.len()).collect::<Vec<_>>();
                return Some(String::from_utf8(found[..at].to_vec()).expect("text"));
            }
            if self.ended || !self.more().await {
                return None;
            }
        }
    }

    /// Returns the next message of an event stream. An event may hold several, one a line.
    pub async fn event(&mut self) -> Option<Value> {
        if let Some(message) = self.messages.pop_front() {
            return Some(message);
        }
        let event = self.until("\n\n").await?;
        let lines = event.trim_start().lines().filter_map(|line| line.strip_prefix("data: "));
        self.messages.extend(lines.map(|line| serde_json::from_str::<Value>(line).expect("JSON")));
        self.messages.pop_front()
    }

    /// Returns the next length-delimited message, with its length. Up to 16 KiB.
    pub async fn delimited(&mut self) -> Option<Vec<u8>> {
        loop {
            self.unchunk();
            let whole = match &self.body[..] {
                [low, high, ..] if low & 0x80 != 0 => 2 + usize::from(low & 0x7f) + (usize::from(*high) << 7),
                [length, ..] if length & 0x80 == 0 => 1 + usize::from(*length),
                _ => usize::MAX,
            };
            if self.body.len() >= whole {
                return Some(self.body.drain(..whole).collect());
            }
            if self.ended || !self.more().await {
                return None;
            }
        }
    }

    /// Returns the next line.
    pub async fn line(&mut self) -> Option<Value> {
        Some(serde_json::from_str(&self.until("\n").await?).expect("JSON"))
    }

    /// Returns the body received so far, at least a byte.
    pub async fn bytes(&mut self) -> Vec<u8> {
        loop {
            self.unchunk();
            if !self.body.is_empty() {
                return std::mem::take(&mut self.body);
            }
            assert!(self.more().await, "the response ended");
        }
    }

    /// Whether the body has ended properly: a chunked one with its last chunk.
    pub async fn is_over(&mut self) -> bool {
        let rest = self.until("\u{0}").await;
        rest.is_none() && self.body.is_empty() && (self.ended || !self.chunked)
    }

    fn unchunk(&mut self) {
        if !self.chunked {
            self.body.append(&mut self.raw);
            return;
        }
        while !self.ended
            && let Some(line) = find(&self.raw, b"\r\n")
        {
            let length = std::str::from_utf8(&self.raw[..line]).expect("a length");
            let length = usize::from_str_radix(length, 16).expect("a length");
            if self.raw.len() < line + 2 + length + 2 {
                return;
            }
            self.body.extend_from_slice(&self.raw[line + 2..line + 2 + length]);
            assert_eq!(&self.raw[line + 2 + length..line + 4 + length], b"\r\n");
            self.raw.drain(..line + 4 + length);
            self.ended = length == 0;
        }
    }

    async fn more(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut buffer)).await.expect("in time");
        let count = read.unwrap_or(0);
        self.raw.extend_from_slice(&buffer[..count]);
        count > 0
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|found| found == wanted)
}

/// Sends commands by emulation, for the session that a connect reply names.
pub async fn emulate(gateway: &Gateway, connected: &Value, commands: &[Value]) -> Answer {
    let lines: Vec<String> = commands.iter().map(Value::to_string).collect();
    let (session, node) = (&connected["connect"]["session"], &connected["connect"]["node"]);
    let body = json!({ "session": session, "node": node, "data": lines.join("\n") });
    http::request(gateway.address, "POST", "/emulation", "", &body.to_string()).await
}
