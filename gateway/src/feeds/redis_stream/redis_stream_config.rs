//! The sections `feeds.NAME.redis_stream`: which stream, and who reads it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::broker::redis::{RedisConfig, RedisUrl};
use crate::setting::Faults;

/// The longest name of a key or group, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// With `kind = "redis_stream"`: a stream of a Redis of version 6.2 or newer, or Valkey, read as a consumer group.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisStreamConfig {
    /// The Redis that has the stream, as `redis.url` is written: one server, not a cluster. Without it that of `[redis]`, whose
    /// timeouts hold for both.
    pub url: Option<RedisUrl>,
    /// With `url`: PEM file of the authorities that a `rediss://` server's certificate is checked against. Default: those of the
    /// operating system.
    pub ca_file: Option<PathBuf>,
    /// With `url`: PEM file of the certificate that this node shows, and of those it was signed with.
    pub client_cert_file: Option<PathBuf>,
    /// With `url`: PEM file of the key of that certificate.
    pub client_key_file: Option<PathBuf>,
    /// The key of the stream. It is made if it is not there.
    pub stream: String,
    /// The consumer group, which is made if it is not there. It must be for this feed alone.
    pub group: String,
    /// Where a group begins that is made: `beginning`, with all that the stream has, or `end`, with what comes from then on.
    pub from: From,
    /// Whether records are deleted from the stream once they are published or dead letters. Not for streams that others read.
    pub delete: bool,
    /// The key of the stream of dead letters. Empty: that of the stream with `:dead` behind it.
    pub dead_letters: String,
    /// The most dead letters that are kept, roughly: past that the oldest go.
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
                faults.add(key, format!("must be of 1 to {NAME_BYTES_MAX} bytes"));
            }
        }
        if self.dead_letters.len() > NAME_BYTES_MAX {
            faults.add("dead_letters", format!("must be of at most {NAME_BYTES_MAX} bytes"));
        } else if self.dead_letters == self.stream && !self.stream.is_empty() {
            faults.add("dead_letters", "is the stream itself: dead letters would be read again for ever");
        }
        faults.outside("dead_letters_max", self.dead_letters_max, 1..=100_000_000);
        match &self.url {
            Some(url) => self.of(url, &RedisConfig::default()).check(faults),
            None => {
                for (key, _) in self.files() {
                    let key = key.rsplit('.').next().unwrap_or(key);
                    faults.add(key, "goes with url, which is not set: redis has its own");
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
