//! The listeners: accepting connections, TLS, the PROXY protocol.

pub mod descriptors;
pub mod listener_config;
pub mod proxy_protocol;
pub mod tls;

mod accept;
mod first_bytes;
pub(crate) mod from_nodes;
mod http2;
pub(crate) mod internal;

pub(crate) use accept::ClientListener;
