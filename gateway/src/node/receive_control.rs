//! Control commands: sent to all nodes, carried out on each.

use std::sync::Arc;

use bytes::Bytes;

use crate::broker::BrokerError;
use crate::node::Node;
use crate::node::control::ControlCommand;
use crate::worker::inbox::Event;

impl Node {
    /// Has every node carry the command out. Answered when the broker has handed it to them.
    pub async fn control(&self, command: ControlCommand) -> Result<(), BrokerError> {
        let message = command.encode().map_err(|error| BrokerError::Unexpected(error.to_string().into()))?;
        let nodes = self.broker.send_control(message).await?;
        tracing::debug!(nodes, ?command, "control command sent");
        Ok(())
    }

    /// Carries out what some node, this one included, asks of all.
    pub(super) fn receive_control(&self, message: &Bytes) {
        let command = match ControlCommand::decode(message) {
            Ok(command) => command,
            Err(error) => {
                tracing::warn!(%error, "a control message cannot be carried out");
                return;
            }
        };
        let for_all = |event: &dyn Fn() -> Event| self.inboxes.iter().for_each(|inbox| inbox.push(event()));
        match command {
            ControlCommand::Disconnect { target, disconnect } => {
                let target = Arc::new(target);
                for_all(&|| Event::Disconnect(target.clone(), disconnect.clone()));
            }
            ControlCommand::Unsubscribe { target, channel } => {
                let target = Arc::new(target);
                for_all(&|| Event::Unsubscribe(target.clone(), channel.clone()));
            }
        }
    }
}
