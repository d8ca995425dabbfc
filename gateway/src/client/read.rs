//! Taking in what a client sends.

use std::io;

use shared::framing::websocket::{self, Assembler, Event, Role};

use crate::client::{Client, Gone, Incoming};
use crate::worker::Local;

/// The most reads of one connection before others get their turn.
const READS_MAX: usize = 8;

/// What is read at once in any case.
const READ_BYTES_MIN: usize = 64;

/// Whether a connection has said all it had to say for now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// The socket is empty: the poll tells when it is not.
    Drained,
    /// There is more, and no edge will tell of it: come back.
    More,
    /// The session is behind with answers: come back when it is not.
    Congested,
}

impl Client {
    /// Reads what the socket has, a few buffers at most, and handles it. `ended` is whether the poll has seen the end
    /// of the stream, of which it tells once.
    pub(crate) fn handle_readable(
        &mut self,
        local: &mut Local,
        buffer: &mut [u8],
        ended: bool,
    ) -> Result<Readiness, Gone> {
        for _ in 0..READS_MAX {
            if self.session.is_congested() && !self.is_closing() {
                self.paused = true;
                return Ok(Readiness::Congested);
            }
            let room = self.session.bytes_wanted().clamp(READ_BYTES_MIN, buffer.len());
            match self.stream.read(&mut buffer[..room]) {
                Ok(0) => {
                    self.handle_end_of_stream(local, io::ErrorKind::UnexpectedEof)?;
                    return Ok(Readiness::Drained);
                }
                Ok(count) => {
                    local.tally.bytes_in += count as u64;
                    self.handle_bytes(local, &mut buffer[..count]);
                    if !ended && self.stream.is_drained_by(count, room) {
                        return Ok(Readiness::Drained);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Readiness::Drained),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.handle_end_of_stream(local, error.kind())?;
                    return Ok(Readiness::Drained);
                }
            }
        }
        Ok(Readiness::More)
    }

    /// Lets go of the message that is arriving. Nothing that follows can be understood after that.
    pub(crate) fn drop_incoming(&mut self) {
        if self.incoming == Incoming::Frames {
            self.incoming = Incoming::Rubbish;
            self.assembler = Assembler::new(Role::Server, false);
        }
    }

    /// Handles bytes of the client's: frames, and what is left of one.
    pub(crate) fn handle_bytes(&mut self, local: &mut Local, bytes: &mut [u8]) {
        self.session.handle_sign_of_life();
        let mut unread = bytes;
        let mut closing = self.is_closing();
        // After a close only the peer's own close frame matters; after an error not even the framing holds.
        while self.incoming == Incoming::Frames {
            let event = match self.assembler.next(&mut unread, &local.limits, &mut local.inflater) {
                Ok(Some(event)) => event,
                Ok(None) => return,
                Err(error) => {
                    self.incoming = Incoming::Rubbish;
                    if !self.is_closing() {
                        tracing::debug!(client = %self.session.client(), %error, "a client broke the framing");
                        self.session.handle_disconnect(error.disconnect());
                        self.perform(local);
                    }
                    return;
                }
            };
            match event {
                Event::Message(message) => {
                    local.tally.messages_in[usize::from(self.protocol.0)] += 1;
                    if !closing {
                        self.session.handle_message(local.now, message);
                        self.perform(local);
                    }
                }
                Event::Ping(data) => {
                    if !closing {
                        websocket::encode_pong(data, &mut local.scratch);
                        let frame = local.scratch.split().freeze();
                        self.session.handle_control_frame(local.now, frame.len());
                        self.perform(local);
                        if !self.is_closing() {
                            self.send_control(local, frame);
                        }
                    }
                }
                Event::Pong(_) => {
                    if !self.is_closing() {
                        self.session.handle_control_frame(local.now, 0);
                        self.session.handle_transport_pong();
                        self.perform(local);
                    }
                }
                Event::Close(close) => {
                    let code = close.code;
                    self.handle_peer_close(local, code);
                }
            }
            closing = self.is_closing();
        }
    }
}
