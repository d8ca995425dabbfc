//! The names of all keys and channels of this project in Redis.
//!
//! All keys of a channel carry the same hash tag, so that a cluster keeps them in one slot and one script can access
//! them. Pub/sub is not divided into databases: its names carry the number of the database, unless that is 0.

use std::sync::Arc;

use shared::channel::Channel;

use super::cluster::slots;

/// Prevents an empty hash tag for a channel that starts with `}`, and ends the name of a channel where the name is not
/// the tag. No channel name holds this byte.
const TAG_GUARD: char = '\u{1}';

#[derive(Clone, Debug)]
pub(crate) struct RedisKeys {
    prefix: Arc<str>,
    database: i64,
    /// The beginning of the pub/sub name of every channel.
    publications: Arc<str>,
    /// The keys of the data set's life. Empty where scripts do not get them.
    life: Arc<[Arc<str>]>,
    tags: Tags,
}

/// The text between braces in the names of all keys of a channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tags {
    /// The channel's name.
    Names,
    /// The tag of the name's partition: one of this many tags that are spread evenly over the slots of a cluster.
    Partitions(u16),
    /// The tag of this slot, whatever the channel.
    Slot(u16),
}

impl RedisKeys {
    pub(crate) fn new(prefix: &str, database: i64) -> Self {
        let publications = format!("{prefix}:pub{}:{{", database_suffix(database));
        let life = Self::names_of_life(prefix).map(Into::into).into();
        Self { prefix: prefix.into(), database, publications: publications.into(), life, tags: Tags::Names }
    }

    /// Returns the keys in a cluster, where channels are divided into this many partitions.
    pub(super) fn of_cluster(prefix: &str, partitions: u16) -> Self {
        let life = Arc::from([]);
        Self { life, tags: Tags::Partitions(partitions.clamp(1, slots::SLOTS)), ..Self::new(prefix, 0) }
    }

    pub(super) fn names_of_life(prefix: &str) -> [String; 2] {
        [format!("{prefix}:life-lease"), format!("{prefix}:life")]
    }

    /// The lease of a life in a cluster (string). It is in this slot, which is served by the master whose life it is.
    pub(super) fn lease_in(&self, slot: u16) -> String {
        format!("{}:life-lease:{{{}}}", self.prefix, slots::tag(slot))
    }

    /// Returns the slot of a channel's keys in a cluster. 0 where there are no slots.
    pub(super) fn slot(&self, channel: &Channel) -> u16 {
        match self.tags {
            Tags::Names => 0,
            Tags::Partitions(partitions) => {
                let slot = u32::from(slots::of_tag(channel.as_str().as_bytes()));
                let (partitions, all) = (u32::from(partitions), u32::from(slots::SLOTS));
                // The first of the slots of the partition.
                ((slot * partitions / all) * all).div_ceil(partitions) as u16
            }
            Tags::Slot(slot) => slot,
        }
    }

    /// The names of the data set's life: one for a moment and one process, one until the life ends (strings).
    pub(crate) fn life(&self) -> &Arc<[Arc<str>]> {
        &self.life
    }

    /// The pub/sub channel of a channel's publications.
    pub(crate) fn publications(&self, channel: &Channel) -> String {
        self.tagged(&[&self.publications], channel)
    }

    /// Returns the channel whose publications are sent under this pub/sub name.
    pub(crate) fn channel_of<'a>(&self, name: &'a [u8]) -> Option<&'a str> {
        let tagged = name.strip_prefix(self.publications.as_bytes())?;
        if self.tags == Tags::Names {
            let channel = std::str::from_utf8(tagged.strip_suffix(b"}")?).ok()?;
            return Some(channel.strip_prefix(TAG_GUARD).unwrap_or(channel));
        }
        let behind = memchr::memchr(b'}', tagged)? + 1;
        std::str::from_utf8(&tagged[behind..]).ok()?.strip_suffix(TAG_GUARD)
    }

    /// A channel's latest publications (stream).
    pub(crate) fn stream(&self, channel: &Channel) -> String {
        self.of_channel("stream", channel)
    }

    /// A channel's epoch and offset (hash).
    pub(crate) fn position(&self, channel: &Channel) -> String {
        self.of_channel("position", channel)
    }

    /// The values of a channel's keys (hash).
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

    /// The answer that was given under an idempotency key (string).
    pub(crate) fn once(&self, channel: &Channel, key: &str) -> String {
        format!("{}:{key}", self.of_channel("once", channel))
    }

    /// The nodes with clients in a channel (set); `:<node>` and `:<node>:users` after it name what they have.
    pub(crate) fn present(&self, channel: &Channel) -> String {
        self.of_channel("present", channel)
    }

    /// All keys of a ledger: leases (sorted set), the number of holders of each entry (hash), counts (hash), news (sorted
    /// set), the end of the news and its readers (hash), and the prefix of the sorted sets that list the entries of each
    /// holder.
    pub(crate) fn ledger(&self, ledger: &str) -> [String; 6] {
        ["leases", "holders", "counts", "news", "meta", "held"]
            .map(|part| format!("{}:ledger:{{{ledger}}}:{part}", self.prefix))
    }

    /// A session that its client may come back to (string).
    pub(crate) fn session(&self, key: &str) -> String {
        format!("{}:session:{{{key}}}", self.prefix)
    }

    /// Until when each node's clients are taken to be present (sorted set). A cluster has several copies.
    pub(crate) fn presence_leases(&self) -> Vec<String> {
        self.common("presence-leases", "")
    }

    /// The holder of the lease on a task, and its progress (hash).
    pub(crate) fn task_lease(&self, what: &str) -> String {
        format!("{}:turn:{{{what}}}", self.prefix)
    }

    /// The pub/sub channel of commands between nodes.
    pub(crate) fn control(&self) -> String {
        format!("{}:control{}", self.prefix, database_suffix(self.database))
    }

    /// The pub/sub channel of messages for one node.
    pub(crate) fn node(&self, node: &str) -> String {
        format!("{}:node{}:{node}", self.prefix, database_suffix(self.database))
    }

    /// Returns the keys of canaries, apart from all names that clients can choose.
    pub(crate) fn of_canaries(&self) -> Self {
        Self::new(&format!("{}:canary", self.prefix), self.database)
    }

    /// Returns the keys of canaries in a cluster, all of them in one slot.
    pub(super) fn of_canaries_in(&self, slot: u16) -> Self {
        let of_one = Self::of_cluster(&format!("{}:canary", self.prefix), 1);
        Self { tags: Tags::Slot(slot), ..of_one }
    }

    /// Until when each node's announcement holds (sorted set), and the descriptions of the nodes (hash). A cluster has
    /// several copies.
    pub(crate) fn announcements(&self) -> Vec<[String; 2]> {
        let (leases, descriptions) = (self.common("nodes", ":leases"), self.common("nodes", ":descriptions"));
        leases.into_iter().zip(descriptions).map(Into::into).collect()
    }

    /// Returns the names of keys that belong to all nodes.
    fn common(&self, what: &str, part: &str) -> Vec<String> {
        if self.tags != Tags::Names {
            let name = |slot| format!("{}:{what}:{{{}}}{part}", self.prefix, slots::tag(slot));
            return slots::COMMON.map(name).into();
        }
        let name = match part {
            "" => format!("{}:{what}", self.prefix),
            _ => format!("{}:{{{what}}}{part}", self.prefix),
        };
        vec![name]
    }

    fn of_channel(&self, what: &str, channel: &Channel) -> String {
        self.tagged(&[&self.prefix, ":", what, ":{"], channel)
    }

    fn tagged(&self, begins: &[&str], channel: &Channel) -> String {
        if self.tags == Tags::Names {
            return tagged(begins, channel);
        }
        let (name, mut digits) = (channel.as_str(), itoa::Buffer::new());
        let tag = digits.format(slots::tag(self.slot(channel)));
        let length: usize = begins.iter().map(|part| part.len()).sum();
        let mut key = String::with_capacity(length + tag.len() + name.len() + 2);
        begins.iter().for_each(|part| key.push_str(part));
        key.push_str(tag);
        key.push('}');
        key.push_str(name);
        key.push(TAG_GUARD);
        key
    }
}

/// Returns the suffix of pub/sub names for a database.
fn database_suffix(database: i64) -> String {
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

    /// Returns the part of a key that determines its slot, according to the Redis Cluster specification.
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
        let names = |keys: &RedisKeys| {
            let canaries = keys.of_canaries().publications(&channel);
            [keys.publications(&channel), keys.control(), keys.node("n"), canaries]
        };
        let (first, third) = (RedisKeys::new("tidegate", 0), RedisKeys::new("tidegate", 2));
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
        let keys = RedisKeys::new("tidegate", 0);
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

    #[test]
    fn in_a_cluster_all_of_a_channel_is_in_the_slot_of_its_partition() {
        for partitions in [1, 3, 1_024, slots::SLOTS] {
            let keys = RedisKeys::of_cluster("tidegate", partitions);
            assert!(keys.life().is_empty());
            let mut used = std::collections::BTreeSet::new();
            for name in ["AAPL", "}", "}}{", "{}", "{a}b", "a}b{c}", "prices:AAPL"] {
                let channel = Channel::parse(name, 255).unwrap();
                let slot = keys.slot(&channel);
                used.insert(slot);
                let all = [
                    keys.publications(&channel),
                    keys.stream(&channel),
                    keys.position(&channel),
                    keys.once(&channel, "{k}"),
                    keys.present(&channel),
                    keys.state(&channel),
                    keys.order(&channel),
                    keys.expiry(&channel),
                ];
                assert!(all.iter().all(|key| slots::of_key(key.as_bytes()) == slot), "{all:?}");
                assert_eq!(keys.channel_of(keys.publications(&channel).as_bytes()), Some(name));
            }
            assert!(used.len() <= usize::from(partitions));
        }
        let keys = RedisKeys::of_cluster("tidegate", 1_024);
        let channel = |name: &str| Channel::parse(name, 255).unwrap();
        let slots: std::collections::BTreeSet<u16> =
            (0..20_000).map(|number| keys.slot(&channel(&number.to_string()))).collect();
        assert_eq!(slots.len(), 1_024, "each partition has some");
        assert!(slots.iter().all(|slot| slot % 16 == 0), "they are spread evenly");
        let of_one = keys.of_canaries_in(77);
        assert_eq!((of_one.slot(&channel("a")), of_one.slot(&channel("b"))), (77, 77));
        for key in keys.presence_leases().iter().chain(keys.announcements().iter().flatten()) {
            assert!(slots::COMMON.contains(&slots::of_key(key.as_bytes())), "{key}");
        }
    }

    #[test]
    fn what_belongs_to_a_channel_is_no_other_channels() {
        let keys = RedisKeys::of_cluster("tidegate", 1);
        let channel = |name: &str| Channel::parse(name, 255).unwrap();
        assert_ne!(keys.once(&channel("a"), "b:c"), keys.once(&channel("a:b"), "c"));
        assert_ne!(format!("{}:n1", keys.present(&channel("a"))), keys.present(&channel("a:n1")));
    }
}
