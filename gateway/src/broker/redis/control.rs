//! What nodes send each other beside publications, and the message by which a node proves that it is reached.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use redis::{FromRedisValue, Value};
use tokio::sync::oneshot;

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

    /// Goes out over the one connection and must come back over the other.
    pub(super) async fn sing(&self) -> Result<Duration, BrokerError> {
        let start = Instant::now();
        let number: u64 = rand::random();
        let (sender, back) = oneshot::channel();
        self.router.canaries.lock().insert(number, sender);
        let _forget = Forget { canaries: &self.router.canaries, number };
        let flight = async {
            let mut command = redis::cmd("PUBLISH");
            command.arg(&self.router.canary).arg(number);
            let heard_by = self.link.call(Operation::Control, &command).await?;
            if heard_by == Value::Int(0) {
                return Err(BrokerError::Unreachable(
                    "Redis takes commands, but this node's subscriptions are not there".into(),
                ));
            }
            back.await.map_err(|_| BrokerError::Unreachable("the link is closed".into()))
        };
        match tokio::time::timeout(self.timeout, flight).await {
            Ok(Ok(())) => {
                let took = start.elapsed();
                self.metrics.canary_micros.set(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
                Ok(took)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => {
                self.metrics.timeouts.increment();
                Err(BrokerError::Timeout(self.timeout))
            }
        }
    }
}

/// Nobody waits for this canary any more, also if its caller went away.
struct Forget<'a> {
    canaries: &'a Mutex<HashMap<u64, oneshot::Sender<()>>>,
    number: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.canaries.lock().remove(&self.number);
    }
}
