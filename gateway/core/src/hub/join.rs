//! Coming to a channel: held back at first, then live.

use std::sync::Arc;

use shared::channel::Channel;
use shared::position::StreamPosition;

use super::Hub;
use super::apart::{self, Wants};
use super::hold_back::CaughtUp;
use super::members::{Members, swap_out};
use super::places::List;
use super::subscriber::{Sink, Subscriber};
use crate::tag_filter::TagFilter;

/// What came of a join.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Joined {
    /// Nobody on this worker listened to the channel before.
    pub first: bool,
}

/// What a subscriber has when it goes live.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Knows {
    /// It knows the stream up to here. `None`: the channel has no stream.
    pub position: Option<StreamPosition>,
    /// It was given the publication at that position, so that the next one may come to it as a patch of that.
    pub has_last: bool,
}

impl From<Option<StreamPosition>> for Knows {
    fn from(position: Option<StreamPosition>) -> Self {
        Self { position, has_last: false }
    }
}

impl Hub {
    /// From now on, publications of the channel are held back for this subscriber until [`Hub::go_live`]. With a filter,
    /// it gets only those that this lets through. One that is there already starts anew.
    pub fn join(
        &mut self,
        channel: &Channel,
        subscriber: Subscriber,
        filter: Option<Arc<TagFilter>>,
    ) -> Joined {
        let known = self.ids.get(channel.as_str()).copied();
        let first = known.unwrap_or_else(|| {
            let id = self.channels.insert(Members::new(channel.clone())) as u32;
            self.ids.insert(channel.clone(), id);
            id
        });
        let before = known.and_then(|first| self.take_place(first, subscriber.key));
        if let Some((id, at)) = before {
            self.held_bytes -= self.channels[id as usize].take_out(at, id, &mut self.places);
        }
        let id = match Wants::of(subscriber, filter) {
            None => first,
            Some(wants) => self.list_for(first, wants),
        };
        self.channels[id as usize].make_joining(subscriber, id, &mut self.places);
        // Only now: the channel must not go for a moment.
        if let Some((before, _)) = before.filter(|(before, _)| *before != id)
            && self.channels[before as usize].is_empty()
        {
            self.drop_empty(before);
        }
        Joined { first: known.is_none() }
    }

    /// What the subscriber knows has been told to its client. It gets what was held back and is not known to it, then
    /// everything that comes; or it is told that something in between is not there. Does nothing for one that is not
    /// joining.
    pub fn go_live(&mut self, channel: &str, key: u32, knows: impl Into<Knows>, sink: &mut impl Sink) {
        let Knows { position, mut has_last } = knows.into();
        let Some(&first) = self.ids.get(channel) else { return };
        let Some((id, at)) = self.find_place(first, key).filter(|(_, at)| at.list() == List::Joining) else {
            return;
        };
        let Some(members) = self.channels.get_mut(id as usize) else { return };
        let Some(aside) = members.aside.as_mut() else { return };
        let Some(joining) = swap_out(&mut aside.joining, at.index(), List::Joining, id, &mut self.places)
        else {
            return;
        };
        let subscriber = joining.subscriber;

        // History was read for it before that was lost, or of a stream that is gone.
        let is_outdated = joining.lost.zip(position).is_some_and(|(lost, knows)| {
            subscriber.is_positioned() && (knows.epoch != lost.epoch || knows.offset < lost.offset)
        });
        let next = match aside.held.catch_up(joining.from, position, subscriber) {
            _ if is_outdated => Next::Told,
            CaughtUp::Hole => Next::Told,
            CaughtUp::Deliver { publications, now_at } => {
                let next = next(now_at, members.stream, subscriber.is_positioned());
                if next != Next::Told
                    && !publications.is_empty()
                    && let Some(mut bundles) =
                        apart::bundles(members.apart.as_deref(), position.filter(|_| has_last), &publications)
                {
                    sink.deliver(&[subscriber], &mut bundles);
                    has_last = match bundles.last_publication() {
                        Some(last) => now_at.is_some() && last.position == now_at && !bundles.is_broken(),
                        None => has_last && now_at == position,
                    };
                } else {
                    has_last = has_last && now_at == position;
                }
                next
            }
        };
        let subscriber = subscriber.given_last(has_last);
        if let Some(aside) = members.aside.as_mut() {
            self.held_bytes -= aside.let_go();
        }
        match next {
            Next::Live(position) => members.make_live(subscriber, position, id, &mut self.places),
            Next::Waiting(position) => members.make_waiting(subscriber, position, id, &mut self.places),
            Next::Told => {
                members.make_told(key, id, &mut self.places);
                self.counts.insufficient += 1;
                sink.insufficient(key, &members.channel);
            }
        }
        members.drop_unused_aside();
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    Live(Option<StreamPosition>),
    Waiting(StreamPosition),
    Told,
}

/// Where a subscriber goes that has got everything up to `now_at`, on a worker that has seen `stream`.
fn next(now_at: Option<StreamPosition>, stream: Option<StreamPosition>, positioned: bool) -> Next {
    let Some(now_at) = now_at else { return Next::Live(None) };
    match stream {
        Some(stream) if stream == now_at => Next::Live(Some(now_at)),
        // Everything since the join was held back, so what is missing was lost before it came here.
        Some(stream) if stream.epoch == now_at.epoch && stream.offset > now_at.offset => {
            if positioned {
                Next::Told
            } else {
                Next::Live(Some(now_at))
            }
        }
        // The worker is behind, or in another epoch, or has seen nothing yet: what the subscriber knows already
        // may still be on its way, and must not be given to it a second time.
        _ => Next::Waiting(now_at),
    }
}
