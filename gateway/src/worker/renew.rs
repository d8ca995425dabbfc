//! Taking over a configuration that was read again.
//!
//! Sessions share what was read. One that is looked at takes the new one over then: so nobody pays for a reload but by a
//! comparison of two pointers, and every client has it by its next ping.

use std::sync::Arc;

use gateway_core::session::Context;

use crate::worker::Worker;

impl Worker {
    pub(super) fn renew(&mut self, context: Arc<Context>) {
        self.local.renewed = true;
        // What waits already leaves by its own windows, whatever is paced from now on.
        self.paced |= context.rules.all().any(|options| options.flush_interval_ms > 0);
        self.local.context = context;
    }

    /// Has the client that is about to be served go by what holds now.
    pub(super) fn renew_client(&mut self, index: usize) {
        if let Some(client) = self.clients.get_mut(index) {
            client.session.set_context(&self.local.context);
        }
    }
}
