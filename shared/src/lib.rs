//! The words both ends of the wire say.
//!
//! Read in this order: what things are called ([`channel`], [`id`], [`moment`], [`position`]), what is said
//! ([`publication`], [`command`], [`reply`], [`push`]), how brokers carry it ([`record`]) and what is measured of it ([`stamp`]), how no is said
//! ([`error`], [`refusal`], [`disconnect`]), where a message begins and ends ([`framing`]) and what it means ([`protocol`]).
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
