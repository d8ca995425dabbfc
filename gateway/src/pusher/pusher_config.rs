//! The section `pusher`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use gateway_core::channel_names::ChannelNames;
use serde::{Deserialize, Serialize};
use shared::protocol::pusher::CHANNEL_BYTES_MAX;

use super::signer::Secrets;
use super::webhook::{Webhook, WebhooksConfig};
use crate::secret::{Secret, SecretFileError};
use crate::setting::Faults;

/// Characters that a namespace must not contain, because it is part of patterns.
const PATTERN_CHARACTERS: [char; 7] = ['*', '?', '[', ']', '{', '}', '\\'];
/// The longest id and key of an app, in bytes.
const ID_BYTES_MAX: usize = 64;

/// Clients that speak the Pusher protocol, version 7, and servers that use Pusher's HTTP API.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PusherConfig {
    /// Serves `/app/{key}` to clients and `/apps/{id}/` to servers.
    pub enabled: bool,
    /// Seconds of silence after which clients check whether the connection is alive. The server pings more often than
    /// that, every `session.ping_interval_ms`.
    pub activity_timeout_s: u32,
    /// The longest data of an event from a client or a server, in bytes.
    pub event_data_bytes_max: usize,
    /// The most channels of one event.
    pub event_channels_max: usize,
    /// The most events of one batch.
    pub batch_events_max: usize,
    /// Tolerated clock difference to servers that sign requests, in seconds.
    pub timestamp_tolerance_s: u32,
    /// What holds for the webhooks of all apps.
    pub webhooks: WebhooksConfig,
    /// Each app with its section, such as `[pusher.apps.shop]`.
    pub apps: BTreeMap<String, PusherAppConfig>,
}

impl Default for PusherConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            activity_timeout_s: 120,
            event_data_bytes_max: 10 << 10,
            event_channels_max: 100,
            batch_events_max: 10,
            timestamp_tolerance_s: 600,
            webhooks: WebhooksConfig::default(),
            apps: BTreeMap::new(),
        }
    }
}

/// One app. Clients connect with its key. Its secret gives servers full access to its namespace.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PusherAppConfig {
    /// The app's id in the paths of the HTTP API: letters, digits, `_` and `-`.
    pub id: String,
    /// The app's key, with which clients connect. It is not a secret. Letters, digits, `_` and `-`.
    pub key: String,
    /// The app's secret, with which its servers sign.
    pub secret: Secret,
    /// A file that holds the secret. Replaces `secret`.
    pub secret_file: Option<PathBuf>,
    /// The previous secret, while the app's servers change to the new one: signatures made with it are still
    /// accepted. Webhooks are signed with the new one.
    pub previous_secret: Secret,
    /// A file that holds the previous secret. Replaces `previous_secret`.
    pub previous_secret_file: Option<PathBuf>,
    /// The namespace of the app's channels. It needs no section in `namespaces`; add one to give the channels history
    /// or to open them to other clients. Empty: the name of the app's section.
    pub namespace: String,
    /// Allows clients to send events to the other subscribers of private and presence channels, at most ten per
    /// second (`session.client_events_per_second`).
    pub client_events: bool,
    /// Informs subscribers of public and private channels of the number of subscribers, at most once per second.
    pub subscription_counts: bool,
    /// The most users in a presence channel. 0: no limit.
    pub presence_members_max: u32,
    /// The longest `user_info` of a member, in bytes.
    pub user_info_bytes_max: usize,
    /// The most users that one client may watch. Each takes one of the client's `session.channels_max` channels.
    pub watchlist_max: usize,
    /// Time that a cache channel keeps its last event, in seconds.
    pub cache_ttl_s: u64,
    /// Where the app's servers are told what happens, each with its section, such as `[pusher.apps.shop.webhooks.main]`.
    pub webhooks: BTreeMap<String, Webhook>,
}

impl Default for PusherAppConfig {
    fn default() -> Self {
        Self {
            id: String::new(),
            key: String::new(),
            secret: Secret::default(),
            secret_file: None,
            previous_secret: Secret::default(),
            previous_secret_file: None,
            namespace: String::new(),
            client_events: false,
            subscription_counts: false,
            presence_members_max: 100,
            user_info_bytes_max: 1 << 10,
            watchlist_max: 100,
            cache_ttl_s: 1_800,
            webhooks: BTreeMap::new(),
        }
    }
}

impl PusherAppConfig {
    /// Returns the namespace of the app's channels. `name`: the name of its section.
    pub fn namespace_or<'a>(&'a self, name: &'a str) -> &'a str {
        if self.namespace.is_empty() { name } else { &self.namespace }
    }

    pub(super) fn read_secrets(&self) -> Result<Secrets, SecretFileError> {
        let read = |file: &Option<PathBuf>, secret: &Secret| match file {
            Some(file) => Secret::from_file(file),
            None => Ok(secret.clone()),
        };
        let secret = read(&self.secret_file, &self.secret)?;
        let previous = read(&self.previous_secret_file, &self.previous_secret)?;
        Ok(Secrets { secret, previous })
    }

    /// Returns every file that the settings name, with its key.
    pub fn secret_files(&self) -> impl Iterator<Item = (&'static str, &PathBuf)> {
        let files =
            [("secret_file", &self.secret_file), ("previous_secret_file", &self.previous_secret_file)];
        files.into_iter().filter_map(|(key, file)| Some((key, file.as_ref()?)))
    }
}

impl PusherConfig {
    pub fn check(&self, names: &ChannelNames, channels_max: u32, faults: &mut Faults) {
        faults.outside("activity_timeout_s", self.activity_timeout_s, 1..=3_600);
        faults.outside("event_data_bytes_max", self.event_data_bytes_max, 64..=16 << 20);
        faults.outside("event_channels_max", self.event_channels_max, 1..=10_000);
        faults.outside("batch_events_max", self.batch_events_max, 1..=1_000);
        faults.outside("timestamp_tolerance_s", self.timestamp_tolerance_s, 1..=86_400);
        self.webhooks.check(faults);
        if !self.enabled {
            return;
        }
        if self.apps.is_empty() {
            faults.add(
                "apps",
                "must have at least one app: a section [pusher.apps.NAME] with id, key and secret",
            );
        }
        if names.namespace_boundary.is_empty() || names.user_boundary.is_empty() {
            faults.add("enabled", "needs channel_names.namespace_boundary and user_boundary");
        }
        for (name, app) in &self.apps {
            app.check(name, names, channels_max, faults);
        }
        self.only_once("id", |_, app| app.id.clone(), faults);
        self.only_once("key", |_, app| app.key.clone(), faults);
        self.only_once("namespace", |name, app| app.namespace_or(name).to_owned(), faults);
    }

    fn only_once(&self, key: &str, of: impl Fn(&String, &PusherAppConfig) -> String, faults: &mut Faults) {
        let mut seen = BTreeMap::new();
        for (name, app) in &self.apps {
            if let Some(other) = seen.insert(of(name, app), name) {
                faults.add(format!("apps.{name}.{key}"), format!("is also used by the app {other}"));
            }
        }
    }
}

impl PusherAppConfig {
    fn check(&self, name: &str, names: &ChannelNames, channels_max: u32, faults: &mut Faults) {
        let key = |key: &str| format!("apps.{name}.{key}");
        for (field, value) in [("id", &self.id), ("key", &self.key)] {
            let is_plain = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
            if value.is_empty() {
                faults.add(key(field), "must be set");
            } else if !is_plain || value.len() > ID_BYTES_MAX {
                let problem = format!("must be letters, digits, _ and -, at most {ID_BYTES_MAX}");
                faults.add(key(field), problem);
            }
        }
        if self.secret.is_empty() == self.secret_file.is_none() {
            faults.add(key("secret"), "must be set, or secret_file, but not both");
        }
        if !self.previous_secret.is_empty() && self.previous_secret_file.is_some() {
            faults.add(key("previous_secret_file"), "must not be set together with previous_secret");
        }
        let namespace = self.namespace_or(name);
        let is_name = |text: &str| {
            text.bytes().all(|byte| byte.is_ascii_graphic())
                && !text.contains(&*names.namespace_boundary)
                && !text.contains(&*names.user_boundary)
                && !text.contains(PATTERN_CHARACTERS)
        };
        let room = shared::channel::CHANNEL_BYTES_MAX - CHANNEL_BYTES_MAX - names.namespace_boundary.len();
        if !is_name(namespace) || namespace.is_empty() || namespace.len() > room {
            faults.add(
                key("namespace"),
                format!("must be a valid name of a namespace of at most {room} bytes"),
            );
        }
        faults.outside(&key("user_info_bytes_max"), self.user_info_bytes_max, 0..=64 << 10);
        faults.outside(&key("watchlist_max"), self.watchlist_max, 0..=10_000);
        if self.watchlist_max >= channels_max as usize {
            faults.add(key("watchlist_max"), "must be less than session.channels_max");
        }
        faults.outside(&key("cache_ttl_s"), self.cache_ttl_s, 1..=31_536_000);
        for (webhook, settings) in &self.webhooks {
            let key = |field: &str| key(&format!("webhooks.{webhook}.{field}"));
            settings.check(key, self.subscription_counts, faults);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(id: &str) -> PusherAppConfig {
        PusherAppConfig {
            id: id.to_owned(),
            key: format!("key{id}"),
            secret: Secret::new("s"),
            ..PusherAppConfig::default()
        }
    }

    fn faulty(apps: &[(&str, PusherAppConfig)]) -> Vec<String> {
        let apps = apps.iter().map(|(name, app)| ((*name).to_owned(), app.clone())).collect();
        let config = PusherConfig { enabled: true, apps, ..PusherConfig::default() };
        let mut faults = Faults::default();
        config.check(&ChannelNames::default(), 128, &mut faults);
        faults.into_inner().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn what_is_off_needs_nothing_and_what_is_on_needs_an_app() {
        let mut faults = Faults::default();
        PusherConfig::default().check(&ChannelNames::default(), 128, &mut faults);
        assert_eq!(faults.into_inner(), []);
        assert_eq!(faulty(&[]), ["apps"]);
        assert_eq!(faulty(&[("shop", app("1"))]), [""; 0]);
    }

    #[test]
    fn an_app_has_an_id_a_key_and_one_secret() {
        assert_eq!(
            faulty(&[("a", PusherAppConfig::default())]),
            ["apps.a.id", "apps.a.key", "apps.a.secret"]
        );
        let both = PusherAppConfig { secret_file: Some("x".into()), ..app("1") };
        assert_eq!(faulty(&[("a", both)]), ["apps.a.secret"]);
        assert_eq!(faulty(&[("a", PusherAppConfig { id: "a/b".to_owned(), ..app("1") })]), ["apps.a.id"]);
        assert_eq!(
            faulty(&[("a", PusherAppConfig { watchlist_max: 128, ..app("1") })]),
            ["apps.a.watchlist_max"]
        );
        assert_eq!(
            faulty(&[("a", PusherAppConfig { namespace: "x:y".to_owned(), ..app("1") })]),
            ["apps.a.namespace"]
        );
    }

    #[test]
    fn no_two_apps_are_the_same_or_share_their_channels() {
        assert_eq!(faulty(&[("a", app("1")), ("b", app("1"))]), ["apps.b.id", "apps.b.key"]);
        let other = PusherAppConfig { namespace: "a".to_owned(), ..app("2") };
        assert_eq!(faulty(&[("a", app("1")), ("b", other)]), ["apps.b.namespace"]);
    }
}
