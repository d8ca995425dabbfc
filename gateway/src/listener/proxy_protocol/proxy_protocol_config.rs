//! The section `proxy_protocol`.

use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::setting::Faults;

/// The PROXY protocol, versions 1 and 2, on the client listener.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProxyProtocolConfig {
    /// Requires a PROXY header at the start of every connection from `trusted`.
    pub enabled: bool,
    /// Networks of the load balancers that send the header, such as `10.0.0.0/8`. Connections from other addresses
    /// are direct and must not send one.
    pub trusted: Vec<IpNet>,
    /// Time limit for the header to arrive, in milliseconds.
    pub timeout_ms: u64,
}

impl Default for ProxyProtocolConfig {
    fn default() -> Self {
        Self { enabled: false, trusted: Vec::new(), timeout_ms: 5000 }
    }
}

impl ProxyProtocolConfig {
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }

    pub fn check(&self, faults: &mut Faults) {
        if self.enabled && self.trusted.is_empty() {
            faults.add("trusted", "must name the load balancers when proxy_protocol.enabled is true");
        }
        faults.outside("timeout_ms", self.timeout_ms, 10..=60_000);
    }
}
