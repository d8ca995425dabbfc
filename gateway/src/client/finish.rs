//! What a client asked for before it left is carried out all the same: its end waits for that, but not for ever.
//!
//! A client that says goodbye, ends its stream or is lost stops being a subscriber at once. Its commands go on in their
//! order, those included that still lie in its socket, until all are done or [`Finishing::until`] has come. Answers are
//! written as long as anyone may read them. Then a goodbye is answered.

use std::io;

use gateway_core::effect::{Outcome, OutcomeResult};
use shared::disconnect::Disconnect;
use shared::moment::Moment;

use crate::client::framing::CloseMessage;
use crate::client::{Client, Gone, Incoming, Outbox};
use crate::telemetry::connection_metrics::{CLOSE_BY_PEER, CLOSE_LOST};
use crate::worker::WorkerLocal;
use crate::worker::inbox::WorkerEvent;

/// The client has left, and its commands are still in flight.
#[derive(Debug)]
pub(super) struct Finishing {
    /// What is not carried out by then is given up.
    until: Moment,
    leaving: Departure,
    mute: Option<StoppedWriting>,
}

/// How a client left.
#[derive(Clone, Copy, Debug)]
pub(super) enum Departure {
    /// With a goodbye, which is answered with the same code (RFC 6455 §5.5.1).
    Goodbye(Option<u16>),
    /// Its stream ended or broke without one.
    Lost(io::ErrorKind),
}

/// Why nothing more is written to a client that has left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum StoppedWriting {
    /// Its socket takes nothing any more.
    Unreachable,
    /// It did not read the answers, and some were given up: those after them would come behind a hole.
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

    /// Whether nothing that is said now would reach the client.
    pub(super) fn is_mute(&self) -> bool {
        self.finishing.as_ref().is_some_and(|finishing| finishing.mute.is_some())
    }

    /// The client leaves with commands in flight.
    pub(super) fn begin_finishing(&mut self, local: &mut WorkerLocal, leaving: Departure) {
        match &mut self.finishing {
            // Lost for writing, it may still be read from, and its goodbye may come.
            Some(finishing) => finishing.leaving = leaving,
            None => {
                self.leave_all(local, &Disconnect::CONNECTION_CLOSED);
                let until = local.now + local.websocket.finish_timeout();
                self.finishing = Some(Box::new(Finishing { until, leaving, mute: None }));
                // What it has asked for besides waits no longer for it to take a long answer.
                if let Some(ticket) = self.awaits_room.take() {
                    let outcome = Outcome { ticket, result: OutcomeResult::Room };
                    local.inbox.push(WorkerEvent::Outcome(self.key, outcome));
                }
            }
        }
        local.schedule(self);
    }

    /// The stream brings nothing more: it has ended, or it is broken.
    pub(super) fn handle_end_of_stream(
        &mut self,
        local: &mut WorkerLocal,
        how: io::ErrorKind,
    ) -> Result<(), Gone> {
        if self.is_closing() {
            return Err(Gone::Closed);
        }
        self.incoming = Incoming::Nothing;
        if self.finishing.is_none() {
            if !self.session.is_busy() && self.outbox.is_empty() {
                return Err(Gone::Lost(how));
            }
            self.begin_finishing(local, Departure::Lost(how));
        }
        self.finish(local)
    }

    /// The socket takes nothing more. What the client has sent before that may still lie in it.
    pub(crate) fn handle_unwritable(
        &mut self,
        local: &mut WorkerLocal,
        how: io::ErrorKind,
    ) -> Result<(), Gone> {
        if self.is_closing() {
            return Err(Gone::Lost(how));
        }
        self.outbox = Outbox::default();
        self.stalled_since = None;
        if self.finishing.is_none() {
            self.begin_finishing(local, Departure::Lost(how));
        }
        if let Some(finishing) = &mut self.finishing {
            finishing.mute = Some(StoppedWriting::Unreachable);
        }
        if self.incoming == Incoming::Open && !self.paused {
            local.unread.push(self.key.index);
        }
        self.finish(local)
    }

    /// A client that has left does not read its answers. What it asked for is done nevertheless.
    pub(super) fn handle_overflow_while_finishing(&mut self, local: &mut WorkerLocal) {
        let Some(finishing) = &mut self.finishing else { return };
        finishing.mute.get_or_insert(StoppedWriting::Behind);
        local.tally.frames_discarded += self.outbox.discard_waiting() as u64;
    }

    /// Ends a client that has left, once all is done that it had asked for.
    pub(crate) fn finish(&mut self, local: &mut WorkerLocal) -> Result<(), Gone> {
        if !self.is_finishing() || self.incoming != Incoming::Nothing || self.session.is_busy() {
            return Ok(());
        }
        self.conclude(local)
    }

    /// The time for that is over.
    pub(super) fn give_up(&mut self, local: &mut WorkerLocal) -> Result<(), Gone> {
        local.tally.commands_given_up += self.session.unfinished() as u64;
        if self.incoming == Incoming::Open {
            // Nobody counts what was never read, but it is not nothing.
            local.tally.commands_given_up += 1;
            self.incoming = Incoming::Nothing;
        }
        if let Some(suppressed) = local.given_up_log.admit() {
            tracing::warn!(client = %self.session.client(), suppressed, "given up what a client asked for before it left");
        }
        self.conclude(local)
    }

    fn conclude(&mut self, local: &mut WorkerLocal) -> Result<(), Gone> {
        let Some(finishing) = &self.finishing else { return Ok(()) };
        let (leaving, mute) = (finishing.leaving, finishing.mute);
        match leaving {
            Departure::Goodbye(_) if mute == Some(StoppedWriting::Unreachable) => {
                self.note_closing(local, CLOSE_BY_PEER);
                Err(Gone::Closed)
            }
            Departure::Goodbye(code) => {
                let goodbye = match mute {
                    // In place of its own code: answers are missing before this.
                    Some(_) => self.goodbye(local, CloseMessage::Closed(&Disconnect::SLOW)),
                    None => self.goodbye(local, CloseMessage::Answered(code)),
                };
                self.outbox.push_last(goodbye);
                self.start_closing(local, CLOSE_BY_PEER);
                Ok(())
            }
            Departure::Lost(_) if mute.is_none() && !self.outbox.is_empty() => {
                // Who has only ended its own side reads the last answers.
                self.start_closing(local, CLOSE_LOST);
                Ok(())
            }
            Departure::Lost(how) => Err(Gone::Lost(how)),
        }
    }
}
