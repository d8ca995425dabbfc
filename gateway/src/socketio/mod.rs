//! Socket.IO, and the transport that it brings along.

pub mod addressed;
pub mod emitters;
pub mod namespaces;
pub mod socketio_config;

pub use emitters::Emitters;
pub use socketio_config::SocketioConfig;
