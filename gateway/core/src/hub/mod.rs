//! The hub: the subscriptions of one worker's connections.
//!
//! One hub belongs to one worker thread: it has no locks and shares nothing but the [`Prepared`] publications. A
//! connection is a number, and a channel is a dense list of subscribers that is passed to the [`Sink`] as a slice, in
//! pieces if it is long. Subscribers in a special state (joining, ahead of this worker, told of a gap) are kept beside
//! that list, so that the loop over it has no branches for them.
//!
//! The life of a subscription: [`Hub::join`] → publications are held back → [`Hub::go_live`] → [`Hub::leave`].

mod bundle;
mod change_delivery;
mod change_wire;
mod deliver;
mod engine_frames;
mod hold_back;
mod ids;
mod inspect;
mod join;
mod leave;
mod lists;
mod members;
mod places;
mod prepared;
mod separate_lists;
mod stream_frames;
mod subscriber;
mod sweep;
mod variants;
mod websocket_frames;

use shared::channel::Channel;
use shared::moment::Moment;

pub use bundle::{BUNDLED_BYTES_MAX, BUNDLED_MESSAGES_MAX, Bundle, BundleEnd, Bundles};
pub use change_delivery::DeliveryChangeOutcome;
pub use engine_frames::{EnginePollingFrames, EngineWebSocketFrames};
pub use hold_back::{HELD_BYTES_MAX, HELD_BYTES_TOTAL_MAX, HELD_PUBLICATIONS_MAX, HoldLimits};
pub use inspect::{Inspected, SubscriptionStage};
pub use join::{JoinOutcome, KnownPosition};
pub use leave::LeaveOutcome;
pub use prepared::{Prepared, PreviousPublication, Writable};
pub use stream_frames::{Layout, StreamFrames};
pub use subscriber::{Sink, Subscriber};
pub use sweep::SWEEP_PIECE;
pub use variants::{
    BareMessages, ENCODINGS_MAX, Encoding, EncodingId, PushFraming, Variant, Variants, WINDOW_BITS,
};
pub use websocket_frames::{DEFLATE_LEVEL, DEFLATE_MIN_BYTES, DeflateOptions, WebSocketFrames};

use crate::newest::WindowTimers;
use ids::ListIds;
use lists::Lists;
use members::Members;
use places::Places;
use sweep::Sweeps;

/// The subscriptions of one worker's connections.
#[derive(Debug, Default)]
pub struct Hub {
    ids: ListIds,
    channels: Lists,
    places: Places,
    sweeps: Sweeps,
    limits: HoldLimits,
    held_bytes: usize,
    counts: Counts,
    /// The time that the hub was last told.
    now: Moment,
    /// When the windows of newest values close.
    windows: WindowTimers,
}

/// The current size of a hub. Bytes are those of publications held back for joining subscribers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Interest {
    pub channels: usize,
    pub subscriptions: usize,
    pub held_bytes: usize,
}

/// Counters of a hub since it was created.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Publications dropped because this worker had already seen them.
    pub duplicates: u64,
    /// Times that a channel's stream skipped offsets or changed its epoch.
    pub gaps: u64,
    /// Subscribers told of a gap in their stream.
    pub insufficient: u64,
    /// Publications dropped because too many were held back for joining subscribers.
    pub held_overflow: u64,
    /// Newest values superseded before they were delivered, counted once for each subscriber.
    pub superseded: u64,
    /// Newest values that expired before they were delivered, counted once for each subscriber.
    pub stale: u64,
}

impl Hub {
    pub fn new(limits: HoldLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    pub fn interest(&self) -> Interest {
        Interest { channels: self.ids.len(), subscriptions: self.places.count(), held_bytes: self.held_bytes }
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Returns the channels of one connection, in no particular order.
    pub fn channels_of(&self, key: u32) -> impl Iterator<Item = &Channel> + '_ {
        self.places.channels(key).filter_map(|id| Some(&self.channels.get(id as usize)?.channel))
    }

    /// Returns the channels that have a subscriber on this worker.
    pub fn channels(&self) -> impl Iterator<Item = &Channel> + '_ {
        self.ids.iter().filter_map(|id| Some(&self.channels.get(id as usize)?.channel))
    }

    /// Returns how many subscribers a channel has on this worker, including those that are still joining.
    pub fn subscribers(&self, channel: &str) -> usize {
        let count = |members: &Members| {
            let aside = members
                .aside
                .as_ref()
                .map_or(0, |aside| aside.joining.len() + aside.waiting.len() + aside.insufficient.len());
            members.live.len() + aside
        };
        self.lists(channel).map(count).sum()
    }

    /// Returns the live subscribers, which get publications as they come, in one or several lists.
    pub fn live(&self, channel: &str) -> impl Iterator<Item = &[Subscriber]> {
        self.lists(channel).map(|members| &members.live[..])
    }

    fn lists(&self, channel: &str) -> impl Iterator<Item = &Members> {
        let first = self.ids.find(&self.channels, channel).and_then(|id| self.channels.get(id as usize));
        let others = first.and_then(|members| members.others()).map_or(&[][..], |others| others.ids());
        let others = others.iter().filter_map(|&id| self.channels.get(id as usize));
        first.into_iter().chain(others)
    }
}

#[cfg(test)]
mod tests;
