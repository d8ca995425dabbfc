//! The end of a connection: every way leads through [`Connection::leave_all`] once.

use std::io;

use shared::disconnect::Disconnect;
use shared::framing::websocket;
use shared::moment::Moment;

use crate::connection::{Connection, Gone};
use crate::worker::Local;

/// How long the peer may take to answer a close frame, or to read what was sent before it (RFC 6455 §7.1.1 asks
/// the server to wait, not how long).
const CLOSE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

impl Connection {
    /// Says goodbye: the client leaves all its channels now, and its socket goes when it has answered, or soon.
    pub(crate) fn begin_close(&mut self, local: &mut Local, disconnect: &Disconnect) {
        if self.is_closing() {
            return;
        }
        tracing::debug!(client = %self.session.client(), code = disconnect.code, reason = %disconnect.reason, "closing");
        local.tally.count_close(disconnect);
        self.leave_all(local);
        websocket::encode_disconnect(disconnect, &mut local.scratch);
        let frame = local.scratch.split().freeze();
        // After what was sent before: replies are read before the goodbye. On overflow that has been given up.
        let _ = self.outbox.push(frame.clone(), usize::MAX);
        self.start_closing(local, local.now + CLOSE_TIMEOUT);
    }

    /// The peer says goodbye, first or in answer.
    pub(super) fn handle_peer_close(&mut self, local: &mut Local, code: Option<u16>) {
        self.peer_closed = true;
        if self.is_closing() {
            // The handshake is complete once our own frame is out.
            local.mark_unwritten(self.key.index);
            return;
        }
        local.tally.closed_by_peer += 1;
        self.leave_all(local);
        // The same code back (RFC 6455 §5.5.1).
        websocket::encode_close(code.map(|code| (code, "")), &mut local.scratch);
        let frame = local.scratch.split().freeze();
        let _ = self.outbox.push(frame, usize::MAX);
        self.start_closing(local, local.now + CLOSE_TIMEOUT);
    }

    pub(super) fn handle_end_of_stream(&mut self) -> Gone {
        if self.peer_closed || self.is_closing() {
            Gone::Closed
        } else {
            Gone::Lost(io::ErrorKind::UnexpectedEof.into())
        }
    }

    fn start_closing(&mut self, local: &mut Local, until: Moment) {
        self.closing = Some(until);
        local.mark_unwritten(self.key.index);
        local.wheel_schedule(self);
    }

    /// Stops being a subscriber of anything. Safe to call again.
    pub(crate) fn leave_all(&mut self, local: &mut Local) {
        let client = self.session.client();
        local.leave_all(self.key.index, client);
        self.user_permit = None;
    }

    /// Time has passed: what does that change?
    pub(crate) fn handle_timeout(&mut self, local: &mut Local) -> Result<(), Gone> {
        if self.closing.is_some_and(|until| until <= local.now) {
            return Err(Gone::Closed);
        }
        if self.stalled_since.is_some_and(|since| since + local.write_timeout <= local.now) {
            if self.is_closing() {
                return Err(Gone::Closed);
            }
            self.handle_overflow(local);
        } else if !self.is_closing() {
            self.session.handle_timeout(local.now);
            self.perform(local);
        }
        Ok(())
    }
}
