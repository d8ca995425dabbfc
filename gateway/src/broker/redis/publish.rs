//! Publishing: one script that numbers, keeps and sends, or a plain PUBLISH where there is nothing to keep.

use bytes::BytesMut;
use redis::{FromRedisValue, Value};
use shared::position::{Epoch, StreamPosition};
use shared::record::{encode_position, encode_record};

use super::RedisBroker;
use super::link::Up;
use super::script;
use crate::broker::measure::Operation;
use crate::broker::{BrokerError, PublishRequest, Published};

impl RedisBroker {
    pub(super) async fn publish_once(&self, request: PublishRequest) -> Result<Published, BrokerError> {
        let PublishRequest { channel, publication, retention, idempotency } = request;
        let name = self.keys.publications(&channel);
        let keeps = retention.keeps_history();
        let mut message = BytesMut::new();
        if !keeps && idempotency.is_none() {
            encode_position(None, &mut message);
            encode_record(&publication, &mut message);
            let mut command = redis::cmd("PUBLISH");
            command.arg(name).arg(&message[..]);
            self.link.call(Operation::Publish, &command).await?;
            self.metrics.published.increment();
            return Ok(Published::default());
        }
        encode_record(&publication, &mut message);
        let position = self.keys.position(&channel);
        let stream = self.keys.stream(&channel);
        let once = idempotency.as_ref().map(|idempotency| self.keys.once(&channel, &idempotency.key));
        let once_ttl = idempotency.as_ref().map_or(0, |idempotency| ttl_millis(idempotency.ttl));
        let epoch = Epoch::from_random(rand::random());
        let fill = |command: &mut redis::Cmd, up: &Up| {
            command.arg(3 + usize::from(once.is_some())).arg(&position).arg(&stream).arg(&name);
            if let Some(once) = &once {
                command.arg(once);
            }
            command
                .arg(epoch.as_str())
                .arg(&*up.run)
                .arg(if keeps { retention.size } else { 0 })
                .arg(ttl_millis(retention.ttl))
                .arg(self.position_ttl_ms)
                .arg(&message[..])
                .arg(once_ttl);
        };
        let published = read_published(self.link.eval(Operation::Publish, &script::PUBLISH, fill).await?)?;
        if published.duplicate {
            self.metrics.duplicates.increment();
        } else {
            self.metrics.published.increment();
        }
        Ok(published)
    }
}

/// Redis refuses a time of zero.
fn ttl_millis(ttl: std::time::Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).clamp(1, i64::MAX as u64 / 2)
}

fn read_published(value: Value) -> Result<Published, BrokerError> {
    let Value::Array(parts) = value else { return Err(unexpected("publish")) };
    match <[Value; 3]>::try_from(parts) {
        Ok([duplicate, offset, epoch]) => {
            let position = read_position(offset, epoch)?;
            Ok(Published { position: Some(position), duplicate: duplicate == Value::Int(1) })
        }
        Err(parts) => match &parts[..] {
            [Value::Int(duplicate)] => Ok(Published { position: None, duplicate: *duplicate == 1 }),
            _ => Err(unexpected("publish")),
        },
    }
}

pub(super) fn read_position(offset: Value, epoch: Value) -> Result<StreamPosition, BrokerError> {
    let offset = u64::from_redis_value(offset).map_err(|_| unexpected("position"))?;
    let Value::BulkString(epoch) = epoch else { return Err(unexpected("position")) };
    let epoch = std::str::from_utf8(&epoch).ok().and_then(Epoch::parse);
    Ok(StreamPosition { offset, epoch: epoch.ok_or_else(|| unexpected("position"))? })
}

pub(super) fn unexpected(script: &str) -> BrokerError {
    BrokerError::Unexpected(format!("the {script} script gave something it should not").into())
}
