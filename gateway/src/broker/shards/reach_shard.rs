//! What concerns nodes and not channels, with whatever servers there are.
//!
//! A message for all nodes goes over every server, and each node takes it once: so it arrives wherever sender and receiver have
//! one server in common. In each server messages keep their order, so they do at a receiver, unless its link to one is lost
//! while a message is still on its way over another. A message for one node goes over one server, always the same for
//! the same node, and over the next only if that has nobody who hears it, or does not answer.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;

use super::ShardedBroker;
use super::collect_answers::{gather, one_after_another};
use crate::broker::{Broker, BrokerError, TurnLease, TurnRequest};

impl ShardedBroker {
    /// Returns how many nodes heard it over the server where most did.
    pub(super) async fn send_to_all(&self, message: Bytes) -> Result<u32, BrokerError> {
        let written = self.numbers.write(&message);
        let sent = self.shards.iter().map(|shard| shard.broker.send_control(written.clone()));
        let heard = gather(sent, self.patience).await?;
        Ok(heard.into_iter().max().unwrap_or_default())
    }

    pub(super) async fn tell_one(&self, node: String, message: Bytes) -> Result<u32, BrokerError> {
        let written = self.numbers.write(&message);
        let requests = self.shards.ranked(&node).map(|shard| shard.broker.tell_node(&node, written.clone()));
        one_after_another(requests, self.patience).await
    }

    /// A turn is at one server, and at the next while that cannot be asked. So two nodes may have it for a while, one of which
    /// reaches a server that the other does not.
    pub(super) async fn take_turn_somewhere(
        &self,
        taking: TurnRequest<'_>,
    ) -> Result<TurnLease, BrokerError> {
        let mut failed = None;
        for shard in self.shards.ranked(taking.what) {
            match shard.broker.take_turn(taking).await {
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

    /// Those that any server names.
    pub(super) async fn nodes_anywhere(&self) -> Result<Vec<Bytes>, BrokerError> {
        let requests = self.shards.iter().map(|shard| shard.broker.nodes());
        Ok(once_each(gather(requests, self.patience).await?))
    }
}

/// What several servers name alike is there once.
fn once_each(named: Vec<Vec<Bytes>>) -> Vec<Bytes> {
    let mut known = HashSet::new();
    named.into_iter().flatten().filter(|description| known.insert(description.clone())).collect()
}
