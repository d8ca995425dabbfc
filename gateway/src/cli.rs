//! The arguments of the program.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::auth::TokenArgs;
use crate::config::Sources;
use crate::health::HealthArgs;
use crate::inspect::{ChannelsArgs, ConnectionsArgs, ShedArgs};
use crate::publisher::PublishArgs;
use crate::setting::parse_address;
use crate::top::TopArgs;

mod print;

pub use print::{CompletionsArgs, ManArgs};

/// A real-time pub/sub gateway.
#[derive(Clone, Debug, Parser)]
#[command(name = "tidegate", version, about)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// Run a gateway node.
    Serve(Serve),
    /// Check a configuration without starting a node: print every mistake, or all settings and where each comes from.
    #[command(visible_alias = "config")]
    Check(Check),
    /// Publish over the server API of a running gateway: the demo's prices, or your own lines.
    Publish(PublishArgs),
    /// List the channels that have subscribers in a running cluster, over its server API.
    Channels(ChannelsArgs),
    /// List the clients that are connected to a running cluster, over its server API.
    Connections(ConnectionsArgs),
    /// Rebalance a running cluster: nodes close the clients they have above the mean, which reconnect to other nodes.
    Shed(ShedArgs),
    /// Print a token for a client, or verify one (`tidegate token verify`).
    Token(Box<TokenArgs>),
    /// Show live activity of nodes in a terminal: connections, rates, latencies by stage, the busiest channels.
    Top(TopArgs),
    /// Check whether a running node is ready, for health checks of containers.
    Health(HealthArgs),
    /// Print a completion script for a shell.
    Completions(CompletionsArgs),
    /// Print the manual page, or write a manual page for each command.
    Man(ManArgs),
}

/// Where the configuration comes from.
#[derive(Clone, Debug, Default, Args)]
pub struct ConfigArgs {
    /// Configuration file in TOML. Variables `TIDEGATE_SECTION__KEY` override it, and flags override both.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Address for clients and publishers (server.listen) [default: 127.0.0.1:8000].
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    pub listen: Option<SocketAddr>,
    /// Address for health checks and metrics (internal.listen) [default: 127.0.0.1:8001].
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    pub internal_listen: Option<SocketAddr>,
    /// Run a demo: a feed of prices, a ticker page at `/`, and anonymous clients allowed.
    #[arg(long)]
    pub demo: bool,
}

#[derive(Clone, Debug, Default, Args)]
pub struct Serve {
    #[command(flatten)]
    pub settings: ConfigArgs,
}

#[derive(Clone, Debug, Default, Args)]
pub struct Check {
    #[command(flatten)]
    pub settings: ConfigArgs,
    /// Show only settings that differ from the defaults.
    #[arg(long)]
    pub changed: bool,
    /// Print JSON: a list of keys with their values and origins.
    #[arg(long)]
    pub json: bool,
}

impl ConfigArgs {
    /// Where to read the configuration from: this process's environment included.
    pub fn sources(&self) -> Sources<'_> {
        let mut flags = Vec::new();
        if let Some(listen) = self.listen {
            flags.push(("server.listen", listen.to_string()));
        }
        if let Some(listen) = self.internal_listen {
            flags.push(("internal.listen", listen.to_string()));
        }
        Sources {
            file: self.config.as_deref(),
            environment: crate::config::Config::environment(),
            flags,
            demo: self.demo,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_set_keys() {
        let cli = Cli::parse_from(["tidegate", "serve", "--listen", "[::1]:9000", "--demo"]);
        let Verb::Serve(serve) = cli.verb else { panic!("serve was given") };
        let sources = serve.settings.sources();
        assert!(sources.demo);
        assert_eq!(sources.flags, [("server.listen", "[::1]:9000".to_owned())]);
    }
}
