//! One process's share of the connections, held with as little as possible: some 32 bytes each beside the kernel's part.
//!
//! It connects at its ramp, subscribes, answers pings, and tells its parent on standard output how far it is. It ends
//! when its standard input does, so that it cannot outlive whoever started it.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde::{Deserialize, Serialize};
use shared::framing::MessageKind;
use shared::framing::websocket::{FrameHeader, Opcode, encode_masked};
use socket2::{Domain, Protocol, Socket, Type};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;

use crate::arguments::HolderArguments;
use crate::arguments::Transport;
use crate::bind_address_no_port::bind_address_no_port;
use crate::clock::{NANOS_PER_SECOND, now_ns};
use crate::dialect::{Dialect, Event, Wanted};
use crate::mark::Mark;
use crate::plan::CONNECTIONS_PER_SOURCE;
use crate::wire::read_response;

/// Connections that may be opening at the same time. More of them would only wait in the server's backlog.
const OPENING_MAX: usize = 64;
/// An attempt that takes longer has failed, and is made again after the others.
const OPENING_NS_MAX: u64 = 20 * NANOS_PER_SECOND;
/// Attempts for each connection.
const ATTEMPTS_MAX: u8 = 5;
const READ_BYTES: usize = 64 << 10;
/// What may wait for the rest of a message, for one connection.
const PARTIAL_BYTES_MAX: usize = 1 << 20;
const EVENTS: usize = 1_024;
const REPORT_EVERY_NS: u64 = 100_000_000;

/// How far a holder is.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    pub ready: u32,
    /// Attempts that failed.
    pub failed: u64,
    /// Connections that were given up, or that were ready and are lost.
    pub gone: u32,
    /// The publication that came last, how many connections have it, and when the last of them got it.
    pub sequence: u64,
    pub received: u32,
    pub last_ns: u64,
    /// Publications that came again or out of order.
    pub strange: u64,
}

#[derive(Debug)]
struct Connection {
    socket: Option<TcpStream>,
    stage: Stage,
    attempts: u8,
    /// The last publication it has, which is enough to see one that is missing or comes twice.
    sequence: u32,
    /// The beginning of a message whose rest is not there yet.
    partial: Option<Box<[u8]>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Waiting,
    Connecting,
    Upgrading,
    Greeting,
    Ready,
    Gone,
}

struct Holder {
    address: SocketAddr,
    channel: String,
    run: u32,
    source: Ipv4Addr,
    sources: u32,
    poll: Poll,
    connections: Vec<Connection>,
    /// Who is opening, oldest first, and since when.
    opening: VecDeque<(usize, u64)>,
    /// Who tries again.
    again: VecDeque<usize>,
    opening_now: usize,
    key: String,
    buffer: Vec<u8>,
    status: Status,
}

/// Holds them until standard input ends.
pub fn run(arguments: &HolderArguments) -> io::Result<()> {
    std::thread::Builder::new().name("end".to_owned()).spawn(|| {
        // Whatever is read: the end is what counts.
        let mut byte = [0; 64];
        while io::stdin().read(&mut byte).is_ok_and(|length| length > 0) {}
        std::process::exit(0);
    })?;
    let connections = (0..arguments.connections)
        .map(|_| Connection { socket: None, stage: Stage::Waiting, attempts: 0, sequence: 0, partial: None })
        .collect();
    let mut holder = Holder {
        address: arguments.address,
        channel: arguments.channel.clone(),
        run: arguments.run,
        source: arguments.source,
        sources: arguments.connections.div_ceil(CONNECTIONS_PER_SOURCE).max(1),
        poll: Poll::new()?,
        connections,
        opening: VecDeque::new(),
        again: VecDeque::new(),
        opening_now: 0,
        key: generate_key(),
        buffer: vec![0; READ_BYTES],
        status: Status::default(),
    };
    holder.hold(arguments.ramp)
}

impl Holder {
    fn hold(&mut self, ramp: f64) -> io::Result<()> {
        let start_ns = now_ns();
        let mut events = Events::with_capacity(EVENTS);
        let mut next = 0;
        let (mut reported, mut reported_ns) = (Status::default(), 0);
        loop {
            let now = now_ns();
            let due = (now.saturating_sub(start_ns) as f64 / NANOS_PER_SECOND as f64 * ramp) as usize + 1;
            while self.opening_now < OPENING_MAX {
                if next < due.min(self.connections.len()) {
                    self.open(next);
                    next += 1;
                } else if let Some(index) = self.again.pop_front() {
                    self.open(index);
                } else {
                    break;
                }
            }
            self.give_up_old_attempts(now);
            if self.status != reported && now.saturating_sub(reported_ns) >= REPORT_EVERY_NS {
                (reported, reported_ns) = (self.status, now);
                self.report()?;
            }
            let busy = next < self.connections.len() || self.opening_now > 0 || self.status != reported;
            let wait = busy.then_some(Duration::from_millis(2));
            if let Err(error) = self.poll.poll(&mut events, wait)
                && error.kind() != io::ErrorKind::Interrupted
            {
                return Err(error);
            }
            for event in &events {
                self.serve(event.token().0);
            }
        }
    }

    fn report(&self) -> io::Result<()> {
        let mut line = serde_json::to_vec(&self.status)?;
        line.push(b'\n');
        let mut out = io::stdout().lock();
        out.write_all(&line)?;
        out.flush()
    }

    fn open(&mut self, index: usize) {
        self.connections[index].attempts += 1;
        self.opening_now += 1;
        self.opening.push_back((index, now_ns()));
        self.connections[index].stage = Stage::Connecting;
        match self.connect(index) {
            Ok(socket) => self.connections[index].socket = Some(socket),
            Err(_) => self.fail(index),
        }
    }

    fn connect(&self, index: usize) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        bind_address_no_port(&socket)?;
        let [a, b, c, d] = self.source.octets();
        let source = Ipv4Addr::new(a, b, c, d + (index as u32 % self.sources) as u8);
        socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into())?;
        match socket.connect(&self.address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let mut socket = TcpStream::from_std(socket.into());
        self.poll.registry().register(&mut socket, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        Ok(socket)
    }

    fn serve(&mut self, index: usize) {
        if self.connections[index].stage == Stage::Connecting {
            match self.ask(index) {
                Some(true) => {}
                Some(false) => return,
                None => return self.fail(index),
            }
        }
        while let Some(socket) = &mut self.connections[index].socket {
            match socket.read(&mut self.buffer) {
                Ok(0) => return self.fail(index),
                Ok(length) => {
                    let is_last = length < self.buffer.len();
                    if self.take_in(index, length).is_none() {
                        return self.fail(index);
                    }
                    if is_last {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.fail(index),
            }
        }
    }

    /// Asks for the upgrade if the socket is connected by now. `None` when it never will be.
    fn ask(&mut self, index: usize) -> Option<bool> {
        let socket = self.connections[index].socket.as_ref()?;
        if !matches!(socket.take_error(), Ok(None)) {
            return None;
        }
        if socket.peer_addr().is_err() {
            return Some(false);
        }
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n\r\n",
            Dialect::Centrifuge.path(Transport::Websocket, "", &self.channel),
            self.address,
            self.key
        );
        self.connections[index].stage = Stage::Upgrading;
        self.send(index, request.as_bytes()).then_some(true)
    }

    /// Takes what was read into the shared buffer. `None` when the connection is of no use any more.
    fn take_in(&mut self, index: usize, length: usize) -> Option<()> {
        let mut whole;
        let mut data = &self.buffer[..length];
        let had_partial = self.connections[index].partial.take();
        if let Some(partial) = had_partial {
            whole = partial.into_vec();
            whole.extend_from_slice(data);
            data = &whole;
        }
        // Handling a message borrows the whole holder, so that what was read is taken out for as long.
        let data = Bytes::copy_from_slice(data);
        let mut unread = &data[..];
        if self.connections[index].stage == Stage::Upgrading
            && let Some(end) = memchr::memmem::find(unread, b"\r\n\r\n")
        {
            read_response(&unread[..end + 4], &self.key).ok()?;
            unread = &unread[end + 4..];
            self.greet(index)?;
        }
        if self.connections[index].stage != Stage::Upgrading {
            while let Some((opcode, payload, rest)) = split_frame(unread)? {
                unread = rest;
                self.hear(index, opcode, payload)?;
            }
        }
        if unread.len() > PARTIAL_BYTES_MAX {
            return None;
        }
        self.connections[index].partial = (!unread.is_empty()).then(|| unread.into());
        Some(())
    }

    fn greet(&mut self, index: usize) -> Option<()> {
        let wanted = Wanted { slot: 0, channel: &self.channel, positioned: false, since: None };
        let mut messages = Vec::new();
        Dialect::Centrifuge.greet(None, std::iter::once(wanted), &mut messages);
        self.connections[index].stage = Stage::Greeting;
        messages.iter().all(|message| self.send_frame(index, Opcode::Text, message.as_bytes())).then_some(())
    }

    fn hear(&mut self, index: usize, opcode: Opcode, payload: &[u8]) -> Option<()> {
        match opcode {
            Opcode::Text => {}
            Opcode::Ping => return self.send_frame(index, Opcode::Pong, payload).then_some(()),
            Opcode::Pong => return Some(()),
            // A close, or what this server does not send.
            _ => return None,
        }
        let (mut pinged, mut refused, mut confirmed) = (false, false, false);
        let (mut marks, run) = (Vec::new(), self.run);
        Dialect::Centrifuge.hear(MessageKind::Text, &Bytes::copy_from_slice(payload), |event| match event {
            Event::Confirmed { .. } => confirmed = true,
            Event::Publication(heard) => {
                marks.extend(Mark::find(heard.payload).map(|(mark, _)| mark).filter(|mark| mark.run == run));
            }
            Event::Ping => pinged = true,
            Event::Refused { .. } | Event::Unsubscribed { .. } => refused = true,
            Event::Welcome { .. } | Event::Done { .. } => {}
        });
        if refused {
            return None;
        }
        for mark in marks {
            self.receive(index, mark.sequence);
        }
        if confirmed {
            self.connections[index].stage = Stage::Ready;
            self.opening_now -= 1;
            self.status.ready += 1;
        }
        if pinged {
            // The gateway wants its pings answered.
            return self
                .send_frame(index, Opcode::Text, Dialect::Centrifuge.pong()?.as_bytes())
                .then_some(());
        }
        Some(())
    }

    fn receive(&mut self, index: usize, sequence: u64) {
        let connection = &mut self.connections[index];
        if u64::from(connection.sequence) + 1 != sequence {
            self.status.strange += 1;
        }
        connection.sequence = sequence as u32;
        if sequence < self.status.sequence {
            // Everyone was to have it long ago.
            return;
        }
        if sequence > self.status.sequence {
            (self.status.sequence, self.status.received) = (sequence, 0);
        }
        self.status.received += 1;
        self.status.last_ns = now_ns();
    }

    fn send_frame(&mut self, index: usize, opcode: Opcode, payload: &[u8]) -> bool {
        let mut out = BytesMut::with_capacity(payload.len() + 14);
        let header = FrameHeader { fin: true, rsv1: false, opcode, mask: None, length: payload.len() as u64 };
        encode_masked(header, payload, rand::random(), &mut out);
        self.send(index, &out)
    }

    /// The little that a listener says always fits in the socket's buffer; a server that does not read it is lost.
    fn send(&mut self, index: usize, bytes: &[u8]) -> bool {
        let sent = self.connections[index].socket.as_mut().map(|socket| socket.write(bytes));
        matches!(sent, Some(Ok(length)) if length == bytes.len())
    }

    fn give_up_old_attempts(&mut self, now: u64) {
        while let Some(&(index, since)) = self.opening.front() {
            let stage = self.connections[index].stage;
            let is_opening = matches!(stage, Stage::Connecting | Stage::Upgrading | Stage::Greeting);
            if is_opening && now.saturating_sub(since) < OPENING_NS_MAX {
                return;
            }
            self.opening.pop_front();
            if is_opening && !self.opening.iter().any(|(other, _)| *other == index) {
                self.fail(index);
            }
        }
    }

    /// It is closed; if it never was ready, it is tried again.
    fn fail(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        connection.socket = None;
        connection.partial = None;
        let stage = std::mem::replace(&mut connection.stage, Stage::Waiting);
        match stage {
            Stage::Waiting => {}
            Stage::Gone => connection.stage = Stage::Gone,
            Stage::Ready => {
                connection.stage = Stage::Gone;
                self.status.ready -= 1;
                self.status.gone += 1;
            }
            Stage::Connecting | Stage::Upgrading | Stage::Greeting => {
                self.opening_now -= 1;
                self.status.failed += 1;
                if connection.attempts < ATTEMPTS_MAX {
                    self.again.push_back(index);
                } else {
                    connection.stage = Stage::Gone;
                    self.status.gone += 1;
                }
            }
        }
    }
}

/// The first frame and what follows it; nothing if it is not whole yet. `None` for what a server must not send, or
/// what is not expected of this one: messages in pieces.
#[expect(clippy::type_complexity, reason = "a frame that is there, is not there yet, or never will be")]
fn split_frame(bytes: &[u8]) -> Option<Option<(Opcode, &[u8], &[u8])>> {
    let [first, second, rest @ ..] = bytes else { return Some(None) };
    if first & 0xf0 != 0x80 || second & 0x80 != 0 {
        return None;
    }
    let opcode = match first & 0x0f {
        1 => Opcode::Text,
        8 => Opcode::Close,
        9 => Opcode::Ping,
        10 => Opcode::Pong,
        _ => return None,
    };
    let (length, rest) = match second {
        127 => match rest.split_first_chunk::<8>() {
            Some((length, rest)) => (usize::try_from(u64::from_be_bytes(*length)).ok()?, rest),
            None => return Some(None),
        },
        126 => match rest.split_first_chunk::<2>() {
            Some((length, rest)) => (usize::from(u16::from_be_bytes(*length)), rest),
            None => return Some(None),
        },
        short => (usize::from(*short), rest),
    };
    Some(rest.split_at_checked(length).map(|(payload, rest)| (opcode, payload, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_one_by_one_and_only_whole() {
        let bytes = [0x81, 2, b'h', b'i', 0x89, 0, 0x81, 126, 0, 3, b'y'];
        let (opcode, payload, rest) = split_frame(&bytes).unwrap().unwrap();
        assert_eq!((opcode, payload), (Opcode::Text, &b"hi"[..]));
        let (opcode, payload, rest) = split_frame(rest).unwrap().unwrap();
        assert_eq!((opcode, payload), (Opcode::Ping, &b""[..]));
        assert_eq!(split_frame(rest), Some(None), "two bytes are missing");
        assert_eq!(split_frame(&[0x81]), Some(None));
    }

    #[test]
    fn frames_that_no_server_sends_are_refused() {
        for bytes in [[0x81, 0x80], [0x01, 0], [0xc1, 0], [0x83, 0]] {
            assert_eq!(split_frame(&bytes), None, "{bytes:x?}");
        }
    }

    #[test]
    fn a_connection_costs_little() {
        // In a debug build, a socket of mio also remembers where it is registered.
        assert!(size_of::<Connection>() <= if cfg!(debug_assertions) { 48 } else { 32 });
    }
}
