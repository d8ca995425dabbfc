//! Commands for clients, wherever they are connected: carried out by the node that has them, which says so.

use shared::disconnect::Disconnect;
use shared::id::ClientId;

use super::refused::Refused;
use super::request::{self, Text};
use super::run::Call;
use crate::node::AskError;
use crate::node::control::{CONTROL_BYTES_MAX, ControlCommand, EXCEPT_MAX, Target};
use crate::node::question::{Act, Answer, Question};

/// The reason of an application that gives none.
const NO_REASON: &str = "disconnected";

/// So many nodes that have not answered are named.
const NAMED_MAX: usize = 8;

impl Call<'_> {
    pub(super) async fn disconnect(&self, request: &request::Disconnect<'_>) -> Result<(), Refused> {
        let disconnect = match &request.disconnect {
            Some(close) if close.code != 0 => u16::try_from(close.code)
                .ok()
                .and_then(|code| {
                    // Without a reason centrifuge-js comes back after any code, for ever.
                    let reason = if close.reason.is_empty() { NO_REASON } else { &close.reason };
                    Disconnect::custom(code, reason)
                })
                .ok_or(Refused::bad_request(
                    "a disconnect has a code from 3000 to 4999 and a reason of at most 123 bytes",
                ))?,
            _ => Disconnect::FORCE_DISCONNECT,
        };
        if request.whitelist.len() > EXCEPT_MAX {
            return Err(Refused::bad_request(format!("the whitelist holds more than {EXCEPT_MAX} clients")));
        }
        let Some(mut target) = target(&request.user, &request.client, &request.session)? else {
            return Ok(());
        };
        // What is no id of ours is no client that could be spared.
        target.except = request.whitelist.iter().filter_map(|client| ClientId::parse(client)).collect();
        self.act(target, Act::Disconnect(disconnect)).await
    }

    pub(super) async fn unsubscribe(&self, request: &request::Unsubscribe<'_>) -> Result<(), Refused> {
        let (channel, _) = self.channel(&request.channel)?;
        let Some(target) = target(&request.user, &request.client, &request.session)? else { return Ok(()) };
        self.act(target, Act::Unsubscribe(channel)).await
    }

    /// Has every node do it. Done once each that can have one of these clients has said so.
    async fn act(&self, target: Target, act: Act) -> Result<(), Refused> {
        self.in_time()?;
        // A client is in one place.
        let is_one = target.client.is_some();
        let command = for_earlier_releases(&target, &act);
        let answers = self.node.ask_all(Question::Act(target, act)).await?;
        let is_found =
            |answer: &Result<Answer, AskError>| matches!(answer, Ok(Answer::Done { clients: 1.. }));
        if is_one && answers.iter().any(|(_, answer)| is_found(answer)) {
            return Ok(());
        }
        let is_earlier = |answer: &Result<Answer, AskError>| matches!(answer, Err(AskError::NotUnderstood));
        if let Some(command) = command
            && answers.iter().any(|(_, answer)| is_earlier(answer))
        {
            self.node.control(command).await?;
        }
        let failed: Vec<&str> = answers
            .iter()
            .filter(|(_, answer)| answer.is_err() && !is_earlier(answer))
            .map(|(node, _)| &*node.name)
            .collect();
        if failed.is_empty() { Ok(()) } else { Err(Refused::not_acknowledged(&failed)) }
    }
}

/// What nodes that cannot be asked are told, where there is a word for it.
fn for_earlier_releases(target: &Target, act: &Act) -> Option<ControlCommand> {
    let target = target.clone();
    Some(match act {
        Act::Disconnect(disconnect) => ControlCommand::Disconnect { target, disconnect: disconnect.clone() },
        Act::Unsubscribe(channel) => ControlCommand::Unsubscribe { target, channel: channel.clone() },
    })
}

impl Refused {
    fn not_acknowledged(nodes: &[&str]) -> Self {
        let named = nodes[..nodes.len().min(NAMED_MAX)].join(", ");
        let others = if nodes.len() > NAMED_MAX { " and others" } else { "" };
        Self::internal(format!(
            "of node {named}{others} nobody knows whether it was done there; asking again does no harm"
        ))
    }
}

/// Whom a command is about. `None`: a client that cannot exist, because its id is none of ours.
fn target(user: &Text<'_>, client: &Text<'_>, session: &Text<'_>) -> Result<Option<Target>, Refused> {
    if !session.is_empty() {
        // Doing it to all of the user's connections would do more than was asked.
        return Err(Refused::not_available("commands for one session"));
    }
    if user.is_empty() && client.is_empty() {
        return Err(Refused::bad_request("neither a user nor a client is given"));
    }
    if user.len() > CONTROL_BYTES_MAX / 2 {
        return Err(Refused::bad_request("the user's name is longer than any"));
    }
    let mut target = Target { user: (!user.is_empty()).then(|| (**user).into()), ..Target::default() };
    if !client.is_empty() {
        let Some(client) = ClientId::parse(client) else { return Ok(None) };
        target.client = Some(client);
    }
    Ok(Some(target))
}
