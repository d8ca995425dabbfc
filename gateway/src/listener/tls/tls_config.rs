//! The section `tls`.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::setting::Faults;

/// TLS on the client listener. It is on when `certificate_file` is set.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file with the certificate, followed by the intermediate certificates.
    pub certificate_file: Option<PathBuf>,
    /// PEM file with the certificate's private key.
    pub key_file: Option<PathBuf>,
    /// The oldest TLS version that is accepted: `1.2` or `1.3`.
    pub version_min: TlsVersion,
    /// Interval at which both files are checked for changes, in seconds. New connections use a changed certificate;
    /// open connections are not affected.
    pub reload_interval_s: u64,
    /// Time limit for a client's TLS handshake, in milliseconds.
    pub handshake_timeout_ms: u64,
    /// Offers HTTP/2, and with it WebSockets over HTTP/2 (RFC 8441).
    pub http2: bool,
    /// The most concurrent requests and clients on one HTTP/2 connection. Each client counts as a connection, and the
    /// HTTP/2 connection itself counts as one more.
    pub http2_streams_max: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
pub enum TlsVersion {
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            certificate_file: None,
            key_file: None,
            version_min: TlsVersion::Tls12,
            reload_interval_s: 30,
            handshake_timeout_ms: 10_000,
            http2: true,
            http2_streams_max: 128,
        }
    }
}

impl TlsConfig {
    /// Whether clients use TLS.
    pub fn is_on(&self) -> bool {
        self.certificate_file.is_some()
    }

    pub fn reload_interval(&self) -> Duration {
        Duration::from_secs(self.reload_interval_s)
    }

    pub fn handshake_timeout(&self) -> Duration {
        Duration::from_millis(self.handshake_timeout_ms)
    }

    pub fn check(&self, faults: &mut Faults) {
        match (&self.certificate_file, &self.key_file) {
            (Some(_), None) => faults.add("key_file", "must be set when certificate_file is"),
            (None, Some(_)) => faults.add("certificate_file", "must be set when key_file is"),
            _ => {}
        }
        faults.outside("reload_interval_s", self.reload_interval_s, 1..=86_400);
        faults.outside("handshake_timeout_ms", self.handshake_timeout_ms, 10..=120_000);
        faults.outside("http2_streams_max", self.http2_streams_max, 1..=100_000);
    }
}
