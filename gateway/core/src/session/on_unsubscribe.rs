//! The end of a subscription, at the wish of the client or of the server.

use shared::channel::Channel;
use shared::disconnect::Disconnect;
use shared::publication::ClientInfo;
use shared::push::{Event, Push, UnsubscribeCode};
use shared::reply::Answer;
use smallvec::SmallVec;

use super::Session;
use super::session_state::{Phase, Subscription};
use crate::effect::{Effect, Ended, PublishedSubscriber};

/// The suffix that turns the name of a Socket.IO namespace into the channel of all clients in it.
const ALL: char = '*';

impl Session {
    /// Handles the unsubscribe command. Unsubscribing from a channel without a subscription is no error.
    pub(super) fn on_unsubscribe(&mut self, id: u32, channel: &str) {
        if channel.is_empty() {
            return self.close(Disconnect::BAD_REQUEST.because("the command names no channel"));
        }
        if let Ok(at) = self.find(channel) {
            let subscription = self.remove(at);
            let channel = subscription.channel.clone();
            self.part(subscription, Ended::ByClient);
            self.leave_rooms_of(&channel, Ended::ByClient);
            self.reckon_expiry();
        } else {
            self.forget_loading(channel);
        }
        self.answer(id, Answer::Unsubscribe);
    }

    /// Ends a subscription on behalf of the server and tells the client why. A subscription that is not live yet ends
    /// as soon as the client has been told of it.
    pub fn handle_unsubscribe(&mut self, channel: &Channel, code: UnsubscribeCode) {
        if self.phase == Phase::Closed {
            return;
        }
        let Ok(at) = self.find(channel.as_str()) else {
            self.end_loading(channel, code);
            return;
        };
        if let Some(joining) = self.subscriptions[at].joining_mut() {
            // The code that forbids the client to come back takes precedence over those that allow it.
            if joining.ended != Some(UnsubscribeCode::Server) {
                joining.ended = Some(code);
            }
            return;
        }
        let subscription = self.remove(at);
        self.end(subscription, code);
        self.reckon_expiry();
    }

    /// Ends a subscription that has been removed already, and tells the client.
    pub(super) fn end(&mut self, subscription: Subscription, code: UnsubscribeCode) {
        let by_server = subscription.is_server_side();
        let channel = subscription.channel.clone();
        self.part(subscription, Ended::ByServer(code));
        if by_server && code != UnsubscribeCode::Server {
            return self.end_for_good(code);
        }
        self.push(Push::to(&channel, Event::Unsubscribed(code)));
        self.leave_rooms_of(&channel, Ended::ByServer(code));
    }

    /// Leaves the rooms of a Socket.IO namespace that the client has left.
    fn leave_rooms_of(&mut self, channel: &Channel, why: Ended) {
        for room in self.rooms_of(channel) {
            if let Ok(at) = self.find(room.as_str()) {
                let subscription = self.remove(at);
                self.part(subscription, why);
            }
        }
    }

    /// Returns the rooms of a Socket.IO namespace that the client is in or is joining.
    pub(super) fn rooms_of(&self, channel: &Channel) -> Vec<Channel> {
        let prefix = channel.as_str().strip_suffix(ALL).filter(|_| self.has_rooms);
        let Some(prefix) = prefix.filter(|prefix| !prefix.is_empty()) else { return Vec::new() };
        let rooms = self.subscriptions.iter().map(|one| &one.channel);
        rooms.filter(|room| room.as_str().starts_with(prefix) && *room != channel).cloned().collect()
    }

    /// Closes the connection because a server-side subscription has ended: a client cannot resubscribe to it, so it has
    /// to reconnect.
    pub(super) fn end_for_good(&mut self, code: UnsubscribeCode) {
        self.close(match code {
            // A code with which the client may reconnect.
            UnsubscribeCode::Server => Disconnect::INSUFFICIENT_STATE,
            code => code.disconnect(),
        });
    }

    /// Returns, once, the channels whose subscribers have to be told that this client has left, after its connection
    /// was closed. Among them are those that the client was still joining if they have presence: others may have seen it
    /// there, although its join was not announced yet.
    pub fn take_announced(&mut self) -> Vec<(Channel, ClientInfo)> {
        let subscriptions = self.subscriptions.iter_mut().enumerate();
        let announced = subscriptions.filter_map(|(at, one)| one.take_announced().then_some(at));
        let announced: SmallVec<[usize; 4]> = announced.collect();
        announced.iter().map(|&at| (self.subscriptions[at].channel.clone(), self.info_in(at))).collect()
    }

    /// The same for one channel that was joined after that. Returns whether its subscribers have to be told.
    pub fn take_announced_in(&mut self, channel: &Channel) -> bool {
        self.find(channel.as_str()).is_ok_and(|at| self.subscriptions[at].take_announced())
    }

    /// Returns the subscriptions that ended with the connection, and those whose end has not been performed yet. The
    /// pending [`Effect::Leave`]s no longer report their end.
    pub fn take_ended(&mut self) -> Vec<(Channel, Ended)> {
        let in_flight = self.effects.iter_mut().filter_map(|effect| match effect {
            Effect::Leave { channel, ended } => ended.take().map(|ended| (channel.clone(), ended)),
            _ => None,
        });
        let mut all: Vec<_> = in_flight.collect();
        let known = self.subscriptions.iter().filter(|one| one.is_known());
        all.extend(known.map(|one| (one.channel.clone(), Ended::Disconnected)));
        all
    }

    /// Returns, once, the keys under which this client is shown in other channels, after its connection was closed.
    pub fn take_shown(&mut self) -> Vec<PublishedSubscriber> {
        let shown: SmallVec<[usize; 4]> = (0..self.subscriptions.len())
            .filter_map(|at| {
                let live = self.subscriptions[at].live_mut()?;
                std::mem::take(&mut live.shown).then_some(at)
            })
            .collect();
        shown.iter().filter_map(|&at| self.shown(&self.subscriptions[at])).collect()
    }

    /// Returns the keys under which a subscriber is shown, if its channel's namespace asks for that.
    pub(super) fn shown(&self, subscription: &Subscription) -> Option<PublishedSubscriber> {
        let channel = &subscription.channel;
        let options = self.context.rules.options(channel)?;
        let bytes_max = self.context.settings.channel_bytes_max as usize;
        let elsewhere = |prefix: &str| {
            let name = (!prefix.is_empty()).then(|| format!("{prefix}{channel}"))?;
            self.context.rules.channel(&name, bytes_max).ok()
        };
        let users = elsewhere(&options.map_users_presence_channel_prefix);
        let shown = PublishedSubscriber {
            info: self.info(subscription.granted()),
            clients: elsewhere(&options.map_clients_presence_channel_prefix),
            users: users.filter(|_| !self.user().is_anonymous()),
            own: (options.keeps_keys() && options.map.remove_client_on_unsubscribe).then(|| channel.clone()),
        };
        let is_shown = shown.clients.is_some() || shown.users.is_some() || shown.own.is_some();
        is_shown.then_some(shown)
    }

    /// Performs the end of a subscription: leaves the channel, hides the subscriber and announces the leave.
    pub(super) fn part(&mut self, mut subscription: Subscription, why: Ended) {
        let (known, announced) =
            subscription.live_mut().map_or((false, false), |live| (live.known, live.announced));
        let ended = known.then_some(why);
        // A client that lives on and was not announced announces no leave: in a large channel, its next join and that leave
        // would cancel out.
        let info = announced.then(|| Box::new(self.info(subscription.granted())));
        let was_shown = subscription.live_mut().is_some_and(|live| live.shown);
        let shown = if was_shown { self.shown(&subscription) } else { None };
        let channel = subscription.channel;
        self.leave(channel.clone(), ended);
        if let Some(shown) = shown {
            self.effects.push_back(Effect::HideSubscriber(Box::new(shown)));
        }
        if let Some(info) = info {
            self.effects.push_back(Effect::AnnounceLeft { channel, info });
        }
    }

    pub(super) fn remove(&mut self, at: usize) -> Subscription {
        let subscription = self.subscriptions.remove(at);
        if !subscription.is_live() {
            self.joining -= 1;
        }
        if let Some(behind) = &mut self.behind {
            behind.forget(&subscription.channel);
        }
        if self.renewals.is_some() {
            self.forget_renewal(Some(&subscription.channel));
        }
        if self.tracking.is_some() {
            self.forget_tracking(&subscription.channel);
        }
        if self.subscriptions.is_empty() {
            self.subscriptions.shrink_to_fit();
        }
        subscription
    }

    pub(super) fn leave(&mut self, channel: Channel, ended: Option<Ended>) {
        // Replies about this channel, and the effect that makes it live, come first.
        self.flush();
        self.effects.push_back(Effect::Leave { channel, ended });
    }
}
