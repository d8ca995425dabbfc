//! The parts of a channel's name: `[$][namespace:]rest[&client][#user1,user2]`.

use serde::{Deserialize, Serialize};
use shared::id::ClientId;

/// The longest mark, in bytes.
const MARK_BYTES_MAX: usize = 8;

/// The separators in a channel's name: 1 to 8 ASCII punctuation characters each, except `*`, `/`, `-` and `_`. An
/// empty separator disables what it marks.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChannelNames {
    /// The prefix of private channels, which need a subscription token.
    pub private_prefix: Box<str>,
    /// The separator after the namespace. The first one in a name counts.
    pub namespace_boundary: Box<str>,
    /// The separator before the list of users that a channel is limited to. The last one in a name counts.
    pub user_boundary: Box<str>,
    /// The separator between those users.
    pub user_separator: Box<str>,
    /// The separator before the id of the only client that a channel is limited to. It stands before the users, the
    /// last one in a name counts, and it has no effect unless a client id follows.
    pub client_boundary: Box<str>,
}

impl Default for ChannelNames {
    fn default() -> Self {
        Self {
            private_prefix: "$".into(),
            namespace_boundary: ":".into(),
            user_boundary: "#".into(),
            user_separator: ",".into(),
            client_boundary: "&".into(),
        }
    }
}

/// Who may subscribe to a channel, as far as its name restricts that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NameAudience<'a> {
    pub private: bool,
    /// The list of users as it is written, if the name has one.
    pub users: Option<&'a str>,
    pub client: Option<ClientId>,
}

impl NameAudience<'_> {
    /// Whether the name restricts nobody.
    pub fn is_everyone(&self) -> bool {
        !self.private && self.users.is_none() && self.client.is_none()
    }
}

/// The parts of a name, or of a pattern of names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Parts<'a> {
    pub(crate) private: bool,
    /// What is left between the other parts: the namespace and the rest.
    pub(crate) name: &'a str,
    pub(crate) client: Option<&'a str>,
    pub(crate) users: Option<&'a str>,
}

impl ChannelNames {
    pub fn audience<'a>(&self, channel: &'a str) -> NameAudience<'a> {
        let (before_users, users) = cut_last(channel, &self.user_boundary);
        NameAudience {
            private: self.is_private(channel),
            users,
            client: cut_last(before_users, &self.client_boundary).1.and_then(ClientId::parse),
        }
    }

    pub fn is_private(&self, channel: &str) -> bool {
        !self.private_prefix.is_empty() && channel.starts_with(&*self.private_prefix)
    }

    /// Whether this user is in the list of users of a name.
    pub fn lists(&self, users: &str, user: &str) -> bool {
        match &*self.user_separator {
            "" => users == user,
            separator => users.split(separator).any(|listed| listed == user),
        }
    }

    /// Returns the name without the mark of a private channel.
    pub fn public_part<'a>(&self, channel: &'a str) -> &'a str {
        channel.strip_prefix(&*self.private_prefix).unwrap_or(channel)
    }

    /// Splits a name without the mark of a private channel into its namespace, if it has one, and what follows it.
    pub fn namespace<'a>(&self, public_part: &'a str) -> (Option<&'a str>, &'a str) {
        match find(public_part, &self.namespace_boundary) {
            Some(at) => (Some(&public_part[..at]), &public_part[at + self.namespace_boundary.len()..]),
            None => (None, public_part),
        }
    }

    /// Splits a name or a pattern. The text in the client's place is not checked to be an id.
    pub(crate) fn parts<'a>(&self, text: &'a str, names_a_client: bool) -> Parts<'a> {
        let (before_users, users) = cut_last(text, &self.user_boundary);
        let (name, client) = match names_a_client {
            true => cut_last(before_users, &self.client_boundary),
            false => (before_users, None),
        };
        Parts { private: self.is_private(text), name, client, users }
    }

    /// Returns all problems of the marks, as (key, problem).
    pub fn validate(&self) -> Vec<(&'static str, String)> {
        let marks = self.marks();
        let mut found = Vec::new();
        for (at, (key, mark)) in marks.iter().enumerate() {
            if mark.is_empty() {
                continue;
            }
            if mark.len() > MARK_BYTES_MAX || !mark.bytes().all(|byte| byte.is_ascii_punctuation()) {
                let problem = format!("is \"{mark}\", must be 1 to {MARK_BYTES_MAX} punctuation characters");
                found.push((*key, problem));
            } else if mark.contains(['*', '/', '-', '_']) {
                let problem = format!(
                    "is \"{mark}\": * and / are reserved for patterns, - and _ for names of namespaces"
                );
                found.push((*key, problem));
            }
            for (other, of_other) in &marks[..at] {
                if !of_other.is_empty() && (mark.contains(of_other) || of_other.contains(mark)) {
                    let problem =
                        format!("is \"{mark}\", which cannot be distinguished from {other}, \"{of_other}\"");
                    found.push((*key, problem));
                }
            }
        }
        found
    }

    fn marks(&self) -> [(&'static str, &str); 5] {
        [
            ("private_prefix", &self.private_prefix),
            ("namespace_boundary", &self.namespace_boundary),
            ("user_boundary", &self.user_boundary),
            ("user_separator", &self.user_separator),
            ("client_boundary", &self.client_boundary),
        ]
    }
}

/// Returns the first position of a mark. Most marks are one byte, which is found without the machinery for longer ones.
fn find(text: &str, mark: &str) -> Option<usize> {
    match mark.as_bytes() {
        [] => None,
        [byte] => text.bytes().position(|read| read == *byte),
        _ => text.find(mark),
    }
}

/// Splits a text at the last mark: what stands before it, and what stands behind it.
fn cut_last<'a>(text: &'a str, mark: &str) -> (&'a str, Option<&'a str>) {
    let at = match mark.as_bytes() {
        [] => None,
        [byte] => text.bytes().rposition(|read| read == *byte),
        _ => text.rfind(mark),
    };
    at.map_or((text, None), |at| (&text[..at], Some(&text[at + mark.len()..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: &str = "8f14e45f-ceea-467f-8a3d-0a4c1c3e2b11";

    #[test]
    fn a_namespace_is_what_stands_before_the_first_boundary() {
        let names = ChannelNames::default();
        let namespace = |name| names.namespace(names.public_part(name));
        assert_eq!(namespace("prices:AAPL:bid"), (Some("prices"), "AAPL:bid"));
        assert_eq!(namespace("$prices:AAPL"), (Some("prices"), "AAPL"));
        assert_eq!(namespace("AAPL"), (None, "AAPL"));
        assert_eq!(namespace("новости:日本"), (Some("новости"), "日本"));
    }

    #[test]
    fn users_stand_last_and_a_client_before_them() {
        let names = ChannelNames::default();
        let name = format!("chat:a&{CLIENT}#ann,bob");
        let audience = names.audience(&name);
        assert_eq!(audience.users, Some("ann,bob"));
        assert_eq!(audience.client, ClientId::parse(CLIENT));
        assert!(!audience.private && !audience.is_everyone());
        assert!(names.lists("ann,bob", "bob") && !names.lists("ann,bob", "bo"));
        assert!(names.audience("stocks:AT&T").is_everyone(), "what is no id names no client");
        assert!(!names.audience("$news").is_everyone());
    }

    #[test]
    fn other_marks_divide_names_too_and_an_empty_one_does_not() {
        let names = ChannelNames {
            private_prefix: "".into(),
            namespace_boundary: "::".into(),
            user_boundary: "@@".into(),
            user_separator: "".into(),
            client_boundary: "".into(),
        };
        assert_eq!(names.validate(), []);
        assert_eq!(names.namespace("a::b:c"), (Some("a"), "b:c"));
        let name = format!("$a&{CLIENT}@@ann,bob");
        let audience = names.audience(&name);
        assert_eq!((audience.private, audience.users, audience.client), (false, Some("ann,bob"), None));
        assert!(names.lists("ann,bob", "ann,bob") && !names.lists("ann,bob", "ann"));
    }

    #[test]
    fn marks_that_cannot_be_told_apart_are_told_all_at_once() {
        assert_eq!(ChannelNames::default().validate(), []);
        let names = ChannelNames {
            private_prefix: "::".into(),
            user_boundary: "x".into(),
            user_separator: "*".into(),
            ..ChannelNames::default()
        };
        let keys: Vec<&str> = names.validate().iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, ["namespace_boundary", "user_boundary", "user_separator"]);
    }
}
