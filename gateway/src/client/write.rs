//! Writes to a client's socket.

use bytes::Bytes;
use gateway_core::effect::{Outcome, OutcomeResult};
use shared::disconnect::SlowCause;
use shared::framing::OwnedMessage;
use shared::protocol::graphql::Selected;

use crate::client::newest::{QUANTUM_BYTES, QUANTUM_BYTES_MAX};
use crate::client::{Client, DropReason, Incoming, QueuedBytes, RareClientState, outbox};
use crate::worker::WorkerLocal;
use crate::worker::inbox::WorkerEvent;

impl Client {
    /// Queues a message for this client alone; it is written at the end of the worker's turn.
    pub(crate) fn send_message(&mut self, local: &mut WorkerLocal, message: &OwnedMessage) {
        let variant = match self.keeper().is_some() {
            // For a client with kept sessions, `queue` converts all frames.
            true => local.encodings.variant(self.protocol, self.link.framing.engine_io_wire(), None),
            false => self.variant,
        };
        let frame = local.encodings.frame(variant, message);
        self.send_frame(local, frame);
    }

    /// Queues a whole frame. A client whose outbox is full is closed.
    pub(crate) fn send_frame(&mut self, local: &mut WorkerLocal, frame: Bytes) {
        if self.is_closing() || self.has_stopped_writing() {
            // Nothing may follow the close frame in the outbox, or nobody reads it.
            return;
        }
        match self.queue(QueuedBytes::Own(frame), local.websocket.outbox_bytes_max, &mut local.selected) {
            Ok(()) => local.mark_unwritten(self.key.index),
            Err(outbox::OutboxFull) => {
                local.tally.frames_discarded += 1;
                self.handle_overflow(local, SlowCause::OutboxFull);
            }
        }
    }

    /// Puts a frame into the outbox. A full outbox is written first: its frames may only be waiting for the end of the turn,
    /// and only the socket can tell that a client is slow.
    pub(crate) fn queue(
        &mut self,
        frame: QueuedBytes,
        bytes_max: usize,
        selected: &mut Selected,
    ) -> Result<(), outbox::OutboxFull> {
        let frame = match self.rare.as_deref_mut() {
            Some(RareClientState { positions: Some(positions), .. }) => {
                let (events, bytes) = (frame.bytes(), frame.bytes().len() + positions.id_bytes());
                QueuedBytes::Own(self.link.framing.enclose(bytes, |out| positions.amend(events, out)))
            }
            Some(RareClientState { graphql: Some(graphql), .. }) => {
                match self.link.framing.of_operations(graphql, frame.bytes(), selected) {
                    Some(frames) => QueuedBytes::Own(frames),
                    None => return Ok(()),
                }
            }
            Some(RareClientState { socketio: Some(own), .. }) => {
                match self.link.framing.select_for_session(&own.protocol, frame.bytes()) {
                    Some(frames) => QueuedBytes::Own(frames),
                    None => frame,
                }
            }
            _ => frame,
        };
        let Err(outbox::OutboxFull) = self.outbox.push(frame.clone(), bytes_max) else { return Ok(()) };
        let stream = &mut self.link.stream;
        // A socket that fails here fails again at the end of the turn, which ends the connection.
        let _ = self.outbox.flush(|slices| stream.write_vectored(slices));
        self.outbox.push(frame, bytes_max)
    }

    /// Whether this many more bytes may wait for the client. Writes what the socket takes first.
    pub(super) fn has_room(&mut self, bytes: usize, bytes_max: usize) -> bool {
        if self.outbox.bytes() + bytes <= bytes_max {
            return true;
        }
        let stream = &mut self.link.stream;
        // A socket that fails here fails again at the end of the turn, which ends the connection.
        let _ = self.outbox.flush(|slices| stream.write_vectored(slices));
        self.outbox.bytes() + bytes <= bytes_max
    }

    pub(crate) fn send_control(&mut self, local: &mut WorkerLocal, frame: Bytes) {
        if self.is_closing() || self.has_stopped_writing() {
            return;
        }
        if self.outbox.bytes() > local.websocket.outbox_bytes_max + CONTROL_BYTES_MAX {
            // The peer sends pings without reading the answers.
            self.handle_overflow(local, SlowCause::OutboxFull);
            return;
        }
        self.outbox.push_control(frame);
        local.mark_unwritten(self.key.index);
    }

    /// Applies the slow-consumer policy: drops what waits and closes the client with the cause, so that it returns and
    /// recovers from the last publication it received.
    pub(crate) fn handle_overflow(&mut self, local: &mut WorkerLocal, cause: SlowCause) {
        if self.is_closing() {
            return;
        }
        if self.is_finishing() {
            return self.handle_overflow_while_finishing(local);
        }
        local.tally.frames_discarded += self.outbox.discard_waiting() as u64;
        // Closed at once: the session's further messages would follow a gap.
        let disconnect = cause.disconnect();
        self.begin_close(local, &disconnect);
        self.session.handle_disconnect(disconnect);
        self.perform(local);
    }

    /// Writes what waits, as much as the socket takes.
    pub(crate) fn flush(&mut self, local: &mut WorkerLocal) -> Result<(), DropReason> {
        self.flush_outbox(local)?;
        // Remaining room in the socket is for newest values, a few at a time.
        let mut quantum = QUANTUM_BYTES;
        while self.rare.is_some() && !self.is_stalled() && !self.is_closing() && !self.has_stopped_writing() {
            if !self.refill(local, quantum) {
                break;
            }
            self.flush_outbox(local)?;
            quantum = (2 * quantum).min(QUANTUM_BYTES_MAX);
        }
        Ok(())
    }

    fn flush_outbox(&mut self, local: &mut WorkerLocal) -> Result<(), DropReason> {
        let stream = &mut self.link.stream;
        let flushed = self.outbox.flush(|slices| stream.write_vectored(slices));
        let flushed = flushed.and_then(|written| Ok((written, stream.flush()?)));
        let (written, transport_empty) = match flushed {
            Ok(flushed) => flushed,
            Err(error) => return self.handle_unwritable(local, error.kind()),
        };
        let sent = self.link.stream.take_sent(written);
        local.tally.bytes_out += written as u64;
        if self.outbox.is_empty() && transport_empty {
            self.stalled_since = None;
            local.mark_written(self.key.index);
            if let Some(ticket) = self.awaits_room.take() {
                let outcome = Outcome { ticket, result: OutcomeResult::Room };
                local.inbox.push(WorkerEvent::Outcome(self.key, outcome));
            }
            match self.incoming {
                Incoming::Nothing if self.is_closing() => return Err(DropReason::Closed),
                // Tells the peer that nothing follows. Its end of the stream, or the deadline, is awaited.
                Incoming::Discarded if self.is_closing() => self.link.stream.shut_down_writing(),
                _ => {}
            }
        } else if sent > 0 || self.stalled_since.is_none() {
            self.stalled_since = Some(local.now);
            local.schedule(self);
        }
        Ok(())
    }
}

/// The bytes of control frames allowed beyond a full outbox.
const CONTROL_BYTES_MAX: usize = 4 << 10;
