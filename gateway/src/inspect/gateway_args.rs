//! The arguments of subcommands that call a server API: the gateway to ask, and what to list.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;

use crate::api;
use crate::secret::{Secret, SecretFileError};

/// The gateway that is asked, by flags or by its configuration.
#[derive(Clone, Debug, Default, Args)]
pub struct GatewayArgs {
    /// Configuration file of the gateway, for the address and a key of its server API.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CONFIG")]
    pub config: Option<PathBuf>,
    /// URL of the server API. Default: the configured address, on this machine.
    #[arg(long)]
    pub url: Option<String>,
    /// A key of the server API. Default: the first of api.keys or api.keys_file.
    #[arg(long, env = "TIDEGATE_API_KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// The most entries to list. Default: all.
    #[arg(long, value_name = "COUNT")]
    pub limit: Option<u64>,
    /// The most entries of one request.
    #[arg(long, value_name = "COUNT", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub page: u32,
    /// Continue after an earlier list: the cursor that it printed.
    #[arg(long, default_value = "")]
    pub cursor: String,
    /// Print one JSON object per line instead of a table.
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Debug, Default, Args)]
pub struct ChannelsArgs {
    #[command(flatten)]
    pub via: GatewayArgs,
    /// List only channels whose names match: `*` any text, `?` any character, `[a-z]`, `{a,b}`.
    #[arg(long, default_value = "")]
    pub pattern: String,
}

#[derive(Clone, Debug, Default, Args)]
pub struct ConnectionsArgs {
    #[command(flatten)]
    pub via: GatewayArgs,
    /// List only connections of this user.
    #[arg(long, default_value = "")]
    pub user: String,
    /// List only connections that are subscribed to this channel.
    #[arg(long, default_value = "")]
    pub channel: String,
    /// List only the connection with this client id.
    #[arg(long, default_value = "")]
    pub client: String,
}

/// The settings of a gateway that tell how to reach it.
#[derive(Clone, Copy, Debug)]
pub struct GatewayAddress<'a> {
    pub api: &'a api::ApiConfig,
    /// The address for clients.
    pub server: SocketAddr,
    /// Whether its listeners speak TLS.
    pub tls: bool,
}

/// Returns the address by which a listener on this machine is reached.
pub(crate) fn on_this_machine(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        let loopback: IpAddr = match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        address.set_ip(loopback);
    }
    address
}

impl GatewayArgs {
    /// Returns the URL of the server API.
    pub(crate) fn url(&self, of: GatewayAddress<'_>) -> String {
        self.url.clone().unwrap_or_else(|| {
            let address = on_this_machine(of.api.listen.unwrap_or(of.server));
            format!("{}://{address}/api", if of.tls { "https" } else { "http" })
        })
    }

    /// Returns the key to send. `None` if there is none: the gateway may not require one.
    pub(crate) fn key(&self, of: GatewayAddress<'_>) -> Result<Option<Secret>, SecretFileError> {
        if let Some(key) = &self.key {
            return Ok(Some(Secret::new(key)));
        }
        if let Some(key) = of.api.keys.first() {
            return Ok(Some(key.clone()));
        }
        let Some(file) = &of.api.keys_file else { return Ok(None) };
        Secret::first_of_file(file).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_says_where_the_api_is_and_flags_say_it_before() {
        let url = |listen: Option<&str>, server: &str, tls: bool, flag: Option<&str>| {
            let listen = listen.map(|address| address.parse().unwrap());
            let api = api::ApiConfig { listen, ..api::ApiConfig::default() };
            let via = GatewayArgs { url: flag.map(str::to_owned), ..GatewayArgs::default() };
            via.url(GatewayAddress { api: &api, server: server.parse().unwrap(), tls })
        };
        assert_eq!(url(None, "0.0.0.0:8000", false, None), "http://127.0.0.1:8000/api");
        assert_eq!(url(None, "[::]:8000", false, None), "http://[::1]:8000/api");
        assert_eq!(url(Some("10.0.0.1:9"), "0.0.0.0:8000", true, None), "https://10.0.0.1:9/api");
        assert_eq!(url(None, "0.0.0.0:8000", false, Some("http://a/b")), "http://a/b");
    }

    #[test]
    fn a_flag_goes_before_the_keys_of_the_configuration() {
        let api =
            api::ApiConfig { keys: vec![Secret::new("first"), Secret::new("second")], ..Default::default() };
        let of = GatewayAddress { api: &api, server: "127.0.0.1:8000".parse().unwrap(), tls: false };
        let key = |via: &GatewayArgs| via.key(of).unwrap().unwrap().reveal().to_owned();
        assert_eq!(key(&GatewayArgs::default()), "first");
        assert_eq!(key(&GatewayArgs { key: Some("mine".into()), ..GatewayArgs::default() }), "mine");
    }
}
