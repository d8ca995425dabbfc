//! Socket.IO, and the transport that it brings along.

pub mod addressed;
pub mod config;
pub mod namespaces;

pub use config::Config;
