//! The settings of `[redis]`: which servers to use, and for how long to wait for them.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use super::mode::{self, RedisMode};
use crate::secret::Secret;
use crate::setting::Faults;

/// Longest key prefix, in bytes: it is sent with every command.
const PREFIX_BYTES_MAX: usize = 64;

/// A year: longer is a mistake in the unit.
const TTL_S_MAX: u64 = 31_536_000;

/// The connection to Redis or Valkey.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RedisConfig {
    /// `single`: the server of `url`. `sentinel`: the current master according to Redis Sentinel. `shards`: all
    /// servers of `addresses`, over which channels are distributed. `cluster`: the masters of a Redis Cluster or
    /// Valkey Cluster, over which channels are distributed.
    pub mode: RedisMode,
    /// With `mode = "single"`: `redis://[[user]:password@]host[:port][/database]`, `rediss://…` for TLS, or
    /// `unix:///path`. The parameters `?db=`, `?user=` and `?password=` are equivalent. The password is never shown.
    pub url: RedisUrl,
    /// With other modes, a list of `host:port`. `sentinel`: all Sentinels. `shards`: all servers, in any order, the
    /// same on every node. `cluster`: some nodes of the cluster, from which the others are discovered.
    pub addresses: Vec<String>,
    /// The user for logging in to the Redis servers, with other modes or together with `password_file`. Empty: the
    /// default user.
    pub user: String,
    /// With other modes, the password of that user. Empty: nodes do not log in.
    pub password: Secret,
    /// A file that holds the password. Replaces `password`, or with `mode = "single"` a password in `url`.
    pub password_file: Option<PathBuf>,
    /// With other modes, the number of the database. Must be 0 in a cluster.
    pub database: u32,
    /// With other modes, connects to the Redis servers over TLS. Their certificates must be valid for the names or
    /// addresses that Sentinel or the cluster reports, or that `addresses` lists.
    pub tls: bool,
    /// With `mode = "cluster"`: the number of partitions into which channels are hashed; each partition lies in one
    /// slot. Must be the same on every node. Fewer partitions take fewer resources of Redis. With more, moving a slot
    /// interrupts fewer channels, and load can be distributed more finely.
    pub cluster_partitions: u16,
    /// With `mode = "sentinel"`: the name of the master in the line `sentinel monitor NAME …` of the Sentinels'
    /// configuration.
    pub sentinel_master: String,
    /// The user for logging in to the Sentinels. Empty: the default user.
    pub sentinel_user: String,
    /// The password of that user. Empty: nodes do not log in to the Sentinels.
    pub sentinel_password: Secret,
    /// A file that holds the password. Replaces `sentinel_password`.
    pub sentinel_password_file: Option<PathBuf>,
    /// Connects to the Sentinels over TLS, with the certificate files below.
    pub sentinel_tls: bool,
    /// The prefix of all keys and channels, so that several installations can share a Redis.
    pub prefix: String,
    /// Time limit for every call, in milliseconds.
    pub timeout_ms: u64,
    /// Interval between the PINGs that check an idle connection, in milliseconds.
    pub ping_ms: u64,
    /// The longest pause between two attempts to reconnect, in milliseconds. Pauses are random and grow up to it.
    pub reconnect_max_ms: u64,
    /// Time that an unused channel's offset and epoch are remembered, in seconds.
    pub position_ttl_s: u64,
    /// Time after which the clients of a failed node disappear from presence, in seconds.
    pub presence_ttl_s: u64,
    /// With TLS: PEM file of the certificate authorities that verify the server's certificate. Not set: those of the
    /// operating system.
    pub ca_file: Option<PathBuf>,
    /// With TLS: PEM file of this node's client certificate, followed by the intermediate certificates. Needs
    /// `client_key_file`. Not set: no client certificate.
    pub client_cert_file: Option<PathBuf>,
    /// PEM file of the private key of the client certificate.
    pub client_key_file: Option<PathBuf>,
}

impl Default for RedisConfig {
    fn default() -> Self {
        Self {
            mode: RedisMode::Single,
            url: RedisUrl("redis://127.0.0.1:6379".into()),
            addresses: Vec::new(),
            user: String::new(),
            password: Secret::default(),
            password_file: None,
            database: 0,
            tls: false,
            cluster_partitions: 1_024,
            sentinel_master: String::new(),
            sentinel_user: String::new(),
            sentinel_password: Secret::default(),
            sentinel_password_file: None,
            sentinel_tls: false,
            prefix: "tidegate".into(),
            timeout_ms: 2_000,
            ping_ms: 1_000,
            reconnect_max_ms: 2_000,
            position_ttl_s: 2_592_000,
            presence_ttl_s: 20,
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
        }
    }
}

impl RedisConfig {
    pub fn check(&self, faults: &mut Faults) {
        mode::check(self, faults);
        match (&self.client_cert_file, &self.client_key_file) {
            (Some(_), None) => faults.add("client_key_file", "must be set together with client_cert_file"),
            (None, Some(_)) => faults.add("client_cert_file", "must be set together with client_key_file"),
            _ => {}
        }
        let printable = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'{' | b'}');
        if self.prefix.is_empty()
            || self.prefix.len() > PREFIX_BYTES_MAX
            || !self.prefix.bytes().all(printable)
        {
            let problem =
                format!("must be 1 to {PREFIX_BYTES_MAX} printable ASCII characters without braces");
            faults.add("prefix", problem);
        }
        faults.outside("timeout_ms", self.timeout_ms, 10..=60_000);
        faults.outside("ping_ms", self.ping_ms, 10..=60_000);
        faults.outside("reconnect_max_ms", self.reconnect_max_ms, 10..=600_000);
        faults.outside("position_ttl_s", self.position_ttl_s, 60..=TTL_S_MAX);
        faults.outside("presence_ttl_s", self.presence_ttl_s, 1..=3_600);
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    pub(crate) fn ping(&self) -> Duration {
        Duration::from_millis(self.ping_ms)
    }

    pub(crate) fn reconnect_max(&self) -> Duration {
        Duration::from_millis(self.reconnect_max_ms)
    }

    pub(crate) fn presence_ttl(&self) -> Duration {
        Duration::from_secs(self.presence_ttl_s)
    }
}

/// A URL that may hold a password. It is shown without it, even when the configuration is printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct RedisUrl(String);

impl RedisUrl {
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// Returns the URL with its password.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RedisUrl {
    /// Hides the text between the scheme and the last `@`, and behind a `?` or `#`: it may be secret, however badly the
    /// URL is written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) =
            self.0.split_once("://").map_or((None, &*self.0), |(scheme, rest)| (Some(scheme), rest));
        if let Some(scheme) = scheme {
            write!(f, "{scheme}://")?;
        }
        let (at, end) = (rest.rfind('@'), rest.find(['?', '#']));
        match (at, end) {
            // It is unknown which of the two is part of a secret.
            (Some(at), Some(end)) if at > end => f.write_str("***"),
            (at, end) => {
                let place = at.map_or(0, |at| at + 1);
                let (hidden, hidden_too) = (at.map_or("", |_| "***@"), end.map_or("", |_| "?***"));
                write!(f, "{hidden}{}{hidden_too}", &rest[place..end.unwrap_or(rest.len())])
            }
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({self})")
    }
}

impl Serialize for RedisUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        crate::secret::serialize_shown(&self.0, self, serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        for url in [
            "redis://:se@cret@host:1/2",
            "redis://user:secret@host",
            "user:secret@host",
            "rediss://secret@h",
            "redis://host?password=secret",
            "redis://host:1/2?db=3&pass=se@cret#secret",
            "host?secret",
        ] {
            let config = RedisConfig { url: RedisUrl::new(url), ..RedisConfig::default() };
            let shown = format!("{config:?} {} {}", config.url, serde_json::to_string(&config).unwrap());
            assert!(!shown.contains("cret"), "{shown}");
            let faults = faults(&config);
            assert!(!format!("{faults:?}").contains("cret"), "{faults:?}");
        }
        let passwords = RedisConfig {
            password: Secret::new("secret"),
            sentinel_password: Secret::new("secret"),
            ..RedisConfig::default()
        };
        let shown = format!("{passwords:?} {}", serde_json::to_string(&passwords).unwrap());
        assert!(!shown.contains("secret"), "{shown}");
        assert_eq!(RedisUrl::new("redis://host:1").to_string(), "redis://host:1");
        assert_eq!(RedisUrl::new("redis://u:p@host/1?x").to_string(), "redis://***@host/1?***");
    }

    fn faults(config: &RedisConfig) -> Vec<(String, String)> {
        let mut faults = Faults::default();
        config.check(&mut faults);
        faults.into_inner()
    }

    #[test]
    fn files_for_tls_are_refused_without_it_and_come_in_pairs() {
        let keys = |url: &str, files: [bool; 3]| -> Vec<String> {
            let file = |is_set: bool| is_set.then(|| PathBuf::from("/some.pem"));
            let [ca_file, client_cert_file, client_key_file] = files.map(file);
            let url = RedisUrl::new(url);
            let config =
                RedisConfig { url, ca_file, client_cert_file, client_key_file, ..RedisConfig::default() };
            faults(&config).into_iter().map(|(key, _)| key).collect()
        };
        assert_eq!(keys("rediss://host", [true; 3]), [""; 0]);
        assert_eq!(keys("rediss://host", [false, true, false]), ["client_key_file"]);
        assert_eq!(keys("rediss://host", [false, false, true]), ["client_cert_file"]);
        assert_eq!(keys("redis://host", [true; 3]), ["ca_file", "client_cert_file", "client_key_file"]);
    }

    #[test]
    fn the_default_is_valid_and_every_mistake_is_named() {
        assert_eq!(faults(&RedisConfig::default()), Vec::new());

        let bad = RedisConfig {
            url: RedisUrl::new("http://host"),
            prefix: "a{b".into(),
            timeout_ms: 0,
            ping_ms: 0,
            reconnect_max_ms: 0,
            position_ttl_s: 0,
            presence_ttl_s: 0,
            client_cert_file: Some("/certificate.pem".into()),
            ..RedisConfig::default()
        };
        let keys: Vec<String> = faults(&bad).into_iter().map(|(key, _)| key).collect();
        assert_eq!(
            keys,
            [
                "url",
                "client_key_file",
                "prefix",
                "timeout_ms",
                "ping_ms",
                "reconnect_max_ms",
                "position_ttl_s",
                "presence_ttl_s"
            ]
        );
    }
}
