//! Closes the connections of users who have signed in, on all nodes.

use shared::disconnect::Disconnect;

use super::pusher_api_error::PusherApiError;
use super::serve_pusher_api::PusherApiCall;
use crate::node::control::ControlTarget;
use crate::node::node_message::{ClientCommand, NodeRequest};

/// A close code after which clients do not reconnect.
const TERMINATED: (u16, &str) = (4009, "terminated by the application");

impl PusherApiCall<'_> {
    /// Closes the connections of a user. Returns once every node has confirmed it.
    pub(super) async fn terminate(&self, user: &str) -> Result<(), PusherApiError> {
        if user.is_empty() {
            return Err(PusherApiError::bad_request("no user is given"));
        }
        self.in_time()?;
        let user = Some(self.app.names.user(user).into());
        let (code, reason) = TERMINATED;
        let act = ClientCommand::Disconnect(Disconnect { code, reason: reason.into() });
        let answers = self
            .node
            .ask_all(NodeRequest::Act(ControlTarget { user, ..ControlTarget::default() }, act))
            .await?;
        let silent: Vec<&str> =
            answers.iter().filter(|(_, answer)| answer.is_err()).map(|(node, _)| &*node.name).collect();
        match silent.is_empty() {
            true => Ok(()),
            false => Err(PusherApiError::unavailable(format!(
                "not all nodes have answered: {}",
                silent.join(", ")
            ))),
        }
    }
}
