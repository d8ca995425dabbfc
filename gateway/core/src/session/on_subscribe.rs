//! The subscribe command: authorize it, join the channel, recover what was missed, answer, go live.

use shared::channel::Channel;
use shared::command::{ResumeAfter, Subscribe, SubscriptionKind};
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::moment::Moment;
use shared::position::{Epoch, StreamPosition};
use shared::protocol::mercure;
use shared::publication::{ClientInfo, Payload, Publication};
use shared::push::{Event, Push, UnsubscribeCode};
use shared::refusal::Refusal;
use shared::reply::{Answer, KeyedAnswer, Subscribed};

use super::Session;
use super::behind::BehindReader;
use super::on_connect::{expiry, remaining};
use super::on_map_subscribe::unnumbered;
use super::session_state::{
    Granted, JoiningStage, JoiningSubscription, LiveSubscription, Phase, Subscription,
};
use super::terms::{InitialHistory, RecoveryRequest, SubscriptionTerms};
use crate::channel_rules::ChannelOptions;
use crate::delta;
use crate::effect::{
    Denial, Effect, Ended, EventActions, GoLive, Grant, HistoryRequest, Join, Overrides, Resumed,
};
use crate::history::{HistoryFilter, HistoryPage};
use crate::recovery::{is_newest, is_recovered, stopped_at};
use crate::reply_bytes::publications_bytes;

/// Maximum bytes of newest values in one reply.
const NEWEST_BYTES_MAX: usize = 8 << 20;

/// A subscription that goes live as soon as its client has been told of it.
#[derive(Debug)]
pub(super) struct AcceptedSubscription {
    pub(super) id: u32,
    pub(super) given: SubscriptionTerms,
    pub(super) next: AfterReply,
    /// The reason, if the server has ended the subscription meanwhile.
    pub(super) ended: Option<UnsubscribeCode>,
    /// Bytes of publications in the reply.
    pub(super) bytes: usize,
    /// Actions of the application to perform once the client has been told.
    pub(super) then: Option<Box<EventActions>>,
    /// The publications a resumed client missed, and the rooms it rejoins after that.
    pub(super) resumed: Option<Box<Resumed>>,
}

/// The next step once the client has been told of the subscription.
#[derive(Debug)]
pub(super) enum AfterReply {
    ReadOn(BehindReader),
    GoLive(GoLive),
}

impl Session {
    pub(super) fn on_subscribe(&mut self, now: Moment, id: u32, mut request: Subscribe) {
        if request.ask.is_some() {
            return self.resolve(id, request);
        }
        let Some(channel) = self.channel(now, id, &request.channel) else { return };
        let at = match self.find(channel.as_str()) {
            Ok(at) if request.additional_reader => return self.add_reader(now, id, at, request, None),
            Ok(_) if self.has_rooms => {
                // Joining a room again succeeds and changes nothing.
                return self.answer_in(Some(channel), id, Answer::Subscribe(Subscribed::default()));
            }
            Ok(_) => return self.refuse_in(now, Some(&channel), id, ErrorCode::AlreadySubscribed),
            Err(at) => at,
        };
        let context = self.context.clone();
        let loading = self.loading.as_ref();
        let goes_on = loading.is_some_and(|loading| loading.find(channel.as_str()).is_some());
        let channels = self.subscriptions.len() + loading.map_or(0, |loading| loading.0.len());
        if !goes_on && channels >= context.settings.channels_max as usize {
            return self.refuse_in(now, Some(&channel), id, ErrorCode::LimitExceeded);
        }
        let Some(options) = context.rules.options(&channel) else {
            return self.refuse_in(now, Some(&channel), id, ErrorCode::UnknownChannel);
        };
        if options.keeps_keys() {
            if self.asks_of_all {
                return self.refuse_in(now, Some(&channel), id, ErrorCode::NotAvailable);
            }
            return self.on_map_subscribe(now, id, channel, request);
        }
        let token = std::mem::take(&mut request.token);
        let data = request.data.as_deref().cloned();
        let mut recovery = match RecoveryRequest::of(request, options) {
            Ok(recovery) => recovery,
            Err(Denial::Error(refusal)) => return self.refuse_in(now, Some(&channel), id, refusal),
            Err(Denial::Disconnect(disconnect)) => return self.close(disconnect),
        };
        // A client with a token, or one that the application is asked about, may see publications that are not private.
        let granted = self.asks_of_all || !token.is_empty() || options.subscribe_hook;
        self.narrow_to_audience(options, &channel, &mut recovery, granted);
        if self.asks_of_all {
            return self.ask_about(at, channel, id, recovery, token, data);
        }
        // The application is asked in namespaces with a subscribe hook, but not about channels that are limited to an
        // audience by their names.
        let asks = token.is_empty()
            && options.subscribe_hook
            && context.rules.names.audience(channel.as_str()).is_everyone();
        let may = || self.may_subscribe(options, &channel) || self.may_follow_topics(options, &channel);
        if token.is_empty() && !asks && !may() {
            return self.refuse_about(now, &channel, id, ErrorCode::PermissionDenied);
        }
        if !token.is_empty() || asks {
            return self.ask_about(at, channel, id, recovery, token, data);
        }
        let ticket = self.ticket();
        let joining =
            Box::new(JoiningSubscription { ticket, id, recovery, ..JoiningSubscription::default() });
        self.joining += 1;
        self.insert(at, Subscription { channel, stage: JoiningStage::Joining(joining) });
        self.join(at, options);
    }

    /// Asks the shell whether the client may subscribe.
    fn ask_about(
        &mut self,
        at: usize,
        channel: Channel,
        id: u32,
        recovery: RecoveryRequest,
        token: Box<str>,
        data: Option<Payload>,
    ) {
        let ticket = self.ticket();
        let joining =
            Box::new(JoiningSubscription { ticket, id, recovery, ..JoiningSubscription::default() });
        self.joining += 1;
        self.effects.push_back(Effect::Authorize { ticket, channel: channel.clone(), token, data });
        self.insert(at, Subscription { channel, stage: JoiningStage::Authorizing(joining) });
    }

    pub(super) fn on_authorized(&mut self, now: Moment, at: usize, result: Result<Grant, Denial>) {
        let mut grant = match result {
            Ok(grant) => grant,
            Err(Denial::Error(error)) => return self.fail_joining(now, at, error),
            Err(Denial::Disconnect(disconnect)) => return self.close(disconnect),
        };
        if let Some(identity) = grant.identity.take().filter(|_| self.user().is_anonymous()) {
            self.identity = Some(identity);
            self.reckon_expiry();
        }
        if grant.user != *self.user() {
            return self.close(Disconnect::INVALID_TOKEN);
        }
        let Ok(expires) = expiry(now, grant.expires) else {
            return self.fail_joining(now, at, ErrorCode::Expired);
        };
        let context = self.context.clone();
        let Some(options) = context.rules.options(&self.subscriptions[at].channel) else {
            return self.fail_joining(now, at, ErrorCode::UnknownChannel);
        };
        let resumed = grant.resumed.take();
        if let Some(resumed) = &resumed {
            self.client = resumed.client;
            let rooms = resumed.rooms.iter().map(|(room, _)| room.clone());
            self.rare.get_or_insert_default().returning.extend(rooms);
        }
        if self.has_rooms {
            // Only now is the client's identity known.
            self.close_others();
        }
        let ticket = self.ticket();
        let subscription = &mut self.subscriptions[at];
        let JoiningStage::Authorizing(mut joining) =
            std::mem::replace(&mut subscription.stage, JoiningStage::Live(LiveSubscription::default()))
        else {
            return;
        };
        joining.ticket = ticket;
        joining.overrides = grant.overrides;
        joining.data = grant.data.clone().map(Payload::of_unknown);
        joining.then = grant.then.take();
        if let Some(resumed) = &resumed {
            joining.recovery.since = Some(resumed.since.clone());
        }
        joining.resumed = resumed;
        joining.granted = granted(grant, expires).boxed();
        subscription.stage = JoiningStage::Joining(joining);
        self.join(at, options);
    }

    pub(super) fn on_joined(
        &mut self,
        now: Moment,
        at: usize,
        result: Result<Option<HistoryPage>, ErrorCode>,
    ) {
        if self.phase == Phase::Connecting {
            return self.on_arrived(now, at, result);
        }
        if let Ok(page) = &result
            && self.reads_stream_first(at, page.as_ref())
        {
            return;
        }
        match result.map_err(Refusal::from).and_then(|page| self.activate(now, at, page, 0)) {
            Ok((mut subscribed, mut taken)) => {
                let (then, resumed) = (taken.then.take(), taken.resumed.take());
                let id = taken.id;
                let channel = self.subscriptions[at].channel.clone();
                // A resumed client is sent these publications after those it missed before.
                let came = match &resumed {
                    Some(_) => std::mem::take(&mut subscribed.publications),
                    None => Vec::new(),
                };
                match id {
                    0 => self.push_subscribed(at, subscribed),
                    id => self.answer_in(Some(channel.clone()), id, Answer::Subscribe(subscribed)),
                }
                let is_back = resumed.is_some();
                let rooms = resumed.map(|resumed| self.push_missed(*resumed, &channel, &came));
                self.begin_following(at, taken);
                self.return_to(now, rooms.unwrap_or_default());
                if is_back || then.is_some() {
                    self.on_handled(now, id, channel, Ok(then.unwrap_or_default()));
                }
            }
            Err(error) => self.fail_joining(now, at, error),
        }
    }

    /// Makes a subscription live that the hub and the broker are ready for, and returns what the caller tells the
    /// client. `used`: bytes that the same message holds already.
    pub(super) fn activate(
        &mut self,
        now: Moment,
        at: usize,
        mut page: Option<HistoryPage>,
        used: usize,
    ) -> Result<(Subscribed, AcceptedSubscription), Refusal> {
        let subscription = &mut self.subscriptions[at];
        let Some(joining) = subscription.joining() else { return Err(ErrorCode::Internal.into()) };
        if joining.given.initial_history == InitialHistory::NewestOfKeys
            && page.as_ref().is_some_and(|page| publications_bytes(&page.publications) > NEWEST_BYTES_MAX)
        {
            return Err(ErrorCode::LimitExceeded.into());
        }
        let SubscriptionTerms { initial_history, was_recovering, recoverable, positioned, .. } =
            joining.given;
        let since = joining.recovery.since.as_ref();
        let is_up_to_date = |page: &HistoryPage| since.is_some_and(|since| is_recovered(since, page));
        let mut after = None;
        if initial_history == InitialHistory::After
            && let Some(page) = &mut page
        {
            page.publications.reverse();
            after = joining.recovery.after.as_ref().and_then(|wanted| begin_after(wanted, page));
        }
        let recovered = page.as_ref().is_some_and(|page| match initial_history {
            InitialHistory::Nothing => false,
            InitialHistory::After => after.is_some(),
            InitialHistory::Missed => is_up_to_date(page),
            InitialHistory::Newest => is_newest(since, page),
            InitialHistory::NewestOfKeys => true,
        });
        // A client that read the state of a map has missed nothing.
        let was_recovering =
            was_recovering && joining.keyed.as_ref().is_none_or(|arrived| arrived.wanted.recovers);
        if was_recovering {
            let namespace = self.context.rules.namespace_id(subscription.channel.as_str());
            self.context.observer.recovery(namespace, recovered);
        }
        let is_keyed = joining.keyed.is_some();
        // A map with a gap before its changes is worthless.
        let is_useless = is_keyed
            && page.as_ref().is_some_and(|page| {
                !recovered || since.is_some_and(|since| *since.epoch != *page.top.epoch.as_str())
            });
        if is_useless || was_recovering && !recovered && joining.recovery.reject_unrecovered {
            return Err(ErrorCode::UnrecoverablePosition.into());
        }

        let stage =
            std::mem::replace(&mut subscription.stage, JoiningStage::Live(LiveSubscription::default()));
        let JoiningStage::Joining(joining) = stage else { return Err(ErrorCode::Internal.into()) };
        self.joining -= 1;
        let JoiningSubscription {
            id,
            server_side,
            recovery,
            given,
            granted,
            data,
            keyed,
            members,
            ended,
            then,
            resumed,
            before,
            ..
        } = *joining;
        let expiring = granted.as_ref().filter(|granted| !granted.refreshed_by_server && !server_side);
        let expires = expiring.and_then(|granted| granted.expires).map(|expires| remaining(now, expires));
        let present = given.presence;
        let before = before.unwrap_or_default();
        let chooses = given.floats;
        subscription.stage =
            JoiningStage::Live(LiveSubscription { granted, server_side, present, chooses, ..before });
        let channel = subscription.channel.clone();

        let top = page.as_ref().map(|page| page.top);
        let options = self.context.rules.options(&channel);
        let is_polled = options.is_some_and(|options| options.is_polled());
        let is_streamed = options.is_some_and(|options| options.retention().keeps_history());
        let mut publications = page.filter(|_| recovered).map(|page| page.publications).unwrap_or_default();
        // A client that is given the publications it missed counts offsets on from where it stopped.
        let counts_from = match (initial_history, &recovery.since, publications.first()) {
            _ if !recovered || initial_history == InitialHistory::NewestOfKeys => None,
            (InitialHistory::Newest, Some(since), Some(newest))
                if newest.position.is_some_and(|position| stopped_at(since, position)) =>
            {
                // The client has the newest publication already.
                publications.clear();
                None
            }
            (InitialHistory::Newest | InitialHistory::After, _, first) => {
                first.map(|first| first.offset().saturating_sub(1))
            }
            (_, since, _) => since.as_ref().map(|since| since.offset),
        };
        let filter = recovery.filter;
        let state_bytes = keyed.as_ref().map_or(0, |arrived| arrived.state_bytes);
        let state_position = keyed.as_ref().and_then(|arrived| arrived.position);
        let (bytes, rest) = match initial_history {
            // Newest values have no order in which the rest could be read later.
            InitialHistory::NewestOfKeys => (publications_bytes(&publications), None),
            _ => self.leave_for_later(&mut publications, used + state_bytes),
        };
        let wants = |publication: &Publication| {
            filter.as_ref().is_none_or(|filter| filter.matches(&publication.tags))
                && self.is_meant(publication)
        };
        let has_last = publications.last().is_some_and(wants);
        publications.retain(wants);
        let mut terms = given.terms(filter);
        let members = members.map(|members| {
            terms.members_known = members.version;
            self.among(at, members.clients)
        });
        let counts_from = match &rest {
            _ if !is_keyed => counts_from,
            // A client of a map does not count offsets: it takes the position it is told.
            Some(rest) => Some(rest.before),
            None => top.map(|top| top.offset),
        };
        let keyed = keyed.map(|arrived| {
            let state = arrived.state;
            let publish_debounce_ms = self.debounce(&channel);
            Box::new(KeyedAnswer {
                kind: SubscriptionKind::Map,
                phase: shared::command::Phase::Live,
                cursor: "".into(),
                state,
                publish_debounce_ms,
            })
        });
        let next = match rest.zip(top) {
            Some((rest, top)) => {
                let position = StreamPosition { offset: rest.before, ..top };
                AfterReply::ReadOn(BehindReader::new(channel, position, terms, rest.limit))
            }
            None => {
                // Without a stream there is no position to wait for, and no history to read from.
                let position = top.filter(|_| !is_polled).or(state_position);
                let may_read_on =
                    top.is_some() && (initial_history != InitialHistory::NewestOfKeys || is_streamed);
                AfterReply::GoLive(GoLive { channel, position, terms, may_read_on, has_last })
            }
        };
        let subscribed = Subscribed {
            expires,
            recoverable,
            positioned: positioned && !is_keyed && !given.floats,
            // Only a client that can recover has a use for a position; a client of a polled channel has a use for its
            // epoch.
            position: top
                .filter(|_| (positioned || recoverable || is_polled) && !given.floats)
                .map(|top| StreamPosition { offset: counts_from.unwrap_or(top.offset), ..top })
                .or(state_position.map(unnumbered)),
            delta: given.delta,
            patches: if given.delta { delta::chain(&publications) } else { Vec::new() },
            publications,
            recovered: recovered
                && (was_recovering || !is_keyed && initial_history != InitialHistory::NewestOfKeys),
            was_recovering,
            after: after.flatten(),
            data: data.map(Box::new),
            keyed: keyed.or_else(|| is_polled.then(polled)),
            members,
        };
        Ok((
            subscribed,
            AcceptedSubscription { id, given, next, ended, bytes: bytes + state_bytes, then, resumed },
        ))
    }

    /// Takes the next step after the client has been told of the subscription.
    pub(super) fn begin_following(&mut self, at: usize, taken: AcceptedSubscription) {
        let AcceptedSubscription { given, next, ended, bytes, .. } = taken;
        if let Some(live) = self.subscriptions[at].live_mut() {
            live.known = true;
        }
        if let Some(code) = ended {
            let subscription = self.remove(at);
            return self.end(subscription, code);
        }
        let subscription = &mut self.subscriptions[at];
        let channel = subscription.channel.clone();
        let expires = subscription.expiring().is_some();
        let mut is_new = true;
        if let Some(live) = subscription.live_mut() {
            // A subscription that was announced before stays announced.
            is_new = !live.announced;
            live.announced = given.announced || live.announced;
        }
        match next {
            AfterReply::ReadOn(reader) => self.read_on(reader),
            AfterReply::GoLive(go_live) => self.after_replies(Effect::GoLive(go_live)),
        }
        if given.announced && is_new {
            let info = Box::new(self.info_in(at));
            self.after_replies(Effect::AnnounceJoined { channel, info });
        }
        let is_shown = self.subscriptions[at].live_mut().is_some_and(|live| live.shown);
        let shown = self.shown(&self.subscriptions[at]);
        if let Some(shown) = shown.filter(|_| !is_shown) {
            if let Some(live) = self.subscriptions[at].live_mut() {
                live.shown = true;
            }
            self.after_replies(Effect::ShowSubscriber(Box::new(shown)));
        }
        self.sent(bytes);
        if expires {
            self.reckon_expiry();
        }
    }

    /// Returns the members of the channel, including this client even if the others do not know of it yet.
    fn among(&self, at: usize, mut members: Vec<ClientInfo>) -> Vec<ClientInfo> {
        let own = self.info_in(at);
        let is_shown = self.subscriptions[at].granted().is_some_and(|granted| granted.user.is_some());
        if is_shown && members.iter().all(|member| member.user != own.user) {
            members.push(own);
        }
        members
    }

    /// Ends a subscription that could not be joined.
    pub(super) fn fail_joining(&mut self, now: Moment, at: usize, error: impl Into<Refusal>) {
        if self.phase == Phase::Connecting {
            return self.fail_arrival(now, error.into());
        }
        let subscription = self.remove(at);
        let channel = subscription.channel.clone();
        let had_readers = subscription.is_known();
        let (id, is_returning) = match &subscription.stage {
            JoiningStage::Authorizing(joining) | JoiningStage::Joining(joining) => {
                let is_to_be_whole = joining.id == 0 && joining.recovery.reject_unrecovered;
                (joining.id, joining.resumed.is_some() || is_to_be_whole)
            }
            JoiningStage::Live(_) => return,
        };
        if is_returning {
            // A resumed client gets everything that it missed, or is not resumed at all.
            return self.close(Disconnect::INSUFFICIENT_STATE);
        }
        if matches!(subscription.stage, JoiningStage::Joining(_)) {
            self.part(subscription, Ended::ByServer(UnsubscribeCode::InsufficientState));
        }
        match id {
            // The server asked for the subscription, and the client has not been told of it.
            0 => self.note_refusal(now, Some(&channel), &error.into()),
            id => self.refuse_in(now, Some(&channel), id, error),
        }
        if had_readers {
            self.push(Push::to(&channel, Event::Unsubscribed(UnsubscribeCode::InsufficientState)));
        }
    }

    /// Determines the terms of a subscription from what its client asks for.
    pub(super) fn give(&mut self, at: usize, options: &ChannelOptions) {
        let rights = self.rights(&self.subscriptions[at].channel);
        let insecure = self.context.insecure;
        if let Some(joining) = self.subscriptions[at].joining_mut() {
            let overrides = match self.has_rooms && options.keeps_sessions {
                true => Overrides { force_recovery: Some(true), ..joining.overrides },
                false => joining.overrides,
            };
            let given = SubscriptionTerms::new(options, &joining.recovery, overrides, rights, insecure);
            let is_without_state = joining.server_side && options.keeps_keys();
            joining.given = if is_without_state { given.changes_alone() } else { given };
        }
    }

    /// Returns the milliseconds for which clients should not publish a key again.
    fn debounce(&self, channel: &Channel) -> u32 {
        let options = self.context.rules.options(channel);
        options.map_or(0, |options| options.client_publish_debounce_interval_ms)
    }

    pub(super) fn join(&mut self, at: usize, options: &ChannelOptions) {
        self.give(at, options);
        let subscription = &mut self.subscriptions[at];
        let Some(joining) = subscription.joining_mut() else { return };
        let given = joining.given;
        let (ticket, recovery) = (joining.ticket, &joining.recovery);
        // The history that other subscribers were given may end before the point at which this client read the state.
        let part = given.delta && joining.keyed.as_ref().is_some_and(|arrived| arrived.has_changed);
        let request = |filter| HistoryRequest { filter, epoch: Some(Epoch::EMPTY), sought: None, part };
        let retention = options.retention();
        let newest =
            options.newest_retention().filter(|_| given.initial_history == InitialHistory::NewestOfKeys);
        let history = (retention.keeps_history() && newest.is_none()).then(|| {
            match (given.initial_history, &recovery.since) {
                (InitialHistory::Missed, Some(since)) => HistoryRequest {
                    epoch: Epoch::parse(&since.epoch),
                    ..request(HistoryFilter {
                        since: Some(since.offset),
                        limit: self.context.settings.recovery_limit_max,
                        ..HistoryFilter::default()
                    })
                },
                (InitialHistory::After, _) => HistoryRequest {
                    sought: recovery.after.clone(),
                    ..request(HistoryFilter {
                        limit: self.context.settings.recovery_limit_max,
                        reverse: true,
                        ..HistoryFilter::default()
                    })
                },
                (InitialHistory::Newest, _) => {
                    request(HistoryFilter { limit: 1, reverse: true, ..HistoryFilter::default() })
                }
                _ => request(HistoryFilter::default()),
            }
        });
        let (terms, members) = (given.terms(recovery.filter.clone()), recovery.members);
        let channel = subscription.channel.clone();
        let presence = given.presence.then(|| self.info_in(at));
        let join = Join { ticket, channel, terms, retention, history, presence, members, newest };
        self.effects.push_back(Effect::Join(Box::new(join)));
    }

    pub(super) fn insert(&mut self, at: usize, subscription: Subscription) {
        // Most clients keep the few channels that they begin with.
        self.subscriptions.reserve_exact(1);
        self.subscriptions.insert(at, subscription);
    }
}

/// Removes the publications of a page, oldest first, up to the one where a client stopped reading. Returns the id of
/// that publication, if the client named one; `None` if it is not in the page.
fn begin_after(wanted: &ResumeAfter, page: &mut HistoryPage) -> Option<Option<Box<str>>> {
    let ResumeAfter::Id(id) = wanted else { return Some(None) };
    let at = page.publications.iter().rposition(|publication| mercure::has_id(publication, id))?;
    page.publications.drain(..=at);
    Some(Some(id.clone()))
}

/// Returns the answer's part about keys for a subscription to a polled channel.
fn polled() -> Box<KeyedAnswer> {
    Box::new(KeyedAnswer { kind: SubscriptionKind::SharedPoll, ..KeyedAnswer::default() })
}

/// Returns the part of a grant that the session keeps.
pub(super) fn granted(grant: Grant, expires: Option<Moment>) -> Granted {
    let Grant { shown_as, info, refreshed_by_server, allow, .. } = grant;
    Granted { user: shown_as, info, expires, refreshed_by_server, allow }
}
