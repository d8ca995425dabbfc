//! Socket.IO, and the transport that it brings along.

pub mod addressed;
pub mod config;
pub mod emitters;
pub mod namespaces;

pub use config::Config;
pub use emitters::Emitters;
