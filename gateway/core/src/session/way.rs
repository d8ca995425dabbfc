//! The ways by which a client's commands reach its session.

use std::sync::Arc;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum ConnectionWay {
    /// Commands and answers share one connection.
    #[default]
    Both,
    /// Commands arrive in requests of their own, apart from the connection that carries the answers. Each names the
    /// session and the node.
    Apart {
        /// The client's secret, which identifies its session on the node.
        session: Box<str>,
        /// The node's id.
        node: Arc<str>,
    },
    /// The client sends nothing but the connect command.
    OneWay {
        /// Identifies the client to the application.
        session: Box<str>,
    },
}
