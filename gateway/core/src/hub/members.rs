//! The subscribers of one channel on one worker, in a list for each state a subscription can be in.

use shared::channel::Channel;
use shared::position::StreamPosition;
use smallvec::SmallVec;

use super::apart::{SeparateList, SeparateLists};
use super::hold_back::HoldBackQueue;
use super::places::{ListPosition, PlaceList, Places};
use super::subscriber::Subscriber;

/// Lists shorter than this keep their memory.
const SHRINK_FROM: usize = 64;

#[derive(Debug)]
pub(super) struct Members {
    pub(super) channel: Channel,
    /// The last publication this worker saw or was told of. `None` until the first, and without a stream.
    pub(super) stream: Option<StreamPosition>,
    /// Those who get every publication, as soon as it comes.
    pub(super) live: SmallVec<[Subscriber; 2]>,
    /// While the channel is swept: so many at the front of `live` are still to be served.
    pub(super) unserved: u32,
    /// The others. Most channels have none most of the time.
    pub(super) aside: Option<Box<MembersRareState>>,
    /// Where the channel has several lists: what this one is of them.
    pub(super) among: Option<Box<AmongLists>>,
}

/// One of several lists of a channel. In one place, since no list is both.
#[derive(Debug)]
pub(super) enum AmongLists {
    /// The first, which knows the others.
    First(SeparateLists),
    /// One of those who want something that is not what most want.
    Separate(SeparateList),
}

#[derive(Debug, Default)]
pub(super) struct MembersRareState {
    /// Publications are held back for these until they go live.
    pub(super) joining: Vec<JoiningMember>,
    pub(super) held: HoldBackQueue,
    /// These know more than this worker has seen: what they know already is still on its way here.
    pub(super) waiting: Vec<WaitingMember>,
    /// These were told that their stream has a hole.
    pub(super) insufficient: Vec<InsufficientMember>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct JoiningMember {
    pub(super) subscriber: Subscriber,
    /// The number in `held` of what came first after the join, of the stream.
    pub(super) from: u64,
    /// The same of what no history has, joins and leaves above all: after its first join, if this is one of several.
    pub(super) since: u64,
    /// What was known to be lost of the stream since.
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

    /// What these want that is not what most want.
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

    /// On a channel's first list: the others, if there are any.
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

    /// It stands at `position`, if it follows the stream.
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

    /// One that is joining reads on in history, up to what comes from now on. Returns how many held bytes nobody waits for
    /// any more.
    pub(super) fn join_again(&mut self, subscriber: Subscriber, index: usize) -> usize {
        let Some(MembersRareState { joining, held, .. }) = self.aside.as_deref_mut() else { return 0 };
        let is_alone = joining.len() == 1;
        if let Some(joining) = joining.get_mut(index) {
            *joining = JoiningMember { subscriber, from: held.next(), since: joining.since, lost: None };
        }
        if is_alone { held.let_go_of_stream() } else { 0 }
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

    /// How many wait for the stream to reach them.
    pub(super) fn waiting(&self) -> usize {
        self.aside.as_ref().map_or(0, |aside| aside.waiting.len())
    }

    /// One of the waiting is to be served in its turn, and waits on.
    pub(super) fn make_due(&mut self, index: usize) {
        if let Some(waiting) = self.aside.as_mut().and_then(|aside| aside.waiting.get_mut(index)) {
            waiting.subscriber = waiting.subscriber.due(true);
        }
    }

    /// The next of the waiting that are due, at most `count`, before the first `until`; and before how many the rest are.
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

    /// Takes an entry out of its list, wherever it is. Its own place is the caller's to change.
    /// Returns how many held bytes nobody waits for any more.
    pub(super) fn take_out(&mut self, at: ListPosition, id: u32, places: &mut Places) -> usize {
        let mut freed = 0;
        match (at.list(), self.aside.as_mut()) {
            (PlaceList::Live, _) => self.take_live(at.index(), id, places),
            (PlaceList::Joining, Some(aside)) => {
                swap_out(&mut aside.joining, at.index(), PlaceList::Joining, id, places);
                freed = aside.let_go();
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
        // One who has been served must not come to stand among those who have not.
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
            // To this many, not to more.
            self.live.grow(self.live.len() * 2);
        }
        self.forget_freshness(taken);
        if let Some(window) = self.window() {
            window.leave(taken.key);
        }
    }

    /// Moves one that is still to be served behind those. Returns where it is now, or `None` if it has been served.
    pub(super) fn take_turn(&mut self, index: usize, id: u32, places: &mut Places) -> Option<usize> {
        let last = (self.unserved as usize).checked_sub(1).filter(|&last| index <= last)?;
        self.unserved -= 1;
        self.swap_live(index, last, id, places);
        places.set(self.live[last].key, id, ListPosition::new(PlaceList::Live, last));
        Some(last)
    }

    /// Swaps two entries. The place of the one that goes to `other` is the caller's to change.
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

    /// Lets go of what was held back once nobody is joining. Returns how many bytes that frees.
    pub(super) fn let_go(&mut self) -> usize {
        if self.joining.is_empty() { self.held.clear() } else { 0 }
    }
}

/// An entry that knows whose it is, so that its place can follow it.
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

/// Whether a list has so many free places, after many have left it, that they are worth giving back.
fn is_sparse(length: usize, capacity: usize) -> bool {
    capacity >= SHRINK_FROM && length < capacity / 4
}
