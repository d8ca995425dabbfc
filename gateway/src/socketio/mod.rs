//! Socket.IO and its emitters: settings, namespaces, and the addresses of events.

pub mod addressed;
pub mod emitters_config;
pub mod namespaces;
pub mod socketio_config;

pub use emitters_config::EmittersConfig;
pub use socketio_config::SocketioConfig;
