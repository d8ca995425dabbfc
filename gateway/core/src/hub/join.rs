//! Coming to a channel: held back at first, then live.

use shared::channel::Channel;
use shared::position::StreamPosition;

use super::Hub;
use super::bundle::Bundles;
use super::hold_back::CaughtUp;
use super::members::{Members, swap_out};
use super::places::List;
use super::subscriber::{Sink, Subscriber};

/// What came of a join.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Joined {
    /// Nobody on this worker listened to the channel before.
    pub first: bool,
}

impl Hub {
    /// From now on, publications of the channel are held back for this subscriber until [`Hub::go_live`].
    /// One that is there already starts anew.
    pub fn join(&mut self, channel: &Channel, subscriber: Subscriber) -> Joined {
        let known = self.ids.get(channel.as_str()).copied();
        let id = known.unwrap_or_else(|| {
            let id = self.channels.insert(Members::new(channel.clone())) as u32;
            self.ids.insert(channel.clone(), id);
            id
        });
        let members = &mut self.channels[id as usize];
        if let Some(at) = self.places.remove(subscriber.key, id) {
            self.held_bytes -= members.take_out(at, id, &mut self.places);
        }
        members.make_joining(subscriber, id, &mut self.places);
        Joined { first: known.is_none() }
    }

    /// The subscriber knows the stream up to `position` (`None`: the channel has no stream) and its client has been
    /// told so. It gets what was held back and is not known to it, then everything that comes; or it is told that
    /// something in between is not there. Does nothing for one that is not joining.
    pub fn go_live(
        &mut self,
        channel: &str,
        key: u32,
        position: Option<StreamPosition>,
        sink: &mut impl Sink,
    ) {
        let Some(&id) = self.ids.get(channel) else { return };
        let Some(members) = self.channels.get_mut(id as usize) else { return };
        let Some(at) = self.places.get(key, id).filter(|at| at.list() == List::Joining) else { return };
        let Some(aside) = members.aside.as_mut() else { return };
        let Some(joining) = swap_out(&mut aside.joining, at.index(), List::Joining, id, &mut self.places)
        else {
            return;
        };
        let subscriber = joining.subscriber;

        // History was read for it before that was lost, or of a stream that is gone.
        let is_outdated = joining.lost.zip(position).is_some_and(|(lost, knows)| {
            subscriber.positioned && (knows.epoch != lost.epoch || knows.offset < lost.offset)
        });
        let next = match aside.held.catch_up(joining.from, position, subscriber.positioned) {
            _ if is_outdated => Next::Told,
            CaughtUp::Hole => Next::Told,
            CaughtUp::Deliver { publications, now_at } => {
                let next = next(now_at, members.stream, subscriber.positioned);
                if next != Next::Told && !publications.is_empty() {
                    sink.deliver(&[subscriber], &mut Bundles::new(publications));
                }
                next
            }
        };
        self.held_bytes -= aside.let_go();
        match next {
            Next::Live => members.make_live(subscriber, id, &mut self.places),
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
    Live,
    Waiting(StreamPosition),
    Told,
}

/// Where a subscriber goes that has got everything up to `now_at`, on a worker that has seen `stream`.
fn next(now_at: Option<StreamPosition>, stream: Option<StreamPosition>, positioned: bool) -> Next {
    let Some(now_at) = now_at else { return Next::Live };
    match stream {
        Some(stream) if stream == now_at => Next::Live,
        // Everything since the join was held back, so what is missing was lost before it came here.
        Some(stream) if stream.epoch == now_at.epoch && stream.offset > now_at.offset => {
            if positioned {
                Next::Told
            } else {
                Next::Live
            }
        }
        // The worker is behind, or in another epoch, or has seen nothing yet: what the subscriber knows already
        // may still be on its way, and must not be given to it a second time.
        _ => Next::Waiting(now_at),
    }
}
