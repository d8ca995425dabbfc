//! Finds the keys of a configuration that differ from their defaults.

use toml::{Table, Value};

use super::Config;
use crate::feeds::feed_config::FeedConfig;
use crate::graphql::graphql_config::Subscription;
use crate::http::raw_paths::RawPath;
use crate::pusher::pusher_config::PusherAppConfig;
use crate::pusher::webhook::Webhook;
use crate::socketio::namespaces::{EventRule, Namespace};

/// Returns the keys that differ from their defaults as TOML, and their number.
pub(super) fn changed(config: &Config) -> (String, usize) {
    let table = |config: &Config| Table::try_from(config).unwrap_or_default();
    let (mut set, defaults) = (table(config), table(&Config::default()));
    // The options of every namespace have the same defaults.
    if let Some(Value::Table(namespaces)) = set.get_mut("namespaces")
        && let Some(Value::Table(options)) = defaults.get("channels")
    {
        for (_, namespace) in namespaces.iter_mut() {
            if let Value::Table(namespace) = namespace {
                keep_changed(namespace, options);
            }
        }
    }
    let of_path = Table::try_from(RawPath::default()).unwrap_or_default();
    let of_app = Table::try_from(PusherAppConfig::default()).unwrap_or_default();
    let of_webhook = Table::try_from(Webhook::default()).unwrap_or_default();
    let of_field = Table::try_from(Subscription::default()).unwrap_or_default();
    let of_namespace = Table::try_from(Namespace::default()).unwrap_or_default();
    let of_event = Table::try_from(EventRule::default()).unwrap_or_default();
    for (section, named, defaults, inner) in [
        ("raw", "paths", of_path, None),
        ("pusher", "apps", of_app, Some(("webhooks", of_webhook))),
        ("graphql", "subscriptions", of_field, None),
        ("socketio", "namespaces", of_namespace, Some(("events", of_event))),
    ] {
        let each = set.get_mut(section).and_then(|section| section.get_mut(named));
        for one in tables(each) {
            keep_changed(one, &defaults);
            let Some((named, defaults)) = &inner else { continue };
            tables(one.get_mut(*named)).for_each(|one| keep_changed(one, defaults));
        }
    }
    let of_feed = Table::try_from(FeedConfig::default()).unwrap_or_default();
    tables(set.get_mut("feeds")).for_each(|one| keep_changed(one, &of_feed));
    let namespaces = set.remove("namespaces").filter(|namespaces| namespaces != &Value::Table(Table::new()));
    keep_changed(&mut set, &defaults);
    set.extend(namespaces.map(|namespaces| ("namespaces".to_owned(), namespaces)));
    let count = count(&set);
    (toml::to_string(&set).unwrap_or_default(), count)
}

/// Returns the sections within a section.
fn tables(section: Option<&mut Value>) -> impl Iterator<Item = &mut Table> {
    let each = section.and_then(Value::as_table_mut).into_iter().flat_map(Table::iter_mut);
    each.filter_map(|(_, one)| one.as_table_mut())
}

fn keep_changed(set: &mut Table, defaults: &Table) {
    set.retain(|key, value| match (value, defaults.get(key)) {
        (Value::Table(set), Some(Value::Table(defaults))) => {
            keep_changed(set, defaults);
            !set.is_empty()
        }
        (value, default) => Some(&*value) != default,
    });
}

fn count(table: &Table) -> usize {
    let keys = |value: &Value| if let Value::Table(table) = value { count(table) } else { 1 };
    table.values().map(keys).sum()
}

#[cfg(test)]
mod tests {
    use gateway_core::channel_rules::ChannelOptions;

    use super::*;
    use crate::secret::Secret;
    use crate::socketio::namespaces::Action;

    #[test]
    fn nothing_is_changed_in_the_defaults() {
        assert_eq!(changed(&Config::default()), (String::new(), 0));
    }

    #[test]
    fn what_is_changed_is_shown_and_nothing_else() {
        let mut config = Config::default();
        config.server.backlog = 7;
        config.auth.hmac_secret = Secret::new("a secret of the tests, thirty-two bytes or more");
        config.telemetry.otlp_endpoint = Some("http://127.0.0.1:4318/v1/traces".to_owned());
        config.namespaces.insert("plain".to_owned(), ChannelOptions::default());
        let chat = ChannelOptions { allow_publish: true, ..ChannelOptions::default() };
        config.namespaces.insert("chat".to_owned(), chat);
        let path = RawPath { channel: "chat:all".to_owned(), ..RawPath::default() };
        config.raw.paths.insert("/ws".to_owned(), path);
        let events =
            [("say".to_owned(), EventRule { action: Action::Publish, ..EventRule::default() })].into();
        let main = Namespace { events, ..Namespace::default() };
        config.socketio.namespaces = [("/".to_owned(), main), ("/b".to_owned(), Namespace::default())].into();
        let (shown, count) = changed(&config);
        let expected: Table = r#"
            auth.hmac_secret = "[redacted]"
            server.backlog = 7
            telemetry.otlp_endpoint = "http://127.0.0.1:4318/v1/traces"
            [namespaces.chat]
            allow_publish = true
            [namespaces.plain]
            [raw.paths."/ws"]
            channel = "chat:all"
            [socketio.namespaces."/".events.say]
            action = "publish"
            [socketio.namespaces."/b"]
        "#
        .parse()
        .unwrap();
        assert_eq!(shown.parse::<Table>().unwrap(), expected);
        assert_eq!(count, 6);
    }
}
