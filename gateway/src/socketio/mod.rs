//! Socket.IO, and the transport that it brings along.

pub mod config;

pub use config::Config;
