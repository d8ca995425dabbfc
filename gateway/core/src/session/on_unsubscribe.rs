//! The end of a subscription: the client's own wish, or the server's.

use shared::channel::Channel;
use shared::disconnect::Disconnect;
use shared::publication::ClientInfo;
use shared::push::{Event, Push, UnsubscribeCode};
use shared::reply::Answer;
use smallvec::SmallVec;

use super::Session;
use super::session_state::{Phase, Subscription};
use crate::effect::{Effect, Ended, PublishedSubscriber};

/// Behind the name of a part of the server: the channel of all who are there.
const ALL: char = '*';

impl Session {
    /// Not being subscribed is what the client wants, so it is no error not to have been.
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

    /// The server ends a subscription and tells the client why. One that is still on its way ends as soon as the
    /// client knows of it.
    pub fn handle_unsubscribe(&mut self, channel: &Channel, code: UnsubscribeCode) {
        if self.phase == Phase::Closed {
            return;
        }
        let Ok(at) = self.find(channel.as_str()) else {
            self.end_loading(channel, code);
            return;
        };
        if let Some(joining) = self.subscriptions[at].joining_mut() {
            // The reason that lets no client come back outweighs those that do.
            if joining.ended != Some(UnsubscribeCode::Server) {
                joining.ended = Some(code);
            }
            return;
        }
        let subscription = self.remove(at);
        self.end(subscription, code);
        self.reckon_expiry();
    }

    /// A subscription that is forgotten already.
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

    /// Who is no more in a part of the server is in none of its rooms.
    fn leave_rooms_of(&mut self, channel: &Channel, why: Ended) {
        for room in self.rooms_of(channel) {
            if let Ok(at) = self.find(room.as_str()) {
                let subscription = self.remove(at);
                self.part(subscription, why);
            }
        }
    }

    /// The channels that hang on this one and that the client is in, or is on its way into.
    pub(super) fn rooms_of(&self, channel: &Channel) -> Vec<Channel> {
        let prefix = channel.as_str().strip_suffix(ALL).filter(|_| self.has_rooms);
        let Some(prefix) = prefix.filter(|prefix| !prefix.is_empty()) else { return Vec::new() };
        let rooms = self.subscriptions.iter().map(|one| &one.channel);
        rooms.filter(|room| room.as_str().starts_with(prefix) && *room != channel).cloned().collect()
    }

    /// A client cannot come back to a subscription of the server's by itself: it comes back as a whole.
    pub(super) fn end_for_good(&mut self, code: UnsubscribeCode) {
        self.close(match code {
            // It may come back.
            UnsubscribeCode::Server => Disconnect::INSUFFICIENT_STATE,
            code => code.disconnect(),
        });
    }

    /// The channels whose subscribers are to be told that this client is gone, now that its connection is. Each once.
    pub fn take_announced(&mut self) -> Vec<(Channel, ClientInfo)> {
        let announced = (0..self.subscriptions.len()).filter_map(|at| {
            let live = self.subscriptions[at].live_mut()?;
            std::mem::take(&mut live.announced).then_some(at)
        });
        let announced: SmallVec<[usize; 4]> = announced.collect();
        announced.iter().map(|&at| (self.subscriptions[at].channel.clone(), self.info_in(at))).collect()
    }

    /// The subscriptions that have ended now that the connection is gone, and those whose end is still to be carried out.
    /// That is not told again with them.
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

    /// How this client is shown elsewhere, now that its connection is gone. Each once.
    pub fn take_shown(&mut self) -> Vec<PublishedSubscriber> {
        let shown: SmallVec<[usize; 4]> = (0..self.subscriptions.len())
            .filter_map(|at| {
                let live = self.subscriptions[at].live_mut()?;
                std::mem::take(&mut live.shown).then_some(at)
            })
            .collect();
        shown.iter().filter_map(|&at| self.shown(&self.subscriptions[at])).collect()
    }

    /// How a subscriber is shown elsewhere, if its channel's namespace says that it is.
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

    /// The client is a subscriber no more, wherever it stood.
    pub(super) fn part(&mut self, mut subscription: Subscription, why: Ended) {
        let (known, announced) =
            subscription.live_mut().map_or((false, false), |live| (live.known, live.announced));
        let ended = known.then_some(why);
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
        // What was said of this channel so far, and its going live, come first.
        self.flush();
        self.effects.push_back(Effect::Leave { channel, ended });
    }
}
