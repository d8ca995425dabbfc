//! Where clients arrive: limits on who may, TLS, the PROXY protocol.

pub mod admission;
pub mod config;
pub mod descriptors;
pub mod proxy_protocol;
pub mod tls;

pub use admission::{Admission, Admitted, HandshakePermit, HeldPlace, Refusal};

mod accept;
mod first_bytes;
pub(crate) mod internal;
mod stream;

pub(crate) use accept::Listener;
pub(crate) use stream::Stream;

/// Who is at the other end of a connection.
#[derive(Debug)]
pub(crate) struct Peer {
    /// As the socket or a PROXY header says.
    pub(crate) address: std::net::IpAddr,
    pub(crate) place: admission::HeldPlace,
}
