//! The sections `feeds.NAME.postgres`: which table, and how its database is reached.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use tokio_postgres::config::{Host, SslMode};

use crate::broker::redis::RedisUrl;
use crate::setting::Faults;

/// The longest name of a table or column, in bytes: PostgreSQL cuts off longer ones.
const NAME_BYTES_MAX: usize = 63;

/// With `kind = "postgres"`: a table in PostgreSQL 11 or later into which the application writes publications, in the
/// transaction that they report on. Rows are deleted when they are published.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PostgresConfig {
    /// `postgres://user:password@host:port/database?sslmode=require`, of the server itself, not of a connection
    /// pooler. `sslmode` is `require` (TLS with verified certificates) or `disable`; for a Unix socket it can be
    /// omitted (`postgres://user@%2Frun%2Fpostgresql/database`). The password is never shown.
    pub url: PostgresUrl,
    /// PEM file of the certificate authorities that verify the server's certificate. Not set: those of the operating
    /// system.
    pub ca_file: Option<PathBuf>,
    /// PEM file of this node's client certificate, followed by the intermediate certificates.
    pub client_cert_file: Option<PathBuf>,
    /// PEM file of the private key of the client certificate.
    pub client_key_file: Option<PathBuf>,
    /// The table, preceded by its schema and a dot if it is not on the search path. Names are case-sensitive.
    pub table: String,
    /// The column that identifies and orders rows: of a sortable type, not null, with values that are never reused.
    pub id: String,
    /// The column with the time of insertion, of type `timestamptz`. It may be absent.
    pub created_at: String,
    /// The table for dead letters, which must exist. Empty: the name of the table followed by `_dead`.
    pub dead_letters: String,
    /// The most dead letters kept. Beyond it, the oldest are deleted.
    pub dead_letters_max: u64,
    /// The channel on which the database announces new rows (`NOTIFY`). Empty: the name of the table without its
    /// schema. Without notifications, the feed looks for new rows once per second.
    pub notify: String,
    /// Time limit for every call, in milliseconds.
    pub timeout_ms: u64,
}

impl Default for PostgresConfig {
    fn default() -> Self {
        Self {
            url: PostgresUrl::default(),
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            table: "outbox".to_owned(),
            id: "id".to_owned(),
            created_at: "created_at".to_owned(),
            dead_letters: String::new(),
            dead_letters_max: 10_000,
            notify: String::new(),
            timeout_ms: 5_000,
        }
    }
}

impl PostgresConfig {
    pub(crate) fn check(&self, faults: &mut Faults) {
        match self.url.read() {
            Err(problem) => faults.add("url", problem),
            Ok(server) if server.get_ssl_mode() == SslMode::Require => {}
            Ok(_) => {
                for (key, _) in self.files() {
                    let key = key.rsplit('.').next().unwrap_or(key);
                    faults.add(key, "has no effect without TLS: set sslmode=require in url");
                }
            }
        }
        match (&self.client_cert_file, &self.client_key_file) {
            (Some(_), None) => {
                faults.add("client_key_file", "must be set together with client_cert_file");
            }
            (None, Some(_)) => faults.add("client_cert_file", "must be set together with client_key_file"),
            _ => {}
        }
        let is_name =
            |name: &str| (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control);
        let of_name = format!("must be 1 to {NAME_BYTES_MAX} bytes long, without control characters");
        let is_table = |name: &str| name.split('.').count() <= 2 && name.split('.').all(is_name);
        for (key, table) in [("table", &self.table), ("dead_letters", &self.dead_letters())] {
            if !is_table(table) {
                faults.add(
                    key,
                    format!("must be the name of a table, or of a schema and a table: each {of_name}"),
                );
            }
        }
        if self.dead_letters() == self.table {
            faults.add(
                "dead_letters",
                "must not be the table itself: dead letters would be read again forever",
            );
        }
        for (key, name) in [("id", &self.id), ("created_at", &self.created_at), ("notify", &self.notify())] {
            if !is_name(name) {
                faults.add(key, &*of_name);
            }
        }
        faults.outside("dead_letters_max", self.dead_letters_max, 1..=100_000_000);
        faults.outside("timeout_ms", self.timeout_ms, 100..=60_000);
    }

    pub(super) fn dead_letters(&self) -> String {
        if self.dead_letters.is_empty() { format!("{}_dead", self.table) } else { self.dead_letters.clone() }
    }

    pub(super) fn notify(&self) -> String {
        let table = || self.table.rsplit('.').next().unwrap_or_default().to_owned();
        if self.notify.is_empty() { table() } else { self.notify.clone() }
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    /// Returns the files that the settings name, by their keys.
    pub(crate) fn files(&self) -> Vec<(&'static str, &Path)> {
        let files = [
            ("postgres.ca_file", &self.ca_file),
            ("postgres.client_cert_file", &self.client_cert_file),
            ("postgres.client_key_file", &self.client_key_file),
        ];
        files.into_iter().filter_map(|(key, file)| Some((key, file.as_deref()?))).collect()
    }
}

/// An address that may hold a password, which is never shown, not even when the configuration is printed.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct PostgresUrl(String);

/// The schemes of an address.
const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

impl PostgresUrl {
    /// Parses the address. The errors do not repeat it.
    pub(super) fn read(&self) -> Result<tokio_postgres::Config, &'static str> {
        if self.0.is_empty() {
            return Err("must be set: postgres://user:password@host:port/database?sslmode=require");
        }
        if !self.is_url() {
            return Err("must begin with postgres://");
        }
        let server: tokio_postgres::Config = self.0.parse().map_err(
            |_| "cannot be read: must be postgres://user:password@host:port/database?sslmode=require",
        )?;
        let [host] = server.get_hosts() else { return Err("must name one host") };
        let is_tcp = matches!(host, Host::Tcp(_));
        if server.get_user().is_none() {
            return Err("must name a user");
        }
        match (server.get_ssl_mode(), is_tcp) {
            (SslMode::Require, false) => {
                Err("must not have sslmode=require for a Unix socket, which has no TLS")
            }
            (SslMode::Require | SslMode::Disable, _) | (_, false) => Ok(server),
            _ => Err("must have sslmode=require, for TLS with verified certificates, or sslmode=disable"),
        }
    }

    fn is_url(&self) -> bool {
        SCHEMES.iter().any(|scheme| self.0.starts_with(scheme))
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A text that is no such URL may contain a password anywhere.
        match self.is_url() {
            true => RedisUrl::new(&*self.0).fmt(f),
            false if self.0.is_empty() => Ok(()),
            false => f.write_str("***"),
        }
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresUrl({self})")
    }
}

impl Serialize for PostgresUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        crate::secret::serialize_shown(&self.0, self, serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(toml: &str) -> Vec<(String, String)> {
        let mut faults = Faults::default();
        toml::from_str::<PostgresConfig>(toml).unwrap().check(&mut faults);
        faults.into_inner()
    }

    fn faulty(toml: &str) -> Vec<String> {
        faults(toml).into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn every_mistake_is_told_by_its_key() {
        for good in [
            "url = \"postgres://me:x@h:5433/d?sslmode=require\"\nca_file = \"/a\"\ntable = \"app.outbox\"",
            "url = \"postgresql://me@h/d?sslmode=disable\"",
            "url = \"postgres://me@%2Frun%2Fpostgresql/d\"",
        ] {
            assert_eq!(faulty(good), [""; 0], "{good}");
        }
        assert_eq!(faulty(""), ["url"]);
        let bad = "url = \"postgres://me@h/d?sslmode=disable\"\nca_file = \"/a\"\nclient_key_file = \"/k\"\n\
                   table = \"a.b.c\"\nid = \"\"\nnotify = \"a\\nb\"\ndead_letters_max = 0\ntimeout_ms = 1";
        assert_eq!(
            faulty(bad),
            [
                "ca_file",
                "client_key_file",
                "client_cert_file",
                "table",
                "dead_letters",
                "id",
                "notify",
                "dead_letters_max",
                "timeout_ms"
            ]
        );
        let url = "url = \"postgres://me@h/d?sslmode=disable\"\n";
        assert_eq!(faulty(&format!("{url}dead_letters = \"outbox\"")), ["dead_letters"]);
    }

    #[test]
    fn an_address_says_whether_tls_is_spoken_and_no_secret_is_repeated() {
        for (url, why) in [
            ("host=h user=u password=s3cret", "must begin"),
            ("postgres://u:s3cret@h/d", "must have sslmode"),
            ("postgres://u:s3cret@h/d?sslmode=prefer", "must have sslmode"),
            ("postgres://u:s3cret@h/d?sslmode=s3cret", "cannot be read"),
            ("postgres://u:s3cret@one,two/d?sslmode=require", "one host"),
            ("postgres://u:s3cret@%2Fsocket/d?sslmode=require", "for a Unix socket"),
            ("postgres://h/d?sslmode=require&password=s3cret", "must name a user"),
        ] {
            let told = faults(&format!("url = \"{url}\""));
            assert!(told[0].1.contains(why) && !format!("{told:?}").contains("s3cret"), "{url}: {told:?}");
            let config: PostgresConfig = toml::from_str(&format!("url = \"{url}\"")).unwrap();
            let shown = format!("{config:?} {}", toml::to_string(&config).unwrap());
            assert!(!shown.contains("s3cret"), "{shown}");
        }
    }
}
