//! Which workers have subscribers of which channels, and the state of each channel's link to the broker.
//!
//! Locks here are held for a few instructions and never across a wait. The order of a channel's publications is the order in
//! which its shard's lock is taken, so publications are pushed to workers under that lock.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use gateway_core::catch_up::CatchUp;
use gateway_core::feed::Feed;
use gateway_core::history::{KeysBeside, Retention};
use gateway_core::hub::PreviousPublication;
use gateway_core::namespace_id::NamespaceId;
use gateway_core::roster::Roster;
use hashbrown::HashTable;
use parking_lot::{Mutex, MutexGuard};
use rustc_hash::FxBuildHasher;
use shared::channel::Channel;
use shared::moment::Moment;
use shared::publication::{Payload, Publication};
use tokio::sync::oneshot;

use crate::broker::BrokerError;
use crate::node::catch_up::CatchUpResult;

/// How many locks the channels are spread over.
pub(super) const SHARDS: usize = 64;

/// A channel that some worker of this node has subscribers of, or had until a moment ago.
#[derive(Debug)]
pub(crate) struct LocalChannel {
    pub(crate) channel: Channel,
    /// Bit N: worker N has subscribers.
    pub(crate) workers: u64,
    pub(crate) link: ChannelLink,
    pub(crate) feed: Feed,
    terms: PackedTerms,
    /// When a publication last arrived or the position was last checked.
    pub(crate) checked: Moment,
    aside: Option<Box<ChannelRareState>>,
}

const _: () = assert!(size_of::<LocalChannel>() <= 112, "there can be many for each connection");

/// A channel's retention, packed into a third of the bytes of a [`Retention`], and its namespace.
#[derive(Clone, Copy, Debug)]
struct PackedTerms {
    /// The low bits hold the size, as large as a namespace may configure; the bits above hold the namespace.
    publications: u32,
    /// The low bits hold the TTL in seconds, rounded up; the bits above say what is kept beside the publications.
    seconds: u32,
}

const PUBLICATIONS_BITS: u32 = 24;
const PUBLICATIONS_MAX: u32 = (1 << PUBLICATIONS_BITS) - 1;
const SECONDS_BITS: u32 = 30;
const SECONDS_MAX: u32 = (1 << SECONDS_BITS) - 1;

impl PackedTerms {
    fn new(retention: Retention, namespace: NamespaceId) -> Self {
        let size = retention.size.min(PUBLICATIONS_MAX);
        let publications = u32::from(namespace.0) << PUBLICATIONS_BITS | size;
        let seconds = (retention.ttl.as_secs_f64().ceil() as u32).min(SECONDS_MAX);
        let beside = match retention.beside {
            KeysBeside::None => 0,
            KeysBeside::Expiring => 1,
            KeysBeside::Staying => 2,
        };
        Self { publications, seconds: beside << SECONDS_BITS | seconds }
    }

    fn retention(self) -> Retention {
        let beside = match self.seconds >> SECONDS_BITS {
            0 => KeysBeside::None,
            1 => KeysBeside::Expiring,
            _ => KeysBeside::Staying,
        };
        let ttl = Duration::from_secs((self.seconds & SECONDS_MAX).into());
        Retention { size: self.publications & PUBLICATIONS_MAX, ttl, beside }
    }

    fn namespace(self) -> NamespaceId {
        NamespaceId((self.publications >> PUBLICATIONS_BITS) as u8)
    }
}

/// State that few channels have, or that they have only briefly. Boxed, and present only while any of it is in use.
#[derive(Debug)]
pub(crate) struct ChannelRareState {
    /// Joins that wait until the broker delivers the channel.
    pub(crate) waiting: Vec<oneshot::Sender<Result<(), BrokerError>>>,
    /// The channel's retained history, for subscribers that join.
    pub(crate) catch_up: CatchUp,
    /// Joins that wait for another join's read of history.
    pub(crate) catch_up_waiting: Vec<oneshot::Sender<CatchUpResult>>,
    /// The last publication handed out, in a channel that sends patches.
    previous: Option<PreviousPublication>,
    /// The members of the channel, where subscribers are told of users.
    pub(crate) roster: Option<Box<Roster>>,
    /// The bytes that `catch_up` and `previous` retain, as of the last count.
    weight: RetainedBytes,
}

/// Whether the broker delivers a channel to this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ChannelLink {
    /// Not subscribed; in the queue of what should be.
    Queued,
    Subscribing,
    Up,
    /// Subscribed without need: unsubscribed unless a subscriber comes before this moment.
    Lingering(Moment),
    Unsubscribing,
}

impl LocalChannel {
    pub(crate) fn retention(&self) -> Retention {
        self.terms.retention()
    }

    /// Returns the namespace under which the channel is counted.
    pub(crate) fn namespace(&self) -> NamespaceId {
        self.terms.namespace()
    }

    /// Moves the channel to the namespace under which it is counted from now on. Returns the previous one.
    pub(super) fn count_in(&mut self, namespace: NamespaceId) -> NamespaceId {
        let before = self.terms;
        self.terms = PackedTerms::new(before.retention(), namespace);
        before.namespace()
    }

    /// Whether subscribers here could miss publications. Where no history is kept, the feed knows whether publications carry
    /// offsets.
    pub(super) fn is_followed(&self) -> bool {
        let is_numbered = self.retention().keeps_history() || self.feed.position().is_some();
        self.workers != 0 && self.link == ChannelLink::Up && is_numbered
    }

    /// Returns the rare state, if there is any. Call [`Interest::weigh`] after a change.
    pub(super) fn aside(&mut self) -> Option<&mut ChannelRareState> {
        self.aside.as_deref_mut()
    }

    /// Returns the members of the channel, where subscribers are told of users.
    pub(super) fn roster(&mut self) -> Option<&mut Roster> {
        self.aside.as_mut()?.roster.as_deref_mut()
    }

    /// Returns the publication that a patch can be made from, and keeps this one for the next. A channel begins to keep
    /// publications with the first that may be sent as a patch; otherwise a complete one would always be missing before it.
    pub(super) fn go_on_to(
        &mut self,
        publication: &Publication,
        interest: &Interest,
    ) -> Option<PreviousPublication> {
        let previous = self.aside.as_mut().and_then(|aside| aside.previous.take());
        if (publication.delta || previous.is_some())
            && let Some(position) = publication.position
        {
            let Payload { kind, bytes } = &publication.data;
            // Copied, because the payload may be a small slice of a large read buffer.
            let data = Payload { kind: *kind, bytes: Bytes::copy_from_slice(bytes) };
            interest.aside(self).previous = Some(PreviousPublication { position, data });
        }
        previous
    }
}

impl ChannelRareState {
    /// Discards what was retained of publications handed out before.
    pub(super) fn forget(&mut self) {
        self.catch_up.forget();
        self.previous = None;
    }

    fn is_unused(&self) -> bool {
        self.waiting.is_empty()
            && self.catch_up_waiting.is_empty()
            && self.previous.is_none()
            && self.roster.is_none()
            && self.catch_up.is_unused()
    }
}

/// The channels of one shard by name. Channels are boxed because there can be more of them than connections: a free slot of
/// the table costs no more than a pointer.
#[derive(Debug, Default)]
struct ChannelTable(HashTable<Box<LocalChannel>>);

#[derive(Debug)]
pub(crate) struct Interest {
    shards: Box<[Mutex<ChannelTable>]>,
    /// The bytes that all channels retain for subscribers that join.
    retained_bytes: Arc<AtomicUsize>,
    lives: AtomicU64,
}

/// One locked shard, to access the channel with whose name it was obtained.
pub(crate) struct InterestShard<'a> {
    channels: MutexGuard<'a, ChannelTable>,
    hash: u64,
}

/// Tables with a smaller capacity are not shrunk.
const SHRINK_FROM: usize = 64;

fn hash(name: &str) -> u64 {
    FxBuildHasher.hash_one(name)
}

impl InterestShard<'_> {
    pub(crate) fn get(&self, name: &str) -> Option<&LocalChannel> {
        self.channels.0.find(self.hash, |local| local.channel.as_str() == name).map(|local| &**local)
    }

    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut LocalChannel> {
        let found = self.channels.0.find_mut(self.hash, |local| local.channel.as_str() == name);
        found.map(|local| &mut **local)
    }

    pub(crate) fn get_or_insert_with(
        &mut self,
        name: &str,
        new: impl FnOnce() -> LocalChannel,
    ) -> &mut LocalChannel {
        let table = &mut self.channels.0;
        let entry = table.entry(
            self.hash,
            |local| local.channel.as_str() == name,
            |local| hash(local.channel.as_str()),
        );
        entry.or_insert_with(|| Box::new(new())).into_mut()
    }

    /// Removes a channel. Returns its namespace if it was there.
    pub(crate) fn remove(&mut self, name: &str) -> Option<NamespaceId> {
        let table = &mut self.channels.0;
        let found = table.find_entry(self.hash, |local| local.channel.as_str() == name).ok();
        let namespace = found.map(|entry| entry.remove().0.namespace());
        // Returns memory after many channels have gone.
        if table.capacity() >= SHRINK_FROM && table.len() < table.capacity() / 8 {
            table.shrink_to(table.len() * 2, |local| hash(local.channel.as_str()));
        }
        namespace
    }
}

/// A channel's share of the retained bytes; given back when dropped.
#[derive(Debug)]
struct RetainedBytes {
    bytes: usize,
    total: Arc<AtomicUsize>,
}

impl Drop for RetainedBytes {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Interest {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            retained_bytes: Arc::default(),
            lives: AtomicU64::new(0),
        }
    }

    /// Makes a channel that had no subscribers here until now. The caller inserts it.
    pub(crate) fn channel(
        &self,
        channel: Channel,
        link: ChannelLink,
        retention: Retention,
        namespace: NamespaceId,
        now: Moment,
    ) -> LocalChannel {
        let feed = Feed::default();
        let terms = PackedTerms::new(retention, namespace);
        LocalChannel { channel, workers: 0, link, feed, terms, checked: now, aside: None }
    }

    /// Resets a channel: later publications have nothing to do with earlier ones. Joins that wait for an earlier read of
    /// history read for themselves.
    pub(crate) fn begin_anew(&self, local: &mut LocalChannel) {
        local.feed = Feed::default();
        if let Some(ChannelRareState { waiting, roster, .. }) = local.aside.take().map(|aside| *aside)
            && (roster.is_some() || !waiting.is_empty())
        {
            let aside = self.aside(local);
            (aside.waiting, aside.roster) = (waiting, roster);
        }
    }

    /// Returns the rare state, which is created if need be. Call [`Self::weigh`] after a change.
    pub(crate) fn aside<'l>(&self, local: &'l mut LocalChannel) -> &'l mut ChannelRareState {
        let retention = local.retention();
        local.aside.get_or_insert_with(|| {
            let life = self.lives.fetch_add(1, Ordering::Relaxed);
            Box::new(ChannelRareState {
                waiting: Vec::new(),
                // The channel's retained history is not known yet.
                catch_up: CatchUp::new(life, retention),
                catch_up_waiting: Vec::new(),
                previous: None,
                roster: None,
                weight: RetainedBytes { bytes: 0, total: self.retained_bytes.clone() },
            })
        })
    }

    /// Recounts the bytes that a channel retains, and drops its rare state if unused.
    pub(crate) fn weigh(&self, local: &mut LocalChannel) {
        let Some(aside) = &mut local.aside else { return };
        if aside.is_unused() {
            local.aside = None;
            return;
        }
        let previous = aside.previous.as_ref().map_or(0, |previous| previous.data.bytes.len());
        let bytes = aside.catch_up.bytes() + previous;
        if bytes != aside.weight.bytes {
            self.retained_bytes.fetch_add(bytes, Ordering::Relaxed);
            self.retained_bytes.fetch_sub(aside.weight.bytes, Ordering::Relaxed);
            aside.weight.bytes = bytes;
        }
    }

    pub(crate) fn retained_bytes(&self) -> usize {
        self.retained_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn shard(&self, channel: &str) -> InterestShard<'_> {
        let hash = hash(channel);
        // Uses the high bits, because the tables inside use the low ones.
        let at = (hash >> 32) as usize % SHARDS;
        InterestShard { channels: self.shards[at].lock(), hash }
    }

    /// Bit N: worker N has subscribers of the channel.
    pub(crate) fn workers(&self, channel: &Channel) -> u64 {
        self.shard(channel.as_str()).get(channel.as_str()).map_or(0, |local| local.workers)
    }

    /// Visits every channel, a shard at a time.
    pub(crate) fn for_each(&self, mut look: impl FnMut(&mut LocalChannel)) {
        (0..SHARDS).for_each(|shard| self.for_each_of(shard, &mut look));
    }

    /// Visits the channels of one shard.
    pub(crate) fn for_each_of(&self, shard: usize, mut look: impl FnMut(&mut LocalChannel)) {
        self.shards[shard % SHARDS].lock().0.iter_mut().for_each(|local| look(local));
    }

    pub(crate) fn channels(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().0.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_channel_keeps_and_where_it_is_counted_are_packed_together_and_come_back() {
        let all = [
            (0, 0, KeysBeside::None),
            (1, 1, KeysBeside::Expiring),
            (1_000_000, 31_536_000, KeysBeside::Staying),
        ];
        for (size, seconds, beside) in all {
            let retention = Retention { size, ttl: Duration::from_secs(seconds), beside };
            let packed = PackedTerms::new(retention, NamespaceId(u8::MAX));
            assert_eq!((packed.retention(), packed.namespace()), (retention, NamespaceId(u8::MAX)));
        }
    }
}
