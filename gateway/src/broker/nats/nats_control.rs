//! Messages between nodes, beside publications: for all nodes or for one. Each receiver acknowledges them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::NatsBroker;
use super::nats_config::NatsConnectError;
use super::nats_link::{NatsLink, is_unheard};
use super::nats_names::StreamKind;
use crate::broker::measure::Operation;
use crate::broker::{BrokerError, BrokerEvents};

/// How long to wait for nodes that do not answer: they may be gone.
const HEARD_WITHIN: Duration = Duration::from_millis(500);

/// The most nodes whose answers are awaited.
const NODES_MAX: usize = 4_096;

impl NatsBroker {
    /// Sends a message to all nodes. Returns the number of nodes that received it.
    pub(super) async fn send_to_all_nodes(&self, message: Bytes) -> Result<u32, BrokerError> {
        let began = Instant::now();
        self.streams.ready(StreamKind::State).await?;
        let leases = self.names.lease(None);
        let nodes = self.jetstream.subjects(&self.link, &self.names.stream(StreamKind::State), &leases).await;
        let nodes = nodes.map_err(|failed| self.state_failed(failed))?.len().clamp(1, NODES_MAX);
        let mut answers = self.link.send_to_all(self.names.control(), message, NODES_MAX).await?;
        let deadline = began + HEARD_WITHIN.min(self.timeout);
        let mut receivers = 0;
        while receivers < nodes
            && let Some(answer) = answers.next_by(deadline).await
            && !is_unheard(&answer)
        {
            receivers += 1;
        }
        if receivers == 0 {
            self.link.connection()?;
        }
        self.metrics.observe_round_trip(Operation::Control, began.elapsed());
        Ok(u32::try_from(receivers).unwrap_or(u32::MAX))
    }

    /// Sends a message to one node. Returns the number of nodes that received it: 0 or 1.
    pub(super) async fn send_to_node(&self, node: &str, message: Bytes) -> Result<u32, BrokerError> {
        let began = Instant::now();
        let answer = self.link.ask(self.names.node_messages(node), None, message).await?;
        self.metrics.observe_round_trip(Operation::Control, began.elapsed());
        Ok(u32::from(!is_unheard(&answer)))
    }
}

/// Receives and acknowledges the messages of a subject until the handle is dropped.
pub(super) async fn listen(
    link: Arc<NatsLink>,
    subject: String,
    events: Arc<dyn BrokerEvents>,
    take: fn(&dyn BrokerEvents, Bytes),
) -> Result<AbortOnDropHandle<()>, NatsConnectError> {
    let subscribed = link.client.subscribe(subject).await;
    let mut messages = subscribed.map_err(|error| NatsConnectError(error.to_string()))?;
    let hearing = async move {
        while let Some(message) = messages.next().await {
            take(&*events, message.payload);
            if let Some(reply) = message.reply {
                // If this fails, the sender misses the acknowledgement.
                let _ = link.send(reply, Bytes::new()).await;
            }
        }
    };
    Ok(AbortOnDropHandle::new(tokio::spawn(hearing)))
}
