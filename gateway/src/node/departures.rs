//! Delays the departure of clients that were closed so that they return to another node: for a while, others see them as if
//! they were still here.
//!
//! The user is present again before the old client's leave is announced, and so never appears to be away. The returning
//! client is a new one, as after every connection: others are told first that it has joined, and then that the old one has
//! left.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use gateway_core::effect::PublishedSubscriber;
use parking_lot::Mutex;
use shared::channel::Channel;
use shared::id::ClientId;
use shared::moment::Moment;
use shared::publication::ClientInfo;
use tokio::sync::Notify;

use crate::node::Node;
use crate::telemetry::{LogLimiter, MoveMetrics};

/// The most channels of departed clients that are held: as many as announcements may wait. The departure of further clients
/// is carried out at once.
const CHANNELS_MAX: usize = 65_536;

/// The same bound in bytes of channel names and client infos.
const BYTES_MAX: usize = 64 << 20;

/// A client that is gone, and the places where others still see it.
#[derive(Debug)]
pub(crate) struct ClientTraces {
    pub(crate) client: ClientId,
    pub(crate) present: Vec<Channel>,
    /// Where its leave is announced, and to how many subscribers.
    pub(crate) announced: Vec<(Channel, ClientInfo, usize)>,
    pub(crate) shown: Vec<PublishedSubscriber>,
}

impl ClientTraces {
    fn weight(&self) -> TracesWeight {
        let (present, announced, shown) = (self.present.iter(), self.announced.iter(), self.shown.iter());
        let of_shown = |shown: &PublishedSubscriber| {
            let channels = [&shown.clients, &shown.users, &shown.own];
            info_bytes(&shown.info) + channels.into_iter().flatten().map(channel_bytes).sum::<usize>()
        };
        let of_announced =
            |(channel, info, _): &(Channel, ClientInfo, usize)| channel_bytes(channel) + info_bytes(info);
        TracesWeight {
            channels: self.present.len() + self.announced.len() + self.shown.len(),
            bytes: present.map(channel_bytes).sum::<usize>()
                + announced.map(of_announced).sum::<usize>()
                + shown.map(of_shown).sum::<usize>(),
        }
    }
}

/// Each client is charged for its channel names in full, because nothing says who shares them once they are released.
fn channel_bytes(channel: &Channel) -> usize {
    size_of::<Channel>() + channel.as_str().len()
}

fn info_bytes(info: &ClientInfo) -> usize {
    let json: usize = [&info.conn_info, &info.chan_info].into_iter().flatten().map(Bytes::len).sum();
    size_of::<ClientInfo>() + info.user.as_str().len() + json
}

/// How much is held for clients that are gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct TracesWeight {
    channels: usize,
    bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct Departures {
    /// In milliseconds. 0: departures are not held.
    hold_ms: AtomicU64,
    held: Mutex<HeldDepartures>,
    wake: Notify,
    full_log: LogLimiter,
}

#[derive(Debug, Default)]
struct HeldDepartures {
    /// Ordered by due time, then by arrival. After a reload the hold may be shorter, so a later departure may be due before
    /// an earlier one.
    waiting: BTreeMap<(Moment, u64), ClientTraces>,
    next: u64,
    weight: TracesWeight,
}

impl HeldDepartures {
    /// Adds a departure, or returns it if there is no room.
    fn add(&mut self, until: Moment, departure: ClientTraces) -> Option<ClientTraces> {
        let TracesWeight { channels, bytes } = departure.weight();
        if self.weight.channels + channels > CHANNELS_MAX || self.weight.bytes + bytes > BYTES_MAX {
            return Some(departure);
        }
        self.weight.channels += channels;
        self.weight.bytes += bytes;
        self.waiting.insert((until, self.next), departure);
        self.next += 1;
        None
    }

    /// Takes the next departure that is due. `None` for the time takes any.
    fn take_due(&mut self, now: Option<Moment>) -> Option<ClientTraces> {
        let first = self.waiting.first_entry()?;
        if now.is_some_and(|now| first.key().0 > now) {
            return None;
        }
        let departure = first.remove();
        let TracesWeight { channels, bytes } = departure.weight();
        self.weight.channels -= channels;
        self.weight.bytes -= bytes;
        Some(departure)
    }

    fn next_due(&self) -> Option<Moment> {
        self.waiting.first_key_value().map(|((until, _), _)| *until)
    }

    fn report(&self, metrics: &MoveMetrics) {
        metrics.presence_held.set(self.waiting.len() as i64);
        metrics.presence_held_channels.set(self.weight.channels as i64);
        metrics.presence_held_bytes.set(self.weight.bytes as i64);
    }
}

impl Node {
    /// Sets how long departures of clients that are to return to another node are held, from now on.
    pub(super) fn hold_departures(&self, hold: Duration) {
        let hold_ms = u64::try_from(hold.as_millis()).unwrap_or(u64::MAX);
        let _held = self.departures.held.lock();
        self.departures.hold_ms.store(hold_ms, Ordering::Relaxed);
    }

    /// Carries out the departure of a client, now or later. `may_be_held` says that the client was closed so that it
    /// returns.
    pub(crate) fn depart(&self, departure: ClientTraces, may_be_held: bool) {
        if departure.weight().channels == 0 {
            return;
        }
        if !may_be_held {
            return self.carry_out(departure);
        }
        let full = {
            let mut held = self.departures.held.lock();
            // Read under the lock, so that nothing is added once all departures were carried out.
            let hold_ms = self.departures.hold_ms.load(Ordering::Relaxed);
            if hold_ms == 0 {
                drop(held);
                return self.carry_out(departure);
            }
            let full = held.add(self.clock.now() + Duration::from_millis(hold_ms), departure);
            held.report(&self.metrics.moves);
            full
        };
        match full {
            None => self.departures.wake.notify_one(),
            Some(departure) => {
                self.metrics.moves.presence_hold_overflows_total.inc();
                self.carry_out(departure);
                if let Some(suppressed) = self.departures.full_log.admit() {
                    tracing::warn!(
                        suppressed,
                        "clients that move to other nodes leave presence at once: {CHANNELS_MAX} channels or {BYTES_MAX} bytes of \
                         others are held"
                    );
                }
            }
        }
    }

    /// Returns how many clients that are gone are still shown.
    pub(crate) fn held_departures(&self) -> usize {
        self.departures.held.lock().waiting.len()
    }

    /// Carries out all departures and holds no more.
    pub(crate) fn end_departures(&self) {
        self.hold_departures(Duration::ZERO);
        self.carry_out_due(None);
        self.announce_now();
    }

    /// Whether departures are still in flight to the broker.
    pub(crate) fn has_departures_in_flight(&self) -> bool {
        self.is_announcing() || self.is_changing_keys()
    }

    fn carry_out_due(&self, now: Option<Moment>) {
        loop {
            let departure = {
                let mut held = self.departures.held.lock();
                let departure = held.take_due(now);
                held.report(&self.metrics.moves);
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

/// Carries out departures that are due, for as long as the node runs.
pub(super) async fn keep_departing(node: Arc<Node>) {
    loop {
        let next = node.departures.held.lock().next_due();
        match next {
            None => node.departures.wake.notified().await,
            Some(next) => {
                // A departure that arrives meanwhile may be due earlier, so an early wake-up only looks again.
                let _ =
                    tokio::time::timeout(next.since(node.clock.now()), node.departures.wake.notified()).await;
            }
        }
        node.carry_out_due(Some(node.clock.now()));
    }
}

#[cfg(test)]
mod tests {
    use shared::id::UserId;

    use super::*;
    use crate::node::publish::tests::node;

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

    fn number(departure: Option<ClientTraces>) -> Option<ClientId> {
        departure.map(|departure| departure.client)
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
        assert_eq!(held.weight, TracesWeight::default());
    }

    #[test]
    fn who_is_held_for_a_shorter_time_since_a_reload_is_due_before_those_who_came_earlier() {
        let mut held = HeldDepartures::default();
        for (until, of) in [(5_000, 1), (700, 2), (700, 3), (6_000, 4)] {
            assert!(held.add(Moment(until), departure(of, 1)).is_none());
        }
        assert_eq!(held.next_due(), Some(Moment(700)));
        let client = |of| Some(ClientId::from_random(of));
        assert_eq!(number(held.take_due(Some(Moment(800)))), client(2));
        assert_eq!(number(held.take_due(Some(Moment(800)))), client(3), "in the order in which they came");
        assert_eq!(number(held.take_due(Some(Moment(800)))), None);
        assert_eq!(number(held.take_due(Some(Moment(5_000)))), client(1));
    }

    #[test]
    fn departures_are_bounded_by_the_bytes_of_what_is_told_of_them() {
        let info = |bytes: usize| ClientInfo {
            client: ClientId::from_random(1),
            user: UserId::new("ann"),
            conn_info: Some(Bytes::from(vec![b'1'; bytes])),
            chan_info: None,
        };
        let announced = |of: u128, bytes: usize| {
            let channel = Channel::parse("a", 255).unwrap();
            ClientTraces { announced: vec![(channel, info(bytes), 2)], ..departure(of, 0) }
        };
        let mut held = HeldDepartures::default();
        assert!(held.add(Moment(10), announced(1, BYTES_MAX - 1_000)).is_none());
        assert!(held.add(Moment(10), announced(2, 1_000)).is_some(), "there is no room for its bytes");
        assert!(held.add(Moment(10), announced(3, 100)).is_none());
        assert_eq!(held.weight.channels, 2);
        assert!(held.take_due(None).is_some() && held.take_due(None).is_some());
        assert_eq!(held.weight, TracesWeight::default());
    }

    #[tokio::test]
    async fn without_a_hold_or_room_a_client_is_gone_at_once_and_the_metrics_say_so() {
        let node = node(Vec::new());
        node.depart(departure(1, 1), true);
        assert_eq!(node.held_departures(), 0, "nothing is held where no time is set");
        node.hold_departures(Duration::from_secs(600));
        node.depart(departure(2, 1), false);
        assert_eq!(node.held_departures(), 0, "nor who leaves by themselves");
        node.depart(departure(3, CHANNELS_MAX - 1), true);
        node.depart(departure(4, 2), true);
        assert_eq!(node.held_departures(), 1, "there was no room for the second");
        let moves = &node.metrics.moves;
        assert_eq!(moves.presence_hold_overflows_total.get(), 1);
        assert_eq!(moves.presence_held_channels.get(), CHANNELS_MAX as i64 - 1);
        assert!(moves.presence_held_bytes.get() > CHANNELS_MAX as i64);
        node.depart(departure(5, 1), true);
        node.end_departures();
        assert_eq!((node.held_departures(), moves.presence_held_bytes.get()), (0, 0));
    }
}
