//! A client that is sent newest values: what waits for it waits in lanes, behind its outbox, and goes there a little at
//! a time, as its connection takes it. What is in the outbox cannot give way to anything newer any more.

use std::sync::Arc;

use bytes::Bytes;
use gateway_core::effect::{OutcomeResult, Ticket};
use gateway_core::hub::{Bundles, DeliveryChangeOutcome, Prepared, Sink, Subscriber, Writable};
use gateway_core::newest::{LaneFull, LanePut, Lanes, NewestTerms, NextWrite};
use shared::channel::Channel;
use shared::error::ErrorCode;
use shared::moment::Moment;
use shared::publication::Payload;
use shared::push::UnsubscribeCode;

use crate::client::{Client, QueuedBytes};
use crate::telemetry::labels::Drop;
use crate::worker::WorkerLocal;

/// What is put into an empty outbox at first, in bytes of frames, or one value. Twice as much each time that a socket takes
/// all of it at once: that one is quick.
pub(super) const QUANTUM_BYTES: usize = 512;
/// And at most.
pub(super) const QUANTUM_BYTES_MAX: usize = 16 << 10;

/// Bytes that may wait in the kernel unsent before it says that there is no room: what lies there grows old.
const UNSENT_BYTES_MAX: u32 = 1 << 10;

/// The lanes of a client that has any.
#[derive(Debug, Default)]
pub(crate) struct Newest {
    lanes: Lanes<Arc<Prepared>>,
    /// When a lane may have more that has had its bytes for now.
    next: Option<Moment>,
}

impl Client {
    /// A subscription is sent newest values by these terms from now on.
    pub(super) fn open_lane(&mut self, local: &mut WorkerLocal, channel: &Channel, latest: NewestTerms) {
        let rare = self.rare.get_or_insert_default();
        rare.newest.get_or_insert_default().lanes.open(channel, latest);
        self.keep_little_unsent();
        self.note_lanes(local);
    }

    /// For a client with lanes, of whatever its connection is now.
    pub(super) fn keep_little_unsent(&self) {
        if self.newest().is_some() {
            self.link.stream.keep_little_unsent(UNSENT_BYTES_MAX);
        }
    }

    /// A subscription has ended, or is sent all from now on. Returns what waits for it.
    pub(super) fn close_lane(
        &mut self,
        local: &mut WorkerLocal,
        channel: &Channel,
    ) -> Vec<(Arc<Prepared>, u32)> {
        let Some(newest) = self.newest_mut() else { return Vec::new() };
        let mut stale = 0;
        let waiting = newest.lanes.close(channel, local.clock.micros(), &mut stale);
        local.tally.stale += stale;
        if newest.lanes.is_unused()
            && let Some(rare) = &mut self.rare
        {
            rare.newest = None;
        }
        self.note_lanes(local);
        waiting.into_iter().map(|taken| (taken.value, taken.superseded)).collect()
    }

    /// All subscriptions have ended.
    pub(super) fn close_lanes(&mut self, local: &mut WorkerLocal) {
        if let Some(newest) = self.rare.as_mut().and_then(|rare| rare.newest.take()) {
            local.tally.frames_discarded += newest.lanes.len() as u64;
            self.note_lanes(local);
        }
    }

    fn newest(&self) -> Option<&Newest> {
        self.rare.as_ref()?.newest.as_deref()
    }

    fn newest_mut(&mut self) -> Option<&mut Newest> {
        self.rare.as_mut()?.newest.as_deref_mut()
    }

    /// Bytes that wait in lanes.
    pub(super) fn newest_bytes(&self) -> usize {
        self.newest().map_or(0, |newest| newest.lanes.bytes())
    }

    /// When something can be taken out of a lane that may not have more before.
    pub(super) fn next_newest(&self) -> Option<Moment> {
        self.newest()?.next
    }

    /// Deliveries look at this, and not at the lanes.
    fn note_lanes(&self, local: &mut WorkerLocal) {
        local.note_lanes(self.key.index, self.newest().is_some_and(|newest| newest.lanes.is_needed()));
    }

    /// A value that cannot be written now. Returns whether it took the place of an older one.
    pub(crate) fn put_newest(&mut self, value: Arc<Prepared>, bytes_max: usize) -> Result<LanePut, LaneFull> {
        let channel = value.channel().clone();
        self.newest_mut().ok_or(LaneFull)?.lanes.put(&channel, value, bytes_max)
    }

    /// Something was put into lanes: it goes behind what the outbox holds.
    pub(super) fn serve_lanes(&mut self, local: &mut WorkerLocal) {
        self.note_lanes(local);
        local.mark_unwritten(self.key.index);
    }

    /// Puts what may go next into the outbox, which is empty. Returns whether there was anything.
    pub(super) fn refill(&mut self, local: &mut WorkerLocal, quantum: usize) -> bool {
        let Some(mut newest) = self.rare.as_mut().and_then(|rare| rare.newest.take()) else { return false };
        let was_waiting = !newest.lanes.is_empty();
        let (now, mut stale, mut bytes) = (local.clock.micros(), 0, 0);
        newest.next = None;
        while bytes < quantum {
            let (channel, taken) = match newest.lanes.next(now, &mut stale) {
                NextWrite::Value { channel, taken } => (channel, taken),
                NextWrite::At(micros) => {
                    newest.next = Some(Moment(micros.div_ceil(1_000)));
                    break;
                }
                NextWrite::Nothing => break,
            };
            if let Some(frame) = self.newest_frame(local, &taken.value, taken.superseded) {
                newest.lanes.spent(&channel, frame.len(), now);
                bytes += frame.len();
                local.tally.note_delivered(taken.value.namespace(), frame.len());
                // It is empty, or has less than a quantum in it, and one value is never too long.
                let _ = self.queue(QueuedBytes::Shared { bytes: frame }, usize::MAX, &mut local.selected);
            }
        }
        local.tally.stale += stale;
        if let Some(rare) = &mut self.rare {
            rare.newest = Some(newest);
        }
        if was_waiting {
            self.note_lanes(local);
            local.schedule(self);
        }
        !self.outbox.is_empty()
    }

    fn newest_frame(&self, local: &WorkerLocal, value: &Arc<Prepared>, superseded: u32) -> Option<Bytes> {
        match value.superseding(superseded).writable(self.variant) {
            Writable::Frame(frame) => Some(frame.clone()),
            Writable::Nothing | Writable::Close(_) => None,
            Writable::Broken => {
                local.metrics.dropped(Drop::Quarantined, 1);
                None
            }
        }
    }

    /// A subscription is to be served otherwise, if it is still the one for which that was asked.
    pub(crate) fn answer_delivery_change(
        &mut self,
        local: &mut WorkerLocal,
        ticket: Ticket,
        channel: &Channel,
        latest: Option<NewestTerms>,
    ) {
        let changed = match self.session.chooses_delivery(channel) {
            true => self.change_delivery(local, channel, latest),
            false => DeliveryChangeOutcome::NotNow,
        };
        let result = match changed {
            DeliveryChangeOutcome::Done => Ok(Payload::json("{}")),
            // It still joins: it may ask again.
            DeliveryChangeOutcome::NotNow => Err(ErrorCode::TooManyRequests.into()),
            DeliveryChangeOutcome::Never => Err(ErrorCode::BadRequest.into()),
        };
        self.answer(local, ticket, OutcomeResult::Rpc(result));
    }

    /// A live subscription is served otherwise from now on.
    fn change_delivery(
        &mut self,
        local: &mut WorkerLocal,
        channel: &Channel,
        latest: Option<NewestTerms>,
    ) -> DeliveryChangeOutcome {
        let mut passed = WaitingNewest(Vec::new());
        let key = self.key.index;
        let changed = local.hub.change_latest(channel.as_str(), key, latest, &mut passed);
        if changed != DeliveryChangeOutcome::Done {
            return changed;
        }
        if let Some(latest) = latest {
            self.open_lane(local, channel, latest);
        }
        let max = local.websocket.outbox_bytes_max;
        for value in passed.0 {
            if value.publication().is_some_and(|publication| !self.session.is_meant(publication)) {
                continue;
            }
            // Behind older values that wait in the lane, or in the place of one.
            match self.put_newest(value, max) {
                Ok(put) => local.tally.superseded += u64::from(put == LanePut::Instead),
                Err(LaneFull) => {
                    self.end_for_fullness(local, channel);
                    break;
                }
            }
        }
        match latest {
            Some(_) => self.serve_lanes(local),
            None => {
                for (value, superseded) in self.close_lane(local, channel) {
                    self.send_value(local, &value, superseded);
                }
            }
        }
        changed
    }

    fn send_value(&mut self, local: &mut WorkerLocal, value: &Arc<Prepared>, superseded: u32) {
        if let Some(frame) = self.newest_frame(local, value, superseded) {
            local.tally.note_delivered(value.namespace(), frame.len());
            self.send_frame(local, frame);
        }
    }

    /// More keys wait than may: the client subscribes anew.
    pub(crate) fn end_for_fullness(&mut self, local: &mut WorkerLocal, channel: &Channel) {
        local.tally.insufficient += 1;
        self.session.handle_unsubscribe(channel, UnsubscribeCode::InsufficientState);
    }
}

/// What waited in the hub for all who were served as this one was.
#[derive(Debug)]
struct WaitingNewest(Vec<Arc<Prepared>>);

impl Sink for WaitingNewest {
    fn deliver(&mut self, _subscribers: &[Subscriber], bundles: &mut Bundles) {
        self.0.extend_from_slice(bundles.publications());
    }

    /// Nobody is told of anything here.
    fn insufficient(&mut self, _key: u32, _channel: &Channel) {}
}
