//! Events that servers send to clients of Socket.IO, and what servers do to those clients.

use std::time::Duration;

use gateway_core::effect::Overrides;
use shared::channel::Channel;
use shared::error::ErrorCode;
use shared::publication::Publication;

use crate::broker::{BrokerError, Idempotency, PublishRequest, TurnLease, TurnRequest};
use crate::node::Node;
use crate::node::node_message::Subscribing;

impl Node {
    /// What is published, if the channel takes it. What is not for all of the channel is in its history only where sessions
    /// are kept: elsewhere, who was in which room is not known any more when that is read.
    pub(crate) fn event_request(
        &self,
        channel: Channel,
        publication: Publication,
        idempotency: Option<Idempotency>,
    ) -> Result<PublishRequest, ErrorCode> {
        let rules = self.rules();
        let options = rules.options(&channel).ok_or(ErrorCode::UnknownChannel)?;
        if options.keeps_keys() || options.is_polled() {
            return Err(ErrorCode::NotAvailable);
        }
        if !options.publication_data_format.admits(&publication.data) {
            return Err(ErrorCode::BadRequest);
        }
        let retention = options.retention_of(&publication);
        Ok(PublishRequest { channel, publication, retention, idempotency, version: None })
    }
}

impl Node {
    /// Has this node be the only one that does something, if no other is: see [`Broker::take_turn`](crate::broker::Broker::take_turn).
    pub(crate) async fn take_cluster_turn(
        &self,
        what: &str,
        lease: Duration,
        patience: Duration,
        done: &str,
    ) -> Result<TurnLease, BrokerError> {
        self.broker.take_turn(TurnRequest { what, node: &self.id.0, lease, patience, done }).await
    }
}

impl Subscribing {
    /// To a channel, and nothing else said of it.
    pub(crate) fn to(channel: Channel) -> Self {
        Self {
            channel,
            expires_at: None,
            info: None,
            data: None,
            since: None,
            overrides: Overrides::default(),
        }
    }
}
