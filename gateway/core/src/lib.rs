//! The decisions of a gateway node.
//!
//! [`session`] is one client from open to close, [`hub`] is who listens to what on one worker, [`feed`] keeps a
//! channel's publications in order on one node, [`stream`] remembers them. Everything here is told the time and
//! the answers it asked for, and says what should be done; it does nothing itself.

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
pub mod heard;
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
