//! The server makes subscribers of clients. Whoever asked for it is told once each of them is live: what is published after
//! that reaches them.

use std::sync::Arc;

use gateway_core::effect::ServerSubscription;
use rustc_hash::FxHashMap;
use shared::command::Since;
use shared::error::ErrorCode;

use crate::client::Client;
use crate::node::control::ControlTarget;
use crate::worker::Worker;
use crate::worker::inbox::ActTally;

/// Subscriptions that are not live yet and that somebody waits for, by their client's place in the table. Each ends with
/// what its client waits for, or with the client.
#[derive(Debug, Default)]
pub(crate) struct PendingSubscriptions(FxHashMap<u32, Vec<(Box<str>, ActTally)>>);

impl PendingSubscriptions {
    /// Tells of each of the client's that is live now, or that has come to nothing.
    pub(super) fn look_at(&mut self, client: &Client) {
        if self.0.is_empty() {
            return;
        }
        let Some(waiting) = self.0.get_mut(&client.key.index) else { return };
        waiting.retain(|(channel, acted)| {
            let is_settled = client.session.is_settled(channel);
            if is_settled.is_none() {
                acted.fail();
            }
            is_settled == Some(false)
        });
        if waiting.is_empty() {
            self.forget(client.key.index);
        }
    }

    /// The client has gone, and nobody else is to have what was to be its.
    pub(super) fn forget(&mut self, index: u32) {
        self.0.remove(&index);
        if self.0.is_empty() {
            self.0 = FxHashMap::default();
        }
    }
}

impl Worker {
    pub(super) fn subscribe(
        &mut self,
        target: &ControlTarget,
        wanted: &Arc<(ServerSubscription, Option<Since>)>,
        acted: &ActTally,
    ) {
        let (subscription, since) = &**wanted;
        acted.add(self.for_each_of(target, |client, local| {
            match client.session.handle_subscribe(local.now, subscription.clone(), since.clone()) {
                // Whoever made it may wait for it, too.
                Ok(()) | Err(ErrorCode::AlreadySubscribed) => {
                    let waiting = local.awaited.0.entry(client.key.index).or_default();
                    waiting.push((subscription.channel.clone(), acted.clone()));
                }
                Err(error) => {
                    tracing::debug!(client = %client.session.client(), ?error, "not subscribed by the server");
                    match error {
                        ErrorCode::LimitExceeded => acted.fail_full(),
                        _ => acted.fail(),
                    }
                }
            }
        }));
    }
}
