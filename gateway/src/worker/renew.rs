//! Taking over a configuration that was read again.
//!
//! Sessions share what was read. One that is looked at takes the new one over then: so nobody pays for a reload but by a
//! comparison of two pointers, and every client has it by its next ping. The clients of an app that is gone go then, too: at
//! different times, as their pings are.

use std::sync::Arc;

use gateway_core::channel_rules::ChannelRules;
use gateway_core::session::Context;

use crate::worker::{Worker, WorkerLocal};

/// What sessions go by, which depends on how their clients are reached.
#[derive(Clone, Debug)]
pub(crate) struct Contexts {
    pub(crate) usual: Arc<Context>,
    /// Of those that are reached over Engine.IO.
    pub(crate) engine_io: Arc<Context>,
}

impl WorkerLocal {
    /// What a client's session goes by.
    pub(crate) fn context_of(&self, over_engine_io: bool) -> &Arc<Context> {
        if over_engine_io { &self.engine_io } else { &self.context }
    }

    /// Other rules are about to hold: the subscriptions to each channel are counted where new ones will be.
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
        // What waits already leaves by its own windows, whatever is paced from now on.
        self.paced |= usual.rules.all().any(|options| options.flush_interval_ms > 0);
        self.local.recount_subscriptions(&usual.rules);
        self.local.context = usual;
        self.local.engine_io = engine_io;
    }

    /// Has the client that is about to be served go by what holds now.
    pub(super) fn renew_client(&mut self, index: usize) {
        if let Some(client) = self.clients.get_mut(index) {
            let context = self.local.context_of(client.is_over_engine_io());
            client.session.set_context(context);
        }
    }
}
