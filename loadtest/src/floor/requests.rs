//! The part of HTTP, of the server API and of the Centrifuge protocol that the load tester uses.

use std::borrow::Cow;
use std::collections::HashMap;
use std::os::fd::OwnedFd;

use bytes::{Buf, BufMut, BytesMut};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use shared::channel::Channel;
use shared::framing::MessageKind;
use shared::framing::websocket::{
    Assembler, FrameEvent, Inflater, Limits, Role, encode_close, encode_message, encode_message_with,
    encode_pong, read_upgrade,
};
use shared::protocol::Protocol;
use shared::protocol::centrifuge::json::CentrifugeJson;
use shared::publication::{Payload, Publication};
use shared::push::{Event, Push};

const LIMITS: Limits = Limits { message_bytes_max: 1 << 20, frame_bytes_max: 1 << 20, fragments_max: 1_024 };
const READ_BYTES: usize = 64 << 10;
/// The largest request that is read.
const REQUEST_BYTES_MAX: usize = 4 << 20;
const CHANNEL_BYTES_MAX: usize = 255;
const WEBSOCKET_PATH: &str = "/connection/websocket";

/// The protocol that a peer speaks, with what is incomplete of its last message.
#[derive(Debug)]
pub(super) enum Speaks {
    Http(BytesMut),
    WebSocket(Assembler),
}

/// What happens to a connection after a read.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Step {
    Stay,
    /// The socket moves to the list of the channel with this number.
    Subscribe(usize),
    Leave,
}

/// State that all peers share while they are read.
#[derive(Debug)]
pub(super) struct PeerReader {
    buffer: Vec<u8>,
    inflater: Inflater,
    /// Answers for the peer that is being read.
    answers: BytesMut,
    pub(super) backlog: Backlog,
}

/// Frames that wait for the next sweep.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    numbers: HashMap<Box<str>, usize>,
    /// Frames, by the number of their channel.
    frames: Vec<BytesMut>,
    /// The channels that have frames.
    due: Vec<usize>,
    pub(super) bytes: usize,
}

impl Backlog {
    /// Returns the number of a channel that has a listener from now on.
    fn number(&mut self, channel: &str) -> usize {
        if let Some(number) = self.numbers.get(channel) {
            return *number;
        }
        self.frames.push(BytesMut::new());
        self.numbers.insert(channel.into(), self.frames.len() - 1);
        self.frames.len() - 1
    }

    /// Appends the one frame that every listener of the channel gets.
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

    /// Passes the frames that wait to `sweep`, channel by channel.
    pub(super) fn take(&mut self, mut sweep: impl FnMut(usize, &[u8])) {
        for number in self.due.drain(..) {
            sweep(number, &self.frames[number]);
            self.frames[number].clear();
        }
        self.bytes = 0;
    }
}

/// The outcome of a request, with the number of bytes that it took.
enum Request {
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
    commands: Vec<Command<'a>>,
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
    /// Reads until the socket has no more, and answers.
    pub(super) fn read(&mut self, socket: &OwnedFd, speaks: &mut Speaks) -> Step {
        let mut buffer = std::mem::take(&mut self.buffer);
        let step = loop {
            let length = match rustix::io::read(socket, &mut buffer[..]) {
                Ok(0) => break Step::Leave,
                Ok(length) => length,
                Err(Errno::AGAIN) => break Step::Stay,
                Err(Errno::INTR) => continue,
                Err(_) => break Step::Leave,
            };
            self.answers.clear();
            let step = self.take_in(&mut buffer[..length], speaks);
            if !self.answers.is_empty() {
                let sent = send(socket, &self.answers, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
                if sent != Ok(self.answers.len()) {
                    break Step::Leave;
                }
            }
            if step != Step::Stay || length < buffer.len() {
                break step;
            }
        };
        self.buffer = buffer;
        step
    }

    fn take_in(&mut self, bytes: &mut [u8], speaks: &mut Speaks) -> Step {
        let held = match speaks {
            Speaks::WebSocket(assembler) => {
                return self.read_messages(assembler, bytes).unwrap_or(Step::Leave);
            }
            Speaks::Http(held) => held,
        };
        held.extend_from_slice(bytes);
        loop {
            match self.read_request(held) {
                Request::Incomplete if held.len() > REQUEST_BYTES_MAX => return Step::Leave,
                Request::Incomplete => return Step::Stay,
                Request::Done(length) => held.advance(length),
                Request::Refused => return Step::Leave,
                Request::Upgrade(length) => {
                    let mut early = held.split_off(length);
                    *speaks = Speaks::WebSocket(Assembler::new(Role::Server, false));
                    return self.take_in(&mut early, speaks);
                }
            }
        }
    }

    /// Serves the first request in `bytes`, if it is whole.
    fn read_request(&mut self, bytes: &[u8]) -> Request {
        let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else { return Request::Incomplete };
        let (head, body) = (&bytes[..end], &bytes[end + 4..]);
        let Ok(head) = std::str::from_utf8(head) else { return self.refuse("400 Bad Request") };
        let mut lines = head.split("\r\n");
        let mut words = lines.next().unwrap_or("").split(' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let headers = lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim()));
        if path == WEBSOCKET_PATH {
            let headers = headers.map(|(name, value)| (name, value.as_bytes()));
            let Ok(upgrade) = read_upgrade(method, headers) else { return self.refuse("400 Bad Request") };
            let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade";
            let answer = format!("{head}\r\nSec-WebSocket-Accept: {}\r\n\r\n", upgrade.accept);
            self.answers.put_slice(answer.as_bytes());
            return Request::Upgrade(end + 4);
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
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json";
        let answer = format!("{head}\r\nContent-Length: {}\r\n\r\n{answer}", answer.len());
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
            self.backlog.put(command.publish.as_ref()?)?;
        }
        let replies = vec!["{\"publish\":{}}"; batch.commands.len()].join(",");
        Some(format!("{{\"replies\":[{replies}]}}"))
    }

    fn refuse(&mut self, status: &str) -> Request {
        let answer = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        self.answers.put_slice(answer.as_bytes());
        Request::Refused
    }

    /// Answers the messages that these bytes complete. Returns `None` if one is invalid.
    fn read_messages(&mut self, assembler: &mut Assembler, mut bytes: &mut [u8]) -> Option<Step> {
        let mut step = Step::Stay;
        loop {
            match assembler.next(&mut bytes, &LIMITS, &mut self.inflater).ok()? {
                None => return Some(step),
                Some(FrameEvent::Message(message)) => {
                    if let Some(channel) = execute(message.data, &mut self.answers, &mut self.backlog)? {
                        step = Step::Subscribe(channel);
                    }
                }
                Some(FrameEvent::Ping(data)) => encode_pong(data, &mut self.answers),
                Some(FrameEvent::Pong(_)) => {}
                Some(FrameEvent::Close(close)) => {
                    encode_close(close.code.map(|code| (code, "")), &mut self.answers);
                    return Some(Step::Leave);
                }
            }
        }
    }
}

/// Executes the commands of a message. Returns the number of the channel of the first subscription among them, if any, or
/// `None` if a command is invalid.
fn execute(message: &[u8], answers: &mut BytesMut, backlog: &mut Backlog) -> Option<Option<usize>> {
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
