//! The connect command: authenticates the client and makes the subscriptions it begins with.

use std::collections::BTreeMap;
use std::time::Duration;

use shared::channel::Channel;
use shared::command::{Connect, Subscribe};
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::moment::Moment;
use shared::protocol::{Heartbeat, ProtocolId};
use shared::publication::Payload;
use shared::refusal::Refusal;
use shared::reply::{Answer, Connected, Expiry, Subscribed};

use super::session_state::{PendingEffect, Phase};
use super::{ConnectionKind, EXPIRY_MAX, Session};
use crate::effect::{Denial, Effect, Identity};

/// The fields of the connect reply that come from the authentication.
#[derive(Debug, Default)]
pub(super) struct Greeting {
    data: Option<Payload>,
    time_ms: Option<u64>,
}

impl Session {
    pub(super) fn on_connect(&mut self, id: u32, connect: Box<Connect>) {
        self.phase = Phase::Connecting;
        self.fixed = connect.exact;
        let ticket = self.ticket();
        self.wait(ticket, id, PendingEffect::Connect { subs: connect.subs.clone() });
        self.effects.push_back(Effect::Authenticate { ticket, connect });
    }

    pub(super) fn on_authenticated(
        &mut self,
        now: Moment,
        id: u32,
        subs: BTreeMap<Box<str>, Subscribe>,
        result: Result<Identity, Denial>,
    ) {
        let mut identity = match result {
            Ok(identity) => identity,
            Err(Denial::Error(error)) if self.has_rooms => return self.refuse_attempt(now, id, error),
            Err(Denial::Error(error)) => return self.refuse_connect(now, id, error),
            // A client without a token is told that one is required.
            Err(Denial::Disconnect(disconnect))
                if self.reports_missing_token() && disconnect == Disconnect::BAD_REQUEST =>
            {
                return self.close(Disconnect::INVALID_TOKEN);
            }
            Err(Denial::Disconnect(disconnect)) if self.has_rooms => {
                return self.refuse_attempt(now, id, refusal(&disconnect));
            }
            Err(Denial::Disconnect(disconnect)) => return self.close(disconnect),
        };
        let Ok(expires) = expiry(now, identity.expires) else {
            return self.refuse_connect(now, id, ErrorCode::Expired.into());
        };
        identity.expires = expires;
        let by_server = std::mem::take(&mut identity.subs);
        let greeting = Greeting {
            data: identity.data.take().map(Payload::of_unknown),
            time_ms: identity.time_ms.take().filter(|_| self.context.settings.tell_time),
        };
        if identity != Identity::default() {
            self.identity = Some(Box::new(identity));
        }
        match self.wanted(now, by_server, subs) {
            Ok(wanted) => self.arrive(now, id, wanted, greeting),
            Err(Denial::Error(error)) => self.refuse_connect(now, id, error),
            Err(Denial::Disconnect(disconnect)) => self.close(disconnect),
        }
    }

    /// Returns whether a client without a token is told that one is required, with a status or a close code for that.
    fn reports_missing_token(&self) -> bool {
        self.fixed || self.protocol.id() == ProtocolId::GRAPHQL
    }

    /// Answers a successful connect command and begins pinging.
    pub(super) fn welcome(
        &mut self,
        now: Moment,
        id: u32,
        Greeting { data, time_ms }: Greeting,
        subs: BTreeMap<Channel, Subscribed>,
    ) {
        self.phase = Phase::Connected;
        let super::RareSessionState { connection_kind, connect_by, .. } =
            self.rare.take().map(|rare| *rare).unwrap_or_default();
        if connect_by.is_none() {
            self.deadline = now + Duration::from_millis(self.first_ping_ms.into());
        }
        self.reckon_expiry();
        let settings = &self.context.settings;
        let (ping_seconds, pong) = match self.protocol.heartbeat() {
            Heartbeat::Message(..) => (settings.ping_interval_ms.div_ceil(1_000), !self.is_unidirectional),
            Heartbeat::Transport | Heartbeat::Unanswered => (0, false),
        };
        let by_client = self.identity.as_ref().filter(|identity| !identity.refreshed_by_server);
        let expires = by_client.and_then(|identity| identity.expires);
        let (session, node) = match connection_kind {
            ConnectionKind::Emulated { session, node } => (Some(session), node),
            ConnectionKind::Unidirectional { session } => (Some(session), self.context.node.clone()),
            ConnectionKind::Bidirectional => (None, self.context.node.clone()),
        };
        let connected = Connected {
            expires: expires.map(|expires| remaining(now, expires)),
            ping_seconds: u32::try_from(ping_seconds).unwrap_or(u32::MAX),
            pong,
            session,
            data,
            subs,
            time_ms,
            ..Connected::new(self.client, self.context.version, node)
        };
        self.answer(id, Answer::Connect(Box::new(connected)));
        if !self.has_rooms {
            self.close_others();
        }
    }

    /// Closes the user's other connections, if a user may have only one.
    pub(super) fn close_others(&mut self) {
        if self.context.settings.single_connection && !self.user().is_anonymous() {
            self.effects.push_back(Effect::CloseOthers);
        }
    }

    /// Refuses the connect command for good. The backlog is dropped: from the refusal the client knows that none of its
    /// commands were performed.
    pub(super) fn refuse_connect(&mut self, now: Moment, id: u32, refusal: Refusal) {
        self.phase = Phase::Refused;
        self.backlog = None;
        self.identity = None;
        if self.is_unidirectional {
            // A unidirectional connection has no reply that could hold the refusal.
            self.note_refusal(now, None, &refusal);
            return self.close(disconnect(&refusal));
        }
        let end = self.has_rooms.then(|| disconnect(&refusal));
        self.refuse(now, id, refusal);
        if let Some(disconnect) = end {
            self.close(disconnect);
        }
    }

    /// Refuses a connect command after which the client may try another Socket.IO namespace or another token.
    fn refuse_attempt(&mut self, now: Moment, id: u32, refusal: Refusal) {
        self.phase = Phase::Opening;
        self.forget_enter();
        self.refuse(now, id, refusal);
    }
}

/// Returns the disconnect that corresponds to a refusal.
fn disconnect(refusal: &Refusal) -> Disconnect {
    match refusal.error_code() {
        None => refusal.disconnect(),
        Some(ErrorCode::TokenExpired | ErrorCode::Expired) => Disconnect::EXPIRED,
        Some(ErrorCode::TooManyRequests) => Disconnect::TOO_MANY_REQUESTS,
        Some(ErrorCode::PermissionDenied) => Disconnect::PERMISSION_DENIED,
        Some(ErrorCode::LimitExceeded) => Disconnect::CHANNEL_LIMIT,
        _ if refusal.temporary => Disconnect::INTERNAL,
        _ => Disconnect::BAD_REQUEST.because(&refusal.message),
    }
}

/// Returns the refusal that corresponds to a disconnect.
fn refusal(disconnect: &Disconnect) -> Refusal {
    let code = match disconnect.code {
        code if code == Disconnect::INVALID_TOKEN.code => ErrorCode::Unauthorized.code(),
        code => code.into(),
    };
    Refusal { code, message: disconnect.reason.clone(), temporary: disconnect.invites_reconnect() }
}

/// The error when an expiry lies in the past.
pub(super) struct Expired;

/// Returns the effective expiry of a token: at most [`EXPIRY_MAX`] from now.
pub(super) fn expiry(now: Moment, expires: Option<Moment>) -> Result<Option<Moment>, Expired> {
    match expires {
        Some(expires) if expires <= now => Err(Expired),
        Some(expires) => Ok(Some(expires.min(now + EXPIRY_MAX))),
        None => Ok(None),
    }
}

/// Returns the whole seconds left, at least one.
pub(super) fn remaining(now: Moment, expires: Moment) -> Expiry {
    let seconds = expires.since(now).as_secs().max(1);
    Expiry { seconds: u32::try_from(seconds).unwrap_or(u32::MAX) }
}
