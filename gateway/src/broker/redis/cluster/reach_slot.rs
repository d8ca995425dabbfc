//! Requests that concern nodes rather than channels. They go to one master, and the cluster carries them to the others.
//!
//! Each node listens at each master, so it receives a message once per master, and takes it once. Nodes that listen at
//! the master where the message is published certainly receive it. If no node does, or that master does not answer, the
//! message is published at the next.

use bytes::Bytes;

use super::RedisCluster;
use super::slots;
use crate::broker::BrokerError;
use crate::broker::shards::collect_answers::one_after_another;

impl RedisCluster {
    /// Publishes a message for all nodes, or for one. Returns the number of receivers.
    pub(in crate::broker::redis) async fn publish_message(
        &self,
        name: &str,
        message: &[u8],
    ) -> Result<u32, BrokerError> {
        let timeout = self.config.timeout();
        let settled = tokio::time::timeout(timeout, self.settle()).await;
        settled.map_err(|_| BrokerError::Timeout(timeout))?;
        let written: Bytes = self.numbers.write(message);
        let mut parts = self.parts_there();
        if parts.is_empty() {
            return Err(BrokerError::Unreachable(self.looking.trouble()));
        }
        // The same name begins at the same master, so that its messages keep their order.
        let first = usize::from(slots::of_tag(name.as_bytes())) % parts.len();
        parts.rotate_left(first);
        let ways = parts.iter().map(|part| part.master.publish_control(name, &written));
        one_after_another(ways, timeout / 8).await
    }
}
