//! Delivery to lists of newest values: values wait for the list's window, and newer values supersede older ones, once
//! for all subscribers of the list.

use std::sync::Arc;

use shared::moment::Moment;
use smallvec::SmallVec;

use super::Hub;
use super::bundle::Bundles;
use super::places::PlaceList;
use super::prepared::Prepared;
use super::separate_lists;
use super::subscriber::Sink;
use crate::newest::{Closed, DueValue, NewestQueue, NewestTerms, WindowShare};

/// The outcome of a change of delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DeliveryChangeOutcome {
    Done,
    /// The change is not possible now: the subscription is not live, the channel is being swept, or publications are on
    /// their way that the subscriber would miss in the other list.
    NotNow,
    /// The subscriber has agreed to patches, none of which may be left out.
    Never,
}

impl Hub {
    /// Sets the current time.
    pub fn set_now(&mut self, now: Moment) {
        self.now = now;
    }

    /// Returns when [`Hub::close_windows`] has something to do.
    pub fn next_window(&self) -> Option<Moment> {
        self.windows.next_close()
    }

    /// Delivers the values of windows that close now.
    pub fn close_windows(&mut self, now: Moment, sink: &mut impl Sink) {
        self.now = now;
        while let Some(id) = self.windows.take_due(now) {
            if self.sweeps.is_under_way(id) {
                // Publications that wait behind the sweep belong in the window.
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

    /// Delivers to subscribers that joined while the window was open the values that came after them. Returns the
    /// number of the other live subscribers, which are then at the front.
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
                let served = members.mark_served(at.index(), id, &mut self.places);
                subscribers.extend(served.and_then(|at| members.live.get(at).copied()));
            }
            if !values.is_empty() && !subscribers.is_empty() {
                sink.deliver(&subscribers, &mut Bundles::newest(with_superseded(values)));
            }
        }
        std::mem::take(&mut members.unserved) as usize
    }

    /// Handles publications for a list of newest values: delivers them, or puts them into the open window.
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
        let is_wanted = |prepared: &&Arc<Prepared>| separate_lists::wants(members.apart(), prepared);
        let wanted: SmallVec<[Arc<Prepared>; 1]> = publications.iter().filter(is_wanted).cloned().collect();
        if wanted.is_empty() {
            return;
        }
        if !due.is_empty() {
            sink.deliver(&due, &mut Bundles::newest(wanted.clone()));
        }
        let Some(window) = members.window() else { return };
        if live == 0 {
            // The values waited for subscribers that have left. New subscribers have this one already, or are given it
            // as they join.
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

    /// Finishes all sweeps of a channel.
    pub fn finish_sweeps_of(&mut self, channel: &str, sink: &mut impl Sink) {
        if let Some(first) = self.ids.find(&self.channels, channel).filter(|_| self.is_sweeping()) {
            self.for_each_list(first, |hub, id| hub.finish_sweep(id, sink));
        }
    }

    /// Changes a live subscription to the newest values, to other terms of newest values, or to all publications.
    /// `sink` gets at once the values that wait for it in the list it leaves, and nothing for other subscribers. Fails
    /// while the channel is being swept.
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
        // A subscriber that waits for the stream is past the values that wait here.
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
        // Lists that began before any publication came may be at different positions.
        let (position, others) = (waits_at.or(stream), &self.channels[other as usize]);
        let waits_there = match (position, others.stream) {
            _ if others.is_empty() => waits_at,
            (Some(at), Some(there)) if at == there => None,
            (Some(at), Some(there)) if at.epoch == there.epoch && at.offset > there.offset => Some(at),
            // Publications in between are still on their way, and the other list would not deliver them to it.
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
            // An empty list does not follow the stream.
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
    /// Returns whether any of a channel's lists is being swept.
    fn is_sweeping_any(&self, first: u32) -> bool {
        let others = self.channels.get(first as usize).and_then(|members| members.others());
        let others = others.map_or(&[][..], |others| others.ids());
        self.sweeps.is_under_way(first) || others.iter().any(|&id| self.sweeps.is_under_way(id))
    }
}

/// Returns the newest publication of each key, in the order in which the keys first came, followed by events that are
/// no publications.
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

/// Returns values that carry the number of those they superseded.
fn with_superseded(taken: Vec<DueValue<Arc<Prepared>>>) -> SmallVec<[Arc<Prepared>; 1]> {
    taken.into_iter().map(|DueValue { value, superseded }| value.superseding(superseded)).collect()
}
