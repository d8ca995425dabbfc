//! What cannot work: each section asked by itself, then what only shows between sections.

use gateway_core::channel_names::ChannelNames;
use gateway_core::channel_pattern::ChannelPattern;
use gateway_core::channel_rules::{ChannelOptions, RecoveryMode, SubscriptionType};
use gateway_core::map::{MapMode, MapOptions};
use gateway_core::poll::PollMode;
use gateway_core::session::Settings;
use shared::channel::CHANNEL_BYTES_MAX;

use super::Config;
use crate::http::pages;
use crate::http::raw_paths::Messages;
use crate::setting::Faults;

/// What a subscribe command takes with a short name of a channel and without a token.
const SUBSCRIBE_BYTES: usize = 64;

/// Everything that does not fit, as (`section.key`, problem).
pub(super) fn faults(config: &Config) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut section = |name: &str, check: &dyn Fn(&mut Faults)| {
        let mut faults = Faults::default();
        check(&mut faults);
        found
            .extend(faults.into_inner().into_iter().map(|(key, problem)| (format!("{name}.{key}"), problem)));
    };
    section("node", &|faults| config.node.check(faults));
    section("session", &|faults| {
        for mistake in config.session.validate() {
            faults.add(mistake.key, mistake.problem);
        }
        largest_message(config, faults);
        personal_channels(config, faults);
    });
    section("server", &|faults| config.server.check(faults));
    section("tls", &|faults| config.tls.check(faults));
    section("proxy_protocol", &|faults| config.proxy_protocol.check(faults));
    section("limits", &|faults| config.limits.check(faults));
    section("http", &|faults| config.http.check(faults));
    section("websocket", &|faults| config.websocket.check(faults));
    section("auth", &|faults| config.auth.check(faults));
    section("api", &|faults| config.api.check(faults));
    section("workers", &|faults| config.workers.check(faults));
    section("drain", &|faults| drain(&config.drain, faults));
    section("telemetry", &|faults| config.telemetry.check(faults));

    section("channel_names", &|faults| {
        config.channel_names.validate().into_iter().for_each(|(key, problem)| faults.add(key, problem));
    });
    section("channels", &|faults| {
        channel_options(&config.channels, &config.channel_names, faults);
        hooks(config, &config.channels, faults);
        shown_in(config, &config.channels, faults);
        polled(config, &config.channels, faults);
        if !config.channels.pattern.is_none() {
            faults.add("pattern", "is for namespaces: these are the channels that have none");
        }
    });
    for (name, options) in &config.namespaces {
        section(&format!("namespaces.{name}"), &|faults| {
            channel_options(options, &config.channel_names, faults);
            hooks(config, options, faults);
            shown_in(config, options, faults);
            polled(config, options, faults);
        });
    }
    section("namespaces", &|faults| namespaces(config, faults));
    section("raw", &|faults| raw_paths(config, faults));
    section("internal", &|faults| {
        if config.internal.listen == config.server.listen && config.server.listen.port() != 0 {
            faults.add("listen", "must not be the address of server.listen");
        }
    });
    section("shared_poll", &|faults| config.shared_poll.check(faults));
    section("backend", &|faults| config.backend.check(faults));
    section("broker", &|faults| config.broker.check(faults));
    section("redis", &|faults| config.redis.check(faults));
    found
}

/// What a session lets pass and lets wait must have room for the largest message that its connection takes in.
fn largest_message(config: &Config, faults: &mut Faults) {
    let (largest, session) = (config.websocket.message_bytes_max, &config.session);
    if session.bytes_per_second > 0 && (session.bytes_burst as usize) < largest {
        let problem = "is less than websocket.message_bytes_max: such a message could never be sent";
        faults.add("bytes_burst", problem);
    }
    let subscribes = session.channels_max as usize * SUBSCRIBE_BYTES;
    // Whoever leaves it as it is has clients of fewer channels, and may have small messages.
    if subscribes > largest && session.channels_max > Settings::default().channels_max {
        let problem = format!(
            "is {}, and a client subscribes to all of them in one message: that needs websocket.message_bytes_max of at \
             least {subscribes}",
            session.channels_max
        );
        faults.add("channels_max", problem);
    }
    // Once half of it waits, the connection is not read from: the other half is for the message just read.
    if (session.queued_bytes_max as usize) / 2 < largest {
        let problem = "must be at least twice websocket.message_bytes_max, so that such a message can wait";
        faults.add("queued_bytes_max", problem);
    }
}

fn personal_channels(config: &Config, faults: &mut Faults) {
    let namespace = &*config.session.personal_channel_namespace;
    if !config.session.personal_channel {
        if !namespace.is_empty() {
            faults.add("personal_channel_namespace", "needs personal_channel = true");
        }
        return;
    }
    if !namespace.is_empty() && !config.namespaces.contains_key(namespace) {
        faults.add("personal_channel_namespace", "is no section of namespaces");
    }
    if config.channel_names.user_boundary.is_empty() {
        faults.add("personal_channel", "needs channel_names.user_boundary, which is empty");
    }
}

/// What only channels that keep state by key can have, and what they cannot.
fn map_options(options: &ChannelOptions, faults: &mut Faults) {
    let map = &options.map;
    let debounce = options.client_publish_debounce_interval_ms;
    faults.outside("client_publish_debounce_interval_ms", debounce, 0..=60_000);
    if !options.keeps_keys() {
        if *map != MapOptions::default() {
            faults.add("map", "is for the subscription types map, map_clients and map_users");
        }
        if debounce > 0 {
            faults.add("client_publish_debounce_interval_ms", "needs subscription_type = \"map\"");
        }
        return;
    }
    if options.history_size > 0 || options.history_ttl_s > 0 {
        faults.add("history_size", "is for streams: set map.stream_size and map.stream_ttl_s");
    }
    let is_shown = options.subscription_type != SubscriptionType::Map;
    if options.publish_hook {
        faults.add(
            "publish_hook",
            "is not asked about keys: who may publish them is for map.allow_publish to say",
        );
    }
    if map.mode == MapMode::Persistent && is_shown {
        faults.add("map.mode", "cannot be persistent where clients or users are the keys: they expire");
    }
    if map.mode != MapMode::Persistent {
        faults.outside("map.key_ttl_s", map.key_ttl_s, 1..=31_536_000);
        // They are kept alive by their node, three times before they would expire.
        if is_shown && map.key_ttl_s < 10 {
            faults.add("map.key_ttl_s", "must be at least 10 where clients or users are the keys");
        }
    }
    if map.mode != MapMode::Ephemeral {
        faults.outside("map.stream_size", map.stream_size, 1..=1_000_000);
        faults.outside("map.stream_ttl_s", map.stream_ttl_s, 1..=31_536_000);
    }
    faults.outside("map.keys_max", map.keys_max, 1..=1_000_000);
    faults.outside("map.page_size_max", map.page_size_max, 1..=100_000);
    faults.outside("map.page_size", map.page_size, 1..=map.page_size_max.max(1));
    faults.outside("map.catch_up_timeout_ms", map.catch_up_timeout_ms, 100..=600_000);
}

/// The channels in which subscribers are shown must be made for that.
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
            let problem = format!("must begin channels of a namespace with subscription_type = \"{word}\"");
            faults.add(key, problem);
        }
    }
}

fn channel_options(options: &ChannelOptions, names: &ChannelNames, faults: &mut Faults) {
    match (options.history_size, options.history_ttl_s) {
        (0, 1..) => faults.add("history_size", "must be set when history_ttl_s is"),
        (1.., 0) => faults.add("history_ttl_s", "must be set when history_size is"),
        _ => {}
    }
    let kept = options.history_size > 0 && options.history_ttl_s > 0 || options.retention().keeps_history();
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
        if set && !kept {
            faults.add(key, "needs history: set history_size and history_ttl_s");
        }
    }
    for (key, set) in [
        ("allow_presence", options.allow_presence),
        ("allow_presence_for_client", options.allow_presence_for_client),
        ("allow_presence_for_anonymous", options.allow_presence_for_anonymous),
    ] {
        if set && !options.presence {
            faults.add(key, "needs presence = true");
        }
    }
    if options.auto_cache_recover && options.force_recovery_mode != RecoveryMode::Cache {
        faults.add("auto_cache_recover", "needs force_recovery_mode = \"cache\"");
    }
    for (key, set) in [
        ("allow_join_leave", options.allow_join_leave),
        ("force_push_join_leave", options.force_push_join_leave),
    ] {
        if set && !options.join_leave {
            faults.add(key, "needs join_leave = true");
        }
    }
    for (key, set, boundary, mark) in [
        ("allow_user_limited", options.allow_user_limited, "user_boundary", &names.user_boundary),
        ("allow_client_channels", options.allow_client_channels, "client_boundary", &names.client_boundary),
    ] {
        if set && mark.is_empty() {
            faults.add(key, format!("needs channel_names.{boundary}, which is empty"));
        }
    }
    map_options(options, faults);
    faults.outside("history_size", options.history_size, 0..=1_000_000);
    faults.outside("history_ttl_s", options.history_ttl_s, 0..=31_536_000);
    faults.outside("flush_interval_ms", options.flush_interval_ms, 0..=10_000);
}

/// A channel cannot ask what is asked nowhere.
fn hooks(config: &Config, options: &ChannelOptions, faults: &mut Faults) {
    let backend = &config.backend;
    for (key, set, hook, name) in [
        ("subscribe_hook", options.subscribe_hook, &backend.subscribe, "subscribe"),
        ("sub_refresh_hook", options.sub_refresh_hook, &backend.sub_refresh, "sub_refresh"),
        ("publish_hook", options.publish_hook, &backend.publish, "publish"),
    ] {
        if set && !hook.is_on() {
            faults.add(key, format!("needs backend.{name}.url"));
        }
    }
}

/// What a polled channel needs, and what it cannot have.
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
        if !poll.backend.is_empty() {
            faults.add(key("backend"), "needs subscription_type = \"shared_poll\"");
        }
        return;
    }
    if poll.backend.is_empty() {
        faults.add(key("backend"), "must be set: a section of backend.polls says where to ask");
    } else if !config.backend.polls.contains_key(&*poll.backend) {
        faults.add(key("backend"), "is no section of backend.polls");
    }
    if config.shared_poll.hmac_secret.is_empty() {
        faults.add("subscription_type", "needs shared_poll.hmac_secret: clients follow only what is signed");
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
            faults.add(key, "is not for subscription_type = \"shared_poll\": the content is the backend's");
        }
    }
}

/// The most namespaces with a pattern: each may be looked at for a channel that begins with `/`.
const PATTERNS_MAX: usize = 64;

fn namespaces(config: &Config, faults: &mut Faults) {
    let mut patterns: Vec<(&str, &ChannelPattern)> = Vec::new();
    for (name, options) in &config.namespaces {
        let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if !(2..CHANNEL_BYTES_MAX).contains(&name.len()) || !name.bytes().all(is_of_name) {
            let problem = format!(
                "is no name for a namespace: at least 2 of letters, digits, - and _, and less than {CHANNEL_BYTES_MAX}"
            );
            faults.add(name, problem);
        }
        if options.pattern.is_none() {
            continue;
        }
        if let Some((other, _)) = patterns.iter().find(|(_, pattern)| pattern.is_like(&options.pattern)) {
            let problem =
                format!("describes the channels of namespaces.{other}.pattern, no more and no less");
            faults.add(format!("{name}.pattern"), problem);
        }
        patterns.push((name, &options.pattern));
    }
    if let Some((name, _)) = patterns.get(PATTERNS_MAX) {
        faults.add(format!("{name}.pattern"), format!("is one too many: there may be {PATTERNS_MAX}"));
    }
    if config.channel_names.namespace_boundary.is_empty() {
        let without = config.namespaces.iter().filter(|(_, options)| options.pattern.is_none());
        for (name, _) in without {
            faults.add(
                name,
                "holds no channel: channel_names.namespace_boundary is empty and it has no pattern",
            );
        }
    }
}

/// What only shows beside the rest: whether there is such a channel, and whether anything else answers the path.
fn raw_paths(config: &Config, faults: &mut Faults) {
    config.raw.check(faults);
    let rules = config.channel_rules();
    for (path, bound) in &config.raw.paths {
        if config.demo.page && pages::find(path).is_some() {
            faults.add(format!("paths.{path}"), "is one of the demo's pages: set demo.page = false");
        }
        if bound.messages == Messages::Hook && !config.backend.message.is_on() {
            faults.add(format!("paths.{path}.messages"), "needs backend.message.url");
        }
        if bound.channel.is_empty() {
            continue;
        }
        let channel = rules.channel(&bound.channel, config.session.channel_bytes_max as usize);
        match channel.map(|channel| (rules.options(&channel).is_some(), rules.admits_name(&channel))) {
            Ok((true, true)) => {}
            Ok((false, _)) => {
                faults.add(format!("paths.{path}.channel"), "is of a namespace that is not there");
            }
            Ok((_, false)) => faults
                .add(format!("paths.{path}.channel"), "does not match the channel_regex of its namespace"),
            Err(invalid) => faults.add(format!("paths.{path}.channel"), invalid.to_string()),
        }
    }
}

fn drain(drain: &gateway_core::drain::Settings, faults: &mut Faults) {
    faults.outside("notice_ms", drain.notice_ms, 0..=300_000);
    faults.outside("grace_ms", drain.grace_ms, 0..=3_600_000);
    faults.outside("linger_ms", drain.linger_ms, 0..=300_000);
}
