//! Where clients arrive: limits on who may, TLS, the PROXY protocol.

pub mod admission;
pub mod config;
pub mod descriptors;
pub mod proxy_protocol;
pub mod tls;

pub use admission::{Admission, Admitted, HandshakePermit, HeldPlace};
