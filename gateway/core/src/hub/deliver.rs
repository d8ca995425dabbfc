//! Delivery of publications to a channel, and of the news that publications were lost on their way.

use std::sync::Arc;

use shared::position::StreamPosition;

use super::hold_back::follows;
use super::members::{Members, WaitingMember, swap_out};
use super::places::{ListPosition, PlaceList, Places};
use super::prepared::Prepared;
use super::separate_lists;
use super::subscriber::Sink;
use super::{Counts, Hub};

impl Hub {
    /// Delivers publications of one channel, in the order they came. As many of them at a time as follow each other go
    /// to the sink, which can write them as one. In a channel with many subscribers some are served now and the others
    /// by [`Hub::sweep_on`].
    pub fn deliver(&mut self, channel: &str, publications: &[Arc<Prepared>], sink: &mut impl Sink) {
        let Some(id) = self.ids.find(&self.channels, channel) else { return };
        if self.channels.get(id as usize).is_some_and(|members| members.others().is_some()) {
            return self.for_each_list(id, |hub, id| hub.deliver_to_list(id, publications, sink));
        }
        self.deliver_to_list(id, publications, sink);
    }

    fn deliver_to_list(&mut self, id: u32, publications: &[Arc<Prepared>], sink: &mut impl Sink) {
        if !self.wait_for_sweep(id, publications, sink) {
            self.advance_by(id, publications, sink);
        }
    }

    /// Delivers publications to a list that is not being swept.
    pub(super) fn advance_by(&mut self, id: u32, publications: &[Arc<Prepared>], sink: &mut impl Sink) {
        let mut rest = publications;
        while let (Some(next), Some(members)) = (rest.first(), self.channels.get_mut(id as usize)) {
            let run = members.follow(rest);
            if run > 0 {
                let now;
                (now, rest) = rest.split_at(run);
                hold_back(members, now, &self.limits, &mut self.held_bytes, &mut self.counts);
                self.begin_sweep(id, now, 0, sink);
                if let Some(members) = self.channels.get_mut(id as usize) {
                    members.end_waiting(id, &mut self.places);
                }
            } else {
                match classify(members.stream, next.position()) {
                    StreamStep::Duplicate => self.counts.duplicates += 1,
                    StreamStep::Next => self.advance(id, StreamEvent::Publication(next), false, sink),
                    StreamStep::Gap => self.advance(id, StreamEvent::Publication(next), true, sink),
                }
                rest = &rest[1..];
            }
            if !rest.is_empty() && self.wait_for_sweep(id, rest, sink) {
                return;
            }
        }
    }

    /// Marks everything of the channel up to `position` that has not come as lost. Positioned subscribers that miss
    /// something are told.
    pub fn lost(&mut self, channel: &str, position: StreamPosition, sink: &mut impl Sink) {
        let Some(id) = self.ids.find(&self.channels, channel) else { return };
        self.for_each_list(id, |hub, id| {
            hub.finish_sweep(id, sink);
            let Some(members) = hub.channels.get_mut(id as usize) else { return };
            if classify(members.stream, Some(position)) != StreamStep::Duplicate {
                hub.advance(id, StreamEvent::Lost(position), true, sink);
            }
        });
    }

    /// Advances the stream by one event where subscribers wait for the stream or there is a gap before the event.
    fn advance(&mut self, id: u32, what: StreamEvent<'_>, hole: bool, sink: &mut impl Sink) {
        let Some(members) = self.channels.get_mut(id as usize) else { return };
        let mut insufficient = Vec::new();
        if hole {
            self.counts.gaps += 1;
            members.forget_given();
            let mut index = 0;
            while let Some(subscriber) = members.live.get(index).copied() {
                if subscriber.is_positioned() {
                    members.take_live(index, id, &mut self.places);
                    insufficient.push(subscriber.key);
                } else {
                    index += 1;
                }
            }
        }

        let (comes, is_lost) = (what.position(), matches!(what, StreamEvent::Lost(_)));
        let mut afterwards = Vec::new();
        let mut due = 0;
        let mut index = 0;
        while let Some(waiting) = members.aside.as_ref().and_then(|aside| aside.waiting.get(index).copied()) {
            let turn = turn(waiting.position, waiting.subscriber.is_positioned(), comes, is_lost);
            if matches!(turn, SubscriberStep::Stay | SubscriberStep::StayWith) {
                if turn == SubscriberStep::StayWith {
                    members.make_due(index);
                    due += 1;
                }
                index += 1;
                continue;
            }
            members.take_out(ListPosition::new(PlaceList::Waiting, index), id, &mut self.places);
            match turn {
                SubscriberStep::Before => {
                    members.make_live(waiting.subscriber, Some(waiting.position), id, &mut self.places);
                }
                SubscriberStep::After => afterwards.push(waiting),
                _ => insufficient.push(waiting.subscriber.key),
            }
        }

        if let (StreamEvent::Lost(position), Some(aside)) = (what, members.aside.as_mut()) {
            for joining in &mut aside.joining {
                joining.lost = Some(position);
            }
        }
        if let StreamEvent::Publication(prepared) = what {
            let now = std::slice::from_ref(prepared);
            hold_back(members, now, &self.limits, &mut self.held_bytes, &mut self.counts);
            self.begin_sweep(id, now, due, sink);
        }
        let Some(members) = self.channels.get_mut(id as usize) else { return };
        members.stream = comes.or(members.stream);
        for WaitingMember { subscriber, position } in afterwards {
            members.make_live(subscriber, Some(position), id, &mut self.places);
        }
        self.counts.insufficient += insufficient.len() as u64;
        for key in insufficient {
            members.make_insufficient(key, id, &mut self.places);
            sink.insufficient(key, &members.channel);
        }
    }
}

/// An event that advances a stream.
#[derive(Clone, Copy)]
enum StreamEvent<'a> {
    Publication(&'a Arc<Prepared>),
    Lost(StreamPosition),
}

impl StreamEvent<'_> {
    fn position(&self) -> Option<StreamPosition> {
        match self {
            Self::Publication(prepared) => prepared.position(),
            Self::Lost(position) => Some(*position),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum StreamStep {
    Next,
    Duplicate,
    Gap,
}

/// What a publication means for a subscriber that waits for the stream to reach its position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum SubscriberStep {
    /// The subscriber has this publication, and may have some of the next ones too.
    Stay,
    /// The subscriber gets this publication, which has no position in the stream.
    StayWith,
    /// The subscriber gets this publication and all that follow.
    Before,
    /// The subscriber has this publication, but none that follow.
    After,
    /// The subscriber misses something.
    Insufficient,
}

/// Returns what an event means for a waiting subscriber. `comes`: the position of the event, if it has one; `lost`:
/// whether the publication there was lost.
fn turn(
    position: StreamPosition,
    positioned: bool,
    comes: Option<StreamPosition>,
    lost: bool,
) -> SubscriberStep {
    let Some(comes) = comes else { return SubscriberStep::StayWith };
    if comes.epoch == position.epoch && comes.offset < position.offset {
        SubscriberStep::Stay
    } else if comes == position {
        SubscriberStep::After
    } else if positioned && (lost || !follows(position, comes)) {
        SubscriberStep::Insufficient
    } else {
        SubscriberStep::Before
    }
}

impl Members {
    /// Returns how many of these publications simply continue the stream, up to the first position that a subscriber
    /// waits for. Moves the stream behind them.
    fn follow(&mut self, publications: &[Arc<Prepared>]) -> usize {
        let until = match self.waited_for() {
            AwaitedPosition::Nothing => None,
            AwaitedPosition::Position(until) => Some(until),
            AwaitedPosition::Several => return 0,
        };
        let mut run = 0;
        for prepared in publications {
            let comes = prepared.position();
            let is_known_to_those = |until: StreamPosition| {
                comes.is_some_and(|comes| comes.epoch == until.epoch && comes.offset <= until.offset)
            };
            if classify(self.stream, comes) != StreamStep::Next || !until.is_none_or(is_known_to_those) {
                break;
            }
            self.stream = comes.or(self.stream);
            run += 1;
            if until.is_some() && until == self.stream {
                break;
            }
        }
        run
    }

    /// Returns the nearest position that a subscriber waits for the stream to reach.
    fn waited_for(&self) -> AwaitedPosition {
        let waiting = self.aside.as_ref().map_or(&[][..], |aside| &aside.waiting);
        let Some(first) = waiting.first() else { return AwaitedPosition::Nothing };
        let mut nearest = first.position;
        for waiting in waiting {
            if waiting.position.epoch != nearest.epoch {
                return AwaitedPosition::Several;
            }
            nearest.offset = nearest.offset.min(waiting.position.offset);
        }
        AwaitedPosition::Position(nearest)
    }

    /// Makes subscribers live that waited for the stream to reach its present position. They have the last publication.
    pub(super) fn end_waiting(&mut self, id: u32, places: &mut Places) {
        // From the last to the first, so that mostly no entry has to move into a free place.
        for index in (0..self.waiting()).rev() {
            let Some(aside) = &mut self.aside else { return };
            if aside.waiting.get(index).is_some_and(|waiting| self.stream == Some(waiting.position))
                && let Some(WaitingMember { subscriber, position }) =
                    swap_out(&mut aside.waiting, index, PlaceList::Waiting, id, places)
            {
                self.make_live(subscriber, Some(position), id, places);
            }
        }
        self.drop_unused_aside();
    }

    /// Returns the publications that come after `position`. For a positioned subscriber, only those before the first
    /// gap.
    pub(super) fn after(
        position: Option<StreamPosition>,
        positioned: bool,
        publications: &[Arc<Prepared>],
    ) -> Vec<Arc<Prepared>> {
        let mut stream = position;
        let mut after = Vec::new();
        for prepared in publications {
            match classify(stream, prepared.position()) {
                StreamStep::Duplicate => {}
                StreamStep::Gap if positioned => break,
                StreamStep::Next | StreamStep::Gap => {
                    stream = prepared.position().or(stream);
                    after.push(prepared.clone());
                }
            }
        }
        after
    }
}

/// The nearest position of the waiting subscribers, which are ahead of this worker.
enum AwaitedPosition {
    Nothing,
    Position(StreamPosition),
    /// Positions in several epochs, which have no order.
    Several,
}

fn classify(stream: Option<StreamPosition>, comes: Option<StreamPosition>) -> StreamStep {
    match (stream, comes) {
        (None, _) | (_, None) => StreamStep::Next,
        (Some(stream), Some(comes)) if follows(stream, comes) => StreamStep::Next,
        (Some(stream), Some(comes)) if stream.epoch == comes.epoch && comes.offset <= stream.offset => {
            StreamStep::Duplicate
        }
        _ => StreamStep::Gap,
    }
}

/// Holds publications back for joining subscribers, if there are any.
fn hold_back(
    members: &mut Members,
    publications: &[Arc<Prepared>],
    limits: &super::HoldLimits,
    total: &mut usize,
    counts: &mut Counts,
) {
    let joins_and_leaves = separate_lists::wants_joins_and_leaves(members.apart());
    if let Some(aside) = members.aside.as_mut().filter(|aside| !aside.joining.is_empty()) {
        // Publications that the list's filter leaves out are held, too: they say how far the stream has come.
        let held = publications.iter().filter(|held| joins_and_leaves || held.publication().is_some());
        counts.held_overflow += aside.held.hold(held, limits, total);
    }
}
