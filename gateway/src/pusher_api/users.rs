//! Users who have signed in: the end of their connections, wherever they are.

use shared::disconnect::Disconnect;

use super::refused::Refused;
use super::serve::Call;
use crate::node::control::Target;
use crate::node::question::{Act, Question};

/// Clients do not come back after it.
const TERMINATED: (u16, &str) = (4009, "terminated by the application");

impl Call<'_> {
    /// Done once every node has said so.
    pub(super) async fn terminate(&self, user: &str) -> Result<(), Refused> {
        if user.is_empty() {
            return Err(Refused::bad_request("no user is given"));
        }
        self.in_time()?;
        let user = Some(self.app.names.user(user).into());
        let (code, reason) = TERMINATED;
        let act = Act::Disconnect(Disconnect { code, reason: reason.into() });
        let answers = self.node.ask_all(Question::Act(Target { user, ..Target::default() }, act)).await?;
        let silent: Vec<&str> =
            answers.iter().filter(|(_, answer)| answer.is_err()).map(|(node, _)| &*node.name).collect();
        match silent.is_empty() {
            true => Ok(()),
            false => Err(Refused::unavailable(format!("not all nodes have answered: {}", silent.join(", ")))),
        }
    }
}
