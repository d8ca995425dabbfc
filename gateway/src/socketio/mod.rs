//! Socket.IO, and the transport that it brings along.

pub mod config;
pub mod namespaces;

pub use config::Config;
