//! Carries out a client's commands after it has left: its end waits for them, up to a deadline.
//!
//! A client that sends a close frame, ends its stream or is lost stops being a subscriber at once. Its commands, including
//! those still unread in its socket, are carried out in order until all are done or [`Finishing::until`] has come. Answers
//! are written as long as the client may read them. Then its close frame is answered.

use std::io;

use gateway_core::effect::{Outcome, OutcomeResult};
use shared::disconnect::Disconnect;
use shared::moment::Moment;

use crate::client::framing::CloseMessage;
use crate::client::{Client, DropReason, Incoming, Outbox};
use crate::telemetry::connection_metrics::{CLOSE_BY_PEER, CLOSE_LOST};
use crate::worker::WorkerLocal;
use crate::worker::inbox::WorkerEvent;

/// The state of a client that has left while its commands are in flight.
#[derive(Debug)]
pub(super) struct Finishing {
    /// Commands not carried out by then are given up.
    until: Moment,
    leaving: Departure,
    stopped_writing: Option<StoppedWriting>,
}

/// How a client left.
#[derive(Clone, Copy, Debug)]
pub(super) enum Departure {
    /// With a close frame, which is answered with the same code (RFC 6455 §5.5.1).
    CloseFrame(Option<u16>),
    /// Its stream ended or broke without a close frame.
    Lost(io::ErrorKind),
}

/// Why nothing more is written to a client that has left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum StoppedWriting {
    /// The socket takes no more bytes.
    Unreachable,
    /// The client did not read its answers, and some were dropped: later ones would follow a gap.
    Behind,
}

impl Finishing {
    pub(super) fn until(&self) -> Moment {
        self.until
    }
}

impl Client {
    pub(crate) fn is_finishing(&self) -> bool {
        self.finishing.is_some() && !self.is_closing()
    }

    /// Whether nothing written now would reach the client.
    pub(super) fn has_stopped_writing(&self) -> bool {
        self.finishing.as_ref().is_some_and(|finishing| finishing.stopped_writing.is_some())
    }

    /// Records that the client leaves with commands in flight.
    pub(super) fn begin_finishing(&mut self, local: &mut WorkerLocal, leaving: Departure) {
        match &mut self.finishing {
            // A client lost while writing may still be readable, and its close frame may come.
            Some(finishing) => finishing.leaving = leaving,
            None => {
                self.leave_all(local, &Disconnect::CONNECTION_CLOSED);
                let until = local.now + local.websocket.finish_timeout();
                self.finishing = Some(Box::new(Finishing { until, leaving, stopped_writing: None }));
                // Its other commands no longer wait until it has taken a long answer.
                if let Some(ticket) = self.awaits_room.take() {
                    let outcome = Outcome { ticket, result: OutcomeResult::Room };
                    local.inbox.push(WorkerEvent::Outcome(self.key, outcome));
                }
            }
        }
        local.schedule(self);
    }

    /// Handles the end of the stream: it has ended or is broken.
    pub(super) fn handle_end_of_stream(
        &mut self,
        local: &mut WorkerLocal,
        how: io::ErrorKind,
    ) -> Result<(), DropReason> {
        if self.is_closing() {
            return Err(DropReason::Closed);
        }
        self.incoming = Incoming::Nothing;
        if self.finishing.is_none() {
            if !self.session.is_busy() && self.outbox.is_empty() {
                return Err(DropReason::Lost(how));
            }
            self.begin_finishing(local, Departure::Lost(how));
        }
        self.finish(local)
    }

    /// Handles a socket that takes no more bytes. Commands that the client sent before may still be in it.
    pub(crate) fn handle_unwritable(
        &mut self,
        local: &mut WorkerLocal,
        how: io::ErrorKind,
    ) -> Result<(), DropReason> {
        if self.is_closing() {
            return Err(DropReason::Lost(how));
        }
        self.outbox = Outbox::default();
        self.stalled_since = None;
        if self.finishing.is_none() {
            self.begin_finishing(local, Departure::Lost(how));
        }
        if let Some(finishing) = &mut self.finishing {
            finishing.stopped_writing = Some(StoppedWriting::Unreachable);
        }
        if self.incoming == Incoming::Open && !self.paused {
            local.unread.push(self.key.index);
        }
        self.finish(local)
    }

    /// Drops the answers of a client that has left and does not read them. Its commands are carried out nevertheless.
    pub(super) fn handle_overflow_while_finishing(&mut self, local: &mut WorkerLocal) {
        let Some(finishing) = &mut self.finishing else { return };
        finishing.stopped_writing.get_or_insert(StoppedWriting::Behind);
        local.tally.frames_discarded += self.outbox.discard_waiting() as u64;
    }

    /// Ends a client that has left, once all its commands are carried out.
    pub(crate) fn finish(&mut self, local: &mut WorkerLocal) -> Result<(), DropReason> {
        if !self.is_finishing() || self.incoming != Incoming::Nothing || self.session.is_busy() {
            return Ok(());
        }
        self.conclude(local)
    }

    /// Ends a client that has left, because the deadline has passed.
    pub(super) fn give_up(&mut self, local: &mut WorkerLocal) -> Result<(), DropReason> {
        local.tally.commands_given_up += self.session.unfinished() as u64;
        if self.incoming == Incoming::Open {
            // Commands that were never read cannot be counted; they count as one.
            local.tally.commands_given_up += 1;
            self.incoming = Incoming::Nothing;
        }
        if let Some(suppressed) = local.given_up_log.admit() {
            tracing::warn!(
                client = %self.session.client(), suppressed,
                "commands of a client that has left were abandoned"
            );
        }
        self.conclude(local)
    }

    fn conclude(&mut self, local: &mut WorkerLocal) -> Result<(), DropReason> {
        let Some(finishing) = &self.finishing else { return Ok(()) };
        let (leaving, stopped_writing) = (finishing.leaving, finishing.stopped_writing);
        match leaving {
            Departure::CloseFrame(_) if stopped_writing == Some(StoppedWriting::Unreachable) => {
                self.note_closing(local, CLOSE_BY_PEER);
                Err(DropReason::Closed)
            }
            Departure::CloseFrame(code) => {
                let close_message = match stopped_writing {
                    // Sent in place of the client's own code, because answers before this are missing.
                    Some(_) => self.close_message(local, CloseMessage::Closed(&Disconnect::SLOW)),
                    None => self.close_message(local, CloseMessage::Answered(code)),
                };
                self.outbox.push_last(close_message);
                self.start_closing(local, CLOSE_BY_PEER);
                Ok(())
            }
            Departure::Lost(_) if stopped_writing.is_none() && !self.outbox.is_empty() => {
                // A client that has only ended its own side reads the last answers.
                self.start_closing(local, CLOSE_LOST);
                Ok(())
            }
            Departure::Lost(how) => Err(DropReason::Lost(how)),
        }
    }
}
