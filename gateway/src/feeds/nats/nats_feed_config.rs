//! The sections `feeds.NAME.nats`: which stream of JetStream, and who reads it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::broker::nats::{NatsConfig, NatsUrl};
use crate::feeds::redis_stream::From;
use crate::setting::Faults;

/// The longest name of a stream or consumer, in bytes.
const NAME_BYTES_MAX: usize = 128;

/// The longest filter, in bytes.
const SUBJECT_BYTES_MAX: usize = 512;

/// With `kind = "nats"`: a JetStream stream with `limits` or `workqueue` retention, read through a durable pull
/// consumer.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct NatsFeedConfig {
    /// The NATS that holds the stream, in the form of `nats.url`. Not set: the NATS of `[nats]`. The timeouts of
    /// `[nats]` apply in both cases.
    pub url: Option<NatsUrl>,
    /// With `url`: a credentials file. Replaces a user or a token in `url`.
    pub credentials_file: Option<PathBuf>,
    /// With `url`: PEM file of the certificate authorities that verify the server's certificate. Not set: those of
    /// the operating system.
    pub ca_file: Option<PathBuf>,
    /// With `url`: PEM file of this node's client certificate, followed by the intermediate certificates.
    pub client_cert_file: Option<PathBuf>,
    /// With `url`: PEM file of the private key of the client certificate.
    pub client_key_file: Option<PathBuf>,
    /// The name of the stream, which must exist.
    pub stream: String,
    /// The durable consumer, which is created if it does not exist. No other feed or application may use it.
    pub consumer: String,
    /// The subjects whose messages are read. Empty: all subjects of the stream.
    pub subject: String,
    /// Where a new consumer starts: `beginning`, with all messages of the stream, or `end`, with new messages only.
    pub from: From,
    /// Where a record's fields are. `json`: each message is a JSON object whose members are the fields. `headers`:
    /// the message's headers are the fields, and its body is the payload.
    pub format: Format,
    /// The stream for dead letters, which is created if it does not exist. Empty: the name of the stream followed by
    /// `_dead`.
    pub dead_letters: String,
    /// The most dead letters kept, for a stream that the feed creates. Beyond it, the oldest are deleted.
    pub dead_letters_max: u64,
}

/// Where the fields of a record are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    #[default]
    Json,
    Headers,
}

impl Default for NatsFeedConfig {
    fn default() -> Self {
        Self {
            url: None,
            credentials_file: None,
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            stream: String::new(),
            consumer: "tidegate".to_owned(),
            subject: String::new(),
            from: From::Beginning,
            format: Format::Json,
            dead_letters: String::new(),
            dead_letters_max: 10_000,
        }
    }
}

impl NatsFeedConfig {
    pub(crate) fn check(&self, faults: &mut Faults) {
        let is_name = |name: &str| {
            let odd = |byte: u8| !byte.is_ascii_graphic() || b".*>/\\".contains(&byte);
            name.len() <= NAME_BYTES_MAX && !name.bytes().any(odd)
        };
        for (key, name) in [("stream", &self.stream), ("consumer", &self.consumer)] {
            if name.is_empty() || !is_name(name) {
                let problem =
                    format!("must be 1 to {NAME_BYTES_MAX} printable ASCII characters except . * > / \\");
                faults.add(key, problem);
            }
        }
        if !is_name(&self.dead_letters) {
            faults.add(
                "dead_letters",
                format!("must be at most {NAME_BYTES_MAX} printable ASCII characters except . * > / \\"),
            );
        } else if self.dead_letters == self.stream && !self.stream.is_empty() {
            faults.add(
                "dead_letters",
                "must not be the stream itself: dead letters would be read again forever",
            );
        }
        if self.subject.len() > SUBJECT_BYTES_MAX || !self.subject.bytes().all(|byte| byte.is_ascii_graphic())
        {
            faults.add("subject", format!("must be at most {SUBJECT_BYTES_MAX} printable ASCII characters"));
        }
        faults.outside("dead_letters_max", self.dead_letters_max, 1..=100_000_000);
        match &self.url {
            Some(url) => self.of(url, &NatsConfig::default()).check(faults),
            None => {
                for (key, _) in self.files() {
                    let key = key.rsplit('.').next().unwrap_or(key);
                    faults.add(key, "needs url: without it, the settings of [nats] apply");
                }
            }
        }
    }

    /// Returns the settings of the connection. `nats`: the section `[nats]`.
    pub(super) fn nats(&self, nats: &NatsConfig) -> NatsConfig {
        self.url.as_ref().map_or_else(|| nats.clone(), |url| self.of(url, nats))
    }

    fn of(&self, url: &NatsUrl, nats: &NatsConfig) -> NatsConfig {
        NatsConfig {
            url: url.clone(),
            credentials_file: self.credentials_file.clone(),
            ca_file: self.ca_file.clone(),
            client_cert_file: self.client_cert_file.clone(),
            client_key_file: self.client_key_file.clone(),
            prefix: nats.prefix.clone(),
            timeout_ms: nats.timeout_ms,
            ping_ms: nats.ping_ms,
            reconnect_max_ms: nats.reconnect_max_ms,
            replicas: nats.replicas,
            ..NatsConfig::default()
        }
    }

    pub(super) fn dead_letters(&self) -> String {
        if self.dead_letters.is_empty() { format!("{}_dead", self.stream) } else { self.dead_letters.clone() }
    }

    /// Returns the files that the settings name, by their keys.
    pub(crate) fn files(&self) -> Vec<(&'static str, &Path)> {
        let files = [
            ("nats.credentials_file", &self.credentials_file),
            ("nats.ca_file", &self.ca_file),
            ("nats.client_cert_file", &self.client_cert_file),
            ("nats.client_key_file", &self.client_key_file),
        ];
        files.into_iter().filter_map(|(key, file)| Some((key, file.as_deref()?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faulty(toml: &str) -> Vec<String> {
        let mut faults = Faults::default();
        toml::from_str::<NatsFeedConfig>(toml).unwrap().check(&mut faults);
        faults.into_inner().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn every_mistake_is_told_by_its_key() {
        assert_eq!(faulty("stream = \"s\""), [""; 0]);
        assert_eq!(faulty("stream = \"s\"\nurl = \"tls://u:x@h\"\nca_file = \"/a\""), [""; 0]);
        assert_eq!(
            faulty("consumer = \"a.b\"\ndead_letters_max = 0\nurl = \"http://h\"\nsubject = \"a b\""),
            ["stream", "consumer", "subject", "dead_letters_max", "url"]
        );
        assert_eq!(faulty("stream = \"s\"\ndead_letters = \"s\""), ["dead_letters"]);
        assert_eq!(faulty("stream = \"s\"\nca_file = \"/a\""), ["ca_file"]);
    }

    #[test]
    fn a_password_is_not_shown() {
        let config: NatsFeedConfig = toml::from_str("url = \"nats://u:s3cret@h\"").unwrap();
        let shown = format!("{config:?} {}", toml::to_string(&config).unwrap());
        assert!(!shown.contains("s3cret"), "{shown}");
    }
}
