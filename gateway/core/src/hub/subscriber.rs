//! One subscription as the hub's dense lists hold it, and where the hub hands what it decided.

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
    /// Which encoding the connection takes.
    pub variant: Variant,
    /// Whether this subscription follows a stream and is told of gaps.
    pub positioned: bool,
}

const _: () = assert!(size_of::<Subscriber>() == 8, "it is read for every publication");

/// What a hub does is said to this, while it goes through its lists. What follows from it for the hub itself
/// (leaving, closing) is kept by the sink until the hub returns.
pub trait Sink {
    /// Write these publications, in their order, to each of these subscribers. They are of one channel.
    fn deliver(&mut self, subscribers: &[Subscriber], bundles: &mut Bundles);

    /// This connection is about to be delivered to in several channels, which can be one write.
    fn gather(&mut self, _key: u32) {}

    /// All who were to have these from the channel's list have been served.
    fn delivered(&mut self, _publications: &[Arc<Prepared>]) {}

    /// This subscriber missed something of its stream that the hub cannot give it. It gets nothing more from the
    /// channel until it has left and joined again.
    fn insufficient(&mut self, key: u32, channel: &Channel);
}
