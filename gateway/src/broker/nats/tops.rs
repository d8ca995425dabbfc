//! Where channels stand, as far as this node knows: whoever publishes next need not ask, as long as nobody else published.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use gateway_core::history::Retention;
use parking_lot::Mutex;
use shared::channel::Channel;
use shared::position::{Epoch, StreamPosition};

use super::block::{Block, BlockPlace, EARLIER_MAX};
use super::stored::StoredMessage;
use crate::broker::Version;

/// Channels of which it is known. Past it any of the others is forgotten, and asked for when it is needed.
const KNOWN_MAX: usize = 32_768;

/// Where a channel stands.
#[derive(Clone, Debug)]
pub(super) struct ChannelTop {
    /// Of the stream that it is in.
    pub(super) life: Arc<str>,
    pub(super) size: u32,
    /// Of the last message; 0: there is none.
    pub(super) sequence: u64,
    pub(super) position: StreamPosition,
    pub(super) version: Option<Version>,
    pub(super) retained_from: u64,
    /// Newest first.
    pub(super) places: VecDeque<BlockPlace>,
    /// When the history has had its time, in milliseconds since 1970.
    pub(super) over: u64,
}

impl ChannelTop {
    /// Of a channel that nothing is known of, or whose epoch ends.
    pub(super) fn new(life: Arc<str>, size: u32, sequence: u64) -> Self {
        let position = StreamPosition { offset: 0, epoch: Epoch::from_random(rand::random()) };
        Self {
            life,
            size,
            sequence,
            position,
            version: None,
            retained_from: 1,
            places: VecDeque::new(),
            over: 0,
        }
    }

    /// As the last message says.
    pub(super) fn read(life: Arc<str>, size: u32, stored: &StoredMessage, block: &Block) -> Self {
        let mut places: VecDeque<BlockPlace> = VecDeque::with_capacity(EARLIER_MAX + 1);
        if !block.entries.is_empty() {
            places.push_back(BlockPlace { sequence: stored.sequence, first: block.first() });
        }
        places.extend(block.earlier.iter().copied());
        places.truncate(EARLIER_MAX);
        let ttl_ms = u64::try_from(block.retention.ttl.as_millis()).unwrap_or(u64::MAX);
        Self {
            life,
            size,
            sequence: stored.sequence,
            position: block.top,
            version: block.version.clone(),
            retained_from: block.retained_from,
            places,
            over: stored.written.saturating_add(ttl_ms),
        }
    }

    /// A message that nothing is in: it says where the channel stands, and that nothing before it is kept.
    pub(super) fn marker(&self) -> Block {
        Block {
            top: self.position,
            retained_from: self.position.offset + 1,
            retention: Retention::default(),
            version: self.version.clone(),
            earlier: Vec::new(),
            entries: Vec::new(),
        }
    }

    /// A message was added behind it.
    pub(super) fn advance(&mut self, sequence: u64, block: &Block, now: u64) {
        self.sequence = sequence;
        self.position = block.top;
        self.version = block.version.clone();
        self.retained_from = block.retained_from;
        self.over = now.saturating_add(u64::try_from(block.retention.ttl.as_millis()).unwrap_or(u64::MAX));
        self.places.clear();
        if !block.entries.is_empty() {
            self.places.push_back(BlockPlace { sequence, first: block.first() });
        }
        self.places.extend(block.earlier.iter().copied());
        self.places.truncate(EARLIER_MAX);
    }
}

/// What is known of a channel.
#[derive(Debug)]
struct KnownTop {
    top: ChannelTop,
    /// Whether somebody else has published since: it is good for nothing but to see that the channel went back.
    stale: bool,
}

#[derive(Debug, Default)]
pub(super) struct ChannelTops(Mutex<HashMap<Channel, KnownTop>>);

impl ChannelTops {
    pub(super) fn get(&self, channel: &Channel, life: &str, size: u32) -> Option<ChannelTop> {
        let known = self.0.lock();
        let known = known.get(channel).filter(|known| !known.stale)?;
        (*known.top.life == *life && known.top.size == size).then(|| known.top.clone())
    }

    pub(super) fn put(&self, channel: &Channel, top: ChannelTop) {
        let mut known = self.0.lock();
        if known.len() >= KNOWN_MAX && !known.contains_key(channel) {
            let any = known.keys().next().cloned();
            any.and_then(|any| known.remove(&any));
        }
        known.insert(channel.clone(), KnownTop { top, stale: false });
    }

    pub(super) fn doubt(&self, channel: &Channel) {
        if let Some(known) = self.0.lock().get_mut(channel) {
            known.stale = true;
        }
    }

    /// Where this node knows the channel to have stood, at this moment.
    pub(super) fn stood(&self, channel: &Channel) -> Option<StreamPosition> {
        self.0.lock().get(channel).map(|known| known.top.position)
    }

    /// Of which size the stream is that this channel was last found in.
    pub(super) fn size_of(&self, channel: &Channel) -> Option<u32> {
        self.0.lock().get(channel).map(|known| known.top.size)
    }

    /// A message came that somebody published, and that was kept.
    pub(super) fn hear(&self, channel: &Channel, life: &str, sequence: u64, block: &Block, now: u64) {
        if let Some(known) = self.0.lock().get_mut(channel)
            && *known.top.life == *life
            && known.top.sequence < sequence
        {
            known.top.advance(sequence, block, now);
            known.stale = false;
        }
    }
}
