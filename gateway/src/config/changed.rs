//! What of a configuration is not as it comes.

use toml::{Table, Value};

use super::Config;
use crate::http::raw_paths::RawPath;
use crate::pusher::config::App;
use crate::pusher::webhook::Webhook;

/// The keys that differ from their defaults as TOML, and how many there are.
pub(super) fn changed(config: &Config) -> (String, usize) {
    let table = |config: &Config| Table::try_from(config).unwrap_or_default();
    let (mut set, defaults) = (table(config), table(&Config::default()));
    // A namespace begins with the options that every namespace begins with.
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
    let of_app = Table::try_from(App::default()).unwrap_or_default();
    let of_webhook = Table::try_from(Webhook::default()).unwrap_or_default();
    for (section, named, defaults) in [("raw", "paths", of_path), ("pusher", "apps", of_app)] {
        if let Some(Value::Table(each)) = set.get_mut(section).and_then(|section| section.get_mut(named)) {
            for one in each.iter_mut().filter_map(|(_, one)| one.as_table_mut()) {
                keep_changed(one, &defaults);
                let webhooks = one.get_mut("webhooks").and_then(Value::as_table_mut);
                for webhook in
                    webhooks.into_iter().flat_map(Table::iter_mut).filter_map(|(_, one)| one.as_table_mut())
                {
                    keep_changed(webhook, &of_webhook);
                }
            }
        }
    }
    let namespaces = set.remove("namespaces").filter(|namespaces| namespaces != &Value::Table(Table::new()));
    keep_changed(&mut set, &defaults);
    set.extend(namespaces.map(|namespaces| ("namespaces".to_owned(), namespaces)));
    let count = count(&set);
    (toml::to_string(&set).unwrap_or_default(), count)
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
        "#
        .parse()
        .unwrap();
        assert_eq!(shown.parse::<Table>().unwrap(), expected);
        assert_eq!(count, 5);
    }
}
