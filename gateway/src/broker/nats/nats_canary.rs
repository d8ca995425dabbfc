//! The canary, by which a node proves that it can do its work: a publication in a channel of its own, which is stored,
//! comes back and is read.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use gateway_core::history::{HistoryFilter, Retention};
use shared::channel::{CHANNEL_BYTES_MAX, Channel};
use shared::publication::{Payload, Publication};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::NatsBroker;
use super::append::AppendRequest;
use super::block::Block;
use super::nats_config::NatsConnectError;
use super::nats_link::NatsLink;
use super::nats_names::NatsNames;
use crate::broker::{BrokerError, PublishRequest};

/// The retention of canaries.
const RETENTION: Retention = Retention::new(1, Duration::from_secs(30));

/// This node's own channel, and the number of canaries received.
#[derive(Debug)]
pub(super) struct Canary {
    channel: Channel,
    returned: watch::Receiver<u64>,
    _task: AbortOnDropHandle<()>,
}

impl Canary {
    pub(super) async fn start(
        link: &Arc<NatsLink>,
        names: &NatsNames,
        node: &str,
    ) -> Result<Self, NatsConnectError> {
        // Node names consist of characters that are allowed in channel names.
        let name = format!("canary/{node}");
        let channel = Channel::parse(&name, CHANNEL_BYTES_MAX)
            .or_else(|_| Channel::parse("canary", CHANNEL_BYTES_MAX))
            .map_err(|error| NatsConnectError(error.to_string()))?;
        let subscribed = link.client.subscribe(names.subscription(&channel)).await;
        let mut messages = subscribed.map_err(|error| NatsConnectError(error.to_string()))?;
        let (sender, returned) = watch::channel(0_u64);
        let task = tokio::spawn(async move {
            while let Some(message) = messages.next().await {
                if let Ok(block) = Block::decode(message.payload) {
                    sender.send_modify(|returned| {
                        *returned = returned.wrapping_add(block.entries.len() as u64)
                    });
                }
            }
        });
        Ok(Self { channel, returned, _task: AbortOnDropHandle::new(task) })
    }
}

impl NatsBroker {
    pub(super) async fn send_canary(&self) -> Result<Duration, BrokerError> {
        let start = Instant::now();
        for (what, link) in
            [("commands", &self.link), ("reads", &self.reads), ("subscriptions", &self.listener)]
        {
            link.connected().await.map_err(|error| match error {
                BrokerError::Unreachable(reason) => {
                    BrokerError::Unreachable(format!("for {what}: {reason}").into())
                }
                other => other,
            })?;
        }
        self.has_lease()?;
        self.streams.look_again().await?;
        let mut returned = self.canary.returned.clone();
        returned.borrow_and_update();
        let channel = self.canary.channel.clone();
        let publication = Publication::new(Payload::text("canary"));
        let request = PublishRequest {
            channel: channel.clone(),
            publication,
            retention: RETENTION,
            idempotency: None,
            version: None,
        };
        self.append(&channel, &[AppendRequest::new(&request)], start + self.timeout).await?;
        match tokio::time::timeout(self.timeout, returned.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(BrokerError::Unreachable("the link has ended".into())),
            Err(_) => {
                let reason = "a publication of this node was stored, but not delivered to this node".into();
                return Err(BrokerError::Unanswered(reason));
            }
        }
        let filter = HistoryFilter { since: None, limit: 1, reverse: true, enough_bytes: None };
        if self.read_history(channel, filter, RETENTION).await?.publications.is_empty() {
            return Err(BrokerError::Unexpected("a stored publication is not in the history".into()));
        }
        let took = start.elapsed();
        self.metrics.canary_micros.set(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        Ok(took)
    }
}
