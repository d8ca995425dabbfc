//! One connection of the floor: first a request, then a listener or a publisher.

use std::os::fd::OwnedFd;

use bytes::{Buf, BytesMut};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use shared::framing::websocket::{Assembler, FrameEvent, Role, encode_close, encode_pong};

use super::listeners::{Listeners, Slot};
use super::requests::{LIMITS, PeerReader, Request, execute};

/// What a request may have come to before its end is seen.
const REQUEST_BYTES_MAX: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct Peer {
    state: PeerState,
}

#[derive(Debug)]
enum PeerState {
    /// Asks by HTTP. Holds what is incomplete.
    Http(OwnedFd, BytesMut),
    /// A WebSocket that has not subscribed.
    Upgraded(OwnedFd, Assembler),
    /// One that has: its socket is in its channel's list.
    Subscribed(Slot, Assembler),
    Gone,
}

/// What becomes of a connection after a read.
#[derive(Debug)]
pub(super) enum Step {
    Stay,
    /// Its socket moves to the list of the channel with this number.
    Subscribe(OwnedFd, usize),
    Leave,
}

impl Peer {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { state: PeerState::Http(socket, BytesMut::new()) }
    }

    /// Its socket stands there from now on.
    pub(super) fn move_to(&mut self, at: Slot) {
        if let PeerState::Subscribed(slot, _) = &mut self.state {
            *slot = at;
        }
    }

    pub(super) fn slot(&self) -> Option<Slot> {
        match self.state {
            PeerState::Subscribed(slot, _) => Some(slot),
            _ => None,
        }
    }

    /// Reads until nothing is left.
    pub(super) fn read(&mut self, reader: &mut PeerReader, listeners: &Listeners) -> Step {
        let mut buffer = std::mem::take(&mut reader.buffer);
        let step = loop {
            let socket = match &self.state {
                PeerState::Http(socket, _) | PeerState::Upgraded(socket, _) => Some(socket),
                PeerState::Subscribed(slot, _) => listeners.socket(*slot),
                PeerState::Gone => None,
            };
            let Some(socket) = socket else { break Step::Leave };
            let length = match rustix::io::read(socket, &mut buffer[..]) {
                Ok(0) => break Step::Leave,
                Ok(length) => length,
                Err(Errno::AGAIN) => break Step::Stay,
                Err(Errno::INTR) => continue,
                Err(_) => break Step::Leave,
            };
            match self.take_in(&mut buffer[..length], reader, listeners) {
                Step::Stay if length == buffer.len() => {}
                step => break step,
            }
        };
        reader.buffer = buffer;
        step
    }

    fn take_in(&mut self, bytes: &mut [u8], reader: &mut PeerReader, listeners: &Listeners) -> Step {
        match &mut self.state {
            PeerState::Http(socket, held) => {
                held.extend_from_slice(bytes);
                let mut held = std::mem::take(held);
                loop {
                    reader.answers.clear();
                    let request = reader.read_request(&held);
                    if !reader.answers.is_empty() && !send_whole(socket, &reader.answers) {
                        return Step::Leave;
                    }
                    match request {
                        Request::Incomplete if held.len() > REQUEST_BYTES_MAX => return Step::Leave,
                        Request::Incomplete => break,
                        Request::Done(length) => held.advance(length),
                        Request::Refused => return Step::Leave,
                        Request::Upgrade(length) => {
                            held.advance(length);
                            self.open();
                            return self.take_in(&mut held, reader, listeners);
                        }
                    }
                }
                if let PeerState::Http(_, place) = &mut self.state {
                    *place = held;
                }
                Step::Stay
            }
            PeerState::Upgraded(socket, assembler) => match handle_messages(socket, assembler, bytes, reader)
            {
                MessageEffect::Goes => Step::Leave,
                MessageEffect::Stays => Step::Stay,
                MessageEffect::Subscribes(channel) => {
                    match std::mem::replace(&mut self.state, PeerState::Gone) {
                        PeerState::Upgraded(socket, assembler) => {
                            self.state =
                                PeerState::Subscribed(Slot { channel, place: usize::MAX }, assembler);
                            Step::Subscribe(socket, channel)
                        }
                        _ => Step::Leave,
                    }
                }
            },
            PeerState::Subscribed(slot, assembler) => match listeners.socket(*slot) {
                Some(socket) => match handle_messages(socket, assembler, bytes, reader) {
                    MessageEffect::Goes => Step::Leave,
                    MessageEffect::Stays | MessageEffect::Subscribes(_) => Step::Stay,
                },
                None => Step::Leave,
            },
            PeerState::Gone => Step::Leave,
        }
    }

    fn open(&mut self) {
        if let PeerState::Http(socket, _) = std::mem::replace(&mut self.state, PeerState::Gone) {
            self.state = PeerState::Upgraded(socket, Assembler::new(Role::Server, false));
        }
    }
}

enum MessageEffect {
    Stays,
    /// To the channel with this number.
    Subscribes(usize),
    Goes,
}

/// Reads and answers the messages that these bytes complete.
fn handle_messages(
    socket: &OwnedFd,
    assembler: &mut Assembler,
    mut bytes: &mut [u8],
    reader: &mut PeerReader,
) -> MessageEffect {
    reader.answers.clear();
    let mut effect = MessageEffect::Stays;
    loop {
        match assembler.next(&mut bytes, &LIMITS, &mut reader.inflater) {
            Ok(None) => break,
            Ok(Some(FrameEvent::Message(message))) => {
                match execute(message.data, &mut reader.answers, &mut reader.backlog) {
                    Some(Some(channel)) => effect = MessageEffect::Subscribes(channel),
                    Some(None) => {}
                    None => return MessageEffect::Goes,
                }
            }
            Ok(Some(FrameEvent::Ping(data))) => encode_pong(data, &mut reader.answers),
            Ok(Some(FrameEvent::Pong(_))) => {}
            Ok(Some(FrameEvent::Close(close))) => {
                encode_close(close.code.map(|code| (code, "")), &mut reader.answers);
                effect = MessageEffect::Goes;
                break;
            }
            Err(_) => return MessageEffect::Goes,
        }
    }
    if !reader.answers.is_empty() && !send_whole(socket, &reader.answers) {
        return MessageEffect::Goes;
    }
    effect
}

/// Whether the socket took all of it.
fn send_whole(socket: &OwnedFd, bytes: &[u8]) -> bool {
    send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) == Ok(bytes.len())
}
