//! What cannot be had where the broker is NATS: refused by the key that asks for it, not left out in silence.

use super::Config;
use crate::broker::BrokerKind;

/// Everything that is asked for and not there, as (`section.key`, problem).
pub(super) fn faults(config: &Config) -> Vec<(String, String)> {
    if config.broker.kind != BrokerKind::Nats {
        return Vec::new();
    }
    let mut found = Vec::new();
    let named = config.namespaces.iter().map(|(name, options)| (format!("namespaces.{name}"), options));
    for (section, options) in std::iter::once(("channels".to_owned(), &config.channels)).chain(named) {
        if options.keeps_keys() {
            let problem =
                "is not there with broker.kind = \"nats\", which keeps no state by key: use \"redis\"";
            found.push((format!("{section}.subscription_type"), problem.to_owned()));
        }
    }
    if config.socketio.enabled && config.socketio.emitters.enabled && config.socketio.emitters.url.is_none() {
        found.push((
            "socketio.emitters.url".to_owned(),
            "must be set with broker.kind = \"nats\": emitters publish in Redis".to_owned(),
        ));
    }
    let named = config.namespaces.iter().map(|(name, options)| (format!("namespaces.{name}"), options));
    for (section, options) in std::iter::once(("channels".to_owned(), &config.channels)).chain(named) {
        let (history, ttl_max) = (options.history_ttl_s, config.nats.position_ttl_s);
        if options.history_size > 0 && history > ttl_max {
            let problem =
                format!("is {history}, and nats.position_ttl_s lets nothing be kept longer than {ttl_max}");
            found.push((format!("{section}.history_ttl_s"), problem));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use gateway_core::channel_rules::SubscriptionType;

    use super::*;

    #[test]
    fn what_nats_does_not_offer_is_refused_by_its_key_and_elsewhere_it_is_not() {
        let mut config = Config::default();
        config.channels.subscription_type = SubscriptionType::Map;
        config.namespaces.entry("prices".to_owned()).or_default();
        config.pusher.enabled = true;
        config
            .pusher
            .apps
            .entry("shop".to_owned())
            .or_default()
            .webhooks
            .entry("main".to_owned())
            .or_default();
        config.socketio.enabled = true;
        config.socketio.namespaces.entry("chat".to_owned()).or_default().recovery_ms = 60_000;
        assert_eq!(faults(&config), Vec::new());
        config.broker.kind = BrokerKind::Nats;
        let keys: Vec<String> = faults(&config).into_iter().map(|(key, _)| key).collect();
        let mut expected = vec!["channels.subscription_type"];
        assert_eq!(keys, expected);
        config.socketio.emitters.enabled = true;
        let prices = config.namespaces.get_mut("prices").unwrap();
        (prices.history_size, prices.history_ttl_s) = (1, 86_400);
        config.nats.position_ttl_s = 3_600;
        let mut keys: Vec<String> = faults(&config).into_iter().map(|(key, _)| key).collect();
        keys.sort_unstable();
        expected.extend(["namespaces.prices.history_ttl_s", "socketio.emitters.url"]);
        expected.sort_unstable();
        assert_eq!(keys, expected);
    }
}
