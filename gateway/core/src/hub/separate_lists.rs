//! Separate lists for subscribers with special terms: a filter, joins and leaves, patches, or newest values. Each
//! combination of terms has a list of its own, so there is one for each filter and for each rate of newest values.
//!
//! To the rest of the hub each list is a channel of its own; the channel's first list knows the others. So subscribers
//! without special terms pay nothing for those with them, and a filter is evaluated once for all subscribers that have
//! it.

use std::sync::Arc;
use std::time::Duration;

use rustc_hash::FxHashMap;
use shared::position::StreamPosition;
use shared::push::OwnedEvent;
use smallvec::SmallVec;

use super::bundle::Bundles;
use super::members::{AmongLists, Members};
use super::places::ListPosition;
use super::prepared::Prepared;
use super::subscriber::{Sink, Subscriber};
use super::{Counts, Hub};
use crate::newest::{self, NewestTerms, NewestWindow};
use crate::tag_filter::TagFilter;

/// The terms that the subscribers of one list share.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct ListTerms {
    filter: Option<Arc<TagFilter>>,
    joins_and_leaves: bool,
    patches: bool,
    newest: Option<NewestPace>,
}

/// The rate and the age limit of subscribers that are sent the newest values.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct NewestPace {
    times_per_s: u32,
    value_ttl_ms: u32,
}

impl From<NewestTerms> for NewestPace {
    fn from(latest: NewestTerms) -> Self {
        Self { times_per_s: latest.times_per_s, value_ttl_ms: latest.value_ttl_ms }
    }
}

/// The state of a list other than the channel's first.
#[derive(Debug)]
pub(super) struct SeparateList {
    wants: ListTerms,
    /// The channel's first list.
    first: u32,
    /// The index of this list in the first list's [`SeparateLists`].
    index: usize,
    /// With patches: the position of the last publication that was given to all live subscribers that are not fresh.
    given: Option<StreamPosition>,
    /// Number of live subscribers that are fresh: they get the next publication whole.
    fresh: usize,
    /// With newest values: the values that wait for all subscribers of the list.
    pub(super) window: Option<NewestWindow<Arc<Prepared>>>,
}

/// The lists of a channel other than its first.
#[derive(Debug, Default)]
pub(super) struct SeparateLists {
    ids: Vec<u32>,
    by_wants: FxHashMap<ListTerms, u32>,
}

impl SeparateLists {
    pub(super) fn ids(&self) -> &[u32] {
        &self.ids
    }
}

impl Members {
    /// Returns the filter that publications must match to be delivered to this list.
    pub(super) fn filter(&self) -> Option<&Arc<TagFilter>> {
        self.apart()?.wants.filter.as_ref()
    }
}

impl ListTerms {
    /// Returns the terms of a subscriber. `None` for the usual terms: every publication, whole, and nothing else.
    #[inline]
    pub(super) fn of(
        subscriber: Subscriber,
        filter: Option<Arc<TagFilter>>,
        newest: Option<NewestPace>,
    ) -> Option<Self> {
        let joins_and_leaves = subscriber.wants_joins_and_leaves();
        let patches = subscriber.variant.takes_patches();
        let is_special = filter.is_some() || joins_and_leaves || patches || newest.is_some();
        is_special.then_some(Self { filter, joins_and_leaves, patches, newest })
    }

    /// Returns these terms with newest values at the given pace, or without them.
    pub(super) fn with_newest(&self, newest: Option<NewestPace>) -> Self {
        Self { newest, ..self.clone() }
    }

    pub(super) fn is_usual(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn patches(&self) -> bool {
        self.patches
    }
}

/// Returns whether an event is for the subscribers of a list.
pub(super) fn wants(apart: Option<&SeparateList>, prepared: &Prepared) -> bool {
    match prepared.event() {
        OwnedEvent::Publication(publication) => apart
            .and_then(|apart| apart.wants.filter.as_deref())
            .is_none_or(|filter| filter.matches(&publication.tags)),
        OwnedEvent::Counted { .. } => true,
        OwnedEvent::Joined(_)
        | OwnedEvent::Left(_)
        | OwnedEvent::MemberAdded { .. }
        | OwnedEvent::MemberRemoved { .. } => wants_joins_and_leaves(apart),
    }
}

pub(super) fn wants_joins_and_leaves(apart: Option<&SeparateList>) -> bool {
    apart.is_some_and(|apart| apart.wants.joins_and_leaves)
}

/// Returns the bundles of those publications that are for a list whose subscribers were last given the publication at
/// `given`. `None` if there are none.
pub(super) fn bundles<'a>(
    apart: Option<&SeparateList>,
    given: Option<StreamPosition>,
    publications: impl IntoIterator<Item = &'a Arc<Prepared>>,
) -> Option<Bundles> {
    let wanted = publications.into_iter().filter(|prepared| wants(apart, prepared));
    let wanted: SmallVec<[Arc<Prepared>; 1]> = wanted.cloned().collect();
    let are_newest = apart.is_some_and(|apart| apart.window.is_some());
    (!wanted.is_empty()).then(|| match are_newest {
        true => Bundles::newest(wanted),
        false => Bundles::after(given, wanted),
    })
}

impl SeparateList {
    pub(super) fn wants(&self) -> &ListTerms {
        &self.wants
    }
}

impl Members {
    /// Returns the window of values that wait for the subscribers of this list, if it is one of newest values.
    pub(super) fn window(&mut self) -> Option<&mut NewestWindow<Arc<Prepared>>> {
        self.apart_mut()?.window.as_mut()
    }

    /// Returns the bundles of those publications that are for this list, whose subscribers were last given the one at
    /// `given`. `None` if there are none.
    pub(super) fn bundles(
        &self,
        given: Option<StreamPosition>,
        publications: &[Arc<Prepared>],
    ) -> Option<Bundles> {
        bundles(self.apart(), given, publications)
    }

    /// Returns the position of the last publication that was given to all live subscribers that are not fresh.
    pub(super) fn given(&self) -> Option<StreamPosition> {
        self.apart().and_then(|apart| apart.given)
    }

    /// Notes that bundles are delivered to all live subscribers.
    pub(super) fn give(&mut self, bundles: &Bundles) {
        let Some(apart) = self.apart_mut().filter(|apart| apart.wants.patches) else { return };
        if let Some(last) = bundles.last_publication() {
            apart.given = last.position;
        }
    }

    /// Notes that not all live subscribers were given the last publication, so that the next one is sent to all of them
    /// whole.
    pub(super) fn forget_given(&mut self) {
        if let Some(apart) = self.apart_mut() {
            apart.given = None;
        }
    }

    /// Determines whether a subscriber at `position` that goes live is fresh in this list.
    pub(super) fn freshness(
        &mut self,
        subscriber: Subscriber,
        position: Option<StreamPosition>,
    ) -> Subscriber {
        let is_first = self.live.is_empty();
        let Some(apart) = self.apart_mut().filter(|apart| apart.wants.patches) else { return subscriber };
        if subscriber.has_last() && is_first {
            // It is the only live subscriber, so what it was given is what all live subscribers were given.
            apart.given = position;
        }
        let is_fresh = !subscriber.has_last() || position.is_none() || apart.given != position;
        apart.fresh += usize::from(is_fresh);
        subscriber.fresh(is_fresh)
    }

    /// Updates the count of fresh subscribers after one has left the live ones.
    pub(super) fn forget_freshness(&mut self, subscriber: Subscriber) {
        if let Some(apart) = self.apart_mut().filter(|_| subscriber.is_fresh()) {
            apart.fresh -= 1;
        }
    }

    pub(super) fn has_fresh(&self) -> bool {
        self.apart().is_some_and(|apart| apart.fresh > 0)
    }

    /// Marks live subscribers of a range as given the bundles, and so no longer fresh. Joins and leaves contain no
    /// payload, and change nothing.
    pub(super) fn have_been_given(&mut self, from: usize, until: usize, bundles: &Bundles) {
        if !self.has_fresh() || bundles.last_publication().is_none() {
            return;
        }
        let mut served = 0;
        for subscriber in &mut self.live[from..until] {
            served += usize::from(subscriber.is_fresh());
            *subscriber = subscriber.fresh(false);
        }
        if let Some(apart) = self.apart_mut() {
            apart.fresh -= served;
        }
    }
}

/// Delivers to each subscriber the bundles it can take: fresh ones get the first publication whole.
pub(super) fn hand(
    subscribers: &[Subscriber],
    now: &mut Bundles,
    whole: &mut Option<Box<Bundles>>,
    sink: &mut impl Sink,
) {
    for alike in subscribers.chunk_by(|one, other| one.is_fresh() == other.is_fresh()) {
        match alike.first().is_some_and(|first| first.is_fresh()) {
            true => {
                sink.deliver(alike, whole.get_or_insert_with(|| Box::new(Bundles::new(now.publications()))))
            }
            false => sink.deliver(alike, now),
        }
    }
}

impl Hub {
    /// Returns the list and the place of a connection in a channel whose first list is `first`.
    #[inline]
    pub(super) fn find_place(&self, first: u32, key: u32) -> Option<(u32, ListPosition)> {
        match self.places.get(key, first) {
            Some(at) => Some((first, at)),
            None => self.find_apart(first, key),
        }
    }

    /// Removes and returns the list and the place of a connection in a channel.
    #[inline]
    pub(super) fn take_place(&mut self, first: u32, key: u32) -> Option<(u32, ListPosition)> {
        if let Some(at) = self.places.remove(key, first) {
            return Some((first, at));
        }
        let (id, at) = self.find_apart(first, key)?;
        self.places.remove(key, id);
        Some((id, at))
    }

    fn find_apart(&self, first: u32, key: u32) -> Option<(u32, ListPosition)> {
        self.channels.get(first as usize)?.others()?;
        let is_of_this_channel = |id: u32| {
            let apart = self.channels.get(id as usize).and_then(|members| members.apart());
            apart.is_some_and(|apart| apart.first == first)
        };
        let mut row = self.places.row(key).iter();
        row.find(|place| is_of_this_channel(place.channel)).map(|place| (place.channel, place.at))
    }

    /// Returns the list for subscribers with these terms, creating it if there is none.
    pub(super) fn list_for(&mut self, first: u32, wants: ListTerms) -> u32 {
        let members = &mut self.channels[first as usize];
        if let Some(&id) = members.others().and_then(|others| others.by_wants.get(&wants)) {
            return id;
        }
        let channel = members.channel.clone();
        let index = members.others().map_or(0, |others| others.ids.len());
        let window = wants.newest.map(|pace| {
            let ttl = Duration::from_millis(pace.value_ttl_ms.into());
            NewestWindow::new(newest::interval(pace.times_per_s), ttl)
        });
        let apart = SeparateList { wants: wants.clone(), first, index, given: None, fresh: 0, window };
        let among = Some(Box::new(AmongLists::Separate(apart)));
        let id = self.channels.insert(Box::new(Members { among, ..Members::new(channel) })) as u32;
        let first = &mut self.channels[first as usize];
        if first.among.is_none() {
            first.among = Some(Box::new(AmongLists::First(SeparateLists::default())));
        }
        let others = first.others_mut().expect("no list but the first has others");
        others.ids.push(id);
        others.by_wants.insert(wants, id);
        id
    }

    /// Returns whether the channel of an empty list has no subscribers in its other lists either.
    pub(super) fn is_last(&self, id: u32) -> bool {
        match self.channels[id as usize].apart() {
            None => self.channels[id as usize].others().is_none(),
            Some(apart) => {
                let first = &self.channels[apart.first as usize];
                first.is_empty() && first.others().is_none_or(|others| others.ids.len() == 1)
            }
        }
    }

    /// Drops an empty list, and the channel if it was the last one.
    pub(super) fn drop_empty(&mut self, id: u32) {
        let members = &mut self.channels[id as usize];
        match members.apart() {
            None if members.others().is_none() => self.forget(id),
            None => {
                // The first list stays, but does not follow the stream while it is empty.
                members.stream = None;
                members.unserved = 0;
                self.sweeps.forget(id);
            }
            Some(apart) => {
                let (first, index) = (apart.first, apart.index);
                let dropped = self.channels.remove(id as usize);
                self.sweeps.forget(id);
                self.take_from_others(first, index, dropped.apart());
                let first_members = &self.channels[first as usize];
                if first_members.is_empty() && first_members.others().is_none() {
                    self.forget(first);
                }
            }
        }
    }

    fn take_from_others(&mut self, first: u32, index: usize, dropped: Option<&SeparateList>) {
        let Some(others) = self.channels[first as usize].others_mut() else { return };
        others.ids.swap_remove(index);
        if let Some(apart) = dropped {
            others.by_wants.remove(&apart.wants);
        }
        match others.ids.get(index).copied() {
            Some(moved) => {
                if let Some(apart) = self.channels[moved as usize].apart_mut() {
                    apart.index = index;
                }
            }
            None if others.ids.is_empty() => self.channels[first as usize].among = None,
            None => {}
        }
    }

    /// Calls `act` for each list of a channel that is not empty. Duplicates and gaps, which every list counts, are
    /// counted once.
    pub(super) fn for_each_list(&mut self, first: u32, mut act: impl FnMut(&mut Self, u32)) {
        let before = self.counts;
        let mut most = before;
        let (mut index, mut served) = (0, 0);
        let mut next = Some(first);
        while let Some(id) = next {
            if let Some(members) = self.channels.get(id as usize).filter(|members| !members.is_empty()) {
                self.sweeps.leave_room(served);
                served += members.live.len();
                act(self, id);
                let now = self.counts;
                most.duplicates = most.duplicates.max(now.duplicates);
                most.gaps = most.gaps.max(now.gaps);
                self.counts = Counts { duplicates: before.duplicates, gaps: before.gaps, ..now };
            }
            let others = self.channels.get(first as usize).and_then(|members| members.others());
            next = others.and_then(|others| others.ids.get(index).copied());
            index += 1;
        }
        self.sweeps.leave_room(0);
        self.counts = Counts { duplicates: most.duplicates, gaps: most.gaps, ..self.counts };
    }

    /// Returns the first list of this list's channel.
    pub(super) fn first_of(&self, id: u32) -> u32 {
        self.channels.get(id as usize).and_then(|members| members.apart()).map_or(id, |apart| apart.first)
    }
}
