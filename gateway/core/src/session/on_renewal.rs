//! Connections and subscriptions that the application renews: when they expire, the application is asked instead of the
//! client.

use std::time::Duration;

use shared::channel::Channel;
use shared::disconnect::Disconnect;
use shared::moment::Moment;
use shared::push::{Event, Push, UnsubscribeCode};

use super::Session;
use super::on_connect::{expiry, remaining};
use super::session_state::Phase;
use crate::effect::{Denial, Effect, Renewal, Ticket};

/// The time between two questions about the same renewal, if the first gets no answer.
pub const RENEWAL_RETRY: Duration = Duration::from_secs(3);

/// Renewals that are being asked about or will be asked again: at most one for each subscription, and one for the
/// connection.
#[derive(Debug, Default)]
pub(super) struct Renewals(Vec<RenewalInFlight>);

#[derive(Debug)]
struct RenewalInFlight {
    /// `None`: the connection.
    channel: Option<Channel>,
    /// The question in flight.
    ticket: Option<Ticket>,
    /// When to ask again.
    again: Moment,
    /// How long the connection or subscription is kept past its expiry while the application does not answer.
    grace: Duration,
}

impl Renewals {
    pub(super) fn awaits(&self, ticket: Ticket) -> bool {
        self.0.iter().any(|one| one.ticket == Some(ticket))
    }

    fn of(&self, channel: Option<&Channel>) -> Option<&RenewalInFlight> {
        self.0.iter().find(|one| one.channel.as_ref() == channel)
    }
}

impl Session {
    /// Renews or ends the connection on behalf of the server.
    pub fn handle_refresh(&mut self, now: Moment, renewal: Renewal) {
        if self.phase != Phase::Connected || matches!(renewal, Renewal::Unanswered { .. }) {
            return;
        }
        self.forget_renewal(None);
        self.renew(now, renewal);
        if self.phase == Phase::Connected {
            let expires = self.identity.as_ref().and_then(|identity| identity.expires);
            let expires = expires.map(|expires| remaining(now, expires));
            self.push(Push::alone(Event::Refreshed(expires)));
        }
    }

    /// Returns when to act on an expiry at `expires`: when to end the connection or subscription, or when to ask the
    /// application.
    pub(super) fn due(&self, channel: Option<&Channel>, expires: Moment, by_server: bool) -> Moment {
        let end = self.end_of(channel, expires);
        if !by_server {
            return end;
        }
        match self.renewals.as_ref().and_then(|renewals| renewals.of(channel)) {
            None => expires,
            Some(RenewalInFlight { ticket: Some(_), .. }) => end,
            Some(renewing) => renewing.again.min(end),
        }
    }

    /// Returns when the connection or subscription ends unless it is renewed.
    pub(super) fn end_of(&self, channel: Option<&Channel>, expires: Moment) -> Moment {
        let renewing = self.renewals.as_ref().and_then(|renewals| renewals.of(channel));
        let grace = renewing.map_or(Duration::ZERO, |renewing| renewing.grace);
        let by_server = self.identity.as_ref().is_some_and(|identity| identity.refreshed_by_server);
        if channel.is_none() && self.fixed && !by_server {
            // Neither the client nor the application can renew this connection.
            return expires;
        }
        expires + grace.max(self.context.settings.expired_close_delay())
    }

    /// Asks the application to renew, unless a question is in flight or it is too early to ask again.
    pub(super) fn ask_to_renew(&mut self, now: Moment, channel: Option<Channel>) {
        let ticket = self.ticket();
        let renewals = self.renewals.get_or_insert_default();
        match renewals.0.iter_mut().find(|one| one.channel == channel) {
            Some(RenewalInFlight { ticket: Some(_), .. }) => return,
            Some(renewing) if renewing.again > now => return,
            Some(renewing) => renewing.ticket = Some(ticket),
            None => renewals.0.push(RenewalInFlight {
                channel: channel.clone(),
                ticket: Some(ticket),
                again: now,
                grace: Duration::ZERO,
            }),
        }
        self.after_replies(match channel {
            None => Effect::Refresh { ticket },
            Some(channel) => Effect::SubRefresh { ticket, channel },
        });
    }

    /// Handles the application's answer, or that there was none.
    pub(super) fn on_renewed(&mut self, now: Moment, ticket: Ticket, result: Result<Renewal, Denial>) {
        let Some(renewals) = &mut self.renewals else { return };
        let Some(renewing) = renewals.0.iter_mut().find(|one| one.ticket == Some(ticket)) else { return };
        let renewal = match result {
            Ok(renewal) => renewal,
            Err(Denial::Error(_)) => Renewal::Unanswered { grace: Duration::ZERO },
            Err(Denial::Disconnect(disconnect)) => return self.close(disconnect),
        };
        let channel = renewing.channel.clone();
        if let Renewal::Unanswered { grace } = renewal {
            (renewing.ticket, renewing.again, renewing.grace) = (None, now + RENEWAL_RETRY, grace);
            return self.reckon_expiry();
        }
        self.forget_renewal(channel.as_ref());
        match channel {
            None => self.renew(now, renewal),
            Some(channel) => self.renew_subscription(now, &channel, renewal),
        }
    }

    /// Forgets the renewal of a subscription or of the connection.
    pub(super) fn forget_renewal(&mut self, channel: Option<&Channel>) {
        if let Some(renewals) = &mut self.renewals {
            renewals.0.retain(|one| one.channel.as_ref() != channel);
            if renewals.0.is_empty() {
                self.renewals = None;
            }
        }
    }

    fn renew(&mut self, now: Moment, renewal: Renewal) {
        match renewal {
            Renewal::Expired => self.close(Disconnect::EXPIRED),
            Renewal::Unanswered { .. } => {}
            Renewal::Stays { expires, info, meta } => {
                let Ok(expires) = expiry(now, expires) else { return self.close(Disconnect::EXPIRED) };
                let identity = self.identity.get_or_insert_default();
                identity.expires = expires;
                let is_seen_anew = info.is_some() && info != identity.info;
                identity.info = info.or(identity.info.take());
                identity.meta = meta.or(identity.meta.take());
                if is_seen_anew {
                    self.update_presence();
                }
                self.reckon_expiry();
            }
        }
    }

    fn renew_subscription(&mut self, now: Moment, channel: &Channel, renewal: Renewal) {
        let Ok(at) = self.find(channel.as_str()) else { return };
        let stays = match renewal {
            Renewal::Stays { expires, info, .. } => expiry(now, expires).ok().map(|expires| (expires, info)),
            Renewal::Expired | Renewal::Unanswered { .. } => None,
        };
        let Some((expires, info)) = stays else {
            let subscription = self.remove(at);
            self.end(subscription, UnsubscribeCode::Expired);
            return self.reckon_expiry();
        };
        if let Some(granted) = self.subscriptions[at].live_mut().and_then(|live| live.granted.as_deref_mut())
        {
            granted.expires = expires;
            let is_seen_anew = info.is_some() && info != granted.info;
            granted.info = info.or(granted.info.take());
            if is_seen_anew {
                self.update_presence_in(at);
            }
        }
        self.reckon_expiry();
    }
}
