//! What others see of a client that was closed so that it comes back to another node: for a while, as if it were still here.
//!
//! Its user is there again before the client is said to have left, and so was never away. The client that comes is another
//! one, as after every connection; others are told first that it has come, and then that this one has gone.

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

/// The most channels of such clients that are remembered: as many as may wait to be told of at once. Who comes after that
/// is gone at once.
const CHANNELS_MAX: usize = 65_536;

/// The same in bytes of names and of what is told of them.
const BYTES_MAX: usize = 64 << 20;

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

/// Names are counted for each client, as if no other had them: nothing says who else does by the time they are let go of.
fn channel_bytes(channel: &Channel) -> usize {
    size_of::<Channel>() + channel.as_str().len()
}

fn info_bytes(info: &ClientInfo) -> usize {
    let json: usize = [&info.conn_info, &info.chan_info].into_iter().flatten().map(Bytes::len).sum();
    size_of::<ClientInfo>() + info.user.as_str().len() + json
}

/// How much is remembered of clients that are gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct TracesWeight {
    channels: usize,
    bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct Departures {
    /// In milliseconds. 0: nothing is held.
    hold_ms: AtomicU64,
    held: Mutex<HeldDepartures>,
    wake: Notify,
    full_log: LogLimiter,
}

#[derive(Debug, Default)]
struct HeldDepartures {
    /// By when they are due, and of those that are due together in the order in which they came: what is held for a
    /// shorter time, as after a reload, may be due before what came earlier.
    waiting: BTreeMap<(Moment, u64), ClientTraces>,
    next: u64,
    weight: TracesWeight,
}

impl HeldDepartures {
    /// Gives it back if there is no room.
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

    /// `None` for the time: whatever it is.
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
    /// From now on those who are closed so that they come back to another node are seen for so long.
    pub(super) fn hold_departures(&self, hold: Duration) {
        let hold_ms = u64::try_from(hold.as_millis()).unwrap_or(u64::MAX);
        let _held = self.departures.held.lock();
        self.departures.hold_ms.store(hold_ms, Ordering::Relaxed);
    }

    /// A client is gone. `may_be_held`: it was closed so that it comes back.
    pub(crate) fn depart(&self, departure: ClientTraces, may_be_held: bool) {
        if departure.weight().channels == 0 {
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
                        "clients that move are said to have left at once: {CHANNELS_MAX} channels or {BYTES_MAX} bytes of \
                         others are held"
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

/// Carries out what was held for long enough.
pub(super) async fn keep_departing(node: Arc<Node>) {
    loop {
        let next = node.departures.held.lock().next_due();
        match next {
            None => node.departures.wake.notified().await,
            Some(next) => {
                // Whoever comes meanwhile may be due before: woken for nothing, it looks again.
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
