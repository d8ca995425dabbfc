//! What nodes send each other beside publications.

use bytes::Bytes;
use redis::FromRedisValue;

use super::RedisBroker;
use super::publish::unexpected;
use crate::broker::BrokerError;
use crate::broker::measure::Operation;

impl RedisBroker {
    pub(super) async fn publish_control(&self, message: Bytes) -> Result<u32, BrokerError> {
        let mut command = redis::cmd("PUBLISH");
        command.arg(&self.router.control).arg(&message[..]);
        let receivers = self.link.call(Operation::Control, &command).await?;
        u32::from_redis_value(receivers).map_err(|_| unexpected("control"))
    }
}
