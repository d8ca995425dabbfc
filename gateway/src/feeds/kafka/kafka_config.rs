//! The sections `feeds.NAME.kafka`: which topic, and how its cluster is reached.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::feeds::redis_stream::From;
use crate::secret::Secret;
use crate::setting::Faults;

/// More brokers in the list are a mistake: one that answers names all others.
const BROKERS_MAX: usize = 32;
/// The longest name of a topic, in bytes, as Kafka allows it.
const TOPIC_BYTES_MAX: usize = 249;
/// The longest name of a group, in bytes.
const GROUP_BYTES_MAX: usize = 255;

/// With `kind = "kafka"`: a topic of Apache Kafka 3.9 or later, or of a compatible server, read as a consumer group.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaConfig {
    /// Some brokers, each as `host:port`. The others are discovered.
    pub brokers: Vec<String>,
    /// The topic, which must exist.
    pub topic: String,
    /// The consumer group. No other feed or application may use it.
    pub group: String,
    /// Where a new consumer group starts: `beginning`, with all records of the topic, or `end`, with new records
    /// only. A partition that is added later is read from its beginning.
    pub from: From,
    /// The format of a record's value: `fields`, a JSON object with the fields of a publication; `data`, the payload
    /// in JSON; or `bytes`, a payload of any kind. With `data` and `bytes`, the record's headers hold the other
    /// fields.
    pub value: Value,
    /// The topic for dead letters, which must exist. Empty: the name of the topic followed by `.dead`.
    pub dead_letters: String,
    /// Connects to the brokers over TLS.
    pub tls: bool,
    /// PEM file of the certificate authorities that verify the brokers' certificates. Not set: those of the operating
    /// system.
    pub ca_file: Option<PathBuf>,
    /// PEM file of this node's client certificate, followed by the intermediate certificates.
    pub client_cert_file: Option<PathBuf>,
    /// PEM file of the private key of the client certificate.
    pub client_key_file: Option<PathBuf>,
    /// The SASL mechanism: `plain`, `scram_sha_256` or `scram_sha_512`. Not set: no login.
    pub sasl: Option<Sasl>,
    /// With `sasl`: the name of the user.
    pub user: String,
    /// With `sasl`: the password. It is never shown.
    pub password: Secret,
    /// With `sasl`: a file that holds the password. Replaces `password`.
    pub password_file: Option<PathBuf>,
    /// Time limit for every call, in milliseconds.
    pub timeout_ms: u64,
}

/// What is in a record's value.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    #[default]
    Fields,
    Data,
    Bytes,
}

/// How a node logs in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sasl {
    Plain,
    #[serde(rename = "scram_sha_256")]
    ScramSha256,
    #[serde(rename = "scram_sha_512")]
    ScramSha512,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            brokers: Vec::new(),
            topic: String::new(),
            group: "tidegate".to_owned(),
            from: From::Beginning,
            value: Value::Fields,
            dead_letters: String::new(),
            tls: false,
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            sasl: None,
            user: String::new(),
            password: Secret::default(),
            password_file: None,
            timeout_ms: 5_000,
        }
    }
}

impl KafkaConfig {
    pub(crate) fn check(&self, faults: &mut Faults) {
        if self.brokers.is_empty() {
            faults.add("brokers", "must list brokers as host:port");
        }
        if self.brokers.len() > BROKERS_MAX {
            faults.add("brokers", format!("must have at most {BROKERS_MAX} entries"));
        }
        for (number, broker) in self.brokers.iter().enumerate() {
            if !is_host_and_port(broker) {
                faults.add(format!("brokers.{number}"), "must be host:port, such as kafka.internal:9092");
            }
        }
        for (key, topic) in [("topic", &self.topic), ("dead_letters", &self.dead_letters())] {
            if !is_topic(topic) {
                let problem = format!("must be 1 to {TOPIC_BYTES_MAX} letters, digits and ._-");
                faults.add(key, problem);
            }
        }
        if self.dead_letters() == self.topic {
            faults.add(
                "dead_letters",
                "must not be the topic itself: dead letters would be read again forever",
            );
        }
        if self.group.is_empty() || self.group.len() > GROUP_BYTES_MAX {
            faults.add("group", format!("must be 1 to {GROUP_BYTES_MAX} bytes long"));
        }
        if !self.tls {
            for (key, _) in self.files_of_tls() {
                let key = key.rsplit('.').next().unwrap_or(key);
                faults.add(key, "has no effect without TLS: set tls = true");
            }
        }
        match (&self.client_cert_file, &self.client_key_file) {
            (Some(_), None) => faults.add("client_key_file", "must be set together with client_cert_file"),
            (None, Some(_)) => faults.add("client_cert_file", "must be set together with client_key_file"),
            _ => {}
        }
        self.check_login(faults);
        faults.outside("timeout_ms", self.timeout_ms, 500..=60_000);
    }

    fn check_login(&self, faults: &mut Faults) {
        let has_password = !self.password.is_empty() || self.password_file.is_some();
        match self.sasl {
            None => {
                for (key, is_set) in [
                    ("user", !self.user.is_empty()),
                    ("password", !self.password.is_empty()),
                    ("password_file", self.password_file.is_some()),
                ] {
                    if is_set {
                        faults.add(
                            key,
                            "has no effect without sasl: set it to plain, scram_sha_256 or scram_sha_512",
                        );
                    }
                }
            }
            Some(_) => {
                if self.user.is_empty() {
                    faults.add("user", "must be set with sasl");
                }
                if !has_password {
                    faults.add("password", "must be set with sasl, or password_file");
                }
                if !self.password.is_empty() && self.password_file.is_some() {
                    faults.add("password_file", "must not be set together with password");
                }
            }
        }
    }

    pub(super) fn dead_letters(&self) -> String {
        if self.dead_letters.is_empty() { format!("{}.dead", self.topic) } else { self.dead_letters.clone() }
    }

    pub(super) fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    fn files_of_tls(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let files = [
            ("kafka.ca_file", &self.ca_file),
            ("kafka.client_cert_file", &self.client_cert_file),
            ("kafka.client_key_file", &self.client_key_file),
        ];
        files.into_iter().filter_map(|(key, file)| Some((key, file.as_deref()?)))
    }

    /// Returns the files that the settings name, by their keys.
    pub(crate) fn files(&self) -> Vec<(&'static str, &Path)> {
        let password = self.password_file.as_deref().map(|file| ("kafka.password_file", file));
        self.files_of_tls().chain(password).collect()
    }
}

fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            !host.is_empty() && host.bytes().all(is_of_name)
        }
    };
    is_host && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn is_topic(name: &str) -> bool {
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=TOPIC_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_of_name) && !matches!(name, "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(toml: &str) -> Vec<(String, String)> {
        let mut faults = Faults::default();
        toml::from_str::<KafkaConfig>(toml).unwrap().check(&mut faults);
        faults.into_inner()
    }

    fn faulty(toml: &str) -> Vec<String> {
        faults(toml).into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn every_mistake_is_told_by_its_key() {
        for good in [
            "brokers = [\"kafka-1:9092\", \"[::1]:9092\", \"10.0.0.1:9093\"]\ntopic = \"shop.orders\"",
            "brokers = [\"a:1\"]\ntopic = \"t\"\ntls = true\nca_file = \"/a\"\nclient_cert_file = \"/c\"\n\
             client_key_file = \"/k\"\nsasl = \"scram_sha_512\"\nuser = \"u\"\npassword_file = \"/p\"",
            "brokers = [\"a:1\"]\ntopic = \"t\"\nsasl = \"plain\"\nuser = \"u\"\npassword = \"p\"\nvalue = \"bytes\"",
        ] {
            assert_eq!(faulty(good), [""; 0], "{good}");
        }
        assert_eq!(faulty(""), ["brokers", "topic"]);
        let bad = "brokers = [\"a\", \"kafka://a:1\", \"a:0\", \"[a]:1\"]\ntopic = \"a b\"\ndead_letters = \"..\"\n\
                   group = \"\"\nca_file = \"/a\"\nclient_key_file = \"/k\"\nuser = \"u\"\ntimeout_ms = 1";
        assert_eq!(
            faulty(bad),
            [
                "brokers.0",
                "brokers.1",
                "brokers.2",
                "brokers.3",
                "topic",
                "dead_letters",
                "group",
                "ca_file",
                "client_key_file",
                "client_cert_file",
                "user",
                "timeout_ms"
            ]
        );
        let base = "brokers = [\"a:1\"]\ntopic = \"t\"\n";
        assert_eq!(faulty(&format!("{base}dead_letters = \"t\"")), ["dead_letters"]);
        assert_eq!(faulty(&format!("{base}sasl = \"plain\"")), ["user", "password"]);
        let both = format!("{base}sasl = \"plain\"\nuser = \"u\"\npassword = \"p\"\npassword_file = \"/p\"");
        assert_eq!(faulty(&both), ["password_file"]);
    }

    #[test]
    fn a_password_is_not_shown() {
        let config: KafkaConfig = toml::from_str("password = \"s3cret\"").unwrap();
        let shown =
            format!("{config:?} {} {:?}", toml::to_string(&config).unwrap(), faults("password = \"s3cret\""));
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
