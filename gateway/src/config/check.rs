//! Checks a configuration: each section by itself, then the combinations of sections.

use gateway_core::channel_pattern::ChannelPattern;
use gateway_core::channel_rules::{ChannelOptions, RecoveryMode, SubscriptionType};
use gateway_core::session::SessionSettings;
use shared::channel::CHANNEL_BYTES_MAX;

use super::{Config, check_channels, check_nats};
use crate::broker::redis::RedisMode;
use crate::feeds;
use crate::http::raw_paths::Messages;
use crate::http::{event_stream, graphql, pages};
use crate::setting::Faults;

/// The length of a subscribe command with a short channel name and without a token, in bytes.
const SUBSCRIBE_BYTES: usize = 64;

/// Returns all mistakes, as (`section.key`, problem).
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
        if config.session.single_connection && config.limits.connections_per_user_max == 1 {
            let problem = "needs limits.connections_per_user_max of at least 2, or 0: a new connection would be refused \
                           before the user's other connection is closed";
            faults.add("single_connection", problem);
        }
    });
    section("server", &|faults| config.server.check(faults));
    section("tls", &|faults| config.tls.check(faults));
    section("proxy_protocol", &|faults| config.proxy_protocol.check(faults));
    section("limits", &|faults| config.limits.check(faults));
    section("http", &|faults| config.http.check(faults));
    section("sse", &|faults| config.sse.check(faults));
    section("mercure", &|faults| mercure(config, faults));
    section("graphql", &|faults| config.graphql.check(config.backend.graphql.is_on(), faults));
    section("websocket", &|faults| config.websocket.check(faults));
    section("auth", &|faults| config.auth.check(faults));
    section("api", &|faults| {
        config.api.check(faults);
        for (key, other) in [("server", config.server.listen), ("internal", config.internal.listen)] {
            if config.api.listen == Some(other) && other.port() != 0 {
                faults.add("listen", format!("must not be the address of {key}.listen"));
            }
        }
    });
    section("workers", &|faults| config.workers.check(faults));
    section("drain", &|faults| drain(&config.drain, faults));
    section("balance", &|faults| {
        faults.outside("auto_after_s", config.balance.auto_after_s, 1..=86_400);
        faults.outside("tolerance_percent", config.balance.tolerance_percent, 1..=1_000);
        faults.outside("over_s", config.balance.over_s, 1..=86_400);
    });
    section("telemetry", &|faults| config.telemetry.check(faults));

    section("channel_names", &|faults| {
        config.channel_names.validate().into_iter().for_each(|(key, problem)| faults.add(key, problem));
    });
    section("channels", &|faults| {
        check_channels::check(config, &config.channels, faults);
        if !config.channels.pattern.is_none() {
            faults.add("pattern", "is for namespaces only: set it in [namespaces.NAME]");
        }
    });
    for (name, options) in &config.namespaces {
        section(&format!("namespaces.{name}"), &|faults| check_channels::check(config, options, faults));
    }
    section("namespaces", &|faults| namespaces(config, faults));
    section("pusher", &|faults| apps(config, faults));
    section("socketio", &|faults| {
        engine_io(config, faults);
        socketio(config, faults);
        let emitters = &config.socketio.emitters;
        if emitters.enabled
            && emitters.url.is_none()
            && let Some(mode) = several(config.redis.mode)
        {
            let problem = format!(
                "must be set with redis.mode = \"{mode}\": emitters publish in a single Redis server"
            );
            faults.add("emitters.url", problem);
        }
    });
    section("raw", &|faults| raw_paths(config, faults));
    section("internal", &|faults| {
        if config.internal.listen == config.server.listen && config.server.listen.port() != 0 {
            faults.add("listen", "must not be the address of server.listen");
        }
    });
    section("console", &|faults| {
        config.console.check(faults);
        let others = [
            ("server", Some(config.server.listen)),
            ("internal", Some(config.internal.listen)),
            ("api", config.api.listen),
            ("cluster", config.cluster.listen),
        ];
        for (key, other) in others {
            if config.console.listen.is_some_and(|address| Some(address) == other && address.port() != 0) {
                faults.add("listen", format!("must not be the address of {key}.listen"));
            }
        }
    });
    section("cluster", &|faults| {
        config.cluster.check(faults);
        let others = [
            ("server", Some(config.server.listen)),
            ("internal", Some(config.internal.listen)),
            ("api", config.api.listen),
        ];
        for (key, other) in others {
            if config.cluster.listen.is_some_and(|address| Some(address) == other && address.port() != 0) {
                faults.add("listen", format!("must not be the address of {key}.listen"));
            }
        }
    });
    section("shared_poll", &|faults| config.shared_poll.check(faults));
    section("backend", &|faults| config.backend.check(faults));
    section("broker", &|faults| config.broker.check(faults));
    section("redis", &|faults| config.redis.check(faults));
    section("nats", &|faults| config.nats.check(faults));
    section("feeds", &|faults| {
        feeds::feed_config::check(&config.feeds, faults);
        let is_without = |feed: &feeds::feed_config::FeedConfig| {
            feed.kind == Some(feeds::feed_config::FeedKind::RedisStream) && feed.redis_stream.url.is_none()
        };
        let without = config.feeds.iter().filter(|(_, feed)| is_without(feed));
        let mode = several(config.redis.mode);
        for ((name, _), mode) in without.filter_map(|feed| Some((feed, mode?))) {
            let problem =
                format!("must be set with redis.mode = \"{mode}\": a stream is in a single Redis server");
            faults.add(format!("{name}.redis_stream.url"), problem);
        }
    });
    found.extend(check_nats::faults(config));
    found
}

/// Returns the mode if it is one with several Redis servers.
fn several(mode: RedisMode) -> Option<&'static str> {
    match mode {
        RedisMode::Shards => Some("shards"),
        RedisMode::Cluster => Some("cluster"),
        RedisMode::Single | RedisMode::Sentinel => None,
    }
}

/// Checks that the rate limits and backlogs of sessions have room for the largest message that a connection accepts.
fn largest_message(config: &Config, faults: &mut Faults) {
    let (largest, session) = (config.websocket.message_bytes_max, &config.session);
    if session.bytes_per_second > 0 && (session.bytes_burst as usize) < largest {
        let problem = "must be at least websocket.message_bytes_max: longer messages could never be sent";
        faults.add("bytes_burst", problem);
    }
    let subscribes = session.channels_max as usize * SUBSCRIBE_BYTES;
    // With the default, clients have fewer channels, and messages may be small.
    if subscribes > largest && session.channels_max > SessionSettings::default().channels_max {
        let problem = format!(
            "is {}: a client that subscribes to all of them in one message needs websocket.message_bytes_max of at least \
             {subscribes}",
            session.channels_max
        );
        faults.add("channels_max", problem);
    }
    // Once half of the backlog is full, the connection is not read from: the other half is for the message just read.
    if (session.queued_bytes_max as usize) / 2 < largest {
        let problem =
            "must be at least twice websocket.message_bytes_max, so that the longest message can be queued";
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
    let options = match namespace {
        "" => Some(&config.channels),
        namespace => config.namespaces.get(namespace),
    };
    let key = if namespace.is_empty() { "personal_channel" } else { "personal_channel_namespace" };
    match options {
        None => faults.add(key, "must name a section of namespaces"),
        Some(options) if !options.pattern.is_none() => {
            faults.add(
                key,
                "must not name a namespace with a pattern: its channels do not begin with its name",
            );
        }
        Some(options) if options.subscription_type != SubscriptionType::Stream => {
            faults.add(key, "needs channels with subscription_type = \"stream\"");
        }
        Some(_) => {}
    }
    if !namespace.is_empty() && config.channel_names.namespace_boundary.is_empty() {
        faults.add(key, "needs channel_names.namespace_boundary, which is empty");
    }
    if config.channel_names.user_boundary.is_empty() {
        faults.add("personal_channel", "needs channel_names.user_boundary, which is empty");
    }
}

/// The most namespaces with a pattern. All of them may be checked for a channel that begins with `/`.
const PATTERNS_MAX: usize = 64;

fn namespaces(config: &Config, faults: &mut Faults) {
    let mut patterns: Vec<(&str, &ChannelPattern)> = Vec::new();
    for (name, options) in &config.namespaces {
        let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if !(2..CHANNEL_BYTES_MAX).contains(&name.len()) || !name.bytes().all(is_of_name) {
            let problem = format!(
                "is not a valid name of a namespace: use at least 2 and less than {CHANNEL_BYTES_MAX} letters, digits, - and _"
            );
            faults.add(name, problem);
        }
        if options.pattern.is_none() {
            continue;
        }
        if let Some((other, _)) = patterns.iter().find(|(_, pattern)| pattern.is_like(&options.pattern)) {
            let problem = format!("matches the same channels as namespaces.{other}.pattern");
            faults.add(format!("{name}.pattern"), problem);
        }
        patterns.push((name, &options.pattern));
    }
    if let Some((name, _)) = patterns.get(PATTERNS_MAX) {
        faults.add(
            format!("{name}.pattern"),
            format!("is one too many: at most {PATTERNS_MAX} namespaces can have a pattern"),
        );
    }
    if config.channel_names.namespace_boundary.is_empty() {
        let without = config.namespaces.iter().filter(|(_, options)| options.pattern.is_none());
        for (name, _) in without {
            faults.add(name, "can have no channels: set channel_names.namespace_boundary, or its pattern");
        }
    }
}

/// Checks Pusher apps, and the options that they need in their namespaces.
fn apps(config: &Config, faults: &mut Faults) {
    config.pusher.check(&config.channel_names, config.session.channels_max, faults);
    for (name, app) in config.pusher.apps.iter().filter(|_| config.pusher.enabled) {
        let options = config.namespaces.get(app.namespace_or(name));
        if options.is_some_and(|options| !options.pattern.is_none()) {
            faults.add(format!("apps.{name}.namespace"), "must name a namespace without a pattern");
        }
        if options.is_some_and(|options| options.subscription_type != SubscriptionType::Stream) {
            let problem = "must name a namespace with subscription_type = \"stream\"";
            faults.add(format!("apps.{name}.namespace"), problem);
        }
    }
}

/// Checks that the rate limits of sessions over Engine.IO have room for the largest message.
fn engine_io(config: &Config, faults: &mut Faults) {
    config.socketio.check(faults);
    let session = &config.session;
    let is_served = config.socketio.enabled || config.raw.has_engine_io();
    let is_too_small = (session.bytes_burst as usize) < config.socketio.payload_bytes_max;
    if is_served && session.bytes_per_second > 0 && is_too_small {
        let problem = "must be at most session.bytes_burst: longer messages could never be sent";
        faults.add("payload_bytes_max", problem);
    }
}

/// Checks that the namespace for the channels of Socket.IO accepts any room name.
fn socketio(config: &Config, faults: &mut Faults) {
    let socketio = &config.socketio;
    if !socketio.enabled {
        return;
    }
    if config.channel_names.namespace_boundary.is_empty() {
        faults.add("enabled", "needs channel_names.namespace_boundary, which is empty");
    }
    if config.raw.paths.keys().any(|path| socketio.is_at(path)) {
        faults.add("path", "is also a path of raw.paths: change one of them");
    }
    if socketio.asks() && !config.backend.socketio.is_on() {
        faults.add("namespaces", "need backend.socketio.url for connect_hook and action = \"hook\"");
    }
    for (name, section) in socketio.served() {
        let key = format!("namespaces.{name}.channels");
        let channels = section.channels_or(&name);
        if config.mercure.enabled && channels == &*config.mercure.namespace {
            faults.add(key, "is also mercure.namespace: change one of them");
        } else if let Some(options) = config.namespaces.get(channels)
            && (!options.pattern.is_none() || options.subscription_type != SubscriptionType::Stream)
        {
            faults
                .add(key, "must name a namespace without a pattern and with subscription_type = \"stream\"");
        }
        let options = config.namespaces.get(channels);
        if section.recovery_ms > 0
            && !options.is_some_and(|options| lets_return(options, section.recovery_ms))
        {
            let problem = format!(
                "needs history for as long: set history_size and a history_ttl_s of at least {} in namespaces.{channels}, \
                 and not force_recovery_mode = \"cache\"",
                section.recovery_ms.div_ceil(1_000)
            );
            faults.add(format!("namespaces.{name}.recovery_ms"), problem);
        }
    }
}

/// Checks that clients that were away for this long find the publications they missed.
fn lets_return(options: &ChannelOptions, recovery_ms: u64) -> bool {
    let lasts = options.history_ttl_s.saturating_mul(1_000) >= recovery_ms;
    options.history_size > 0 && lasts && options.force_recovery_mode == RecoveryMode::Stream
}

/// Checks what depends on other sections: whether the channel exists, and whether another endpoint answers the path.
fn raw_paths(config: &Config, faults: &mut Faults) {
    config.raw.check(faults);
    let rules = config.channel_rules();
    for (path, bound) in &config.raw.paths {
        if config.demo.page && pages::find(path).is_some() {
            faults.add(
                format!("paths.{path}"),
                "is a page of the demo: set demo.page = false, or use another path",
            );
        }
        if config.sse.enabled && path == event_stream::PATH {
            faults.add(
                format!("paths.{path}"),
                "is the path of event streams: set sse.enabled = false, or use another path",
            );
        }
        if config.graphql.enabled && path == graphql::PATH {
            faults.add(
                format!("paths.{path}"),
                "is the path of GraphQL: set graphql.enabled = false, or use another path",
            );
        }
        if bound.messages == Messages::Hook && !config.backend.message.is_on() {
            faults.add(format!("paths.{path}.messages"), "needs backend.message.url");
        }
        if bound.channel.is_empty() {
            continue;
        }
        let channel = rules.channel(&bound.channel, config.session.channel_bytes_max as usize);
        let problem = match channel {
            Err(invalid) => invalid.to_string(),
            Ok(channel) => match rules.options(&channel) {
                None => "names a channel of an unknown namespace: add the section to namespaces".to_owned(),
                Some(_) if !rules.admits_name(&channel) => {
                    "does not match the channel_regex of its namespace".to_owned()
                }
                Some(options) if options.subscription_type != SubscriptionType::Stream => {
                    "must name a channel with subscription_type = \"stream\"".to_owned()
                }
                Some(_) => continue,
            },
        };
        faults.add(format!("paths.{path}.channel"), problem);
    }
}

/// Checks that the namespace for Mercure updates accepts any topic.
fn mercure(config: &Config, faults: &mut Faults) {
    config.mercure.check(faults);
    if !config.mercure.enabled {
        return;
    }
    if config.channel_names.namespace_boundary.is_empty() {
        faults.add("enabled", "needs channel_names.namespace_boundary, which is empty");
    }
    let Some(options) = config.namespaces.get(&*config.mercure.namespace) else { return };
    if !options.pattern.is_none() || options.subscription_type != SubscriptionType::Stream {
        faults.add(
            "namespace",
            "must name a namespace without a pattern and with subscription_type = \"stream\"",
        );
    }
}

fn drain(drain: &gateway_core::drain::DrainSettings, faults: &mut Faults) {
    faults.outside("notice_ms", drain.notice_ms, 0..=300_000);
    faults.outside("grace_ms", drain.grace_ms, 0..=3_600_000);
    if drain.grace_max_ms > 0 {
        faults.outside("grace_max_ms", drain.grace_max_ms, drain.grace_ms..=3_600_000);
    }
    faults.outside("linger_ms", drain.linger_ms, 0..=300_000);
    faults.outside("presence_hold_ms", drain.presence_hold_ms, 0..=60_000);
}
