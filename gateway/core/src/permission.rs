//! Decides what a client may do in a channel without a subscription token.

use shared::channel::Channel;
use shared::id::{ClientId, UserId};

use crate::channel_names::ChannelNames;
use crate::channel_rules::{ChannelOptions, ChannelRules};
use crate::effect::{Capability, Matching, Rights};
use crate::map::MapOptions;
use crate::wildcard;

/// Whether a client may subscribe without a subscription token. A private channel always needs one. A channel that names
/// its users or its client admits nobody else.
pub fn may_subscribe(
    rules: &ChannelRules,
    options: &ChannelOptions,
    channel: &Channel,
    user: &UserId,
    client: ClientId,
) -> bool {
    let audience = rules.names.audience(channel.as_str());
    if audience.private {
        return false;
    }
    if audience.is_everyone() {
        return if user.is_anonymous() { options.allow_subscribe_anonymous } else { options.allow_subscribe };
    }
    let is_of_users = audience.users.is_none_or(|users| {
        options.allow_user_limited && !user.is_anonymous() && rules.names.lists(users, user.as_str())
    });
    let is_of_client = audience.client.is_none_or(|only| options.allow_client_channels && only == client);
    is_of_users && is_of_client
}

/// Whether a client may publish. A subscriber is known to have access to the channel; other clients need more. Only
/// subscribers may publish to a channel that is not for everyone.
pub fn may_publish(
    rules: &ChannelRules,
    options: &ChannelOptions,
    channel: &Channel,
    user: &UserId,
    subscribed: bool,
) -> bool {
    let ChannelOptions { allow_publish, allow_publish_anonymous, allow_publish_for_client, .. } = *options;
    let allowed = (allow_publish, allow_publish_anonymous, allow_publish_for_client);
    may_write(rules, allowed, channel, user, subscribed)
}

/// Whether a client may publish a key. What [`may_publish`] says of subscribers and other clients applies here, too.
pub fn may_publish_key(
    rules: &ChannelRules,
    options: &ChannelOptions,
    channel: &Channel,
    user: &UserId,
    subscribed: bool,
) -> bool {
    let MapOptions { allow_publish, allow_publish_anonymous, allow_publish_for_client, .. } = options.map;
    let allowed = (allow_publish, allow_publish_anonymous, allow_publish_for_client);
    may_write(rules, allowed, channel, user, subscribed)
}

pub fn may_remove_key(
    rules: &ChannelRules,
    options: &ChannelOptions,
    channel: &Channel,
    user: &UserId,
    subscribed: bool,
) -> bool {
    let MapOptions { allow_remove, allow_remove_anonymous, allow_remove_for_client, .. } = options.map;
    let allowed = (allow_remove, allow_remove_anonymous, allow_remove_for_client);
    may_write(rules, allowed, channel, user, subscribed)
}

/// Decides by three options: for subscribers with a user; for anonymous clients, as far as the two others allow it; for
/// clients that are not subscribed.
fn may_write(
    rules: &ChannelRules,
    (subscribers, anonymous, for_client): (bool, bool, bool),
    channel: &Channel,
    user: &UserId,
    subscribed: bool,
) -> bool {
    let allowed = match (user.is_anonymous(), subscribed) {
        (true, true) => anonymous,
        (false, true) => subscribers || for_client,
        (true, false) => anonymous && for_client,
        (false, false) => for_client,
    };
    allowed && (subscribed || is_for_everyone(rules, channel))
}

pub fn may_read_history(
    rules: &ChannelRules,
    options: &ChannelOptions,
    channel: &Channel,
    user: &UserId,
    subscribed: bool,
) -> bool {
    let without = (options.allow_history_for_client, options.allow_history_for_anonymous);
    may_read(rules, options.allow_history, without, channel, user, subscribed)
}

pub fn may_read_presence(
    rules: &ChannelRules,
    options: &ChannelOptions,
    channel: &Channel,
    user: &UserId,
    subscribed: bool,
) -> bool {
    let without = (options.allow_presence_for_client, options.allow_presence_for_anonymous);
    may_read(rules, options.allow_presence, without, channel, user, subscribed)
}

/// `without`: whether a read is allowed without a subscription, for clients with a user and for anonymous ones.
fn may_read(
    rules: &ChannelRules,
    subscribers: bool,
    without: (bool, bool),
    channel: &Channel,
    user: &UserId,
    subscribed: bool,
) -> bool {
    let without = if user.is_anonymous() { without.1 } else { without.0 };
    subscribed && subscribers || without && (subscribed || is_for_everyone(rules, channel))
}

/// Whether subscribers may recover what they missed. Recovery returns history, so it is for clients that may read history,
/// unless an option allows it by itself.
pub fn may_recover(options: &ChannelOptions) -> bool {
    options.force_recovery || options.allow_recovery || options.allow_history
}

/// Returns what a client's capabilities allow in a channel, beside what the options allow. The first capability that names
/// the channel decides, as in Centrifugo; later ones do not count.
pub fn rights(caps: &[Capability], names: &ChannelNames, channel: &Channel) -> Rights {
    let is_meant = |capability: &&Capability| match capability.matching {
        Matching::Exact => capability.channels.iter().any(|name| **name == *channel.as_str()),
        Matching::Wildcard => capability.channels.iter().any(|pattern| describes(names, pattern, channel)),
    };
    caps.iter().find(is_meant).map(|capability| capability.allow).unwrap_or_default()
}

/// Whether a pattern matches a channel. It must spell out the marks that restrict access, that of a private channel and
/// those before a client and before users: `*` alone matches none of them.
fn describes(names: &ChannelNames, pattern: &str, channel: &Channel) -> bool {
    let names_a_client = names.audience(channel.as_str()).client.is_some();
    let of_channel = names.parts(channel.as_str(), names_a_client);
    let of_pattern = names.parts(pattern, names_a_client);
    let fits = |pattern: Option<&str>, text: Option<&str>| match (pattern, text) {
        (Some(pattern), Some(text)) => wildcard::matches(pattern, text),
        (None, None) => true,
        _ => false,
    };
    of_pattern.private == of_channel.private
        && fits(of_pattern.users, of_channel.users)
        && fits(of_pattern.client, of_channel.client)
        && wildcard::matches(of_pattern.name, of_channel.name)
}

fn is_for_everyone(rules: &ChannelRules, channel: &Channel) -> bool {
    rules.names.audience(channel.as_str()).is_everyone()
}

#[cfg(test)]
mod tests {
    use shared::channel::CHANNEL_BYTES_MAX;

    use super::*;

    fn rules() -> ChannelRules {
        ChannelRules::default()
    }

    fn client() -> ClientId {
        ClientId::from_bits(7)
    }

    fn channel(name: &str) -> Channel {
        Channel::parse(name, CHANNEL_BYTES_MAX).unwrap()
    }

    #[test]
    fn nothing_is_allowed_unless_an_option_says_so() {
        let options = ChannelOptions::default();
        for user in [UserId::ANONYMOUS, UserId::new("ann")] {
            for name in ["news", "$news", "news#ann", "news#"] {
                assert!(!may_subscribe(&rules(), &options, &channel(name), &user, client()), "{name}");
                assert!(!may_publish(&rules(), &options, &channel(name), &user, true), "{name}");
            }
        }
        for user in [UserId::ANONYMOUS, UserId::new("ann")] {
            assert!(!may_read_history(&rules(), &options, &channel("news"), &user, true));
            assert!(!may_read_presence(&rules(), &options, &channel("news"), &user, true));
        }
        assert!(!may_recover(&options));
    }

    #[test]
    fn users_and_anonymous_clients_are_let_in_by_different_options() {
        let users = ChannelOptions { allow_subscribe: true, allow_publish: true, ..Default::default() };
        let strangers = ChannelOptions {
            allow_subscribe_anonymous: true,
            allow_publish_anonymous: true,
            ..Default::default()
        };
        let (ann, nobody, news) = (UserId::new("ann"), UserId::ANONYMOUS, channel("news"));
        assert!(
            may_subscribe(&rules(), &users, &news, &ann, client())
                && may_publish(&rules(), &users, &news, &ann, true)
        );
        assert!(
            !may_subscribe(&rules(), &users, &news, &nobody, client())
                && !may_publish(&rules(), &users, &news, &nobody, true)
        );
        assert!(
            may_subscribe(&rules(), &strangers, &news, &nobody, client())
                && may_publish(&rules(), &strangers, &news, &nobody, true)
        );
        assert!(
            !may_subscribe(&rules(), &strangers, &news, &ann, client())
                && !may_publish(&rules(), &strangers, &news, &ann, true)
        );
    }

    #[test]
    fn publishing_without_being_in_the_channel_takes_an_option_of_its_own() {
        let subscribers = ChannelOptions {
            allow_subscribe: true,
            allow_publish: true,
            allow_publish_anonymous: true,
            ..Default::default()
        };
        let users = ChannelOptions { allow_publish_for_client: true, ..Default::default() };
        let all = ChannelOptions { allow_publish_anonymous: true, ..users.clone() };
        let (ann, nobody) = (UserId::new("ann"), UserId::ANONYMOUS);
        for (options, by_ann, by_nobody) in
            [(&subscribers, false, false), (&users, true, false), (&all, true, true)]
        {
            assert_eq!(may_publish(&rules(), options, &channel("news"), &ann, false), by_ann);
            assert_eq!(may_publish(&rules(), options, &channel("news"), &nobody, false), by_nobody);
            for name in ["$news", "news#ann", "news#"] {
                assert!(!may_publish(&rules(), options, &channel(name), &ann, false), "{name}");
                assert!(!may_publish(&rules(), options, &channel(name), &nobody, false), "{name}");
            }
        }
        assert!(may_publish(&rules(), &users, &channel("$news"), &ann, true));
    }

    #[test]
    fn a_channel_that_names_its_users_is_for_these_alone() {
        let options = ChannelOptions {
            allow_subscribe: true,
            allow_subscribe_anonymous: true,
            allow_user_limited: true,
            allow_publish: true,
            ..Default::default()
        };
        let enters = |name: &str, user: &str| {
            may_subscribe(&rules(), &options, &channel(name), &UserId::new(user), client())
        };
        assert!(enters("chat#ann", "ann"));
        assert!(enters("chat#bob,ann", "ann"));
        assert!(!enters("chat#anna", "ann"));
        assert!(!enters("chat#ann", "bob"));
        assert!(!enters("chat#ann#bob", "ann"), "the users stand after the last sign");
        assert!(!enters("chat#", ""), "an empty list does not name anonymous clients");
        assert!(!enters("$chat#ann", "ann"), "a private channel needs a token");
        assert!(!may_publish(&rules(), &options, &channel("chat#ann"), &UserId::new("bob"), false));
        assert!(may_publish(&rules(), &options, &channel("chat#ann"), &UserId::new("ann"), true));
    }

    #[test]
    fn a_channel_that_names_a_client_is_for_that_one_alone() {
        let options = ChannelOptions {
            allow_subscribe: true,
            allow_subscribe_anonymous: true,
            allow_client_channels: true,
            allow_user_limited: true,
            allow_publish_for_client: true,
            ..Default::default()
        };
        let enters = |options: &ChannelOptions, name: &str, user: &str, client| {
            may_subscribe(&rules(), options, &channel(name), &UserId::new(user), client)
        };
        let client = ClientId::from_bits(7);
        let (own, of_ann) = (format!("inbox&{client}"), format!("inbox&{client}#ann"));
        assert!(enters(&options, &own, "", client) && enters(&options, &own, "ann", client));
        assert!(!enters(&options, &own, "ann", ClientId::from_bits(8)));
        assert!(enters(&options, &of_ann, "ann", client) && !enters(&options, &of_ann, "bob", client));
        assert!(!enters(&options, &format!("${own}"), "ann", client), "a private channel needs a token");
        assert!(enters(&options, "stocks&T", "ann", client), "what is no id names no client");
        let without = ChannelOptions { allow_client_channels: false, ..options.clone() };
        assert!(!enters(&without, &own, "ann", client));
        assert!(!may_publish(&rules(), &options, &channel(&own), &UserId::new("ann"), false));
        let caps = |pattern| [capability(Matching::Wildcard, &[pattern], SUBSCRIBE)];
        let opened = |pattern| rights(&caps(pattern), &rules().names, &channel(&own)).subscribe;
        assert!(!opened("*") && opened("*&*"));
    }

    #[test]
    fn history_and_presence_are_for_subscribers_unless_options_of_their_own_say_more() {
        let (ann, nobody, news) = (UserId::new("ann"), UserId::ANONYMOUS, channel("news"));
        let subscribers = ChannelOptions { allow_history: true, allow_presence: true, ..Default::default() };
        let users = ChannelOptions {
            allow_history_for_client: true,
            allow_presence_for_client: true,
            ..Default::default()
        };
        let strangers = ChannelOptions {
            allow_history_for_anonymous: true,
            allow_presence_for_anonymous: true,
            ..Default::default()
        };
        for (options, user, subscribed, expected) in [
            (&subscribers, &ann, true, true),
            (&subscribers, &nobody, true, true),
            (&subscribers, &ann, false, false),
            (&users, &ann, false, true),
            (&users, &ann, true, true),
            (&users, &nobody, false, false),
            (&strangers, &nobody, false, true),
            (&strangers, &ann, false, false),
        ] {
            assert_eq!(may_read_history(&rules(), options, &news, user, subscribed), expected);
            assert_eq!(may_read_presence(&rules(), options, &news, user, subscribed), expected);
            for name in ["$news", "news#ann"] {
                assert_eq!(
                    may_read_history(&rules(), options, &channel(name), user, subscribed),
                    expected && subscribed
                );
                assert_eq!(
                    may_read_presence(&rules(), options, &channel(name), user, subscribed),
                    expected && subscribed
                );
            }
        }
    }

    #[test]
    fn recovery_takes_an_option_of_its_own_or_the_right_to_read_history() {
        for options in [
            ChannelOptions { force_recovery: true, ..Default::default() },
            ChannelOptions { allow_recovery: true, ..Default::default() },
            ChannelOptions { allow_history: true, ..Default::default() },
        ] {
            assert!(may_recover(&options));
        }
        let positioned = ChannelOptions { force_positioning: true, ..Default::default() };
        assert!(!may_recover(&positioned));
    }

    fn capability(matching: Matching, channels: &[&str], allow: Rights) -> Capability {
        Capability { channels: channels.iter().map(|&name| name.into()).collect(), matching, allow }
    }

    const SUBSCRIBE: Rights = Rights { subscribe: true, publish: false, presence: false, history: false };
    const PUBLISH: Rights = Rights { subscribe: false, publish: true, presence: false, history: false };

    #[test]
    fn the_first_capability_that_names_a_channel_decides() {
        let caps = [
            capability(Matching::Exact, &["news", "user_42"], SUBSCRIBE),
            capability(Matching::Exact, &["user_42"], PUBLISH),
            capability(Matching::Wildcard, &["user_*"], PUBLISH),
        ];
        let rights = |name: &str| rights(&caps, &rules().names, &channel(name));
        assert_eq!(rights("news"), SUBSCRIBE);
        assert_eq!(rights("user_42"), SUBSCRIBE, "what stands behind it does not count");
        assert_eq!(rights("user_43"), PUBLISH);
        assert_eq!(rights("other"), Rights::default());
        assert_eq!(super::rights(&[], &rules().names, &channel("news")), Rights::default());
    }

    #[test]
    fn a_star_is_a_pattern_only_where_patterns_are_meant() {
        let exact = [capability(Matching::Exact, &["*"], SUBSCRIBE)];
        assert_eq!(rights(&exact, &rules().names, &channel("news")), Rights::default());
        assert_eq!(rights(&exact, &rules().names, &channel("*")), SUBSCRIBE);
        let wildcard = [capability(Matching::Wildcard, &["*"], SUBSCRIBE)];
        assert_eq!(rights(&wildcard, &rules().names, &channel("news")), SUBSCRIBE);
    }

    #[test]
    fn a_pattern_opens_what_keeps_others_out_only_if_it_says_so() {
        for (pattern, name, expected) in [
            ("*", "$news", false),
            ("$*", "$news", true),
            ("$*", "news", false),
            ("*", "chat#ann", false),
            ("chat#*", "chat#ann,bob", true),
            ("chat#ann", "chat#bob", false),
            ("*#ann", "chat#ann", true),
            ("chat#*", "chat", false),
            ("*", "a#b#ann", false),
            ("*#ann", "a#b#ann", true),
        ] {
            let caps = [capability(Matching::Wildcard, &[pattern], SUBSCRIBE)];
            assert_eq!(rights(&caps, &rules().names, &channel(name)).subscribe, expected, "{pattern} {name}");
        }
        let exact = [capability(Matching::Exact, &["$news", "chat#ann"], SUBSCRIBE)];
        assert!(
            rights(&exact, &rules().names, &channel("$news")).subscribe
                && rights(&exact, &rules().names, &channel("chat#ann")).subscribe
        );
    }
}
