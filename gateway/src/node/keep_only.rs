//! A user has one connection: the one that comes anew has the others closed, on every node.
//!
//! Several that come at the same time must not all close each other. The broker hands their commands to all nodes in one
//! order. A connection whose own command has not come back yet comes later in that order than those that have, so it is
//! spared; whoever comes last stays.

use std::sync::Arc;
use std::time::Duration;

use shared::id::ClientId;
use tokio::sync::oneshot;

use crate::node::Node;
use crate::node::control::{ControlCommand, ControlTarget};
use crate::worker::inbox::WorkerEvent;

/// How long a command may take to come back before it is sent again: it may have been lost with a link.
const COMES_BACK: Duration = Duration::from_secs(2);

/// Commands for one connection. After the last it is spared no more.
const COMMANDS_MAX: u32 = 5;

impl Node {
    /// Has all connections of this user closed but this one. `came_back`: told when its command has come back to its
    /// worker, or dropped with the client.
    pub(crate) async fn keep_only(
        &self,
        user: Box<str>,
        client: ClientId,
        mut came_back: oneshot::Receiver<()>,
    ) {
        for _ in 0..COMMANDS_MAX {
            let command = ControlCommand::KeepOnly { user: user.clone(), client };
            if let Err(error) = self.control(command).await
                && let Some(suppressed) = self.not_alone_log.admit()
            {
                tracing::warn!(%error, suppressed, "other connections of a user could not be closed yet");
            }
            if tokio::time::timeout(COMES_BACK, &mut came_back).await.is_ok() {
                return;
            }
        }
        tracing::warn!(%client, "other connections of a user may be open: no command to close them has come back");
    }

    pub(super) fn receive_keep_only(&self, user: Box<str>, client: ClientId) {
        let target = ControlTarget { user: Some(user), ..ControlTarget::default() };
        let user: Arc<str> = target.user.as_deref().unwrap_or_default().into();
        // Where nodes do not come between, commands come from many threads: all workers are to hear of them in one order.
        let _turn = self.keeping_only.lock();
        self.tell_workers(&target, || WorkerEvent::KeepOnly(user.clone(), client));
    }
}
