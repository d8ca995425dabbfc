//! Leases on tasks: each in a hash, beside the progress of its holder.

use std::time::Duration;

use redis::{FromRedisValue, Value};

use super::RedisBroker;
use super::publish_script::unexpected;
use super::redis_link::OpenLink;
use super::script;
use crate::broker::measure::Operation;
use crate::broker::{BrokerError, LeaseOutcome, LeaseRequest};

/// How long the progress of a task is kept after nobody continues it.
const UNUSED_TTL: Duration = Duration::from_secs(24 * 60 * 60);

impl RedisBroker {
    pub(super) async fn acquire_redis_lease(
        &self,
        taking: LeaseRequest<'_>,
    ) -> Result<LeaseOutcome, BrokerError> {
        let LeaseRequest { what, node, lease, patience, done } = taking;
        let key = self.keys.task_lease(what);
        let [lease, patience, ttl] = [lease, patience, UNUSED_TTL].map(|time| time.as_millis() as u64);
        let fill = |command: &mut redis::Cmd, _: &OpenLink| {
            command.arg(1).arg(&key).arg(node).arg(lease).arg(patience).arg(done).arg(ttl);
        };
        let answer = self.link.eval(Operation::Lease, &script::TURN, &key, fill).await?;
        let Value::Array(parts) = answer else { return Err(unexpected("turn")) };
        let Ok([held, done, over]) = <[Value; 3]>::try_from(parts) else { return Err(unexpected("turn")) };
        let over_ms = u64::from_redis_value(over).map_err(|_| unexpected("turn"))?;
        let done = String::from_redis_value(done).map_err(|_| unexpected("turn"))?;
        Ok(LeaseOutcome {
            held: held == Value::Int(1),
            done: done.into(),
            over: Duration::from_millis(over_ms),
        })
    }
}
