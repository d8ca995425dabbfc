//! Commands for clients, wherever they are connected: executed by the node that has them, which confirms it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use gateway_core::effect::Overrides;
use serde_json::value::RawValue;
use shared::command::Since;
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::id::ClientId;
use shared::publication::is_json;

use super::api_error::ApiError;
use super::api_request::{self, RequestText};
use super::run_command::ApiCall;
use crate::node::control::{CONTROL_BYTES_MAX, ControlCommand, ControlTarget, EXCEPT_MAX, NodeInfo};
use crate::node::node_message::{ClientCommand, ConnectionExpiry, NodeRequest, NodeResponse, Subscribing};
use crate::node::{AskError, SessionId};

/// The reason of a close for which the application gives none.
const NO_REASON: &str = "disconnected";

/// Longest info or data of a subscription, in bytes.
const JSON_BYTES_MAX: usize = 64 * 1024;

/// The most unresponsive nodes that an error names.
const NAMED_MAX: usize = 8;

impl ApiCall<'_> {
    pub(super) async fn disconnect(&self, request: &api_request::Disconnect<'_>) -> Result<(), ApiError> {
        let disconnect = match &request.disconnect {
            Some(close) if close.code != 0 => u16::try_from(close.code)
                .ok()
                .and_then(|code| {
                    // Without a reason, centrifuge-js reconnects after any code, endlessly.
                    let reason = if close.reason.is_empty() { NO_REASON } else { &close.reason };
                    Disconnect::custom(code, reason)
                })
                .ok_or(ApiError::bad_request(
                    "disconnect must have a code from 3000 to 4999 and a reason of at most 123 bytes",
                ))?,
            _ => Disconnect::FORCE_DISCONNECT,
        };
        if request.whitelist.len() > EXCEPT_MAX {
            return Err(ApiError::bad_request(format!("the whitelist holds more than {EXCEPT_MAX} clients")));
        }
        let Some(mut target) = target(&request.user, &request.client, &request.session)? else {
            return Ok(());
        };
        // An invalid id belongs to no client, so there is nothing to except.
        target.except = request.whitelist.iter().filter_map(|client| ClientId::parse(client)).collect();
        self.act(target, ClientCommand::Disconnect(disconnect)).await
    }

    pub(super) async fn unsubscribe(&self, request: &api_request::Unsubscribe<'_>) -> Result<(), ApiError> {
        let (channel, _) = self.channel(&request.channel)?;
        let Some(target) = target(&request.user, &request.client, &request.session)? else { return Ok(()) };
        self.act(target, ClientCommand::Unsubscribe(channel)).await
    }

    pub(super) async fn subscribe(&self, request: &api_request::Subscribe<'_>) -> Result<(), ApiError> {
        let (channel, options) = self.channel(&request.channel)?;
        if options.is_polled() {
            return Err(ApiError::bad_request(
                "the server cannot subscribe clients to a polled channel: clients subscribe themselves",
            ));
        }
        let info = json("info", request.info, &request.b64info)?;
        let data = json("data", request.data, &request.b64data)?;
        let Some(target) = target(&request.user, &request.client, &request.session)? else { return Ok(()) };
        let since =
            |since: &api_request::Since<'_>| Since { offset: since.offset, epoch: (*since.epoch).into() };
        let flag = |flag: Option<api_request::FlagOverride>| flag.map(|flag| flag.value);
        let overrides = &request.overrides;
        let wanted = Subscribing {
            channel,
            expires_at: (request.expire_at != 0).then_some(request.expire_at),
            info,
            data,
            since: request.recover_since.as_ref().map(since),
            overrides: Overrides {
                presence: flag(overrides.presence),
                join_leave: flag(overrides.join_leave),
                force_recovery: flag(overrides.force_recovery),
                force_positioning: flag(overrides.force_positioning),
                force_push_join_leave: flag(overrides.force_push_join_leave),
            },
        };
        self.act(target, ClientCommand::Subscribe(Box::new(wanted))).await
    }

    pub(super) async fn refresh(&self, request: &api_request::Refresh<'_>) -> Result<(), ApiError> {
        let info = json("info", request.info, "")?;
        let Some(target) = target(&request.user, &request.client, &request.session)? else { return Ok(()) };
        let wanted = ConnectionExpiry {
            expired: request.expired,
            expires_at: (request.expire_at != 0).then_some(request.expire_at),
            info,
        };
        self.act(target, ClientCommand::Refresh(Box::new(wanted))).await
    }

    /// Has every node execute the command. Returns once every node that can have one of these clients has confirmed it.
    pub(super) async fn act(&self, target: ControlTarget, act: ClientCommand) -> Result<(), ApiError> {
        self.in_time()?;
        // A client is on one node.
        let is_one = target.client.is_some() || target.session.is_some();
        // Nodes without questions have no such sessions either.
        let is_of_session = target.session.is_some();
        let command = for_earlier_releases(&target, &act);
        let answers = self.node.ask_all(NodeRequest::Act(target, act)).await?;
        let is_found = |answer: &Result<NodeResponse, AskError>| {
            matches!(answer, Ok(NodeResponse::Done { clients: 1.., .. }))
        };
        let failed = |answer: &Result<NodeResponse, AskError>| match answer {
            Ok(NodeResponse::Done { failed, full, .. }) => (*failed, *full),
            _ => (0, 0),
        };
        let (failed, full) = answers
            .iter()
            .map(|(_, answer)| failed(answer))
            .fold((0, 0), |sum, more| (sum.0 + more.0, sum.1 + more.1));
        if failed > 0 && failed == full {
            let problem = format!(
                "{failed} clients were not subscribed, because they have reached session.channels_max"
            );
            return Err(ApiError::with_detail(ErrorCode::LimitExceeded, problem));
        }
        if failed > 0 {
            return Err(ApiError::internal(format!("{failed} clients could not be subscribed")));
        }
        if is_one && answers.iter().any(|(_, answer)| is_found(answer)) {
            return Ok(());
        }
        let is_met = command.is_some() || is_of_session;
        let is_earlier = |answer: &Result<NodeResponse, AskError>| {
            is_met && matches!(answer, Err(AskError::NotUnderstood))
        };
        if let Some(command) = command
            && answers.iter().any(|(_, answer)| is_earlier(answer))
        {
            self.node.control(command).await?;
        }
        let failed = answers.iter().filter(|(_, answer)| answer.is_err() && !is_earlier(answer));
        let (unable, silent): (Vec<_>, Vec<_>) =
            failed.partition(|(_, answer)| matches!(answer, Err(AskError::NotUnderstood)));
        if silent.is_empty() && unable.is_empty() {
            return Ok(());
        }
        let names = |nodes: Vec<&(NodeInfo, _)>| -> Vec<Box<str>> {
            nodes.into_iter().map(|(node, _)| node.name.clone()).collect()
        };
        Err(ApiError::not_acknowledged(&names(silent), &names(unable)))
    }
}

/// Returns the control message for nodes that do not answer questions, if there is one for this command.
fn for_earlier_releases(target: &ControlTarget, act: &ClientCommand) -> Option<ControlCommand> {
    if target.session.is_some() || target.among.is_some() {
        return None;
    }
    let target = target.clone();
    Some(match act {
        ClientCommand::Disconnect(disconnect) => {
            ControlCommand::Disconnect { target, disconnect: disconnect.clone() }
        }
        ClientCommand::Unsubscribe(channel) => {
            ControlCommand::Unsubscribe { target, channel: channel.clone() }
        }
        ClientCommand::Subscribe(_) | ClientCommand::Refresh(_) => return None,
    })
}

impl ApiError {
    /// An error about nodes that do not answer, and those whose release lacks the command.
    fn not_acknowledged(silent: &[Box<str>], unable: &[Box<str>]) -> Self {
        let named = |nodes: &[Box<str>]| {
            let named = nodes[..nodes.len().min(NAMED_MAX)].join(", ");
            let others = if nodes.len() > NAMED_MAX { " and others" } else { "" };
            format!("node {named}{others}")
        };
        let mut problems = Vec::new();
        if !unable.is_empty() {
            problems.push(format!("the release of {} does not support this command", named(unable)));
        }
        if !silent.is_empty() {
            let silent = named(silent);
            problems.push(format!(
                "{silent} did not confirm the command and may or may not have carried it out; it is safe to repeat it"
            ));
        }
        Self::internal(problems.join("; "))
    }
}

/// Returns JSON that clients are shown, given in base64 or as it is.
fn json(field: &str, written: Option<&RawValue>, base64: &str) -> Result<Option<Bytes>, ApiError> {
    let bytes: Bytes = match (base64, written) {
        ("", None) => return Ok(None),
        ("", Some(written)) => written.get().to_owned().into(),
        (base64, _) => STANDARD
            .decode(base64)
            .map_err(|error| ApiError::bad_request(format!("b64{field}: {error}")))?
            .into(),
    };
    if bytes.len() > JSON_BYTES_MAX {
        return Err(ApiError::bad_request(format!("{field} is longer than {JSON_BYTES_MAX} bytes")));
    }
    if !is_json(&bytes) {
        return Err(ApiError::bad_request(format!("{field} is not JSON, or nested too deeply")));
    }
    Ok(Some(bytes))
}

/// Returns the target of a command. `None` for a client that cannot exist, because its id or session is invalid.
fn target(
    user: &RequestText<'_>,
    client: &RequestText<'_>,
    session: &RequestText<'_>,
) -> Result<Option<ControlTarget>, ApiError> {
    if user.is_empty() && client.is_empty() && session.is_empty() {
        return Err(ApiError::bad_request("user, client or session must be set"));
    }
    if user.len() > CONTROL_BYTES_MAX / 2 {
        return Err(ApiError::bad_request("user is too long"));
    }
    let mut target =
        ControlTarget { user: (!user.is_empty()).then(|| (**user).into()), ..ControlTarget::default() };
    if !client.is_empty() {
        let Some(client) = ClientId::parse(client) else { return Ok(None) };
        target.client = Some(client);
    }
    if !session.is_empty() {
        let Some(session) = SessionId::parse(session) else { return Ok(None) };
        target.session = Some(session);
    }
    Ok(Some(target))
}
