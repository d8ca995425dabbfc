//! Subscriptions that the server makes for a connected client.

use shared::channel::Channel;
use shared::command::{Since, Subscribe};
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::moment::Moment;
use shared::publication::Publication;
use shared::push::{Event, Form, Push};
use shared::reply::Subscribed;

use super::Session;
use super::session_state::Phase;
use crate::effect::{Denial, Resumed, ServerSubscription};

impl Session {
    /// Subscribes the client to a channel on behalf of the server: joins it, tells the client, and goes live. `since`:
    /// the position to recover from, if the channel allows recovery. An error says why the client is not subscribed.
    pub fn handle_subscribe(
        &mut self,
        now: Moment,
        subscription: ServerSubscription,
        since: Option<Since>,
    ) -> Result<(), ErrorCode> {
        if self.phase != Phase::Connected || self.fixed {
            return Err(ErrorCode::NotAvailable);
        }
        let Since { offset, epoch } = since.clone().unwrap_or_default();
        let request = Subscribe { recover: since.is_some(), offset, epoch, ..Subscribe::default() };
        let mut wanted = match self.server_side(now, subscription, request) {
            Ok(wanted) => wanted,
            Err(Denial::Error(refusal)) => return Err(refusal.error_code().unwrap_or(ErrorCode::Internal)),
            Err(Denial::Disconnect(_)) => return Err(ErrorCode::BadRequest),
        };
        self.narrow(&mut wanted, true);
        if self.find(wanted.channel().as_str()).is_ok() {
            return Err(ErrorCode::AlreadySubscribed);
        }
        if self.subscriptions.len() >= self.context.settings.channels_max as usize {
            // A client in Socket.IO namespaces stays connected, without the additional room.
            if !self.has_rooms {
                self.close(Disconnect::CHANNEL_LIMIT);
            }
            return Err(ErrorCode::LimitExceeded);
        }
        let context = self.context.clone();
        self.begin_joining(wanted, &context);
        Ok(())
    }

    /// Tells a resumed client what it missed, and what has come to `channel` since that was read. Returns the rooms
    /// that the client rejoins.
    pub(super) fn push_missed(
        &mut self,
        resumed: Resumed,
        channel: &Channel,
        came: &[Publication],
    ) -> Vec<(Channel, Since)> {
        let missed = resumed.missed.iter().map(|(channel, publication)| (channel, publication));
        for (channel, publication) in missed.chain(came.iter().map(|publication| (channel, publication))) {
            self.push(Push::to(channel, Event::plain(publication)));
        }
        resumed.rooms
    }

    /// Rejoins the rooms that a resumed client was in.
    pub(super) fn return_to(&mut self, now: Moment, rooms: Vec<(Channel, Since)>) {
        let context = self.context.clone();
        for (room, Since { offset, epoch }) in rooms {
            let request =
                Subscribe { recover: true, offset, epoch, reject_unrecovered: true, ..Subscribe::default() };
            let subscription =
                ServerSubscription { channel: room.as_str().into(), ..ServerSubscription::default() };
            match self.server_side(now, subscription, request) {
                Ok(wanted) if self.find(room.as_str()).is_err() => self.begin_joining(wanted, &context),
                Ok(_) => {}
                Err(_) => return self.close(Disconnect::INSUFFICIENT_STATE),
            }
        }
    }

    /// Returns whether the subscription to a channel is live and the client has been told of it. `None` if there is no
    /// subscription.
    pub fn is_settled(&self, channel: &str) -> Option<bool> {
        self.find(channel).ok().map(|at| self.subscriptions[at].is_known())
    }

    /// Pushes the subscription to the client, followed by its publications, for which the push has no field.
    pub(super) fn push_subscribed(&mut self, at: usize, subscribed: Subscribed) {
        let channel = self.subscriptions[at].channel.clone();
        self.push(Push::to(&channel, Event::Subscribed(&subscribed)));
        for publication in &subscribed.publications {
            self.push(Push::to(&channel, Event::Publication(publication, Form::Plain)));
        }
    }
}
