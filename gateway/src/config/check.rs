//! What cannot work: each section asked by itself, then what only shows between sections.

use gateway_core::channel_rules::ChannelOptions;
use gateway_core::session::Settings;
use shared::channel::{CHANNEL_BYTES_MAX, NAMESPACE_SEPARATOR, PRIVATE_PREFIX};

use super::Config;
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

    section("channels", &|faults| channel_options(&config.channels, faults));
    for (name, options) in &config.namespaces {
        section(&format!("namespaces.{name}"), &|faults| channel_options(options, faults));
    }
    section("namespaces", &|faults| namespace_names(config, faults));
    section("internal", &|faults| {
        if config.internal.listen == config.server.listen && config.server.listen.port() != 0 {
            faults.add("listen", "must not be the address of server.listen");
        }
    });
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

fn channel_options(options: &ChannelOptions, faults: &mut Faults) {
    match (options.history_size, options.history_ttl_s) {
        (0, 1..) => faults.add("history_size", "must be set when history_ttl_s is"),
        (1.., 0) => faults.add("history_ttl_s", "must be set when history_size is"),
        _ => {}
    }
    let kept = options.history_size > 0 && options.history_ttl_s > 0;
    for (key, set) in [
        ("force_positioning", options.force_positioning),
        ("force_recovery", options.force_recovery),
        ("allow_recovery", options.allow_recovery),
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
    faults.outside("history_size", options.history_size, 0..=1_000_000);
    faults.outside("history_ttl_s", options.history_ttl_s, 0..=31_536_000);
    faults.outside("flush_interval_ms", options.flush_interval_ms, 0..=10_000);
}

fn namespace_names(config: &Config, faults: &mut Faults) {
    for name in config.namespaces.keys() {
        let speakable = name.bytes().all(|byte| byte.is_ascii_graphic());
        if name.is_empty() || name.len() >= CHANNEL_BYTES_MAX || !speakable {
            faults.add(name, "is no name: a namespace is printable ASCII without spaces");
        } else if name.contains(NAMESPACE_SEPARATOR) || name.starts_with(PRIVATE_PREFIX) {
            faults.add(name, "no channel can be in it: a name has no `:` and does not begin with `$`");
        }
    }
}

fn drain(drain: &gateway_core::drain::Settings, faults: &mut Faults) {
    faults.outside("notice_ms", drain.notice_ms, 0..=300_000);
    faults.outside("grace_ms", drain.grace_ms, 0..=3_600_000);
    faults.outside("linger_ms", drain.linger_ms, 0..=300_000);
}
