//! Warns of configurations that are valid but probably not meant so: variables that set nothing, and a demo that
//! everyone can reach.

use std::net::SocketAddr;

use super::read_value::distance;
use super::{Config, LEVEL_SEPARATOR, Sources, VARIABLE_PREFIX, collect_values};

/// Variables that this program reads although they set no key.
const OTHER_VARIABLES: [&str; 2] = ["TIDEGATE_CONFIG", "TIDEGATE_API_KEY"];

/// Returns what an operator that starts a node with these sources should know, one line each.
pub(super) fn advice(sources: &Sources<'_>, config: &Config) -> Vec<String> {
    let mut lines = of_variables(sources);
    let is_open_to_all = |address: SocketAddr| !address.ip().to_canonical().is_loopback();
    if is_open_to_all(config.server.listen) {
        let address = config.server.listen;
        if sources.demo {
            lines.push(format!(
                "--demo on {address}: everyone who can reach this address may subscribe, and publish with the API key \"demo\""
            ));
        }
        if config.auth.insecure {
            lines.push(format!(
                "auth.insecure on {address}: everyone who can reach this address may do everything"
            ));
        }
    }
    lines
}

/// The same for the variables alone, which can be reported whatever else is wrong.
pub(super) fn of_variables(sources: &Sources<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut others = Vec::new();
    let keys = keys();
    for name in sources.environment.keys() {
        let Some(given) = name.strip_prefix(VARIABLE_PREFIX) else { continue };
        if collect_values::sets_a_key(name) || OTHER_VARIABLES.contains(&name.as_str()) {
            continue;
        }
        match meant(given, &keys) {
            Some(key) => {
                lines.push(format!("{name} sets nothing: did you mean {VARIABLE_PREFIX}{key}?"));
            }
            None => others.push(name.as_str()),
        }
    }
    if !others.is_empty() {
        lines.push(format!(
            "{} set nothing: the variable of a setting is {VARIABLE_PREFIX}SECTION{LEVEL_SEPARATOR}KEY, with two underscores",
            others.join(", ")
        ));
    }
    lines
}

/// Returns every key as the name of its variable without the prefix. Keys of a namespace have `*` in place of its name.
fn keys() -> Vec<String> {
    let mut keys = Vec::new();
    let defaults = serde_json::to_value(Config::default()).unwrap_or_default();
    collect("", &defaults, &mut keys);
    let options = serde_json::to_value(&Config::default().channels).unwrap_or_default();
    collect(&format!("NAMESPACES{LEVEL_SEPARATOR}*"), &options, &mut keys);
    keys
}

fn collect(path: &str, value: &serde_json::Value, keys: &mut Vec<String>) {
    let serde_json::Value::Object(entries) = value else { return keys.push(path.to_owned()) };
    for (key, value) in entries {
        let separator = if path.is_empty() { "" } else { LEVEL_SEPARATOR };
        collect(&format!("{path}{separator}{}", key.to_uppercase()), value, keys);
    }
}

/// Returns the key that was probably meant by a name with too few underscores or a typing error.
fn meant(given: &str, keys: &[String]) -> Option<String> {
    let given = given.to_uppercase();
    let one_underscore = |key: &str| key.replace(LEVEL_SEPARATOR, "_");
    let in_namespace = || {
        let rest = given.strip_prefix("NAMESPACES_")?;
        let key = keys.iter().filter_map(|key| key.strip_prefix("NAMESPACES__*__"));
        let (option, name) =
            key.filter_map(|option| Some((option, rest.strip_suffix(option)?.strip_suffix('_')?))).next()?;
        (!name.is_empty()).then(|| format!("NAMESPACES__{name}__{option}"))
    };
    let exact = keys.iter().find(|key| one_underscore(key) == given).cloned();
    exact.or_else(in_namespace).or_else(|| {
        let slips = keys.iter().map(|key| (distance(&one_underscore(key), &given), key));
        // A name that an orchestrator has set for itself resembles no key.
        slips.filter(|(slips, _)| *slips <= 2).min().map(|(_, key)| key.clone())
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn told(environment: &[&str], demo: bool, listen: &str) -> Vec<String> {
        let environment: BTreeMap<String, String> =
            environment.iter().map(|name| ((*name).to_owned(), "127.0.0.1:1".to_owned())).collect();
        let flags = vec![("server.listen", listen.to_owned())];
        let sources = Sources { environment, demo, flags, ..Sources::default() };
        let mut config = Config::default();
        config.server.listen = listen.parse().unwrap();
        advice(&sources, &config)
    }

    #[test]
    fn a_variable_that_sets_nothing_is_told_with_what_was_meant() {
        for (given, meant) in [
            ("TIDEGATE_SERVER_LISTEN", "TIDEGATE_SERVER__LISTEN"),
            ("TIDEGATE_server_listen", "TIDEGATE_SERVER__LISTEN"),
            ("TIDEGATE_AUTH_HMAC_SECRET", "TIDEGATE_AUTH__HMAC_SECRET"),
            ("TIDEGATE_TELEMETRY_OTLP_ENDPOINT", "TIDEGATE_TELEMETRY__OTLP_ENDPOINT"),
            ("TIDEGATE_AUTH_HMAC_SECERT", "TIDEGATE_AUTH__HMAC_SECRET"),
            ("TIDEGATE_NAMESPACES_MY_CHAT_HISTORY_SIZE", "TIDEGATE_NAMESPACES__MY_CHAT__HISTORY_SIZE"),
        ] {
            let lines = told(&[given], false, "127.0.0.1:8000");
            assert_eq!(lines, [format!("{given} sets nothing: did you mean {meant}?")]);
        }
    }

    #[test]
    fn variables_of_others_are_told_in_one_line_and_our_own_not_at_all() {
        let ours = ["TIDEGATE_CONFIG", "TIDEGATE_API_KEY", "TIDEGATE_SERVER__BACKLOG", "PATH", "TIDEGATES_X"];
        assert_eq!(told(&ours, false, "127.0.0.1:8000"), Vec::<String>::new());
        let others = ["TIDEGATE_PORT", "TIDEGATE_PORT_8000_TCP_ADDR", "TIDEGATE_SERVICE_HOST"];
        let lines = told(&others, false, "127.0.0.1:8000");
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with(&others.join(", ")), "{lines:?}");
    }

    #[test]
    fn a_demo_that_others_can_reach_is_warned_of() {
        for public in ["0.0.0.0:8000", "[::]:8000", "192.0.2.7:8000"] {
            assert_eq!(told(&[], true, public).len(), 1, "{public}");
            assert!(told(&[], false, public).is_empty());
        }
        for private in ["127.0.0.1:8000", "127.8.8.8:1", "[::1]:8000", "[::ffff:127.0.0.1]:8000"] {
            assert!(told(&[], true, private).is_empty(), "{private}");
        }
    }
}
