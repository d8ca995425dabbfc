//! The tops of channels that this node knows. It need not ask for a top before it publishes, as long as no other node has
//! published.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use gateway_core::history::Retention;
use parking_lot::Mutex;
use shared::channel::Channel;
use shared::position::{Epoch, StreamPosition};

use super::block::{Block, BlockPlace, EARLIER_MAX};
use super::stored::StoredMessage;
use crate::broker::Version;

/// The most channels remembered. Past it, any other channel is forgotten, and read again when it is needed.
const KNOWN_MAX: usize = 32_768;

/// The top of a channel: its position, and what the next publisher has to know.
#[derive(Clone, Debug)]
pub(super) struct ChannelTop {
    /// The life of the stream that the channel is in.
    pub(super) life: Arc<str>,
    pub(super) size: u32,
    /// The sequence of the last message, or 0 if there is none.
    pub(super) sequence: u64,
    pub(super) position: StreamPosition,
    pub(super) version: Option<Version>,
    pub(super) retained_from: u64,
    /// The blocks with publications, newest first.
    pub(super) places: VecDeque<BlockPlace>,
    /// When the history expires, in milliseconds since 1970.
    pub(super) over: u64,
}

impl ChannelTop {
    /// Returns the top of a channel of which nothing is known, or whose epoch ends.
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

    /// Reads the top from the last message.
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

    /// Returns a block without publications, which says where the channel stands, and that nothing before it is kept.
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

    /// Advances to a message that was added behind this top.
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

/// The known top of a channel.
#[derive(Debug)]
struct KnownTop {
    top: ChannelTop,
    /// Whether somebody else has published since. A stale top only serves to notice that the channel went back.
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

    /// Returns where the channel stood, as far as this node knows at this moment.
    pub(super) fn stood(&self, channel: &Channel) -> Option<StreamPosition> {
        self.0.lock().get(channel).map(|known| known.top.position)
    }

    /// Returns the size of the stream in which this channel was last found.
    pub(super) fn size_of(&self, channel: &Channel) -> Option<u32> {
        self.0.lock().get(channel).map(|known| known.top.size)
    }

    /// Takes in a stored message that some node published.
    pub(super) fn note_block(&self, channel: &Channel, life: &str, sequence: u64, block: &Block, now: u64) {
        if let Some(known) = self.0.lock().get_mut(channel)
            && *known.top.life == *life
            && known.top.sequence < sequence
        {
            known.top.advance(sequence, block, now);
            known.stale = false;
        }
    }
}
