//! A client of the Centrifuge protocol in JSON that reads no faster than it is told to, and what it has read.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpSocket;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::clock::now_ns;
use crate::latencies::Latencies;

/// What the kernel keeps for a slow reader: the least that it lets anyone have.
const RECEIVE_BYTES: usize = 1_024;
/// The most bytes of one read.
const READ_BYTES: usize = 512;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How fast a reader reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    pub(super) bytes_per_s: u64,
}

#[derive(Debug)]
pub(super) struct Reader {
    socket: WebSocketStream<Paced>,
    /// From the moment each value was made until it was read.
    pub(super) ages: Latencies,
    /// The number of each key's last value.
    pub(super) has: BTreeMap<u32, u64>,
    pub(super) received: u64,
    pub(super) superseded: u64,
}

#[derive(Deserialize)]
struct Line {
    error: Option<serde_json::Value>,
    push: Option<Push>,
    id: Option<u32>,
}

#[derive(Deserialize)]
struct Push {
    #[serde(rename = "pub")]
    publication: Option<Publication>,
    unsubscribe: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Publication {
    data: Data,
    key: Option<String>,
    #[serde(default)]
    tags: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Data {
    at: u64,
    n: u64,
}

impl Reader {
    /// Connects and subscribes.
    pub(super) async fn open(
        address: SocketAddr,
        channel: &str,
        latest: bool,
        pace: Option<Pace>,
    ) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        if pace.is_some() {
            socket.set_recv_buffer_size(RECEIVE_BYTES)?;
        }
        let stream = TcpSocket::from_std_stream(socket.into()).connect(address).await?;
        let url = format!("ws://{address}/connection/websocket");
        let (socket, _) =
            tokio_tungstenite::client_async(url, Paced::new(stream, pace)).await.map_err(io::Error::other)?;
        let (ages, has) = (Latencies::default(), BTreeMap::new());
        let mut reader = Self { socket, ages, has, received: 0, superseded: 0 };
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

    /// Reads one message. Answers the highest id of a reply in it, or 0.
    pub(super) async fn next(&mut self) -> io::Result<u32> {
        let message = self.socket.next().await.ok_or(io::ErrorKind::UnexpectedEof)?;
        let text = match message.map_err(io::Error::other)? {
            Message::Text(text) => text,
            Message::Close(frame) => return Err(io::Error::other(format!("closed: {frame:?}"))),
            _ => return Ok(0),
        };
        let (now, mut highest) = (now_ns(), 0);
        for line in text.lines() {
            let line: Line = serde_json::from_str(line).map_err(io::Error::other)?;
            if let Some(error) = line.error {
                return Err(io::Error::other(format!("refused: {error}")));
            }
            highest = highest.max(line.id.unwrap_or(0));
            match line.push {
                None if line.id.is_none() => {
                    self.socket.send(Message::text("{}")).await.map_err(io::Error::other)?;
                }
                Some(Push { unsubscribe: Some(why), .. }) => {
                    return Err(io::Error::other(format!("unsubscribed: {why}")));
                }
                Some(Push { publication: Some(publication), .. }) => self.take(now, &publication),
                _ => {}
            }
        }
        Ok(highest)
    }

    fn take(&mut self, now: u64, publication: &Publication) {
        self.ages.record(now.saturating_sub(publication.data.at));
        self.received += 1;
        let told = publication.tags.get("tidegate.superseded");
        self.superseded += told.and_then(|count| count.parse::<u64>().ok()).unwrap_or(0);
        if let Some(key) = publication.key.as_ref().and_then(|key| key.parse().ok()) {
            self.has.insert(key, publication.data.n);
        }
    }
}

/// A stream that gives so many bytes a second.
#[derive(Debug)]
struct Paced {
    stream: tokio::net::TcpStream,
    pace: Option<Pace>,
    next: Pin<Box<Sleep>>,
}

impl Paced {
    fn new(stream: tokio::net::TcpStream, pace: Option<Pace>) -> Self {
        Self { stream, pace, next: Box::pin(sleep_until(Instant::now())) }
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(Pace { bytes_per_s }) = self.pace else {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        };
        ready!(self.next.as_mut().poll(context));
        let mut bytes = [0; READ_BYTES];
        let room = READ_BYTES.min(buffer.remaining());
        let mut part = ReadBuf::new(&mut bytes[..room]);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut part))?;
        let read = part.filled().len();
        buffer.put_slice(part.filled());
        let takes = Duration::from_secs_f64(read as f64 / bytes_per_s as f64);
        let next = self.next.deadline().max(Instant::now()) + takes;
        self.next.as_mut().reset(next);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Paced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
