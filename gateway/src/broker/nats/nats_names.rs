//! Names in NATS: subjects, and the streams that store them.
//!
//! A channel is one token of a subject, whatever its name holds. The subjects that nodes subscribe to have one more
//! token, so that one subscription of a node receives the publications of a channel with history, without history and
//! with an idempotency key.

use std::fmt::Write;
use std::sync::Arc;

use gateway_core::history::KeysBeside;
use ring::digest::{SHA256, digest};
use shared::channel::Channel;

/// A longer token, in bytes, is replaced by its digest: a subject must fit into a line of 4,096.
const TOKEN_BYTES_MAX: usize = 512;

/// The token behind a channel's, for publications without history.
const PASSING: &str = "m";

/// A token in a subject that every life of a stream takes beside its own. No channel and no ledger has it, and nobody
/// publishes there.
const ANY_LIFE: &str = "%any";

/// The streams of JetStream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum StreamKind {
    /// Publications of channels that keep up to this many.
    History(u32),
    /// Idempotency keys with a TTL of up to this many seconds.
    Once(u32),
    /// Nodes, and leases on tasks.
    State,
    /// Presence.
    Presence,
    /// Sessions that their clients may come back to.
    Sessions,
    /// Ledgers, which record who holds what over all nodes.
    Ledgers,
    /// Channels that keep state by key.
    Keys(KeysBeside),
}

impl StreamKind {
    /// Whether the subjects of a stream end with its life, so that a message for another life is not taken.
    pub(super) fn has_lives(self) -> bool {
        matches!(self, Self::History(_) | Self::Ledgers | Self::Keys(_))
    }

    /// Whether the content of a stream continues in another life, for which it has to be written anew.
    pub(super) fn is_carried_over(self) -> bool {
        matches!(self, Self::Keys(_))
    }
}

/// The names of one installation.
#[derive(Clone, Debug)]
pub(crate) struct NatsNames {
    prefix: Arc<str>,
}

impl NatsNames {
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into() }
    }

    /// Returns the name of a stream, which holds no dots.
    pub(crate) fn stream(&self, kind: StreamKind) -> String {
        let prefix = &self.prefix;
        match kind {
            StreamKind::History(size) => format!("{prefix}_history_{size}"),
            StreamKind::Once(seconds) => format!("{prefix}_once_{seconds}"),
            StreamKind::State => format!("{prefix}_state"),
            StreamKind::Presence => format!("{prefix}_presence"),
            StreamKind::Sessions => format!("{prefix}_sessions"),
            StreamKind::Ledgers => format!("{prefix}_ledgers"),
            StreamKind::Keys(KeysBeside::Staying) => format!("{prefix}_keys_staying"),
            StreamKind::Keys(_) => format!("{prefix}_keys_expiring"),
        }
    }

    /// Returns the subjects that a stream takes in this life; the subject with the life comes first. All lives of a
    /// stream have a subject in common: a server creates no second stream that takes a subject of another, so it does not
    /// create both when two nodes ask at once.
    pub(crate) fn taken(&self, kind: StreamKind, life: &str) -> Vec<String> {
        let prefix = &self.prefix;
        match kind {
            StreamKind::History(size) => {
                vec![self.whole_life(kind, life), format!("{prefix}.h{size}.{ANY_LIFE}")]
            }
            StreamKind::Once(seconds) => {
                vec![format!("{prefix}.o{seconds}.k.*.*"), format!("{prefix}.o{seconds}.p.*.*")]
            }
            StreamKind::State => vec![format!("{prefix}.s.*.*")],
            StreamKind::Presence => vec![format!("{prefix}.p.*.*.*.*")],
            StreamKind::Sessions => vec![format!("{prefix}.session.*")],
            StreamKind::Ledgers => vec![self.whole_life(kind, life), format!("{prefix}.ledger.{ANY_LIFE}")],
            StreamKind::Keys(beside) => {
                let word = word_of(beside);
                vec![
                    self.whole_life(kind, life),
                    format!("{prefix}.{word}p.*.*.{life}"),
                    format!("{prefix}.{word}.{ANY_LIFE}"),
                ]
            }
        }
    }

    /// Returns which messages are republished to nodes once they are stored, and the destination.
    pub(crate) fn republished(&self, kind: StreamKind) -> Option<(String, String)> {
        let prefix = &self.prefix;
        let source = match kind {
            StreamKind::History(size) => format!("{prefix}.h{size}.>"),
            StreamKind::Once(seconds) => format!("{prefix}.o{seconds}.p.>"),
            StreamKind::Keys(beside) => format!("{prefix}.{}.>", word_of(beside)),
            StreamKind::State | StreamKind::Presence | StreamKind::Sessions | StreamKind::Ledgers => {
                return None;
            }
        };
        Some((source, format!("{prefix}.c.>")))
    }

    /// Returns the life of a stream from a subject that it takes: empty for a stream without lives, and `None` if the
    /// stream does not take that subject.
    pub(crate) fn life_of<'a>(&self, kind: StreamKind, taken: &'a str) -> Option<&'a str> {
        if !kind.has_lives() {
            return self.taken(kind, "").iter().any(|ours| ours == taken).then_some("");
        }
        taken.strip_prefix(&self.whole_life(kind, ""))
    }

    /// Returns the stream of this name, if it is one that channels are in.
    pub(crate) fn of_channels(&self, stream: &str) -> Option<StreamKind> {
        match stream.strip_prefix(&*self.prefix)? {
            "_keys_expiring" => Some(StreamKind::Keys(KeysBeside::Expiring)),
            "_keys_staying" => Some(StreamKind::Keys(KeysBeside::Staying)),
            other => other.strip_prefix("_history_")?.parse().ok().map(StreamKind::History),
        }
    }

    /// Returns the subject with which a node receives everything of a channel.
    pub(crate) fn subscription(&self, channel: &Channel) -> String {
        format!("{}.c.{}.*", self.prefix, token(channel.as_str()))
    }

    /// Returns the subject of publications without history.
    pub(crate) fn passing(&self, channel: &Channel) -> String {
        format!("{}.c.{}.{PASSING}", self.prefix, token(channel.as_str()))
    }

    /// Returns the subject of a channel's history.
    pub(crate) fn history(&self, size: u32, channel: &Channel, life: &str) -> String {
        format!("{}.h{size}.{}.{life}", self.prefix, token(channel.as_str()))
    }

    /// Returns the subjects of all messages in one life of a stream.
    pub(crate) fn whole_life(&self, kind: StreamKind, life: &str) -> String {
        match kind {
            StreamKind::History(size) => format!("{}.h{size}.*.{life}", self.prefix),
            StreamKind::Keys(beside) => format!("{}.{}.*.{life}", self.prefix, word_of(beside)),
            _ => format!("{}.ledger.*.*.{life}", self.prefix),
        }
    }

    /// Returns the subject of the log of a channel that keeps state by key; in any life, if `life` is `*`.
    pub(crate) fn keys(&self, beside: KeysBeside, channel: &Channel, life: &str) -> String {
        format!("{}.{}.{}.{life}", self.prefix, word_of(beside), token(channel.as_str()))
    }

    /// Returns the subject of a part of a snapshot of that log, by the name of the part.
    pub(crate) fn part_of_keys(
        &self,
        beside: KeysBeside,
        channel: &Channel,
        part: &str,
        life: &str,
    ) -> String {
        format!("{}.{}p.{}.{part}.{life}", self.prefix, word_of(beside), token(channel.as_str()))
    }

    /// Returns which of the streams holds the log with this subject.
    pub(crate) fn is_in_keys(&self, subject: &str) -> Option<KeysBeside> {
        let word = subject.strip_prefix(&*self.prefix)?.strip_prefix('.')?.split('.').next()?;
        [KeysBeside::Expiring, KeysBeside::Staying].into_iter().find(|beside| word_of(*beside) == word)
    }

    /// Returns the subject of a session, by its key.
    pub(crate) fn session(&self, key: &str) -> String {
        format!("{}.session.{key}", self.prefix)
    }

    /// Returns the subject of a ledger's log, or of a part of a snapshot of it, by the name of the part.
    pub(crate) fn ledger(&self, ledger: &str, part: &str, life: &str) -> String {
        format!("{}.ledger.{}.{part}.{life}", self.prefix, token(ledger))
    }

    /// Returns the subject of an idempotency key in a channel with history.
    pub(crate) fn key(&self, seconds: u32, channel: &Channel, key: &str) -> String {
        format!("{}.o{seconds}.k.{}.{}", self.prefix, token(channel.as_str()), hash_of(key))
    }

    /// Returns the subject of a publication with an idempotency key in a channel without history.
    pub(crate) fn published_once(&self, seconds: u32, channel: &Channel, key: &str) -> String {
        format!("{}.o{seconds}.p.{}.{}", self.prefix, token(channel.as_str()), hash_of(key))
    }

    /// Returns the subject of a node's description, or of all nodes without a name.
    pub(crate) fn node(&self, node: Option<&str>) -> String {
        format!("{}.s.node.{}", self.prefix, node.map_or_else(|| "*".to_owned(), token))
    }

    /// Returns the subject of a node's lease, or of all nodes without a name.
    pub(crate) fn lease(&self, node: Option<&str>) -> String {
        format!("{}.s.lease.{}", self.prefix, node.map_or_else(|| "*".to_owned(), token))
    }

    pub(crate) fn task_lease(&self, what: &str) -> String {
        format!("{}.s.turn.{}", self.prefix, token(what))
    }

    /// Returns the subject on which nodes store messages to read the server's time from them.
    pub(crate) fn clock(&self) -> String {
        format!("{}.s.clock.now", self.prefix)
    }

    /// Returns the subject of a client that is present at a node.
    pub(crate) fn present(&self, channel: &Channel, node: &str, client: &str, user: &str) -> String {
        let (prefix, channel) = (&self.prefix, token(channel.as_str()));
        format!("{prefix}.p.{channel}.{}.{client}.{}", token(node), hash_of(user))
    }

    /// Returns the same subject for any user.
    pub(crate) fn present_as_any(&self, channel: &Channel, node: &str, client: &str) -> String {
        format!("{}.p.{}.{}.{client}.*", self.prefix, token(channel.as_str()), token(node))
    }

    /// Returns the subject with which a node tests whether presence can be stored. No channel has this token.
    pub(crate) fn trial(&self, node: &str) -> String {
        format!("{}.p.%t.{}.0.0", self.prefix, token(node))
    }

    pub(crate) fn all_present(&self, channel: &Channel) -> String {
        format!("{}.p.{}.*.*.*", self.prefix, token(channel.as_str()))
    }

    /// Returns the subject of all presence stored by a node. `node` is the token of the node.
    pub(crate) fn present_at(&self, node: &str) -> String {
        format!("{}.p.*.{node}.*.*", self.prefix)
    }

    /// Returns the subject of messages for all nodes.
    pub(crate) fn control(&self) -> String {
        format!("{}.control", self.prefix)
    }

    /// Returns the subject of messages for one node.
    pub(crate) fn node_messages(&self, node: &str) -> String {
        format!("{}.n.{}", self.prefix, token(node))
    }
}

fn word_of(beside: KeysBeside) -> &'static str {
    match beside {
        KeysBeside::Staying => "ks",
        KeysBeside::None | KeysBeside::Expiring => "ke",
    }
}

/// Returns the smallest class that is enough for `size`.
pub(crate) fn class_of(size: u32, classes: &[u32]) -> u32 {
    classes.iter().copied().find(|class| size <= *class).unwrap_or(size)
}

/// Returns a name as one token of a subject. Different names have different tokens.
pub(crate) fn token(name: &str) -> String {
    let mut token = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'.' | b'*' | b'>' | b'%') {
            token.push(byte.into());
        } else {
            let _never_fails = write!(token, "%{byte:02X}");
        }
    }
    // No escape begins with `%~`, so this token is no other name's.
    if token.len() > TOKEN_BYTES_MAX || token.is_empty() { format!("%~{}", hex_of(name, 32)) } else { token }
}

/// The length of digests that tell texts apart, in bytes.
pub(crate) const KEY_BYTES: usize = 16;

pub(crate) fn digest_of(text: &str) -> [u8; KEY_BYTES] {
    let digest = digest(&SHA256, text.as_bytes());
    let mut bytes = [0; KEY_BYTES];
    bytes.copy_from_slice(&digest.as_ref()[..KEY_BYTES]);
    bytes
}

/// Returns the same digest in letters and digits.
pub(crate) fn hash_of(text: &str) -> String {
    hex_of(text, KEY_BYTES)
}

fn hex_of(text: &str, bytes: usize) -> String {
    let digest = digest(&SHA256, text.as_bytes());
    digest.as_ref().iter().take(bytes).fold(String::with_capacity(bytes * 2), |mut hex, byte| {
        let _never_fails = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_token_holds_nothing_that_means_something_in_a_subject() {
        assert_eq!(token("prices:AAPL"), "prices:AAPL");
        assert_eq!(token("a.b *>%\u{e4}"), "a%2Eb%20%2A%3E%25%C3%A4");
        let long = "\u{1F600}".repeat(200);
        assert_eq!(token(&long).len(), 66);
        assert_ne!(token(&long), token(&long[4..]));
        assert!(token("").starts_with("%~"));
    }

    proptest! {
        #[test]
        fn names_that_differ_have_tokens_that_differ(names in proptest::collection::btree_set(".{0,40}", 0..20)) {
            let tokens: BTreeSet<String> = names.iter().map(|name| token(name)).collect();
            prop_assert_eq!(tokens.len(), names.len());
            for token in tokens {
                prop_assert!(token.bytes().all(|byte| byte.is_ascii_graphic() && !b".*>".contains(&byte)), "{}", token);
            }
        }
    }

    #[test]
    fn two_lives_of_a_stream_cannot_be_there_at_once() {
        let names = NatsNames::new("tidegate");
        for kept in [StreamKind::History(64), StreamKind::Ledgers, StreamKind::Keys(KeysBeside::Staying)] {
            let (one, other) = (names.taken(kept, "abc"), names.taken(kept, "xyz"));
            let both: Vec<_> = one.iter().filter(|subject| other.contains(subject)).collect();
            assert_eq!(both.len(), 1, "{one:?} {other:?}");
            assert_eq!(names.life_of(kept, both[0]), None, "it says nothing of a life");
            assert_ne!(one[0], other[0], "what is meant for one life is not taken in another");
        }
        // Streams of different kinds have no subjects in common.
        let kinds =
            [StreamKind::History(16), StreamKind::History(64), StreamKind::Ledgers, StreamKind::Sessions];
        let all: Vec<_> = kinds.iter().flat_map(|kept| names.taken(*kept, "abc")).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{all:?}");
    }

    #[test]
    fn the_life_and_the_size_of_a_stream_are_read_from_what_it_is_called() {
        let names = NatsNames::new("tidegate");
        let taken = names.taken(StreamKind::History(64), "abc");
        assert_eq!(names.life_of(StreamKind::History(64), &taken[0]), Some("abc"));
        for other in [StreamKind::History(16), StreamKind::Ledgers, StreamKind::State] {
            assert_eq!(names.life_of(other, &taken[0]), None);
        }
        let taken = names.taken(StreamKind::Ledgers, "abc");
        assert_eq!(names.life_of(StreamKind::Ledgers, &taken[0]), Some("abc"));
        assert_eq!(names.life_of(StreamKind::Sessions, "tidegate.session.*"), Some(""));
        for kept in [KeysBeside::Expiring, KeysBeside::Staying].map(StreamKind::Keys) {
            let taken = names.taken(kept, "abc");
            assert_eq!(names.life_of(kept, &taken[0]), Some("abc"));
            assert_eq!(names.of_channels(&names.stream(kept)), Some(kept));
        }
        let channel = Channel::parse("a", 255).unwrap();
        let log = names.keys(KeysBeside::Staying, &channel, "abc");
        assert_eq!((&*log, names.is_in_keys(&log)), ("tidegate.ks.a.abc", Some(KeysBeside::Staying)));
        assert_eq!(names.is_in_keys("tidegate.ksp.a.at-1-x.abc"), None);
        let history = StreamKind::History(64);
        assert_eq!(names.of_channels(&names.stream(history)), Some(history));
        assert_eq!(names.of_channels("tidegate_once_64"), None);
        assert_eq!(class_of(17, &[16, 64]), 64);
    }
}
