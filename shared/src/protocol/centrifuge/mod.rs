//! The Centrifuge protocol, version 2: what its official client libraries speak.
//!
//! One folder an encoding; both say the same words.

pub mod json;

/// Most commands of one message, unless a server takes more. A client library sends what it has at hand at once, such as
/// the subscriptions to all its channels.
pub const COMMANDS_PER_MESSAGE_MAX: usize = 1000;
