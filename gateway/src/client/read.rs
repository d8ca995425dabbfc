//! Reads what a client sends.

use std::io;

use bytes::Bytes;
use shared::framing::Message;

use crate::client::{Client, DropReason};
use crate::worker::WorkerLocal;

/// The most reads of one connection before other connections get their turn.
const READS_MAX: usize = 8;

/// The least bytes that are read at once.
const READ_BYTES_MIN: usize = 64;

/// Why reading a connection stopped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReadProgress {
    /// The socket is empty. The poll reports when it is readable again.
    Drained,
    /// There is more to read, without a further edge from the poll.
    More,
    /// The session is behind with answers. Reading continues when it has caught up.
    Congested,
}

/// The outcome of a message that arrived apart from its client's stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CommandOutcome {
    Taken,
    /// It was not taken, because the same command is in flight already.
    Repeated,
    /// The client is gone.
    Gone,
}

impl Client {
    /// Reads what the socket has, a few buffers at most, and handles it. `ended` says that the poll has reported the end of
    /// the stream, which it does once.
    pub(crate) fn handle_readable(
        &mut self,
        local: &mut WorkerLocal,
        buffer: &mut [u8],
        ended: bool,
    ) -> Result<ReadProgress, DropReason> {
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

    /// Handles a message that did not arrive through the client's own stream.
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
