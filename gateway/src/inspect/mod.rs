//! `tidegate channels` and `tidegate connections` list what a running cluster has, over its server API. `tidegate shed`
//! has its nodes close clients, which reconnect to nodes with room.
//!
//! `gateway_args` holds the arguments, `call` makes requests, `print_listing` prints a table or JSON, and `run_cli`
//! runs a subcommand to its exit code.

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
