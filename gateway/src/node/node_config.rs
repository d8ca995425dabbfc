//! What a node is called.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::setting::Faults;

/// The longest name, in bytes: it stands in every connect reply.
const NAME_BYTES_MAX: usize = 64;

/// The identity of this node.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeConfig {
    /// The node's name, as clients and `info` show it. Empty: the host name and the port.
    pub name: String,
}

impl NodeConfig {
    pub fn check(&self, faults: &mut Faults) {
        if self.name.len() > NAME_BYTES_MAX {
            faults.add("name", format!("must be no longer than {NAME_BYTES_MAX} bytes"));
        }
    }

    pub(crate) fn name_or(&self, address: SocketAddr) -> Arc<str> {
        if !self.name.is_empty() {
            return self.name.as_str().into();
        }
        let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
        format!("{machine}:{}", address.port()).into()
    }
}
