//! The names of everything this project has in Redis.
//!
//! What belongs to one channel carries the same hash tag, so that a cluster keeps it in one slot and a script can
//! touch it at once. Pub/sub knows no databases: what is sent carries the number of the database in its name, unless that
//! is 0.

use std::sync::Arc;

use shared::channel::Channel;

/// Keeps a hash tag from being empty for a channel that starts with `}`. No channel name holds this byte.
const TAG_GUARD: char = '\u{1}';

#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: Arc<str>,
    database: i64,
    /// What the pub/sub name of a channel begins with.
    publications: Arc<str>,
    life: [Arc<str>; 2],
}

impl Keys {
    pub(crate) fn new(prefix: &str, database: i64) -> Self {
        let publications = format!("{prefix}:pub{}:{{", told_apart(database));
        let life = [format!("{prefix}:life-lease").into(), format!("{prefix}:life").into()];
        Self { prefix: prefix.into(), database, publications: publications.into(), life }
    }

    /// What the data set's life is called: for a moment and for one process, and until it ends (strings).
    pub(crate) fn life(&self) -> &[Arc<str>; 2] {
        &self.life
    }

    /// Where a channel's publications are sent (pub/sub).
    pub(crate) fn publications(&self, channel: &Channel) -> String {
        tagged(&[&self.publications], channel)
    }

    /// The channel whose publications are sent here.
    pub(crate) fn channel_of<'a>(&self, name: &'a [u8]) -> Option<&'a str> {
        let tagged = name.strip_prefix(self.publications.as_bytes())?.strip_suffix(b"}")?;
        let channel = std::str::from_utf8(tagged).ok()?;
        Some(channel.strip_prefix(TAG_GUARD).unwrap_or(channel))
    }

    /// A channel's latest publications (stream).
    pub(crate) fn stream(&self, channel: &Channel) -> String {
        self.of_channel("stream", channel)
    }

    /// A channel's epoch and offset (hash).
    pub(crate) fn position(&self, channel: &Channel) -> String {
        self.of_channel("position", channel)
    }

    /// What each key of a channel holds (hash).
    pub(crate) fn state(&self, channel: &Channel) -> String {
        self.of_channel("state", channel)
    }

    /// A channel's keys by score, and those of one score by name (sorted set).
    pub(crate) fn order(&self, channel: &Channel) -> String {
        self.of_channel("order", channel)
    }

    /// When a channel's keys expire (sorted set).
    pub(crate) fn expiry(&self, channel: &Channel) -> String {
        self.of_channel("expiry", channel)
    }

    /// What was answered under an idempotency key (string).
    pub(crate) fn once(&self, channel: &Channel, key: &str) -> String {
        format!("{}:{key}", self.of_channel("once", channel))
    }

    /// Which nodes have clients in a channel (set); `:<node>` and `:<node>:users` after it name what they have.
    pub(crate) fn present(&self, channel: &Channel) -> String {
        self.of_channel("present", channel)
    }

    /// All of a ledger: leases (sorted set), how many hold each thing (hash), numbers (hash), news (sorted set), where they
    /// end and who reads them (hash), and what the names of sorted sets begin with that say what each holder holds.
    pub(crate) fn ledger(&self, ledger: &str) -> [String; 6] {
        ["leases", "holders", "counts", "news", "meta", "held"]
            .map(|part| format!("{}:ledger:{{{ledger}}}:{part}", self.prefix))
    }

    /// A session that its client may come back to (string).
    pub(crate) fn session(&self, key: &str) -> String {
        format!("{}:session:{{{key}}}", self.prefix)
    }

    /// Until when each node's clients are taken to be present (sorted set).
    pub(crate) fn presence_leases(&self) -> String {
        format!("{}:presence-leases", self.prefix)
    }

    /// Whose turn something is, and how far it has got (hash).
    pub(crate) fn turn(&self, what: &str) -> String {
        format!("{}:turn:{{{what}}}", self.prefix)
    }

    /// Where nodes send commands to each other (pub/sub).
    pub(crate) fn control(&self) -> String {
        format!("{}:control{}", self.prefix, told_apart(self.database))
    }

    /// Where one node alone is told things (pub/sub).
    pub(crate) fn node(&self, node: &str) -> String {
        format!("{}:node{}:{node}", self.prefix, told_apart(self.database))
    }

    /// The same for what nodes send to themselves, apart from what clients can name.
    pub(crate) fn of_canaries(&self) -> Self {
        Self::new(&format!("{}:canary", self.prefix), self.database)
    }

    /// Until when each node's announcement holds (sorted set).
    pub(crate) fn node_leases(&self) -> String {
        format!("{}:{{nodes}}:leases", self.prefix)
    }

    /// What each node says of itself (hash).
    pub(crate) fn node_descriptions(&self) -> String {
        format!("{}:{{nodes}}:descriptions", self.prefix)
    }

    fn of_channel(&self, what: &str, channel: &Channel) -> String {
        tagged(&[&self.prefix, ":", what, ":{"], channel)
    }
}

/// What pub/sub names have behind their kind.
fn told_apart(database: i64) -> String {
    if database == 0 { String::new() } else { format!("@{database}") }
}

fn tagged(begins: &[&str], channel: &Channel) -> String {
    let name = channel.as_str();
    let length: usize = begins.iter().map(|part| part.len()).sum();
    let mut key = String::with_capacity(length + name.len() + 2);
    begins.iter().for_each(|part| key.push_str(part));
    if name.starts_with('}') {
        key.push(TAG_GUARD);
    }
    key.push_str(name);
    key.push('}');
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The part of a key that decides its slot, as the Redis Cluster specification says.
    fn hash_tag(key: &str) -> &str {
        let Some((_, after)) = key.split_once('{') else { return key };
        match after.split_once('}') {
            Some((tag, _)) if !tag.is_empty() => tag,
            _ => key,
        }
    }

    #[test]
    fn databases_are_told_apart_by_what_is_sent() {
        let channel = Channel::parse("a", 255).unwrap();
        let names = |keys: &Keys| {
            let canaries = keys.of_canaries().publications(&channel);
            [keys.publications(&channel), keys.control(), keys.node("n"), canaries]
        };
        let (first, third) = (Keys::new("tidegate", 0), Keys::new("tidegate", 2));
        assert_eq!(
            names(&first),
            ["tidegate:pub:{a}", "tidegate:control", "tidegate:node:n", "tidegate:canary:pub:{a}"]
        );
        let of_third =
            ["tidegate:pub@2:{a}", "tidegate:control@2", "tidegate:node@2:n", "tidegate:canary:pub@2:{a}"];
        assert_eq!(names(&third), of_third);
        assert_eq!(first.channel_of(third.publications(&channel).as_bytes()), None);
        assert_eq!(third.channel_of(first.publications(&channel).as_bytes()), None);
    }

    #[test]
    fn all_keys_of_a_channel_share_a_slot_and_the_channel_reads_back() {
        let keys = Keys::new("tidegate", 0);
        for name in ["AAPL", "}", "}}{", "{}", "{a}b", "a}b{c}", "prices:AAPL"] {
            let channel = Channel::parse(name, 255).unwrap();
            let tag = hash_tag(&keys.publications(&channel)).to_owned();
            for key in [
                keys.stream(&channel),
                keys.position(&channel),
                keys.once(&channel, "{k}"),
                keys.present(&channel),
                keys.state(&channel),
                keys.order(&channel),
                keys.expiry(&channel),
            ] {
                assert_eq!(hash_tag(&key), tag, "{key}");
            }
            assert_eq!(keys.channel_of(keys.publications(&channel).as_bytes()), Some(name));
        }
        assert_eq!(keys.channel_of(b"tidegate:control"), None);
        assert_eq!(keys.channel_of(b"tidegate:pub:{\xff}"), None);
    }
}
