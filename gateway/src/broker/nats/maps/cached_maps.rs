//! Channels that keep state by key, as far as this node has read their logs: in memory, up to so many bytes of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use gateway_core::history::KeysBeside;
use parking_lot::Mutex;
use shared::channel::Channel;
use shared::position::StreamPosition;

use super::map_fold::MapFold;
use super::map_message::ChangesMessage;

/// What a channel costs beside what is in it, roughly, in bytes.
const MAP_BYTES: usize = 1_024;
/// What a message costs who reads it beside its bytes, in bytes.
pub(super) const MESSAGE_BYTES: usize = 256;
/// The most bytes that are kept of what is changed while the log is made shorter.
const TAIL_BYTES_MAX: usize = 16 << 20;

/// A channel, as far as its log was read.
#[derive(Debug)]
pub(super) struct FollowedMap {
    /// In which life of the stream; `None`: nothing that was read is good.
    pub(super) life: Option<Arc<str>>,
    pub(super) fold: MapFold,
    /// The last message that was read.
    pub(super) sequence: u64,
    /// What stands behind the last base costs who reads it so much, in bytes, and that base so much.
    pub(super) log_bytes: usize,
    pub(super) base_bytes: usize,
    /// When that base was written.
    pub(super) based: u64,
    /// While this node makes the log shorter: what was changed since it wrote down what it comes to.
    pub(super) tail: Option<MapTail>,
}

/// What was changed since something was written down: when, and what.
#[derive(Debug, Default)]
pub(super) struct MapTail {
    /// Who makes the log shorter: of several, one after the other, each goes on with its own tail alone.
    pub(super) owner: u64,
    pub(super) messages: Vec<(u64, Bytes)>,
    pub(super) bytes: usize,
}

impl Default for FollowedMap {
    fn default() -> Self {
        Self {
            life: None,
            fold: MapFold::new(StreamPosition::default(), 0),
            sequence: 0,
            log_bytes: 0,
            base_bytes: 0,
            based: 0,
            tail: None,
        }
    }
}

impl FollowedMap {
    /// A message was taken in that was written then.
    pub(super) fn note(&mut self, sequence: u64, written: u64, payload: &Bytes) {
        self.sequence = sequence;
        self.log_bytes += payload.len() + MESSAGE_BYTES;
        if let Some(tail) = &mut self.tail {
            tail.bytes += payload.len();
            tail.messages.push((written, payload.clone()));
            if tail.bytes > TAIL_BYTES_MAX {
                self.tail = None;
            }
        }
    }

    /// All that was changed so far has this base, which costs so much.
    pub(super) fn rest_on(&mut self, sequence: u64, written: u64, bytes: usize) {
        (self.sequence, self.based) = (sequence, written);
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

    /// Nothing may have been read of it.
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

    /// It takes so much by now. Where that is too much with all others, those go that were used longest ago and are not in use.
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
        // Whoever uses one has it, or what is in it.
        let is_unused =
            |map: &Arc<CachedMap>| Arc::strong_count(map) == 1 && Arc::strong_count(&map.followed) == 1;
        let unused = maps.iter().filter(|(_, map)| is_unused(map));
        let mut unused: Vec<(u64, MapName)> =
            unused.map(|(name, map)| (map.used.load(Ordering::Relaxed), name.clone())).collect();
        unused.sort_unstable_by_key(|(used, _)| *used);
        for (_, name) in unused {
            if self.bytes.load(Ordering::Relaxed) <= enough {
                return;
            }
            if let Some(map) = maps.remove(&name) {
                self.bytes.fetch_sub(map.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        }
    }

    /// A message of a log came that stands behind that one: where this node has read as far as that, it has it.
    pub(in super::super) fn hear(
        &self,
        (beside, channel): (KeysBeside, &Channel),
        (life, sequence, before): (&str, u64, u64),
        message: &ChangesMessage,
        (payload, now): (&Bytes, u64),
    ) {
        let Some(map) = self.find(beside, channel) else { return };
        // Whoever uses it reads it by itself.
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
