//! Newest values for one client: those that wait stay in lanes, behind its outbox, and move there a few at a time as the
//! connection takes them. A value in the outbox can no longer be superseded by a newer one.

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

/// The bytes of frames moved to an empty outbox at first; at least one value is moved. Doubled each time the socket takes
/// all of it at once.
pub(super) const QUANTUM_BYTES: usize = 512;
/// The limit of that doubling.
pub(super) const QUANTUM_BYTES_MAX: usize = 16 << 10;

/// The unsent bytes in the kernel above which the socket takes no more, because values there grow old.
const UNSENT_BYTES_MAX: u32 = 1 << 10;

/// The lanes of a client that receives newest values.
#[derive(Debug, Default)]
pub(crate) struct Newest {
    lanes: Lanes<Arc<Prepared>>,
    /// When a lane that has used up its bytes may have more.
    next: Option<Moment>,
}

impl Client {
    /// Begins to send newest values of a channel, by these terms.
    pub(super) fn open_lane(&mut self, local: &mut WorkerLocal, channel: &Channel, latest: NewestTerms) {
        let rare = self.rare.get_or_insert_default();
        rare.newest.get_or_insert_default().lanes.open(channel, latest);
        self.keep_little_unsent();
        self.note_lanes(local);
    }

    /// Limits the unsent bytes in the kernel for a client with lanes, whatever its connection is now.
    pub(super) fn keep_little_unsent(&self) {
        if self.newest().is_some() {
            self.link.stream.keep_little_unsent(UNSENT_BYTES_MAX);
        }
    }

    /// Stops sending newest values of a channel, because the subscription has ended or is sent everything from now on.
    /// Returns the values that wait.
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

    /// Drops all lanes when all subscriptions have ended.
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

    /// Returns the bytes that wait in lanes.
    pub(super) fn newest_bytes(&self) -> usize {
        self.newest().map_or(0, |newest| newest.lanes.bytes())
    }

    /// Returns when a value can next leave a lane that has used up its bytes.
    pub(super) fn next_newest(&self) -> Option<Moment> {
        self.newest()?.next
    }

    /// Updates the flag that deliveries check in place of the lanes.
    fn note_lanes(&self, local: &mut WorkerLocal) {
        local.note_lanes(self.key.index, self.newest().is_some_and(|newest| newest.lanes.is_needed()));
    }

    /// Queues a value that cannot be written now. Returns whether it superseded an older one.
    pub(crate) fn put_newest(&mut self, value: Arc<Prepared>, bytes_max: usize) -> Result<LanePut, LaneFull> {
        let channel = value.channel().clone();
        self.newest_mut().ok_or(LaneFull)?.lanes.put(&channel, value, bytes_max)
    }

    /// Has the lanes written behind the outbox, after values were queued in them.
    pub(super) fn serve_lanes(&mut self, local: &mut WorkerLocal) {
        self.note_lanes(local);
        local.mark_unwritten(self.key.index);
    }

    /// Moves values that may go next into the empty outbox. Returns whether there were any.
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
                // The outbox holds less than a quantum, and a single value always fits.
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

    /// Changes how a subscription is delivered, if it is still the one that the request was for.
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
            // The subscription is still joining. The client may ask again.
            DeliveryChangeOutcome::NotNow => Err(ErrorCode::TooManyRequests.into()),
            DeliveryChangeOutcome::Never => Err(ErrorCode::BadRequest.into()),
        };
        self.answer(local, ticket, OutcomeResult::Rpc(result));
    }

    /// Changes how a live subscription is delivered, from now on.
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
            // Behind older values in the lane, or in place of one.
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

    /// Ends a subscription for which more keys wait than may. The client subscribes again.
    pub(crate) fn end_for_fullness(&mut self, local: &mut WorkerLocal, channel: &Channel) {
        local.tally.insufficient += 1;
        self.session.handle_unsubscribe(channel, UnsubscribeCode::InsufficientState);
    }
}

/// The values that the hub held back for all subscribers with the same terms.
#[derive(Debug)]
struct WaitingNewest(Vec<Arc<Prepared>>);

impl Sink for WaitingNewest {
    fn deliver(&mut self, _subscribers: &[Subscriber], bundles: &mut Bundles) {
        self.0.extend_from_slice(bundles.publications());
    }

    /// There is nobody to tell here.
    fn insufficient(&mut self, _key: u32, _channel: &Channel) {}
}
