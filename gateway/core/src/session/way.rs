//! How a client and its commands come to a session.

use std::sync::Arc;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum ConnectionWay {
    /// Both ways over one connection.
    #[default]
    Both,
    /// Commands come apart from the connection that carries the answers, with these two beside them.
    Apart {
        /// A secret of the client, which names it on its node.
        session: Box<str>,
        /// The node's id.
        node: Arc<str>,
    },
    /// Nothing comes but the connect command.
    OneWay {
        /// Names the client to the application.
        session: Box<str>,
    },
}
