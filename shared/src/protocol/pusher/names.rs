//! Names of channels in this protocol and in the gateway, and the properties that a channel's name implies.

use crate::channel::Channel;
use crate::protocol::name_part;

/// Longest name of a channel, in bytes.
pub const CHANNEL_BYTES_MAX: usize = 164;
/// Longest name of an event, in bytes.
pub const EVENT_BYTES_MAX: usize = 200;
/// Longest id of a user, in bytes.
pub const USER_BYTES_MAX: usize = 128;

/// The prefix of a user's own channel in this protocol.
const SERVER_TO_USER: &str = "#server-to-user-";
/// Precedes the user boundary in the name of the channel that reports whether a user is online.
const ONLINE: &str = "online";
/// Who may subscribe to a channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Public,
    /// Clients for which the application has signed.
    Private,
    /// Like `Private`, and every subscriber is told who else is there.
    Presence,
    /// The user whose name the channel has, once signed in.
    User,
}

/// The properties that a channel's name implies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PusherChannelKind {
    pub access: Access,
    /// Whether the channel retains its last event.
    pub cache: bool,
    /// Whether payloads are encrypted end to end, so that not even the server can read them.
    pub encrypted: bool,
}

impl PusherChannelKind {
    /// Returns the properties of a channel by its name in this protocol.
    pub fn of(name: &str) -> Self {
        let kind = |access, cache, encrypted| Self { access, cache, encrypted };
        if name.starts_with(SERVER_TO_USER) {
            return kind(Access::User, false, false);
        }
        if let Some(rest) = name.strip_prefix("private-") {
            if let Some(rest) = rest.strip_prefix("encrypted-") {
                return kind(Access::Private, rest.starts_with("cache-"), true);
            }
            return kind(Access::Private, rest.starts_with("cache-"), false);
        }
        if let Some(rest) = name.strip_prefix("presence-") {
            return kind(Access::Presence, rest.starts_with("cache-"), false);
        }
        kind(Access::Public, name.starts_with("cache-"), false)
    }

    /// Whether clients may send events to the channel.
    pub fn takes_client_events(self) -> bool {
        matches!(self.access, Access::Private | Access::Presence) && !self.encrypted
    }
}

/// Why a text is not a valid name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidName {
    #[error("is empty")]
    Empty,
    #[error("is longer than {0} bytes")]
    TooLong(usize),
    #[error("holds other characters than letters, digits and _-=@,.;")]
    Characters,
    #[error("begins with pusher: or pusher_internal:, which are the protocol's own")]
    Reserved,
}

/// Checks the name of a channel other than a user's own.
pub fn check_channel(name: &str) -> Result<(), InvalidName> {
    if name.is_empty() {
        return Err(InvalidName::Empty);
    }
    if name.len() > CHANNEL_BYTES_MAX {
        return Err(InvalidName::TooLong(CHANNEL_BYTES_MAX));
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-=@,.;".contains(&byte);
    if name.bytes().all(is_plain) { Ok(()) } else { Err(InvalidName::Characters) }
}

/// Checks the name of an event.
pub fn check_event(name: &str) -> Result<(), InvalidName> {
    match name.len() {
        0 => Err(InvalidName::Empty),
        _ if is_reserved(name) => Err(InvalidName::Reserved),
        1..=EVENT_BYTES_MAX => Ok(()),
        _ => Err(InvalidName::TooLong(EVENT_BYTES_MAX)),
    }
}

/// Whether libraries interpret an event of this name as one of the protocol's own.
pub(super) fn is_reserved(event: &str) -> bool {
    event.starts_with("pusher:") || event.starts_with("pusher_internal:")
}

/// Names of an app's channels in the gateway. They lie in the app's namespace, with a user's own channel behind the
/// user boundary as in any namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PusherNames {
    namespace: Box<str>,
    namespace_boundary: Box<str>,
    user_boundary: Box<str>,
}

/// A channel of the gateway, in terms of this protocol.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum SeenChannel<'a> {
    Channel(&'a str),
    /// A user's own channel.
    User(String),
    /// The channel that reports whether a user is online.
    Online(String),
}

impl PusherNames {
    /// Makes the names of an app in this namespace. The boundaries are those of the gateway's channel names.
    pub fn new(namespace: &str, namespace_boundary: &str, user_boundary: &str) -> Self {
        Self {
            namespace: namespace.into(),
            namespace_boundary: namespace_boundary.into(),
            user_boundary: user_boundary.into(),
        }
    }

    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Returns the gateway's name for a channel of this protocol. It does not validate `name`: an invalid name gives an
    /// invalid channel.
    pub fn channel(&self, name: &str) -> String {
        match name.strip_prefix(SERVER_TO_USER) {
            Some(user) => self.of_user(user),
            None => self.prefixed(name),
        }
    }

    /// Returns the user's own channel.
    pub fn of_user(&self, user: &str) -> String {
        self.prefixed(&format!("{}{}", self.user_boundary, name_part::encode(user)))
    }

    /// Returns the channel that reports whether a user is online.
    pub fn online(&self, user: &str) -> String {
        self.prefixed(&format!("{ONLINE}{}{}", self.user_boundary, name_part::encode(user)))
    }

    /// Returns the gateway's id of a user. It includes the app, so that the same id in two apps means two users.
    pub fn user(&self, user: &str) -> String {
        self.prefixed(user)
    }

    fn prefixed(&self, name: &str) -> String {
        format!("{}{}{name}", self.namespace, self.namespace_boundary)
    }

    /// Returns the name in this protocol of a channel of any app. `None` for other channels.
    pub fn name_of(&self, channel: &str) -> Option<String> {
        match self.seen(channel)? {
            SeenChannel::Channel(name) => Some(name.to_owned()),
            SeenChannel::User(user) => Some(format!("{SERVER_TO_USER}{user}")),
            SeenChannel::Online(_) => None,
        }
    }

    /// Returns the app's id of a user, from the gateway's id.
    pub fn user_of<'a>(&self, user: &'a str) -> Option<&'a str> {
        user.strip_prefix(&*self.namespace)?.strip_prefix(&*self.namespace_boundary)
    }

    pub(super) fn seen<'a>(&self, channel: &'a str) -> Option<SeenChannel<'a>> {
        let (_, name) = channel.split_once(&*self.namespace_boundary)?;
        if let Some(user) = name.strip_prefix(&*self.user_boundary) {
            return Some(SeenChannel::User(name_part::decode(user)));
        }
        let online = name.strip_prefix(ONLINE).and_then(|rest| rest.strip_prefix(&*self.user_boundary));
        Some(online.map_or(SeenChannel::Channel(name), |user| SeenChannel::Online(name_part::decode(user))))
    }

    pub(super) fn of<'a>(&self, channel: &'a Channel) -> Option<SeenChannel<'a>> {
        self.seen(channel.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> PusherNames {
        PusherNames::new("shop", ":", "#")
    }

    #[test]
    fn a_name_says_who_may_be_there_and_what_is_kept() {
        let kind = |name| {
            let PusherChannelKind { access, cache, encrypted } = PusherChannelKind::of(name);
            (access, cache, encrypted, PusherChannelKind::of(name).takes_client_events())
        };
        for (name, expected) in [
            ("news", (Access::Public, false, false, false)),
            ("cache-news", (Access::Public, true, false, false)),
            ("cached", (Access::Public, false, false, false)),
            ("private-news", (Access::Private, false, false, true)),
            ("private-cache-news", (Access::Private, true, false, true)),
            ("private-encrypted-news", (Access::Private, false, true, false)),
            ("private-encrypted-cache-news", (Access::Private, true, true, false)),
            ("presence-room", (Access::Presence, false, false, true)),
            ("presence-cache-room", (Access::Presence, true, false, true)),
            ("#server-to-user-42", (Access::User, false, false, false)),
        ] {
            assert_eq!(kind(name), expected, "{name}");
        }
    }

    #[test]
    fn names_of_channels_are_of_few_characters_and_not_long() {
        for good in ["news", "private-a_b-c=d@e,f.g;h", &"x".repeat(164)] {
            assert_eq!(check_channel(good), Ok(()), "{good}");
        }
        assert_eq!(check_channel(""), Err(InvalidName::Empty));
        assert_eq!(check_channel(&"x".repeat(165)), Err(InvalidName::TooLong(164)));
        for bad in ["a b", "a:b", "#server-to-user-42", "a#b", "é", "a/b", "a$b", "a&b", "a\n"] {
            assert_eq!(check_channel(bad), Err(InvalidName::Characters), "{bad:?}");
        }
        assert_eq!(check_event(&"é".repeat(101)), Err(InvalidName::TooLong(200)));
    }

    #[test]
    fn channels_lie_in_their_apps_namespace_and_read_back() {
        for (name, channel) in [
            ("news", "shop:news"),
            ("presence-room", "shop:presence-room"),
            ("#server-to-user-42", "shop:#42"),
            ("#server-to-user-a b,c#d", "shop:#a%20b%2Cc%23d"),
        ] {
            assert_eq!(names().channel(name), channel);
            assert_eq!(names().name_of(channel).as_deref(), Some(name));
        }
        assert_eq!(names().name_of("news"), None, "a channel without a namespace is no app's");
        assert_eq!(names().name_of(&names().online("42")), None);
        assert_eq!(names().seen("shop:online#4%2C2"), Some(SeenChannel::Online("4,2".to_owned())));
    }

    #[test]
    fn the_same_user_of_two_apps_is_two_users() {
        assert_eq!(names().user("42"), "shop:42");
        assert_eq!(names().user_of("shop:42"), Some("42"));
        assert_eq!(names().user_of("shop:4:2"), Some("4:2"));
        assert_eq!(names().user_of("shopping:42"), None);
    }
}
