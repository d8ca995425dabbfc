//! The addresses a node listens on.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::setting::Faults;

/// Where clients and publishers connect.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// Address and port of the client endpoints and the server API. Port 0 takes a free one.
    #[serde(deserialize_with = "crate::setting::address")]
    pub listen: SocketAddr,
    /// Connections the kernel completes before the gateway accepts them. More are delayed by the kernel.
    pub backlog: u32,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self { listen: (Ipv4Addr::LOCALHOST, 8000).into(), backlog: 4096 }
    }
}

impl ServerConfig {
    pub fn check(&self, faults: &mut Faults) {
        faults.outside("backlog", self.backlog, 1..=65_535);
    }
}

/// Where health and metrics are asked for. Not for clients.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct InternalConfig {
    /// Address and port of `/livez`, `/readyz` and `/metrics`. Port 0 takes a free one.
    #[serde(deserialize_with = "crate::setting::address")]
    pub listen: SocketAddr,
}

impl Default for InternalConfig {
    fn default() -> Self {
        Self { listen: (Ipv4Addr::LOCALHOST, 8001).into() }
    }
}
