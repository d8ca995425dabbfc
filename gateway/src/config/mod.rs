//! The configuration of a node: one field for each part, whose type stands beside that part.
//!
//! A file in TOML, then the environment over it (`TIDEGATE_SECTION__KEY`), then flags over both. Every mistake is
//! reported, not only the first.

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

/// Everything that can be set.
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

/// Where the values of a configuration are.
#[derive(Clone, Debug, Default)]
pub struct Sources<'a> {
    pub file: Option<&'a Path>,
    /// All variables; those of others are passed over.
    pub environment: BTreeMap<String, String>,
    /// `section.key` and text, for each flag given.
    pub flags: Vec<(&'static str, String)>,
    /// Put what `--demo` sets below all others.
    pub demo: bool,
}

/// A configuration that was read, and who said what in it.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    tree: tree::ConfigNode,
}

impl Loaded {
    /// As TOML without secrets, and behind each key who said it.
    pub fn to_toml(&self, only_changed: bool) -> String {
        let toml = if only_changed { self.config.changed().0 } else { self.config.to_toml() };
        origins::annotate(&toml, &self.tree)
    }

    /// Every key that has a value, and who said it.
    pub fn sets(&self) -> Vec<KeyOrigin> {
        origins::all(&self.config, &self.tree)
    }
}

impl Sources<'_> {
    /// What is to be known of them even if they hold mistakes, a line each.
    pub fn advice(&self) -> Vec<String> {
        advice::of_variables(self)
    }
}

impl Config {
    /// Reads and checks everything, or tells every mistake. Files that are named in it are not looked at.
    pub fn load(sources: &Sources<'_>) -> Result<Self, Mistakes> {
        Self::load_and(sources, |_| Vec::new())
    }

    /// The same for a node that is to run with it: the files that are named must be of use.
    pub fn load_to_serve(sources: &Sources<'_>) -> Result<Self, Mistakes> {
        Self::load_and(sources, config_files::faults)
    }

    /// The same, with who said what.
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
            // A key that could not be read has its default here, about which nothing should be said.
            if !misread.contains(&path) {
                let source = collect_values::source_of(&tree, &path);
                mistakes.push(Mistake { path, problem, source });
            }
        }
        mistakes.sort_by(|a, b| a.path.cmp(&b.path));
        if mistakes.is_empty() { Ok(Loaded { config, tree }) } else { Err(Mistakes(mistakes)) }
    }

    /// What is no mistake and still not as it may seem to whoever has set it, a line each.
    pub fn advice(&self, sources: &Sources<'_>) -> Vec<String> {
        advice::advice(sources, self)
    }

    /// What `--demo` sets, and nothing else.
    pub fn demo() -> Self {
        Self::load(&Sources { demo: true, ..Sources::default() }).expect("a test reads the demo's settings")
    }

    /// The variables of this process. What is no text in one of ours becomes a mistake where it is read, instead of
    /// going unseen.
    pub fn environment() -> BTreeMap<String, String> {
        std::env::vars_os()
            .filter_map(|(name, value)| {
                Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
            })
            .collect()
    }

    /// The whole configuration as TOML, without secrets.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a configuration is made of tables, lists and plain values")
    }

    /// As TOML, what differs from the defaults, and how many keys that are.
    pub fn changed(&self) -> (String, usize) {
        changed::changed(self)
    }

    /// Every key that is another one in `new`.
    pub fn changes(&self, new: &Self) -> Vec<ConfigChange> {
        difference::changes(self, new)
    }

    /// This configuration with all of `new` that a running node can take over.
    pub fn with_live_of(&self, new: &Self) -> Self {
        difference::with_live_of(self, new)
    }

    /// Everything that opens connections on behalf of many clients.
    pub fn balancers(&self) -> TrustedProxies {
        let speak_proxy = self.proxy_protocol.trusted.iter().filter(|_| self.proxy_protocol.enabled);
        let networks: Vec<IpNet> = self.http.trusted_proxies.iter().chain(speak_proxy).copied().collect();
        TrustedProxies::new(&networks)
    }

    /// The options of every channel.
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
                // What was missed in several channels is told in its order.
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
