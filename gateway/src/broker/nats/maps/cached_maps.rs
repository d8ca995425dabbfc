//! The maps that this node has in memory, as far as it has read their logs. Their bytes are bounded.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use gateway_core::history::KeysBeside;
use parking_lot::Mutex;
use shared::channel::Channel;
use shared::position::{Epoch, StreamPosition};
use tokio::time::Instant;

use super::map_fold::MapFold;
use super::map_message::{BaseMessage, ChangesMessage};

/// The cost of a channel beside its content, roughly, in bytes.
const MAP_BYTES: usize = 1_024;
/// The cost of reading a message beside its payload, in bytes.
pub(super) const MESSAGE_BYTES: usize = 256;
/// The most bytes of changes that are kept while the log is made short.
const TAIL_BYTES_MAX: usize = 16 << 20;

/// A channel as far as its log was read.
#[derive(Debug)]
pub(super) struct FollowedMap {
    /// The life of the stream in which it was read. `None`: what was read must not be used.
    pub(super) life: Option<Arc<str>>,
    pub(super) fold: MapFold,
    /// Kept when the log is read anew.
    pub(super) memory: LogMemory,
    /// The last message that was read.
    pub(super) sequence: u64,
    /// When the last reading began that reached the end of the log: it holds everything that was acknowledged before that.
    pub(super) complete: Option<Instant>,
    /// The name of the parts of the last base.
    pub(super) part: Box<str>,
    /// When this node last began to make the log short. Kept when the log is read anew.
    pub(super) shortening_began: Option<Instant>,
    /// The cost of reading the messages behind the last base, and that base, in bytes.
    pub(super) log_bytes: usize,
    pub(super) base_bytes: usize,
    /// When that base was written.
    pub(super) based: u64,
    /// While this node makes the log short: the changes since it wrote down the state.
    pub(super) tail: Option<MapTail>,
}

/// What this node knows a log to have held, whatever the log holds now.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LogMemory {
    /// The last message of the log that this node read or wrote.
    end: Option<LogEnd>,
    /// The epoch in which a message was found missing although others follow.
    forked: Option<Epoch>,
}

/// A message of a log, and where the channel stood with it.
#[derive(Clone, Copy, Debug)]
struct LogEnd {
    sequence: u64,
    position: StreamPosition,
}

impl LogMemory {
    /// Whether a log that ends with this message lacks one that this node knows: offsets of the epoch would be given out
    /// a second time.
    pub(super) fn is_missing_from(&self, sequence: u64, position: StreamPosition) -> bool {
        let epoch = position.epoch;
        self.forked == Some(epoch)
            || self.end.is_some_and(|end| end.position.epoch == epoch && sequence < end.sequence)
    }

    /// Notes that messages of this epoch are missing from the log.
    pub(super) fn fork(&mut self, epoch: Epoch) {
        self.forked = Some(epoch);
    }

    /// The log goes on with this message behind the one that has the sequence `before`. A base stands for all that it
    /// took the place of.
    fn advance(&mut self, before: u64, sequence: u64, position: StreamPosition, is_base: bool) {
        let known = self.end.filter(|end| end.position.epoch == position.epoch);
        if let Some(end) = known {
            if sequence < end.sequence {
                return;
            }
            let is_passed_over = before < end.sequence && end.sequence < sequence && !is_base;
            if is_passed_over || position.offset < end.position.offset {
                self.fork(position.epoch);
            }
        }
        self.end = Some(LogEnd { sequence, position });
    }
}

/// The changes since a state was written down.
#[derive(Debug, Default)]
pub(super) struct MapTail {
    /// The attempt to make the log short that this tail belongs to: of several in turn, each goes on with its own tail
    /// alone.
    pub(super) owner: u64,
    /// When each message was written, and its payload.
    pub(super) messages: Vec<(u64, Bytes)>,
    pub(super) bytes: usize,
}

impl Default for FollowedMap {
    fn default() -> Self {
        Self {
            life: None,
            fold: MapFold::new(StreamPosition::default(), 0),
            memory: LogMemory::default(),
            sequence: 0,
            complete: None,
            part: Box::default(),
            shortening_began: None,
            log_bytes: 0,
            base_bytes: 0,
            based: 0,
            tail: None,
        }
    }
}

impl FollowedMap {
    /// Forgets what was read of the log, but not what this node knows it to have held.
    pub(super) fn reset(&mut self) {
        let Self { memory, shortening_began, .. } = *self;
        *self = Self { memory, shortening_began, ..Self::default() };
    }

    /// Whether the channel must leave its epoch, when its log was read to the end: the log lacks a message that this node
    /// knows.
    pub(super) fn has_to_leave(&self) -> bool {
        self.memory.is_missing_from(self.sequence, self.fold.position())
    }

    /// Whether the next reader of the channel needs what this node knows of its log.
    fn is_in_doubt(&self) -> bool {
        self.memory.end.is_some() && (self.life.is_none() || self.has_to_leave())
    }

    fn advance(&mut self, sequence: u64, is_base: bool) {
        self.memory.advance(self.sequence, sequence, self.fold.position(), is_base);
        self.sequence = sequence;
    }

    /// Notes a message of changes that the fold has taken in, written at that time.
    pub(super) fn note(&mut self, sequence: u64, written: u64, payload: &Bytes) {
        self.advance(sequence, false);
        self.log_bytes += payload.len() + MESSAGE_BYTES;
        if let Some(tail) = &mut self.tail {
            tail.bytes += payload.len();
            tail.messages.push((written, payload.clone()));
            if tail.bytes > TAIL_BYTES_MAX {
                self.tail = None;
            }
        }
    }

    /// Notes a base that holds everything up to here.
    pub(super) fn rest_on(&mut self, sequence: u64, written: u64, base: BaseMessage) {
        self.advance(sequence, true);
        (self.based, self.part) = (written, base.part);
        let bytes = usize::try_from(base.bytes).unwrap_or(usize::MAX);
        (self.log_bytes, self.base_bytes, self.tail) = (0, bytes, None);
    }
}

#[derive(Debug)]
pub(super) struct CachedMap {
    pub(super) followed: Arc<tokio::sync::Mutex<FollowedMap>>,
    bytes: AtomicUsize,
    used: AtomicU64,
}

type MapName = (KeysBeside, Channel);

#[derive(Debug)]
pub(in super::super) struct CachedMaps {
    maps: Mutex<HashMap<MapName, Arc<CachedMap>>>,
    bytes: AtomicUsize,
    used: AtomicU64,
    bytes_max: usize,
}

impl CachedMaps {
    pub(in super::super) fn new(bytes_max: usize) -> Self {
        let (maps, bytes, used) = (Mutex::default(), AtomicUsize::new(0), AtomicU64::new(0));
        Self { maps, bytes, used, bytes_max }
    }

    pub(super) fn find(&self, beside: KeysBeside, channel: &Channel) -> Option<Arc<CachedMap>> {
        self.maps.lock().get(&(beside, channel.clone())).cloned()
    }

    /// Returns the channel, new if it is not in memory.
    pub(super) fn get(&self, beside: KeysBeside, channel: &Channel) -> Arc<CachedMap> {
        let mut maps = self.maps.lock();
        let map = maps.entry((beside, channel.clone())).or_insert_with(|| {
            self.bytes.fetch_add(MAP_BYTES, Ordering::Relaxed);
            Arc::new(CachedMap {
                followed: Arc::default(),
                bytes: AtomicUsize::new(MAP_BYTES),
                used: AtomicU64::new(0),
            })
        });
        map.used.store(self.used.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        map.clone()
    }

    /// Notes how many bytes a map takes now. If all maps together take too many, unused ones are evicted, the least
    /// recently used first.
    pub(super) fn weigh(&self, map: &CachedMap, bytes: usize) {
        let bytes = bytes + MAP_BYTES;
        let before = map.bytes.swap(bytes, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let all = self.bytes.fetch_sub(before, Ordering::Relaxed) - before;
        if all > self.bytes_max {
            self.make_room();
        }
    }

    fn make_room(&self) {
        let enough = self.bytes_max / 4 * 3;
        let mut maps = self.maps.lock();
        // A user of a map holds it or its content.
        let is_unused =
            |map: &Arc<CachedMap>| Arc::strong_count(map) == 1 && Arc::strong_count(&map.followed) == 1;
        let unused = maps.iter().filter(|(_, map)| is_unused(map));
        let mut unused: Vec<(u64, MapName)> =
            unused.map(|(name, map)| (map.used.load(Ordering::Relaxed), name.clone())).collect();
        unused.sort_unstable_by_key(|(used, _)| *used);
        let mut in_doubt = Vec::new();
        for (_, name) in unused {
            if self.bytes.load(Ordering::Relaxed) <= enough {
                return;
            }
            if maps.get(&name).is_some_and(|map| self.empty_if_in_doubt(map)) {
                in_doubt.push(name);
            } else {
                self.evict(&mut maps, &name);
            }
        }
        if self.bytes.load(Ordering::Relaxed) <= self.bytes_max {
            return;
        }
        // The number of those in doubt has a bound, too.
        for name in in_doubt {
            if self.bytes.load(Ordering::Relaxed) <= enough {
                return;
            }
            tracing::warn!(channel = %name.1, "no memory is left to remember where a channel stood that may have lost changes");
            self.evict(&mut maps, &name);
        }
    }

    fn evict(&self, maps: &mut HashMap<MapName, Arc<CachedMap>>, name: &MapName) {
        if let Some(map) = maps.remove(name) {
            self.bytes.fetch_sub(map.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// Empties a map whose next reader needs what this node knows of its log, but for that. Returns whether it is such a
    /// map.
    fn empty_if_in_doubt(&self, map: &CachedMap) -> bool {
        let Ok(mut followed) = map.followed.try_lock() else { return true };
        if !followed.is_in_doubt() {
            return false;
        }
        followed.reset();
        let before = map.bytes.swap(MAP_BYTES, Ordering::Relaxed);
        self.bytes.fetch_add(MAP_BYTES, Ordering::Relaxed);
        self.bytes.fetch_sub(before, Ordering::Relaxed);
        true
    }

    /// Takes in a message of a log that was heard, if this node has read the log up to the message before it.
    pub(in super::super) fn hear(
        &self,
        (beside, channel): (KeysBeside, &Channel),
        (life, sequence, before): (&str, u64, u64),
        message: &ChangesMessage,
        (payload, now): (&Bytes, u64),
    ) {
        let Some(map) = self.find(beside, channel) else { return };
        // A call that holds the channel reads on by itself.
        let Ok(mut followed) = map.followed.clone().try_lock_owned() else { return };
        if followed.life.as_deref() != Some(life) || followed.sequence != before {
            return;
        }
        match followed.fold.take_in(message, now) {
            Ok(()) => followed.note(sequence, now, payload),
            Err(_) => followed.life = None,
        }
        let bytes = followed.fold.bytes();
        drop(followed);
        self.weigh(&map, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> StreamPosition {
        StreamPosition { offset, epoch: Epoch::from_random(1) }
    }

    /// What a node knows that has read a base and three messages with a change each.
    fn known() -> LogMemory {
        let mut memory = LogMemory::default();
        memory.advance(0, 4, at(0), true);
        for (before, sequence, offset) in [(4, 6, 1), (6, 9, 2), (9, 10, 3)] {
            memory.advance(before, sequence, at(offset), false);
        }
        memory
    }

    #[test]
    fn a_log_that_lacks_a_message_this_node_knows_is_noticed_however_it_goes_on() {
        assert!(!known().is_missing_from(10, at(3)) && !known().is_missing_from(12, at(4)));
        assert!(known().is_missing_from(9, at(2)), "the last message is gone");
        let elsewhere = StreamPosition { epoch: Epoch::from_random(2), ..at(2) };
        assert!(!known().is_missing_from(9, elsewhere), "another epoch has begun");
        // Read anew while it is short, it is short still; and so it is when others go on behind it.
        let mut memory = known();
        memory.advance(0, 4, at(0), true);
        memory.advance(4, 6, at(1), false);
        memory.advance(6, 9, at(2), false);
        assert!(memory.is_missing_from(9, at(2)));
        memory.advance(9, 11, at(3), false);
        assert!(memory.is_missing_from(11, at(3)));
        memory.advance(11, 12, at(4), false);
        memory.advance(12, 13, at(4), true);
        assert!(memory.is_missing_from(13, at(4)), "until the epoch is left");
        memory.advance(13, 14, elsewhere, true);
        assert!(!memory.is_missing_from(14, elsewhere));
    }

    #[test]
    fn a_log_that_is_read_anew_or_made_short_lacks_nothing() {
        let mut memory = known();
        for (before, sequence, offset) in [(0, 4, 0), (4, 6, 1), (6, 9, 2), (9, 10, 3), (10, 15, 4)] {
            memory.advance(before, sequence, at(offset), sequence == 4);
        }
        assert!(!memory.is_missing_from(15, at(4)));
        let mut memory = known();
        memory.advance(0, 20, at(3), true);
        assert!(!memory.is_missing_from(20, at(3)), "a base has taken its place");
        memory.advance(0, 30, at(2), true);
        assert!(memory.is_missing_from(30, at(2)), "a base that stands lower was made without it");
    }

    #[test]
    fn where_a_channel_stood_that_has_lost_changes_is_known_although_the_memory_is_full() {
        let maps = CachedMaps::new(10 * MAP_BYTES);
        let name = |number: usize| Channel::parse(&format!("c{number}"), 255).unwrap();
        {
            let map = maps.get(KeysBeside::Staying, &name(0));
            let mut followed = map.followed.try_lock().unwrap();
            followed.fold = MapFold::new(at(2), 0);
            (followed.sequence, followed.memory) = (9, known());
            assert!(followed.has_to_leave());
            drop(followed);
            maps.weigh(&map, 5 * MAP_BYTES);
        }
        for number in 1..100 {
            let map = maps.get(KeysBeside::Staying, &name(number));
            maps.weigh(&map, MAP_BYTES);
        }
        assert!(maps.bytes.load(Ordering::Relaxed) <= 12 * MAP_BYTES);
        let map = maps.find(KeysBeside::Staying, &name(0)).expect("it is not forgotten");
        let followed = map.followed.try_lock().unwrap();
        assert!(followed.memory.is_missing_from(9, at(2)) && followed.life.is_none());
        assert_eq!(followed.sequence, 0, "nothing else is kept of it");
    }

    #[test]
    fn what_was_used_longest_ago_goes_when_there_is_too_much() {
        let maps = CachedMaps::new(100 * MAP_BYTES);
        let channel = |number: usize| Channel::parse(&format!("c{number}"), 255).unwrap();
        for number in 0..99 {
            drop(maps.get(KeysBeside::Expiring, &channel(number)));
        }
        let kept = maps.get(KeysBeside::Expiring, &channel(0));
        let in_use = maps.get(KeysBeside::Expiring, &channel(1)).followed.clone();
        drop(maps.get(KeysBeside::Expiring, &channel(2)));
        maps.weigh(&kept, 10 * MAP_BYTES);
        let there = |number| maps.find(KeysBeside::Expiring, &channel(number)).is_some();
        assert!(there(0) && there(1) && there(2) && there(98));
        assert!(!there(3) && !there(10) && !there(30));
        assert!(maps.bytes.load(Ordering::Relaxed) <= 75 * MAP_BYTES);
        drop(in_use);
        maps.weigh(&kept, 0);
        assert_eq!(maps.maps.lock().len() * MAP_BYTES, maps.bytes.load(Ordering::Relaxed));
    }
}
