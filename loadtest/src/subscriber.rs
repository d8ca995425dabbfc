//! The account of one connection: its subscriptions, and what each event means for them.

use std::sync::atomic::Ordering::Relaxed;

use shared::position::StreamPosition;
use smallvec::SmallVec;

use crate::clock::now_ns;
use crate::common::Shared;
use crate::counts::{Absorb, Largest, Received, Verdict};
use crate::dialect::{Event, Heard, Start, Wanted};
use crate::ledger::Ledger;
use crate::mark::Mark;
use crate::sequence::{Arrival, Checker};

/// One connection, over all its attempts.
#[derive(Debug, Default)]
pub struct Subscriber {
    subscriptions: SmallVec<[Subscription; 1]>,
    first_channel: u32,
    /// Subscriptions that are not confirmed yet, and whether the server has accepted the connection.
    unconfirmed: u32,
    welcome: bool,
    pong: bool,
    /// Whether the connection is lost for good.
    gone: bool,
    /// Whether it stops reading when it is ready. Nothing that it misses is counted.
    slow: bool,
}

#[derive(Debug, Default)]
struct Subscription {
    channel: u32,
    /// Whether it was ever confirmed, and whether it is confirmed on the present connection.
    known: bool,
    live: bool,
    checker: Checker,
    position: Option<StreamPosition>,
}

impl Subscriber {
    /// A slow subscriber stops reading when it is ready.
    pub fn new(channels: impl Iterator<Item = u32>, slow: bool) -> Self {
        let subscriptions: SmallVec<[Subscription; 1]> =
            channels.map(|channel| Subscription { channel, ..Subscription::default() }).collect();
        let first_channel = subscriptions.first().map_or(0, |subscription| subscription.channel);
        Self { subscriptions, first_channel, slow, ..Self::default() }
    }

    pub fn is_slow(&self) -> bool {
        self.slow
    }

    /// Whether the server wants its pings answered.
    pub fn answers_pings(&self) -> bool {
        self.pong
    }

    /// Begins a new attempt. Returns the first messages to send.
    pub fn begin(&mut self, shared: &Shared, token: Option<&str>) -> Vec<String> {
        self.unconfirmed = self.subscriptions.len() as u32;
        (self.welcome, self.pong) = (false, false);
        let mut messages = Vec::new();
        shared.plan.dialect.greet(token, self.wanted(shared), &mut messages);
        messages
    }

    pub fn is_ready(&self) -> bool {
        self.welcome && self.unconfirmed == 0
    }

    /// Ends all subscriptions with their connection.
    pub fn end(&mut self) {
        for subscription in &mut self.subscriptions {
            subscription.live = false;
        }
    }

    /// Accounts for an event, and adds messages to send to `answers`. An error is the server's reason for a refusal.
    pub fn hear(
        &mut self,
        event: Event<'_>,
        shared: &Shared,
        counted: &mut Received,
        answers: &mut Vec<String>,
    ) -> Result<(), String> {
        match event {
            Event::Publication(heard) => self.receive(heard, shared, counted),
            Event::Ping if self.pong => answers.extend(shared.plan.dialect.pong().map(str::to_owned)),
            Event::Ping | Event::Done { .. } => {}
            Event::Welcome { pong } => {
                let first = !std::mem::replace(&mut self.welcome, true);
                self.pong = pong;
                if first && shared.plan.dialect.subscribes_when_welcome() {
                    shared.plan.dialect.subscribe(self.wanted(shared), answers);
                }
            }
            Event::Confirmed { slot, start } => self.confirm(slot, start, shared, counted),
            Event::Refused { reason, .. } => return Err(reason),
            Event::Unsubscribed { channel } => self.subscribe_again(channel, shared, counted, answers),
        }
        Ok(())
    }

    /// Notes that the connection does not come back.
    pub fn leave(&mut self) {
        self.gone = true;
    }

    /// Returns how many publications may still come, to a live subscription or with its recovery.
    pub fn missing(&self, ledger: &Ledger) -> u64 {
        let waiting =
            self.subscriptions.iter().filter(|subscription| subscription.known && !self.gone && !self.slow);
        waiting.map(|subscription| subscription.checker.missing(ledger.issued(subscription.channel))).sum()
    }

    /// Settles the account, when nothing more will come.
    pub fn finish(self, ledger: &Ledger) -> Verdict {
        let mut sum = Verdict::default();
        if self.slow {
            return sum;
        }
        for subscription in self.subscriptions.into_iter().filter(|subscription| subscription.known) {
            let last = ledger.issued(subscription.channel);
            let seen = subscription.checker.seen_to();
            // Publications after the end of the connection are missed, but not lost.
            let (owed, away) = if subscription.live { (last, 0) } else { (seen, last.saturating_sub(seen)) };
            let verdict =
                ledger.with_failed(subscription.channel, |failed| subscription.checker.finish(owed, failed));
            sum.absorb(verdict);
            sum.missed_away += away;
        }
        sum
    }

    fn receive(&mut self, heard: Heard<'_>, shared: &Shared, counted: &mut Received) {
        let deliveries = &mut counted.deliveries;
        let now = now_ns();
        let channels = shared.ledger.channels();
        let ours = Mark::find(heard.payload).map(|(mark, _)| mark).filter(|mark| {
            mark.run == shared.plan.run
                && mark.channel < channels
                && heard.channel.is_none_or(|name| name == shared.ledger.name(mark.channel))
        });
        let subscription = ours.and_then(|mark| {
            // A connection's channels are in a row, so the slot of one is its distance from the first.
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
        counted.connections.recovered_publications += u64::from(heard.recovered);
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

    fn confirm(&mut self, slot: u32, start: Start, shared: &Shared, counted: &mut Received) {
        let Some(subscription) = self.subscriptions.get_mut(slot as usize) else {
            // Where the address subscribes, a publisher's connection is subscribed, too.
            counted.deliveries.malformed += u64::from(!self.subscriptions.is_empty());
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
        counted.connections.recovered += u64::from(start.recovered);
        counted.connections.unrecovered += u64::from(start.was_recovering && !start.recovered);
        if start.recovered {
            // The offset stays: the publications in between come with this confirmation.
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
        counted: &mut Received,
        answers: &mut Vec<String>,
    ) {
        let mut slots = self.subscriptions.iter_mut().zip(0..);
        let found = slots.find(|(subscription, _)| shared.ledger.name(subscription.channel) == channel);
        let Some((subscription, slot)) = found else {
            counted.deliveries.malformed += 1;
            return;
        };
        counted.connections.unsubscribed += 1;
        subscription.live = false;
        self.unconfirmed += 1;
        shared.plan.dialect.subscribe(std::iter::once(subscription.wanted(slot, shared)), answers);
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
