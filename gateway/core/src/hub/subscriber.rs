//! One subscription as the hub's dense lists hold it, and the sink for the hub's deliveries.

use std::sync::Arc;

use shared::channel::Channel;

use super::bundle::Bundles;
use super::prepared::Prepared;
use super::variants::Variant;

/// One connection in one channel. Eight bytes: the list of a channel is read from end to end for every
/// publication, so nothing else is kept here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subscriber {
    /// The connection's index in its worker's slab.
    pub key: u32,
    /// The encoding that the connection takes in this channel.
    pub variant: Variant,
    flags: SubscriberFlags,
}

const _: () = assert!(size_of::<Subscriber>() == 8, "it is read for every publication");

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct SubscriberFlags(u8);

const POSITIONED: u8 = 1;
const JOINS_AND_LEAVES: u8 = 1 << 1;
/// The subscriber has agreed to patches, and was not given the publication that the next patch applies to.
const FRESH: u8 = 1 << 2;
/// The subscriber was given the publication at its position.
const HAS_LAST: u8 = 1 << 3;
/// The subscriber waits for the stream, and for its turn to be sent a publication that has no position in the stream.
const DUE: u8 = 1 << 4;
/// A newer value may supersede one that the subscriber has not been sent yet.
const NEWEST: u8 = 1 << 5;

impl Subscriber {
    pub fn new(key: u32, variant: Variant) -> Self {
        Self { key, variant, flags: SubscriberFlags::default() }
    }

    /// Sets whether the subscription follows a stream and is told of gaps.
    #[must_use]
    pub fn positioned(self, positioned: bool) -> Self {
        self.with(POSITIONED, positioned)
    }

    /// Sets whether the subscriber is told of joins and leaves.
    #[must_use]
    pub fn joins_and_leaves(self, wanted: bool) -> Self {
        self.with(JOINS_AND_LEAVES, wanted)
    }

    #[inline]
    pub fn is_positioned(self) -> bool {
        self.has(POSITIONED)
    }

    pub fn wants_joins_and_leaves(self) -> bool {
        self.has(JOINS_AND_LEAVES)
    }

    pub(super) fn newest(self, newest: bool) -> Self {
        self.with(NEWEST, newest)
    }

    /// Returns whether the subscriber is sent the newest value of each key instead of all publications. This is the
    /// same for all subscribers of a list.
    #[inline]
    pub fn is_newest(self) -> bool {
        self.has(NEWEST)
    }

    pub(super) fn fresh(self, fresh: bool) -> Self {
        self.with(FRESH, fresh)
    }

    pub(super) fn is_fresh(self) -> bool {
        self.has(FRESH)
    }

    pub(super) fn given_last(self, given: bool) -> Self {
        self.with(HAS_LAST, given)
    }

    pub(super) fn has_last(self) -> bool {
        self.has(HAS_LAST)
    }

    pub(super) fn due(self, due: bool) -> Self {
        self.with(DUE, due)
    }

    pub(super) fn is_due(self) -> bool {
        self.has(DUE)
    }

    fn has(self, flag: u8) -> bool {
        self.flags.0 & flag != 0
    }

    fn with(mut self, flag: u8, set: bool) -> Self {
        self.flags.0 = if set { self.flags.0 | flag } else { self.flags.0 & !flag };
        self
    }
}

/// Receives the hub's deliveries while the hub goes through its lists. Changes to the hub that follow from them
/// (leaving, closing) are kept by the sink until the hub returns.
pub trait Sink {
    /// Writes publications of one channel, in order, to each of the subscribers.
    fn deliver(&mut self, subscribers: &[Subscriber], bundles: &mut Bundles);

    /// Writes to a subscriber that goes live what was held back for it. Returns `false` if it cannot take that, and so
    /// misses something.
    fn catch_up(&mut self, subscriber: Subscriber, bundles: &mut Bundles) -> bool {
        self.deliver(&[subscriber], bundles);
        true
    }

    /// Reports that a connection is about to be sent publications of several channels, which can be one write.
    fn gather(&mut self, _key: u32) {}

    /// Reports that all subscribers of one of the channel's lists have been served.
    fn delivered(&mut self, _publications: &[Arc<Prepared>]) {}

    /// Reports that a subscriber missed something of its stream that the hub cannot give it. It gets nothing more from
    /// the channel until it has left and joined again, or has joined again if it was about to go live.
    fn insufficient(&mut self, key: u32, channel: &Channel);
}
