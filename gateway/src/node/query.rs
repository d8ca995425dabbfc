//! Reads of a channel: its history and its presence.

use std::collections::BTreeMap;

use gateway_core::effect::PresenceStats;
use gateway_core::history::{HistoryFilter, HistoryPage, Retention};
use shared::channel::Channel;
use shared::id::ClientId;
use shared::publication::ClientInfo;

use crate::broker::{BrokerError, Effective};
use crate::node::Node;

impl Node {
    pub async fn history(
        &self,
        channel: Channel,
        filter: HistoryFilter,
        retention: Retention,
    ) -> Result<HistoryPage, BrokerError> {
        self.note_history_read(&channel);
        self.broker.history(channel, filter, retention).await
    }

    pub async fn remove_history(&self, channel: Channel) -> Result<(), BrokerError> {
        let removed = self.broker.remove_history(channel.clone()).await;
        self.forget_catch_up(&channel);
        removed
    }

    /// Adds a client to a channel's presence. Sent by the call itself, so that a later removal comes later.
    pub(crate) fn enter_presence(&self, channel: Channel, info: ClientInfo) -> Effective {
        if let Some(webhooks) = &self.webhooks {
            webhooks.entered(channel.as_str(), &info);
        }
        self.presence.add(channel, info)
    }

    pub(crate) fn leave_presence(&self, channel: Channel, client: ClientId) {
        if let Some(webhooks) = &self.webhooks {
            webhooks.left(channel.as_str(), client);
        }
        self.presence.remove(channel, client);
    }

    pub async fn presence(&self, channel: Channel) -> Result<BTreeMap<ClientId, ClientInfo>, BrokerError> {
        self.presence.clients(channel).await
    }

    pub async fn presence_stats(&self, channel: Channel) -> Result<PresenceStats, BrokerError> {
        self.presence.stats(channel).await
    }
}
