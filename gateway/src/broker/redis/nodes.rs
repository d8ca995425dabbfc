//! Which nodes there are: each puts its description down for a time, readers clear away what is over.

use std::time::Duration;

use bytes::Bytes;
use redis::Value;

use super::RedisBroker;
use super::link::Up;
use super::publish::unexpected;
use super::script;
use crate::broker::BrokerError;
use crate::broker::measure::Operation;

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
        pipeline.cmd("ZREM").arg(self.keys.node_leases()).arg(node);
        pipeline.cmd("HDEL").arg(self.keys.node_descriptions()).arg(node);
        self.link.call_many(Operation::Nodes, &pipeline).await.map(|_| ())
    }

    async fn exchange(
        &self,
        node: &str,
        description: &[u8],
        lease: Duration,
    ) -> Result<Vec<Bytes>, BrokerError> {
        let (leases, descriptions) = (self.keys.node_leases(), self.keys.node_descriptions());
        let lease = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        let fill = |command: &mut redis::Cmd, _: &Up| {
            command.arg(2).arg(&leases).arg(&descriptions).arg(node).arg(lease).arg(description);
        };
        let Value::Array(descriptions) = self.link.eval(Operation::Nodes, &script::ANNOUNCE, fill).await?
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
