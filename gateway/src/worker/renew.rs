//! Applies a configuration that was reloaded.
//!
//! Sessions share the configuration. A session takes over the new one when it is next served, so a reload costs each client
//! only a comparison of two pointers, and every client has the new configuration by its next ping. Clients of an app that
//! was removed are closed then, too, spread over time as their pings are.

use std::sync::Arc;

use gateway_core::channel_rules::ChannelRules;
use gateway_core::session::Context;

use crate::worker::{Worker, WorkerLocal};

/// The contexts of sessions, which depend on the client's transport.
#[derive(Clone, Debug)]
pub(crate) struct Contexts {
    pub(crate) usual: Arc<Context>,
    /// For sessions over Engine.IO.
    pub(crate) engine_io: Arc<Context>,
}

impl WorkerLocal {
    /// Returns the context of a client's session.
    pub(crate) fn context_of(&self, over_engine_io: bool) -> &Arc<Context> {
        if over_engine_io { &self.engine_io } else { &self.context }
    }

    /// Moves the counts of subscriptions to the namespaces of new rules.
    fn recount_subscriptions(&mut self, rules: &ChannelRules) {
        for channel in self.hub.channels() {
            let before = self.context.rules.namespace_id(channel.as_str());
            let namespace = rules.namespace_id(channel.as_str());
            if namespace != before {
                let subscriptions = self.hub.subscribers(channel.as_str()) as i64;
                self.tally.namespaces.of(before).subscriptions -= subscriptions;
                self.tally.namespaces.of(namespace).subscriptions += subscriptions;
            }
        }
    }
}

impl Worker {
    pub(super) fn renew(&mut self, Contexts { usual, engine_io }: Contexts) {
        self.local.renewed = true;
        // Publications that wait leave by their windows, whatever is paced from now on.
        self.paced |= usual.rules.all().any(|options| options.flush_interval_ms > 0);
        self.local.recount_subscriptions(&usual.rules);
        self.local.context = usual;
        self.local.engine_io = engine_io;
    }

    /// Gives the current context to a client that is about to be served.
    pub(super) fn renew_client(&mut self, index: usize) {
        if let Some(client) = self.clients.get_mut(index) {
            let context = self.local.context_of(client.is_over_engine_io());
            client.session.set_context(context);
        }
    }
}
