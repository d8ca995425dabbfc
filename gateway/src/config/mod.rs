//! The configuration of a node: one field for each part of the gateway, whose type is defined beside that part.
//!
//! Values come from a file in TOML, from the environment (`TIDEGATE_SECTION__KEY`), which overrides the file, and from
//! flags, which override both. Every mistake is reported, not only the first.

use std::collections::BTreeMap;
use std::path::Path;

use gateway_core::channel_names::ChannelNames;
use gateway_core::channel_rules::{ChannelOptions, ChannelRules};
use gateway_core::session::SessionSettings;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::admission::client_ip::TrustedProxies;
use crate::{
    admission, api, auth, backend, broker, client, console, demo, feeds, graphql, http, listener, node, poll,
    pusher, socketio, telemetry, worker,
};

pub use collect_values::{LEVEL_SEPARATOR, VARIABLE_PREFIX};
pub use difference::ConfigChange;
pub use mistake::{Mistake, Mistakes};
pub use origins::KeyOrigin;

mod advice;
mod changed;
mod check;
mod check_channels;
mod check_nats;
mod collect_values;
mod config_files;
mod difference;
mod lines;
mod mistake;
mod origins;
mod read_value;
mod tree;

/// All settings.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub node: node::node_config::NodeConfig,
    pub server: listener::listener_config::ServerConfig,
    pub internal: listener::listener_config::InternalConfig,
    pub console: console::console_config::ConsoleConfig,
    /// Where other nodes connect.
    pub cluster: listener::listener_config::ClusterConfig,
    pub tls: listener::tls::TlsConfig,
    pub proxy_protocol: listener::proxy_protocol::ProxyProtocolConfig,
    pub limits: admission::AdmissionConfig,
    pub http: http::http_config::HttpConfig,
    pub raw: http::raw_paths::RawPathsConfig,
    pub sse: http::event_stream::EventStreamConfig,
    pub mercure: api::update::MercureConfig,
    pub graphql: graphql::GraphqlConfig,
    pub websocket: client::client_config::WebSocketConfig,
    pub session: SessionSettings,
    pub auth: auth::AuthConfig,
    pub api: api::ApiConfig,
    pub workers: worker::worker_config::WorkerConfig,
    pub channel_names: ChannelNames,
    /// Options of channels without a namespace.
    pub channels: ChannelOptions,
    /// Options of channels with one.
    pub namespaces: BTreeMap<String, ChannelOptions>,
    pub pusher: pusher::PusherConfig,
    pub socketio: socketio::SocketioConfig,
    pub backend: backend::BackendConfig,
    /// For channels of the type `shared_poll`.
    pub shared_poll: poll::PollConfig,
    pub broker: broker::BrokerConfig,
    /// Used by `broker.kind = "redis"`.
    pub redis: broker::redis::RedisConfig,
    /// Used by `broker.kind = "nats"`.
    pub nats: broker::nats::NatsConfig,
    /// Records that are published as they come into a source outside.
    pub feeds: BTreeMap<String, feeds::feed_config::FeedConfig>,
    pub demo: demo::demo_config::DemoConfig,
    pub balance: gateway_core::balance::BalanceConfig,
    pub drain: gateway_core::drain::DrainSettings,
    pub telemetry: telemetry::TelemetryConfig,
}

/// The sources of a configuration's values.
#[derive(Clone, Debug, Default)]
pub struct Sources<'a> {
    pub file: Option<&'a Path>,
    /// All environment variables. Those without the prefix are ignored.
    pub environment: BTreeMap<String, String>,
    /// `section.key` and the text, for each flag that was given.
    pub flags: Vec<(&'static str, String)>,
    /// Whether the values that `--demo` sets are used, below those of all other sources.
    pub demo: bool,
}

/// A configuration that was read, and the origins of its values.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    tree: tree::ConfigNode,
}

impl Loaded {
    /// Returns the configuration as TOML without secrets, each key followed by its origin.
    pub fn to_toml(&self, only_changed: bool) -> String {
        let toml = if only_changed { self.config.changed().0 } else { self.config.to_toml() };
        origins::annotate(&toml, &self.tree)
    }

    /// Returns every key that has a value, and its origin.
    pub fn sets(&self) -> Vec<KeyOrigin> {
        origins::all(&self.config, &self.tree)
    }
}

impl Sources<'_> {
    /// Returns what an operator should know of the sources even if they contain mistakes, one line each.
    pub fn advice(&self) -> Vec<String> {
        advice::of_variables(self)
    }
}

impl Config {
    /// Reads and checks all sources. Returns the configuration, or every mistake. Files that it names are not opened.
    pub fn load(sources: &Sources<'_>) -> Result<Self, Mistakes> {
        Self::load_and(sources, |_| Vec::new())
    }

    /// The same for a node that is to run with the configuration: the files that it names must be usable.
    pub fn load_to_serve(sources: &Sources<'_>) -> Result<Self, Mistakes> {
        Self::load_and(sources, config_files::faults)
    }

    /// The same, with the origins of the values.
    pub fn load_with_origins(sources: &Sources<'_>) -> Result<Loaded, Mistakes> {
        Self::load_all(sources, config_files::faults)
    }

    fn load_and(
        sources: &Sources<'_>,
        check_more: impl Fn(&Self) -> Vec<(String, String)>,
    ) -> Result<Self, Mistakes> {
        Self::load_all(sources, check_more).map(|loaded| loaded.config)
    }

    fn load_all(
        sources: &Sources<'_>,
        check_more: impl Fn(&Self) -> Vec<(String, String)>,
    ) -> Result<Loaded, Mistakes> {
        let mut mistakes = Vec::new();
        let tree = collect_values::gather(sources, &mut mistakes);
        let config: Self = read_value::read(tree.clone(), &mut mistakes);

        let misread: Vec<String> = mistakes.iter().map(|mistake| mistake.path.clone()).collect();
        for (path, problem) in check::faults(&config).into_iter().chain(check_more(&config)) {
            // A key that could not be read has its default here, which is not to be reported.
            if !misread.contains(&path) {
                let source = collect_values::source_of(&tree, &path);
                mistakes.push(Mistake { path, problem, source });
            }
        }
        mistakes.sort_by(|a, b| a.path.cmp(&b.path));
        if mistakes.is_empty() { Ok(Loaded { config, tree }) } else { Err(Mistakes(mistakes)) }
    }

    /// Returns what is not a mistake but probably not what the operator meant, one line each.
    pub fn advice(&self, sources: &Sources<'_>) -> Vec<String> {
        advice::advice(sources, self)
    }

    /// Returns the configuration with the values that `--demo` sets, and no others.
    pub fn demo() -> Self {
        Self::load(&Sources { demo: true, ..Sources::default() }).expect("a test reads the demo's settings")
    }

    /// Returns the variables of this process. If one with our prefix is not valid Unicode, it is kept so that reading it
    /// reports a mistake.
    pub fn environment() -> BTreeMap<String, String> {
        std::env::vars_os()
            .filter_map(|(name, value)| {
                Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
            })
            .collect()
    }

    /// Returns the whole configuration as TOML, without secrets.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a configuration is made of tables, lists and plain values")
    }

    /// Returns the keys that differ from their defaults as TOML, and their number.
    pub fn changed(&self) -> (String, usize) {
        changed::changed(self)
    }

    /// Returns every key whose value is another in `new`.
    pub fn changes(&self, new: &Self) -> Vec<ConfigChange> {
        difference::changes(self, new)
    }

    /// Returns this configuration with those settings of `new` that a running node can apply.
    pub fn with_live_of(&self, new: &Self) -> Self {
        difference::with_live_of(self, new)
    }

    /// Returns the settings by which connections are opened on behalf of many clients.
    pub fn balancers(&self) -> TrustedProxies {
        let speak_proxy = self.proxy_protocol.trusted.iter().filter(|_| self.proxy_protocol.enabled);
        let networks: Vec<IpNet> = self.http.trusted_proxies.iter().chain(speak_proxy).copied().collect();
        TrustedProxies::new(&networks)
    }

    /// Returns the options of all channels.
    pub fn channel_rules(&self) -> ChannelRules {
        let mut namespaces = self.namespaces.clone();
        if self.mercure.enabled {
            let of_updates = namespaces.entry(self.mercure.namespace.to_string());
            of_updates.or_insert_with(api::update::default_options).has_private_publications = true;
        }
        for (name, section) in self.socketio.served() {
            let options = namespaces.entry(section.channels_or(&name).to_owned()).or_default();
            if section.recovery_ms > 0 {
                options.keeps_sessions = true;
                // Publications missed in several channels are sent in their order.
                options.publication_time = true;
            }
        }
        let namespaces = namespaces.into_iter().map(|(name, options)| (name.into(), options));
        let (names, unicode) = (self.channel_names.clone(), self.session.channel_unicode);
        let mut rules = ChannelRules::new(self.channels.clone(), namespaces, names, unicode);
        if self.mercure.enabled {
            rules = rules.with_hub(&self.mercure.namespace);
        }
        let apps = self.pusher.apps.iter().filter(|_| self.pusher.enabled);
        apps.fold(rules, |rules, (name, app)| {
            let namespace = app.namespace_or(name);
            let base = self.namespaces.get(namespace).cloned().unwrap_or_default();
            rules.with_kinds(namespace, pusher::kinds(app, &base, &self.channel_names))
        })
    }
}

#[cfg(test)]
mod tests;
