//! The Centrifuge protocol, version 2: what its official client libraries speak.
//!
//! One folder an encoding; both say the same words.

pub mod json;

/// Most commands of one message. A client library batches what it has at hand, which is far less.
pub const COMMANDS_PER_MESSAGE_MAX: usize = 1000;
