//! Taking in what a client sends.

use std::io;

use bytes::Bytes;
use shared::framing::Message;

use crate::client::{Client, Gone};
use crate::worker::WorkerLocal;

/// The most reads of one connection before others get their turn.
const READS_MAX: usize = 8;

/// What is read at once in any case.
const READ_BYTES_MIN: usize = 64;

/// Whether a connection has said all it had to say for now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReadProgress {
    /// The socket is empty: the poll tells when it is not.
    Drained,
    /// There is more, and no edge will tell of it: come back.
    More,
    /// The session is behind with answers: come back when it is not.
    Congested,
}

/// What has become of a message that came apart from its client's stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CommandOutcome {
    Taken,
    /// It would begin what is in flight already, and was not taken.
    Repeated,
    /// There is nobody to take it.
    Gone,
}

impl Client {
    /// Reads what the socket has, a few buffers at most, and handles it. `ended` is whether the poll has seen the end
    /// of the stream, of which it tells once.
    pub(crate) fn handle_readable(
        &mut self,
        local: &mut WorkerLocal,
        buffer: &mut [u8],
        ended: bool,
    ) -> Result<ReadProgress, Gone> {
        for _ in 0..READS_MAX {
            if self.session.is_congested() && !self.is_closing() {
                self.paused = true;
                return Ok(ReadProgress::Congested);
            }
            let room = self.session.bytes_wanted().clamp(READ_BYTES_MIN, buffer.len());
            match self.link.stream.read(&mut buffer[..room]) {
                Ok(0) => {
                    self.handle_end_of_stream(local, io::ErrorKind::UnexpectedEof)?;
                    return Ok(ReadProgress::Drained);
                }
                Ok(count) => {
                    local.tally.bytes_in += count as u64;
                    self.handle_bytes(local, &mut buffer[..count]);
                    if !ended && self.link.stream.is_drained_by(count, room) {
                        return Ok(ReadProgress::Drained);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(ReadProgress::Drained),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.handle_end_of_stream(local, error.kind())?;
                    return Ok(ReadProgress::Drained);
                }
            }
        }
        Ok(ReadProgress::More)
    }

    /// Handles a message that came another way than through the client's own stream.
    pub(crate) fn handle_message(&mut self, local: &mut WorkerLocal, data: Bytes) -> CommandOutcome {
        local.tally.messages_in[usize::from(self.protocol.0)] += 1;
        if self.is_closing() || self.is_finishing() {
            return CommandOutcome::Gone;
        }
        let graphql = self.rare.as_deref().and_then(|rare| rare.graphql.as_ref());
        if graphql.is_some_and(|graphql| graphql.would_repeat(&data)) {
            return CommandOutcome::Repeated;
        }
        self.session.handle_message(local.now, Message { kind: self.link.framing.kind(), data: &data });
        self.perform(local);
        CommandOutcome::Taken
    }
}
