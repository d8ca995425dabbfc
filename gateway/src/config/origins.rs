//! Lists every value of a configuration with its origin, without secrets.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::Value;

use super::Config;
use super::lines::Lines;
use super::tree::ConfigNode;
use crate::feeds::feed_config::FeedConfig;
use crate::graphql::graphql_config::Subscription;
use crate::http::raw_paths::RawPath;
use crate::pusher::pusher_config::PusherAppConfig;
use crate::pusher::webhook::Webhook;
use crate::socketio::namespaces::{EventRule, Namespace};

/// A key with its value and origin.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct KeyOrigin {
    /// `section.key`.
    pub key: String,
    /// The value. Secrets are left out.
    pub value: Value,
    /// A file and its line, a variable, a flag, or `default`.
    pub origin: String,
    /// Whether the value is the one that the key has if no source sets it.
    pub is_default: bool,
}

/// The origin of a value that no source sets.
const DEFAULT: &str = "default";

/// Returns every key that has a value.
pub(super) fn all(config: &Config, tree: &ConfigNode) -> Vec<KeyOrigin> {
    let defaults = leaves(&Config::default());
    let defaults: HashMap<&[String], &Value> =
        defaults.iter().map(|(path, value)| (path.as_slice(), value)).collect();
    let of_raw_path = serde_json::to_value(RawPath::default()).unwrap_or_default();
    let of_field = serde_json::to_value(Subscription::default()).unwrap_or_default();
    let of_app = serde_json::to_value(PusherAppConfig::default()).unwrap_or_default();
    let of_webhook = serde_json::to_value(Webhook::default()).unwrap_or_default();
    let of_namespace = serde_json::to_value(Namespace::default()).unwrap_or_default();
    let of_event = serde_json::to_value(EventRule::default()).unwrap_or_default();
    let of_feed = serde_json::to_value(FeedConfig::default()).unwrap_or_default();
    let set = |(path, value): (Vec<String>, Value)| {
        // The options of a namespace have the same defaults as those of channels without a namespace.
        let of_default = match &path[..] {
            [namespaces, _, option @ ..] if namespaces == "namespaces" => {
                defaults.get(&[&["channels".to_owned()], option].concat()[..]).copied()
            }
            [raw, paths, _, key] if raw == "raw" && paths == "paths" => of_raw_path.get(key),
            [pusher, apps, _, key] if pusher == "pusher" && apps == "apps" => of_app.get(key),
            [pusher, _, _, webhooks, _, key] if pusher == "pusher" && webhooks == "webhooks" => {
                of_webhook.get(key)
            }
            [socketio, namespaces, _, rest @ ..] if socketio == "socketio" && namespaces == "namespaces" => {
                match rest {
                    [events, _, key] if events == "events" => of_event.get(key),
                    [key] => of_namespace.get(key),
                    _ => None,
                }
            }
            [graphql, fields, _, key] if graphql == "graphql" && fields == "subscriptions" => {
                of_field.get(key)
            }
            [feeds, _, key @ ..] if feeds == "feeds" => {
                key.iter().try_fold(&of_feed, |section, key| section.get(key))
            }
            path => defaults.get(path).copied(),
        };
        let is_default = of_default == Some(&value);
        let node = tree.find(&path);
        let origin = node.map_or_else(|| DEFAULT.to_owned(), |node| node.origin.describe(&path));
        KeyOrigin { key: path.join("."), value, origin, is_default }
    };
    leaves(config).into_iter().filter(|(_, value)| !value.is_null()).map(set).collect()
}

/// Appends to each line of a configuration in TOML the origin of its value.
pub(super) fn annotate(toml: &str, tree: &ConfigNode) -> String {
    let lines = Lines::of(toml, 0).paths();
    let mut shown = String::with_capacity(2 * toml.len());
    for (at, line) in toml.lines().enumerate() {
        shown.push_str(line);
        if let Some(path) = lines.get(&(at + 1)).filter(|_| !line.starts_with('[')) {
            let origin = tree.find(path).map(|node| node.origin.describe(path));
            shown.push_str("  # ");
            shown.push_str(origin.as_deref().unwrap_or(DEFAULT));
        }
        shown.push('\n');
    }
    shown
}

/// Returns every value that is not a section, with its path.
pub(super) fn leaves(config: &Config) -> Vec<(Vec<String>, Value)> {
    let mut found = Vec::new();
    let whole =
        serde_json::to_value(config).expect("a configuration is made of tables, lists and plain values");
    collect(&mut Vec::new(), whole, &mut found);
    found
}

fn collect(path: &mut Vec<String>, value: Value, found: &mut Vec<(Vec<String>, Value)>) {
    match value {
        Value::Object(entries) => {
            for (key, value) in entries {
                path.push(key);
                collect(path, value, found);
                path.pop();
            }
        }
        value => found.push((path.clone(), value)),
    }
}
