//! The register of nodes: each node stores its description with a lease, and readers remove the expired ones.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use redis::Value;

use super::RedisBroker;
use super::publish_script::unexpected;
use super::redis_link::OpenLink;
use super::script;
use crate::broker::BrokerError;
use crate::broker::measure::Operation;
use crate::broker::shards::collect_answers::gather;

impl RedisBroker {
    pub(super) async fn announce_node(
        &self,
        node: &str,
        description: Bytes,
        lease: Duration,
    ) -> Result<Vec<Bytes>, BrokerError> {
        self.exchange(node, &description, lease).await
    }

    pub(super) async fn read_nodes(&self) -> Result<Vec<Bytes>, BrokerError> {
        self.exchange("", b"", Duration::ZERO).await
    }

    pub(super) async fn retire_node(&self, node: &str) -> Result<(), BrokerError> {
        let mut pipeline = redis::pipe();
        for [leases, descriptions] in self.keys.announcements() {
            pipeline.cmd("ZREM").arg(leases).arg(node);
            pipeline.cmd("HDEL").arg(descriptions).arg(node);
        }
        self.link.call_many(Operation::Nodes, &pipeline).await.map(|_| ())
    }

    /// Exchanges announcements with every copy of the register. A description that several copies return counts once.
    async fn exchange(
        &self,
        node: &str,
        description: &[u8],
        lease: Duration,
    ) -> Result<Vec<Bytes>, BrokerError> {
        let places = self.keys.announcements();
        let exchanges = places.iter().map(|keys| self.exchange_at(keys, node, description, lease));
        let mut named = HashSet::new();
        let given = gather(exchanges, self.timeout / 8).await?;
        Ok(given.into_iter().flatten().filter(|description| named.insert(description.clone())).collect())
    }

    async fn exchange_at(
        &self,
        keys: &[String; 2],
        node: &str,
        description: &[u8],
        lease: Duration,
    ) -> Result<Vec<Bytes>, BrokerError> {
        let [leases, descriptions] = keys;
        let lease = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        let fill = |command: &mut redis::Cmd, _: &OpenLink| {
            command.arg(2).arg(leases).arg(descriptions).arg(node).arg(lease).arg(description);
        };
        let Value::Array(descriptions) =
            self.link.eval(Operation::Nodes, &script::ANNOUNCE, leases, fill).await?
        else {
            return Err(unexpected("announce"));
        };
        let descriptions = descriptions.into_iter().map(|description| match description {
            Value::BulkString(bytes) => Ok(Bytes::from(bytes)),
            _ => Err(unexpected("announce")),
        });
        descriptions.collect()
    }
}
