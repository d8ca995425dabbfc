//! Subscriptions that the server makes. The requester is told once each of them is live: publications after that reach the
//! clients.

use std::sync::Arc;

use gateway_core::effect::ServerSubscription;
use rustc_hash::FxHashMap;
use shared::command::Since;
use shared::error::ErrorCode;

use crate::client::Client;
use crate::node::control::ControlTarget;
use crate::worker::Worker;
use crate::worker::inbox::ActTally;

/// Subscriptions that are not live yet and have a requester waiting, by their client's place in the table. Each ends when
/// the subscription is settled, or with the client.
#[derive(Debug, Default)]
pub(crate) struct PendingSubscriptions(FxHashMap<u32, Vec<(Box<str>, ActTally)>>);

impl PendingSubscriptions {
    /// Reports the client's subscriptions that are live now, or that have failed.
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

    /// Forgets the client at this place, so that the next client there does not inherit its subscriptions.
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
                // The request that made the existing subscription may be waiting for it, too.
                Ok(()) | Err(ErrorCode::AlreadySubscribed) => {
                    let waiting = local.awaited.0.entry(client.key.index).or_default();
                    waiting.push((subscription.channel.clone(), acted.clone()));
                }
                Err(error) => {
                    tracing::debug!(
                        client = %client.session.client(), ?error,
                        "the server could not subscribe a client"
                    );
                    match error {
                        ErrorCode::LimitExceeded => acted.fail_full(),
                        _ => acted.fail(),
                    }
                }
            }
        }));
    }
}
