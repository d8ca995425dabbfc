//! The section `limits`: how many connections a node takes, and how fast.

use serde::{Deserialize, Serialize};

use crate::setting::Faults;

/// How many connections a node takes, and how fast.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdmissionConfig {
    /// Open connections of this node. 0: as many as its file descriptors allow.
    pub connections_max: u32,
    /// Open client connections from one address (IPv6: one /64). 0: no limit.
    pub connections_per_address_max: u32,
    /// Open connections of one user on this node. 0: no limit. Anonymous clients are not counted.
    pub connections_per_user_max: u32,
    /// New client connections a second from one address (IPv6: one /64), on average. 0: no limit.
    pub connects_per_address_per_s: u32,
    /// New client connections from one address that may come at once.
    pub connects_per_address_burst: u32,
    /// New connections a second of this node, on average. More wait in the kernel's backlog. 0: no limit.
    pub accepts_per_s: u32,
    /// New connections of this node that may come at once.
    pub accepts_burst: u32,
    /// Connections that are in their TLS or HTTP handshake at the same time. More wait in the kernel's backlog.
    pub handshakes_max: u32,
    /// The same from one address (IPv6: one /64), trusted proxies excepted: so that one slow client cannot keep
    /// the others waiting. More are closed. 0: no limit.
    pub handshakes_per_address_max: u32,
    /// Memory for what waits: for clients that read slowly, of their commands, of requests, for workers, and of history
    /// that channels retain. 7/16 of it are for clients; when that is nearly used up those who owe most are closed with
    /// 3008. In bytes. 0: half of what the control group allows, or of what the machine has.
    pub memory_bytes_max: u64,
    /// Addresses without a connection that are remembered for the limits per address. The longest unseen are
    /// forgotten first.
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
