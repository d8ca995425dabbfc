//! `tidegate channels` and `tidegate connections`: what a running cluster has, over its server API.
//!
//! `arguments` says what is asked and of whom, `call` asks, and `show` writes a table or JSON.

mod arguments;
mod call;
mod command;
mod show;

pub use arguments::{ChannelsArgs, ConnectionsArgs, Of, Via};
pub use command::{Listing, command};
