//! `tidegate channels` and `tidegate connections`: what a running cluster has, over its server API. `tidegate shed`: to have
//! clients go where there is room.
//!
//! `arguments` says what is asked and of whom, `call` asks, and `show` writes a table or JSON.

mod call;
mod gateway_args;
mod inspect_cli;
mod print_listing;
mod shed_cli;

pub(crate) use call::ApiClient;
pub use call::CallError;
pub use gateway_args::{ChannelsArgs, ConnectionsArgs, GatewayAddress, GatewayArgs};
pub use inspect_cli::{ListCommand, command};
pub use shed_cli::{ShedArgs, shed};
