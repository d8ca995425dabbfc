//! A client of a Pusher app: its key admits it, and signatures say which channels it may enter and which user it is.

use std::sync::Arc;

use gateway_core::effect::{Denial, Identity, OutcomeResult, Ticket};
use gateway_core::history::HistoryPage;
use shared::channel::Channel;
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::id::UserId;
use shared::publication::Payload;
use shared::refusal::Refusal;

use crate::client::Client;
use crate::client::perform::refused;
use crate::node::Node;
use crate::pusher::SubscriptionEntry;
use crate::worker::WorkerLocal;

/// The close of clients whose app was removed, as for an unknown app: they do not come back.
const APP_GONE: (u16, &str) = (4001, "there is no app with this key any more");

impl Client {
    /// Admits the client as anonymous, until it signs in.
    pub(super) fn let_in(&mut self, local: &mut WorkerLocal, ticket: Ticket) {
        let admitted = self.admit(local, Ok(Identity::default()));
        self.answer(local, ticket, OutcomeResult::Authenticated(admitted));
    }

    /// Returns the close for the client if its app was removed.
    pub(crate) fn why_its_app_is_gone(&self) -> Option<Disconnect> {
        let is_gone = self.app().is_some_and(|app| app.is_removed());
        let (code, reason) = APP_GONE;
        (is_gone && !self.is_closing() && !self.is_finishing())
            .then(|| Disconnect { code, reason: reason.into() })
    }

    /// Admits the client to a channel that its app has signed for, if there is room.
    pub(super) fn let_into(
        &mut self,
        local: &WorkerLocal,
        ticket: Ticket,
        channel: Channel,
        auth: &str,
        data: Option<&Payload>,
    ) {
        let Some(app) = self.app().cloned() else { return };
        let (client, user) = (self.session.client(), self.session.user());
        let admitted = app.admit(client, user, channel.as_str(), auth, data.map(text));
        let max = app.terms().settings.presence_members_max;
        match admitted {
            Ok(SubscriptionEntry { grant, member: Some(member) }) if max > 0 => {
                self.ask(local, ticket, |node| async move {
                    let room = has_room(&node, channel, &member, max).await;
                    OutcomeResult::Authorized(room.map(|()| grant).map_err(Denial::Error))
                });
            }
            admitted => {
                let granted = admitted.map(|entry| entry.grant).map_err(Denial::Error);
                self.answer(local, ticket, OutcomeResult::Authorized(granted));
            }
        }
    }

    /// Has the channel's subscribers counted again, because the client has joined or is about to leave.
    pub(super) fn note_count(&self, local: &WorkerLocal, channel: &Channel) {
        if self.app().is_some_and(|app| app.counts(channel.as_str())) {
            local.node.count_changed(channel);
        }
    }

    /// Returns the channel if its app's webhooks are to be told when no last event is cached for this client.
    pub(super) fn awaits_cache(&self, local: &WorkerLocal, channel: &Channel) -> Option<Channel> {
        let webhooks = local.node.webhooks.as_ref().filter(|_| self.app().is_some())?;
        webhooks.reports_cache_misses(channel.as_str()).then(|| channel.clone())
    }

    /// Signs the client in as a user.
    pub(super) fn sign_in(&mut self, local: &mut WorkerLocal, ticket: Ticket, auth: &str, data: &Payload) {
        let refused = || Err(Denial::of(ErrorCode::NotAvailable));
        let signed_in = self.app().map_or_else(refused, |app| {
            app.sign_in(self.session.client(), auth, text(data)).map_err(Denial::Error)
        });
        let admitted = match signed_in {
            // The connection now counts for that user.
            Ok(identity) if self.session.user().is_anonymous() => {
                self.user_permit = None;
                self.admit(local, Ok(identity))
            }
            signed_in => signed_in,
        };
        self.answer(local, ticket, OutcomeResult::SignedIn(admitted));
    }
}

/// Tells the app's webhooks that a channel has no cached event, if they are to be told.
pub(super) fn note_cache(
    node: &Node,
    awaits: Option<&Channel>,
    page: Option<HistoryPage>,
) -> Option<HistoryPage> {
    let is_empty = page.as_ref().is_some_and(|page| page.publications.is_empty());
    if let (Some(channel), Some(webhooks), true) = (awaits, &node.webhooks, is_empty) {
        webhooks.missed_cache(channel.as_str());
    }
    page
}

/// The payload arrived as text, so it is valid UTF-8.
fn text(data: &Payload) -> &str {
    std::str::from_utf8(&data.bytes).unwrap_or_default()
}

/// Checks that a user is a member of a channel, or may become one within its limit.
async fn has_room(node: &Arc<Node>, channel: Channel, member: &UserId, max: u32) -> Result<(), Refusal> {
    let unknown = |error| Refusal::of(refused(error));
    if node.presence_stats(channel.clone()).await.map_err(unknown)?.users < max {
        return Ok(());
    }
    let present = node.presence(channel).await.map_err(unknown)?;
    if present.values().any(|client| client.user == *member) {
        return Ok(());
    }
    let full = format!("the channel has reached its limit of {max} members");
    Err(Refusal { message: full.into(), ..ErrorCode::LimitExceeded.into() })
}
