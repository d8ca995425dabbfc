//! Reading streams: a page, several positions at once, and forgetting.

use bytes::Bytes;
use gateway_core::history::{HistoryFilter, HistoryPage, Retention};
use redis::{Cmd, Value};
use shared::channel::Channel;
use shared::position::{Epoch, StreamPosition};
use shared::publication::Publication;
use shared::record::decode_record;

use super::RedisBroker;
use super::link::Up;
use super::publish::{read_position, unexpected};
use super::script;
use crate::broker::BrokerError;
use crate::broker::measure::Operation;

/// Positions asked for in one round trip; more make several.
const POSITIONS_BATCH: usize = 1_000;

impl RedisBroker {
    pub(super) async fn read_history(
        &self,
        channel: Channel,
        filter: HistoryFilter,
    ) -> Result<HistoryPage, BrokerError> {
        let fill = self.history_call(&channel, filter);
        let value = self.link.eval(Operation::History, &script::HISTORY, fill).await?;
        let (top, entries) = read_answer(value)?;
        let mut publications = Vec::with_capacity(entries.len());
        for entry in entries {
            let (offset, record) = read_entry(entry)?;
            let position = Some(StreamPosition { offset, epoch: top.epoch });
            match decode_record(record) {
                Ok(publication) => publications.push(Publication { position, ..publication }),
                // Leaving one out would be a gap that nobody is told of.
                Err(error) => {
                    self.metrics.undecodable.increment();
                    return Err(BrokerError::Unexpected(
                        format!("the history of {channel} cannot be read: {error}").into(),
                    ));
                }
            }
        }
        Ok(HistoryPage { publications, top })
    }

    pub(super) async fn read_positions(
        &self,
        channels: Vec<(Channel, Retention)>,
    ) -> Result<Vec<StreamPosition>, BrokerError> {
        let mut positions = Vec::with_capacity(channels.len());
        for batch in channels.chunks(POSITIONS_BATCH) {
            let nothing = HistoryFilter::default();
            let fills: Vec<_> =
                batch.iter().map(|(channel, _)| self.history_call(channel, nothing)).collect();
            let values = self.link.eval_many(Operation::Positions, &script::HISTORY, &fills).await?;
            for value in values {
                positions.push(read_answer(value)?.0);
            }
        }
        Ok(positions)
    }

    pub(super) async fn forget_history(&self, channel: Channel) -> Result<(), BrokerError> {
        let mut command = redis::cmd("UNLINK");
        command.arg(self.keys.stream(&channel));
        self.link.call(Operation::History, &command).await.map(|_| ())
    }

    fn history_call(&self, channel: &Channel, filter: HistoryFilter) -> impl Fn(&mut Cmd, &Up) + use<> {
        let position = self.keys.position(channel);
        let stream = self.keys.stream(channel);
        let epoch = Epoch::from_random(rand::random());
        let position_ttl_ms = self.position_ttl_ms;
        move |command, up| {
            command
                .arg(2)
                .arg(&position)
                .arg(&stream)
                .arg(epoch.as_str())
                .arg(&*up.server.run)
                .arg(position_ttl_ms)
                .arg(filter.limit);
            match (filter.reverse, filter.since) {
                (false, None) => command.arg("forward").arg("-").arg("+"),
                (false, Some(since)) => command.arg("forward").arg(since.saturating_add(1)).arg("+"),
                (true, None) => command.arg("reverse").arg("+").arg("-"),
                (true, Some(since)) => command.arg("reverse").arg(since.saturating_sub(1)).arg("-"),
            };
        }
    }
}

fn read_answer(value: Value) -> Result<(StreamPosition, Vec<Value>), BrokerError> {
    let Value::Array(parts) = value else { return Err(unexpected("history")) };
    let Ok([offset, epoch, Value::Array(entries)]) = <[Value; 3]>::try_from(parts) else {
        return Err(unexpected("history"));
    };
    Ok((read_position(offset, epoch)?, entries))
}

/// An entry is `[<offset>-0, [r, record]]`.
fn read_entry(entry: Value) -> Result<(u64, Bytes), BrokerError> {
    let Value::Array(parts) = entry else { return Err(unexpected("history")) };
    let Ok([Value::BulkString(id), Value::Array(fields)]) = <[Value; 2]>::try_from(parts) else {
        return Err(unexpected("history"));
    };
    let Ok([_, Value::BulkString(record)]) = <[Value; 2]>::try_from(fields) else {
        return Err(unexpected("history"));
    };
    let offset = std::str::from_utf8(&id).ok().and_then(|id| id.strip_suffix("-0")?.parse().ok());
    Ok((offset.ok_or_else(|| unexpected("history"))?, Bytes::from(record)))
}
