//! Reads the history of a channel: from its last message, which lists those before it, back to the offsets that are wanted.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use futures_util::stream;
use gateway_core::history::{HistoryFilter, HistoryPage, KeysBeside, Retention};
use shared::channel::Channel;
use shared::position::{Epoch, StreamPosition};

use super::NatsBroker;
use super::append::STREAM_PAUSE;
use super::block::Block;
use super::moment::now;
use super::nats_names::{KEY_BYTES, StreamKind, class_of};
use super::stored::{JetStreamError, MessageSelector, StoredMessage, code};
use super::streams::SIZES;
use super::tops::ChannelTop;
use crate::broker::BrokerError;
use crate::broker::measure::Operation;

/// The most messages that one reader requests at once.
const TOGETHER: usize = 16;

/// The most positions that are read at once.
const POSITIONS_TOGETHER: usize = 128;

/// How often a channel is read again while others publish in it.
const ATTEMPTS_MAX: u32 = 50;

/// The messages of a channel that a reader knows of, by the offset of the first publication in each.
#[derive(Default)]
struct HistoryIndex {
    blocks: BTreeMap<u64, Block>,
    places: BTreeMap<u64, u64>,
    /// The first offset of the newest message that is known to be gone, and with it those before.
    gone: u64,
}

impl HistoryIndex {
    fn add(&mut self, sequence: u64, block: Block) {
        for place in block.earlier.iter().filter(|place| place.first > self.gone) {
            self.places.entry(place.first).or_insert(place.sequence);
        }
        if !block.entries.is_empty() {
            self.places.insert(block.first(), sequence);
            self.blocks.insert(block.first(), block);
        }
    }

    /// Notes that the message that begins with this offset is gone.
    fn lose(&mut self, first: u64) {
        self.gone = self.gone.max(first);
        self.places.retain(|place, _| *place > first);
    }

    /// Returns the message that has this offset, or the first one behind it.
    fn at(&self, offset: u64) -> Option<(u64, u64)> {
        let before = self.places.range(..=offset).next_back();
        before.or_else(|| self.places.range(offset..).next()).map(|(first, sequence)| (*first, *sequence))
    }
}

impl NatsBroker {
    pub(super) async fn read_history(
        &self,
        channel: Channel,
        filter: HistoryFilter,
        retention: Retention,
    ) -> Result<HistoryPage, BrokerError> {
        if retention.beside != KeysBeside::None {
            return self.map_history(&channel, retention.beside, filter).await;
        }
        let _turn = match tokio::time::timeout(self.timeout, self.reading.acquire()).await {
            Ok(turn) => turn.ok(),
            Err(_) => return Err(BrokerError::Timeout(self.timeout)),
        };
        let began = tokio::time::Instant::now();
        let size = class_of(retention.size, &SIZES);
        let (top, last) = self.settled(&channel, size).await?;
        let mut page = HistoryPage { publications: Vec::new(), top: top.position };
        let Some((stored, block)) = last else { return Ok(page) };
        let (lowest, highest) = (block.lowest(), block.top.offset);
        if filter.limit > 0 && !block.entries.is_empty() && !block.is_over(stored.written, now()) {
            self.read_wanted(&channel, size, filter, (stored, block), (lowest, highest), &mut page).await?;
        }
        self.metrics.observe_round_trip(Operation::History, began.elapsed());
        Ok(page)
    }

    /// Reads the publications between these offsets that the filter selects.
    async fn read_wanted(
        &self,
        channel: &Channel,
        size: u32,
        filter: HistoryFilter,
        last: (StoredMessage, Block),
        (lowest, highest): (u64, u64),
        page: &mut HistoryPage,
    ) -> Result<(), BrokerError> {
        let limit = u64::from(filter.limit);
        let (from, to) = match (filter.reverse, filter.since) {
            (false, since) => (since.map_or(1, |since| since.saturating_add(1)).max(lowest), highest),
            (true, None) => (lowest, highest),
            (true, Some(since)) => (lowest, since.saturating_sub(1).min(highest)),
        };
        if from > to {
            return Ok(());
        }
        // Some of the oldest publications, which the filter wants first, may be gone before their time.
        let first_wanted = if filter.reverse { from.max((to + 1).saturating_sub(limit)) } else { from };
        let mut found = HistoryIndex::default();
        found.add(last.0.sequence, last.1);
        self.go_back_to(channel, size, first_wanted, page.top.epoch, &mut found).await?;
        while let Some(place) = found.at(first_wanted) {
            self.fetch(channel, size, &[place], page.top.epoch, &mut found).await?;
            if found.blocks.contains_key(&place.0) {
                break;
            }
            found.lose(place.0);
        }
        let there = found.places.keys().next().copied().unwrap_or(from);
        let (from, to) = if filter.reverse {
            (first_wanted.max(there), to)
        } else {
            let from = from.max(there);
            (from, to.min(from.saturating_add(limit - 1)))
        };
        if from > to {
            // The whole range is gone from the stream.
            return Ok(());
        }
        let places = wanted(&found, from, to, filter.reverse);
        let (enough, mut bytes) = (filter.enough_bytes.map_or(usize::MAX, |bytes| bytes as usize), 0);
        for some in places.chunks(TOGETHER) {
            self.fetch(channel, size, some, page.top.epoch, &mut found).await?;
            for (first, _) in some {
                // The message was removed meanwhile.
                let Some(block) = found.blocks.remove(first) else { continue };
                let publications = block.publications().collect::<Result<Vec<_>, _>>();
                let mut publications = publications.map_err(|error| self.unreadable(channel, &error))?;
                publications.retain(|one| (from..=to).contains(&one.offset()));
                if filter.reverse {
                    publications.reverse();
                }
                bytes += publications.iter().map(|one| one.data.bytes.len()).sum::<usize>();
                page.publications.extend(publications);
            }
            if bytes >= enough {
                break;
            }
        }
        Ok(())
    }

    /// Finds the messages back to the one with this offset, or to the oldest that is left.
    async fn go_back_to(
        &self,
        channel: &Channel,
        size: u32,
        offset: u64,
        epoch: Epoch,
        found: &mut HistoryIndex,
    ) -> Result<(), BrokerError> {
        while let Some((&first, &sequence)) = found.places.first_key_value() {
            if first <= offset {
                return Ok(());
            }
            if found.blocks.contains_key(&first) {
                // The oldest known message lists none before it.
                return Ok(());
            }
            self.fetch(channel, size, &[(first, sequence)], epoch, found).await?;
            if !found.blocks.contains_key(&first) {
                found.lose(first);
            }
        }
        Ok(())
    }

    /// Reads those of these messages that were not read yet.
    async fn fetch(
        &self,
        channel: &Channel,
        size: u32,
        places: &[(u64, u64)],
        epoch: Epoch,
        found: &mut HistoryIndex,
    ) -> Result<(), BrokerError> {
        let stream = self.names.stream(StreamKind::History(size));
        let missing = places.iter().filter(|(first, _)| !found.blocks.contains_key(first));
        let reads: Vec<_> = missing
            .map(|&(first, sequence)| {
                let (stream, reads) = (&stream, &self.reads);
                async move {
                    let stored =
                        self.jetstream.get(reads, stream, &MessageSelector::Sequence(sequence)).await;
                    (first, stored)
                }
            })
            .collect();
        let answers: Vec<_> = stream::iter(reads).buffered(TOGETHER).collect().await;
        for (first, stored) in answers {
            let Some(stored) = stored.map_err(BrokerError::from)? else { continue };
            let block = self.block(channel, &stored)?;
            // Otherwise another message has this sequence: the stream is not what it was.
            if block.top.epoch == epoch && block.first() == first {
                found.add(stored.sequence, block);
            }
        }
        Ok(())
    }

    /// Returns where a channel stands, and its last message. A channel without a position gets one, so that its epoch holds.
    pub(super) async fn settled(
        &self,
        channel: &Channel,
        size: u32,
    ) -> Result<(ChannelTop, Option<(StoredMessage, Block)>), BrokerError> {
        for attempt in 1..=ATTEMPTS_MAX {
            let life = self.streams.ready(StreamKind::History(size)).await?;
            let loaded = self.load_over(&self.reads, channel, size, &life).await;
            let Some((mut top, last)) = found(loaded, attempt).await? else { continue };
            if last.is_some() {
                return Ok((top, last));
            }
            let marker = top.marker();
            let subject = self.names.history(size, channel, &life.name);
            let (after, alone) = (top.sequence, top.sequence > 0);
            match self.jetstream.add(&self.reads, subject, after, alone, marker.encode()).await {
                Ok(sequence) => {
                    life.saw(sequence);
                    top.advance(sequence, &marker, now());
                    self.tops.put(channel, top.clone());
                    return Ok((top, None));
                }
                Err(JetStreamError::Refused(code::WRONG_LAST_SEQUENCE, _)) => {}
                Err(JetStreamError::NoStream) => self.streams.doubt(StreamKind::History(size)),
                Err(failed) => return Err(failed.into()),
            }
        }
        Err(BrokerError::Unexpected(format!("{channel} changes faster than it is read").into()))
    }

    pub(super) async fn read_positions(
        &self,
        channels: Vec<(Channel, Retention)>,
    ) -> Result<Vec<StreamPosition>, BrokerError> {
        let began = tokio::time::Instant::now();
        let reading = channels.into_iter().map(|(channel, retention)| async move {
            if retention.beside != KeysBeside::None {
                return self.map_position(&channel, retention.beside).await;
            }
            let size = class_of(retention.size, &SIZES);
            self.settled(&channel, size).await.map(|(top, _)| top.position)
        });
        let positions: Vec<_> = stream::iter(reading).buffered(POSITIONS_TOGETHER).collect().await;
        let positions = positions.into_iter().collect::<Result<Vec<_>, _>>()?;
        self.metrics.observe_round_trip(Operation::Positions, began.elapsed());
        Ok(positions)
    }

    /// Returns the sizes of history streams that a channel may be in, the likeliest first.
    async fn sizes_of(&self, channel: &Channel) -> Result<Vec<u32>, BrokerError> {
        let sizes = self.streams.of_channels().await?.into_iter();
        let size = |kind| if let StreamKind::History(size) = kind { Some(size) } else { None };
        let mut sizes: Vec<u32> = sizes.filter_map(size).collect();
        let likely = self.tops.size_of(channel);
        sizes.sort_by_key(|size| (Some(*size) != likely, *size));
        Ok(sizes)
    }

    /// Ends `epoch`: in whichever stream the channel is, its epoch is another one after this.
    pub(super) async fn leave(&self, channel: Channel, epoch: Epoch) -> Result<StreamPosition, BrokerError> {
        let mut position = self.leave_in_map(&channel, epoch).await?;
        let sizes = self.sizes_of(&channel).await?;
        for size in &sizes {
            let left = self.mark(&channel, *size, |top| {
                if top.position.epoch != epoch {
                    return None;
                }
                Some(ChannelTop::new(top.life.clone(), top.size, top.sequence))
            });
            let top = left.await?;
            position = position.or(top.map(|top| top.position));
        }
        match position {
            Some(position) => Ok(position),
            None => {
                let size = sizes.first().copied().unwrap_or(SIZES[0]);
                self.settled(&channel, size).await.map(|(top, _)| top.position)
            }
        }
    }

    pub(super) async fn forget_history(&self, channel: Channel) -> Result<(), BrokerError> {
        self.forget_map_history(&channel).await?;
        for size in self.sizes_of(&channel).await? {
            let forgotten = self.mark(&channel, size, |top| (!top.places.is_empty()).then(|| top.clone()));
            forgotten.await?;
        }
        Ok(())
    }

    /// Replaces all messages of a channel in a stream by a marker, if it has any and `change` returns a top. Returns
    /// where the channel stands after that.
    async fn mark(
        &self,
        channel: &Channel,
        size: u32,
        change: impl Fn(&ChannelTop) -> Option<ChannelTop>,
    ) -> Result<Option<ChannelTop>, BrokerError> {
        for attempt in 1..=ATTEMPTS_MAX {
            let life = self.streams.ready(StreamKind::History(size)).await?;
            let loaded = self.load_over(&self.reads, channel, size, &life).await;
            let Some((top, last)) = found(loaded, attempt).await? else { continue };
            if last.is_none() && top.sequence == 0 {
                return Ok(None);
            }
            let Some(mut changed) = change(&top) else { return Ok(Some(top)) };
            let marker = changed.marker();
            let subject = self.names.history(size, channel, &life.name);
            match self.jetstream.add(&self.reads, subject, top.sequence, true, marker.encode()).await {
                Ok(sequence) => {
                    life.saw(sequence);
                    changed.advance(sequence, &marker, now());
                    self.tops.put(channel, changed.clone());
                    return Ok(Some(changed));
                }
                Err(JetStreamError::Refused(code::WRONG_LAST_SEQUENCE, _)) => {}
                Err(JetStreamError::NoStream) => self.streams.doubt(StreamKind::History(size)),
                Err(failed) => return Err(failed.into()),
            }
        }
        Err(BrokerError::Unexpected(format!("{channel} changes faster than it is read").into()))
    }

    /// Returns the position of the publication that used this key, if it is still kept.
    pub(super) async fn find_key(
        &self,
        channel: &Channel,
        size: u32,
        key: [u8; KEY_BYTES],
    ) -> Result<Option<StreamPosition>, BrokerError> {
        let (_, last) = self.settled(channel, size).await?;
        let Some((stored, block)) = last else { return Ok(None) };
        let (lowest, epoch) = (block.lowest(), block.top.epoch);
        let mut found = HistoryIndex::default();
        found.add(stored.sequence, block);
        self.go_back_to(channel, size, lowest, epoch, &mut found).await?;
        let places: Vec<(u64, u64)> = found.places.iter().map(|(first, at)| (*first, *at)).collect();
        for some in places.chunks(TOGETHER) {
            self.fetch(channel, size, some, epoch, &mut found).await?;
        }
        let used = found.blocks.iter().find_map(|(first, block)| {
            let at = block.entries.iter().position(|entry| entry.key == Some(key))?;
            Some(StreamPosition { offset: first + at as u64, epoch })
        });
        Ok(used)
    }
}

/// Unwraps what was loaded from a stream. Returns `None` after a pause if there was no stream, which is to be looked for again.
async fn found<T>(loaded: Result<T, JetStreamError>, attempt: u32) -> Result<Option<T>, BrokerError> {
    match loaded {
        Ok(loaded) => Ok(Some(loaded)),
        Err(JetStreamError::NoStream) if attempt < ATTEMPTS_MAX => {
            tokio::time::sleep(STREAM_PAUSE).await;
            Ok(None)
        }
        Err(failed) => Err(failed.into()),
    }
}

/// Returns the messages with publications between these offsets, in the order in which they are wanted.
fn wanted(found: &HistoryIndex, from: u64, to: u64, reverse: bool) -> Vec<(u64, u64)> {
    let begins = found.places.range(..=from).next_back().map_or(from, |(first, _)| *first);
    let places = found.places.range(begins..=to).map(|(first, sequence)| (*first, *sequence));
    let mut places: Vec<_> = places.collect();
    if reverse {
        places.reverse();
    }
    places
}
