//! Socket.IO, and the transport that it brings along.

pub mod addressed;
pub mod emitters_config;
pub mod namespaces;
pub mod socketio_config;

pub use emitters_config::EmittersConfig;
pub use socketio_config::SocketioConfig;
