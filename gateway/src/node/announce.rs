//! Passes joins and leaves to the broker in order, batched for channels with many subscribers.
//!
//! In such a channel every join or leave is written to every subscriber, so a thousand clients that arrive at once would
//! cause a million writes. There, joins and leaves are held back for [`HOLD`]. A client that joins and leaves within that
//! time is not announced at all, and the remaining events go out as one batch, which workers write as one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use shared::channel::Channel;
use shared::id::ClientId;
use shared::publication::ClientInfo;
use shared::push::OwnedEvent;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};

use crate::node::Node;
use crate::telemetry::LogLimiter;
use crate::telemetry::labels::Drop;

/// A channel's joins and leaves are held back once it has more subscribers than this on one worker.
pub(crate) const PROMPT_SUBSCRIBERS_MAX: usize = 100;
/// How long joins and leaves of a large channel are held back.
const HOLD: Duration = Duration::from_secs(1);
/// The most joins and leaves of this node that wait for a part of the broker. Further ones are dropped and counted.
const WAITING_MAX: usize = 65_536;
/// The most joins and leaves handed to the broker at once.
const TOGETHER: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Announcements {
    waiting: Mutex<WaitingAnnouncements>,
    wake: Notify,
    failed_log: LogLimiter,
}

#[derive(Debug, Default)]
struct WaitingAnnouncements {
    /// Events that go to the broker next, in order.
    prompt: VecDeque<(Channel, OwnedEvent)>,
    /// Events held back, by channel: the last one of each client.
    held: FxHashMap<Channel, FxHashMap<ClientId, OwnedEvent>>,
    /// The number of events in `held`.
    held_count: usize,
    /// Whether the broker has yet to answer for a batch.
    in_flight: bool,
}

impl WaitingAnnouncements {
    /// Returns false if there is no room.
    fn add(&mut self, channel: Channel, client: ClientId, event: OwnedEvent, is_large: bool) -> bool {
        if !is_large && !self.held.contains_key(&channel) {
            let fits = self.prompt.len() + self.held_count < WAITING_MAX;
            if fits {
                self.prompt.push_back((channel, event));
            }
            return fits;
        }
        let fits = self.prompt.len() + self.held_count < WAITING_MAX;
        let held = self.held.entry(channel).or_default();
        if held.remove(&client).is_some() {
            // Joins and leaves of a client alternate, so the held event is the opposite of this one: they cancel out.
            self.held_count -= 1;
            return true;
        }
        if fits {
            held.insert(client, event);
            self.held_count += 1;
        }
        fits
    }

    /// Moves the events that are held back to those that go out next.
    fn release(&mut self) {
        for (channel, events) in self.held.drain() {
            self.prompt.extend(events.into_values().map(|event| (channel.clone(), event)));
        }
        self.held_count = 0;
    }
}

impl Node {
    /// Releases all events that are held back.
    pub(super) fn announce_now(&self) {
        for announcements in self.announcements.all() {
            announcements.waiting.lock().release();
            announcements.wake.notify_one();
        }
    }

    /// Whether joins or leaves are waiting or in flight to the broker.
    pub(super) fn is_announcing(&self) -> bool {
        self.announcements.all().any(|announcements| {
            let waiting = announcements.waiting.lock();
            waiting.in_flight || waiting.held_count > 0 || !waiting.prompt.is_empty()
        })
    }

    /// Tells the channel's subscribers that a client has joined. `subscribers` is the number of them as far as it is
    /// known.
    pub(crate) fn announce_joined(&self, channel: Channel, info: ClientInfo, subscribers: usize) {
        self.announce(channel, info.client, OwnedEvent::Joined(info), subscribers);
    }

    /// Tells the channel's subscribers that a client has left.
    pub(crate) fn announce_left(&self, channel: Channel, info: ClientInfo, subscribers: usize) {
        self.announce(channel, info.client, OwnedEvent::Left(info), subscribers);
    }

    fn announce(&self, channel: Channel, client: ClientId, event: OwnedEvent, subscribers: usize) {
        let is_large = subscribers > PROMPT_SUBSCRIBERS_MAX;
        let announcements = self.announcements.of(self.broker.part_of(&channel));
        if announcements.waiting.lock().add(channel, client, event, is_large) {
            announcements.wake.notify_one();
        } else {
            self.metrics.dropped(Drop::AnnouncementsFull, 1);
        }
    }
}

/// Hands the joins and leaves of one part of the broker to it, for as long as the node runs.
pub(super) async fn keep_announcing(node: Arc<Node>, part: usize) {
    let announcements = node.announcements.of(part);
    let mut window = interval(HOLD);
    window.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = announcements.wake.notified() => {}
            _ = window.tick() => announcements.waiting.lock().release(),
        }
        loop {
            let batch: Vec<_> = {
                let mut waiting = announcements.waiting.lock();
                let count = waiting.prompt.len().min(TOGETHER);
                waiting.in_flight = count > 0;
                waiting.prompt.drain(..count).collect()
            };
            if batch.is_empty() {
                break;
            }
            let channels: Vec<_> = batch.iter().map(|(channel, _)| channel.clone()).collect();
            let sent =
                join_all(batch.into_iter().map(|(channel, event)| node.broker.publish_event(channel, event)));
            for (channel, sent) in channels.iter().zip(sent.await) {
                let Err(error) = sent else { continue };
                node.note_unpublished(channel, &error);
                if let Some(suppressed) = announcements.failed_log.admit() {
                    tracing::warn!(%error, suppressed, "a join or a leave could not be announced");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::id::UserId;

    use super::*;

    fn event(number: u128, joined: bool) -> (ClientId, OwnedEvent) {
        let client = ClientId::from_random(number);
        let info = ClientInfo { client, user: UserId::new("ann"), conn_info: None, chan_info: None };
        (client, if joined { OwnedEvent::Joined(info) } else { OwnedEvent::Left(info) })
    }

    fn add(
        waiting: &mut WaitingAnnouncements,
        (client, event): (ClientId, OwnedEvent),
        is_large: bool,
    ) -> bool {
        waiting.add(Channel::parse("news", 255).unwrap(), client, event, is_large)
    }

    #[test]
    fn in_a_small_channel_everything_is_told_at_once_and_in_order() {
        let mut waiting = WaitingAnnouncements::default();
        assert!(add(&mut waiting, event(1, true), false) && add(&mut waiting, event(1, false), false));
        let told: Vec<_> = waiting.prompt.iter().map(|(_, event)| event.clone()).collect();
        assert_eq!(told, [event(1, true).1, event(1, false).1]);
    }

    #[test]
    fn who_comes_and_goes_in_a_large_one_is_not_told_of() {
        let mut waiting = WaitingAnnouncements::default();
        for number in 1..=3 {
            add(&mut waiting, event(number, true), true);
        }
        add(&mut waiting, event(2, false), true);
        // The channel has become small meanwhile, but the held events still go first.
        add(&mut waiting, event(4, false), false);
        assert!(waiting.prompt.is_empty());
        waiting.release();
        let mut told: Vec<_> = waiting.prompt.iter().map(|(_, event)| event.clone()).collect();
        told.sort_by_key(|event| match event {
            OwnedEvent::Joined(info) | OwnedEvent::Left(info) => info.client.bits(),
            _ => panic!("nothing else is announced"),
        });
        assert_eq!(told, [event(1, true).1, event(3, true).1, event(4, false).1]);
        assert_eq!((waiting.held_count, waiting.held.len()), (0, 0));
    }

    #[test]
    fn no_more_wait_than_there_is_room_for() {
        let mut waiting = WaitingAnnouncements::default();
        let added = (0..WAITING_MAX as u128 + 5)
            .filter(|number| add(&mut waiting, event(*number, true), number % 2 == 0));
        assert_eq!(added.count(), WAITING_MAX);
        assert!(add(&mut waiting, event(0, false), true), "what cancels takes no room");
    }
}
