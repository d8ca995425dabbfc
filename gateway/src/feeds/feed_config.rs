//! The sections `feeds.NAME`: where records come from, and what their fields are called.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::source::{Bounds, FieldKey};
use super::{kafka, nats, postgres, redis_stream};
use crate::setting::Faults;

/// The most feeds. Each has its own label in metrics.
const FEEDS_MAX: usize = 64;
/// The longest name of a feed, in bytes.
const NAME_BYTES_MAX: usize = 64;
/// The longest name of a field or column, in bytes: PostgreSQL cuts off longer ones.
const FIELD_BYTES_MAX: usize = 63;

/// A feed, which publishes the records of an external source: see [feeds](feeds.md). `NAME` consists of letters,
/// digits, `-` and `_`, appears in metrics, and must be the same on all nodes. At most 64 feeds.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct FeedConfig {
    /// The source: `redis_stream`, `nats`, `postgres` or `kafka`. The section of that name below this one holds its
    /// settings.
    pub kind: Option<FeedKind>,
    /// The most records read at once. No more are read until all of them are published or have become dead letters.
    pub records_max: usize,
    /// The most bytes of records read at once. The last record may exceed it.
    pub bytes_max: usize,
    /// The longest record, in bytes of all its fields. Longer records become dead letters without being read.
    pub record_bytes_max: usize,
    /// Time that published records are remembered, in seconds: a record that is read again within it is not published
    /// again.
    pub idempotency_ttl_s: u64,
    /// The longest pause between two retries after a failure, in milliseconds. Pauses are random and grow up to it.
    pub retry_max_ms: u64,
    /// What fields of records, or columns, are called.
    pub fields: FieldNames,
    /// With `kind = "redis_stream"`.
    pub redis_stream: redis_stream::RedisStreamConfig,
    /// With `kind = "nats"`.
    pub nats: nats::NatsFeedConfig,
    /// With `kind = "postgres"`.
    pub postgres: postgres::PostgresConfig,
    /// With `kind = "kafka"`.
    pub kafka: kafka::KafkaConfig,
}

/// Where records can come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedKind {
    RedisStream,
    Nats,
    Postgres,
    Kafka,
}

impl Default for FeedConfig {
    fn default() -> Self {
        Self {
            kind: None,
            records_max: 256,
            bytes_max: 4 << 20,
            record_bytes_max: 1 << 20,
            idempotency_ttl_s: 300,
            retry_max_ms: 10_000,
            fields: FieldNames::default(),
            redis_stream: redis_stream::RedisStreamConfig::default(),
            nats: nats::NatsFeedConfig::default(),
            postgres: postgres::PostgresConfig::default(),
            kafka: kafka::KafkaConfig::default(),
        }
    }
}

/// The names of the record fields, or table columns, that say what to publish. Their meaning is that of the same keys
/// in a [publish](server-api.md) request. Other fields are ignored.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct FieldNames {
    /// The channel.
    pub channel: String,
    /// Several channels, as a JSON list. Replaces `channel`.
    pub channels: String,
    /// The payload, in JSON.
    pub data: String,
    /// The payload in base64, of any kind. Replaces `data`.
    pub b64data: String,
    /// The tags, as a JSON object of strings.
    pub tags: String,
    /// The key of which the payload is the newest value.
    pub key: String,
    /// The idempotency key. Replaces the record's position in its source.
    pub idempotency_key: String,
    /// The version of the publication, a number.
    pub version: String,
    /// The epoch within which versions are compared.
    pub version_epoch: String,
    /// Whether the publication is kept out of the channel's history: `true` or `false`.
    pub skip_history: String,
    /// Whether subscribers may receive the change instead of the whole payload: `true` or `false`.
    pub delta: String,
}

impl Default for FieldNames {
    fn default() -> Self {
        let name = |word: FieldKey| word.name().to_owned();
        Self {
            channel: name(FieldKey::Channel),
            channels: name(FieldKey::Channels),
            data: name(FieldKey::Data),
            b64data: name(FieldKey::B64data),
            tags: name(FieldKey::Tags),
            key: name(FieldKey::Key),
            idempotency_key: name(FieldKey::IdempotencyKey),
            version: name(FieldKey::Version),
            version_epoch: name(FieldKey::VersionEpoch),
            skip_history: name(FieldKey::SkipHistory),
            delta: name(FieldKey::Delta),
        }
    }
}

impl FieldNames {
    /// Returns the configured name of each field.
    pub(super) fn names(&self) -> [(FieldKey, &str); FieldKey::COUNT] {
        [
            (FieldKey::Channel, &self.channel),
            (FieldKey::Channels, &self.channels),
            (FieldKey::Data, &self.data),
            (FieldKey::B64data, &self.b64data),
            (FieldKey::Tags, &self.tags),
            (FieldKey::Key, &self.key),
            (FieldKey::IdempotencyKey, &self.idempotency_key),
            (FieldKey::Version, &self.version),
            (FieldKey::VersionEpoch, &self.version_epoch),
            (FieldKey::SkipHistory, &self.skip_history),
            (FieldKey::Delta, &self.delta),
        ]
    }

    fn check(&self, faults: &mut Faults) {
        let mut seen = BTreeSet::new();
        for (word, name) in self.names() {
            let key = format!("fields.{}", word.name());
            if name.is_empty() || name.len() > FIELD_BYTES_MAX || name.chars().any(char::is_control) {
                let problem = format!("must be 1 to {FIELD_BYTES_MAX} bytes without control characters");
                faults.add(key, problem);
            } else if !seen.insert(name) {
                faults.add(key, format!("is \"{name}\", which is the name of another field, too"));
            }
        }
    }
}

impl FeedConfig {
    fn check(&self, faults: &mut Faults) {
        if self.kind.is_none() {
            faults.add("kind", "must be set to redis_stream, nats, postgres or kafka");
        }
        faults.outside("records_max", self.records_max, 1..=10_000);
        faults.outside("bytes_max", self.bytes_max, 1_024..=256 << 20);
        faults.outside("record_bytes_max", self.record_bytes_max, 1_024..=64 << 20);
        faults.outside("idempotency_ttl_s", self.idempotency_ttl_s, 60..=86_400);
        faults.outside("retry_max_ms", self.retry_max_ms, 100..=600_000);
        if self.retry_max_ms >= self.idempotency_ttl_s.saturating_mul(1_000) {
            let problem = "must be less than idempotency_ttl_s: a record that is retried later could be published twice";
            faults.add("retry_max_ms", problem);
        }
        if self.record_bytes_max > self.bytes_max {
            faults.add("record_bytes_max", "must be at most bytes_max, the most bytes read at once");
        }
        self.fields.check(faults);
        let mut within = |section: &str, is_used: bool, is_set: bool, check: &dyn Fn(&mut Faults)| {
            if !is_used {
                if is_set && self.kind.is_some() {
                    faults.add(section, format!("has no effect without kind = \"{section}\""));
                }
                return;
            }
            let mut found = Faults::default();
            check(&mut found);
            for (key, problem) in found.into_inner() {
                faults.add(format!("{section}.{key}"), problem);
            }
        };
        within(
            "redis_stream",
            self.kind == Some(FeedKind::RedisStream),
            self.redis_stream != redis_stream::RedisStreamConfig::default(),
            &|found| self.redis_stream.check(found),
        );
        within(
            "nats",
            self.kind == Some(FeedKind::Nats),
            self.nats != nats::NatsFeedConfig::default(),
            &|found| self.nats.check(found),
        );
        within(
            "postgres",
            self.kind == Some(FeedKind::Postgres),
            self.postgres != postgres::PostgresConfig::default(),
            &|found| self.postgres.check(found),
        );
        within(
            "kafka",
            self.kind == Some(FeedKind::Kafka),
            self.kafka != kafka::KafkaConfig::default(),
            &|found| self.kafka.check(found),
        );
    }

    pub(super) fn bounds(&self) -> Bounds {
        let Self { records_max, bytes_max, record_bytes_max, .. } = *self;
        Bounds { records_max, bytes_max, record_bytes_max }
    }

    pub(super) fn idempotency_ttl(&self) -> Duration {
        Duration::from_secs(self.idempotency_ttl_s)
    }

    /// Whether both feeds would read the same records.
    fn reads_what(&self, other: &Self) -> bool {
        let (stream, others) = (&self.redis_stream, &other.redis_stream);
        let (table, other_table) = (&self.postgres, &other.postgres);
        match (self.kind, other.kind) {
            (Some(FeedKind::RedisStream), Some(FeedKind::RedisStream)) => {
                (&stream.url, &stream.stream, &stream.group) == (&others.url, &others.stream, &others.group)
            }
            (Some(FeedKind::Nats), Some(FeedKind::Nats)) => {
                let (one, two) = (&self.nats, &other.nats);
                (&one.url, &one.stream, &one.consumer) == (&two.url, &two.stream, &two.consumer)
            }
            (Some(FeedKind::Postgres), Some(FeedKind::Postgres)) => {
                (&table.url, &table.table) == (&other_table.url, &other_table.table)
            }
            (Some(FeedKind::Kafka), Some(FeedKind::Kafka)) => {
                let (topic, others) = (&self.kafka, &other.kafka);
                let share_a_broker = topic.brokers.iter().any(|broker| others.brokers.contains(broker));
                share_a_broker && (&topic.topic, &topic.group) == (&others.topic, &others.group)
            }
            _ => false,
        }
    }

    pub(super) fn retry_max(&self) -> Duration {
        Duration::from_millis(self.retry_max_ms)
    }

    /// Returns the files that the settings name, by their keys.
    pub(crate) fn files(&self) -> Vec<(&'static str, &std::path::Path)> {
        match self.kind {
            Some(FeedKind::RedisStream) => self.redis_stream.files(),
            Some(FeedKind::Nats) => self.nats.files(),
            Some(FeedKind::Postgres) => self.postgres.files(),
            Some(FeedKind::Kafka) => self.kafka.files(),
            None => Vec::new(),
        }
    }
}

/// Checks all feeds.
pub(crate) fn check(feeds: &BTreeMap<String, FeedConfig>, faults: &mut Faults) {
    for (name, feed) in feeds {
        let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(is_of_name) {
            let problem =
                format!("is not a valid name of a feed: use 1 to {NAME_BYTES_MAX} letters, digits, - and _");
            faults.add(name, problem);
        }
        let mut found = Faults::default();
        feed.check(&mut found);
        for (key, problem) in found.into_inner() {
            faults.add(format!("{name}.{key}"), problem);
        }
    }
    for (at, (name, feed)) in feeds.iter().enumerate() {
        if let Some((other, _)) = feeds.iter().take(at).find(|(_, other)| feed.reads_what(other)) {
            faults.add(
                name,
                format!("reads the same records as feeds.{other}: each would be published by one of the two feeds only"),
            );
        }
    }
    if let Some(name) = feeds.keys().nth(FEEDS_MAX) {
        faults.add(name, format!("is one too many: at most {FEEDS_MAX} feeds are allowed"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faulty(toml: &str) -> Vec<String> {
        let mut faults = Faults::default();
        check(&toml::from_str(toml).unwrap(), &mut faults);
        faults.into_inner().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn every_mistake_is_told_by_its_key_and_what_is_right_is_not() {
        let good = "[orders]\nkind = \"redis_stream\"\n[orders.redis_stream]\nstream = \"orders\"\n";
        assert_eq!(faulty(good), [""; 0]);
        let bad = "[\"a b\"]\nrecords_max = 0\nbytes_max = 2048\nidempotency_ttl_s = 1\nretry_max_ms = 1\n\
                   fields = { data = \"channel\", tags = \"\" }\n";
        assert_eq!(
            faulty(bad),
            [
                "a b",
                "a b.kind",
                "a b.records_max",
                "a b.idempotency_ttl_s",
                "a b.retry_max_ms",
                "a b.record_bytes_max",
                "a b.fields.data",
                "a b.fields.tags"
            ]
        );
        assert_eq!(faulty("[a]\nkind = \"redis_stream\"\n"), ["a.redis_stream.stream"]);
        assert_eq!(faulty("[a]\nkind = \"postgres\"\n"), ["a.postgres.url"]);
        assert_eq!(faulty("[a]\nkind = \"kafka\"\n"), ["a.kafka.brokers", "a.kafka.topic"]);
        let other =
            "[a]\nkind = \"redis_stream\"\nredis_stream = { stream = \"s\" }\npostgres = { table = \"t\" }\n";
        assert_eq!(faulty(other), ["a.postgres"]);
        assert!(
            toml::from_str::<FeedConfig>("kind = \"pulsar\"").is_err(),
            "a kind that does not work is none"
        );
        assert!(toml::from_str::<FeedConfig>("kinds = \"x\"").is_err());
    }

    #[test]
    fn there_are_no_more_than_so_many() {
        let one = |at: usize| {
            format!(
                "[f{at:03}]\nkind = \"redis_stream\"\n[f{at:03}.redis_stream]\nstream = \"s\"\ngroup = \"{at}\"\n"
            )
        };
        let all = |count: usize| (0..count).map(one).collect::<String>();
        assert_eq!(faulty(&all(FEEDS_MAX)), [""; 0]);
        assert_eq!(faulty(&all(FEEDS_MAX + 1)), ["f064"]);
    }

    #[test]
    fn two_that_would_take_each_others_records_are_a_mistake() {
        let stream = |name: &str, group: &str| {
            format!(
                "[{name}]\nkind = \"redis_stream\"\n[{name}.redis_stream]\nstream = \"s\"\ngroup = \"{group}\"\n"
            )
        };
        assert_eq!(faulty(&(stream("a", "one") + &stream("b", "one"))), ["b"]);
        assert_eq!(faulty(&(stream("a", "one") + &stream("b", "two"))), [""; 0]);
        let topic = |name: &str, brokers: &str| {
            format!("[{name}]\nkind = \"kafka\"\n[{name}.kafka]\nbrokers = [{brokers}]\ntopic = \"t\"\n")
        };
        assert_eq!(faulty(&(topic("a", "\"a:1\", \"b:1\"") + &topic("b", "\"b:1\""))), ["b"]);
        assert_eq!(faulty(&(topic("a", "\"a:1\"") + &topic("b", "\"b:1\""))), [""; 0]);
        let late = stream("a", "one").replace("kind", "retry_max_ms = 60000\nidempotency_ttl_s = 60\nkind");
        assert_eq!(faulty(&late), ["a.retry_max_ms"]);
    }
}
