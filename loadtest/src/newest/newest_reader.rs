//! A client of the Centrifuge protocol in JSON that reads no faster than it is told to, and what it has read.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::clock::now_ns;
use crate::latencies::Latencies;

/// What the kernel keeps for a slow reader: the least that it lets anyone have.
const RECEIVE_BYTES: usize = 1_024;
/// What is read at a time, so that nothing is ahead of its turn.
const READ_BYTES: usize = 512;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct NewestReader {
    socket: WebSocketStream<TcpStream>,
    /// How fast it reads, and from when on it may read on.
    bytes_per_s: Option<u64>,
    next: Instant,
    /// From the moment each value was made until it was read.
    pub(super) ages: Latencies,
    /// The number of each key's last value.
    pub(super) has: BTreeMap<u32, u64>,
    pub(super) received: u64,
    pub(super) superseded: u64,
}

#[derive(Deserialize)]
struct ValueLine {
    error: Option<serde_json::Value>,
    push: Option<ValuePush>,
    id: Option<u32>,
}

#[derive(Deserialize)]
struct ValuePush {
    #[serde(rename = "pub")]
    publication: Option<ValuePublication>,
    unsubscribe: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct ValuePublication {
    data: ValueData,
    key: Option<String>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct ValueData {
    at: u64,
    n: u64,
}

impl NewestReader {
    /// Connects and subscribes.
    pub(super) async fn open(
        address: SocketAddr,
        channel: &str,
        latest: bool,
        bytes_per_s: Option<u64>,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        if bytes_per_s.is_some() {
            socket.set_recv_buffer_size(RECEIVE_BYTES)?;
        }
        let stream = TcpSocket::from_std_stream(socket.into()).connect(address).await?;
        let url = format!("ws://{address}/connection/websocket");
        let config = WebSocketConfig::default().read_buffer_size(READ_BYTES);
        let opened = client_async_with_config(url, stream, Some(config)).await;
        let (socket, _) = opened.map_err(io::Error::other)?;
        let (ages, has) = (Latencies::default(), BTreeMap::new());
        let mut reader =
            Self { socket, bytes_per_s, next: Instant::now(), ages, has, received: 0, superseded: 0 };
        let channel = serde_json::Value::from(channel);
        let data = if latest { ",\"data\":{\"tidegate\":{\"delivery\":\"latest\"}}" } else { "" };
        let commands = format!(
            "{{\"id\":1,\"connect\":{{}}}}\n{{\"id\":2,\"subscribe\":{{\"channel\":{channel}{data}}}}}"
        );
        reader.socket.send(Message::text(commands)).await.map_err(io::Error::other)?;
        let subscribed = async {
            while reader.next().await? < 2 {}
            Ok::<_, io::Error>(())
        };
        timeout(ANSWER_TIMEOUT, subscribed).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(reader)
    }

    /// Reads one message, once it may. Returns the highest id of a reply in it, or 0.
    pub(super) async fn next(&mut self) -> io::Result<u32> {
        sleep_until(self.next).await;
        let message = self.socket.next().await.ok_or(io::ErrorKind::UnexpectedEof)?;
        let message = message.map_err(io::Error::other)?;
        if let Some(bytes_per_s) = self.bytes_per_s {
            let takes = Duration::from_secs_f64(message.len() as f64 / bytes_per_s as f64);
            self.next = self.next.max(Instant::now()) + takes;
        }
        let text = match message {
            Message::Text(text) => text,
            Message::Close(frame) => return Err(io::Error::other(format!("closed: {frame:?}"))),
            _ => return Ok(0),
        };
        let (now, mut highest) = (now_ns(), 0);
        for line in text.lines() {
            let line: ValueLine = serde_json::from_str(line).map_err(io::Error::other)?;
            if let Some(error) = line.error {
                return Err(io::Error::other(format!("refused: {error}")));
            }
            highest = highest.max(line.id.unwrap_or(0));
            match line.push {
                None if line.id.is_none() => {
                    self.socket.send(Message::text("{}")).await.map_err(io::Error::other)?;
                }
                Some(ValuePush { unsubscribe: Some(why), .. }) => {
                    return Err(io::Error::other(format!("unsubscribed: {why}")));
                }
                Some(ValuePush { publication: Some(publication), .. }) => self.take(now, &publication),
                _ => {}
            }
        }
        Ok(highest)
    }

    fn take(&mut self, now: u64, publication: &ValuePublication) {
        self.ages.record(now.saturating_sub(publication.data.at));
        self.received += 1;
        let told = publication.tags.get("tidegate.superseded");
        self.superseded += told.and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
        if let Some(key) = publication.key.as_ref().and_then(|key| key.parse().ok()) {
            self.has.insert(key, publication.data.n);
        }
    }
}
