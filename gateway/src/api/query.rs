//! Questions about channels and nodes, and commands for clients wherever they are connected.

use std::collections::BTreeMap;

use gateway_core::effect::PresenceStats;
use gateway_core::history::{HistoryFilter, HistoryPage};
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::id::ClientId;
use shared::publication::ClientInfo;

use super::refused::Refused;
use super::request::{self, Text};
use super::run::Call;
use crate::node::control::{ControlCommand, EXCEPT_MAX, NodeInfo, Target};

/// The reason of an application that gives none.
const NO_REASON: &str = "disconnected";

impl Call<'_> {
    pub(super) async fn history(&self, request: &request::History<'_>) -> Result<HistoryPage, Refused> {
        let (channel, options) = self.channel(&request.channel)?;
        if !options.retention().keeps_history() {
            return Err(ErrorCode::NotAvailable.into());
        }
        self.in_time()?;
        let max = self.config.history_limit_max;
        let filter = HistoryFilter {
            since: request.since.as_ref().map(|since| since.offset),
            limit: u32::try_from(request.limit).map_or(max, |limit| limit.min(max)),
            reverse: request.reverse,
            enough_bytes: None,
        };
        let page =
            self.node.history(channel, filter, options.retention()).await.map_err(Refused::not_read)?;
        match &request.since {
            Some(since) if !since.epoch.is_empty() && *since.epoch != *page.top.epoch.as_str() => {
                Err(ErrorCode::UnrecoverablePosition.into())
            }
            _ => Ok(page),
        }
    }

    pub(super) async fn history_remove(&self, request: &request::OneChannel<'_>) -> Result<(), Refused> {
        let (channel, options) = self.channel(&request.channel)?;
        if !options.retention().keeps_history() {
            return Err(ErrorCode::NotAvailable.into());
        }
        self.in_time()?;
        Ok(self.node.remove_history(channel).await?)
    }

    pub(super) async fn presence(
        &self,
        request: &request::OneChannel<'_>,
    ) -> Result<BTreeMap<ClientId, ClientInfo>, Refused> {
        let (channel, options) = self.channel(&request.channel)?;
        if !options.presence {
            return Err(ErrorCode::NotAvailable.into());
        }
        self.in_time()?;
        self.node.presence(channel).await.map_err(Refused::not_read)
    }

    pub(super) async fn presence_stats(
        &self,
        request: &request::OneChannel<'_>,
    ) -> Result<PresenceStats, Refused> {
        let (channel, options) = self.channel(&request.channel)?;
        if !options.presence {
            return Err(ErrorCode::NotAvailable.into());
        }
        self.in_time()?;
        self.node.presence_stats(channel).await.map_err(Refused::not_read)
    }

    pub(super) async fn info(&self) -> Result<Vec<NodeInfo>, Refused> {
        self.in_time()?;
        self.node.nodes().await.map_err(Refused::not_read)
    }

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
        self.command(ControlCommand::Disconnect { target, disconnect }).await
    }

    pub(super) async fn unsubscribe(&self, request: &request::Unsubscribe<'_>) -> Result<(), Refused> {
        let (channel, _) = self.channel(&request.channel)?;
        let Some(target) = target(&request.user, &request.client, &request.session)? else { return Ok(()) };
        self.command(ControlCommand::Unsubscribe { target, channel }).await
    }

    async fn command(&self, command: ControlCommand) -> Result<(), Refused> {
        self.in_time()?;
        if let Err(error) = command.encode() {
            return Err(Refused::bad_request(error.to_string()));
        }
        Ok(self.node.control(command).await?)
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
    let mut target = Target { user: (!user.is_empty()).then(|| (**user).into()), ..Target::default() };
    if !client.is_empty() {
        let Some(client) = ClientId::parse(client) else { return Ok(None) };
        target.client = Some(client);
    }
    Ok(Some(target))
}
