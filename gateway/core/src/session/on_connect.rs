//! The connect command: who is this?

use std::time::Duration;

use shared::command::Connect;
use shared::error::ErrorCode;
use shared::moment::Moment;
use shared::protocol::Heartbeat;
use shared::refusal::Refusal;
use shared::reply::{Answer, Connected, Expiry};

use super::state::{Awaited, Phase};
use super::{EXPIRY_MAX, Session, Unserved};
use crate::effect::{Denial, Effect, Identity};

impl Session {
    pub(super) fn on_connect(&mut self, id: u32, connect: Connect) {
        self.phase = Phase::Connecting;
        if !connect.subs.is_empty() {
            self.context.observer.unserved(Unserved::ConnectSubs);
        }
        let ticket = self.ticket();
        self.wait(ticket, id, Awaited::Connect);
        self.effects.push_back(Effect::Authenticate { ticket, token: connect.token });
    }

    pub(super) fn on_authenticated(&mut self, now: Moment, id: u32, result: Result<Identity, Denial>) {
        let identity = match result {
            Ok(identity) => identity,
            Err(Denial::Error(error)) => return self.refuse_connect(now, id, error),
            Err(Denial::Disconnect(disconnect)) => return self.close(disconnect),
        };
        let Ok(expires) = expiry(now, identity.expires) else {
            return self.refuse_connect(now, id, ErrorCode::Expired.into());
        };
        let identity = Identity { expires, ..identity };
        if identity != Identity::default() {
            self.identity = Some(Box::new(identity));
        }
        self.phase = Phase::Connected;
        self.deadline = now + Duration::from_millis(self.first_ping_ms.into());
        self.reckon_expiry();
        let settings = &self.context.settings;
        let (ping_seconds, pong) = match self.protocol.heartbeat() {
            Heartbeat::Message(..) => (settings.ping_interval_ms.div_ceil(1_000), true),
            Heartbeat::Transport => (0, false),
        };
        let connected = Connected {
            expires: expires.map(|expires| remaining(now, expires)),
            ping_seconds: u32::try_from(ping_seconds).unwrap_or(u32::MAX),
            pong,
            ..Connected::new(self.client, self.context.version, self.context.node.clone())
        };
        self.answer(id, Answer::Connect(connected));
    }

    /// Nothing can be done with the connection from now on. What waited for it is dropped: the client knows that
    /// none of it was done.
    fn refuse_connect(&mut self, now: Moment, id: u32, refusal: Refusal) {
        self.phase = Phase::Refused;
        self.backlog = None;
        self.refuse(now, id, refusal);
    }
}

/// An expiry that lies in the past.
pub(super) struct Expired;

/// When a token really ends.
pub(super) fn expiry(now: Moment, expires: Option<Moment>) -> Result<Option<Moment>, Expired> {
    match expires {
        Some(expires) if expires <= now => Err(Expired),
        Some(expires) => Ok(Some(expires.min(now + EXPIRY_MAX))),
        None => Ok(None),
    }
}

/// The whole seconds left, at least one.
pub(super) fn remaining(now: Moment, expires: Moment) -> Expiry {
    let seconds = expires.since(now).as_secs().max(1);
    Expiry { seconds: u32::try_from(seconds).unwrap_or(u32::MAX) }
}
