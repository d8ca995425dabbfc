//! What others see of a client that was closed so that it comes back to another node: for a while, as if it were still here.
//!
//! Its user is there again before the client is said to have left, and so was never away. The client that comes is another
//! one, as after every connection; others are told first that it has come, and then that this one has gone.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use gateway_core::effect::PublishedSubscriber;
use parking_lot::Mutex;
use shared::channel::Channel;
use shared::id::ClientId;
use shared::moment::Moment;
use shared::publication::ClientInfo;
use tokio::sync::Notify;

use crate::node::Node;
use crate::telemetry::Sparingly;

/// The most channels of such clients that are remembered: as many as may wait to be told of at once. Who comes after that
/// is gone at once.
const CHANNELS_MAX: usize = 65_536;

/// A client that is gone, and where others see it.
#[derive(Debug)]
pub(crate) struct ClientTraces {
    pub(crate) client: ClientId,
    pub(crate) present: Vec<Channel>,
    /// Where it is told that it has left, and to how many subscribers.
    pub(crate) announced: Vec<(Channel, ClientInfo, usize)>,
    pub(crate) shown: Vec<PublishedSubscriber>,
}

impl ClientTraces {
    fn channels(&self) -> usize {
        self.present.len() + self.announced.len() + self.shown.len()
    }
}

#[derive(Debug, Default)]
pub(super) struct Departures {
    /// In milliseconds. 0: nothing is held.
    hold_ms: AtomicU64,
    held: Mutex<HeldDepartures>,
    wake: Notify,
    full_told: Sparingly,
}

#[derive(Debug, Default)]
struct HeldDepartures {
    /// In the order in which they came.
    waiting: VecDeque<(Moment, ClientTraces)>,
    channels: usize,
}

impl HeldDepartures {
    /// Gives it back if there is no room.
    fn add(&mut self, until: Moment, departure: ClientTraces) -> Option<ClientTraces> {
        if self.channels + departure.channels() > CHANNELS_MAX {
            return Some(departure);
        }
        self.channels += departure.channels();
        self.waiting.push_back((until, departure));
        None
    }

    /// `None` for the time: whatever it is.
    fn take_due(&mut self, now: Option<Moment>) -> Option<ClientTraces> {
        self.waiting.pop_front_if(|(until, _)| now.is_none_or(|now| *until <= now)).map(|(_, departure)| {
            self.channels -= departure.channels();
            departure
        })
    }

    fn next_due(&self) -> Option<Moment> {
        self.waiting.front().map(|(until, _)| *until)
    }
}

impl Node {
    /// From now on those who are closed so that they come back to another node are seen for so long.
    pub(super) fn hold_departures(&self, hold: Duration) {
        let hold_ms = u64::try_from(hold.as_millis()).unwrap_or(u64::MAX);
        let _held = self.departures.held.lock();
        self.departures.hold_ms.store(hold_ms, Ordering::Relaxed);
    }

    /// A client is gone. `may_be_held`: it was closed so that it comes back.
    pub(crate) fn depart(&self, departure: ClientTraces, may_be_held: bool) {
        if departure.channels() == 0 {
            return;
        }
        if !may_be_held {
            return self.carry_out(departure);
        }
        let full = {
            let mut held = self.departures.held.lock();
            // Under the lock, so that nothing is added once all was carried out.
            let hold_ms = self.departures.hold_ms.load(Ordering::Relaxed);
            if hold_ms == 0 {
                drop(held);
                return self.carry_out(departure);
            }
            let full = held.add(self.clock.now() + Duration::from_millis(hold_ms), departure);
            self.metrics.moves.presence_held.set(held.waiting.len() as i64);
            full
        };
        match full {
            None => self.departures.wake.notify_one(),
            Some(departure) => {
                self.carry_out(departure);
                if let Some(untold) = self.departures.full_told.now() {
                    tracing::warn!(
                        untold,
                        "clients that move are said to have left at once: {CHANNELS_MAX} channels of others are held"
                    );
                }
            }
        }
    }

    /// How many clients that are gone are still seen.
    pub(crate) fn held_departures(&self) -> usize {
        self.departures.held.lock().waiting.len()
    }

    /// Nobody is held any longer, and nobody more.
    pub(crate) fn end_departures(&self) {
        self.hold_departures(Duration::ZERO);
        self.carry_out_due(None);
        self.announce_now();
    }

    /// Whether something is still on its way to the broker that says who has left.
    pub(crate) fn tells_departures(&self) -> bool {
        self.is_announcing() || self.is_changing_keys()
    }

    fn carry_out_due(&self, now: Option<Moment>) {
        loop {
            let departure = {
                let mut held = self.departures.held.lock();
                let departure = held.take_due(now);
                self.metrics.moves.presence_held.set(held.waiting.len() as i64);
                departure
            };
            match departure {
                Some(departure) => self.carry_out(departure),
                None => return,
            }
        }
    }

    fn carry_out(&self, departure: ClientTraces) {
        let ClientTraces { client, present, announced, shown } = departure;
        present.into_iter().for_each(|channel| self.leave_presence(channel, client));
        for (channel, info, subscribers) in announced {
            self.announce_left(channel, info, subscribers);
        }
        shown.into_iter().for_each(|shown| self.hide(shown));
    }
}

/// Carries out what was held for long enough.
pub(super) async fn keep_departing(node: Arc<Node>) {
    loop {
        let next = node.departures.held.lock().next_due();
        match next {
            None => node.departures.wake.notified().await,
            Some(next) => tokio::time::sleep(next.since(node.clock.now())).await,
        }
        node.carry_out_due(Some(node.clock.now()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn departure(number: u128, channels: usize) -> ClientTraces {
        let channel = Channel::parse("a", 255).unwrap();
        let present = vec![channel; channels];
        ClientTraces {
            client: ClientId::from_random(number),
            present,
            announced: Vec::new(),
            shown: Vec::new(),
        }
    }

    #[test]
    fn departures_are_due_in_their_order_and_bounded_by_their_channels() {
        let mut held = HeldDepartures::default();
        assert!(held.add(Moment(10), departure(1, 3)).is_none());
        assert!(held.add(Moment(20), departure(2, CHANNELS_MAX - 4)).is_none());
        assert!(held.add(Moment(20), departure(3, 2)).is_some(), "there is room for one");
        assert!(held.take_due(Some(Moment(9))).is_none());
        assert_eq!(held.take_due(Some(Moment(10))).map(|one| one.present.len()), Some(3));
        assert!(held.take_due(Some(Moment(19))).is_none());
        assert!(held.add(Moment(30), departure(3, 2)).is_none());
        assert!(
            held.take_due(None).is_some() && held.take_due(None).is_some() && held.take_due(None).is_none()
        );
        assert_eq!(held.channels, 0);
    }
}
