//! The section `limits`: how many connections a node takes, and how fast.

use serde::{Deserialize, Serialize};

use crate::setting::Faults;

/// How many connections a node accepts, how fast, and how much memory it may use for pending data.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdmissionConfig {
    /// The most open connections on this node. 0: as many as its file descriptors allow.
    pub connections_max: u32,
    /// The most open client connections from one address (IPv6: from one /64). 0: no limit.
    pub connections_per_address_max: u32,
    /// The most open connections of one user on this node. Anonymous clients are not counted. 0: no limit.
    pub connections_per_user_max: u32,
    /// The most new client connections per second from one address (IPv6: from one /64), on average. 0: no limit.
    pub connects_per_address_per_s: u32,
    /// The most new client connections from one address in a burst.
    pub connects_per_address_burst: u32,
    /// The most new connections per second on this node, on average. Further ones wait in the kernel's backlog. 0: no
    /// limit.
    pub accepts_per_s: u32,
    /// The most new connections on this node in a burst.
    pub accepts_burst: u32,
    /// The most connections in their TLS or HTTP handshake at the same time. Further ones wait in the kernel's
    /// backlog.
    pub handshakes_max: u32,
    /// The most connections from one address (IPv6: from one /64) in their handshake at the same time, so that one
    /// slow client cannot block the others. Does not apply to trusted proxies. Further connections are closed. 0: no
    /// limit.
    pub handshakes_per_address_max: u32,
    /// Memory budget of this node for pending data, in bytes: output for slow clients, commands of clients, bodies of
    /// requests, inboxes of workers, and cached history. 7/16 of the budget is for clients; when that is nearly used
    /// up, the clients with the most pending data are closed with 3008. 0: half of the control group's limit, or of
    /// the machine's memory.
    pub memory_bytes_max: u64,
    /// The most addresses without an open connection that are remembered for the limits per address. The address
    /// unseen for longest is forgotten first.
    pub addresses_max: u32,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        Self {
            connections_max: 0,
            connections_per_address_max: 0,
            connections_per_user_max: 0,
            connects_per_address_per_s: 0,
            connects_per_address_burst: 100,
            accepts_per_s: 0,
            accepts_burst: 1000,
            handshakes_max: 20_000,
            handshakes_per_address_max: 0,
            memory_bytes_max: 0,
            addresses_max: 100_000,
        }
    }
}

impl AdmissionConfig {
    pub fn check(&self, faults: &mut Faults) {
        faults.outside("handshakes_max", self.handshakes_max, 1..=1_000_000);
        if self.memory_bytes_max > 0 {
            faults.outside("memory_bytes_max", self.memory_bytes_max, 16 << 20..=1 << 50);
        }
        faults.outside("addresses_max", self.addresses_max, 1..=10_000_000);
        if self.connects_per_address_per_s > 0 {
            faults.outside("connects_per_address_burst", self.connects_per_address_burst, 1..=1_000_000);
        }
        if self.accepts_per_s > 0 {
            faults.outside("accepts_burst", self.accepts_burst, 1..=1_000_000);
        }
    }
}
