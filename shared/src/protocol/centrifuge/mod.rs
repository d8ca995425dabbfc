//! The Centrifuge protocol, version 2, which its official client libraries speak.
//!
//! Each encoding has a folder, and both carry the same messages. The unidirectional variants carry fewer of them.

pub mod json;
pub mod protobuf;
pub mod uni;

/// Default for the most commands in one message. Client libraries send all pending commands at once, such as the
/// subscriptions to all channels.
pub const COMMANDS_PER_MESSAGE_MAX: usize = 1000;

/// The bit of a subscribe request's `flag` that asks for an error in place of `recovered: false`. The lowest bit offers
/// numbered channels, which the gateway does not use.
const FLAG_REJECT_UNRECOVERED: u64 = 2;

/// The `type` of a publish request that changes a key.
const TYPE_KEYED: u64 = 1;
/// The `type` of a sub_refresh request that starts to follow keys, and of one that stops it.
const TYPE_TRACK: u64 = 1;
const TYPE_UNTRACK: u64 = 2;
