//! The fan-out: delivers publications of one channel to all its subscribers on this worker.
//!
//! For a subscriber with an empty outbox this is one `send` of bytes that all subscribers share. Nothing else of the client
//! is touched; nothing is copied, encoded, allocated or locked for it.

use std::sync::Arc;
use std::{io, ops};

use bytes::Bytes;
use gateway_core::hub::{Bundle, BundleEnd, Bundles, Prepared, Sink, Subscriber};
use gateway_core::namespace_id::NamespaceId;
use shared::channel::Channel;
use shared::disconnect::Disconnect;
use shared::id::ClientId;
use shared::protocol::graphql::Selected;
use shared::publication::Selection;
use slab::Slab;
use smallvec::SmallVec;

use crate::client::{Client, QueuedBytes};
use crate::clock::Clock;
#[cfg(debug_assertions)]
use crate::faults;
use crate::memory_budget::SharedFrames;
use crate::node::ClientIds;
use crate::telemetry::Metrics;
use crate::telemetry::labels::Drop;
use crate::transport::{SendBatch, direct};
use crate::worker::measured::Measured;
use crate::worker::take::TurnBudget;
use crate::worker::tally::HandedOut;
use crate::worker::{ClientFlags, Tally};

/// The parts of a worker that a sweep uses.
#[derive(Debug)]
pub(super) struct WorkerSweep<'w> {
    pub(super) clients: &'w mut Slab<Box<Client>>,
    pub(super) flags: &'w mut [ClientFlags],
    pub(super) unwritten: &'w mut Vec<u32>,
    pub(super) tally: &'w mut Tally,
    pub(super) metrics: &'w Metrics,
    pub(super) clock: Clock,
    /// Finds the clients that a publication excludes.
    pub(super) client_ids: &'w ClientIds,
    pub(super) worker: usize,
    pub(super) outbox_bytes_max: usize,
    pub(super) share: &'w mut TurnBudget,
    pub(super) shared_frames: &'w mut SharedFrames,
    /// Results of GraphQL selections shared by clients.
    pub(super) selected: &'w mut Selected,
    /// Subscribers that follow the stream and cannot be sent one of the publications.
    pub(super) missing: Vec<u32>,
    /// Sends to many sockets at once, if that is available.
    pub(super) together: &'w mut Option<SendBatch>,
    pub(super) after_sweep: &'w mut Vec<AfterSweep>,
    pub(super) measured: &'w mut Measured,
}

/// A finding that can only be dealt with after the sweep.
#[derive(Debug)]
pub(super) enum AfterSweep {
    /// The client's outbox has overflowed.
    Overflown(u32),
    Failed(u32, io::Error),
    /// The client missed a publication that cannot be recovered.
    Insufficient(u32, Channel),
    /// The client's protocol can report the event only by closing.
    Close(u32, Disconnect),
    /// More newest values of this channel wait for the client than may.
    Full(u32, Channel),
}

impl AfterSweep {
    /// The place of the client concerned.
    pub(super) fn index(&self) -> u32 {
        let (Self::Overflown(index)
        | Self::Failed(index, _)
        | Self::Insufficient(index, _)
        | Self::Full(index, _)
        | Self::Close(index, _)) = self;
        *index
    }
}

/// Counts deliveries for one namespace when dropped, so also if the sweep panics.
struct CountedSweep<'s, 'w> {
    sweep: &'s mut WorkerSweep<'w>,
    namespace: NamespaceId,
    before: HandedOut,
}

impl ops::Drop for CountedSweep<'_, '_> {
    fn drop(&mut self) {
        self.sweep.tally.note_handed_out(self.namespace, self.before);
    }
}

/// The clients of a worker that a publication is for, by place.
pub(super) struct Audience<'p> {
    /// The client excluded from it. A client that takes patches is sent it nevertheless, because it needs every payload to
    /// apply the next patch.
    excluded: Option<u32>,
    only: Option<&'p Selection>,
    named: SmallVec<[u32; 1]>,
    except: SmallVec<[u32; 1]>,
}

impl Audience<'_> {
    pub(super) fn includes(&self, sweep: &WorkerSweep<'_>, subscriber: &Subscriber) -> bool {
        let key = subscriber.key;
        if self.excluded == Some(key) && !subscriber.variant.takes_patches() {
            return false;
        }
        let Some(only) = self.only else { return true };
        if self.except.contains(&key) || only.volatile && sweep.is_behind(key) {
            return false;
        }
        let is_in_any = |channels: &[Channel]| {
            let is_one = !channels.is_empty();
            let session =
                is_one.then(|| sweep.clients.get(key as usize)).flatten().map(|client| &client.session);
            session.is_some_and(|session| channels.iter().any(|channel| session.is_in(channel)))
        };
        let is_for_all = only.channels.is_empty() && only.clients.is_empty();
        (is_for_all || self.named.contains(&key) || is_in_any(&only.channels))
            && !is_in_any(&only.except_channels)
    }
}

impl Sink for WorkerSweep<'_> {
    fn deliver(&mut self, subscribers: &[Subscriber], bundles: &mut Bundles) {
        let (namespace, before) = (bundles.namespace(), self.tally.handed_out());
        CountedSweep { sweep: self, namespace, before }.sweep.deliver_to(subscribers, bundles);
    }

    fn gather(&mut self, key: u32) {
        self.list(key);
    }

    fn delivered(&mut self, publications: &[Arc<Prepared>]) {
        let Some(first) = publications.iter().find(|one| one.publication().is_some()) else { return };
        let now = self.clock.micros();
        let micros = now.saturating_sub(first.received_micros());
        self.metrics.publish_to_socket_seconds.observe(micros as f64 / 1e6);
        for (prepared, stamp) in publications.iter().filter_map(|one| Some((one, one.stamp()?))) {
            let since = self.clock.unix_micros().saturating_sub(stamp.came_micros);
            self.measured.note_written(prepared, now, since);
        }
    }

    fn insufficient(&mut self, key: u32, channel: &Channel) {
        self.after_sweep.push(AfterSweep::Insufficient(key, channel.clone()));
    }
}

impl WorkerSweep<'_> {
    fn deliver_to(&mut self, subscribers: &[Subscriber], bundles: &mut Bundles) {
        self.share.take(subscribers.len(), bundles.publications());
        #[cfg(debug_assertions)]
        for publication in bundles.publications().iter().filter_map(|prepared| prepared.publication()) {
            faults::trip(faults::DELIVERING_PANICS, &publication.data.bytes);
        }
        if subscribers.first().is_some_and(|first| first.is_newest()) {
            return self.deliver_newest(subscribers, bundles);
        }
        match bundles.excludes_anyone() {
            false => {
                for subscriber in self.hand_together(subscribers, bundles) {
                    self.hand(subscriber, bundles.get(subscriber.variant));
                }
            }
            true => self.hand_to_the_others(subscribers, bundles),
        }
        self.mark_insufficient(bundles);
        #[cfg(debug_assertions)]
        for publication in bundles.publications().iter().filter_map(|prepared| prepared.publication()) {
            faults::trip(faults::DELIVERED_PANICS, &publication.data.bytes);
        }
    }

    #[inline]
    pub(super) fn hand(&mut self, subscriber: &Subscriber, bundle: &Bundle) {
        // If one write does not fit, later ones must not follow it.
        let sent = bundle.writes.iter().all(|frames| self.send(subscriber, frames));
        if sent {
            self.tally.deliveries += u64::from(bundle.publications);
            match &bundle.end {
                None => {}
                Some(BundleEnd::Close(disconnect)) => {
                    self.begin_closing(AfterSweep::Close(subscriber.key, disconnect.clone()), subscriber.key);
                }
                Some(BundleEnd::Broken(rest)) => self.pass_over(subscriber, rest),
            }
        }
    }

    /// Hands out bundles of which some publications are not for all subscribers.
    #[cold]
    fn hand_to_the_others(&mut self, subscribers: &[Subscriber], bundles: &mut Bundles) {
        let publications: SmallVec<[Arc<Prepared>; 1]> = bundles.publications().into();
        let audiences: SmallVec<[Audience<'_>; 1]> =
            publications.iter().map(|prepared| self.audience(prepared)).collect();
        for subscriber in subscribers {
            let is_excluded = |at: usize| !audiences[at].includes(self, subscriber);
            let excluded = (0..audiences.len()).filter(|&at| is_excluded(at)).count();
            if excluded == 0 {
                self.hand(subscriber, bundles.get(subscriber.variant));
            } else if excluded < audiences.len() {
                let at =
                    |prepared: &Prepared| publications.iter().position(|one| std::ptr::eq(&**one, prepared));
                let rest =
                    bundles.without(subscriber.variant, |prepared| at(prepared).is_some_and(is_excluded));
                self.hand(subscriber, &rest);
            }
        }
    }

    /// Returns which of this worker's clients a publication is for.
    pub(super) fn audience<'p>(&self, prepared: &'p Prepared) -> Audience<'p> {
        let here = |client: &ClientId| {
            let (worker, index) = self.client_ids.place(*client);
            let found = self.clients.get(index as usize).filter(|_| worker == self.worker)?;
            (found.session.client() == *client).then_some(index)
        };
        let only = prepared.only();
        Audience {
            excluded: prepared.except().as_ref().and_then(here),
            named: only.iter().flat_map(|only| &only.clients).filter_map(here).collect(),
            except: only.iter().flat_map(|only| &only.except_clients).filter_map(here).collect(),
            only,
        }
    }

    /// Whether a client has not taken earlier bytes. Bytes that only wait for the end of this turn, as for clients in
    /// several channels, do not count.
    fn is_behind(&self, key: u32) -> bool {
        let is_stalled = || self.clients.get(key as usize).is_some_and(|client| client.is_stalled());
        self.flags[key as usize].waiting && is_stalled()
    }

    /// Sends frames. Returns whether they are on their way or in the outbox.
    #[inline]
    fn send(&mut self, subscriber: &Subscriber, frames: &Bytes) -> bool {
        let direct = match &self.flags[subscriber.key as usize] {
            ClientFlags { direct: Some(direct), waiting: false, .. } => direct,
            _ => return self.queue(subscriber.key, frames.clone()),
        };
        self.sent(subscriber.key, frames, direct::send(direct, frames))
    }

    /// Handles the result of a send. Returns whether the frames are on their way or in the outbox.
    #[inline]
    pub(super) fn sent(&mut self, key: u32, frames: &Bytes, answer: io::Result<usize>) -> bool {
        match answer {
            Ok(count) => {
                self.tally.bytes_out += count as u64;
                if count < frames.len() {
                    self.shared_frames.note(frames);
                    self.queue_rest(key, frames.slice(count..));
                }
                true
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.queue(key, frames.clone()),
            Err(error) => {
                self.begin_closing(AfterSweep::Failed(key, error), key);
                false
            }
        }
    }

    #[cold]
    pub(super) fn queue(&mut self, key: u32, frames: Bytes) -> bool {
        if self.flags[key as usize].closing {
            return false;
        }
        self.shared_frames.note(&frames);
        let client = &mut self.clients[key as usize];
        let bytes = frames.len() as u64;
        let shared = QueuedBytes::Shared { bytes: frames };
        let queued = client.queue(shared, self.outbox_bytes_max, self.selected).is_ok();
        match queued {
            true => {
                self.tally.bytes_queued += bytes;
                self.list(key);
            }
            false => {
                self.tally.frames_discarded += 1;
                self.begin_closing(AfterSweep::Overflown(key), key);
            }
        }
        queued
    }

    /// Marks a client that is about to be closed. Nothing more is written to it, because it would follow a gap, or the end.
    #[cold]
    pub(super) fn begin_closing(&mut self, after_sweep: AfterSweep, key: u32) {
        self.after_sweep.push(after_sweep);
        let flags = &mut self.flags[key as usize];
        flags.closing = true;
        // Set because sweeps check this flag first.
        flags.waiting = true;
    }

    /// Passes over a publication that cannot be encoded for this subscriber; `rest` follows it.
    #[cold]
    fn pass_over(&mut self, subscriber: &Subscriber, rest: &Bundle) {
        self.metrics.dropped(Drop::Quarantined, 1);
        match subscriber.is_positioned() {
            true => self.missing.push(subscriber.key),
            false => self.hand(subscriber, rest),
        }
    }

    /// Notes the subscribers that follow the stream and missed a publication.
    fn mark_insufficient(&mut self, bundles: &Bundles) {
        let Some(first) = bundles.publications().first().filter(|_| !self.missing.is_empty()) else { return };
        let insufficient =
            self.missing.drain(..).map(|key| AfterSweep::Insufficient(key, first.channel().clone()));
        self.after_sweep.extend(insufficient);
    }

    #[cold]
    pub(super) fn queue_rest(&mut self, key: u32, rest: Bytes) {
        self.tally.bytes_queued += rest.len() as u64;
        self.clients[key as usize].outbox.push_rest(rest);
        self.list(key);
    }

    /// Lists the client to be written to when the turn ends, which also starts its write deadline.
    pub(super) fn list(&mut self, key: u32) {
        let flags = &mut self.flags[key as usize];
        flags.waiting = true;
        if !flags.listed {
            flags.listed = true;
            self.unwritten.push(key);
        }
    }
}
