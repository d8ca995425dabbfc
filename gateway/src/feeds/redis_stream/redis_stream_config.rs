//! The sections `feeds.NAME.redis_stream`: which stream, and who reads it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::broker::redis::{RedisConfig, RedisUrl};
use crate::setting::Faults;

/// The longest name of a key or group, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// With `kind = "redis_stream"`: a stream in Redis 6.2 or later, or Valkey, read as a consumer group.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisStreamConfig {
    /// The Redis that holds the stream, in the form of `redis.url`: one server, not a cluster. Not set: the Redis of
    /// `[redis]`. The timeouts of `[redis]` apply in both cases.
    pub url: Option<RedisUrl>,
    /// With `url`: PEM file of the certificate authorities that verify the certificate of a `rediss://` server. Not
    /// set: those of the operating system.
    pub ca_file: Option<PathBuf>,
    /// With `url`: PEM file of this node's client certificate, followed by the intermediate certificates.
    pub client_cert_file: Option<PathBuf>,
    /// With `url`: PEM file of the private key of the client certificate.
    pub client_key_file: Option<PathBuf>,
    /// The key of the stream. The stream is created if it does not exist.
    pub stream: String,
    /// The consumer group, which is created if it does not exist. No other feed or application may use it.
    pub group: String,
    /// Where a new consumer group starts: `beginning`, with all records of the stream, or `end`, with new records
    /// only.
    pub from: From,
    /// Deletes records from the stream when they are published or have become dead letters. Not for streams that
    /// other consumers read.
    pub delete: bool,
    /// The key of the stream for dead letters. Empty: the key of the stream followed by `:dead`.
    pub dead_letters: String,
    /// The most dead letters kept, approximately. Beyond it, the oldest are deleted.
    pub dead_letters_max: u64,
}

/// Where a new group begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum From {
    #[default]
    Beginning,
    End,
}

impl Default for RedisStreamConfig {
    fn default() -> Self {
        Self {
            url: None,
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            stream: String::new(),
            group: "tidegate".to_owned(),
            from: From::Beginning,
            delete: false,
            dead_letters: String::new(),
            dead_letters_max: 10_000,
        }
    }
}

impl RedisStreamConfig {
    pub(crate) fn check(&self, faults: &mut Faults) {
        for (key, name) in [("stream", &self.stream), ("group", &self.group)] {
            if name.is_empty() || name.len() > NAME_BYTES_MAX {
                faults.add(key, format!("must be 1 to {NAME_BYTES_MAX} bytes long"));
            }
        }
        if self.dead_letters.len() > NAME_BYTES_MAX {
            faults.add("dead_letters", format!("must be at most {NAME_BYTES_MAX} bytes long"));
        } else if self.dead_letters == self.stream && !self.stream.is_empty() {
            faults.add(
                "dead_letters",
                "must not be the stream itself: dead letters would be read again forever",
            );
        }
        faults.outside("dead_letters_max", self.dead_letters_max, 1..=100_000_000);
        match &self.url {
            Some(url) => self.of(url, &RedisConfig::default()).check(faults),
            None => {
                for (key, _) in self.files() {
                    let key = key.rsplit('.').next().unwrap_or(key);
                    faults.add(key, "needs url: without it, the settings of [redis] apply");
                }
            }
        }
    }

    /// Returns the settings of the connection. `redis`: the section `[redis]`.
    pub(super) fn redis(&self, redis: &RedisConfig) -> RedisConfig {
        self.url.as_ref().map_or_else(|| redis.clone(), |url| self.of(url, redis))
    }

    fn of(&self, url: &RedisUrl, redis: &RedisConfig) -> RedisConfig {
        RedisConfig {
            ca_file: self.ca_file.clone(),
            client_cert_file: self.client_cert_file.clone(),
            client_key_file: self.client_key_file.clone(),
            ..redis.at(url.clone())
        }
    }

    pub(super) fn dead_letters(&self) -> String {
        if self.dead_letters.is_empty() { format!("{}:dead", self.stream) } else { self.dead_letters.clone() }
    }

    /// Returns the files that the settings name, by their keys.
    pub(crate) fn files(&self) -> Vec<(&'static str, &Path)> {
        let files = [
            ("redis_stream.ca_file", &self.ca_file),
            ("redis_stream.client_cert_file", &self.client_cert_file),
            ("redis_stream.client_key_file", &self.client_key_file),
        ];
        files.into_iter().filter_map(|(key, file)| Some((key, file.as_deref()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faulty(toml: &str) -> Vec<String> {
        let mut faults = Faults::default();
        toml::from_str::<RedisStreamConfig>(toml).unwrap().check(&mut faults);
        faults.into_inner().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn every_mistake_is_told_by_its_key() {
        assert_eq!(faulty("stream = \"s\""), [""; 0]);
        assert_eq!(faulty("stream = \"s\"\nurl = \"rediss://:x@h/1\"\nca_file = \"/a\""), [""; 0]);
        assert_eq!(
            faulty("group = \"\"\ndead_letters_max = 0\nurl = \"http://h\""),
            ["stream", "group", "dead_letters_max", "url"]
        );
        assert_eq!(faulty("stream = \"s\"\ndead_letters = \"s\""), ["dead_letters"]);
        assert_eq!(faulty("stream = \"s\"\nca_file = \"/a\""), ["ca_file"]);
        assert_eq!(faulty("stream = \"s\"\nurl = \"redis://h\"\nca_file = \"/a\""), ["ca_file"]);
    }

    #[test]
    fn a_password_is_not_shown() {
        let config: RedisStreamConfig = toml::from_str("url = \"redis://:s3cret@h\"").unwrap();
        let shown = format!("{config:?} {}", toml::to_string(&config).unwrap());
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
