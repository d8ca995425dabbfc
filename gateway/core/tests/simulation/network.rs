//! Time, chance, and everything that is on its way.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::Bytes;
use gateway_core::catch_up::ReadRequest;
use gateway_core::effect::Ticket;
use gateway_core::feed::GapCheck;
use gateway_core::history::{HistoryFilter, HistoryPage};
use gateway_core::map::{MapChange, StateFilter, StatePage};
use gateway_core::poll;
use gateway_core::session::READS_FAILED_MAX;
use shared::channel::Channel;
use shared::moment::Moment;
use shared::position::{Epoch, StreamPosition};
use shared::publication::Publication;
use shared::push::OwnedEvent;

/// The most bytes on their way to one client before it counts as slow.
pub(crate) const OUTBOX_BYTES_MAX: usize = 1500;

/// Something that happens at a time.
#[derive(Debug)]
pub(crate) enum Event {
    Broker(BrokerRequest),
    Node {
        node: usize,
        life: u32,
        what: NodeEvent,
    },
    Client {
        client: usize,
        what: ClientEvent,
    },
    /// The application publishes in some channel.
    Publish,
    /// The application changes a key of some channel.
    ChangeKey,
    /// The broker removes expired keys.
    ExpireKeys,
    /// A polled key changes.
    ChangePolled,
    Fault,
    /// The application ends a subscription of a client, or begins one.
    ServerActs,
    LinkUp {
        node: usize,
    },
    Restart {
        node: usize,
    },
}

/// A request that reaches the broker.
#[derive(Debug)]
pub(crate) struct BrokerRequest {
    pub(crate) node: usize,
    pub(crate) life: u32,
    pub(crate) what: Question,
}

#[derive(Debug)]
pub(crate) enum Question {
    Subscribe(Channel),
    Unsubscribe(Channel),
    History(Channel, HistoryFilter, Purpose),
    /// Each channel with the position of its feed.
    Positions(Vec<(Channel, Option<StreamPosition>)>, GapCheck),
    LeaveEpoch(Channel, Epoch),
    Publish(Channel, Publication, u64, Ticket),
    ChangeKey(Channel, MapChange, u64, Ticket),
    State(Channel, Box<StateFilter>, u64, Ticket),
    /// The application is asked for keys.
    Poll(Channel, Vec<poll::PolledKey>),
    Announce(Channel, OwnedEvent),
}

/// The purpose of a read of history.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    CatchUp(ReadRequest),
    /// The next piece for a client that takes its recovery slowly.
    Piece {
        wire: u64,
        ticket: Ticket,
    },
    Mend,
    /// A page for a client that reads history itself.
    Page {
        wire: u64,
        ticket: Ticket,
    },
}

/// An event that reaches a node.
#[derive(Debug)]
pub(crate) enum NodeEvent {
    /// Over the link with this number: what was on an earlier link is lost.
    Publication {
        link: u32,
        channel: Channel,
        publication: Publication,
    },
    /// A join or a leave, over the link with this number.
    Told {
        link: u32,
        channel: Channel,
        event: OwnedEvent,
    },
    Subscribed {
        link: u32,
        channel: Channel,
    },
    Resumed,
    History {
        channel: Channel,
        page: Option<HistoryPage>,
        purpose: Purpose,
    },
    Positions {
        look: GapCheck,
        tops: Vec<(Channel, Option<StreamPosition>, StreamPosition)>,
    },
    LeftEpoch {
        channel: Channel,
        top: StreamPosition,
    },
    Published {
        wire: u64,
        ticket: Ticket,
    },
    /// A page of a channel's keys.
    State {
        channel: Channel,
        page: Option<StatePage>,
        wire: u64,
        ticket: Ticket,
    },
    /// The application's answer, if there is one.
    Polled {
        channel: Channel,
        requested: Vec<poll::PolledKey>,
        answer: Option<(Epoch, Vec<poll::PolledItem>)>,
    },
    /// The node checks which keys to ask for.
    PollDue {
        channel: Channel,
    },
    /// The application has published a key, over the link with this number.
    PolledPublished {
        link: u32,
        channel: Channel,
        key: Box<str>,
        version: u64,
        epoch: Epoch,
    },
    /// A channel was cleared; over the link with this number, too.
    Compare {
        link: u32,
        channel: Channel,
    },
    Linger {
        channel: Channel,
        generation: u32,
    },
    Check,
    LookAgain {
        channel: Channel,
    },
    MendAgain {
        channel: Channel,
        since: u64,
    },
    WorkerRuns {
        worker: usize,
    },
    WorkerTimer {
        worker: usize,
    },
    Opened {
        wire: u64,
    },
    Reads {
        wire: u64,
        message: Bytes,
    },
    Closed {
        wire: u64,
    },
    /// The application ends a subscription, or begins one.
    ServerActs {
        wire: u64,
        channel: Channel,
        subscribes: bool,
    },
    /// The client has taken what was sent to it.
    Room {
        wire: u64,
        ticket: Ticket,
    },
}

/// An event that reaches a client.
#[derive(Debug)]
pub(crate) enum ClientEvent {
    Connect,
    Reads {
        wire: u64,
        message: Bytes,
    },
    Closed {
        wire: u64,
        code: u16,
    },
    Subscribe(Channel),
    /// Follow a removed key again.
    Follow(Box<str>),
    Churn,
}

/// Random numbers that are the same for the same seed, everywhere and for ever (splitmix64).
#[derive(Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    pub(crate) fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.roll() % (range.end - range.start)
    }

    pub(crate) fn index(&mut self, length: usize) -> usize {
        (self.roll() % length as u64) as usize
    }

    /// True this many times in a thousand.
    pub(crate) fn chance(&mut self, per_mille: u64) -> bool {
        self.roll() % 1000 < per_mille
    }
}

/// A path that keeps its messages in order.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lane {
    last: u64,
}

impl Lane {
    pub(crate) fn arrival(&mut self, now: Moment, latency: u64) -> u64 {
        self.last = self.last.max(now.0 + latency);
        self.last
    }
}

/// One client's connection to one node.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) client: usize,
    pub(crate) node: usize,
    pub(crate) life: u32,
    pub(crate) up: Lane,
    pub(crate) down: Lane,
    /// Nothing gets through any more, and not every side knows.
    pub(crate) cut: bool,
    /// How much longer each message to the client takes than the one before, in milliseconds.
    pub(crate) drag: u64,
    pub(crate) bytes_on_their_way: usize,
}

/// What goes wrong under one seed, per mille.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Plan {
    pub(crate) dropped_publications: u64,
    pub(crate) failed_reads: u64,
    pub(crate) slow_clients: u64,
    pub(crate) churn: bool,
    pub(crate) faults: bool,
    /// How many publications fit into a worker's inbox.
    pub(crate) inbox: usize,
    pub(crate) holes: Holes,
}

/// In which channels the plan can leave a gap that a subscriber has to be told of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Holes {
    /// Nothing is lost, so in none.
    #[default]
    None,
    /// In channels with a short history: elsewhere, whatever is lost can be read from history.
    InShortHistories,
    Anywhere,
}

/// How often each thing happened, over all seeds: a fault that never occurs proves nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stats(pub(crate) BTreeMap<&'static str, u64>);

impl Stats {
    pub(crate) fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }
}

/// The network between the broker, the nodes and the clients.
#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) now: Moment,
    pub(crate) dice: Dice,
    pub(crate) plan: Plan,
    pub(crate) stats: Stats,
    pub(crate) wires: BTreeMap<u64, Wire>,
    next_wire: u64,
    asks: BTreeMap<usize, Lane>,
    agenda: BTreeMap<(u64, u64), Event>,
    next_event: u64,
    /// Which subscribers may be told of a gap that history could fill, because there was no room for a publication or
    /// history could not be read.
    pub(crate) excused: BTreeSet<(u64, Channel)>,
    /// The channels to which the application subscribes each client.
    pub(crate) served: BTreeMap<usize, Vec<Channel>>,
    /// The subscriptions of these that it has ended or could not begin. This holds for the connection, not for the next
    /// one.
    pub(crate) ended: BTreeSet<(u64, Channel)>,
    /// The subscriptions that it has begun anew for a connection.
    pub(crate) begun_anew: BTreeSet<(u64, Channel)>,
    /// Since when each subscription is told of all joins and leaves: since the broker delivers the channel to the node.
    pub(crate) told_since: BTreeMap<(u64, Channel), Moment>,
    /// How many pieces in a row could not be read for a client.
    failures: BTreeMap<u64, u8>,
}

impl Net {
    pub(crate) fn new(seed: u64, plan: Plan) -> Self {
        Self {
            now: Moment::ZERO,
            dice: Dice(seed),
            plan,
            stats: Stats::default(),
            wires: BTreeMap::new(),
            next_wire: 0,
            asks: BTreeMap::new(),
            agenda: BTreeMap::new(),
            next_event: 0,
            excused: BTreeSet::new(),
            served: BTreeMap::new(),
            ended: BTreeSet::new(),
            begun_anew: BTreeSet::new(),
            told_since: BTreeMap::new(),
            failures: BTreeMap::new(),
        }
    }

    pub(crate) fn at(&mut self, time: u64, event: Event) {
        self.next_event += 1;
        self.agenda.insert((time.max(self.now.0), self.next_event), event);
    }

    pub(crate) fn after(&mut self, delay: Range<u64>, event: Event) {
        let delay = self.dice.within(delay);
        self.at(self.now.0 + delay, event);
    }

    /// Takes the next event before `end`, and moves the time to it.
    pub(crate) fn next(&mut self, end: u64) -> Option<Event> {
        let entry = self.agenda.first_entry()?;
        if entry.key().0 > end {
            self.now = Moment(end);
            return None;
        }
        self.now = Moment(entry.key().0);
        Some(entry.remove())
    }

    pub(crate) fn send_to_node(&mut self, node: usize, life: u32, delay: Range<u64>, what: NodeEvent) {
        self.after(delay, Event::Node { node, life, what });
    }

    /// Sends a request to the broker. Subscriptions and announcements stay in order; everything else may overtake.
    pub(crate) fn ask_broker(&mut self, node: usize, life: u32, what: Question) {
        let latency = self.dice.within(1..30);
        let time = match what {
            Question::Subscribe(_) | Question::Unsubscribe(_) | Question::Announce(..) => {
                self.asks.entry(node).or_default().arrival(self.now, latency)
            }
            _ => self.now.0 + latency,
        };
        self.at(time, Event::Broker(BrokerRequest { node, life, what }));
    }

    pub(crate) fn open_wire(&mut self, client: usize, node: usize, life: u32) -> u64 {
        self.next_wire += 1;
        let drag = if self.dice.chance(self.plan.slow_clients) { 300 } else { 0 };
        let wire = Wire {
            client,
            node,
            life,
            up: Lane::default(),
            down: Lane::default(),
            cut: false,
            drag,
            bytes_on_their_way: 0,
        };
        self.wires.insert(self.next_wire, wire);
        self.up(self.next_wire, |wire| NodeEvent::Opened { wire });
        self.next_wire
    }

    /// Sends from the client to its node, in order.
    pub(crate) fn up(&mut self, id: u64, what: impl FnOnce(u64) -> NodeEvent) {
        let latency = self.dice.within(1..40);
        let Some(wire) = self.wires.get_mut(&id).filter(|wire| !wire.cut) else { return };
        let time = wire.up.arrival(self.now, latency);
        let (node, life) = (wire.node, wire.life);
        self.at(time, Event::Node { node, life, what: what(id) });
    }

    /// Sends from the node to the client, in order. Returns false if too much is on its way.
    pub(crate) fn down(&mut self, id: u64, message: Bytes) -> bool {
        let latency = self.dice.within(1..40);
        let Some(wire) = self.wires.get_mut(&id).filter(|wire| !wire.cut) else { return true };
        wire.bytes_on_their_way += message.len();
        if wire.bytes_on_their_way > OUTBOX_BYTES_MAX && wire.drag > 0 {
            return false;
        }
        let after_the_last = wire.down.last.saturating_sub(self.now.0) + wire.drag;
        let time = wire.down.arrival(self.now, latency.max(after_the_last));
        let client = wire.client;
        self.at(time, Event::Client { client, what: ClientEvent::Reads { wire: id, message } });
        true
    }

    /// Notes that a subscriber about to go live was told of a gap: more may have come than could be held back for it, and
    /// not everything is in history.
    pub(crate) fn told_at_once(&mut self, channel: &Channel, wire: u64) {
        let is_kept = !["brief:", "fading:"].iter().any(|unkept| channel.as_str().starts_with(unkept));
        if is_kept {
            return self.told(channel, wire, false);
        }
        self.stats.count("told of a hole before they were live");
    }

    /// Notes that a subscriber was told of a gap. What `overflowed` on the way to it may still be in history.
    pub(crate) fn told(&mut self, channel: &Channel, wire: u64, overflowed: bool) {
        self.stats.count("told of a hole");
        if overflowed {
            self.stats.count("told of a hole after an overflow");
            self.excused.insert((wire, channel.clone()));
        }
        let may_be = match self.plan.holes {
            Holes::None => false,
            Holes::InShortHistories => {
                let kept_short = ["short:", "tiny:", "brief:", "fading:"];
                kept_short.iter().any(|kept| channel.as_str().starts_with(kept))
            }
            Holes::Anywhere => true,
        };
        assert!(may_be, "a subscriber of {channel} was told of a hole that there cannot be");
    }

    /// Notes whether a piece was read. A client that takes its recovery slowly gets no further when reads fail again and
    /// again.
    pub(crate) fn piece_read(&mut self, wire: u64, channel: &Channel, read: bool) {
        let failures = self.failures.entry(wire).or_default();
        *failures = if read { 0 } else { *failures + 1 };
        if *failures >= READS_FAILED_MAX {
            self.excused.insert((wire, channel.clone()));
        }
    }

    /// Closes the connection from the node's side, after everything it sent.
    pub(crate) fn close(&mut self, id: u64, code: u16) {
        let Some(wire) = self.wires.get_mut(&id).filter(|wire| !wire.cut) else { return };
        let time = wire.down.arrival(self.now, 5);
        let client = wire.client;
        self.at(time, Event::Client { client, what: ClientEvent::Closed { wire: id, code } });
    }
}

thread_local! {
    static TRACE: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Starts to keep the lines passed to [`trace`], for a seed that is run alone.
pub(crate) fn start_trace() {
    TRACE.with_borrow_mut(|lines| *lines = Some(Vec::new()));
}

pub(crate) fn take_trace() -> Vec<String> {
    TRACE.with_borrow_mut(|lines| lines.take().unwrap_or_default())
}

pub(crate) fn trace(now: Moment, line: impl FnOnce() -> String) {
    TRACE.with_borrow_mut(|lines| {
        if let Some(lines) = lines {
            lines.push(format!("{:>6} {}", now.0, line()));
        }
    });
}
