//! Subscribers of a channel who do not get just what most of them get stand in lists of their own: those with a filter, a
//! list for each filter, those who want to be told of joins and leaves, those who have agreed to patches, those who are sent
//! the newest values, a list for each number of times a second.
//!
//! Each list is a channel to itself, as far as the rest of the hub goes; the first one knows the others. So whoever
//! wants nothing in particular pays nothing for those who do, and a filter is asked once for all who have it.

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

/// What the subscribers of one list get.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct ListTerms {
    filter: Option<Arc<TagFilter>>,
    joins_and_leaves: bool,
    patches: bool,
    newest: Option<NewestPace>,
}

/// How those are served who are sent the newest values.
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

/// What sets a list apart from the channel's first.
#[derive(Debug)]
pub(super) struct SeparateList {
    wants: ListTerms,
    /// The channel's first list.
    first: u32,
    /// Where it is named there.
    index: usize,
    /// For those with patches: the last publication that was given to all who are live and not fresh.
    given: Option<StreamPosition>,
    /// How many of the live are fresh: they get the next publication whole.
    fresh: usize,
    /// For those who are sent the newest values: what waits for all of them.
    pub(super) window: Option<NewestWindow<Arc<Prepared>>>,
}

/// The lists beside a channel's first.
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
    /// What publications must match to be given to this list.
    pub(super) fn filter(&self) -> Option<&Arc<TagFilter>> {
        self.apart()?.wants.filter.as_ref()
    }
}

impl ListTerms {
    /// `None` for what most want: every publication, whole, and nothing else.
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

    /// The same for those who are sent the newest values, or all. `None` for what most want, or for those who have agreed to
    /// patches.
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

/// Whether this event is for the subscribers of a list.
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

/// Those of these that are for a list, for who was given the one at `given` last. `None` if there is none.
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
    /// What waits for all who are sent the newest values here, if this is a list of those.
    pub(super) fn window(&mut self) -> Option<&mut NewestWindow<Arc<Prepared>>> {
        self.apart_mut()?.window.as_mut()
    }

    /// Those of these that are for this list, for who was given the one at `given` last. `None` if there is none.
    pub(super) fn bundles(
        &self,
        given: Option<StreamPosition>,
        publications: &[Arc<Prepared>],
    ) -> Option<Bundles> {
        bundles(self.apart(), given, publications)
    }

    /// The last publication that was given to all who are live and not fresh.
    pub(super) fn given(&self) -> Option<StreamPosition> {
        self.apart().and_then(|apart| apart.given)
    }

    /// These go to all who are live.
    pub(super) fn give(&mut self, bundles: &Bundles) {
        let Some(apart) = self.apart_mut().filter(|apart| apart.wants.patches) else { return };
        if let Some(last) = bundles.last_publication() {
            apart.given = last.position;
        }
    }

    /// Not all who are live have been given what was to be given to all: the next publication goes to everyone whole.
    pub(super) fn forget_given(&mut self) {
        if let Some(apart) = self.apart_mut() {
            apart.given = None;
        }
    }

    /// A subscriber that stands at `position` comes to the live: whether it is fresh there.
    pub(super) fn freshness(
        &mut self,
        subscriber: Subscriber,
        position: Option<StreamPosition>,
    ) -> Subscriber {
        let is_first = self.live.is_empty();
        let Some(apart) = self.apart_mut().filter(|apart| apart.wants.patches) else { return subscriber };
        if subscriber.has_last() && is_first {
            // What it was given is what all are given who are live.
            apart.given = position;
        }
        let is_fresh = !subscriber.has_last() || position.is_none() || apart.given != position;
        apart.fresh += usize::from(is_fresh);
        subscriber.fresh(is_fresh)
    }

    /// This one is live no more.
    pub(super) fn forget_freshness(&mut self, subscriber: Subscriber) {
        if let Some(apart) = self.apart_mut().filter(|_| subscriber.is_fresh()) {
            apart.fresh -= 1;
        }
    }

    pub(super) fn has_fresh(&self) -> bool {
        self.apart().is_some_and(|apart| apart.fresh > 0)
    }

    /// These of the live have been given what is in flight. Joins and leaves say nothing of any payload.
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

/// Gives each of these what it can have: those who are fresh get the first publication whole.
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
    /// Where a connection stands in a channel, whose first list is `first`.
    #[inline]
    pub(super) fn find_place(&self, first: u32, key: u32) -> Option<(u32, ListPosition)> {
        match self.places.get(key, first) {
            Some(at) => Some((first, at)),
            None => self.find_apart(first, key),
        }
    }

    /// The same, and it stands there no more.
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

    /// The list for those who want this, made if there is none.
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

    /// Whether nobody is left in the channel of this list, in which nobody is.
    pub(super) fn is_last(&self, id: u32) -> bool {
        match self.channels[id as usize].apart() {
            None => self.channels[id as usize].others().is_none(),
            Some(apart) => {
                let first = &self.channels[apart.first as usize];
                first.is_empty() && first.others().is_none_or(|others| others.ids.len() == 1)
            }
        }
    }

    /// Drops a list that nobody is in any more, and the channel with its last.
    pub(super) fn drop_empty(&mut self, id: u32) {
        let members = &mut self.channels[id as usize];
        match members.apart() {
            None if members.others().is_none() => self.forget(id),
            None => {
                // It stays, being the first, and knows nothing of what comes while nobody is in it.
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

    /// Does something for each of a channel's lists in which anyone is. What all of them count is counted once.
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

    /// The same channel's list that stands first.
    pub(super) fn first_of(&self, id: u32) -> u32 {
        self.channels.get(id as usize).and_then(|members| members.apart()).map_or(id, |apart| apart.first)
    }
}
