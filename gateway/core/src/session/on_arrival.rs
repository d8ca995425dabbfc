//! The subscriptions that are made while a client connects. They are joined before the connect command is answered, so
//! that the reply holds the position of each.

use std::collections::{BTreeMap, VecDeque};

use shared::channel::Channel;
use shared::command::Subscribe;
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::moment::Moment;
use shared::publication::Payload;
use shared::push::UnsubscribeCode;
use shared::refusal::Refusal;
use shared::reply::Subscribed;

use super::on_connect::{Greeting, expiry};
use super::on_subscribe::AcceptedSubscription;
use super::session_state::{
    Granted, JoiningStage, JoiningSubscription, PendingCommand, PendingEffect, Subscription,
};
use super::terms::RecoveryRequest;
use super::{JOINS_MAX, Session};
use crate::effect::{Denial, Effect, ServerSubscription};
use crate::history::HistoryPage;

/// Subscriptions of a connecting client: those still to be joined, and those that are joined.
#[derive(Debug, Default)]
pub(super) struct ServerSubscriptions {
    greeting: Greeting,
    waiting: VecDeque<WantedSubscription>,
    announced: BTreeMap<Channel, Subscribed>,
    taken: Vec<(Channel, AcceptedSubscription)>,
    /// Bytes of the publications in `announced`.
    bytes: usize,
}

/// A subscription to make for a connecting client, or on behalf of the server.
#[derive(Debug)]
pub(super) struct WantedSubscription {
    channel: Channel,
    joining: Box<JoiningSubscription>,
    /// Whether the application is asked if the client may subscribe.
    asks: bool,
}

impl Session {
    /// Returns all subscriptions to make as the client connects: those the server asks for, and those the client asks
    /// for and may have.
    pub(super) fn wanted(
        &self,
        now: Moment,
        mut by_server: Vec<ServerSubscription>,
        mut by_client: BTreeMap<Box<str>, Subscribe>,
    ) -> Result<VecDeque<WantedSubscription>, Denial> {
        if self.fixed {
            by_server.retain(|subscription| by_client.contains_key(&subscription.channel));
        }
        if by_server.is_empty() && by_client.is_empty() && !self.context.settings.personal_channel {
            return Ok(VecDeque::new());
        }
        let mut wanted: BTreeMap<Channel, WantedSubscription> = BTreeMap::new();
        for subscription in by_server.into_iter().chain(self.personal()) {
            let request = by_client.remove(&subscription.channel).unwrap_or_default();
            let mut one = self.server_side(now, subscription, request)?;
            self.narrow(&mut one, true);
            wanted.entry(one.channel.clone()).or_insert(one);
        }
        for (name, request) in by_client {
            let name = ServerSubscription { channel: name, ..ServerSubscription::default() };
            let mut one = match self.server_side(now, name, request) {
                Err(Denial::Error(refusal))
                    if !self.fixed && refusal.error_code() == Some(ErrorCode::UnknownChannel) =>
                {
                    let problem = "the client asks for a channel of an unknown namespace";
                    return Err(Denial::Disconnect(Disconnect::BAD_REQUEST.because(problem)));
                }
                wanted => wanted?,
            };
            let rules = &self.context.rules;
            let Some(options) = rules.options(&one.channel) else { continue };
            if self.fixed && (options.keeps_keys() || options.is_polled()) {
                let message =
                    "this protocol cannot subscribe to channels with state by key or to polled channels"
                        .into();
                return Err(Denial::Error(Refusal { message, ..ErrorCode::BadRequest.into() }));
            }
            one.asks = self.fixed
                && options.subscribe_hook
                && rules.names.audience(one.channel.as_str()).is_everyone();
            let may =
                self.may_subscribe(options, &one.channel) || self.may_follow_topics(options, &one.channel);
            let asks = one.asks;
            self.narrow(&mut one, asks);
            if one.asks || may {
                wanted.entry(one.channel.clone()).or_insert(one);
            } else if self.fixed {
                return Err(ErrorCode::PermissionDenied.into());
            }
            // Otherwise the reply leaves out the channels that the client may not have.
        }
        if wanted.len() > self.context.settings.channels_max as usize {
            return Err(Denial::Disconnect(Disconnect::CHANNEL_LIMIT));
        }
        Ok(wanted.into_values().collect())
    }

    /// Returns a subscription made by the server. The options in the client's request count as in a subscribe command.
    pub(super) fn server_side(
        &self,
        now: Moment,
        subscription: ServerSubscription,
        request: Subscribe,
    ) -> Result<WantedSubscription, Denial> {
        let ServerSubscription { channel, info, data, expires, overrides, members } = subscription;
        let request = Subscribe { members, ..request };
        let bytes_max = self.context.settings.channel_bytes_max as usize;
        let channel = self.context.rules.channel(&channel, bytes_max).map_err(|_| ErrorCode::BadRequest)?;
        let options = self.context.rules.options(&channel).ok_or(ErrorCode::UnknownChannel)?;
        let expires = expiry(now, expires).map_err(|_| ErrorCode::Expired)?;
        // Only the client's own command can read the state of a map, whatever kind of subscription the client names
        // here.
        let kind = if options.keeps_keys() { options.subscription_type.kind() } else { request.kind };
        let request = Subscribe { kind, ..request };
        let joining = JoiningSubscription {
            server_side: true,
            recovery: RecoveryRequest::of(request, options)?,
            overrides,
            granted: Granted { info, expires, ..Granted::default() }.boxed(),
            data: data.map(Payload::of_unknown),
            ..JoiningSubscription::default()
        };
        Ok(WantedSubscription { channel, joining: Box::new(joining), asks: false })
    }

    /// Limits a subscription to the publications that this client may see. `granted`: whether somebody else has said,
    /// or will say, that it may subscribe.
    pub(super) fn narrow(&self, wanted: &mut WantedSubscription, granted: bool) {
        let Some(options) = self.context.rules.options(&wanted.channel) else { return };
        self.narrow_to_audience(options, &wanted.channel, &mut wanted.joining.recovery, granted);
    }

    /// Returns the subscription to the personal channel of the client's user.
    fn personal(&self) -> Option<ServerSubscription> {
        let settings = &self.context.settings;
        let user = self.user();
        (settings.personal_channel && !self.fixed && !user.is_anonymous()).then(|| {
            let names = &self.context.rules.names;
            let namespace = &settings.personal_channel_namespace;
            let boundary = if namespace.is_empty() { "" } else { &*names.namespace_boundary };
            let channel = format!("{namespace}{boundary}{}{}", names.user_boundary, user.as_str());
            ServerSubscription { channel: channel.into(), ..ServerSubscription::default() }
        })
    }

    /// Joins all channels in `waiting`, and then answers the connect command.
    pub(super) fn arrive(
        &mut self,
        now: Moment,
        id: u32,
        waiting: VecDeque<WantedSubscription>,
        greeting: Greeting,
    ) {
        if waiting.is_empty() {
            return self.welcome(now, id, greeting, BTreeMap::new());
        }
        let ticket = self.ticket();
        let arriving = ServerSubscriptions { greeting, waiting, ..ServerSubscriptions::default() };
        self.wait(ticket, id, PendingEffect::Arrival(Box::new(arriving)));
        self.join_further(now);
    }

    /// Handles the outcome of one join.
    pub(super) fn on_arrived(
        &mut self,
        now: Moment,
        at: usize,
        result: Result<Option<HistoryPage>, ErrorCode>,
    ) {
        let used = self.arriving().map_or(0, |arriving| arriving.bytes);
        let taken = result.map_err(Into::into).and_then(|page| self.activate(now, at, page, used));
        let (subscribed, taken) = match taken {
            Ok(taken) => taken,
            Err(error) => return self.fail_arrival(now, error),
        };
        let channel = self.subscriptions[at].channel.clone();
        match taken.ended {
            // The client has not been told of this subscription.
            Some(UnsubscribeCode::Server) => {
                let subscription = self.remove(at);
                self.leave(subscription.channel, None);
            }
            Some(code) => return self.end_for_good(code),
            None => {
                if let Some(arriving) = self.arriving() {
                    arriving.bytes += taken.bytes;
                    arriving.announced.insert(channel.clone(), subscribed);
                    arriving.taken.push((channel, taken));
                }
            }
        }
        self.join_further(now);
    }

    fn join_further(&mut self, now: Moment) {
        let context = self.context.clone();
        while usize::from(self.joining) < JOINS_MAX {
            let Some(next) = self.arriving().and_then(|arriving| arriving.waiting.pop_front()) else { break };
            self.begin_joining(next, &context);
        }
        if self.joining > 0 {
            return;
        }
        let Some(PendingCommand { id, awaited: PendingEffect::Arrival(arriving), .. }) =
            self.pending.take().map(|pending| *pending)
        else {
            return;
        };
        self.welcome(now, id, arriving.greeting, arriving.announced);
        for (channel, taken) in arriving.taken {
            if let Ok(at) = self.find(channel.as_str()) {
                self.begin_following(at, taken);
            }
        }
    }

    pub(super) fn begin_joining(&mut self, wanted: WantedSubscription, context: &super::Context) {
        let WantedSubscription { channel, mut joining, asks } = wanted;
        let (Err(at), Some(options)) = (self.find(channel.as_str()), context.rules.options(&channel)) else {
            return;
        };
        let ticket = self.ticket();
        joining.ticket = ticket;
        self.joining += 1;
        if asks {
            let token = Box::default();
            self.effects.push_back(Effect::Authorize { ticket, channel: channel.clone(), token, data: None });
            return self.insert(at, Subscription { channel, stage: JoiningStage::Authorizing(joining) });
        }
        self.insert(at, Subscription { channel, stage: JoiningStage::Joining(joining) });
        self.join(at, options);
    }

    /// Refuses the connect command and leaves the channels that were joined for it.
    pub(super) fn fail_arrival(&mut self, now: Moment, error: shared::refusal::Refusal) {
        let Some(pending) = self.pending.take() else { return };
        while let Some(last) = self.subscriptions.len().checked_sub(1) {
            let subscription = self.remove(last);
            self.leave(subscription.channel, None);
        }
        self.refuse_connect(now, pending.id, error);
    }

    fn arriving(&mut self) -> Option<&mut ServerSubscriptions> {
        match &mut self.pending.as_deref_mut()?.awaited {
            PendingEffect::Arrival(arriving) => Some(arriving),
            _ => None,
        }
    }
}

impl WantedSubscription {
    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }
}
