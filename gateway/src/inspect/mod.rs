//! `tidegate channels` and `tidegate connections`: what a running cluster has, over its server API. `tidegate shed`: to have
//! clients go where there is room.
//!
//! `gateway_args` says what is asked and of whom, `call` asks, `print_listing` writes a table or JSON, and `run_cli` ends.

mod call;
mod gateway_args;
mod inspect_cli;
mod print_listing;
mod run_cli;
mod shed_cli;

pub(crate) use call::ApiClient;
pub use call::CallError;
pub(crate) use gateway_args::on_this_machine;
pub use gateway_args::{ChannelsArgs, ConnectionsArgs, GatewayAddress, GatewayArgs};
pub use inspect_cli::{ListCommand, command};
pub(crate) use run_cli::{CliError, run_cli};
pub use shed_cli::{ShedArgs, shed};
