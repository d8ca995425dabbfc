//! What concerns nodes and not channels: said at one master, from where the cluster carries it to all of them.
//!
//! Each node listens at each master, so it hears a message as often as there are masters, and takes it once. It is heard for
//! certain by whoever listens at the master where it is said. Where nobody does, or that one does not answer, it is said at the next.

use bytes::Bytes;

use super::RedisCluster;
use super::slots;
use crate::broker::BrokerError;
use crate::broker::shards::collect_answers::one_after_another;

impl RedisCluster {
    /// Returns how many nodes heard it.
    pub(in crate::broker::redis) async fn say(&self, name: &str, message: &[u8]) -> Result<u32, BrokerError> {
        let timeout = self.config.timeout();
        let settled = tokio::time::timeout(timeout, self.settle()).await;
        settled.map_err(|_| BrokerError::Timeout(timeout))?;
        let written: Bytes = self.numbers.write(message);
        let mut parts = self.parts_there();
        if parts.is_empty() {
            return Err(BrokerError::Unreachable(self.looking.trouble()));
        }
        // The same one for the same name, so that messages keep their order.
        let first = usize::from(slots::of_tag(name.as_bytes())) % parts.len();
        parts.rotate_left(first);
        let ways = parts.iter().map(|part| part.master.publish_control(name, &written));
        one_after_another(ways, timeout / 8).await
    }
}
