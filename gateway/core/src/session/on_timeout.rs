//! Timeouts: heartbeats and expiries.

use std::time::Duration;

use bytes::Bytes;
use shared::channel::Channel;
use shared::disconnect::Disconnect;
use shared::framing::OwnedMessage;
use shared::moment::Moment;
use shared::protocol::Heartbeat;
use shared::push::UnsubscribeCode;

use super::session_state::{Phase, Subscription};
use super::{NEVER, Session, SessionSettings};
use crate::effect::Effect;

impl Session {
    /// Returns when to call [`Session::handle_timeout`] at the latest. The moment may change with everything that the
    /// session handles.
    pub fn poll_timeout(&self) -> Option<Moment> {
        let loading = self.loading.as_ref().and_then(|loading| loading.next_end()).unwrap_or(NEVER);
        let connect_by = self.connect_by().unwrap_or(NEVER);
        (self.phase != Phase::Closed).then(|| self.deadline.min(self.expiry).min(loading).min(connect_by))
    }

    /// Performs everything that is due. Calling it too early does nothing.
    pub fn handle_timeout(&mut self, now: Moment) {
        if self.phase != Phase::Closed && now >= self.deadline {
            match (self.phase, self.connect_by()) {
                (Phase::Connected, _) | (_, Some(_)) => self.on_heartbeat(now),
                _ => self.close(Disconnect::STALE),
            }
        }
        if self.phase != Phase::Closed && self.connect_by().is_some_and(|by| now >= by) {
            self.close(Disconnect::STALE);
        }
        if self.phase != Phase::Closed && now >= self.expiry {
            self.on_expiry(now);
        }
        if self.loading.is_some() {
            self.end_late_loadings(now);
        }
    }

    /// Handles a pong of the transport. Unlike a pong of the protocol it may be unsolicited (RFC 6455 §5.5.3), and is
    /// then ignored.
    pub fn handle_transport_pong(&mut self, now: Moment) {
        if self.protocol.heartbeat() == Heartbeat::Transport && self.awaits_pong {
            // After several pings, the pong does not say which of them it answers.
            if std::mem::take(&mut self.pongs_pending) == 1 {
                self.note_acknowledged(now);
            }
            self.take_pong();
        }
    }

    /// Handles a pong of the protocol.
    pub(super) fn on_pong(&mut self, now: Moment) {
        let is_pong_pending = self.pongs_pending > 0 && self.protocol.heartbeat() != Heartbeat::Transport;
        if self.phase != Phase::Connected || !is_pong_pending {
            return self.close(Disconnect::BAD_REQUEST.because("the client sent a pong without a ping"));
        }
        self.pongs_pending -= 1;
        if self.pongs_pending == 0 {
            self.note_acknowledged(now);
        }
        if self.awaits_pong {
            self.take_pong();
        }
    }

    /// Notes that something came from the client, which proves that it is alive. A client that is busy sending need not
    /// be pinged.
    pub fn handle_sign_of_life(&mut self) {
        self.has_received = true;
    }

    /// Reports that the last ping was answered now.
    fn note_acknowledged(&self, now: Moment) {
        let took_ms = (now.0 as u32).wrapping_sub(self.pinged_ms);
        self.context.observer.acknowledged(Duration::from_millis(took_ms.into()));
    }

    fn take_pong(&mut self) {
        self.awaits_pong = false;
        // Consecutive pings are one interval apart, however long the pong takes.
        let SessionSettings { ping_interval_ms, pong_timeout_ms, .. } = self.context.settings;
        self.deadline = Moment((self.deadline.0 + ping_interval_ms).saturating_sub(pong_timeout_ms));
    }

    /// Extends the deadline of the pong: while the client is not read from because its commands wait, its pong may lie
    /// unread.
    pub(super) fn give_time_for_pong(&mut self, now: Moment) {
        if self.awaits_pong {
            self.deadline = self.deadline.max(now + self.context.settings.pong_timeout());
        }
    }

    fn on_heartbeat(&mut self, now: Moment) {
        if self.awaits_pong && self.is_congested() {
            return self.give_time_for_pong(now);
        }
        if self.awaits_pong && self.has_received {
            // The pong may still come, so it stays counted in `pongs_pending`.
            return self.take_pong();
        }
        if self.awaits_pong {
            return self.close(Disconnect::NO_PONG);
        }
        self.effects.push_back(match self.protocol.heartbeat() {
            Heartbeat::Message(kind, bytes) => {
                Effect::Send(OwnedMessage { kind, data: Bytes::from_static(bytes) })
            }
            Heartbeat::Transport | Heartbeat::Unanswered => Effect::Ping,
        });
        let heartbeat = self.protocol.heartbeat();
        if self.is_unidirectional && heartbeat != Heartbeat::Transport || heartbeat == Heartbeat::Unanswered {
            self.deadline = now + self.context.settings.ping_interval();
            return;
        }
        self.awaits_pong = true;
        self.pinged_ms = now.0 as u32;
        self.pongs_pending = self.pongs_pending.saturating_add(1);
        self.has_received = false;
        self.deadline = now + self.context.settings.pong_timeout();
    }

    fn on_expiry(&mut self, now: Moment) {
        let connection = self.identity.as_ref();
        let connection =
            connection.and_then(|identity| Some((identity.expires?, identity.refreshed_by_server)));
        if let Some((expires, by_server)) = connection {
            if now >= self.end_of(None, expires) {
                return self.close(Disconnect::EXPIRED);
            }
            if by_server && now >= expires {
                self.ask_to_renew(now, None);
            }
        }
        let is_over = |session: &Self, one: &Subscription| {
            one.expiring().is_some_and(|(_, expires)| now >= session.end_of(Some(&one.channel), expires))
        };
        while let Some(at) = self.subscriptions.iter().position(|one| is_over(self, one)) {
            let subscription = self.remove(at);
            self.end(subscription, UnsubscribeCode::Expired);
            if self.phase == Phase::Closed {
                return;
            }
        }
        let is_due = |one: &&Subscription| {
            one.expiring().is_some_and(|(granted, expires)| granted.refreshed_by_server && now >= expires)
        };
        self.end_expired_tracking(now);
        let due: Vec<Channel> =
            self.subscriptions.iter().filter(is_due).map(|one| one.channel.clone()).collect();
        for channel in due {
            self.ask_to_renew(now, Some(channel));
        }
        self.reckon_expiry();
    }

    /// Computes the earliest expiry, or question to the application, of the connection, its live subscriptions and
    /// tracked keys.
    pub(super) fn reckon_expiry(&mut self) {
        let identity = self.identity.as_ref();
        let connection = identity
            .and_then(|identity| Some(self.due(None, identity.expires?, identity.refreshed_by_server)));
        let subscriptions = self.subscriptions.iter().filter_map(|one| {
            let (granted, expires) = one.expiring()?;
            Some(self.due(Some(&one.channel), expires, granted.refreshed_by_server))
        });
        self.expiry = subscriptions.chain(connection).chain(self.tracking_end()).min().unwrap_or(NEVER);
    }
}
