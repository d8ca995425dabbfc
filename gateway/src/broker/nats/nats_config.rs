//! The settings of `[nats]`: which servers to use, and for how long to wait for them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::ServerAddr;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize, Serializer};

use crate::secret::Secret;
use crate::setting::Faults;

/// Longest prefix, in bytes: it is in every subject.
const PREFIX_BYTES_MAX: usize = 32;

/// A year: longer is a mistake in the unit.
const TTL_S_MAX: u64 = 31_536_000;

/// The most servers of a list.
const SERVERS_MAX: usize = 64;

/// Why the connections cannot be set up. Holds no secret.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("nats: {0}")]
pub struct NatsConnectError(pub(crate) String);

/// The connection to NATS.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NatsConfig {
    /// `nats://[user:password@ or token@]host[:port]`, or `tls://…` for TLS. Several servers of a cluster are
    /// separated by commas, with the login in front of the first. The other servers of the cluster are discovered.
    /// Secrets are never shown.
    pub url: NatsUrl,
    /// The user for logging in. Replaces a user in `url`.
    pub user: String,
    /// The password of that user.
    pub password: Secret,
    /// A file that holds the password. Replaces `password`.
    pub password_file: Option<PathBuf>,
    /// A token for logging in. Replaces a user.
    pub token: Secret,
    /// A file that holds the token. Replaces `token`.
    pub token_file: Option<PathBuf>,
    /// A credentials file, which holds a user's JWT and the seed of its NKey. Replaces user and token.
    pub credentials_file: Option<PathBuf>,
    /// With TLS: PEM file of the certificate authorities that verify the server's certificate. Not set: those of the
    /// operating system.
    pub ca_file: Option<PathBuf>,
    /// With TLS: PEM file of this node's client certificate, followed by the intermediate certificates. Needs
    /// `client_key_file`. Not set: no client certificate.
    pub client_cert_file: Option<PathBuf>,
    /// PEM file of the private key of the client certificate.
    pub client_key_file: Option<PathBuf>,
    /// The prefix of all subjects and stream names, so that several installations can share an account: letters,
    /// digits, `-` and `_`.
    pub prefix: String,
    /// The JetStream domain, if the streams are behind a leaf node. Empty: the server's own.
    pub domain: String,
    /// The storage of new streams: `file`, or `memory`, which is lost when the server restarts. Existing streams keep
    /// theirs.
    pub storage: Storage,
    /// The number of servers of a cluster that keep each stream: 1, 3 or 5. More than 1 needs NATS 2.11 or later:
    /// earlier releases can give one stream position to two publications and are refused.
    pub replicas: u8,
    /// The most bytes of history in each stream, over all its channels. Beyond it, the stream's oldest publications
    /// are removed. 0: as many as the account allows.
    pub history_bytes_max: u64,
    /// The most idempotency keys remembered in each class of lifetimes. Beyond it, the oldest key of the class is
    /// forgotten.
    pub idempotency_keys_max: u64,
    /// The most bytes of one map's state, and the most bytes of its stream of changes. A key that would exceed the
    /// first is refused with error 106; beyond the second, the oldest changes are removed.
    pub map_bytes_max: usize,
    /// The most bytes of maps that a node keeps in memory. Beyond it, the maps used least recently are dropped and
    /// read again when they are needed.
    pub maps_memory_bytes_max: usize,
    /// Time limit for every call, in milliseconds.
    pub timeout_ms: u64,
    /// Interval between the PINGs that check an idle connection, in milliseconds. The connection is given up when two
    /// of them are not answered.
    pub ping_ms: u64,
    /// The longest pause between two attempts to reconnect, in milliseconds. Pauses are random and grow up to it.
    pub reconnect_max_ms: u64,
    /// Time that an unused channel's offset and epoch are remembered, in seconds. History is kept no longer than
    /// that; keys of maps and of snapshots that expire, no longer than half of it.
    pub position_ttl_s: u64,
    /// Time after which the clients of a failed node disappear from presence, in seconds.
    pub presence_ttl_s: u64,
}

/// Where JetStream keeps a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    #[default]
    File,
    Memory,
}

impl Storage {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Memory => "memory",
        }
    }
}

impl Default for NatsConfig {
    fn default() -> Self {
        Self {
            url: NatsUrl("nats://127.0.0.1:4222".into()),
            user: String::new(),
            password: Secret::default(),
            password_file: None,
            token: Secret::default(),
            token_file: None,
            credentials_file: None,
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            prefix: "tidegate".into(),
            domain: String::new(),
            storage: Storage::File,
            replicas: 1,
            history_bytes_max: 0,
            idempotency_keys_max: 1_000_000,
            map_bytes_max: 16 << 20,
            maps_memory_bytes_max: 256 << 20,
            timeout_ms: 2_000,
            ping_ms: 1_000,
            reconnect_max_ms: 2_000,
            position_ttl_s: 2_592_000,
            presence_ttl_s: 20,
        }
    }
}

impl NatsConfig {
    pub(crate) fn check(&self, faults: &mut Faults) {
        let servers = match self.url.read() {
            Ok(servers) => Some(servers),
            Err(problem) => {
                faults.add("url", problem);
                None
            }
        };
        let in_url = servers.as_ref().is_some_and(|servers| servers.login != NatsLogin::None);
        let ways = [
            ("url", in_url),
            ("user", !self.user.is_empty()),
            ("token", !self.token.is_empty() || self.token_file.is_some()),
            ("credentials_file", self.credentials_file.is_some()),
        ];
        let mut ways = ways.into_iter().filter_map(|(key, is_set)| is_set.then_some(key));
        if let (Some(first), Some(second)) = (ways.next(), ways.next()) {
            faults.add(second, format!("must not be set together with {first}: there can be only one login"));
        }
        let has_password = !self.password.is_empty() || self.password_file.is_some();
        match (self.user.is_empty(), has_password) {
            (true, true) => faults.add("password", "needs user"),
            (false, false) => faults.add("user", "needs password or password_file"),
            _ => {}
        }
        for (key, text, file) in
            [("password", &self.password, &self.password_file), ("token", &self.token, &self.token_file)]
        {
            if !text.is_empty() && file.is_some() {
                faults.add(key, format!("must not be set together with {key}_file"));
            }
        }
        match (&self.client_cert_file, &self.client_key_file) {
            (Some(_), None) => faults.add("client_key_file", "must be set together with client_cert_file"),
            (None, Some(_)) => faults.add("client_cert_file", "must be set together with client_key_file"),
            _ => {}
        }
        let is_of_token = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let is_token = |text: &str| text.len() <= PREFIX_BYTES_MAX && text.bytes().all(is_of_token);
        if self.prefix.is_empty() || !is_token(&self.prefix) {
            faults.add("prefix", format!("must be 1 to {PREFIX_BYTES_MAX} letters, digits, - and _"));
        }
        if !is_token(&self.domain) {
            faults.add("domain", format!("must be at most {PREFIX_BYTES_MAX} letters, digits, - and _"));
        }
        if ![1, 3, 5].contains(&self.replicas) {
            faults.add("replicas", format!("is {}, must be 1, 3 or 5", self.replicas));
        }
        faults.outside("history_bytes_max", self.history_bytes_max, 0..=1 << 50);
        faults.outside("idempotency_keys_max", self.idempotency_keys_max, 1_000..=1_000_000_000);
        faults.outside("map_bytes_max", self.map_bytes_max, 1 << 16..=1 << 28);
        faults.outside("maps_memory_bytes_max", self.maps_memory_bytes_max, 1 << 20..=1 << 40);
        faults.outside("timeout_ms", self.timeout_ms, 10..=60_000);
        faults.outside("ping_ms", self.ping_ms, 10..=60_000);
        faults.outside("reconnect_max_ms", self.reconnect_max_ms, 10..=600_000);
        faults.outside("position_ttl_s", self.position_ttl_s, 60..=TTL_S_MAX);
        faults.outside("presence_ttl_s", self.presence_ttl_s, 1..=3_600);
    }

    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    pub(crate) fn presence_ttl(&self) -> Duration {
        Duration::from_secs(self.presence_ttl_s)
    }

    /// Returns the configured files of secrets, with the keys of their settings.
    pub(crate) fn secret_files(&self) -> Vec<(&'static str, &Path)> {
        named([
            ("password_file", &self.password_file),
            ("token_file", &self.token_file),
            ("credentials_file", &self.credentials_file),
        ])
    }

    /// Returns the other configured files, with the keys of their settings.
    pub(crate) fn files(&self) -> Vec<(&'static str, &Path)> {
        named([
            ("ca_file", &self.ca_file),
            ("client_cert_file", &self.client_cert_file),
            ("client_key_file", &self.client_key_file),
        ])
    }
}

fn named<'a>(files: [(&'static str, &'a Option<PathBuf>); 3]) -> Vec<(&'static str, &'a Path)> {
    files.into_iter().filter_map(|(key, file)| Some((key, file.as_deref()?))).collect()
}

/// The servers to connect to, and the login.
#[derive(Clone, Debug)]
pub(super) struct Servers {
    /// Addresses without users and passwords, because a library may log them.
    pub(super) addresses: Vec<ServerAddr>,
    pub(super) login: NatsLogin,
}

#[derive(Clone, PartialEq, Eq, Default)]
pub(super) enum NatsLogin {
    #[default]
    None,
    User(String, String),
    Token(String),
}

impl fmt::Debug for NatsLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::None { "None" } else { "[redacted]" })
    }
}

/// URLs that may hold a password. They are shown without it, even when the configuration is printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct NatsUrl(String);

impl NatsUrl {
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// Parses the URLs. The error repeats nothing of them, because they may hold a misplaced secret.
    pub(super) fn read(&self) -> Result<Servers, &'static str> {
        let mut servers = Servers { addresses: Vec::new(), login: NatsLogin::None };
        for text in self.0.split(',').map(str::trim) {
            let (scheme, rest) = text.split_once("://").unwrap_or(("nats", text));
            if !matches!(scheme, "nats" | "tls") {
                return Err("must begin with nats:// or tls://, for each server");
            }
            let (login, place) = match rest.rsplit_once('@') {
                Some((login, place)) => (read_login(login)?, place),
                None => (NatsLogin::None, rest),
            };
            let place = place.strip_suffix('/').unwrap_or(place);
            if place.is_empty() || place.contains(|odd: char| odd.is_whitespace() || "/?#@".contains(odd)) {
                return Err(
                    "must be a host and at most a port; in a password , @ / ? and # must be written %2C, \
                            %40, %2F, %3F and %23",
                );
            }
            let address = format!("{scheme}://{place}").parse();
            servers.addresses.push(address.map_err(|_| "has a host or a port that cannot be read")?);
            if login != NatsLogin::None {
                if servers.login != NatsLogin::None && servers.login != login {
                    return Err("must not have different logins: all servers use the same");
                }
                servers.login = login;
            }
        }
        if servers.addresses.len() > SERVERS_MAX {
            return Err("must have at most 64 servers");
        }
        Ok(servers)
    }
}

fn read_login(text: &str) -> Result<NatsLogin, &'static str> {
    let decoded = |text: &str| {
        let decoded = percent_decode_str(text).decode_utf8();
        decoded.map(String::from).map_err(|_| "has a % escape that is not UTF-8")
    };
    Ok(match text.split_once(':') {
        Some((user, password)) => NatsLogin::User(decoded(user)?, decoded(password)?),
        None => NatsLogin::Token(decoded(text)?),
    })
}

impl fmt::Display for NatsUrl {
    /// Hides the text between a scheme and the last `@`: it may be secret, however badly the URL is written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A password may wrongly contain a comma.
        let Some(at) = self.0.rfind('@') else { return f.write_str(&self.0) };
        let scheme = self.0.split_once("://").map_or("", |(scheme, _)| scheme);
        let scheme = if matches!(scheme, "nats" | "tls") { scheme } else { "nats" };
        write!(f, "{scheme}://***@{}", &self.0[at + 1..])
    }
}

impl fmt::Debug for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NatsUrl({self})")
    }
}

impl Serialize for NatsUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        crate::secret::serialize_shown(&self.0, self, serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(config: &NatsConfig) -> Vec<(String, String)> {
        let mut faults = Faults::default();
        config.check(&mut faults);
        faults.into_inner()
    }

    #[test]
    fn a_secret_is_never_shown() {
        for url in [
            "nats://user:se@cret@host:1",
            "nats://secret@a,nats://b",
            "tls://u:se,cret@host",
            "secret@host",
            "http://secret@h",
        ] {
            let config = NatsConfig {
                url: NatsUrl::new(url),
                password: Secret::new("secret"),
                token: Secret::new("secret"),
                ..NatsConfig::default()
            };
            let shown = format!("{config:?} {} {}", config.url, serde_json::to_string(&config).unwrap());
            assert!(!shown.contains("cret"), "{shown}");
            let faults = faults(&config);
            assert!(!format!("{faults:?}").contains("cret"), "{faults:?}");
            assert!(!format!("{:?}", config.url.read()).contains("cret"), "{url}");
        }
        assert_eq!(NatsUrl::new("nats://a:1,nats://b:2").to_string(), "nats://a:1,nats://b:2");
    }

    #[test]
    fn several_servers_are_logged_in_to_alike() {
        let servers = NatsUrl::new("nats://me:p%40ss@a:1, tls://b:2, c").read().unwrap();
        assert_eq!(servers.login, NatsLogin::User("me".into(), "p@ss".into()));
        let hosts: Vec<_> =
            servers.addresses.iter().map(|address| (address.host(), address.port())).collect();
        assert_eq!(hosts, [("a", 1), ("b", 2), ("c", 4222)]);
        assert!(servers.addresses.iter().all(|address| !address.has_user_pass()));
        assert_eq!(NatsUrl::new("nats://t0ken@a").read().unwrap().login, NatsLogin::Token("t0ken".into()));
        for bad in
            ["", "nats://", "http://a", "nats://a/b", "nats://a,", "nats://u:p@a,nats://v:p@b", "nats://a:x"]
        {
            assert!(NatsUrl::new(bad).read().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_default_is_valid_and_every_mistake_is_named() {
        assert_eq!(faults(&NatsConfig::default()), Vec::new());
        let bad = NatsConfig {
            url: NatsUrl::new("http://host"),
            user: "me".into(),
            token: Secret::new("x"),
            client_cert_file: Some("/certificate.pem".into()),
            prefix: "a.b".into(),
            domain: "*".into(),
            replicas: 2,
            idempotency_keys_max: 0,
            timeout_ms: 0,
            ping_ms: 0,
            reconnect_max_ms: 0,
            position_ttl_s: 0,
            presence_ttl_s: 0,
            ..NatsConfig::default()
        };
        let keys: Vec<String> = faults(&bad).into_iter().map(|(key, _)| key).collect();
        let expected = [
            "url",
            "token",
            "user",
            "client_key_file",
            "prefix",
            "domain",
            "replicas",
            "idempotency_keys_max",
            "timeout_ms",
            "ping_ms",
            "reconnect_max_ms",
            "position_ttl_s",
            "presence_ttl_s",
        ];
        assert_eq!(keys, expected);
    }

    #[test]
    fn nodes_log_in_one_way() {
        let with = |change: fn(&mut NatsConfig)| {
            let mut config = NatsConfig { url: NatsUrl::new("nats://u:p@h"), ..NatsConfig::default() };
            change(&mut config);
            faults(&config).into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(with(|_| {}), [""; 0]);
        assert_eq!(with(|config| config.credentials_file = Some("/c".into())), ["credentials_file"]);
        assert_eq!(with(|config| config.password = Secret::new("x")), ["password"]);
    }
}
