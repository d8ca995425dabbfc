//! Checks for settings that are not available over NATS: each is reported at its key, not silently ignored.

use gateway_core::map::MapMode;

use super::Config;
use crate::broker::BrokerKind;

/// Returns the settings that are not available, as (`section.key`, problem).
pub(super) fn faults(config: &Config) -> Vec<(String, String)> {
    if config.broker.kind != BrokerKind::Nats {
        return Vec::new();
    }
    let mut found = Vec::new();
    if config.socketio.enabled && config.socketio.emitters.enabled && config.socketio.emitters.url.is_none() {
        found.push((
            "socketio.emitters.url".to_owned(),
            "must be set with broker.kind = \"nats\": emitters publish in a Redis server".to_owned(),
        ));
    }
    let named = config.namespaces.iter().map(|(name, options)| (format!("namespaces.{name}"), options));
    let mut expiring = Vec::new();
    for (section, options) in std::iter::once(("channels".to_owned(), &config.channels)).chain(named) {
        let (history, ttl_max) = (options.history_ttl_s, config.nats.position_ttl_s);
        if options.history_size > 0 && history > ttl_max {
            let problem = format!("is {history}, must be at most nats.position_ttl_s, which is {ttl_max}");
            found.push((format!("{section}.history_ttl_s"), problem));
        }
        // The base of a channel's log is rewritten before the log expires, provided that keys expire that much earlier.
        let half = ttl_max / 2;
        let has_expiring =
            options.keeps_keys() && options.map.mode != MapMode::Persistent || options.newest.snapshot;
        expiring.extend(has_expiring.then(|| section.clone()));
        let mut of_keys = |key: &str, ttl: u64| {
            if ttl > half {
                let problem =
                    format!("is {ttl}, must be at most {half}, which is half of nats.position_ttl_s");
                found.push((format!("{section}.{key}"), problem));
            }
        };
        if options.keeps_keys() && options.map.mode != MapMode::Persistent {
            of_keys("map.key_ttl_s", options.map.key_ttl_s);
            if options.map.mode == MapMode::Recoverable {
                of_keys("map.stream_ttl_s", options.map.stream_ttl_s);
            }
        }
        if options.newest.snapshot {
            of_keys("newest.snapshot_ttl_s", options.newest.snapshot_ttl_s.into());
            of_keys("history_ttl_s", if options.history_size > 0 { options.history_ttl_s } else { 0 });
        }
    }
    if let Some(section) = expiring.first() {
        // Idempotency keys of such a channel are in its log, and expire with it.
        let half = config.nats.position_ttl_s / 2;
        let feeds = config.feeds.iter().map(|(name, feed)| (format!("feeds.{name}"), feed.idempotency_ttl_s));
        for (part, ttl) in std::iter::once(("api".to_owned(), config.api.idempotency_ttl_s)).chain(feeds) {
            if ttl > half {
                let problem = format!(
                    "is {ttl}, and with nats.position_ttl_s = {} a channel of {section} knows for {half} at most which keys were used",
                    config.nats.position_ttl_s
                );
                found.push((format!("{part}.idempotency_ttl_s"), problem));
            }
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
        assert_eq!(keys, Vec::<String>::new());
        config.socketio.emitters.enabled = true;
        let prices = config.namespaces.get_mut("prices").unwrap();
        (prices.history_size, prices.history_ttl_s) = (1, 86_400);
        config.nats.position_ttl_s = 3_600;
        config.channels.subscription_type = SubscriptionType::Map;
        (config.channels.map.mode, config.channels.map.key_ttl_s) = (MapMode::Recoverable, 1_801);
        let staying = config.namespaces.entry("staying".to_owned()).or_default();
        staying.subscription_type = SubscriptionType::Map;
        (staying.map.mode, staying.map.stream_ttl_s) = (MapMode::Persistent, 86_400);
        let latest = config.namespaces.entry("latest".to_owned()).or_default();
        (latest.newest.snapshot, latest.newest.snapshot_ttl_s) = (true, 1_801);
        config.api.idempotency_ttl_s = 1_801;
        config.feeds.entry("orders".to_owned()).or_default().idempotency_ttl_s = 1_800;
        let mut keys: Vec<String> = faults(&config).into_iter().map(|(key, _)| key).collect();
        keys.sort_unstable();
        let expected = [
            "api.idempotency_ttl_s",
            "channels.map.key_ttl_s",
            "namespaces.latest.newest.snapshot_ttl_s",
            "namespaces.prices.history_ttl_s",
            "socketio.emitters.url",
        ];
        assert_eq!(keys, expected);
    }

    #[test]
    fn idempotency_keys_may_be_good_for_longer_where_no_keys_of_maps_expire() {
        let mut config = Config::default();
        config.broker.kind = BrokerKind::Nats;
        config.channels.subscription_type = SubscriptionType::Map;
        config.channels.map.mode = MapMode::Persistent;
        (config.nats.position_ttl_s, config.api.idempotency_ttl_s) = (3_600, 86_400);
        assert_eq!(faults(&config), Vec::new());
    }
}
