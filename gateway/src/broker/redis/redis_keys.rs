//! The names of everything this project has in Redis.
//!
//! What belongs to one channel carries the same hash tag, so that a cluster keeps it in one slot and a script can
//! touch it at once. Pub/sub knows no databases: what is sent carries the number of the database in its name, unless that
//! is 0.

use std::sync::Arc;

use shared::channel::Channel;

use super::cluster::slots;

/// Keeps a hash tag from being empty for a channel that starts with `}`, and ends the name of a channel where that is not the tag. No
/// channel name holds this byte.
const TAG_GUARD: char = '\u{1}';

#[derive(Clone, Debug)]
pub(crate) struct RedisKeys {
    prefix: Arc<str>,
    database: i64,
    /// What the pub/sub name of a channel begins with.
    publications: Arc<str>,
    /// Empty where scripts are not given it.
    life: Arc<[Arc<str>]>,
    tags: Tags,
}

/// What stands between braces in the names of all that belongs to a channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tags {
    /// The channel's name.
    Names,
    /// Of so many tags, which are spread evenly over the slots of a cluster, the one of the name's slot.
    Partitions(u16),
    /// The tag of one slot, whatever the channel.
    Slot(u16),
}

impl RedisKeys {
    pub(crate) fn new(prefix: &str, database: i64) -> Self {
        let publications = format!("{prefix}:pub{}:{{", database_suffix(database));
        let life = Self::names_of_life(prefix).map(Into::into).into();
        Self { prefix: prefix.into(), database, publications: publications.into(), life, tags: Tags::Names }
    }

    /// Those of a cluster, whose channels are divided into so many partitions.
    pub(super) fn of_cluster(prefix: &str, partitions: u16) -> Self {
        let life = Arc::from([]);
        Self { life, tags: Tags::Partitions(partitions.clamp(1, slots::SLOTS)), ..Self::new(prefix, 0) }
    }

    pub(super) fn names_of_life(prefix: &str) -> [String; 2] {
        [format!("{prefix}:life-lease"), format!("{prefix}:life")]
    }

    /// Where the lease of a life is in a cluster: in this slot, which is one of the master whose life it is (string).
    pub(super) fn lease_in(&self, slot: u16) -> String {
        format!("{}:life-lease:{{{}}}", self.prefix, slots::tag(slot))
    }

    /// In a cluster: the slot of all that belongs to a channel. 0 where there are no slots.
    pub(super) fn slot(&self, channel: &Channel) -> u16 {
        match self.tags {
            Tags::Names => 0,
            Tags::Partitions(partitions) => {
                let slot = u32::from(slots::of_tag(channel.as_str().as_bytes()));
                let (partitions, all) = (u32::from(partitions), u32::from(slots::SLOTS));
                // Of the slots of a partition the first.
                ((slot * partitions / all) * all).div_ceil(partitions) as u16
            }
            Tags::Slot(slot) => slot,
        }
    }

    /// What the data set's life is called: for a moment and for one process, and until it ends (strings).
    pub(crate) fn life(&self) -> &Arc<[Arc<str>]> {
        &self.life
    }

    /// Where a channel's publications are sent (pub/sub).
    pub(crate) fn publications(&self, channel: &Channel) -> String {
        self.tagged(&[&self.publications], channel)
    }

    /// The channel whose publications are sent here.
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

    /// Until when each node's clients are taken to be present (sorted set): in a cluster at several places.
    pub(crate) fn presence_leases(&self) -> Vec<String> {
        self.common("presence-leases", "")
    }

    /// Whose turn something is, and how far it has got (hash).
    pub(crate) fn turn(&self, what: &str) -> String {
        format!("{}:turn:{{{what}}}", self.prefix)
    }

    /// Where nodes send commands to each other (pub/sub).
    pub(crate) fn control(&self) -> String {
        format!("{}:control{}", self.prefix, database_suffix(self.database))
    }

    /// Where one node alone is told things (pub/sub).
    pub(crate) fn node(&self, node: &str) -> String {
        format!("{}:node{}:{node}", self.prefix, database_suffix(self.database))
    }

    /// The same for what nodes send to themselves, apart from what clients can name.
    pub(crate) fn of_canaries(&self) -> Self {
        Self::new(&format!("{}:canary", self.prefix), self.database)
    }

    /// The same in a cluster, all of it in one slot.
    pub(super) fn of_canaries_in(&self, slot: u16) -> Self {
        let of_one = Self::of_cluster(&format!("{}:canary", self.prefix), 1);
        Self { tags: Tags::Slot(slot), ..of_one }
    }

    /// Until when each node's announcement holds (sorted set), and what each says of itself (hash): in a cluster at several places.
    pub(crate) fn announcements(&self) -> Vec<[String; 2]> {
        let (leases, descriptions) = (self.common("nodes", ":leases"), self.common("nodes", ":descriptions"));
        leases.into_iter().zip(descriptions).map(Into::into).collect()
    }

    /// Names of what belongs to all nodes.
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

/// What pub/sub names have behind their kind.
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
