//! Fan-out to long lists in pieces, so that other channels and sockets get their turn in between.
//!
//! While a list is swept, its live subscribers have two parts: those at the front are still to be served, those behind
//! them have been. A subscriber that goes live meanwhile is put at the back, because it already has what is being
//! delivered. Publications that come to the channel meanwhile wait until all are served; a subscriber that joined after
//! such a publication gets it nonetheless if the channel has no stream whose position would tell. A channel with
//! separate lists is swept list by list.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use shared::channel::Channel;
use smallvec::SmallVec;

use super::Hub;
use super::bundle::Bundles;
use super::members::{Members, WaitingMember};
use super::places::{PlaceList, SubscriptionPlace};
use super::prepared::Prepared;
use super::separate_lists;
use super::subscriber::{Sink, Subscriber};

/// Subscribers served in one piece: some two milliseconds, where a `send` takes four microseconds.
pub const SWEEP_PIECE: usize = 512;

/// Payload bytes sent in one piece: a piece has fewer subscribers where it would exceed this.
pub(super) const SWEEP_BYTES: usize = 1 << 20;

/// Payload bytes of other channels that the subscribers of a piece are sent along with it. Subscribers beyond that get
/// them in the sweeps of those channels.
const SWEEP_TOGETHER_BYTES: usize = 8 << 20;

/// Bounds of what waits behind a sweep: before more does, the sweep is finished at once. A queue that is emptied at
/// leisure would hide from publishers that the worker is behind.
pub(super) const WAITING_PUBLICATIONS_MAX: usize = 64;
pub(super) const WAITING_BYTES_MAX: usize = 64 << 10;

/// The sweeps in progress.
#[derive(Debug)]
pub(super) struct Sweeps {
    piece: usize,
    /// Subscribers already served at once in other lists of the same channel, counted against the piece.
    served_before: usize,
    in_flight: FxHashMap<u32, Box<SweepInFlight>>,
    /// The order of turns: the first list is served next.
    order: VecDeque<u32>,
    /// Payload bytes that a subscriber of all swept lists would be sent.
    bytes: usize,
}

#[derive(Debug)]
struct SweepInFlight {
    id: u32,
    now: Bundles,
    /// The same bundles for fresh subscribers, which get the first publication whole. Made when first needed.
    whole: Option<Box<Bundles>>,
    /// Payload bytes that each subscriber is sent.
    bytes: usize,
    /// Waiting subscribers below this index may be due, and then get these publications too.
    due_before: usize,
    /// Publications that came since the sweep began.
    next: Vec<Arc<Prepared>>,
    next_bytes: usize,
    /// The bundles of `next` for subscribers that leave before their turn, made when first needed: one for subscribers
    /// that are not positioned, one for those that are.
    next_bundles: [Option<Option<Box<Bundles>>>; 2],
}

impl Default for Sweeps {
    fn default() -> Self {
        Self {
            piece: SWEEP_PIECE,
            served_before: 0,
            in_flight: FxHashMap::default(),
            order: VecDeque::new(),
            bytes: 0,
        }
    }
}

impl Hub {
    /// Sets the number of subscribers served at a time, in place of [`SWEEP_PIECE`].
    #[must_use]
    pub fn with_sweep_piece(mut self, piece: usize) -> Self {
        self.sweeps.piece = piece.max(1);
        self
    }

    /// Returns whether a channel is being swept, so that [`Hub::sweep_on`] has something to do.
    pub fn is_sweeping(&self) -> bool {
        !self.sweeps.in_flight.is_empty()
    }

    /// Serves the next piece: of one list, or of several short lists of one channel.
    pub fn sweep_on(&mut self, sink: &mut impl Sink) {
        let mut of_channel = None;
        let mut served = 0;
        while let Some(&id) = self.sweeps.order.front() {
            let first = self.first_of(id);
            let Some(sweep) = self.sweeps.in_flight.get(&id) else { return };
            let piece = self.sweeps.piece_of(sweep.bytes).saturating_sub(served);
            if piece == 0 || of_channel.is_some_and(|channel| channel != first) {
                return;
            }
            of_channel = Some(first);
            let Some(sweep) = self.sweeps.take(id) else { return };
            served += self.serve(sweep, piece, sink);
        }
    }

    /// Finishes all sweeps.
    pub fn finish_sweeps(&mut self, sink: &mut impl Sink) {
        while let Some(&id) = self.sweeps.order.front() {
            let Some(sweep) = self.sweeps.take(id) else { return };
            self.serve(sweep, usize::MAX, sink);
        }
    }

    /// Serves a connection out of turn before it leaves one channel, or all of its channels: it gets everything
    /// published before that, and nothing more.
    pub fn serve_last(&mut self, key: u32, channel: Option<&Channel>, sink: &mut impl Sink) {
        let only = channel.map(|channel| self.ids.find(&self.channels, channel.as_str()));
        let row: SmallVec<[SubscriptionPlace; 4]> = self.places.row(key).into();
        for SubscriptionPlace { channel: id, at } in row {
            if only.is_some_and(|only| only != Some(self.first_of(id))) {
                continue;
            }
            let (Some(sweep), Some(members)) =
                (self.sweeps.in_flight.get_mut(&id), self.channels.get_mut(id as usize))
            else {
                continue;
            };
            match at.list() {
                PlaceList::Live => {
                    let subscriber = members.live[at.index()];
                    if at.index() < members.unserved as usize {
                        separate_lists::hand(&[subscriber], &mut sweep.now, &mut sweep.whole, sink);
                        let is_fresh = subscriber.is_fresh() && sweep.now.last_publication().is_none();
                        sweep.deliver_next(members, subscriber.fresh(is_fresh), sink);
                    } else {
                        sweep.deliver_next(members, subscriber, sink);
                    }
                }
                PlaceList::Waiting => {
                    let waiting = members.aside.as_ref().and_then(|aside| aside.waiting.get(at.index()));
                    let Some(&WaitingMember { subscriber, position }) = waiting else { continue };
                    if subscriber.is_due() {
                        sink.deliver(&[subscriber], &mut sweep.now);
                    }
                    let next = Members::after(Some(position), subscriber.is_positioned(), &sweep.next);
                    let given = subscriber.has_last().then_some(position);
                    if let Some(mut bundles) = members.bundles(given, &next) {
                        sink.deliver(&[subscriber], &mut bundles);
                    }
                }
                PlaceList::Joining | PlaceList::Insufficient => continue,
            }
            self.held_bytes -= members.take_out(at, id, &mut self.places);
            members.make_insufficient(key, id, &mut self.places);
        }
    }

    /// Delivers publications to all live subscribers of a list and to the waiting ones that are due: at once if they
    /// are few, by a sweep otherwise.
    pub(super) fn begin_sweep(
        &mut self,
        id: u32,
        publications: &[Arc<Prepared>],
        due: usize,
        sink: &mut impl Sink,
    ) {
        let Some(members) = self.channels.get_mut(id as usize) else { return };
        let live = members.live.len();
        if live + due == 0 && members.apart().is_none() {
            return;
        }
        if members.window().is_some() {
            return self.begin_newest(id, publications, due, sink);
        }
        let bundles = members.bundles(members.given(), publications);
        let due_before = if due > 0 { members.waiting() } else { 0 };
        let Some(now) = bundles else {
            members.take_due(due_before, usize::MAX);
            return;
        };
        members.give(&now);
        self.sweep_list(id, now, due, sink);
    }

    /// Delivers bundles to all live subscribers of a list.
    pub(super) fn sweep_list(&mut self, id: u32, now: Bundles, due: usize, sink: &mut impl Sink) {
        let Some(members) = self.channels.get(id as usize) else { return };
        self.sweep_front(id, members.live.len(), now, due, sink);
    }

    /// Delivers bundles to the first `live` live subscribers of a list.
    pub(super) fn sweep_front(
        &mut self,
        id: u32,
        live: usize,
        mut now: Bundles,
        due: usize,
        sink: &mut impl Sink,
    ) {
        let Some(members) = self.channels.get_mut(id as usize) else { return };
        let due_before = if due > 0 { members.waiting() } else { 0 };
        if live + due == 0 {
            return;
        }
        if live + due <= self.sweeps.room_for(bytes(now.publications())) {
            if due > 0 {
                let (due, _) = members.take_due(due_before, usize::MAX);
                sink.deliver(&due, &mut now);
            }
            if members.has_fresh() {
                separate_lists::hand(&members.live[..live], &mut now, &mut None, sink);
                members.have_been_given(0, live, &now);
            } else if live > 0 {
                sink.deliver(&members.live[..live], &mut now);
            }
            if now.is_broken() {
                members.forget_given();
            }
            now.report_delivered(sink);
            return;
        }
        members.unserved = live as u32;
        self.sweeps.add(Box::new(SweepInFlight::new(id, now, due_before)));
    }

    /// Queues publications behind the sweep of their list. Returns whether they wait: `false` if there is no sweep, or
    /// if it has been finished for lack of room.
    pub(super) fn wait_for_sweep(
        &mut self,
        id: u32,
        publications: &[Arc<Prepared>],
        sink: &mut impl Sink,
    ) -> bool {
        let Some(sweep) = self.sweeps.find(id) else { return false };
        let waits = sweep.wait(publications);
        if !waits {
            self.finish_sweep(id, sink);
        }
        waits
    }

    pub(super) fn finish_sweep(&mut self, id: u32, sink: &mut impl Sink) {
        while let Some(sweep) = self.sweeps.take(id) {
            self.serve(sweep, usize::MAX, sink);
        }
    }

    /// Serves the next `count` subscribers of a sweep. Returns how many were served.
    fn serve(&mut self, mut sweep: Box<SweepInFlight>, count: usize, sink: &mut impl Sink) -> usize {
        let id = sweep.id;
        let Some(members) = self.channels.get_mut(id as usize) else { return 0 };
        let unserved = members.unserved as usize;
        let left = unserved.saturating_sub(count);
        members.unserved = left as u32;
        let mut served = unserved - left;
        // All subscribers of the piece may have left.
        if left < unserved {
            let together = self.take_turns_with(id, left..unserved, sink);
            let members = &mut self.channels[id as usize];
            if members.has_fresh() {
                separate_lists::hand(&members.live[left..unserved], &mut sweep.now, &mut sweep.whole, sink);
                members.have_been_given(left, unserved, &sweep.now);
            } else {
                sink.deliver(&members.live[left..unserved], &mut sweep.now);
            }
            for (id, subscribers) in &together {
                if let Some(other) = self.sweeps.find(*id) {
                    separate_lists::hand(subscribers, &mut other.now, &mut other.whole, sink);
                }
            }
        }
        let members = &mut self.channels[id as usize];
        if sweep.due_before > 0 && served < count {
            let (due, before) = members.take_due(sweep.due_before, count - served);
            sweep.due_before = before;
            served += due.len();
            if !due.is_empty() {
                sink.deliver(&due, &mut sweep.now);
            }
        }
        if left > 0 || sweep.due_before > 0 {
            self.sweeps.add(sweep);
            return served;
        }
        if sweep.now.is_broken() {
            members.forget_given();
        }
        sweep.now.report_delivered(sink);
        self.advance_by(id, &sweep.next, sink);
        served
    }

    /// Lets subscribers of a piece that are still to be served in other channels take their turn there at the same
    /// time. Returns those subscribers by list.
    fn take_turns_with(
        &mut self,
        id: u32,
        piece: Range<usize>,
        sink: &mut impl Sink,
    ) -> Vec<(u32, Vec<Subscriber>)> {
        let mut together: Vec<(u32, Vec<Subscriber>)> = Vec::new();
        if self.sweeps.in_flight.is_empty() {
            return together;
        }
        // A bound on what one subscriber can be sent beside this piece. Mostly it need not be computed more precisely.
        let keys = SWEEP_TOGETHER_BYTES / self.sweeps.bytes.max(1);
        for index in piece.take(keys.max(1)) {
            let key = self.channels[id as usize].live[index].key;
            let channels = &self.channels;
            let is_unserved = |place: &SubscriptionPlace| {
                place.channel != id
                    && place.at.list() == PlaceList::Live
                    && channels
                        .get(place.channel as usize)
                        .is_some_and(|members| place.at.index() < members.unserved as usize)
            };
            let (row, in_flight) = (self.places.row(key), &self.sweeps.in_flight);
            let others: SmallVec<[SubscriptionPlace; 4]> = if row.len() <= in_flight.len() {
                row.iter().copied().filter(is_unserved).collect()
            } else {
                let place = |channel| Some(SubscriptionPlace { channel, at: self.places.get(key, channel)? });
                in_flight.keys().filter_map(|id| place(*id)).filter(is_unserved).collect()
            };
            if !others.is_empty() {
                sink.gather(key);
            }
            for SubscriptionPlace { channel, at } in others {
                let members = &mut self.channels[channel as usize];
                let Some(served) = members.mark_served(at.index(), channel, &mut self.places) else {
                    continue;
                };
                let subscriber = members.live[served];
                if let Some(other) = self.sweeps.in_flight.get(&channel) {
                    members.have_been_given(served, served + 1, &other.now);
                }
                match together.iter_mut().find(|(of, _)| *of == channel) {
                    Some((_, subscribers)) => subscribers.push(subscriber),
                    None => together.push((channel, vec![subscriber])),
                }
            }
        }
        together
    }
}

impl Sweeps {
    /// Returns how many subscribers are served in a piece, if each is sent `bytes`.
    fn piece_of(&self, bytes: usize) -> usize {
        (SWEEP_BYTES / bytes.max(1)).clamp(1, self.piece)
    }

    /// Returns how many subscribers may be served at once, without a sweep.
    fn room_for(&self, bytes: usize) -> usize {
        self.piece_of(bytes).saturating_sub(self.served_before)
    }

    /// Records how many subscribers were served at once in other lists of the channel.
    pub(super) fn leave_room(&mut self, served: usize) {
        self.served_before = served;
    }

    fn add(&mut self, sweep: Box<SweepInFlight>) {
        self.bytes += sweep.bytes;
        self.order.push_back(sweep.id);
        self.in_flight.insert(sweep.id, sweep);
    }

    pub(super) fn is_under_way(&self, id: u32) -> bool {
        self.in_flight.contains_key(&id)
    }

    fn find(&mut self, id: u32) -> Option<&mut SweepInFlight> {
        if self.in_flight.is_empty() { None } else { self.in_flight.get_mut(&id).map(|sweep| &mut **sweep) }
    }

    fn take(&mut self, id: u32) -> Option<Box<SweepInFlight>> {
        if self.in_flight.is_empty() {
            return None;
        }
        let sweep = self.in_flight.remove(&id)?;
        self.bytes -= sweep.bytes;
        // Mostly the list is the first in the order.
        if let Some(index) = self.order.iter().position(|of| *of == id) {
            self.order.remove(index);
        }
        Some(sweep)
    }

    /// Forgets the sweep of a list that is removed and whose id may be reused.
    pub(super) fn forget(&mut self, id: u32) {
        drop(self.take(id));
    }

    /// Returns how many publications wait behind the sweep of a list. `None` if it is not swept.
    #[cfg(test)]
    pub(super) fn waiting(&self, id: u32) -> Option<usize> {
        self.in_flight.get(&id).map(|sweep| sweep.next.len())
    }
}

fn bytes(publications: &[Arc<Prepared>]) -> usize {
    publications.iter().map(|prepared| prepared.bytes()).sum()
}

impl SweepInFlight {
    fn new(id: u32, now: Bundles, due_before: usize) -> Self {
        let bytes = bytes(now.publications());
        let next_bundles = [None, None];
        Self { id, now, whole: None, bytes, due_before, next: Vec::new(), next_bytes: 0, next_bundles }
    }

    /// Delivers the waiting publications to a live subscriber that has been given those of the sweep.
    fn deliver_next(&mut self, members: &Members, subscriber: Subscriber, sink: &mut impl Sink) {
        if self.next.is_empty() {
            return;
        }
        let is_positioned = subscriber.is_positioned();
        let make = |given| members.bundles(given, &Members::after(members.stream, is_positioned, &self.next));
        if subscriber.is_fresh() || self.now.is_broken() {
            if let Some(mut bundles) = make(None) {
                sink.deliver(&[subscriber], &mut bundles);
            }
        } else if let Some(bundles) = self.next_bundles[usize::from(is_positioned)]
            .get_or_insert_with(|| make(members.given()).map(Box::new))
        {
            sink.deliver(&[subscriber], bundles);
        }
    }

    /// Queues publications behind the sweep. Returns whether there was room.
    fn wait(&mut self, publications: &[Arc<Prepared>]) -> bool {
        let bytes = bytes(publications);
        let fits = self.next.len() + publications.len() <= WAITING_PUBLICATIONS_MAX
            && self.next_bytes + bytes <= WAITING_BYTES_MAX;
        if fits {
            self.next.extend_from_slice(publications);
            self.next_bundles = [None, None];
            self.next_bytes += bytes;
        }
        fits
    }
}
