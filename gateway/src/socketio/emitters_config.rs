//! The section `socketio.emitters`: servers that send events through Redis, as they did to servers of Socket.IO.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::broker::redis::{RedisConfig, RedisUrl};
use crate::setting::Faults;

/// The longest prefix of channels, in bytes.
const PREFIX_BYTES_MAX: usize = 128;

/// Carries out what servers send with `@socket.io/redis-emitter` and compatible libraries, or with python-socketio's
/// managers. Off by default: everyone who can publish in that Redis can send anything to any Socket.IO client.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmittersConfig {
    /// Listens to emitters.
    pub enabled: bool,
    /// The Redis in which emitters publish, in the form of `redis.url`: one server, not a cluster. Not set: the Redis
    /// of `[redis]`. The timeouts of `[redis]` apply in both cases. Must be set with `redis.mode = "shards"` or
    /// `"cluster"`, and with `broker.kind = "nats"`. All nodes must use the same Redis.
    pub url: Option<RedisUrl>,
    /// With `url`: PEM file of the certificate authorities that verify the certificate of a `rediss://` server. Not
    /// set: those of the operating system.
    pub ca_file: Option<PathBuf>,
    /// With `url`: PEM file of this node's client certificate, followed by the intermediate certificates.
    pub client_cert_file: Option<PathBuf>,
    /// With `url`: PEM file of the private key of the client certificate.
    pub client_key_file: Option<PathBuf>,
    /// The channel prefix of `@socket.io/redis-emitter` and compatible libraries: their option `key`. Empty: not
    /// listened to.
    pub prefix: String,
    /// The channel of python-socketio's managers. Empty: not listened to.
    pub python_channel: String,
    /// The longest message, in bytes. Longer messages are ignored and counted.
    pub message_bytes_max: usize,
    /// The most bytes of messages that wait on each node to be carried out. When it is full, the oldest messages are
    /// dropped and counted.
    pub waiting_bytes_max: usize,
}

impl Default for EmittersConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            url: None,
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            prefix: "socket.io".to_owned(),
            python_channel: "socketio".to_owned(),
            message_bytes_max: 1_000_000,
            waiting_bytes_max: 16 << 20,
        }
    }
}

impl EmittersConfig {
    /// Checks the settings. `served`: whether Socket.IO is enabled.
    pub(super) fn check(&self, served: bool, faults: &mut Faults) {
        faults.outside("emitters.message_bytes_max", self.message_bytes_max, 1_024..=64 << 20);
        faults.outside("emitters.waiting_bytes_max", self.waiting_bytes_max, 64 << 10..=1 << 30);
        if self.enabled && !served {
            faults.add("emitters.enabled", "needs socketio.enabled");
        }
        let is_name = |text: &str| text.len() <= PREFIX_BYTES_MAX && !text.chars().any(char::is_control);
        for (key, name) in [("prefix", &self.prefix), ("python_channel", &self.python_channel)] {
            if !is_name(name) {
                let problem = format!("must be at most {PREFIX_BYTES_MAX} bytes without control characters");
                faults.add(format!("emitters.{key}"), problem);
            }
        }
        if self.enabled && self.prefix.is_empty() && self.python_channel.is_empty() {
            faults.add(
                "emitters.enabled",
                "needs prefix or python_channel: otherwise there is nothing to listen to",
            );
        }
        let mut found = Faults::default();
        match &self.url {
            Some(url) => self.of(url, &RedisConfig::default()).check(&mut found),
            None => {
                for (key, file) in [
                    ("ca_file", &self.ca_file),
                    ("client_cert_file", &self.client_cert_file),
                    ("client_key_file", &self.client_key_file),
                ] {
                    if file.is_some() {
                        found.add(
                            key,
                            "needs socketio.emitters.url: without it, the settings of [redis] apply",
                        );
                    }
                }
            }
        }
        for (key, problem) in found.into_inner() {
            faults.add(format!("emitters.{key}"), problem);
        }
    }

    /// Returns the settings of the connection. `redis`: the section `[redis]`.
    pub(crate) fn redis(&self, redis: &RedisConfig) -> RedisConfig {
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faulty(toml: &str) -> Vec<String> {
        let mut faults = Faults::default();
        toml::from_str::<EmittersConfig>(toml).unwrap().check(true, &mut faults);
        faults.into_inner().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn what_makes_no_sense_is_told_by_its_key() {
        assert_eq!(faulty("enabled = true"), [""; 0]);
        assert_eq!(faulty("enabled = true\nurl = \"redis://:x@other/1\"\nprefix = \"\""), [""; 0]);
        assert_eq!(faulty("enabled = true\nprefix = \"\"\npython_channel = \"\""), ["emitters.enabled"]);
        assert_eq!(faulty("url = \"http://x\""), ["emitters.url"]);
        assert_eq!(faulty("url = \"redis://x\"\nca_file = \"/a.pem\""), ["emitters.ca_file"]);
        assert_eq!(faulty("ca_file = \"/a.pem\""), ["emitters.ca_file"]);
        assert_eq!(faulty("prefix = \"a\\nb\""), ["emitters.prefix"]);
        assert_eq!(faulty("message_bytes_max = 1"), ["emitters.message_bytes_max"]);
        let mut faults = Faults::default();
        EmittersConfig { enabled: true, ..EmittersConfig::default() }.check(false, &mut faults);
        assert_eq!(faults.into_inner()[0].0, "emitters.enabled");
    }

    #[test]
    fn without_an_address_of_their_own_it_is_that_of_the_nodes() {
        let redis = RedisConfig { url: RedisUrl::new("redis://a"), timeout_ms: 7, ..RedisConfig::default() };
        assert_eq!(EmittersConfig::default().redis(&redis), redis);
        let url = Some(RedisUrl::new("redis://b"));
        let own = EmittersConfig { url: url.clone(), ..EmittersConfig::default() }.redis(&redis);
        assert_eq!((Some(own.url), own.timeout_ms), (url, 7));
    }
}
