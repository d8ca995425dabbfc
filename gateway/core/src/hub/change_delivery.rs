//! Lists of those who are sent the newest values: what comes waits for their window, and newer values take the place of
//! older ones, once for all of the list.

use std::sync::Arc;

use shared::moment::Moment;
use smallvec::SmallVec;

use super::Hub;
use super::apart;
use super::bundle::Bundles;
use super::places::PlaceList;
use super::prepared::Prepared;
use super::subscriber::Sink;
use crate::newest::{Closed, DueValue, NewestQueue, NewestTerms, WindowShare};

/// What came of a wish to be served otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeliveryChangeOutcome {
    Done,
    /// It is not live yet, or no more.
    NotNow,
    /// It has agreed to patches, of which none may be left out.
    Never,
}

impl Hub {
    /// What the time is for what comes next.
    pub fn tell_time(&mut self, now: Moment) {
        self.now = now;
    }

    /// When [`Hub::close_windows`] has something to do.
    pub fn next_window(&self) -> Option<Moment> {
        self.windows.next_close()
    }

    /// Delivers what has waited in windows that close now.
    pub fn close_windows(&mut self, now: Moment, sink: &mut impl Sink) {
        self.now = now;
        while let Some(id) = self.windows.take_due(now) {
            if self.sweeps.is_under_way(id) {
                // What came behind it belongs into the window.
                self.finish_sweep(id, sink);
            }
            let Some(members) = self.channels.get_mut(id as usize) else { continue };
            let live = members.live.len();
            let Some(window) = members.window().filter(|window| window.is_due(now)) else { continue };
            let Closed { values, stale, newcomers } = window.close(now);
            let came_late: usize = newcomers.iter().map(|share| share.members.len()).sum();
            let others = live.saturating_sub(came_late);
            let stale_there: usize = newcomers.iter().map(|share| share.members.len() * share.stale).sum();
            self.counts.stale += (stale * others + stale_there) as u64;
            let is_for_others = others > 0 && !values.is_empty();
            if !is_for_others && newcomers.iter().all(|share| share.values.is_empty()) {
                continue;
            }
            if let Some(closes) = window.open(now) {
                self.windows.add(closes, id);
            }
            let front = self.serve_newcomers(id, newcomers, sink);
            if is_for_others {
                self.sweep_front(id, front, Bundles::after_window(with_superseded(values)), 0, sink);
            }
        }
    }

    /// Gives those who came while the window was open what came after them. Returns how many of the live are not of
    /// these: they stand in front of them then.
    fn serve_newcomers(
        &mut self,
        id: u32,
        newcomers: Vec<WindowShare<Arc<Prepared>>>,
        sink: &mut impl Sink,
    ) -> usize {
        let Some(members) = self.channels.get_mut(id as usize) else { return 0 };
        members.unserved = members.live.len() as u32;
        for WindowShare { members: keys, values, .. } in newcomers {
            let mut subscribers = Vec::with_capacity(keys.len());
            for key in keys {
                let Some(at) = self.places.get(key, id).filter(|at| at.list() == PlaceList::Live) else {
                    continue;
                };
                let served = members.take_turn(at.index(), id, &mut self.places);
                subscribers.extend(served.and_then(|at| members.live.get(at).copied()));
            }
            if !values.is_empty() && !subscribers.is_empty() {
                sink.deliver(&subscribers, &mut Bundles::newest(with_superseded(values)));
            }
        }
        std::mem::take(&mut members.unserved) as usize
    }

    /// Something has come for a list of those who are sent the newest values.
    pub(super) fn begin_newest(
        &mut self,
        id: u32,
        publications: &[Arc<Prepared>],
        due: usize,
        sink: &mut impl Sink,
    ) {
        let now = self.now;
        let Some(members) = self.channels.get_mut(id as usize) else { return };
        let (live, waiting) = (members.live.len(), members.waiting());
        let due = if due > 0 { members.take_due(waiting, usize::MAX).0 } else { Vec::new() };
        let is_wanted = |prepared: &&Arc<Prepared>| apart::wants(members.apart(), prepared);
        let wanted: SmallVec<[Arc<Prepared>; 1]> = publications.iter().filter(is_wanted).cloned().collect();
        if wanted.is_empty() {
            return;
        }
        if !due.is_empty() {
            sink.deliver(&due, &mut Bundles::newest(wanted.clone()));
        }
        let Some(window) = members.window() else { return };
        if live == 0 {
            // What waited was for those who have gone. Whoever comes knows this one already, or is given it as they come.
            window.clear();
            return;
        }
        let mut superseded = 0;
        let leaves = if window.is_open() {
            let (values, others): (SmallVec<[_; 1]>, SmallVec<[_; 1]>) =
                wanted.into_iter().partition(|prepared| prepared.publication().is_some());
            for value in values {
                let put = window.put(value);
                superseded += if put.has_superseded { live.saturating_sub(put.unaware) } else { 0 };
            }
            others
        } else {
            if let Some(closes) = window.open(now) {
                self.windows.add(closes, id);
            }
            let leaves = newest_of(wanted.clone());
            superseded += (wanted.len() - leaves.len()) * live;
            leaves
        };
        self.counts.superseded += superseded as u64;
        if !leaves.is_empty() {
            self.sweep_list(id, Bundles::newest(leaves), 0, sink);
        }
    }

    /// Serves all who are still to be served in a channel.
    pub fn finish_sweeps_of(&mut self, channel: &str, sink: &mut impl Sink) {
        if let Some(first) = self.ids.find(&self.channels, channel).filter(|_| self.is_sweeping()) {
            self.for_each_list(first, |hub, id| hub.finish_sweep(id, sink));
        }
    }

    /// A live subscription is sent the newest values from now on, or otherwise than before, or all. `sink` gets at once what
    /// waits for it in the list that it leaves, and nothing that is for others: not while the channel is swept.
    pub fn change_latest(
        &mut self,
        channel: &str,
        key: u32,
        latest: Option<NewestTerms>,
        sink: &mut impl Sink,
    ) -> DeliveryChangeOutcome {
        let Some(first) = self.ids.find(&self.channels, channel) else {
            return DeliveryChangeOutcome::NotNow;
        };
        if self.is_sweeping_any(first) {
            return DeliveryChangeOutcome::NotNow;
        }
        let Some((id, at)) = self.find_place(first, key) else { return DeliveryChangeOutcome::NotNow };
        let members = &mut self.channels[id as usize];
        let waiting = members.aside.as_ref().map_or(&[][..], |aside| &aside.waiting);
        // One that waits for the stream is past what waits here.
        let (subscriber, waits_at) = match at.list() {
            PlaceList::Live => (members.live.get(at.index()).copied(), None),
            PlaceList::Waiting => waiting
                .get(at.index())
                .map_or((None, None), |waiting| (Some(waiting.subscriber), Some(waiting.position))),
            PlaceList::Joining | PlaceList::Insufficient => (None, None),
        };
        let Some(subscriber) = subscriber else { return DeliveryChangeOutcome::NotNow };
        let wants = members.apart().map(|apart| apart.wants().clone()).unwrap_or_default();
        if wants.patches() {
            return DeliveryChangeOutcome::Never;
        }
        let wants = wants.with_newest(latest.map(NewestTerms::into));
        let waits: SmallVec<[Arc<Prepared>; 1]> = match waits_at {
            Some(_) => SmallVec::new(),
            None => {
                members.window().map(|window| with_superseded(window.waiting_for(key))).unwrap_or_default()
            }
        };
        let stream = members.stream;
        let other = if wants.is_usual() { first } else { self.list_for(first, wants) };
        if other == id {
            return DeliveryChangeOutcome::Done;
        }
        // Lists that began before anything came can have begun at different places.
        let (position, others) = (waits_at.or(stream), &self.channels[other as usize]);
        let waits_there = match (position, others.stream) {
            _ if others.is_empty() => waits_at,
            (Some(at), Some(there)) if at == there => None,
            (Some(at), Some(there)) if at.epoch == there.epoch && at.offset > there.offset => Some(at),
            // What lies between is still on its way, and would not come to it there.
            (Some(_), Some(_)) => return DeliveryChangeOutcome::NotNow,
            (position, None) => position,
            (None, Some(_)) => None,
        };
        if !waits.is_empty() {
            sink.deliver(&[subscriber], &mut Bundles::newest(waits));
        }
        self.places.remove(key, id);
        self.channels[id as usize].take_out(at, id, &mut self.places);
        let members = &mut self.channels[other as usize];
        if members.is_empty() {
            // Nobody was in it, so nobody has told it.
            members.stream = stream;
        }
        let subscriber = subscriber.newest(latest.is_some());
        match waits_there {
            Some(position) => members.make_waiting(subscriber, position, other, &mut self.places),
            None => members.make_live(subscriber, stream, other, &mut self.places),
        }
        if self.channels[id as usize].is_empty() {
            self.drop_empty(id);
        }
        DeliveryChangeOutcome::Done
    }
}

impl Hub {
    /// Whether any of a channel's lists is being swept.
    fn is_sweeping_any(&self, first: u32) -> bool {
        let others = self.channels.get(first as usize).and_then(|members| members.others());
        let others = others.map_or(&[][..], |others| others.ids());
        self.sweeps.is_under_way(first) || others.iter().any(|&id| self.sweeps.is_under_way(id))
    }
}

/// The newest of each key, in the order in which the keys came. What is no value keeps its place among them.
fn newest_of(publications: SmallVec<[Arc<Prepared>; 1]>) -> SmallVec<[Arc<Prepared>; 1]> {
    if publications.len() < 2 {
        return publications;
    }
    let mut waiting = NewestQueue::default();
    let (values, others): (SmallVec<[_; 1]>, SmallVec<[_; 1]>) =
        publications.into_iter().partition(|prepared| prepared.publication().is_some());
    for value in values {
        waiting.put(value);
    }
    let mut leaves = with_superseded(waiting.take_all());
    leaves.extend(others);
    leaves
}

/// Values with how many they have superseded.
fn with_superseded(taken: Vec<DueValue<Arc<Prepared>>>) -> SmallVec<[Arc<Prepared>; 1]> {
    taken.into_iter().map(|DueValue { value, superseded }| value.superseding(superseded)).collect()
}
