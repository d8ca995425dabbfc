//! The clients on one worker that follow keys of polled channels.
//!
//! Each key has a dense list of its followers, each with the version that it has. An update of a key goes through that list
//! from its end, a piece at a time. Clients that begin to follow meanwhile are appended behind the pieces that are left,
//! and get what they lack because the key is asked for again.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use shared::channel::Channel;
use slab::Slab;

use crate::hub::Subscriber;

/// A channel and one of its keys, by their positions.
type TrackerPlace = (u32, u32);

#[derive(Debug, Default)]
pub struct Trackers {
    ids: FxHashMap<Channel, u32>,
    channels: Slab<FollowedChannel>,
    /// The keys that each client follows, and the client's index in the list of each key.
    rows: FxHashMap<u32, FxHashMap<TrackerPlace, u32>>,
    count: usize,
}

#[derive(Debug)]
struct FollowedChannel {
    channel: Channel,
    ids: FxHashMap<Arc<str>, u32>,
    keys: Slab<TrackedKey>,
}

#[derive(Debug)]
struct TrackedKey {
    name: Arc<str>,
    trackers: Vec<Tracker>,
}

#[derive(Clone, Copy, Debug)]
struct Tracker {
    subscriber: Subscriber,
    /// The version that the subscriber has.
    version: u64,
}

const _: () = assert!(size_of::<Tracker>() == 16, "there is one for each key of each client");

impl Trackers {
    /// Returns how many pairs of a client and a key there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Adds a client to the followers of a key, with the version that it has. If it follows the key already, that version
    /// is replaced.
    pub fn track(&mut self, channel: &Channel, key: &str, subscriber: Subscriber, version: u64) {
        let id = match self.ids.get(channel.as_str()) {
            Some(&id) => id,
            None => {
                let (ids, keys) = (FxHashMap::default(), Slab::new());
                let id = self.channels.insert(FollowedChannel { channel: channel.clone(), ids, keys }) as u32;
                self.ids.insert(channel.clone(), id);
                id
            }
        };
        let followed = &mut self.channels[id as usize];
        let key_id = match followed.ids.get(key) {
            Some(&key) => key,
            None => {
                let name: Arc<str> = key.into();
                let key_id =
                    followed.keys.insert(TrackedKey { name: name.clone(), trackers: Vec::new() }) as u32;
                followed.ids.insert(name, key_id);
                key_id
            }
        };
        let trackers = &mut followed.keys[key_id as usize].trackers;
        let row = self.rows.entry(subscriber.key).or_default();
        let tracker = Tracker { subscriber, version };
        match row.get(&(id, key_id)) {
            Some(&at) => trackers[at as usize] = tracker,
            None => {
                row.insert((id, key_id), trackers.len() as u32);
                trackers.push(tracker);
                self.count += 1;
            }
        }
    }

    /// Removes a client from the followers of a key. Returns whether the key has no followers here any more.
    pub fn untrack(&mut self, channel: &str, key: &str, client: u32) -> bool {
        let Some(place) = self.place(channel, key) else { return false };
        self.take_out(place, client).is_some()
    }

    /// Removes a client from all keys of a channel. Returns the keys that have no followers here any more.
    pub fn leave(&mut self, channel: &str, client: u32) -> Vec<Arc<str>> {
        let Some(&id) = self.ids.get(channel) else { return Vec::new() };
        let Some(row) = self.rows.get(&client) else { return Vec::new() };
        let places: Vec<TrackerPlace> = row.keys().filter(|place| place.0 == id).copied().collect();
        places.into_iter().filter_map(|place| self.take_out(place, client)).collect()
    }

    /// Removes a client from all keys. Returns, by channel, the keys that have no followers here any more.
    pub fn remove_all(&mut self, client: u32) -> Vec<(Channel, Vec<Arc<str>>)> {
        let Some(row) = self.rows.get(&client) else { return Vec::new() };
        let mut channels: Vec<u32> = row.keys().map(|place| place.0).collect();
        channels.sort_unstable();
        channels.dedup();
        let named =
            channels.into_iter().filter_map(|id| Some(self.channels.get(id as usize)?.channel.clone()));
        let named: Vec<Channel> = named.collect();
        named.into_iter().map(|channel| (channel.clone(), self.leave(channel.as_str(), client))).collect()
    }

    /// Iterates over all keys that are followed here.
    pub fn keys(&self) -> impl Iterator<Item = (&Channel, impl Iterator<Item = &Arc<str>>)> {
        self.channels.iter().map(|(_, followed)| (&followed.channel, followed.ids.keys()))
    }

    /// Returns the number of a key's followers, which is where an update of it begins.
    pub fn followers(&self, channel: &str, key: &str) -> usize {
        self.place(channel, key).and_then(|place| self.key(place)).map_or(0, |key| key.trackers.len())
    }

    /// Of the `most` followers before index `from`, returns those with an older version than this one, and marks them as
    /// having it. Also returns the index before which the update continues.
    pub fn outdated(
        &mut self,
        channel: &str,
        key: &str,
        version: u64,
        from: usize,
        most: usize,
    ) -> (Vec<Subscriber>, usize) {
        let Some((id, key_id)) = self.place(channel, key) else { return (Vec::new(), 0) };
        let Some(key) = self.channels[id as usize].keys.get_mut(key_id as usize) else {
            return (Vec::new(), 0);
        };
        let from = from.min(key.trackers.len());
        let until = from.saturating_sub(most);
        let mut outdated = Vec::new();
        for tracker in &mut key.trackers[until..from] {
            if tracker.version < version {
                tracker.version = version;
                outdated.push(tracker.subscriber);
            }
        }
        (outdated, until)
    }

    /// Removes and returns at most `most` of a key's followers, and whether any are left.
    pub fn dismiss(&mut self, channel: &str, key: &str, most: usize) -> (Vec<Subscriber>, bool) {
        let Some(place) = self.place(channel, key) else { return (Vec::new(), false) };
        let Some(key) = self.key(place) else { return (Vec::new(), false) };
        let dismissed: Vec<Subscriber> =
            key.trackers.iter().rev().take(most).map(|tracker| tracker.subscriber).collect();
        let any_left = key.trackers.len() > dismissed.len();
        for subscriber in &dismissed {
            self.take_out(place, subscriber.key);
        }
        (dismissed, any_left)
    }

    fn place(&self, channel: &str, key: &str) -> Option<TrackerPlace> {
        let id = *self.ids.get(channel)?;
        Some((id, *self.channels.get(id as usize)?.ids.get(key)?))
    }

    fn key(&self, (id, key): TrackerPlace) -> Option<&TrackedKey> {
        self.channels.get(id as usize)?.keys.get(key as usize)
    }

    /// Removes a client from a key's list. Returns the key if nobody is left in it.
    fn take_out(&mut self, place: TrackerPlace, client: u32) -> Option<Arc<str>> {
        let row = self.rows.get_mut(&client)?;
        let at = row.remove(&place)?;
        if row.is_empty() {
            self.rows.remove(&client);
        }
        self.count -= 1;
        let (id, key_id) = place;
        let followed = self.channels.get_mut(id as usize)?;
        let key = followed.keys.get_mut(key_id as usize)?;
        key.trackers.swap_remove(at as usize);
        if let Some(moved) = key.trackers.get(at as usize)
            && let Some(row) = self.rows.get_mut(&moved.subscriber.key)
        {
            row.insert(place, at);
        }
        if !key.trackers.is_empty() {
            return None;
        }
        let name = followed.keys.remove(key_id as usize).name;
        followed.ids.remove(&name);
        if followed.ids.is_empty() {
            let channel = self.channels.remove(id as usize).channel;
            self.ids.remove(channel.as_str());
        }
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::{EncodingId, Variant};

    fn subscriber(key: u32) -> Subscriber {
        Subscriber::new(key, Variant::plain(EncodingId::default()))
    }

    fn channel(name: &str) -> Channel {
        Channel::parse(name, 255).unwrap()
    }

    fn told(trackers: &mut Trackers, name: &str, key: &str, version: u64) -> Vec<u32> {
        let from = trackers.followers(name, key);
        let (outdated, rest) = trackers.outdated(name, key, version, from, usize::MAX);
        assert_eq!(rest, 0);
        let mut told: Vec<u32> = outdated.iter().map(|subscriber| subscriber.key).collect();
        told.sort_unstable();
        told
    }

    #[test]
    fn news_go_to_those_who_follow_the_key_and_have_an_older_version() {
        let (mut trackers, a, b) = (Trackers::default(), channel("a"), channel("b"));
        for (of, key, client, version) in
            [(&a, "x", 1, 0), (&a, "x", 2, 5), (&a, "y", 3, 0), (&b, "x", 4, 0), (&a, "x", 5, 6)]
        {
            trackers.track(of, key, subscriber(client), version);
        }
        assert_eq!(told(&mut trackers, "a", "x", 6), [1, 2]);
        assert_eq!(told(&mut trackers, "a", "x", 6), Vec::<u32>::new(), "they have it now");
        assert_eq!(told(&mut trackers, "b", "x", 1), [4]);
        trackers.track(&a, "x", subscriber(1), 0);
        assert_eq!(told(&mut trackers, "a", "x", 6), [1], "it has lost what it had");
        assert_eq!(trackers.count(), 5);
    }

    #[test]
    fn a_key_without_followers_is_told_once_and_forgotten() {
        let (mut trackers, a) = (Trackers::default(), channel("a"));
        for client in 1..=3 {
            trackers.track(&a, "x", subscriber(client), 0);
            trackers.track(&a, "y", subscriber(client), 0);
        }
        assert!(!trackers.untrack("a", "x", 1) && !trackers.untrack("a", "x", 1));
        assert_eq!(trackers.leave("a", 2), Vec::<Arc<str>>::new());
        assert_eq!(told(&mut trackers, "a", "y", 1), [1, 3], "the last took the place of the one before it");
        assert!(trackers.untrack("a", "x", 3));
        trackers.remove_all(1);
        assert_eq!(trackers.remove_all(3), [(a, vec![Arc::from("y")])]);
        assert_eq!((trackers.count(), trackers.channels.len(), trackers.rows.len()), (0, 0, 0));
    }

    #[test]
    fn news_in_pieces_reach_everyone_once_whoever_leaves_meanwhile() {
        let (mut trackers, a) = (Trackers::default(), channel("a"));
        for client in 0..10 {
            trackers.track(&a, "x", subscriber(client), 0);
        }
        let (mut told, mut from) = (Vec::new(), trackers.followers("a", "x"));
        for leaves in [9, 0, 5, 1] {
            let (piece, rest) = trackers.outdated("a", "x", 1, from, 3);
            told.extend(piece.iter().map(|subscriber| subscriber.key));
            from = rest;
            trackers.untrack("a", "x", leaves);
        }
        while from > 0 {
            let (piece, rest) = trackers.outdated("a", "x", 1, from, 3);
            told.extend(piece.iter().map(|subscriber| subscriber.key));
            from = rest;
        }
        told.sort_unstable();
        let before = told.len();
        told.dedup();
        assert_eq!(told.len(), before, "nobody is told twice");
        assert!([2, 3, 4, 6, 7, 8].iter().all(|client| told.contains(client)), "{told:?}");
    }

    #[test]
    fn when_a_key_is_removed_its_followers_are_dismissed_a_piece_at_a_time() {
        let (mut trackers, a) = (Trackers::default(), channel("a"));
        for client in 0..5 {
            trackers.track(&a, "x", subscriber(client), 9);
        }
        let (first, more) = trackers.dismiss("a", "x", 3);
        let (second, end) = trackers.dismiss("a", "x", 3);
        assert_eq!((first.len(), more, second.len(), end), (3, true, 2, false));
        assert_eq!((trackers.count(), trackers.dismiss("a", "x", 3)), (0, (Vec::new(), false)));
    }
}
