//! The Centrifuge protocol, version 2: what its official client libraries speak.
//!
//! One folder an encoding; both say the same words. In one direction they say fewer of them.

pub mod json;
pub mod protobuf;
pub mod uni;

/// Most commands of one message, unless a server takes more. A client library sends what it has at hand at once, such as
/// the subscriptions to all its channels.
pub const COMMANDS_PER_MESSAGE_MAX: usize = 1000;

/// The bit of a subscribe request's `flag` that asks for an error in place of `recovered: false`. The lowest bit
/// offers numbered channels, which the gateway does not use.
const FLAG_REJECT_UNRECOVERED: u64 = 2;

/// The `type` of a publish request that is about a key.
const TYPE_KEYED: u64 = 1;
/// The `type` of a sub_refresh request that begins to follow keys, and of one that ends that.
const TYPE_TRACK: u64 = 1;
const TYPE_UNTRACK: u64 = 2;
