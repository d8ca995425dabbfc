//! Reads streams: a page of history, and the positions of several. Also removes history.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use gateway_core::history::{HistoryFilter, HistoryPage, Retention};
use redis::{Cmd, Value};
use shared::channel::Channel;
use shared::position::{Epoch, StreamPosition};
use shared::publication::Publication;
use shared::record::decode_record;

use super::RedisBroker;
use super::publish_script::{read_position, unexpected};
use super::redis_keys::RedisKeys;
use super::redis_link::OpenLink;
use super::script;
use crate::broker::BrokerError;
use crate::broker::measure::Operation;

/// Positions read in one script call, during which Redis does nothing else: a quarter of a millisecond.
const POSITIONS_BATCH: usize = 250;

/// Bytes of publications after which a page of history ends, so that other answers do not wait long behind it.
const PAGE_BYTES: usize = 128 << 10;

/// Bytes after which a read must wait for its turn. Shorter reads, which are replies and most repairs, never wait.
const LONG_BYTES: usize = 512 << 10;

/// How long a long read may wait for the ones before it. When many clients come back at once, reading one after another
/// serves them better than reading all together.
const LONG_WAIT: Duration = Duration::from_secs(30);

/// How often a read of several pages is started anew because the stream was trimmed or restarted meanwhile.
const REREADS_MAX: usize = 3;

impl RedisBroker {
    /// Reads page after page, each with its own deadline. The result is what a single read at the end would have returned.
    pub(super) async fn read_history(
        &self,
        channel: Channel,
        filter: HistoryFilter,
    ) -> Result<HistoryPage, BrokerError> {
        for _ in 0..REREADS_MAX {
            if let Some(page) = self.read_pages(&channel, filter).await? {
                return Ok(page);
            }
        }
        Err(BrokerError::Unexpected(
            format!("the history of {channel} changes faster than it is read").into(),
        ))
    }

    /// Returns `None` if the pages do not belong together.
    async fn read_pages(
        &self,
        channel: &Channel,
        filter: HistoryFilter,
    ) -> Result<Option<HistoryPage>, BrokerError> {
        let mut left = filter;
        let mut all: Option<HistoryPage> = None;
        let enough = filter.enough_bytes.map_or(usize::MAX, |bytes| bytes as usize);
        let (mut read, mut turn) = (0, None);
        loop {
            let (page, bytes) = self.read_page(&self.keys, self.position_ttl_ms, channel, left).await?;
            let count = page.publications.len();
            left.limit = left.limit.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
            left.since = last_offset(&page).or(left.since);
            read += bytes;
            let is_last = bytes < PAGE_BYTES || left.limit == 0 || read >= enough;
            match &mut all {
                None => all = Some(page),
                Some(all) => {
                    if !append(all, page, filter.reverse) {
                        return Ok(None);
                    }
                }
            }
            if is_last {
                return Ok(all);
            }
            if turn.is_none() && read >= LONG_BYTES {
                turn = match tokio::time::timeout(LONG_WAIT, self.long_reads.acquire()).await {
                    Ok(turn) => turn.ok(),
                    Err(_) => return Err(BrokerError::Timeout(LONG_WAIT)),
                };
            }
        }
    }

    /// Reads one page and returns it with its bytes. There may be more if they are [`PAGE_BYTES`] or more.
    pub(super) async fn read_page(
        &self,
        keys: &RedisKeys,
        position_ttl_ms: u64,
        channel: &Channel,
        filter: HistoryFilter,
    ) -> Result<(HistoryPage, usize), BrokerError> {
        let _turn = match tokio::time::timeout(self.timeout, self.reading.acquire()).await {
            Ok(turn) => turn.ok(),
            Err(_) => return Err(BrokerError::Timeout(self.timeout)),
        };
        let fill = history_call(keys, position_ttl_ms, channel, filter);
        let at = keys.position(channel);
        let value = self.reads.eval(Operation::History, &script::HISTORY, &at, fill).await?;
        let (top, entries) = read_answer(value)?;
        let (mut publications, mut bytes) = (Vec::with_capacity(entries.len()), 0);
        for entry in entries {
            let (offset, record) = read_entry(entry)?;
            bytes += record.len();
            let position = Some(StreamPosition { offset, epoch: top.epoch });
            match decode_record(record) {
                Ok(publication) => publications.push(Publication { position, ..publication }),
                // Leaving this publication out would be a gap that nobody learns of.
                Err(error) => {
                    self.metrics.undecodable.increment();
                    return Err(BrokerError::Unexpected(
                        format!("the history of {channel} cannot be read: {error}").into(),
                    ));
                }
            }
        }
        Ok((HistoryPage { publications, top }, bytes))
    }

    pub(super) async fn read_positions(
        &self,
        channels: Vec<(Channel, Retention)>,
    ) -> Result<Vec<StreamPosition>, BrokerError> {
        let mut positions = Vec::with_capacity(channels.len());
        for batch in channels.chunks(POSITIONS_BATCH) {
            let known = self.read_known_positions(batch).await?;
            let unknown = batch.iter().zip(&known).filter(|(_, known)| known.is_none());
            let fills: Vec<_> = unknown
                .map(|((channel, _), _)| (self.keys.position(channel), self.position_call(channel)))
                .collect();
            let given = self.link.eval_many(Operation::Positions, &script::HISTORY, &fills).await?;
            let mut given = given.into_iter();
            for known in known {
                positions.push(match known {
                    Some(known) => known,
                    None => read_answer(given.next().ok_or_else(|| unexpected("history"))?)?.0,
                });
            }
        }
        Ok(positions)
    }

    /// Returns `None` for a channel that has no position yet in this life of the data set. Calls one script for each slot.
    async fn read_known_positions(
        &self,
        channels: &[(Channel, Retention)],
    ) -> Result<Vec<Option<StreamPosition>>, BrokerError> {
        let mut by_slot: BTreeMap<u16, (Vec<usize>, Vec<String>)> = BTreeMap::new();
        for (place, (channel, _)) in channels.iter().enumerate() {
            let (places, keys) = by_slot.entry(self.keys.slot(channel)).or_default();
            places.push(place);
            keys.push(self.keys.position(channel));
        }
        let epoch = Epoch::from_random(rand::random());
        let fills: Vec<_> = by_slot
            .values()
            .filter_map(|(_, keys)| {
                let fill = move |command: &mut Cmd, up: &OpenLink| {
                    let life = self.keys.life();
                    command.arg(life.len() + keys.len());
                    for name in life.iter() {
                        command.arg(&**name);
                    }
                    command.arg(keys).arg(&*script::run_of(up)).arg(epoch.as_str()).arg(self.position_ttl_ms);
                };
                Some((keys.first()?.clone(), fill))
            })
            .collect();
        let answers = self.link.eval_many(Operation::Positions, &script::POSITIONS, &fills).await?;
        let mut positions = vec![None; channels.len()];
        for ((places, _), answer) in by_slot.values().zip(answers) {
            let Value::Array(parts) = answer else { return Err(unexpected("positions")) };
            if parts.len() != 2 * places.len() {
                return Err(unexpected("positions"));
            }
            let mut parts = parts.into_iter();
            for place in places {
                if let (Some(offset), Some(epoch)) = (parts.next(), parts.next())
                    && offset != Value::Int(-1)
                {
                    positions[*place] = Some(read_position(offset, epoch)?);
                }
            }
        }
        Ok(positions)
    }

    /// Ends `epoch`: whatever position the channel has after this, its epoch is another one.
    pub(super) async fn leave(&self, channel: Channel, epoch: Epoch) -> Result<StreamPosition, BrokerError> {
        let position = self.keys.position(&channel);
        let fill = |command: &mut Cmd, _: &OpenLink| {
            command.arg(1).arg(&position).arg(epoch.as_str());
        };
        self.link.eval(Operation::Positions, &script::LEAVE_EPOCH, &position, fill).await?;
        let fill = self.position_call(&channel);
        let answer = self.link.eval(Operation::Positions, &script::HISTORY, &position, fill).await?;
        Ok(read_answer(answer)?.0)
    }

    /// Reads the position alone, which is created if there is none.
    fn position_call(&self, channel: &Channel) -> impl Fn(&mut Cmd, &OpenLink) + use<> {
        history_call(&self.keys, self.position_ttl_ms, channel, HistoryFilter::default())
    }

    pub(super) async fn forget_history(&self, channel: Channel) -> Result<(), BrokerError> {
        let mut command = redis::cmd("UNLINK");
        command.arg(self.keys.stream(&channel));
        self.link.call(Operation::History, &command).await.map(|_| ())
    }
}

pub(super) fn history_call(
    keys: &RedisKeys,
    position_ttl_ms: u64,
    channel: &Channel,
    filter: HistoryFilter,
) -> impl Fn(&mut Cmd, &OpenLink) + use<> {
    let life = keys.life().clone();
    let position = keys.position(channel);
    let stream = keys.stream(channel);
    let epoch = Epoch::from_random(rand::random());
    move |command, up| {
        command.arg(life.len() + 2);
        for name in life.iter() {
            command.arg(&**name);
        }
        command
            .arg(&position)
            .arg(&stream)
            .arg(&*script::run_of(up))
            .arg(epoch.as_str())
            .arg(position_ttl_ms)
            .arg(filter.limit);
        match (filter.reverse, filter.since) {
            (false, None) => command.arg("forward").arg("-").arg("+"),
            (false, Some(since)) => command.arg("forward").arg(since.saturating_add(1)).arg("+"),
            (true, None) => command.arg("reverse").arg("+").arg("-"),
            (true, Some(since)) => command.arg("reverse").arg(since.saturating_sub(1)).arg("-"),
        };
        command.arg(PAGE_BYTES);
    }
}

fn last_offset(page: &HistoryPage) -> Option<u64> {
    Some(page.publications.last()?.position?.offset)
}

/// Appends a page if it continues where the last one ended, in the same life of the stream. Returns whether it does.
fn append(all: &mut HistoryPage, next: HistoryPage, reverse: bool) -> bool {
    let first = next.publications.first().and_then(|first| Some(first.position?.offset));
    let goes_on = match (last_offset(all), first) {
        (Some(last), Some(first)) if reverse => first.checked_add(1) == Some(last),
        (Some(last), Some(first)) => last.checked_add(1) == Some(first),
        // In reverse, publications that are gone by now are those that would have been cut off.
        _ => reverse || next.top.offset == last_offset(all).unwrap_or_default(),
    };
    if !goes_on || next.top.epoch != all.top.epoch {
        return false;
    }
    if !reverse {
        all.top = next.top;
    }
    all.publications.extend(next.publications);
    true
}

pub(super) fn read_answer(value: Value) -> Result<(StreamPosition, Vec<Value>), BrokerError> {
    let Value::Array(parts) = value else { return Err(unexpected("history")) };
    let Ok([offset, epoch, Value::Array(entries)]) = <[Value; 3]>::try_from(parts) else {
        return Err(unexpected("history"));
    };
    Ok((read_position(offset, epoch)?, entries))
}

/// Reads an entry of the form `[<offset>-0, [r, record]]`.
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

#[cfg(test)]
mod tests {
    use shared::publication::Payload;

    use super::*;

    fn page(offsets: &[u64], top: u64, epoch: u64) -> HistoryPage {
        let epoch = Epoch::from_random(epoch);
        let publication = |offset: &u64| Publication {
            position: Some(StreamPosition { offset: *offset, epoch }),
            ..Publication::new(Payload::text("x"))
        };
        HistoryPage {
            publications: offsets.iter().map(publication).collect(),
            top: StreamPosition { offset: top, epoch },
        }
    }

    fn joined(first: HistoryPage, next: HistoryPage, reverse: bool) -> Option<(Vec<u64>, u64)> {
        let mut all = first;
        let goes_on = append(&mut all, next, reverse);
        let offsets = all.publications.iter().filter_map(|publication| Some(publication.position?.offset));
        goes_on.then(|| (offsets.collect(), all.top.offset))
    }

    #[test]
    fn pages_are_joined_only_where_one_goes_on_from_the_other() {
        let forward = |next| joined(page(&[1, 2], 4, 7), next, false);
        assert_eq!(forward(page(&[3, 4, 5], 5, 7)), Some((vec![1, 2, 3, 4, 5], 5)));
        assert_eq!(forward(page(&[4, 5], 5, 7)), None, "one was cut off in the middle");
        assert_eq!(forward(page(&[3], 3, 8)), None, "another life");
        assert_eq!(forward(page(&[], 4, 7)), None, "all was cut off");
        let backward = |next| joined(page(&[9, 8], 9, 7), next, true);
        assert_eq!(backward(page(&[7], 12, 7)), Some((vec![9, 8, 7], 9)));
        assert_eq!(backward(page(&[], 12, 7)), Some((vec![9, 8], 9)));
        assert_eq!(backward(page(&[6], 12, 7)), None);
    }
}
