//! The channels in Redis in which emitters publish, and the kind of messages in each.

use shared::protocol::socketio::Namespaces;

use crate::broker::redis::follow_patterns::literally;
use crate::socketio::EmittersConfig;

/// The suffix of the channel in which nodes publish a mark as they begin to listen.
const MARKS: &str = "-tidegate#";

/// The kind of messages in a channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum EmitterSource<'a> {
    /// An event for this namespace.
    Packet(&'a str),
    /// A command about clients in this namespace.
    Request(&'a str),
    Python,
    /// A mark of a node.
    Mark,
}

/// All channels that the node listens to.
#[derive(Debug)]
pub(super) struct EmitterChannels {
    marks: String,
    python: Option<String>,
    /// For each namespace: the prefix of its channels of events, and its channel of commands.
    of_namespaces: Vec<(String, String, Box<str>)>,
}

impl EmitterChannels {
    pub(super) fn new(settings: &EmittersConfig, namespaces: &Namespaces) -> Self {
        let EmittersConfig { prefix, python_channel, .. } = settings;
        let is_set = |name: &str| !name.is_empty();
        let of = |namespace: &str| {
            let (events, commands) =
                (format!("{prefix}#{namespace}#"), format!("{prefix}-request#{namespace}#"));
            (events, commands, namespace.into())
        };
        let listened_to = namespaces.iter().filter(|_| is_set(prefix));
        let mut of_namespaces: Vec<_> = listened_to.map(|namespace| of(namespace.name())).collect();
        // The name of one namespace may begin with that of another, so the longest come first.
        of_namespaces.sort_by_key(|(events, ..)| std::cmp::Reverse(events.len()));
        let base = if is_set(prefix) { prefix } else { python_channel };
        Self {
            marks: format!("{base}{MARKS}"),
            python: Some(python_channel).filter(|name| is_set(name)).cloned(),
            of_namespaces,
        }
    }

    /// The channel in which nodes publish a mark as they begin to listen.
    pub(super) fn marks(&self) -> &str {
        &self.marks
    }

    /// Returns a digest of the channels (FNV-1a). Only nodes with the same digest number messages alike.
    pub(super) fn digest(&self) -> u32 {
        let bytes = self.patterns().join("\n");
        bytes.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
    }

    /// Returns patterns for all channels, also for those that need none: servers of Socket.IO count who subscribes to a
    /// channel of commands by its name, and wait for as many answers.
    pub(super) fn patterns(&self) -> Vec<String> {
        let mut patterns = vec![literally(&self.marks)];
        patterns.extend(self.python.as_deref().map(literally));
        for (events, commands, _) in &self.of_namespaces {
            patterns.push(format!("{}*", literally(events)));
            patterns.push(literally(commands));
        }
        patterns
    }

    pub(super) fn source(&self, name: &[u8]) -> Option<EmitterSource<'_>> {
        if name == self.marks.as_bytes() {
            return Some(EmitterSource::Mark);
        }
        if self.python.as_deref().is_some_and(|python| python.as_bytes() == name) {
            return Some(EmitterSource::Python);
        }
        self.of_namespaces.iter().find_map(|(events, commands, namespace)| {
            if name == commands.as_bytes() {
                return Some(EmitterSource::Request(namespace));
            }
            name.starts_with(events.as_bytes()).then_some(EmitterSource::Packet(namespace))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(settings: &EmittersConfig) -> EmitterChannels {
        let mut namespaces = Namespaces::new(":");
        for (name, channels) in [("/", "socketio"), ("/a", "a"), ("/a#b", "ab")] {
            assert!(namespaces.add(name, channels, Default::default(), Default::default()));
        }
        EmitterChannels::new(settings, &namespaces)
    }

    #[test]
    fn a_channel_says_for_which_namespace_it_is() {
        let names = names(&EmittersConfig::default());
        let source = |name: &str| names.source(name.as_bytes());
        for (name, expected) in [
            ("socket.io#/#", Some(EmitterSource::Packet("/"))),
            ("socket.io#/#room#", Some(EmitterSource::Packet("/"))),
            ("socket.io#/a#", Some(EmitterSource::Packet("/a"))),
            ("socket.io#/a#room#", Some(EmitterSource::Packet("/a"))),
            ("socket.io#/a#b#", Some(EmitterSource::Packet("/a#b"))),
            ("socket.io-request#/#", Some(EmitterSource::Request("/"))),
            ("socket.io-request#/a#", Some(EmitterSource::Request("/a"))),
            ("socket.io-response#/#", None),
            ("socket.io#/other#", None),
            ("socketio", Some(EmitterSource::Python)),
            ("socket.io-tidegate#", Some(EmitterSource::Mark)),
            ("", None),
        ] {
            assert_eq!(source(name), expected, "{name}");
        }
    }

    #[test]
    fn nodes_that_listen_to_the_same_are_known_by_it() {
        let digest = |settings: &EmittersConfig| names(settings).digest();
        assert_eq!(
            digest(&EmittersConfig::default()),
            digest(&EmittersConfig { message_bytes_max: 1, ..EmittersConfig::default() })
        );
        let other = EmittersConfig { python_channel: String::new(), ..EmittersConfig::default() };
        assert_ne!(digest(&EmittersConfig::default()), digest(&other));
    }

    #[test]
    fn what_is_not_set_is_not_listened_to() {
        let python = EmittersConfig { prefix: String::new(), ..EmittersConfig::default() };
        assert_eq!(names(&python).patterns(), ["socketio-tidegate#", "socketio"]);
        let node = EmittersConfig {
            prefix: "a*".to_owned(),
            python_channel: String::new(),
            ..EmittersConfig::default()
        };
        assert_eq!(
            names(&node).patterns(),
            [
                r"a\*-tidegate#",
                r"a\*#/a#b#*",
                r"a\*-request#/a#b#",
                r"a\*#/a#*",
                r"a\*-request#/a#",
                r"a\*#/#*",
                r"a\*-request#/#",
            ]
        );
    }
}
