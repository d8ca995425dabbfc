//! One list of a channel's subscribers on one worker, with a part for each state of a subscription.

use shared::channel::Channel;
use shared::position::StreamPosition;
use smallvec::SmallVec;

use super::hold_back::HoldBackQueue;
use super::places::{ListPosition, PlaceList, Places};
use super::separate_lists::{SeparateList, SeparateLists};
use super::subscriber::Subscriber;

/// Lists shorter than this keep their memory.
const SHRINK_FROM: usize = 64;

#[derive(Debug)]
pub(super) struct Members {
    pub(super) channel: Channel,
    /// The position of the last publication that this worker saw or was told of. `None` before the first one, and in a
    /// channel without a stream.
    pub(super) stream: Option<StreamPosition>,
    /// Subscribers that get every publication as soon as it comes.
    pub(super) live: SmallVec<[Subscriber; 2]>,
    /// While the list is swept: the number of subscribers at the front of `live` that are still to be served.
    pub(super) unserved: u32,
    /// Subscribers in other states. Most channels have none most of the time.
    pub(super) aside: Option<Box<MembersRareState>>,
    /// The role of this list, if the channel has several.
    pub(super) among: Option<Box<AmongLists>>,
}

/// The role of one of several lists of a channel. One field for both roles, since no list has both.
#[derive(Debug)]
pub(super) enum AmongLists {
    /// The channel's first list, which knows the others.
    First(SeparateLists),
    /// A list of subscribers with special terms.
    Separate(SeparateList),
}

#[derive(Debug, Default)]
pub(super) struct MembersRareState {
    /// Subscribers for which publications are held back until they go live.
    pub(super) joining: Vec<JoiningMember>,
    pub(super) held: HoldBackQueue,
    /// Subscribers that are ahead of this worker: publications that they have already are still on their way here.
    pub(super) waiting: Vec<WaitingMember>,
    /// Subscribers that were told of a gap in their stream.
    pub(super) insufficient: Vec<InsufficientMember>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct JoiningMember {
    pub(super) subscriber: Subscriber,
    /// The number in `held` of the first publication of the stream after the last join.
    pub(super) from: u64,
    /// The number in `held` of the first event after the first join, for events that are in no history, joins and
    /// leaves above all.
    pub(super) since: u64,
    /// The position up to which publications of the stream were lost since.
    pub(super) lost: Option<StreamPosition>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct WaitingMember {
    pub(super) subscriber: Subscriber,
    pub(super) position: StreamPosition,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct InsufficientMember {
    pub(super) key: u32,
}

const _: () = assert!(size_of::<Members>() <= 80, "there can be as many channels as connections");

impl Members {
    pub(super) fn new(channel: Channel) -> Self {
        Self { channel, stream: None, live: SmallVec::new(), unserved: 0, aside: None, among: None }
    }

    /// Returns the state of a list other than the channel's first.
    #[inline]
    pub(super) fn apart(&self) -> Option<&SeparateList> {
        match self.among.as_deref()? {
            AmongLists::Separate(apart) => Some(apart),
            AmongLists::First(_) => None,
        }
    }

    #[inline]
    pub(super) fn apart_mut(&mut self) -> Option<&mut SeparateList> {
        match self.among.as_deref_mut()? {
            AmongLists::Separate(apart) => Some(apart),
            AmongLists::First(_) => None,
        }
    }

    /// Returns the other lists, if this is the channel's first and there are others.
    #[inline]
    pub(super) fn others(&self) -> Option<&SeparateLists> {
        match self.among.as_deref()? {
            AmongLists::First(others) => Some(others),
            AmongLists::Separate(_) => None,
        }
    }

    pub(super) fn others_mut(&mut self) -> Option<&mut SeparateLists> {
        match self.among.as_deref_mut()? {
            AmongLists::First(others) => Some(others),
            AmongLists::Separate(_) => None,
        }
    }

    pub(super) fn aside(&mut self) -> &mut MembersRareState {
        self.aside.get_or_insert_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.live.is_empty() && self.aside.as_ref().is_none_or(|aside| aside.is_unused())
    }

    /// Adds a live subscriber, which is at `position` if it follows the stream.
    #[inline]
    pub(super) fn make_live(
        &mut self,
        subscriber: Subscriber,
        position: Option<StreamPosition>,
        id: u32,
        places: &mut Places,
    ) {
        let subscriber = self.freshness(subscriber, position);
        places.set(subscriber.key, id, ListPosition::new(PlaceList::Live, self.live.len()));
        self.live.push(subscriber);
        if let Some(window) = self.window() {
            window.join(subscriber.key);
        }
    }

    pub(super) fn make_joining(&mut self, subscriber: Subscriber, id: u32, places: &mut Places) {
        let aside = self.aside();
        places.set(subscriber.key, id, ListPosition::new(PlaceList::Joining, aside.joining.len()));
        let from = aside.held.next();
        aside.joining.push(JoiningMember { subscriber, from, since: from, lost: None });
    }

    /// Restarts a joining subscriber that reads history up to the present again. Returns how many held bytes no
    /// subscriber waits for any more.
    pub(super) fn join_again(&mut self, subscriber: Subscriber, index: usize) -> usize {
        let Some(MembersRareState { joining, held, .. }) = self.aside.as_deref_mut() else { return 0 };
        let is_alone = joining.len() == 1;
        if let Some(joining) = joining.get_mut(index) {
            *joining = JoiningMember { subscriber, from: held.next(), since: joining.since, lost: None };
        }
        if is_alone { held.release_held_stream() } else { 0 }
    }

    pub(super) fn make_waiting(
        &mut self,
        subscriber: Subscriber,
        position: StreamPosition,
        id: u32,
        places: &mut Places,
    ) {
        let waiting = &mut self.aside().waiting;
        places.set(subscriber.key, id, ListPosition::new(PlaceList::Waiting, waiting.len()));
        waiting.push(WaitingMember { subscriber, position });
    }

    /// Returns how many subscribers wait for the stream to reach their position.
    pub(super) fn waiting(&self) -> usize {
        self.aside.as_ref().map_or(0, |aside| aside.waiting.len())
    }

    /// Marks a waiting subscriber as due to be served in its turn. It goes on waiting.
    pub(super) fn make_due(&mut self, index: usize) {
        if let Some(waiting) = self.aside.as_mut().and_then(|aside| aside.waiting.get_mut(index)) {
            waiting.subscriber = waiting.subscriber.due(true);
        }
    }

    /// Takes the due subscribers among the first `until` waiting ones, from the last to the first, at most `count`.
    /// Returns them, and the index below which further ones may be due.
    pub(super) fn take_due(&mut self, until: usize, count: usize) -> (Vec<Subscriber>, usize) {
        let Some(aside) = &mut self.aside else { return (Vec::new(), 0) };
        let mut until = until.min(aside.waiting.len());
        let mut taken = Vec::new();
        while until > 0 && taken.len() < count {
            until -= 1;
            let subscriber = &mut aside.waiting[until].subscriber;
            if subscriber.is_due() {
                *subscriber = subscriber.due(false);
                taken.push(*subscriber);
            }
        }
        (taken, until)
    }

    pub(super) fn make_insufficient(&mut self, key: u32, id: u32, places: &mut Places) {
        let insufficient = &mut self.aside().insufficient;
        places.set(key, id, ListPosition::new(PlaceList::Insufficient, insufficient.len()));
        insufficient.push(InsufficientMember { key });
    }

    /// Removes an entry from its part of the list. The caller has to change the entry's own place. Returns how many
    /// held bytes no subscriber waits for any more.
    pub(super) fn take_out(&mut self, at: ListPosition, id: u32, places: &mut Places) -> usize {
        let mut freed = 0;
        match (at.list(), self.aside.as_mut()) {
            (PlaceList::Live, _) => self.take_live(at.index(), id, places),
            (PlaceList::Joining, Some(aside)) => {
                swap_out(&mut aside.joining, at.index(), PlaceList::Joining, id, places);
                freed = aside.release_held();
            }
            (PlaceList::Waiting, Some(aside)) => {
                swap_out(&mut aside.waiting, at.index(), PlaceList::Waiting, id, places);
            }
            (PlaceList::Insufficient, Some(aside)) => {
                swap_out(&mut aside.insufficient, at.index(), PlaceList::Insufficient, id, places);
            }
            (_, None) => {}
        }
        self.drop_unused_aside();
        freed
    }

    pub(super) fn take_live(&mut self, mut index: usize, id: u32, places: &mut Places) {
        // A subscriber that has been served must not be moved among those that have not.
        let unserved = self.unserved as usize;
        if index < unserved {
            self.unserved -= 1;
            self.swap_live(index, unserved - 1, id, places);
            index = unserved - 1;
        }
        if index >= self.live.len() {
            return;
        }
        let taken = self.live.swap_remove(index);
        if let Some(moved) = self.live.get(index) {
            places.set(moved.key, id, ListPosition::new(PlaceList::Live, index));
        }
        if is_sparse(self.live.len(), self.live.capacity()) {
            // `grow` sets the capacity to exactly this many.
            self.live.grow(self.live.len() * 2);
        }
        self.forget_freshness(taken);
        if let Some(window) = self.window() {
            window.leave(taken.key);
        }
    }

    /// Moves a subscriber that is still to be served behind those that are. Returns its index then, or `None` if it has
    /// been served.
    pub(super) fn mark_served(&mut self, index: usize, id: u32, places: &mut Places) -> Option<usize> {
        let last = (self.unserved as usize).checked_sub(1).filter(|&last| index <= last)?;
        self.unserved -= 1;
        self.swap_live(index, last, id, places);
        places.set(self.live[last].key, id, ListPosition::new(PlaceList::Live, last));
        Some(last)
    }

    /// Swaps two entries. The caller has to change the place of the one that goes to `other`.
    fn swap_live(&mut self, index: usize, other: usize, id: u32, places: &mut Places) {
        if index != other {
            self.live.swap(index, other);
            places.set(self.live[index].key, id, ListPosition::new(PlaceList::Live, index));
        }
    }

    pub(super) fn drop_unused_aside(&mut self) {
        if self.aside.as_ref().is_some_and(|aside| aside.is_unused()) {
            self.aside = None;
        }
    }
}

impl MembersRareState {
    fn is_unused(&self) -> bool {
        self.joining.is_empty() && self.waiting.is_empty() && self.insufficient.is_empty()
    }

    /// Drops held events once no subscriber is joining. Returns how many bytes that frees.
    pub(super) fn release_held(&mut self) -> usize {
        if self.joining.is_empty() { self.held.clear() } else { 0 }
    }
}

/// An entry that knows its connection, so that the place can be updated when the entry moves.
pub(super) trait Keyed {
    fn key(&self) -> u32;
}

impl Keyed for JoiningMember {
    fn key(&self) -> u32 {
        self.subscriber.key
    }
}

impl Keyed for WaitingMember {
    fn key(&self) -> u32 {
        self.subscriber.key
    }
}

impl Keyed for InsufficientMember {
    fn key(&self) -> u32 {
        self.key
    }
}

/// Removes one entry by moving the last one into its place.
#[inline]
pub(super) fn swap_out<T: Keyed>(
    entries: &mut Vec<T>,
    index: usize,
    list: PlaceList,
    id: u32,
    places: &mut Places,
) -> Option<T> {
    if index >= entries.len() {
        return None;
    }
    let taken = entries.swap_remove(index);
    if let Some(moved) = entries.get(index) {
        places.set(moved.key(), id, ListPosition::new(list, index));
    }
    if is_sparse(entries.len(), entries.capacity()) {
        entries.shrink_to(entries.len() * 2);
    }
    Some(taken)
}

/// Returns whether a list has so many free slots, after many subscribers have left, that they are worth freeing.
fn is_sparse(length: usize, capacity: usize) -> bool {
    capacity >= SHRINK_FROM && length < capacity / 4
}
