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

/// Where other nodes connect. Not for clients: what passes there is not encrypted, so keep it to a network of the nodes' own.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// Address and port at which other nodes bring WebSockets of clients that began by polling here and change over (Engine.IO,
    /// Socket.IO), and ask for streams of GraphQL that were reserved here. Needed where a load balancer sends each request of a
    /// client to any node; empty, such clients go on polling unless their WebSocket comes to the node that they began at, and
    /// find no stream unless they open it there. Port 0 takes a free one.
    #[serde(deserialize_with = "crate::setting::address_if_any")]
    pub listen: Option<SocketAddr>,
    /// Host and port at which other nodes reach `cluster.listen`. Empty: what that says, or where it is every address
    /// (`0.0.0.0`), this machine's name.
    pub advertise: String,
    /// How many nodes there should be at least, for an alert that says when there are fewer: nothing else goes by it. 0: any
    /// number.
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
