//! Publishes with history. All publications that wait in a channel are sent as one message, which the server takes only
//! if it follows the message that this node knows to be the last. So offsets have no gaps, versions are compared, and no
//! idempotency key is used twice, whichever nodes publish at once.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use gateway_core::history::Retention;
use shared::channel::Channel;
use shared::position::StreamPosition;
use shared::record::encode_record;
use tokio::time::Instant;

use super::NatsBroker;
use super::block::{Block, BlockEntry, BlockError, BlockPlace, EARLIER_MAX};
use super::idempotency::KeyReservation;
use super::moment::now;
use super::nats_names::{StreamKind, class_of};
use super::stored::{JetStreamError, MessageSelector, StoredMessage, code};
use super::streams::{LiveStream, SIZES};
use super::tops::ChannelTop;
use crate::broker::measure::Operation;
use crate::broker::{BrokerError, PublishRequest, Published, Version};

/// The pause after another node's message was first: that message may still be on its way to the other servers.
const BEATEN_PAUSE: Duration = Duration::from_millis(1);

/// The pause if there is no stream: another one is being created, or has begun another life.
pub(super) const STREAM_PAUSE: Duration = Duration::from_millis(10);

/// The most publications in one message.
const BLOCK_ENTRIES_MAX: usize = 128;
/// The most bytes in one message, unless a single publication has more.
const BLOCK_BYTES_MAX: usize = 256 << 10;
/// The most bytes that a message has beside its publications.
const BLOCK_OVERHEAD: usize = 8 << 10;

/// A publication on its way into the history.
#[derive(Debug)]
pub(super) struct AppendRequest {
    pub(super) record: Bytes,
    pub(super) retention: Retention,
    pub(super) version: Option<Version>,
    /// The idempotency key, once it is reserved for this publication.
    pub(super) reserved: Option<KeyReservation>,
}

impl AppendRequest {
    pub(super) fn new(request: &PublishRequest) -> Self {
        let mut record = BytesMut::with_capacity(request.publication.data.bytes.len() + 16);
        encode_record(&request.publication, &mut record);
        let PublishRequest { retention, version, .. } = request;
        Self { record: record.freeze(), retention: *retention, version: version.clone(), reserved: None }
    }

    fn key(&self) -> Option<[u8; 16]> {
        self.reserved.as_ref().map(|reserved| reserved.digest)
    }

    /// Whether both publications can be in one message.
    fn goes_with(&self, first: &Self) -> bool {
        self.retention == first.retention && !self.is_taken_over() && !first.is_taken_over()
    }

    fn is_taken_over(&self) -> bool {
        self.reserved.as_ref().is_some_and(|reserved| reserved.taken_over)
    }

    /// Returns the key that may be released because this publication was not made. A key that was taken over stays
    /// reserved: the publisher before may have used it, and only the reservation makes the next publisher look for that in
    /// the history.
    pub(super) fn unused_key(self) -> Option<KeyReservation> {
        self.reserved.filter(|reserved| !reserved.taken_over)
    }
}

/// A message to append, and the results of its publications.
struct AppendDraft {
    block: Block,
    /// Whether the message is a rollup that removes everything before it, because that has expired.
    alone: bool,
    outcomes: Vec<Published>,
}

/// Returns how many of these publications go into one message.
pub(super) fn together<'a>(
    additions: impl IntoIterator<Item = &'a AppendRequest>,
    payload_max: usize,
) -> usize {
    let bytes_max = BLOCK_BYTES_MAX.min(payload_max.saturating_sub(BLOCK_OVERHEAD));
    let (mut bytes, mut count) = (0, 0);
    let mut first: Option<&AppendRequest> = None;
    for addition in additions {
        bytes += addition.record.len() + 32;
        let fits = count == 0 || count < BLOCK_ENTRIES_MAX && bytes <= bytes_max;
        if !fits || first.is_some_and(|first| !addition.goes_with(first)) {
            break;
        }
        first.get_or_insert(addition);
        count += 1;
    }
    count
}

impl NatsBroker {
    /// Publishes these publications, which go into one message. Returns the result of each.
    pub(super) async fn append(
        &self,
        channel: &Channel,
        additions: &[AppendRequest],
        deadline: Instant,
    ) -> Result<Vec<Published>, BrokerError> {
        let Some(first) = additions.first() else { return Ok(Vec::new()) };
        let size = class_of(first.retention.size, &SIZES);
        let kind = StreamKind::History(size);
        loop {
            if Instant::now() >= deadline {
                return Err(BrokerError::Timeout(self.timeout));
            }
            let life = self.streams.ready(kind).await?;
            let top = match self.tops.get(channel, &life.name, size) {
                Some(top) => top,
                None => match self.load_over(&self.link, channel, size, &life).await {
                    Ok((top, _)) => top,
                    Err(JetStreamError::NoStream) => {
                        tokio::time::sleep(STREAM_PAUSE).await;
                        continue;
                    }
                    Err(failed) => return Err(failed.into()),
                },
            };
            if let Some(key) = first.key().filter(|_| first.is_taken_over()) {
                // The node that reserved the key before may have used it: its publication is in the history by now, or
                // never will be.
                if let Some(position) = self.find_key(channel, size, key).await? {
                    return Ok(vec![Published { position: Some(position), duplicate: true }]);
                }
            }
            let draft = draft(&top, additions, now());
            if draft.block.entries.is_empty() {
                return Ok(draft.outcomes);
            }
            let subject = self.names.history(size, channel, &life.name);
            let sent = Instant::now();
            let added = self
                .jetstream
                .add(&self.link, subject, top.sequence, draft.alone, draft.block.encode())
                .await;
            match added {
                Ok(sequence) => {
                    self.metrics.observe_round_trip(Operation::Publish, sent.elapsed());
                    life.saw(sequence);
                    let mut top = top;
                    top.advance(sequence, &draft.block, now());
                    self.tops.put(channel, top);
                    return Ok(draft.outcomes);
                }
                // Another node was first.
                Err(JetStreamError::Refused(code::WRONG_LAST_SEQUENCE, _)) => {
                    self.tops.doubt(channel);
                    tokio::time::sleep(BEATEN_PAUSE).await;
                }
                // Another life of the stream has begun.
                Err(JetStreamError::NoStream) => {
                    self.streams.doubt(kind);
                    tokio::time::sleep(STREAM_PAUSE).await;
                }
                Err(failed) => {
                    self.tops.doubt(channel);
                    if matches!(failed, JetStreamError::Other(BrokerError::Unanswered(_))) {
                        self.streams.doubt(kind);
                    }
                    return Err(failed.into());
                }
            }
        }
    }

    /// Returns where a channel stands, as its last message says, and that message if there is one in the present epoch.
    pub(super) async fn load_over(
        &self,
        link: &super::nats_link::NatsLink,
        channel: &Channel,
        size: u32,
        life: &Arc<LiveStream>,
    ) -> Result<(ChannelTop, Option<(StoredMessage, Block)>), JetStreamError> {
        let subject = self.names.history(size, channel, &life.name);
        let stream = self.names.stream(StreamKind::History(size));
        // Read before the server is asked: what is published meanwhile may come after the answer, and is no reason to doubt it.
        let stood = self.tops.stood(channel);
        let last = match self.jetstream.get(link, &stream, &MessageSelector::Last(subject)).await {
            Ok(last) => last,
            Err(failed) => {
                // A stream that is gone does not answer.
                self.streams.doubt(StreamKind::History(size));
                return Err(failed);
            }
        };
        let Some(stored) = last else { return Ok((ChannelTop::new(life.name.clone(), size, 0), None)) };
        let block = self.block(channel, &stored)?;
        if stood.is_some_and(|stood| has_gone_back(stood, block.top)) {
            tracing::warn!(
                %channel,
                "the channel's stream has gone back to an earlier offset: the channel begins a new epoch"
            );
            return Ok((ChannelTop::new(life.name.clone(), size, stored.sequence), None));
        }
        let top = ChannelTop::read(life.name.clone(), size, &stored, &block);
        Ok((top, Some((stored, block))))
    }

    /// Decodes the block of a message.
    pub(super) fn block(&self, channel: &Channel, stored: &StoredMessage) -> Result<Block, BrokerError> {
        Block::decode(stored.payload.clone()).map_err(|error| self.unreadable(channel, &error))
    }

    pub(super) fn unreadable(&self, channel: &Channel, error: &BlockError) -> BrokerError {
        // Leaving this one out would be a gap that nobody learns of.
        self.metrics.undecodable.increment();
        BrokerError::Unexpected(format!("the history of {channel} cannot be read: {error}").into())
    }
}

/// Whether a channel stands before where it stood, in the same epoch.
fn has_gone_back(stood: StreamPosition, now: StreamPosition) -> bool {
    stood.epoch == now.epoch && stood.offset > now.offset
}

/// Drafts the message that follows this top.
fn draft(top: &ChannelTop, additions: &[AppendRequest], now: u64) -> AppendDraft {
    let mut version = top.version.clone();
    let mut offset = top.position.offset;
    let (mut entries, mut outcomes) = (Vec::new(), Vec::new());
    for addition in additions {
        if let Some(next) = &addition.version {
            if version.as_ref().is_some_and(|last| next.is_stale(last)) {
                let position = Some(StreamPosition { offset, ..top.position });
                outcomes.push(Published { position, duplicate: true });
                continue;
            }
            version = Some(next.clone());
        }
        offset += 1;
        let position = Some(StreamPosition { offset, ..top.position });
        outcomes.push(Published { position, duplicate: false });
        entries.push(BlockEntry { key: addition.key(), record: addition.record.clone() });
    }
    let retention = additions.first().map(|first| first.retention).unwrap_or_default();
    let first = offset + 1 - entries.len() as u64;
    // Everything before has expired, or there was nothing.
    let alone = top.places.is_empty() || top.over <= now;
    let retained_from = if alone { first } else { top.retained_from };
    let lowest = (offset + 1).saturating_sub(u64::from(retention.size)).max(retained_from);
    let mut earlier: Vec<BlockPlace> = Vec::new();
    if !alone {
        // The message that spans the lowest offset is the last one needed.
        let mut next_first = first;
        for place in top.places.iter().take(EARLIER_MAX) {
            if next_first <= lowest {
                break;
            }
            earlier.push(*place);
            next_first = place.first;
        }
    }
    // Servers before 2.10 carry out a rollup so late that others may have added messages behind it by then, and remove
    // messages that these nodes know to exist. So the message is no rollup where there are no publications to remove: in a
    // channel that has just begun, in which many publish.
    let alone = alone && !top.places.is_empty();
    let top = StreamPosition { offset, ..top.position };
    AppendDraft { block: Block { top, retained_from, retention, version, earlier, entries }, alone, outcomes }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use shared::position::Epoch;

    use super::*;

    const RETENTION: Retention = Retention::new(3, Duration::from_secs(60));

    fn addition(text: &'static str, version: Option<u64>) -> AppendRequest {
        let version = version.map(|number| Version { number, epoch: "".into() });
        AppendRequest {
            record: Bytes::from_static(text.as_bytes()),
            retention: RETENTION,
            version,
            reserved: None,
        }
    }

    fn top() -> ChannelTop {
        let position = StreamPosition { offset: 5, epoch: Epoch::from_random(1) };
        let places = VecDeque::from([4, 3, 1].map(|first| BlockPlace { sequence: first * 10, first }));
        ChannelTop { position, places, over: 1_000, sequence: 40, ..ChannelTop::new("a".into(), 16, 40) }
    }

    #[test]
    fn what_goes_behind_a_top_has_the_next_offsets_and_knows_what_is_still_kept_before_it() {
        let draft = draft(&top(), &[addition("a", None), addition("b", None)], 999);
        assert_eq!((draft.block.first(), draft.block.top.offset, draft.alone), (6, 7, false));
        // Of the offsets 5 to 7, the first one is in the message that begins at 4.
        assert_eq!(draft.block.earlier.iter().map(|place| place.first).collect::<Vec<_>>(), [4]);
        let offsets: Vec<_> = draft.outcomes.iter().map(|one| one.position.unwrap().offset).collect();
        assert_eq!(offsets, [6, 7]);
    }

    #[test]
    fn behind_what_has_had_its_time_a_history_begins_anew_at_the_next_offset() {
        let draft = draft(&top(), &[addition("a", None)], 1_000);
        assert_eq!((draft.block.retained_from, draft.block.top.offset, draft.alone), (6, 6, true));
        assert!(draft.block.earlier.is_empty());
    }

    #[test]
    fn behind_a_marker_that_nothing_is_in_nothing_is_taken_away() {
        let marked = ChannelTop { places: VecDeque::new(), ..top() };
        let draft = draft(&marked, &[addition("a", None)], 0);
        assert_eq!((draft.block.retained_from, draft.block.top.offset, draft.alone), (6, 6, false));
        assert!(draft.block.earlier.is_empty());
    }

    #[test]
    fn versions_are_compared_with_those_before_them_in_the_same_message_too() {
        let additions = [Some(5), Some(4), None, Some(6)].map(|version| addition("a", version));
        let draft = draft(&top(), &additions, 0);
        let told: Vec<_> =
            draft.outcomes.iter().map(|one| (one.position.unwrap().offset, one.duplicate)).collect();
        assert_eq!(told, [(6, false), (6, true), (7, false), (8, false)]);
        assert_eq!(draft.block.version.unwrap().number, 6);
    }

    #[test]
    fn a_key_that_was_taken_over_is_not_released_though_its_publication_was_not_made() {
        let reserved = |taken_over| {
            let reserved = Some(KeyReservation::example(taken_over));
            AppendRequest { reserved, ..addition("a", None) }
        };
        assert!(reserved(false).unused_key().is_some());
        assert!(reserved(true).unused_key().is_none(), "who had it before may have used it");
        assert!(addition("a", None).unused_key().is_none());
    }

    #[test]
    fn a_message_takes_so_many_publications_and_bytes_but_at_least_one() {
        let large = AppendRequest { record: Bytes::from(vec![0; BLOCK_BYTES_MAX + 1]), ..addition("", None) };
        assert_eq!(together([&large, &large], 1 << 20), 1);
        let small = addition("a", None);
        assert_eq!(together(std::iter::repeat_n(&small, 1_000), 1 << 20), BLOCK_ENTRIES_MAX);
        let other = AppendRequest { retention: Retention { size: 9, ..RETENTION }, ..addition("a", None) };
        assert_eq!(together([&small, &small, &other], 1 << 20), 2);
    }
}
