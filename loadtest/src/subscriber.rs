//! One connection's account: its subscriptions, and what it makes of each event it hears.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;

use shared::position::StreamPosition;
use smallvec::SmallVec;

use crate::clock::now_ns;
use crate::counts::{Absorb, Largest, Received, Verdict};
use crate::dialect::{Dialect, Event, Heard, Start, Wanted};
use crate::flow::Flow;
use crate::ledger::Ledger;
use crate::mark::Mark;
use crate::plan::Plan;
use crate::sequence::{Arrival, Checker};
use crate::token::Tokens;

/// What all threads of a run share.
#[derive(Debug)]
pub struct Shared {
    pub plan: Plan,
    pub dialect: Dialect,
    pub ledger: Ledger,
    pub tokens: Tokens,
    /// Publications due before this moment are checked but not timed.
    pub timed_from_ns: AtomicU64,
    /// Only in a closed loop.
    pub flow: Option<Flow>,
    /// Connections whose first attempt has ended, well or not.
    pub settled: AtomicU64,
    /// Connections that were cut on purpose and are not back yet.
    pub away: AtomicU64,
    /// Slow readers that do not read.
    pub dozing: AtomicU64,
}

impl Shared {
    pub fn new(plan: Plan) -> Self {
        Self {
            dialect: plan.dialect.clone(),
            ledger: Ledger::new(plan.channel_names()),
            tokens: Tokens::new(&plan.arguments.access, SystemTime::now()),
            timed_from_ns: AtomicU64::new(0),
            flow: plan.arguments.publications.in_flight.map(Flow::new),
            settled: AtomicU64::new(0),
            away: AtomicU64::new(0),
            dozing: AtomicU64::new(0),
            plan,
        }
    }
}

/// One connection, across its lives.
#[derive(Debug)]
pub struct Subscriber {
    subscriptions: SmallVec<[Subscription; 1]>,
    first_channel: u32,
    /// Confirmations that this life still waits for, and whether the server has welcomed it.
    unconfirmed: u32,
    welcome: bool,
    pong: bool,
    /// It will not come back.
    gone: bool,
    /// It stops reading when it is ready, and nothing is owed to it.
    slow: bool,
}

#[derive(Debug, Default)]
struct Subscription {
    channel: u32,
    /// Whether it was confirmed in any life, and whether it is in this one.
    known: bool,
    live: bool,
    checker: Checker,
    position: Option<StreamPosition>,
}

impl Subscriber {
    /// `slow` is one that stops reading.
    pub fn new(channels: impl Iterator<Item = u32>, slow: bool) -> Self {
        let subscriptions: SmallVec<[Subscription; 1]> =
            channels.map(|channel| Subscription { channel, ..Subscription::default() }).collect();
        let first_channel = subscriptions.first().map_or(0, |subscription| subscription.channel);
        Self { subscriptions, first_channel, unconfirmed: 0, welcome: false, pong: false, gone: false, slow }
    }

    pub fn is_slow(&self) -> bool {
        self.slow
    }

    /// Whether the server wants its pings answered.
    pub fn answers_pings(&self) -> bool {
        self.pong
    }

    /// A new life begins: what to say first.
    pub fn begin(&mut self, shared: &Shared, token: Option<&str>) -> Vec<String> {
        self.unconfirmed = self.subscriptions.len() as u32;
        (self.welcome, self.pong) = (false, false);
        let mut messages = Vec::new();
        shared.dialect.greet(token, self.wanted(shared), &mut messages);
        messages
    }

    pub fn is_ready(&self) -> bool {
        self.welcome && self.unconfirmed == 0
    }

    /// This life has ended.
    pub fn end(&mut self) {
        for subscription in &mut self.subscriptions {
            subscription.live = false;
        }
    }

    /// Accounts for an event, and adds what is to be said to it to `answers`. An error is why the server refuses.
    pub fn hear(
        &mut self,
        event: Event<'_>,
        shared: &Shared,
        books: &mut Received,
        answers: &mut Vec<String>,
    ) -> Result<(), String> {
        match event {
            Event::Publication(heard) => self.receive(heard, shared, books),
            Event::Ping if self.pong => answers.extend(shared.dialect.pong().map(str::to_owned)),
            Event::Ping | Event::Done { .. } => {}
            Event::Welcome { pong } => {
                let first = !std::mem::replace(&mut self.welcome, true);
                self.pong = pong;
                if first && shared.dialect.subscribes_when_welcome() {
                    shared.dialect.subscribe(self.wanted(shared), answers);
                }
            }
            Event::Confirmed { slot, start } => self.confirm(slot, start, shared, books),
            Event::Refused { reason, .. } => return Err(reason),
            Event::Unsubscribed { channel } => self.subscribe_again(channel, shared, books, answers),
        }
        Ok(())
    }

    /// There will be no further life.
    pub fn leave(&mut self) {
        self.gone = true;
    }

    /// Publications that are published and may still come: to a live subscription, or with its recovery.
    pub fn missing(&self, ledger: &Ledger) -> u64 {
        let waiting =
            self.subscriptions.iter().filter(|subscription| subscription.known && !self.gone && !self.slow);
        waiting.map(|subscription| subscription.checker.missing(ledger.issued(subscription.channel))).sum()
    }

    /// Settles the account: nothing more will come.
    pub fn finish(self, ledger: &Ledger) -> Verdict {
        let mut sum = Verdict::default();
        if self.slow {
            return sum;
        }
        for subscription in self.subscriptions.into_iter().filter(|subscription| subscription.known) {
            let last = ledger.issued(subscription.channel);
            let seen = subscription.checker.seen_to();
            // What came after the connection was gone is missed, but nobody lost it on the way.
            let (owed, away) = if subscription.live { (last, 0) } else { (seen, last.saturating_sub(seen)) };
            let verdict =
                ledger.with_failed(subscription.channel, |failed| subscription.checker.finish(owed, failed));
            sum.absorb(verdict);
            sum.missed_away += away;
        }
        sum
    }

    fn receive(&mut self, heard: Heard<'_>, shared: &Shared, books: &mut Received) {
        let deliveries = &mut books.deliveries;
        let now = now_ns();
        let channels = shared.ledger.channels();
        let ours = Mark::find(heard.payload).map(|(mark, _)| mark).filter(|mark| {
            mark.run == shared.plan.run
                && mark.channel < channels
                && heard.channel.is_none_or(|name| name == shared.ledger.name(mark.channel))
        });
        let subscription = ours.and_then(|mark| {
            // Channels are dealt out in a row, so the place of one among ours is its distance from the first.
            let slot = (mark.channel + channels - self.first_channel) % channels;
            self.subscriptions.get_mut(slot as usize)
        });
        let (Some(mark), Some(subscription)) = (ours, subscription) else {
            deliveries.foreign += 1;
            return;
        };
        deliveries.received += 1;
        deliveries.payload_bytes += heard.payload.len() as u64;
        deliveries.last_ns = Largest(now);
        books.connections.recovered_publications += u64::from(heard.recovered);
        if let Some(position) = &mut subscription.position {
            position.offset = position.offset.max(heard.offset);
        }
        match subscription.checker.arrived(mark.sequence) {
            Arrival::Duplicate => {
                deliveries.duplicated += 1;
                return;
            }
            Arrival::Reordered => deliveries.reordered += 1,
            Arrival::InOrder => {}
        }
        if let Some(flow) = &shared.flow {
            flow.deliver();
        }
        if !heard.recovered && mark.intended_ns >= shared.timed_from_ns.load(Relaxed) {
            deliveries.latency.record(now.saturating_sub(mark.intended_ns));
        }
    }

    fn confirm(&mut self, slot: u32, start: Start, shared: &Shared, books: &mut Received) {
        let Some(subscription) = self.subscriptions.get_mut(slot as usize) else {
            // Where the address subscribes, so does one that is opened for something else.
            books.deliveries.malformed += u64::from(!self.subscriptions.is_empty());
            return;
        };
        if !std::mem::replace(&mut subscription.live, true) {
            self.unconfirmed = self.unconfirmed.saturating_sub(1);
        }
        let next = shared.ledger.issued(subscription.channel) + 1;
        if !std::mem::replace(&mut subscription.known, true) {
            subscription.checker.confirmed(next);
            subscription.position = start.position;
            return;
        }
        books.connections.recovered += u64::from(start.recovered);
        books.connections.unrecovered += u64::from(start.was_recovering && !start.recovered);
        if start.recovered {
            // The offset stays at what has been received: the publications in between come with this confirmation.
            let offset = subscription.position.map_or(0, |position| position.offset);
            subscription.position = start.position.map(|position| StreamPosition { offset, ..position });
        } else {
            subscription.position = start.position;
            shared.ledger.with_failed(subscription.channel, |failed| {
                subscription.checker.confirmed_anew(next, failed)
            });
        }
    }

    fn subscribe_again(
        &mut self,
        channel: &str,
        shared: &Shared,
        books: &mut Received,
        answers: &mut Vec<String>,
    ) {
        let mut slots = self.subscriptions.iter_mut().zip(0..);
        let found = slots.find(|(subscription, _)| shared.ledger.name(subscription.channel) == channel);
        let Some((subscription, slot)) = found else {
            books.deliveries.malformed += 1;
            return;
        };
        books.connections.unsubscribed += 1;
        subscription.live = false;
        self.unconfirmed += 1;
        shared.dialect.subscribe(std::iter::once(subscription.wanted(slot, shared)), answers);
    }

    fn wanted<'a>(&self, shared: &'a Shared) -> impl Iterator<Item = Wanted<'a>> {
        self.subscriptions.iter().zip(0..).map(|(subscription, slot)| subscription.wanted(slot, shared))
    }
}

impl Subscription {
    fn wanted<'a>(&self, slot: u32, shared: &'a Shared) -> Wanted<'a> {
        Wanted {
            slot,
            channel: shared.ledger.name(self.channel),
            positioned: shared.plan.arguments.connections.reconnect,
            since: self.position,
        }
    }
}
