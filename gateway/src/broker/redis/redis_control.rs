//! Messages between nodes, beside publications.

use redis::FromRedisValue;

use super::master::Master;
use super::publish_script::unexpected;
use crate::broker::BrokerError;
use crate::broker::measure::Operation;

impl Master {
    /// Publishes a message under this name. Returns the number of nodes that listen to it.
    pub(super) async fn publish_control(&self, name: &str, message: &[u8]) -> Result<u32, BrokerError> {
        let mut command = redis::cmd("PUBLISH");
        command.arg(name).arg(message);
        let receivers = self.link.call(Operation::Control, &command).await?;
        u32::from_redis_value(receivers).map_err(|_| unexpected("control"))
    }
}
