//! The decisions of a gateway node.
//!
//! [`session`] handles one client from open to close. [`hub`] knows the subscribers of each channel on one worker. [`feed`]
//! keeps a channel's publications in order on one node. [`stream`] keeps their history. The code here is given the time and
//! the answers it asked for, and returns what should be done; it performs no I/O itself.

pub mod audience;
pub mod balance;
pub mod catch_up;
pub mod channel_names;
pub mod channel_pattern;
pub mod channel_rules;
pub mod delta;
pub mod drain;
pub mod effect;
pub mod feed;
pub mod flush_windows;
pub mod history;
pub mod hub;
pub mod ledger;
pub mod map;
pub mod name_rule;
pub mod namespace_id;
pub mod newest;
pub mod permission;
pub mod placement;
pub mod poll;
pub mod received_messages;
pub mod recovery;
pub mod repeats;
pub mod reply_bytes;
pub mod roster;
pub mod session;
pub mod stream;
pub mod tag_filter;
pub mod timer_wheel;
pub mod version;
pub mod wildcard;
