//! The commands that bring new tokens: refresh for the connection, sub_refresh for a subscription.

use shared::channel::Channel;
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::moment::Moment;
use shared::reply::Answer;

use super::Session;
use super::on_connect::{expiry, remaining};
use super::on_subscribe::granted;
use super::session_state::PendingEffect;
use crate::effect::{Denial, Effect, Grant, Identity};

impl Session {
    pub(super) fn on_refresh(&mut self, id: u32, token: Box<str>) {
        if token.is_empty() {
            return self.close(Disconnect::BAD_REQUEST.because("the command has no token"));
        }
        if self.identity.as_ref().is_some_and(|identity| identity.refreshed_by_server) {
            return self.close(
                Disconnect::BAD_REQUEST
                    .because("the application's backend refreshes this connection, not the client"),
            );
        }
        let ticket = self.ticket();
        self.wait(ticket, id, PendingEffect::Refresh);
        self.effects.push_back(Effect::Reauthenticate { ticket, token });
    }

    pub(super) fn on_reauthenticated(&mut self, now: Moment, id: u32, result: Result<Identity, Denial>) {
        let identity = match result {
            Ok(identity) => identity,
            // A client whose new token has expired reconnects with a newer one.
            Err(Denial::Error(refusal)) if refusal.error_code() == Some(ErrorCode::TokenExpired) => {
                return self.close(Disconnect::EXPIRED);
            }
            Err(Denial::Error(error)) => return self.refuse(now, id, error),
            Err(Denial::Disconnect(disconnect)) => return self.close(disconnect),
        };
        if identity.user != *self.user() {
            return self.close(Disconnect::INVALID_TOKEN);
        }
        let Ok(expires) = expiry(now, identity.expires) else {
            return self.refuse(now, id, ErrorCode::Expired);
        };
        let known = self.identity.get_or_insert_default();
        known.expires = expires;
        let is_seen_anew = identity.info.is_some() && identity.info != known.info;
        if is_seen_anew {
            known.info = identity.info;
        }
        if identity.meta.is_some() {
            known.meta = identity.meta;
        }
        known.caps = identity.caps;
        if is_seen_anew {
            self.update_presence();
        }
        self.reckon_expiry();
        let expires = expires.map(|expires| remaining(now, expires));
        self.answer(id, Answer::Refresh { client: self.client, version: self.context.version, expires });
    }

    pub(super) fn on_sub_refresh(&mut self, now: Moment, id: u32, channel: &str, token: Box<str>) {
        if channel.is_empty() {
            return self.close(Disconnect::BAD_REQUEST.because("the command names no channel"));
        }
        let Some(subscription) = self.find_live(channel) else {
            return self.refuse(now, id, ErrorCode::PermissionDenied);
        };
        let by_server = subscription.granted().is_some_and(|granted| granted.refreshed_by_server);
        if by_server || subscription.is_server_side() {
            return self.refuse(now, id, ErrorCode::PermissionDenied);
        }
        if token.is_empty() {
            return self.refuse(now, id, ErrorCode::BadRequest);
        }
        let channel = subscription.channel.clone();
        let ticket = self.ticket();
        self.wait(ticket, id, PendingEffect::SubRefresh { channel: channel.clone() });
        self.effects.push_back(Effect::Authorize { ticket, channel, token, data: None });
    }

    pub(super) fn on_reauthorized(
        &mut self,
        now: Moment,
        id: u32,
        channel: &Channel,
        result: Result<Grant, Denial>,
    ) {
        let grant = match result {
            Ok(grant) => grant,
            Err(Denial::Error(error)) => return self.refuse(now, id, error),
            Err(Denial::Disconnect(disconnect)) => return self.close(disconnect),
        };
        if grant.user != *self.user() {
            return self.close(Disconnect::INVALID_TOKEN);
        }
        let Ok(expires) = expiry(now, grant.expires) else {
            return self.refuse(now, id, ErrorCode::Expired);
        };
        // The subscription may have ended while the token was verified.
        let at = self.find(channel.as_str()).ok();
        let Some(live) = at.and_then(|at| self.subscriptions[at].live_mut()) else {
            return self.refuse(now, id, ErrorCode::PermissionDenied);
        };
        let is_seen_anew =
            live.granted.as_ref().and_then(|granted| granted.info.as_ref()) != grant.info.as_ref();
        live.granted = granted(grant, expires).boxed();
        if let Some(at) = at.filter(|_| is_seen_anew) {
            self.update_presence_in(at);
        }
        self.reckon_expiry();
        self.answer(
            id,
            Answer::SubRefresh { expires: expires.map(|expires| remaining(now, expires)), items: Vec::new() },
        );
    }

    /// Updates the client's entry wherever it is present, after its info has changed.
    pub(super) fn update_presence(&mut self) {
        (0..self.subscriptions.len()).for_each(|at| self.update_presence_in(at));
    }

    pub(super) fn update_presence_in(&mut self, at: usize) {
        if self.subscriptions[at].is_present() {
            let (channel, info) = (self.subscriptions[at].channel.clone(), Box::new(self.info_in(at)));
            self.effects.push_back(Effect::UpdatePresence { channel, info });
        }
    }
}
