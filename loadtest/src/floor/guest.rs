//! One connection of the floor: first a request, then a listener or a publisher.

use std::os::fd::OwnedFd;

use bytes::{Buf, BytesMut};
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use shared::framing::websocket::{Assembler, Event, Role, encode_close, encode_pong};

use super::listeners::{Listeners, Seat};
use super::speak::{LIMITS, Reader, Request, obey};

/// What a request may have come to before its end is seen.
const REQUEST_BYTES_MAX: usize = 4 << 20;

#[derive(Debug)]
pub(super) struct Guest {
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// Asks by HTTP. Holds what is incomplete.
    Asking(OwnedFd, BytesMut),
    /// A WebSocket that has not subscribed.
    Open(OwnedFd, Assembler),
    /// One that has: its socket is in its channel's list.
    Seated(Seat, Assembler),
    Gone,
}

/// What becomes of a guest after a read.
#[derive(Debug)]
pub(super) enum Step {
    Stay,
    /// Its socket moves to the list of the channel with this number.
    Subscribe(OwnedFd, usize),
    Leave,
}

impl Guest {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { stage: Stage::Asking(socket, BytesMut::new()) }
    }

    /// Its socket stands there from now on.
    pub(super) fn sit_down(&mut self, at: Seat) {
        if let Stage::Seated(seat, _) = &mut self.stage {
            *seat = at;
        }
    }

    pub(super) fn seat(&self) -> Option<Seat> {
        match self.stage {
            Stage::Seated(seat, _) => Some(seat),
            _ => None,
        }
    }

    /// Reads until nothing is left.
    pub(super) fn read(&mut self, reader: &mut Reader, listeners: &Listeners) -> Step {
        let mut buffer = std::mem::take(&mut reader.buffer);
        let step = loop {
            let socket = match &self.stage {
                Stage::Asking(socket, _) | Stage::Open(socket, _) => Some(socket),
                Stage::Seated(seat, _) => listeners.socket(*seat),
                Stage::Gone => None,
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

    fn take_in(&mut self, bytes: &mut [u8], reader: &mut Reader, listeners: &Listeners) -> Step {
        match &mut self.stage {
            Stage::Asking(socket, held) => {
                held.extend_from_slice(bytes);
                let mut held = std::mem::take(held);
                loop {
                    reader.answers.clear();
                    let request = reader.read_request(&held);
                    if !reader.answers.is_empty() && !say(socket, &reader.answers) {
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
                if let Stage::Asking(_, place) = &mut self.stage {
                    *place = held;
                }
                Step::Stay
            }
            Stage::Open(socket, assembler) => match converse(socket, assembler, bytes, reader) {
                Talk::Goes => Step::Leave,
                Talk::Stays => Step::Stay,
                Talk::Subscribes(channel) => match std::mem::replace(&mut self.stage, Stage::Gone) {
                    Stage::Open(socket, assembler) => {
                        self.stage = Stage::Seated(Seat { channel, place: usize::MAX }, assembler);
                        Step::Subscribe(socket, channel)
                    }
                    _ => Step::Leave,
                },
            },
            Stage::Seated(seat, assembler) => match listeners.socket(*seat) {
                Some(socket) => match converse(socket, assembler, bytes, reader) {
                    Talk::Goes => Step::Leave,
                    Talk::Stays | Talk::Subscribes(_) => Step::Stay,
                },
                None => Step::Leave,
            },
            Stage::Gone => Step::Leave,
        }
    }

    fn open(&mut self) {
        if let Stage::Asking(socket, _) = std::mem::replace(&mut self.stage, Stage::Gone) {
            self.stage = Stage::Open(socket, Assembler::new(Role::Server, false));
        }
    }
}

enum Talk {
    Stays,
    /// To the channel with this number.
    Subscribes(usize),
    Goes,
}

/// Hears and answers what these bytes say on a WebSocket.
fn converse(socket: &OwnedFd, assembler: &mut Assembler, mut bytes: &mut [u8], reader: &mut Reader) -> Talk {
    reader.answers.clear();
    let mut talk = Talk::Stays;
    loop {
        match assembler.next(&mut bytes, &LIMITS, &mut reader.inflater) {
            Ok(None) => break,
            Ok(Some(Event::Message(message))) => {
                match obey(message.data, &mut reader.answers, &mut reader.published) {
                    Some(Some(channel)) => talk = Talk::Subscribes(channel),
                    Some(None) => {}
                    None => return Talk::Goes,
                }
            }
            Ok(Some(Event::Ping(data))) => encode_pong(data, &mut reader.answers),
            Ok(Some(Event::Pong(_))) => {}
            Ok(Some(Event::Close(close))) => {
                encode_close(close.code.map(|code| (code, "")), &mut reader.answers);
                talk = Talk::Goes;
                break;
            }
            Err(_) => return Talk::Goes,
        }
    }
    if !reader.answers.is_empty() && !say(socket, &reader.answers) {
        return Talk::Goes;
    }
    talk
}

/// Whether the socket took all of it.
fn say(socket: &OwnedFd, bytes: &[u8]) -> bool {
    send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) == Ok(bytes.len())
}
