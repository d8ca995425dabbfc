//! Enforces one connection per user: a new connection has the others closed, on every node.
//!
//! Connections that come at the same time must not all close each other. The broker delivers their commands to all nodes in
//! one order. A connection whose own command has not come back yet is later in that order than the commands that have, so it
//! is spared, and the last one stays.

use std::sync::Arc;
use std::time::Duration;

use shared::id::ClientId;
use tokio::sync::oneshot;

use crate::node::Node;
use crate::node::control::{ControlCommand, ControlTarget};
use crate::worker::inbox::WorkerEvent;

/// How long a command may take to come back before it is sent again: it may have been lost with the broker's link.
const COMES_BACK: Duration = Duration::from_secs(2);

/// The most commands for one connection. After the last one the connection is spared no more.
const COMMANDS_MAX: u32 = 5;

impl Node {
    /// Has all connections of this user closed except this one. `came_back` fires when the command has come back to the
    /// client's worker, or is dropped with the client.
    pub(crate) async fn close_other_connections(
        &self,
        user: Box<str>,
        client: ClientId,
        mut came_back: oneshot::Receiver<()>,
    ) {
        for _ in 0..COMMANDS_MAX {
            let command = ControlCommand::CloseOthers { user: user.clone(), client };
            if let Err(error) = self.control(command).await
                && let Some(suppressed) = self.not_alone_log.admit()
            {
                tracing::warn!(%error, suppressed, "other connections of a user could not be closed yet");
            }
            if tokio::time::timeout(COMES_BACK, &mut came_back).await.is_ok() {
                return;
            }
        }
        tracing::warn!(
            %client,
            "other connections of a user may still be open: the command to close them did not come back from \
             the broker"
        );
    }

    pub(super) fn receive_close_others(&self, user: Box<str>, client: ClientId) {
        let target = ControlTarget { user: Some(user), ..ControlTarget::default() };
        let user: Arc<str> = target.user.as_deref().unwrap_or_default().into();
        // Without a broker between nodes, commands come from many threads, and all workers have to receive them in one
        // order.
        let _turn = self.keeping_only.lock();
        self.notify_workers(&target, || WorkerEvent::CloseOthers(user.clone(), client));
    }
}
