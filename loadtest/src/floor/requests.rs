//! As much of HTTP, of the server API and of the Centrifuge protocol as the load tester says.

use std::borrow::Cow;
use std::collections::HashMap;

use bytes::{BufMut, BytesMut};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use shared::channel::Channel;
use shared::framing::MessageKind;
use shared::framing::websocket::{Inflater, Limits, encode_message, encode_message_with, read_upgrade};
use shared::protocol::Protocol;
use shared::protocol::centrifuge::json::CentrifugeJson;
use shared::publication::{Payload, Publication};
use shared::push::{Event, Push};

pub(super) const LIMITS: Limits =
    Limits { message_bytes_max: 1 << 20, frame_bytes_max: 1 << 20, fragments_max: 1_024 };
const READ_BYTES: usize = 64 << 10;
const CHANNEL_BYTES_MAX: usize = 255;
const WEBSOCKET_PATH: &str = "/connection/websocket";

/// What all peers share while they are read.
#[derive(Debug)]
pub(super) struct PeerReader {
    pub(super) buffer: Vec<u8>,
    pub(super) inflater: Inflater,
    /// For the peer that is being read.
    pub(super) answers: BytesMut,
    pub(super) backlog: Backlog,
}

/// What waits for the next sweep.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    numbers: HashMap<Box<str>, usize>,
    /// Frames, by the number of their channel.
    frames: Vec<BytesMut>,
    /// The channels that have any.
    due: Vec<usize>,
    bytes: usize,
}

impl Backlog {
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of a channel that somebody listens to from now on.
    fn number(&mut self, channel: &str) -> usize {
        if let Some(number) = self.numbers.get(channel) {
            return *number;
        }
        self.frames.push(BytesMut::new());
        self.numbers.insert(channel.into(), self.frames.len() - 1);
        self.frames.len() - 1
    }

    /// Appends the one frame that everyone in the channel gets.
    fn put(&mut self, publish: &Publish<'_>) -> Option<()> {
        let channel = Channel::parse(&publish.channel, CHANNEL_BYTES_MAX).ok()?;
        let Some(&number) = self.numbers.get(channel.as_str()) else { return Some(()) };
        let frames = &mut self.frames[number];
        let before = frames.len();
        if before == 0 {
            self.due.push(number);
        }
        let payload = Payload::json(publish.data.get().to_owned().into_bytes());
        let publication = Publication::new(payload);
        let push = Push::to(&channel, Event::plain(&publication));
        encode_message_with(frames, |out| {
            CentrifugeJson::default().encode_push(push, out);
            Some(MessageKind::Text)
        });
        self.bytes += frames.len() - before;
        Some(())
    }

    /// Takes what waits, channel by channel.
    pub(super) fn take(&mut self, mut sweep: impl FnMut(usize, &[u8])) {
        for number in self.due.drain(..) {
            sweep(number, &self.frames[number]);
            self.frames[number].clear();
        }
        self.bytes = 0;
    }
}

/// What a request came to. The lengths are those of what was used up.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Request {
    Incomplete,
    Done(usize),
    Upgrade(usize),
    Refused,
}

#[derive(Deserialize)]
struct Command<'a> {
    #[serde(default)]
    id: u32,
    connect: Option<IgnoredAny>,
    #[serde(borrow)]
    subscribe: Option<Subscribe<'a>>,
    #[serde(borrow)]
    publish: Option<Publish<'a>>,
}

#[derive(Deserialize)]
struct Subscribe<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Publish<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    commands: Vec<BatchCommand<'a>>,
}

#[derive(Deserialize)]
struct BatchCommand<'a> {
    #[serde(borrow)]
    publish: Publish<'a>,
}

impl Default for PeerReader {
    fn default() -> Self {
        Self {
            buffer: vec![0; READ_BYTES],
            inflater: Inflater::new(),
            answers: BytesMut::new(),
            backlog: Backlog::default(),
        }
    }
}

impl PeerReader {
    /// Serves the first request in `bytes`, if it is whole.
    pub(super) fn read_request(&mut self, bytes: &[u8]) -> Request {
        let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else { return Request::Incomplete };
        let (head, body) = (&bytes[..end], &bytes[end + 4..]);
        let Ok(head) = std::str::from_utf8(head) else { return self.refuse("400 Bad Request") };
        let mut lines = head.split("\r\n");
        let mut words = lines.next().unwrap_or("").split(' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let headers = lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim()));
        if path == WEBSOCKET_PATH {
            return match read_upgrade(method, headers.map(|(name, value)| (name, value.as_bytes()))) {
                Ok(upgrade) => {
                    self.answers.put_slice(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n");
                    self.answers.put_slice(b"Connection: Upgrade\r\nSec-WebSocket-Accept: ");
                    self.answers.put_slice(upgrade.accept.as_bytes());
                    self.answers.put_slice(b"\r\n\r\n");
                    Request::Upgrade(end + 4)
                }
                Err(_) => self.refuse("400 Bad Request"),
            };
        }
        let mut lengths = headers.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
        let length = lengths.next().map_or(Ok(0), |(_, value)| value.parse::<usize>());
        let Ok(length) = length else { return self.refuse("400 Bad Request") };
        let Some(body) = body.get(..length) else { return Request::Incomplete };
        let answer = match (method, path) {
            ("POST", "/api/publish") => self.publish(body),
            ("POST", "/api/batch") => self.publish_batch(body),
            _ => return self.refuse("404 Not Found"),
        };
        let Some(answer) = answer else { return self.refuse("400 Bad Request") };
        let length_line = format!("Content-Length: {}\r\n\r\n", answer.len());
        self.answers.put_slice(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n");
        self.answers.put_slice(length_line.as_bytes());
        self.answers.put_slice(answer.as_bytes());
        Request::Done(end + 4 + length)
    }

    fn publish(&mut self, body: &[u8]) -> Option<String> {
        self.backlog.put(&serde_json::from_slice(body).ok()?)?;
        Some("{\"result\":{}}".to_owned())
    }

    fn publish_batch(&mut self, body: &[u8]) -> Option<String> {
        let batch: Batch<'_> = serde_json::from_slice(body).ok()?;
        for command in &batch.commands {
            self.backlog.put(&command.publish)?;
        }
        let replies = vec!["{\"publish\":{}}"; batch.commands.len()].join(",");
        Some(format!("{{\"replies\":[{replies}]}}"))
    }

    fn refuse(&mut self, status: &str) -> Request {
        let answer = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        self.answers.put_slice(answer.as_bytes());
        Request::Refused
    }
}

/// Does what a message of commands says. Returns the number of the channel of the first subscription among it if there is any, or
/// `None` if it makes no sense.
pub(super) fn execute(
    message: &[u8],
    answers: &mut BytesMut,
    backlog: &mut Backlog,
) -> Option<Option<usize>> {
    let mut replies = Vec::new();
    let mut subscribes = None;
    for line in message.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let command: Command<'_> = serde_json::from_slice(line).ok()?;
        let reply = match &command {
            Command { connect: Some(_), .. } => "\"connect\":{\"client\":\"peer\",\"version\":\"floor\"}",
            Command { subscribe: Some(subscribe), .. } => {
                subscribes = subscribes.or_else(|| Some(backlog.number(&subscribe.channel)));
                "\"subscribe\":{}"
            }
            Command { publish: Some(publish), .. } => {
                backlog.put(publish)?;
                "\"publish\":{}"
            }
            // A pong.
            _ => continue,
        };
        replies.push(format!("{{\"id\":{},{reply}}}", command.id));
    }
    if !replies.is_empty() {
        encode_message(MessageKind::Text, replies.join("\n").as_bytes(), false, answers);
    }
    Some(subscribes)
}
