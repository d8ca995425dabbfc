//! The vocabulary that the gateway and its clients share: identifiers, commands, replies, pushes, framings and protocols.
//!
//! Read in this order: identifiers ([`channel`], [`id`], [`moment`], [`position`]), messages ([`publication`],
//! [`command`], [`reply`], [`push`]), the form in which brokers carry a publication ([`record`]) and the measurements
//! that travel with it ([`stamp`]), errors and closes ([`error`], [`refusal`], [`disconnect`]), message boundaries
//! ([`framing`]) and message contents ([`protocol`]).
//!
//! Nothing here reads a clock, a socket, a file or a random source: time, bytes and seeds are arguments.

pub mod channel;
pub mod id;
pub mod moment;
pub mod position;

pub mod command;
pub mod delivery;
pub mod publication;
pub mod push;
pub mod record;
pub mod reply;
pub mod stamp;
pub mod topic_selector;

pub mod disconnect;
pub mod error;
pub mod refusal;

pub mod framing;
pub mod protocol;
