//! Events that application servers send to clients of Socket.IO, and commands to those clients.

use std::time::Duration;

use gateway_core::effect::Overrides;
use shared::channel::Channel;
use shared::error::ErrorCode;
use shared::publication::Publication;

use crate::broker::{BrokerError, Idempotency, LeaseOutcome, LeaseRequest, PublishRequest};
use crate::node::Node;
use crate::node::node_message::Subscribing;

impl Node {
    /// Returns the request that publishes an event, if the channel accepts it. An event for a part of the channel is kept in
    /// history only where sessions are kept: elsewhere a later reader could not know who was in which room.
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
    /// Takes the lease on a task that one node does for all, if no other holds it: see
    /// [`Broker::acquire_lease`](crate::broker::Broker::acquire_lease).
    pub(crate) async fn acquire_cluster_lease(
        &self,
        what: &str,
        lease: Duration,
        patience: Duration,
        done: &str,
    ) -> Result<LeaseOutcome, BrokerError> {
        self.broker.acquire_lease(LeaseRequest { what, node: &self.id.0, lease, patience, done }).await
    }
}

impl Subscribing {
    /// A subscription to a channel, with defaults for everything else.
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
