//! Joining a channel: publications are held back for the subscriber at first, then it goes live.

use std::sync::Arc;

use shared::channel::Channel;
use shared::position::StreamPosition;

use super::Hub;
use super::hold_back::{CaughtUp, HoldBackQueue};
use super::members::{JoiningMember, Members, MembersRareState, swap_out};
use super::places::PlaceList;
use super::separate_lists::{self, ListTerms};
use super::subscriber::{Sink, Subscriber};
use crate::newest::NewestTerms;
use crate::tag_filter::TagFilter;

/// The outcome of a join.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JoinOutcome {
    /// Whether the channel had no subscriber on this worker before.
    pub first: bool,
}

/// What a subscriber has of the stream when it goes live.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct KnownPosition {
    /// The position up to which the subscriber has the stream. `None` if the channel has no stream.
    pub position: Option<StreamPosition>,
    /// Whether the subscriber was given the publication at that position, so that the next one may be sent as a patch
    /// of it.
    pub has_last: bool,
    /// Whether the node has passed everything up to that position to its workers: publications still to come here are
    /// then in this worker's inbox, and a subscriber that joins from now on is not told of an earlier position.
    pub is_handed_out: bool,
}

impl From<Option<StreamPosition>> for KnownPosition {
    /// Creates a position up to which everything has been passed to the workers.
    fn from(position: Option<StreamPosition>) -> Self {
        Self { position, has_last: false, is_handed_out: true }
    }
}

impl Hub {
    /// Returns whether this worker has seen nothing of a channel's stream and may take the position of a subscriber
    /// that goes live as the stream's.
    pub fn has_seen_nothing(&self, channel: &str) -> bool {
        let members = self.ids.find(&self.channels, channel).and_then(|id| self.channels.get(id as usize));
        members.is_some_and(|members| members.stream.is_none() && members.live.is_empty())
    }

    /// Adds a joining subscriber, for which publications are held back until [`Hub::go_live`]. With a filter, the
    /// subscriber gets only publications that match it. A subscriber that is there already starts anew; if it was still
    /// joining with the same terms, events that are in no history stay held back for it since its first join.
    pub fn join(
        &mut self,
        channel: &Channel,
        subscriber: Subscriber,
        filter: Option<Arc<TagFilter>>,
    ) -> JoinOutcome {
        self.join_apart(channel, subscriber, filter, None)
    }

    /// Adds a joining subscriber that is sent the newest value of each key.
    pub fn join_latest(
        &mut self,
        channel: &Channel,
        subscriber: Subscriber,
        filter: Option<Arc<TagFilter>>,
        latest: NewestTerms,
    ) -> JoinOutcome {
        self.join_apart(channel, subscriber.newest(true), filter, Some(latest))
    }

    fn join_apart(
        &mut self,
        channel: &Channel,
        subscriber: Subscriber,
        filter: Option<Arc<TagFilter>>,
        latest: Option<NewestTerms>,
    ) -> JoinOutcome {
        let known = self.ids.find(&self.channels, channel.as_str());
        let first = known.unwrap_or_else(|| {
            let id = self.channels.insert(Box::new(Members::new(channel.clone()))) as u32;
            self.ids.insert(&self.channels, id);
            id
        });
        let id = match ListTerms::of(subscriber, filter, latest.map(NewestTerms::into)) {
            None => first,
            Some(wants) => self.list_for(first, wants),
        };
        let before = known.and_then(|first| self.find_place(first, subscriber.key));
        if let Some((_, at)) = before.filter(|(before, at)| *before == id && at.list() == PlaceList::Joining)
        {
            self.held_bytes -= self.channels[id as usize].join_again(subscriber, at.index());
            return JoinOutcome { first: false };
        }
        if let Some((before, at)) = before {
            self.places.remove(subscriber.key, before);
            self.held_bytes -= self.channels[before as usize].take_out(at, before, &mut self.places);
        }
        self.channels[id as usize].make_joining(subscriber, id, &mut self.places);
        // Done last, so that the channel does not disappear for a moment.
        if let Some((before, _)) = before.filter(|(before, _)| *before != id)
            && self.channels[before as usize].is_empty()
        {
            self.drop_empty(before);
        }
        JoinOutcome { first: known.is_none() }
    }

    /// Makes a joining subscriber live, once its client has been told up to where it has the stream. The subscriber
    /// gets the held publications that it does not have, then everything that comes; or it is told that there is a gap,
    /// and stays joining until it leaves or joins again. Does nothing for a subscriber that is not joining. On a worker
    /// that has seen nothing of the stream, the subscriber's position becomes the stream's if `is_handed_out`.
    pub fn go_live(
        &mut self,
        channel: &str,
        key: u32,
        knows: impl Into<KnownPosition>,
        sink: &mut impl Sink,
    ) {
        let Some(first) = self.ids.find(&self.channels, channel) else { return };
        let Some((id, at)) = self.find_place(first, key).filter(|(_, at)| at.list() == PlaceList::Joining)
        else {
            return;
        };
        let Some(members) = self.channels.get_mut(id as usize) else { return };
        let Some(aside) = members.aside.as_ref() else { return };
        let Some(joining) = aside.joining.get(at.index()) else { return };
        let subscriber = joining.subscriber;
        let knows = knows.into();
        let Some((next, has_last)) = members.catch_up(joining, &aside.held, knows, sink) else {
            self.counts.insufficient += 1;
            return sink.insufficient(key, &members.channel);
        };
        let subscriber = subscriber.given_last(has_last);
        if let Some(aside) = members.aside.as_mut() {
            swap_out(&mut aside.joining, at.index(), PlaceList::Joining, id, &mut self.places);
            self.held_bytes -= aside.release_held();
        }
        if let JoinNext::Waiting(position) = next
            && knows.is_handed_out
            && members.is_first_at(position)
        {
            members.stream = Some(position);
            members.make_live(subscriber, Some(position), id, &mut self.places);
            return members.end_waiting(id, &mut self.places);
        }
        match next {
            JoinNext::Live(position) => members.make_live(subscriber, position, id, &mut self.places),
            JoinNext::Waiting(position) => members.make_waiting(subscriber, position, id, &mut self.places),
        }
        members.drop_unused_aside();
    }
}

impl Members {
    /// Returns whether the worker, which has seen nothing of the stream yet, may go on as if it had seen it up to
    /// `position`, given that everything the node has passed on is in its inbox at the latest. Subscribers that are
    /// live or waiting have what is in the inbox up to that position; joining ones may have been told of an earlier
    /// position.
    fn is_first_at(&self, position: StreamPosition) -> bool {
        let is_first = |aside: &MembersRareState| {
            aside.joining.is_empty() && aside.waiting.iter().all(|waiting| waiting.position == position)
        };
        self.stream.is_none() && self.live.is_empty() && self.aside.as_deref().is_none_or(is_first)
    }

    /// Sends the held publications to a joining subscriber. Returns its next stage, and whether it was given the last
    /// publication; `None` if it misses something.
    fn catch_up(
        &self,
        joining: &JoiningMember,
        held: &HoldBackQueue,
        knows: KnownPosition,
        sink: &mut impl Sink,
    ) -> Option<(JoinNext, bool)> {
        let KnownPosition { position, has_last, .. } = knows;
        let subscriber = joining.subscriber;
        // The history it got was read before that loss, or is of a stream that no longer exists.
        let is_outdated = joining.lost.zip(position).is_some_and(|(lost, knows)| {
            subscriber.is_positioned() && (knows.epoch != lost.epoch || knows.offset < lost.offset)
        });
        if is_outdated {
            return None;
        }
        let CaughtUp { publications, now_at } = held.catch_up(joining, position)?;
        let next = next(now_at, self.stream, subscriber.is_positioned())?;
        let stays = has_last && now_at == position;
        let given = position.filter(|_| has_last);
        let Some(mut bundles) = separate_lists::bundles(self.apart(), given, publications) else {
            return Some((next, stays));
        };
        if !sink.catch_up(subscriber, &mut bundles) {
            return None;
        }
        let has_last = match bundles.last_publication() {
            Some(last) => now_at.is_some() && last.position == now_at && !bundles.is_broken(),
            None => stays,
        };
        Some((next, has_last))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum JoinNext {
    Live(Option<StreamPosition>),
    Waiting(StreamPosition),
}

/// Returns the next stage of a subscriber that has everything up to `now_at`, on a worker that has seen the stream up
/// to `stream`. `None` if the subscriber misses something.
fn next(
    now_at: Option<StreamPosition>,
    stream: Option<StreamPosition>,
    positioned: bool,
) -> Option<JoinNext> {
    let Some(now_at) = now_at else { return Some(JoinNext::Live(None)) };
    match stream {
        Some(stream) if stream == now_at => Some(JoinNext::Live(Some(now_at))),
        // Everything since the join was held back, so the missing publications were lost before they came here.
        Some(stream) if stream.epoch == now_at.epoch && stream.offset > now_at.offset => {
            (!positioned).then_some(JoinNext::Live(Some(now_at)))
        }
        // The worker is behind, or in another epoch, or has seen nothing yet: publications that the subscriber has may
        // still be on their way, and must not be delivered to it a second time.
        _ => Some(JoinNext::Waiting(now_at)),
    }
}
