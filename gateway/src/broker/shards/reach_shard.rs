//! Requests that concern nodes rather than channels, over whichever servers can be reached.
//!
//! A message for all nodes goes over every server, and each node takes it once: so it arrives wherever sender and
//! receiver have one server in common. Each server keeps the order of messages, so a receiver gets them in order, unless
//! its link to one server is lost while a message is still on its way over another. A message for one node goes over one
//! server, always the same for the same node, and over the next only if nobody receives it there or the server does not
//! answer.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;

use super::ShardedBroker;
use super::collect_answers::{gather, one_after_another};
use crate::broker::{Broker, BrokerError, LeaseOutcome, LeaseRequest};

impl ShardedBroker {
    /// Sends to all nodes. Returns the number of receivers at the server that had most.
    pub(super) async fn send_to_all(&self, message: Bytes) -> Result<u32, BrokerError> {
        let written = self.numbers.write(&message);
        let sent = self.shards.iter().map(|shard| shard.broker.send_control(written.clone()));
        let received = gather(sent, self.patience).await?;
        Ok(received.into_iter().max().unwrap_or_default())
    }

    pub(super) async fn send_to_node(&self, node: String, message: Bytes) -> Result<u32, BrokerError> {
        let written = self.numbers.write(&message);
        let requests = self.shards.ranked(&node).map(|shard| shard.broker.tell_node(&node, written.clone()));
        one_after_another(requests, self.patience).await
    }

    /// Acquires a lease at the server that has it, or at the next while that server cannot be asked. So two nodes may hold a
    /// lease for a while if one of them reaches a server that the other does not.
    pub(super) async fn acquire_lease_anywhere(
        &self,
        taking: LeaseRequest<'_>,
    ) -> Result<LeaseOutcome, BrokerError> {
        let mut failed = None;
        for shard in self.shards.ranked(taking.what) {
            match shard.broker.acquire_lease(taking).await {
                Err(error @ (BrokerError::Unreachable(_) | BrokerError::Timeout(_))) => failed = Some(error),
                answer => return answer,
            }
        }
        Err(failed.unwrap_or_else(|| BrokerError::Unreachable("there is no Redis".into())))
    }

    pub(super) async fn announce_everywhere(
        &self,
        node: &str,
        description: Bytes,
        lease: Duration,
    ) -> Result<Vec<Bytes>, BrokerError> {
        let announced =
            self.shards.iter().map(|shard| shard.broker.announce(node, description.clone(), lease));
        Ok(once_each(gather(announced, self.patience).await?))
    }

    /// Returns the nodes that any server names.
    pub(super) async fn nodes_anywhere(&self) -> Result<Vec<Bytes>, BrokerError> {
        let requests = self.shards.iter().map(|shard| shard.broker.nodes());
        Ok(once_each(gather(requests, self.patience).await?))
    }
}

/// Removes the repeats of descriptions that several servers return.
fn once_each(named: Vec<Vec<Bytes>>) -> Vec<Bytes> {
    let mut known = HashSet::new();
    named.into_iter().flatten().filter(|description| known.insert(description.clone())).collect()
}
