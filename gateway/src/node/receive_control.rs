//! Control commands: sent to all nodes, executed on each.

use std::sync::Arc;

use bytes::Bytes;

use crate::broker::BrokerError;
use crate::node::Node;
use crate::node::control::{Among, ControlCommand, ControlTarget};
use crate::worker::inbox::{ActTally, WorkerEvent};

impl Node {
    /// Has every node execute the command. Resolves when the broker has handed it to them.
    pub async fn control(&self, command: ControlCommand) -> Result<(), BrokerError> {
        let message = command.encode().map_err(|error| BrokerError::Unexpected(error.to_string().into()))?;
        let nodes = self.broker.send_control(message).await?;
        tracing::debug!(nodes, ?command, "control command sent");
        Ok(())
    }

    /// Executes a command that some node, possibly this one, has sent to all.
    pub(super) fn receive_control(self: &Arc<Self>, message: &Bytes) {
        let command = match ControlCommand::decode(message) {
            Ok(command) => command,
            Err(error) => {
                tracing::warn!(%error, "a control message cannot be carried out");
                return;
            }
        };
        match command {
            ControlCommand::Disconnect { target, disconnect } => {
                let target = Arc::new(target);
                self.notify_workers(&target, || {
                    WorkerEvent::Disconnect(target.clone(), disconnect.clone(), ActTally::unawaited())
                });
            }
            ControlCommand::Unsubscribe { target, channel } => {
                let target = Arc::new(target);
                self.notify_workers(&target, || {
                    WorkerEvent::Unsubscribe(target.clone(), channel.clone(), ActTally::unawaited())
                });
            }
            ControlCommand::CloseOthers { user, client } => self.receive_close_others(user, client),
            ControlCommand::Compare { channel } => self.compare(&channel),
            ControlCommand::Retired { node } => self.other_retired(&node),
        }
    }

    /// Has the other workers look for debtors to close, because theirs may be larger than this worker's.
    pub(crate) fn have_others_shed(&self, worker: usize) {
        let others = self.inboxes.iter().enumerate().filter(|(index, _)| *index != worker);
        others.for_each(|(_, inbox)| inbox.push(WorkerEvent::Shed));
    }

    /// Hands an event to the workers that can have clients of the target. The others are not woken.
    pub(super) fn notify_workers(&self, target: &ControlTarget, event: impl Fn() -> WorkerEvent) {
        let workers = self.workers_of(target);
        for (worker, inbox) in self.inboxes.iter().enumerate() {
            if workers & (1 << worker) != 0 {
                inbox.push(event());
            }
        }
    }

    /// Returns a bit mask of the workers that can have clients of the target.
    pub(super) fn workers_of(&self, target: &ControlTarget) -> u64 {
        let only_of = |worker: usize| 1_u64.checked_shl(worker as u32).unwrap_or(0);
        if let Some(connection) = target.holder.and_then(|holder| self.sessions.connection(holder)) {
            return only_of(connection.worker.into());
        }
        match (target.client, target.session, target.user.as_deref()) {
            (Some(client), ..) => only_of(self.client_ids.place(client).0),
            (None, Some(session), _) => only_of(self.session_ids.place(session).0),
            (None, None, Some(user)) if !user.is_empty() => self.users.workers(user),
            _ => match target.among.as_deref() {
                Some(Among { only, .. }) if only.channels.is_empty() && !only.clients.is_empty() => {
                    let workers = only.clients.iter().map(|client| only_of(self.client_ids.place(*client).0));
                    workers.fold(0, |all, worker| all | worker)
                }
                _ => u64::MAX,
            },
        }
    }
}
