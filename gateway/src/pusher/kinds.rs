//! Derives options from the names of an app's channels. The options apply to all publishers and subscribers, in any
//! protocol.

use gateway_core::channel_names::ChannelNames;
use gateway_core::channel_rules::{ChannelOptions, RecoveryMode};
use shared::protocol::pusher::{Access, PusherChannelKind, PusherNames};

use super::pusher_config;

/// The prefixes with a meaning. One that begins with another comes before it.
const PREFIXES: [&str; 6] =
    ["private-encrypted-cache-", "private-cache-", "presence-cache-", "cache-", "private-", "presence-"];

/// Returns options by the prefix of a channel's name in its namespace. `base`: the options of the namespace.
pub(crate) fn kinds(
    app: &pusher_config::PusherAppConfig,
    base: &ChannelOptions,
    names: &ChannelNames,
) -> Vec<(Box<str>, ChannelOptions)> {
    let online = ChannelOptions { presence: true, join_leave: true, ..closed(&ChannelOptions::default()) };
    let online = (PusherNames::new("", "", &names.user_boundary).online("").into(), online);
    let of = |prefix: &str| (prefix.into(), options(app, base, PusherChannelKind::of(prefix)));
    PREFIXES.into_iter().map(of).chain([online]).collect()
}

fn options(
    app: &pusher_config::PusherAppConfig,
    base: &ChannelOptions,
    kind: PusherChannelKind,
) -> ChannelOptions {
    let mut options = match kind.access {
        Access::Public => base.clone(),
        Access::Private | Access::User => closed(base),
        Access::Presence => ChannelOptions { presence: true, join_leave: true, ..closed(base) },
    };
    if kind.cache {
        options.history_size = base.history_size.max(1);
        options.history_ttl_s = if base.history_ttl_s == 0 { app.cache_ttl_s } else { base.history_ttl_s };
        options.force_recovery = true;
        options.force_recovery_mode = RecoveryMode::Cache;
        options.auto_cache_recover = true;
        options.publication_time = true;
    }
    options
}

/// Restricts a channel to clients with a signature or a subscription token.
fn closed(base: &ChannelOptions) -> ChannelOptions {
    ChannelOptions {
        allow_subscribe: false,
        allow_subscribe_anonymous: false,
        allow_user_limited: false,
        allow_client_channels: false,
        allow_publish_for_client: false,
        allow_history_for_client: false,
        allow_history_for_anonymous: false,
        allow_presence_for_client: false,
        allow_presence_for_anonymous: false,
        only_signed: true,
        ..base.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(name: &str) -> ChannelOptions {
        let base = ChannelOptions {
            allow_subscribe: true,
            allow_subscribe_anonymous: true,
            allow_publish_for_client: true,
            ..ChannelOptions::default()
        };
        let kinds = kinds(&pusher_config::PusherAppConfig::default(), &base, &ChannelNames::default());
        kinds.into_iter().find(|(prefix, _)| name.starts_with(&**prefix)).map_or(base, |(_, options)| options)
    }

    #[test]
    fn what_is_not_public_is_open_to_nobody_by_its_namespace() {
        for name in ["private-a", "presence-a", "private-cache-a", "private-encrypted-a", "online#42"] {
            let options = kind(name);
            assert!(!options.allow_subscribe && !options.allow_subscribe_anonymous, "{name}");
            assert!(!options.allow_publish_for_client, "{name}");
        }
        assert!(kind("news").allow_subscribe && kind("cache-news").allow_subscribe);
    }

    #[test]
    fn cache_channels_keep_their_last_publication_and_presence_channels_who_is_there() {
        for name in ["cache-a", "private-cache-a", "presence-cache-a", "private-encrypted-cache-a"] {
            let options = kind(name);
            assert!(options.retention().keeps_history() && options.auto_cache_recover, "{name}");
        }
        assert!(!kind("private-a").retention().keeps_history());
        assert!(
            kind("presence-a").presence && kind("presence-cache-a").join_leave && kind("online#42").presence
        );
        assert!(!kind("private-a").presence);
    }
}
