//! The section `tls`.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::setting::Faults;

/// TLS on the client listener: on when a certificate is named.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file with the certificate, then the intermediate ones.
    pub certificate_file: Option<PathBuf>,
    /// PEM file with the certificate's private key.
    pub key_file: Option<PathBuf>,
    /// Oldest version of TLS that is spoken: `1.2` or `1.3`.
    pub version_min: TlsVersion,
    /// How often the two files are looked at for a change, in seconds. A changed certificate serves new
    /// connections; those that are open stay.
    pub reload_interval_s: u64,
    /// How long a client may take for its TLS handshake, in milliseconds.
    pub handshake_timeout_ms: u64,
    /// Offer HTTP/2, and with it WebSockets over HTTP/2 (RFC 8441).
    pub http2: bool,
    /// Most requests and clients at once over one HTTP/2 connection. Each client counts as a connection, and the one they
    /// share as another.
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
