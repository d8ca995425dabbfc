//! The ways by which a client's commands reach its session.

use std::sync::Arc;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum ConnectionKind {
    /// Commands and answers share one connection.
    #[default]
    Bidirectional,
    /// Commands arrive in requests of their own, apart from the connection that carries the answers. Each names the
    /// session and the node.
    Emulated {
        /// The client's secret, which identifies its session on the node.
        session: Box<str>,
        /// The node's id.
        node: Arc<str>,
    },
    /// The client sends nothing but the connect command.
    Unidirectional {
        /// Identifies the client to the application.
        session: Box<str>,
    },
}
