//! Which workers want which channels, and what stands between this node and the broker for each.
//!
//! Locks here are held for a few instructions and never across a wait. The order of a channel's publications is
//! the order in which its shard's lock is taken, so what is pushed to workers is pushed under it.

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

/// Locks the channels are spread over.
pub(super) const SHARDS: usize = 64;

/// One channel that some worker of this node wants, or wanted until a moment ago.
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

/// What a channel keeps, in a third of a [`Retention`]'s bytes, and where it is counted.
#[derive(Clone, Copy, Debug)]
struct PackedTerms {
    /// In the low bits, which are enough for what a namespace may keep; above them the namespace.
    publications: u32,
    /// Rounded up: namespaces say it in seconds. Above them what is kept beside it.
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

/// What few channels have, or none for long: in a box of its own while there is any of it.
#[derive(Debug)]
pub(crate) struct ChannelRareState {
    /// Joins that wait for the broker to deliver the channel.
    pub(crate) waiting: Vec<oneshot::Sender<Result<(), BrokerError>>>,
    /// What those who join are told of the channel's retained history.
    pub(crate) catch_up: CatchUp,
    /// Joins that wait for somebody's read of it.
    pub(crate) catch_up_waiting: Vec<oneshot::Sender<CatchUpResult>>,
    /// In a channel with patches: the last publication that was handed out.
    previous: Option<PreviousPublication>,
    /// Who is there, where subscribers are told of users.
    pub(crate) roster: Option<Box<Roster>>,
    /// What `catch_up` and `previous` keep, as it was last counted.
    weight: RetainedBytes,
}

/// Whether the broker delivers a channel to this node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ChannelLink {
    /// Not subscribed; in the queue of what should be.
    Queued,
    Subscribing,
    Up,
    /// Subscribed without need: let go unless someone comes back before this moment.
    Lingering(Moment),
    Unsubscribing,
}

impl LocalChannel {
    pub(crate) fn retention(&self) -> Retention {
        self.terms.retention()
    }

    /// Where it is counted.
    pub(crate) fn namespace(&self) -> NamespaceId {
        self.terms.namespace()
    }

    /// It is counted there from now on. Returns where it was before.
    pub(super) fn count_in(&mut self, namespace: NamespaceId) -> NamespaceId {
        let before = self.terms;
        self.terms = PackedTerms::new(before.retention(), namespace);
        before.namespace()
    }

    /// Whether somebody here would miss what does not come. Where no stream is kept, the feed knows of numbers if there
    /// are any.
    pub(super) fn is_followed(&self) -> bool {
        let is_numbered = self.retention().keeps_history() || self.feed.position().is_some();
        self.workers != 0 && self.link == ChannelLink::Up && is_numbered
    }

    /// What there is of it. To be weighed when it has changed.
    pub(super) fn aside(&mut self) -> Option<&mut ChannelRareState> {
        self.aside.as_deref_mut()
    }

    /// Who is there, where subscribers are told of users.
    pub(super) fn roster(&mut self) -> Option<&mut Roster> {
        self.aside.as_mut()?.roster.as_deref_mut()
    }

    /// Returns what a patch of this publication can be made from, and keeps this one for the next. A channel begins to
    /// keep with the first publication that may be sent as a patch, or a whole one would always be missing before it.
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
            // A copy, since the payload may be a small part of something large that was read.
            let data = Payload { kind: *kind, bytes: Bytes::copy_from_slice(bytes) };
            interest.aside(self).previous = Some(PreviousPublication { position, data });
        }
        previous
    }
}

impl ChannelRareState {
    /// Nothing that was handed out is known any more.
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

/// The channels of one shard by their names. A table of boxes: there can be as many as connections and more, and what is
/// free of a table costs no more than a pointer each.
#[derive(Debug, Default)]
struct ChannelTable(HashTable<Box<LocalChannel>>);

#[derive(Debug)]
pub(crate) struct Interest {
    shards: Box<[Mutex<ChannelTable>]>,
    /// What all channels keep to tell those who join.
    retained_bytes: Arc<AtomicUsize>,
    lives: AtomicU64,
}

/// One shard, locked, to look at the channel that it was asked for with.
pub(crate) struct InterestShard<'a> {
    channels: MutexGuard<'a, ChannelTable>,
    hash: u64,
}

/// Tables of fewer places keep their memory.
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

    /// Returns where it was counted, if it was there.
    pub(crate) fn remove(&mut self, name: &str) -> Option<NamespaceId> {
        let table = &mut self.channels.0;
        let found = table.find_entry(self.hash, |local| local.channel.as_str() == name).ok();
        let namespace = found.map(|entry| entry.remove().0.namespace());
        // After many have left, memory comes back.
        if table.capacity() >= SHRINK_FROM && table.len() < table.capacity() / 8 {
            table.shrink_to(table.len() * 2, |local| hash(local.channel.as_str()));
        }
        namespace
    }
}

/// A channel's part in what all of them keep, in bytes; taken back with the channel.
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

    /// A channel that nobody here wanted until now, and what is to become of its link.
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

    /// What comes from now on has nothing to do with what came before. Whoever waits for a read of before reads for
    /// themselves.
    pub(crate) fn begin_anew(&self, local: &mut LocalChannel) {
        local.feed = Feed::default();
        if let Some(ChannelRareState { waiting, roster, .. }) = local.aside.take().map(|aside| *aside)
            && (roster.is_some() || !waiting.is_empty())
        {
            let aside = self.aside(local);
            (aside.waiting, aside.roster) = (waiting, roster);
        }
    }

    /// What few channels have. To be weighed when it has changed.
    pub(crate) fn aside<'l>(&self, local: &'l mut LocalChannel) -> &'l mut ChannelRareState {
        let retention = local.retention();
        local.aside.get_or_insert_with(|| {
            let life = self.lives.fetch_add(1, Ordering::Relaxed);
            Box::new(ChannelRareState {
                waiting: Vec::new(),
                // Nothing is known of the channel's retained history.
                catch_up: CatchUp::new(life, retention),
                catch_up_waiting: Vec::new(),
                previous: None,
                roster: None,
                weight: RetainedBytes { bytes: 0, total: self.retained_bytes.clone() },
            })
        })
    }

    /// Counts anew what a channel keeps, and lets go of what holds nothing.
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
        // The high bits: the tables inside use the low ones.
        let at = (hash >> 32) as usize % SHARDS;
        InterestShard { channels: self.shards[at].lock(), hash }
    }

    /// Bit N: worker N has subscribers of the channel.
    pub(crate) fn workers(&self, channel: &Channel) -> u64 {
        self.shard(channel.as_str()).get(channel.as_str()).map_or(0, |local| local.workers)
    }

    /// Looks at every channel, a shard at a time.
    pub(crate) fn for_each(&self, mut look: impl FnMut(&mut LocalChannel)) {
        (0..SHARDS).for_each(|shard| self.for_each_of(shard, &mut look));
    }

    /// Looks at the channels of one shard.
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
