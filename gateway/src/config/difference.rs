//! Finds the differences between two configurations, and applies those that a running node can apply.

use std::collections::{BTreeMap, BTreeSet};

use gateway_core::channel_rules::ChannelOptions;
use serde::Serialize;
use serde_json::Value;

use super::{Config, origins};
use crate::secret;

/// A key whose value has changed. Of a secret, only the fact is reported.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ConfigChange {
    /// `section.key`.
    pub key: String,
    /// The value before. `null` if there was none.
    pub old: Value,
    pub new: Value,
}

/// Returns every key that differs. A namespace that is added or removed is one key, with those of its options that
/// differ from the defaults.
pub(super) fn changes(old: &Config, new: &Config) -> Vec<ConfigChange> {
    let is_in_both = |name: &String| old.namespaces.contains_key(name) && new.namespaces.contains_key(name);
    let shown = |config: &Config| {
        let leaves = origins::leaves(config).into_iter();
        let is_compared = |(path, _): &(Vec<String>, Value)| match &path[..] {
            [section, name, ..] if section == "namespaces" => is_in_both(name),
            _ => true,
        };
        leaves.filter(is_compared).collect::<BTreeMap<_, _>>()
    };
    let compared = |config: &Config| secret::distinguishing(|| shown(config));
    let (before, after) = (compared(old), compared(new));
    let (mut shown_before, mut shown_after) = (shown(old), shown(new));
    let paths: BTreeSet<&Vec<String>> = before.keys().chain(after.keys()).collect();
    let values =
        paths.into_iter().filter(|path| before.get(*path) != after.get(*path)).map(|path| ConfigChange {
            key: path.join("."),
            old: shown_before.remove(path).unwrap_or_default(),
            new: shown_after.remove(path).unwrap_or_default(),
        });
    let namespaces: BTreeSet<&String> = old.namespaces.keys().chain(new.namespaces.keys()).collect();
    let come_or_gone = namespaces.into_iter().filter(|name| !is_in_both(name)).map(|name| ConfigChange {
        key: format!("namespaces.{name}"),
        old: old.namespaces.get(name).map(set_options).unwrap_or_default(),
        new: new.namespaces.get(name).map(set_options).unwrap_or_default(),
    });
    let mut changes: Vec<ConfigChange> = values.chain(come_or_gone).collect();
    changes.sort_by(|one, other| one.key.cmp(&other.key));
    changes
}

/// Returns the options that differ from their defaults.
fn set_options(options: &ChannelOptions) -> Value {
    let in_json = |options| serde_json::to_value(options).expect("options are plain values");
    let (mut set, defaults) = (in_json(options), in_json(&ChannelOptions::default()));
    if let Value::Object(options) = &mut set {
        options.retain(|key, value| defaults.get(key) != Some(value));
    }
    set
}

/// Returns the present configuration with those settings of the new one that can be applied without a restart.
pub(super) fn with_live_of(present: &Config, new: &Config) -> Config {
    let mut merged = present.clone();
    merged.channel_names = new.channel_names.clone();
    merged.channels = new.channels.clone();
    merged.namespaces = new.namespaces.clone();
    merged.auth = new.auth.clone();
    merged.shared_poll = new.shared_poll.clone();
    merged.shared_poll.concurrency_max = present.shared_poll.concurrency_max;
    merged.drain = new.drain.clone();
    merged.balance = new.balance.clone();
    // The limits of decoders are part of the protocols, which all clients share.
    merged.session = new.session.clone();
    merged.session.queued_commands_max = present.session.queued_commands_max;
    merged.http.allowed_origins = new.http.allowed_origins.clone();
    merged.http.allow_missing_origin = new.http.allow_missing_origin;
    // Bytes that already wait are counted against the budget that the node was started with.
    merged.raw = new.raw.clone();
    merged.pusher = present.pusher.with_live_of(&new.pusher);
    merged.socketio = present.socketio.with_live_of(&new.socketio);
    // The number of reserved streams depends on which endpoints are served.
    merged.graphql = present.graphql.with_live_of(&new.graphql);
    merged.limits = new.limits.clone();
    merged.limits.memory_bytes_max = present.limits.memory_bytes_max;
    merged.api.keys = new.api.keys.clone();
    merged.api.keys_file = new.api.keys_file.clone();
    merged.api.insecure = new.api.insecure;
    merged.telemetry.log_level = new.telemetry.log_level.clone();
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn keys_that_differ_are_told_and_secrets_are_not_shown() {
        let mut old = Config::default();
        old.auth.hmac_secret = Secret::new("the first secret, of thirty-two bytes");
        old.api.keys = vec![Secret::new("one")];
        let gone = ChannelOptions { presence: true, ..ChannelOptions::default() };
        old.namespaces.insert("gone".to_owned(), gone);
        let mut new = Config { namespaces: BTreeMap::new(), ..old.clone() };
        new.auth.hmac_secret = Secret::new("another secret, of thirty-two bytes");
        new.api.keys = vec![Secret::new("two")];
        new.server.backlog = 7;
        assert_eq!(changes(&old, &old), []);
        let told = changes(&old, &new);
        let keys: Vec<&str> = told.iter().map(|change| change.key.as_str()).collect();
        assert_eq!(keys, ["api.keys", "auth.hmac_secret", "namespaces.gone", "server.backlog"]);
        assert_eq!((&told[1].old, &told[1].new), (&Value::from("[redacted]"), &Value::from("[redacted]")));
        assert_eq!((&told[2].old, &told[2].new), (&serde_json::json!({ "presence": true }), &Value::Null));
        assert_eq!(told[0].new, serde_json::json!(["[redacted]"]));
    }

    #[test]
    fn what_needs_a_restart_stays_as_it_is() {
        let mut new = Config::default();
        new.server.backlog = 7;
        new.session.channels_max = 7;
        new.session.queued_commands_max = 4_000;
        new.limits.accepts_per_s = 7;
        let merged = with_live_of(&Config::default(), &new);
        let keys =
            |changes: Vec<ConfigChange>| changes.into_iter().map(|change| change.key).collect::<Vec<_>>();
        let taken = keys(changes(&Config::default(), &merged));
        assert_eq!(taken, ["limits.accepts_per_s", "session.channels_max"]);
        let left = keys(changes(&merged, &new));
        assert_eq!(left, ["server.backlog", "session.queued_commands_max"]);
    }
}
