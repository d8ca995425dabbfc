//! Checks the options of channels: those that cannot be combined, and those that need another setting.

use gateway_core::channel_names::ChannelNames;
use gateway_core::channel_rules::{ChannelOptions, RecoveryMode, SubscriptionType};
use gateway_core::map::{MapMode, MapOptions};
use gateway_core::newest::{DeliveryMode, NewestOptions};
use gateway_core::poll::{PollMode, PollOptions};
use shared::channel::CHANNEL_BYTES_MAX;

use super::Config;
use crate::setting::Faults;

/// Returns the mistakes in the options of a namespace, or of the channels without one.
pub(super) fn check(config: &Config, options: &ChannelOptions, faults: &mut Faults) {
    history(options, faults);
    subscribers(options, faults);
    audiences(options, &config.channel_names, faults);
    keys(options, faults);
    shown_in(config, options, faults);
    hooks(config, options, faults);
    polled(config, options, faults);
    newest(options, faults);
    faults.outside("flush_interval_ms", options.flush_interval_ms, 0..=10_000);
}

/// Checks options that need history.
fn history(options: &ChannelOptions, faults: &mut Faults) {
    match (options.history_size, options.history_ttl_s) {
        (0, 1..) => faults.add("history_size", "must be set when history_ttl_s is"),
        (1.., 0) => faults.add("history_ttl_s", "must be set when history_size is"),
        _ => {}
    }
    faults.outside("history_size", options.history_size, 0..=1_000_000);
    faults.outside("history_ttl_s", options.history_ttl_s, 0..=31_536_000);
    let needs = match options.subscription_type {
        SubscriptionType::Stream => "needs history: set history_size and history_ttl_s",
        SubscriptionType::Map | SubscriptionType::MapClients | SubscriptionType::MapUsers => {
            "needs a stream: set map.mode = \"recoverable\" or \"persistent\""
        }
        SubscriptionType::SharedPoll => {
            "is not for subscription_type = \"shared_poll\", which has no history"
        }
    };
    let is_retained =
        options.history_size > 0 && options.history_ttl_s > 0 || options.retention().keeps_history();
    for (key, set) in [
        ("force_positioning", options.force_positioning),
        ("force_recovery", options.force_recovery),
        ("allow_recovery", options.allow_recovery),
        ("allow_positioning", options.allow_positioning),
        ("auto_cache_recover", options.auto_cache_recover),
        ("force_recovery_mode", options.force_recovery_mode == RecoveryMode::Cache),
        ("allowed_delta_types", !options.allowed_delta_types.is_empty()),
        ("allow_history", options.allow_history),
        ("allow_history_for_client", options.allow_history_for_client),
        ("allow_history_for_anonymous", options.allow_history_for_anonymous),
    ] {
        if set && !is_retained {
            faults.add(key, needs);
        }
    }
    if options.auto_cache_recover && options.force_recovery_mode != RecoveryMode::Cache {
        faults.add("auto_cache_recover", "needs force_recovery_mode = \"cache\"");
    }
    if options.delta_publish && options.allowed_delta_types.is_empty() && !options.is_polled() {
        faults.add(
            "delta_publish",
            "needs allowed_delta_types = [\"fossil\"]: otherwise no subscriber can ask for deltas",
        );
    }
}

/// Checks options that need presence.
fn subscribers(options: &ChannelOptions, faults: &mut Faults) {
    for (key, set) in [
        ("allow_presence", options.allow_presence),
        ("allow_presence_for_client", options.allow_presence_for_client),
        ("allow_presence_for_anonymous", options.allow_presence_for_anonymous),
    ] {
        if set && !options.presence {
            faults.add(key, "needs presence = true");
        }
    }
    for (key, set) in [
        ("allow_join_leave", options.allow_join_leave),
        ("force_push_join_leave", options.force_push_join_leave),
    ] {
        if set && !options.join_leave {
            faults.add(key, "needs join_leave = true");
        }
    }
}

/// Checks options that read from a channel's name for which users it is.
fn audiences(options: &ChannelOptions, names: &ChannelNames, faults: &mut Faults) {
    for (key, set, boundary, mark) in [
        ("allow_user_limited", options.allow_user_limited, "user_boundary", &names.user_boundary),
        ("allow_client_channels", options.allow_client_channels, "client_boundary", &names.client_boundary),
    ] {
        if set && mark.is_empty() {
            faults.add(key, format!("needs channel_names.{boundary}, which is empty"));
        }
    }
}

/// Checks options that only maps can have, and options that maps cannot have.
fn keys(options: &ChannelOptions, faults: &mut Faults) {
    let (map, defaults) = (&options.map, MapOptions::default());
    let debounce = options.client_publish_debounce_interval_ms;
    faults.outside("client_publish_debounce_interval_ms", debounce, 0..=60_000);
    if debounce > 0 && options.subscription_type != SubscriptionType::Map {
        faults.add("client_publish_debounce_interval_ms", "needs subscription_type = \"map\"");
    }
    if !options.keeps_keys() {
        if *map != defaults {
            faults.add("map", "is only for subscription_type = \"map\", \"map_clients\" or \"map_users\"");
        }
        return;
    }
    if options.history_size > 0 || options.history_ttl_s > 0 {
        faults.add(
            "history_size",
            "is only for subscription_type = \"stream\": for maps, set map.stream_size and map.stream_ttl_s",
        );
    }
    if options.force_recovery_mode == RecoveryMode::Cache {
        faults.add(
            "force_recovery_mode",
            "is only for subscription_type = \"stream\": subscribers of maps get all keys",
        );
    }
    for (key, set) in [
        ("allow_publish", options.allow_publish),
        ("allow_publish_anonymous", options.allow_publish_anonymous),
        ("allow_publish_for_client", options.allow_publish_for_client),
    ] {
        if set {
            faults.add(key, format!("is only for subscription_type = \"stream\": for maps, set map.{key}"));
        }
    }
    if options.publish_hook {
        faults.add("publish_hook", "is not for maps: set map.publish_hook and map.remove_hook");
    }
    let is_shown = options.subscription_type != SubscriptionType::Map;
    for (key, set) in [
        ("client_key", map.client_key != defaults.client_key),
        ("allow_publish", map.allow_publish),
        ("allow_publish_anonymous", map.allow_publish_anonymous),
        ("allow_publish_for_client", map.allow_publish_for_client),
        ("allow_remove", map.allow_remove),
        ("allow_remove_anonymous", map.allow_remove_anonymous),
        ("allow_remove_for_client", map.allow_remove_for_client),
        ("publish_hook", map.publish_hook),
        ("remove_hook", map.remove_hook),
    ] {
        if set && is_shown {
            let problem = "needs subscription_type = \"map\": clients cannot write to channels that show clients or users";
            faults.add(format!("map.{key}"), problem);
        }
    }
    if map.mode == MapMode::Persistent {
        if is_shown {
            faults.add(
                "map.mode",
                "must not be \"persistent\" if clients or users are the keys, because these expire",
            );
        }
        if map.key_ttl_s != defaults.key_ttl_s {
            faults.add("map.key_ttl_s", "is not for map.mode = \"persistent\", whose keys do not expire");
        }
    } else {
        faults.outside("map.key_ttl_s", map.key_ttl_s, 1..=31_536_000);
        // Their node refreshes them, three times before they would expire.
        if is_shown && map.key_ttl_s < 10 {
            faults.add("map.key_ttl_s", "must be at least 10 if clients or users are the keys");
        }
    }
    if map.mode == MapMode::Ephemeral {
        for (key, set) in [
            ("map.stream_size", map.stream_size != defaults.stream_size),
            ("map.stream_ttl_s", map.stream_ttl_s != defaults.stream_ttl_s),
        ] {
            if set {
                faults.add(key, "needs map.mode = \"recoverable\" or \"persistent\"");
            }
        }
    } else {
        faults.outside("map.stream_size", map.stream_size, 1..=1_000_000);
        faults.outside("map.stream_ttl_s", map.stream_ttl_s, 1..=31_536_000);
    }
    faults.outside("map.keys_max", map.keys_max, 1..=1_000_000);
    faults.outside("map.page_size_max", map.page_size_max, 1..=100_000);
    faults.outside("map.page_size", map.page_size, 1..=map.page_size_max.max(1));
    faults.outside("map.catch_up_timeout_ms", map.catch_up_timeout_ms, 100..=600_000);
}

/// Checks what newest values need, and options that cannot be combined with them.
fn newest(options: &ChannelOptions, faults: &mut Faults) {
    let (newest, defaults) = (&options.newest, NewestOptions::default());
    let key = |key: &str| format!("newest.{key}");
    if options.subscription_type != SubscriptionType::Stream {
        if *newest != defaults {
            faults.add("newest", "is only for subscription_type = \"stream\"");
        }
        return;
    }
    faults.outside(&key("times_per_s"), newest.times_per_s, 0..=1_000);
    faults.outside(&key("times_per_s_max"), newest.times_per_s_max, 0..=1_000);
    faults.outside(&key("bytes_per_s"), newest.bytes_per_s, 0..=1_000_000_000);
    faults.outside(&key("bytes_per_s_max"), newest.bytes_per_s_max, 0..=1_000_000_000);
    faults.outside(&key("value_ttl_ms"), newest.value_ttl_ms, 0..=86_400_000);
    faults.outside(&key("keys_max"), newest.keys_max, 1..=1_000_000);
    faults.outside(&key("snapshot_ttl_s"), newest.snapshot_ttl_s, 1..=31_536_000);
    for (name, usual, max) in [
        ("times_per_s", newest.times_per_s, newest.times_per_s_max),
        ("bytes_per_s", newest.bytes_per_s, newest.bytes_per_s_max),
    ] {
        if max > 0 && (usual == 0 || usual > max) {
            faults.add(key(name), format!("must be from 1 to newest.{name}_max, which is {max}"));
        }
    }
    let is_anyone_sent_latest = newest.delivery == DeliveryMode::Latest || newest.allow_choice;
    for (name, set) in [
        ("times_per_s", newest.times_per_s > 0),
        ("bytes_per_s", newest.bytes_per_s > 0),
        ("value_ttl_ms", newest.value_ttl_ms > 0 && !newest.snapshot),
    ] {
        if set && !is_anyone_sent_latest {
            faults.add(key(name), "needs newest.delivery = \"latest\" or newest.allow_choice = true");
        }
    }
    for (name, set) in
        [("times_per_s_max", newest.times_per_s_max > 0), ("bytes_per_s_max", newest.bytes_per_s_max > 0)]
    {
        if set && !newest.allow_choice {
            faults.add(key(name), "needs newest.allow_choice = true");
        }
    }
    if newest.snapshot_ttl_s != defaults.snapshot_ttl_s && !newest.snapshot {
        faults.add(key("snapshot_ttl_s"), "needs newest.snapshot = true");
    }
    if newest.keys_max != defaults.keys_max && !newest.takes_keys() {
        faults.add(
            key("keys_max"),
            "needs newest.delivery = \"latest\", newest.allow_choice = true or newest.snapshot = true",
        );
    }
    if newest.takes_keys() && !options.allowed_delta_types.is_empty() {
        let problem = "cannot be combined with newest values: a delta needs the publication before it, which may be left out";
        faults.add("allowed_delta_types", problem);
    }
    if newest.snapshot && options.force_recovery_mode == RecoveryMode::Cache {
        faults.add(
            "force_recovery_mode",
            "must not be \"cache\" with newest.snapshot, which sends the newest value of every key",
        );
    }
}

/// Checks that the channels in which subscribers are shown are of the type for it.
fn shown_in(config: &Config, options: &ChannelOptions, faults: &mut Faults) {
    for (key, prefix, kind, word) in [
        (
            "map_clients_presence_channel_prefix",
            &options.map_clients_presence_channel_prefix,
            SubscriptionType::MapClients,
            "map_clients",
        ),
        (
            "map_users_presence_channel_prefix",
            &options.map_users_presence_channel_prefix,
            SubscriptionType::MapUsers,
            "map_users",
        ),
    ] {
        if prefix.is_empty() {
            continue;
        }
        let rules = config.channel_rules();
        let example = rules.channel(&format!("{prefix}x"), CHANNEL_BYTES_MAX).ok();
        let options = example.as_ref().and_then(|channel| rules.options(channel));
        if options.is_none_or(|options| options.subscription_type != kind) {
            let problem = format!("must lead to channels of a namespace with subscription_type = \"{word}\"");
            faults.add(key, problem);
        }
    }
}

/// Checks that every hook that a channel asks has a URL.
fn hooks(config: &Config, options: &ChannelOptions, faults: &mut Faults) {
    let backend = &config.backend;
    for (key, set, hook, name) in [
        ("subscribe_hook", options.subscribe_hook, &backend.subscribe, "subscribe"),
        ("sub_refresh_hook", options.sub_refresh_hook, &backend.sub_refresh, "sub_refresh"),
        ("publish_hook", options.publish_hook, &backend.publish, "publish"),
        ("map.publish_hook", options.map.publish_hook, &backend.map_publish, "map_publish"),
        ("map.remove_hook", options.map.remove_hook, &backend.map_remove, "map_remove"),
    ] {
        if set && !hook.is_on() {
            faults.add(key, format!("needs backend.{name}.url"));
        }
    }
}

/// Checks what a polled channel needs, and options that it cannot have.
fn polled(config: &Config, options: &ChannelOptions, faults: &mut Faults) {
    let poll = &options.shared_poll;
    let key = |key: &str| format!("shared_poll.{key}");
    faults.outside(&key("refresh_interval_ms"), poll.refresh_interval_ms, 10..=3_600_000);
    faults.outside(&key("refresh_batch_size"), poll.refresh_batch_size, 1..=100_000);
    faults.outside(&key("keys_per_connection_max"), poll.keys_per_connection_max, 1..=1_000_000);
    faults.outside(&key("keys_per_channel_max"), poll.keys_per_channel_max, 1..=100_000_000);
    faults.outside(&key("linger_ms"), poll.linger_ms, 0..=3_600_000);
    if poll.publish_enabled && poll.mode == PollMode::Versionless {
        faults.add(key("publish_enabled"), "needs shared_poll.mode = \"versioned\"");
    }
    if !options.is_polled() {
        if *poll != PollOptions::default() {
            faults.add("shared_poll", "is only for subscription_type = \"shared_poll\"");
        }
        return;
    }
    if poll.backend.is_empty() {
        faults.add(key("backend"), "must be set to the name of a section of backend.polls");
    } else if !config.backend.polls.contains_key(&*poll.backend) {
        faults.add(key("backend"), "must name a section of backend.polls");
    }
    if config.shared_poll.hmac_secret.is_empty() {
        faults.add("subscription_type", "needs shared_poll.hmac_secret: clients can follow only signed keys");
    }
    for (key, set) in [
        ("history_size", options.history_size > 0),
        ("delta_publish", options.delta_publish),
        ("allow_publish", options.allow_publish),
        ("allow_publish_anonymous", options.allow_publish_anonymous),
        ("allow_publish_for_client", options.allow_publish_for_client),
        ("publish_hook", options.publish_hook),
        ("allow_tags_filter", options.allow_tags_filter),
    ] {
        if set {
            faults.add(
                key,
                "is not for subscription_type = \"shared_poll\", whose content comes from the backend",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Sources;
    use super::*;

    /// Returns the keys of the mistakes in a namespace with these options, without the namespace.
    fn wrong(options: &str) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("gateway.toml");
        std::fs::write(
            &file,
            format!("[shared_poll]\nhmac_secret = \"{}\"\n[namespaces.some]\n{options}", "k".repeat(32)),
        )
        .unwrap();
        let Err(mistakes) = Config::load(&Sources { file: Some(&file), ..Sources::default() }) else {
            return Vec::new();
        };
        let told = mistakes.to_string();
        let keys = told.lines().filter_map(|line| line.trim().strip_prefix("namespaces.some."));
        keys.filter_map(|line| Some(line.split_once(": ")?.0.to_owned())).collect()
    }

    #[test]
    fn what_needs_history_is_a_mistake_without_it() {
        for option in [
            "force_positioning = true",
            "force_recovery = true",
            "allow_recovery = true",
            "allow_positioning = true",
            "force_recovery_mode = \"cache\"",
            "allowed_delta_types = [\"fossil\"]",
            "allow_history = true",
            "allow_history_for_client = true",
            "allow_history_for_anonymous = true",
        ] {
            let key = option.split_once(' ').unwrap().0;
            assert_eq!(wrong(option), [key]);
            assert_eq!(wrong(&format!("{option}\nhistory_size = 1\nhistory_ttl_s = 1")), [""; 0], "{option}");
            let mut both = ["history_ttl_s", key];
            both.sort_unstable();
            assert_eq!(wrong(&format!("{option}\nhistory_size = 1")), both);
        }
    }

    #[test]
    fn what_has_no_effect_alone_is_a_mistake() {
        for (options, key) in [
            ("delta_publish = true", "delta_publish"),
            ("allow_presence = true", "allow_presence"),
            ("force_push_join_leave = true", "force_push_join_leave"),
            ("subscribe_hook = true", "subscribe_hook"),
            ("client_publish_debounce_interval_ms = 5", "client_publish_debounce_interval_ms"),
            ("map.mode = \"persistent\"", "map"),
            ("shared_poll.linger_ms = 7", "shared_poll"),
            ("auto_cache_recover = true\nhistory_size = 1\nhistory_ttl_s = 1", "auto_cache_recover"),
            ("newest.times_per_s = 5", "newest.times_per_s"),
            (
                "newest.bytes_per_s_max = 5\nnewest.bytes_per_s = 5\nnewest.delivery = \"latest\"",
                "newest.bytes_per_s_max",
            ),
            ("newest.keys_max = 7", "newest.keys_max"),
            ("newest.value_ttl_ms = 7", "newest.value_ttl_ms"),
            ("newest.snapshot_ttl_s = 7\nnewest.delivery = \"latest\"", "newest.snapshot_ttl_s"),
        ] {
            assert_eq!(wrong(options), [key], "{options}");
        }
    }

    #[test]
    fn what_is_of_another_subscription_type_is_a_mistake() {
        for (kind, options, key) in [
            ("map", "history_size = 5\nhistory_ttl_s = 5", "history_size"),
            ("map", "allow_publish = true", "allow_publish"),
            ("map", "map.stream_size = 7", "map.stream_size"),
            ("map", "map.stream_ttl_s = 7", "map.stream_ttl_s"),
            ("map", "map.mode = \"persistent\"\nmap.key_ttl_s = 7", "map.key_ttl_s"),
            ("map", "force_recovery = true", "force_recovery"),
            ("map", "map.mode = \"recoverable\"\nforce_recovery_mode = \"cache\"", "force_recovery_mode"),
            ("map_clients", "map.allow_remove = true", "map.allow_remove"),
            ("map", "newest.allow_choice = true", "newest"),
            ("map_users", "map.client_key = \"user_id\"", "map.client_key"),
            ("map_users", "client_publish_debounce_interval_ms = 5", "client_publish_debounce_interval_ms"),
            ("map_users", "map.mode = \"persistent\"", "map.mode"),
        ] {
            let options = format!("subscription_type = \"{kind}\"\n{options}");
            assert_eq!(wrong(&options), [key], "{options}");
        }
        let polled = "subscription_type = \"shared_poll\"\nallow_history = true";
        assert_eq!(wrong(polled), ["allow_history", "shared_poll.backend"]);
        let map = "subscription_type = \"map\"\nmap.mode = \"persistent\"\nmap.allow_publish = true\n\
                   allow_history = true\nallowed_delta_types = [\"fossil\"]\ndelta_publish = true";
        assert_eq!(wrong(map), [""; 0]);
    }

    #[test]
    fn newest_values_stay_within_their_bounds_and_apart_from_patches() {
        for (options, key) in [
            ("times_per_s = 20\ntimes_per_s_max = 10", "newest.times_per_s"),
            ("bytes_per_s_max = 10", "newest.bytes_per_s"),
            ("keys_max = 0", "newest.keys_max"),
        ] {
            let options = format!("[namespaces.some.newest]\nallow_choice = true\n{options}");
            assert_eq!(wrong(&options), [key], "{options}");
        }
        let kept = "history_size = 1\nhistory_ttl_s = 1\n";
        let snapshot = "newest.snapshot = true\n";
        let patches = "allowed_delta_types = [\"fossil\"]";
        assert_eq!(wrong(&format!("{kept}{snapshot}{patches}")), ["allowed_delta_types"]);
        let cache = "force_recovery_mode = \"cache\"";
        assert_eq!(wrong(&format!("{kept}{snapshot}{cache}")), ["force_recovery_mode"]);
        let all = "newest.delivery = \"latest\"\nnewest.allow_choice = true\nnewest.times_per_s = 5\n\
                   newest.times_per_s_max = 10\nnewest.snapshot = true\nnewest.value_ttl_ms = 500";
        assert_eq!(wrong(all), [""; 0]);
    }
}
