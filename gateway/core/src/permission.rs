//! Who may do what in which channel without a subscription token.

use shared::channel::Channel;
use shared::id::UserId;

use crate::channel_rules::ChannelOptions;

/// Before the names of the only users a channel is for: `chat#alice,bob`.
pub const USERS_SEPARATOR: char = '#';

/// Between the names of those users.
pub const USER_SEPARATOR: char = ',';

/// Whether a client may subscribe without a subscription token. A private channel always needs one, and a channel
/// that names its users is for these alone.
pub fn may_subscribe(options: &ChannelOptions, channel: &Channel, user: &UserId) -> bool {
    if channel.is_private() {
        return false;
    }
    match named_users(channel) {
        Some(users) => {
            options.allow_user_limited
                && !user.is_anonymous()
                && users.split(USER_SEPARATOR).any(|named| named == user.as_str())
        }
        None if user.is_anonymous() => options.allow_subscribe_anonymous,
        None => options.allow_subscribe,
    }
}

/// Whether a client may publish. Into a channel that is not for everyone, only its subscribers may.
pub fn may_publish(options: &ChannelOptions, channel: &Channel, user: &UserId, subscribed: bool) -> bool {
    let allowed = if user.is_anonymous() { options.allow_publish_anonymous } else { options.allow_publish };
    let for_everyone = !channel.is_private() && named_users(channel).is_none();
    allowed && (for_everyone || subscribed)
}

pub fn may_read_history(options: &ChannelOptions, subscribed: bool) -> bool {
    options.allow_history && subscribed
}

pub fn may_read_presence(options: &ChannelOptions, subscribed: bool) -> bool {
    options.allow_presence && subscribed
}

fn named_users(channel: &Channel) -> Option<&str> {
    channel.as_str().rsplit_once(USERS_SEPARATOR).map(|(_, users)| users)
}

#[cfg(test)]
mod tests {
    use shared::channel::CHANNEL_BYTES_MAX;

    use super::*;

    fn channel(name: &str) -> Channel {
        Channel::parse(name, CHANNEL_BYTES_MAX).unwrap()
    }

    #[test]
    fn nothing_is_allowed_unless_an_option_says_so() {
        let options = ChannelOptions::default();
        for user in [UserId::ANONYMOUS, UserId::new("ann")] {
            for name in ["news", "$news", "news#ann", "news#"] {
                assert!(!may_subscribe(&options, &channel(name), &user), "{name}");
                assert!(!may_publish(&options, &channel(name), &user, true), "{name}");
            }
        }
        assert!(!may_read_history(&options, true));
        assert!(!may_read_presence(&options, true));
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
        assert!(may_subscribe(&users, &news, &ann) && may_publish(&users, &news, &ann, false));
        assert!(!may_subscribe(&users, &news, &nobody) && !may_publish(&users, &news, &nobody, false));
        assert!(may_subscribe(&strangers, &news, &nobody) && may_publish(&strangers, &news, &nobody, false));
        assert!(!may_subscribe(&strangers, &news, &ann) && !may_publish(&strangers, &news, &ann, false));
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
        let enters = |name: &str, user: &str| may_subscribe(&options, &channel(name), &UserId::new(user));
        assert!(enters("chat#ann", "ann"));
        assert!(enters("chat#bob,ann", "ann"));
        assert!(!enters("chat#anna", "ann"));
        assert!(!enters("chat#ann", "bob"));
        assert!(!enters("chat#ann#bob", "ann"), "the users stand after the last sign");
        assert!(!enters("chat#", ""), "an empty list does not name anonymous clients");
        assert!(!enters("$chat#ann", "ann"), "a private channel needs a token");
        assert!(!may_publish(&options, &channel("chat#ann"), &UserId::new("bob"), false));
        assert!(may_publish(&options, &channel("chat#ann"), &UserId::new("ann"), true));
    }

    #[test]
    fn only_subscribers_read_history_and_presence() {
        let options = ChannelOptions { allow_history: true, allow_presence: true, ..Default::default() };
        assert!(may_read_history(&options, true) && may_read_presence(&options, true));
        assert!(!may_read_history(&options, false) && !may_read_presence(&options, false));
    }
}
