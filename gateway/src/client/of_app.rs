//! A client of an app that speaks Pusher: its key lets it in, and signatures say where it may be and who it is.

use std::sync::Arc;

use gateway_core::effect::{Denial, Identity, OutcomeResult, Ticket};
use shared::channel::Channel;
use shared::error::ErrorCode;
use shared::id::UserId;
use shared::publication::Payload;
use shared::refusal::Refusal;

use crate::client::Client;
use crate::client::perform::refused;
use crate::node::Node;
use crate::pusher::Entry;
use crate::worker::Local;

impl Client {
    /// Nobody in particular, until it signs in.
    pub(super) fn let_in(&mut self, local: &mut Local, ticket: Ticket) {
        let admitted = self.admit(local, Ok(Identity::default()));
        self.answer(local, ticket, OutcomeResult::Authenticated(admitted));
    }

    /// Lets it into a channel that its app has signed for, as long as there is room.
    pub(super) fn let_into(
        &mut self,
        local: &Local,
        ticket: Ticket,
        channel: Channel,
        auth: &str,
        data: Option<&Payload>,
    ) {
        let Some(app) = self.app().cloned() else { return };
        let (client, user) = (self.session.client(), self.session.user());
        let admitted = app.admit(client, user, channel.as_str(), auth, data.map(text));
        let max = app.settings.presence_members_max;
        match admitted {
            Ok(Entry { grant, member: Some(member) }) if max > 0 => {
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

    /// It has come to a channel, or is about to leave it.
    pub(super) fn note_count(&self, local: &Local, channel: &Channel) {
        if self.app().is_some_and(|app| app.counts(channel.as_str())) {
            local.node.count_changed(channel);
        }
    }

    /// It says who it is.
    pub(super) fn sign_in(&mut self, local: &mut Local, ticket: Ticket, auth: &str, data: &Payload) {
        let refused = || Err(Denial::of(ErrorCode::NotAvailable));
        let signed_in = self.app().map_or_else(refused, |app| {
            app.sign_in(self.session.client(), auth, text(data)).map_err(Denial::Error)
        });
        let admitted = match signed_in {
            // A connection counts for the user whom it is of.
            Ok(identity) if self.session.user().is_anonymous() => {
                self.user_permit = None;
                self.admit(local, Ok(identity))
            }
            signed_in => signed_in,
        };
        self.answer(local, ticket, OutcomeResult::SignedIn(admitted));
    }
}

/// What came as text is text.
fn text(data: &Payload) -> &str {
    std::str::from_utf8(&data.bytes).unwrap_or_default()
}

/// Whether a user may become a member of a channel that holds so many at most, or is one.
async fn has_room(node: &Arc<Node>, channel: Channel, member: &UserId, max: u32) -> Result<(), Refusal> {
    let unknown = |error| Refusal::of(refused(error));
    if node.presence_stats(channel.clone()).await.map_err(unknown)?.users < max {
        return Ok(());
    }
    let present = node.presence(channel).await.map_err(unknown)?;
    if present.values().any(|client| client.user == *member) {
        return Ok(());
    }
    let full = format!("the channel has {max} members, which is as many as it may have");
    Err(Refusal { message: full.into(), ..ErrorCode::LimitExceeded.into() })
}
