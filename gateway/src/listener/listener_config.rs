//! The addresses a node listens on.

use std::net::{Ipv4Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::setting::Faults;

/// The listener for clients and publishers.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// Address and port of the client endpoints and the server API. Port 0: a free port.
    #[serde(deserialize_with = "crate::setting::address")]
    pub listen: SocketAddr,
    /// The most connections that the kernel completes before the node accepts them. The kernel delays further ones.
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

/// The listener for health checks and metrics. Not for clients.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct InternalConfig {
    /// Address and port of `/livez`, `/readyz` and `/metrics`. Port 0: a free port.
    #[serde(deserialize_with = "crate::setting::address")]
    pub listen: SocketAddr,
}

impl Default for InternalConfig {
    fn default() -> Self {
        Self { listen: (Ipv4Addr::LOCALHOST, 8001).into() }
    }
}

/// The listener for other nodes of the cluster. Not for clients: its traffic is not encrypted, so keep it on a
/// network that only nodes can reach.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// Address and port at which other nodes hand over requests for sessions of this node: the WebSocket of a client
    /// that started by polling here (Engine.IO, Socket.IO), and event streams of GraphQL that were reserved here.
    /// Needed where a load balancer may send each request of a client to a different node. Not set: a client that
    /// polls can change to a WebSocket only if that reaches the node of its session, and otherwise keeps polling; a
    /// reserved GraphQL stream can only be opened at the node that reserved it. Port 0: a free port.
    #[serde(deserialize_with = "crate::setting::address_if_any")]
    pub listen: Option<SocketAddr>,
    /// Host and port at which other nodes reach `cluster.listen`. Empty: the address of `cluster.listen`, or the host
    /// name if that is a wildcard address (`0.0.0.0`).
    pub advertise: String,
    /// The least number of nodes that the cluster should have. Only exported as a metric, for an alert that fires
    /// when there are fewer. 0: no expectation.
    pub nodes_expected: u32,
}

/// The longest host and port, in bytes.
const ADVERTISED_BYTES_MAX: usize = 255;
/// The most nodes that can be expected.
const NODES_EXPECTED_MAX: u32 = 10_000;

impl ClusterConfig {
    pub fn check(&self, faults: &mut Faults) {
        faults.outside("nodes_expected", self.nodes_expected, 0..=NODES_EXPECTED_MAX);
        if self.advertise.is_empty() {
            return;
        }
        if self.listen.is_none() {
            faults.add("advertise", "needs cluster.listen");
        }
        let port = self.advertise.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        if port.is_none_or(|(_, port)| port.parse::<u16>().is_err()) {
            faults.add("advertise", "must be a host and a port, such as 10.0.0.5:8002");
        } else if self.advertise.len() > ADVERTISED_BYTES_MAX {
            faults.add("advertise", format!("must be no longer than {ADVERTISED_BYTES_MAX} bytes"));
        }
    }

    /// Returns the address that other nodes use for a listener bound to `bound`.
    pub(crate) fn advertised(&self, bound: SocketAddr) -> Box<str> {
        if !self.advertise.is_empty() {
            return self.advertise.as_str().into();
        }
        if !bound.ip().is_unspecified() {
            return bound.to_string().into();
        }
        let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
        format!("{machine}:{}", bound.port()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advertised(advertise: &str, bound: &str) -> String {
        let config = ClusterConfig { advertise: advertise.to_owned(), ..ClusterConfig::default() };
        config.advertised(bound.parse().unwrap()).into()
    }

    #[test]
    fn other_nodes_are_told_what_is_set_or_where_a_node_listens_or_its_machine() {
        assert_eq!(advertised("node-1.internal:9000", "10.0.0.5:8002"), "node-1.internal:9000");
        assert_eq!(advertised("", "10.0.0.5:8002"), "10.0.0.5:8002");
        assert_eq!(advertised("", "[fd00::5]:8002"), "[fd00::5]:8002");
        let named = advertised("", "0.0.0.0:8002");
        assert!(named.ends_with(":8002") && !named.starts_with("0.0.0.0"), "{named}");
    }

    #[test]
    fn an_address_that_cannot_be_one_is_a_mistake() {
        let problems = |listen: Option<&str>, advertise: &str| {
            let listen = listen.map(|address| address.parse().unwrap());
            let mut faults = Faults::default();
            ClusterConfig { listen, advertise: advertise.to_owned(), nodes_expected: 0 }.check(&mut faults);
            faults.into_inner().len()
        };
        let listen = Some("0.0.0.0:8002");
        assert_eq!(problems(listen, "10.0.0.5:8002") + problems(listen, "") + problems(None, ""), 0);
        for advertise in ["10.0.0.5", ":8002", "host:port", "host:70000", &"x".repeat(300)] {
            assert_eq!(problems(listen, advertise), 1, "{advertise}");
        }
        assert_eq!(problems(listen, &format!("{}:1", "x".repeat(300))), 1);
        assert_eq!(problems(None, "10.0.0.5:8002"), 1);
    }
}
