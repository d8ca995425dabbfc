//! The subscribe command for a map: the client reads the state page by page, then the changes since, then goes live.
//!
//! In a channel with a stream, the first page holds the position of the stream, and the client goes live as if it
//! recovered from there. In a channel without a stream, publications are held back from before the first page is read,
//! and those after the position at which it was read are delivered; clients do not see these offsets. The client is
//! authorized once, at its first request.

use shared::channel::Channel;
use shared::command::{Phase, Since, Subscribe, SubscriptionKind};
use shared::disconnect::{Disconnect, SlowCause};
use shared::error::ErrorCode;
use shared::moment::Moment;
use shared::position::StreamPosition;
use shared::publication::{Payload, Publication};
use shared::push::{Event, Push, UnsubscribeCode};
use shared::refusal::Refusal;
use shared::reply::{Answer, KeyedAnswer, Subscribed};

use super::Session;
use super::loading::{
    LoadedState, Loading, LoadingAwaited, LoadingChannel, LoadingStep, PageInFlight, PageRequest,
};
use super::on_connect::expiry;
use super::on_subscribe::granted;
use super::session_state::{JoiningStage, JoiningSubscription, Subscription};
use super::terms::{RecoveryRequest, SubscriptionTerms};
use crate::channel_rules::ChannelOptions;
use crate::effect::{Denial, Effect, Grant, Join, OutcomeResult};
use crate::history::{HistoryFilter, HistoryPage};
use crate::map::{StateFilter, StatePage};
use crate::reply_bytes::{fitting, publications_bytes};

/// Returns a position as clients see it in a channel without a stream: its epoch alone.
pub(super) fn unnumbered(position: StreamPosition) -> StreamPosition {
    StreamPosition { offset: 0, ..position }
}

impl Session {
    /// Handles a subscribe command for a map that exists and that the client is not subscribed to.
    pub(super) fn on_map_subscribe(
        &mut self,
        now: Moment,
        id: u32,
        channel: Channel,
        mut request: Subscribe,
    ) {
        let context = self.context.clone();
        let Some(options) = context.rules.options(&channel) else {
            return self.refuse_about(now, &channel, id, ErrorCode::UnknownChannel);
        };
        if request.kind != options.subscription_type.kind() {
            return self.refuse_about(now, &channel, id, ErrorCode::PermissionDenied);
        }
        let page = request.page.take().map(|page| *page).unwrap_or_default();
        let since = Since { offset: request.offset, epoch: request.epoch.clone() };
        let wanted = PageRequest { page, since, recovers: request.recover };
        let has_stream = options.retention().keeps_history();
        let loading = self.loading.as_ref().and_then(|loading| loading.find(channel.as_str()));
        if let Some(at) = loading {
            match self.loading_mut(at).map(|loading| &loading.step) {
                Some(LoadingStep::Busy(_)) => {
                    return self.refuse_about(now, &channel, id, ErrorCode::ConcurrentPagination);
                }
                Some(LoadingStep::Late) if !wanted.begins() => {
                    return self.close(SlowCause::PageTimeout.disconnect());
                }
                _ => {}
            }
            if !wanted.begins() {
                if wanted.page.phase == Phase::Stream && !has_stream {
                    self.stop_loading(at);
                    return self.refuse_about(now, &channel, id, ErrorCode::BadRequest);
                }
                return self.serve_page(now, at, id, wanted, options);
            }
            self.stop_loading(at);
        }
        let refused = match wanted.page.phase {
            _ if !wanted.page.cursor.is_empty() => Some(ErrorCode::PermissionDenied),
            Phase::Stream if !has_stream => Some(ErrorCode::BadRequest),
            Phase::Stream if !wanted.recovers => Some(ErrorCode::PermissionDenied),
            // Without a stream there is nothing to recover from.
            Phase::Live if !has_stream && wanted.recovers => Some(ErrorCode::UnrecoverablePosition),
            Phase::State | Phase::Stream | Phase::Live => None,
        };
        if let Some(refused) = refused {
            return self.refuse_about(now, &channel, id, refused);
        }
        self.begin_loading(now, id, channel, request, wanted, options);
    }

    fn begin_loading(
        &mut self,
        now: Moment,
        id: u32,
        channel: Channel,
        mut request: Subscribe,
        wanted: PageRequest,
        options: &ChannelOptions,
    ) {
        let token = std::mem::take(&mut request.token);
        let data = request.data.as_deref().cloned();
        let recovery = match RecoveryRequest::of(request, options) {
            Ok(recovery) => RecoveryRequest { since: None, ..recovery },
            Err(denial) => return self.deny(now, id, denial),
        };
        // As for a stream, the application is asked in namespaces with a subscribe hook.
        let asks = token.is_empty()
            && options.subscribe_hook
            && self.context.rules.names.audience(channel.as_str()).is_everyone();
        if token.is_empty() && !asks && !self.may_subscribe(options, &channel) {
            return self.refuse(now, id, ErrorCode::PermissionDenied);
        }
        let ticket = self.ticket();
        let asks_backend = asks || !token.is_empty();
        if asks_backend {
            let channel = channel.clone();
            self.effects.push_back(Effect::Authorize { ticket, channel, token, data });
        }
        let loadings = &mut self.loading.get_or_insert_default().0;
        loadings.push(Loading {
            channel,
            entry: LoadingChannel { recovery, ..LoadingChannel::default() },
            began_at: None,
            has_changed: false,
            held_back: false,
            until: now + options.map.catch_up_timeout(),
            step: LoadingStep::Idle,
            ended: false,
        });
        let at = loadings.len() - 1;
        if asks_backend {
            return self.await_page(at, PageInFlight { ticket, id, wanted, awaited: LoadingAwaited::Token });
        }
        self.serve_page(now, at, id, wanted, options);
    }

    /// Handles the outcome that a loading subscription waited for.
    pub(super) fn on_loaded(&mut self, now: Moment, at: usize, result: OutcomeResult) {
        let Some(loading) = self.loading_mut(at) else { return };
        let ended = loading.ended;
        let LoadingStep::Busy(busy) = std::mem::replace(&mut loading.step, LoadingStep::Idle) else { return };
        self.joining -= 1;
        let PageInFlight { id, wanted, awaited, .. } = busy;
        let context = self.context.clone();
        let options = self.loading_mut(at).and_then(|loading| context.rules.options(&loading.channel));
        let Some(options) = options.filter(|_| !ended) else {
            self.stop_loading(at);
            return self.refuse(now, id, ErrorCode::PermissionDenied);
        };
        let failed = match (awaited, result) {
            (LoadingAwaited::Token, OutcomeResult::Authorized(result)) => {
                match self.let_in(now, at, result) {
                    Ok(()) => return self.serve_page(now, at, id, wanted, options),
                    Err(Denial::Error(refusal)) => refusal,
                    Err(Denial::Disconnect(disconnect)) => return self.close(disconnect),
                }
            }
            (LoadingAwaited::Join, OutcomeResult::Joined(Ok(_))) => {
                if let Some(loading) = self.loading_mut(at) {
                    loading.held_back = true;
                }
                return self.serve_page(now, at, id, wanted, options);
            }
            (LoadingAwaited::State, OutcomeResult::State(Ok(page))) => {
                return self.on_state_read(now, at, id, wanted, page, options);
            }
            (LoadingAwaited::Stream, OutcomeResult::History(Ok(page))) => {
                return self.on_stream_read(now, at, id, wanted, page);
            }
            (LoadingAwaited::Join, OutcomeResult::Joined(Err(error)))
            | (LoadingAwaited::State, OutcomeResult::State(Err(error)))
            | (LoadingAwaited::Stream, OutcomeResult::History(Err(error))) => error.into(),
            _ => ErrorCode::Internal.into(),
        };
        self.fail_loading(now, at, id, awaited, failed);
    }

    /// Begins to serve the page that the client asks for.
    fn serve_page(&mut self, now: Moment, at: usize, id: u32, wanted: PageRequest, options: &ChannelOptions) {
        let has_stream = options.retention().keeps_history();
        let Some(loading) = self.loading_mut(at) else { return };
        match wanted.page.phase {
            Phase::State | Phase::Live if !has_stream && !loading.held_back => {
                self.hold_back(at, id, wanted, options);
            }
            Phase::State => {
                let limit = options.map.page_limit(wanted.page.limit);
                self.read_state(at, id, wanted, limit, options);
            }
            // A page without keys gives at least the channel's position.
            Phase::Live if !has_stream && loading.began_at.is_none() => {
                self.read_state(at, id, wanted, 0, options);
            }
            Phase::Live if !has_stream => self.enter(now, at, id, (wanted, Vec::new()), None, options),
            Phase::Stream | Phase::Live => {
                let began_in = loading.began_at.map(|position| position.epoch);
                if began_in.is_some_and(|epoch| *epoch.as_str() != *wanted.since.epoch) {
                    self.stop_loading(at);
                    return self.refuse(now, id, ErrorCode::UnrecoverablePosition);
                }
                let since = wanted.since.clone();
                self.enter(now, at, id, (wanted, Vec::new()), Some(since), options);
            }
        }
    }

    fn hold_back(&mut self, at: usize, id: u32, wanted: PageRequest, options: &ChannelOptions) {
        let ticket = self.ticket();
        let Some(loading) = self.loading_mut(at) else { return };
        let channel = loading.channel.clone();
        let (recovery, overrides) = (loading.entry.recovery.clone(), loading.entry.overrides);
        let granted = loading.entry.granted.clone();
        let given = SubscriptionTerms::new(
            options,
            &recovery,
            overrides,
            self.rights(&channel),
            self.context.insecure,
        );
        let presence = given.presence.then(|| self.info(granted.as_deref()));
        let (terms, retention) = (given.terms(recovery.filter), options.retention());
        self.await_page(at, PageInFlight { ticket, id, wanted, awaited: LoadingAwaited::Join });
        let join =
            Join { ticket, channel, terms, retention, history: None, presence, members: false, newest: None };
        self.effects.push_back(Effect::Join(Box::new(join)));
    }

    fn read_state(&mut self, at: usize, id: u32, wanted: PageRequest, limit: u32, options: &ChannelOptions) {
        let ticket = self.ticket();
        let enough_bytes = self.context.settings.reply_bytes_max;
        let Some(loading) = self.loading_mut(at) else { return };
        let channel = loading.channel.clone();
        let filter = Box::new(StateFilter {
            cursor: wanted.page.cursor.clone(),
            limit,
            ascending: wanted.page.ascending,
            key: None,
            enough_bytes,
        });
        self.await_page(at, PageInFlight { ticket, id, wanted, awaited: LoadingAwaited::State });
        let keeping = options.map.keeping();
        self.effects.push_back(Effect::ReadState { ticket, channel, filter, keeping });
    }

    fn on_state_read(
        &mut self,
        now: Moment,
        at: usize,
        id: u32,
        wanted: PageRequest,
        page: StatePage,
        options: &ChannelOptions,
    ) {
        let has_stream = options.retention().keeps_history();
        let Some(loading) = self.loading_mut(at) else { return };
        let StatePage { mut entries, top, cursor } = page;
        let began_at = loading.began_at.or(top);
        loading.began_at = began_at;
        loading.has_changed |= began_at != top;
        let is_of_another_life = top.is_some_and(|top| {
            let epoch = &wanted.since.epoch;
            began_at.is_some_and(|began| began.epoch != top.epoch)
                || !epoch.is_empty() && **epoch != *top.epoch.as_str()
        });
        if is_of_another_life {
            self.stop_loading(at);
            return self.refuse(now, id, ErrorCode::UnrecoverablePosition);
        }
        if wanted.page.phase == Phase::Live {
            return self.enter(now, at, id, (wanted, Vec::new()), None, options);
        }
        // Changes since the first page come by the stream or are held back, and so arrive in order.
        entries.retain(|entry| began_at.is_none_or(|began| entry.offset() <= began.offset));
        let recovery = &loading.entry.recovery;
        if let Some(filter) = &recovery.filter {
            entries.retain(|entry| filter.matches(&entry.tags));
        }
        if !has_stream {
            entries.iter_mut().for_each(|entry| entry.position = None);
        }
        let limit = u64::from(options.map.page_limit(wanted.page.limit));
        let is_near = match (began_at, top) {
            (Some(began), Some(top)) if has_stream => began.offset.saturating_add(limit) >= top.offset,
            _ => true,
        };
        if cursor.is_empty() && is_near {
            let since = began_at.filter(|_| has_stream);
            let since = since.map(|began| Since { offset: began.offset, epoch: began.epoch.as_str().into() });
            return self.enter(now, at, id, (wanted, entries), since, options);
        }
        let (channel, recovery) = (loading.channel.clone(), recovery.clone());
        let bytes = publications_bytes(&entries);
        let delta = self.gives_patches(&channel, &recovery, options);
        let keyed = KeyedAnswer {
            kind: SubscriptionKind::Map,
            phase: Phase::State,
            cursor,
            state: entries,
            publish_debounce_ms: 0,
        };
        let position = if has_stream { began_at } else { began_at.map(unnumbered) };
        let answer = Subscribed { position, delta, keyed: Some(Box::new(keyed)), ..Subscribed::default() };
        self.answer(id, Answer::Subscribe(answer));
        self.sent(bytes);
    }

    /// Tries to make the client live from its position, if the changes since can be read at once. `state`: the page of
    /// the state that it is sent then.
    fn enter(
        &mut self,
        now: Moment,
        at: usize,
        id: u32,
        (wanted, state): (PageRequest, Vec<Publication>),
        since: Option<Since>,
        options: &ChannelOptions,
    ) {
        let Some(loading) = self.take_loading(at) else { return };
        let Loading { channel, entry, began_at, has_changed, until, .. } = loading;
        let Err(place) = self.find(channel.as_str()) else { return };
        let has_stream = since.is_some();
        let position = began_at.filter(|_| !has_stream);
        let LoadingChannel { recovery, overrides, granted, data } = entry;
        let ticket = self.ticket();
        let state_bytes = publications_bytes(&state);
        let joining = JoiningSubscription {
            ticket,
            id,
            recovery: RecoveryRequest { since, ..recovery },
            overrides,
            granted,
            data,
            keyed: Some(Box::new(LoadedState { wanted, state, state_bytes, has_changed, position, until })),
            ..JoiningSubscription::default()
        };
        self.joining += 1;
        self.insert(place, Subscription { channel, stage: JoiningStage::Joining(Box::new(joining)) });
        if has_stream {
            return self.join(place, options);
        }
        // The hub holds publications back already.
        self.give(place, options);
        self.on_joined(now, place, Ok(None));
    }

    /// Returns whether a client that is about to go live is so far behind that it must read the stream page by page
    /// first. If so, begins to read the next page.
    pub(super) fn reads_stream_first(&mut self, at: usize, page: Option<&HistoryPage>) -> bool {
        let Some(page) = page else { return false };
        let Some(joining) = self.subscriptions[at].joining() else { return false };
        let (Some(arrived), Some(since)) = (&joining.keyed, &joining.recovery.since) else { return false };
        let is_of_this_life = *since.epoch == *page.top.epoch.as_str();
        let is_ahead = since.offset > page.top.offset;
        if arrived.wanted.page.phase != Phase::Stream
            || !is_of_this_life
            || is_ahead
            || crate::recovery::is_recovered(since, page)
        {
            return false;
        }
        let options = self.context.rules.options(&self.subscriptions[at].channel).cloned();
        let Some(options) = options else { return false };
        let Subscription { channel, stage } = self.remove(at);
        let JoiningStage::Joining(joining) = stage else { return false };
        let JoiningSubscription { id, recovery, overrides, granted, data, keyed, ended, .. } = *joining;
        let Some(arrived) = keyed else { return false };
        self.leave(channel.clone(), None);
        let ticket = self.ticket();
        let LoadedState { wanted, until, .. } = *arrived;
        let filter = HistoryFilter {
            since: Some(wanted.since.offset),
            limit: options.map.page_limit(wanted.page.limit),
            reverse: false,
            enough_bytes: Some(self.context.settings.reply_bytes_max),
        };
        let read =
            Effect::History { ticket, channel: channel.clone(), filter, retention: options.retention() };
        let entry = LoadingChannel {
            recovery: RecoveryRequest { since: None, ..recovery },
            overrides,
            granted,
            data,
        };
        let loadings = &mut self.loading.get_or_insert_default().0;
        loadings.push(Loading {
            channel,
            entry,
            began_at: Some(page.top),
            has_changed: arrived.has_changed,
            held_back: false,
            until,
            step: LoadingStep::Idle,
            ended: ended.is_some(),
        });
        let at = loadings.len() - 1;
        self.await_page(at, PageInFlight { ticket, id, wanted, awaited: LoadingAwaited::Stream });
        self.effects.push_back(read);
        true
    }

    fn on_stream_read(&mut self, now: Moment, at: usize, id: u32, wanted: PageRequest, page: HistoryPage) {
        let HistoryPage { mut publications, top } = page;
        let goes_on = publications.first().map(Publication::offset) == wanted.since.offset.checked_add(1);
        if !goes_on || *top.epoch.as_str() != *wanted.since.epoch {
            self.stop_loading(at);
            return self.refuse(now, id, ErrorCode::UnrecoverablePosition);
        }
        let context = self.context.clone();
        let (count, bytes) = fitting(&publications, context.settings.reply_bytes_max as usize);
        publications.truncate(count);
        let last = publications.last().map_or(wanted.since.offset, Publication::offset);
        let Some(loading) = self.loading_mut(at) else { return };
        if let Some(filter) = &loading.entry.recovery.filter {
            publications.retain(|publication| filter.matches(&publication.tags));
        }
        let (channel, recovery) = (loading.channel.clone(), loading.entry.recovery.clone());
        let options = context.rules.options(&channel);
        let delta = options.is_some_and(|options| self.gives_patches(&channel, &recovery, options));
        let keyed =
            KeyedAnswer { kind: SubscriptionKind::Map, phase: Phase::Stream, ..KeyedAnswer::default() };
        let position = Some(StreamPosition { offset: last, ..top });
        let keyed = Some(Box::new(keyed));
        let answer = Subscribed { position, publications, delta, keyed, ..Subscribed::default() };
        self.answer(id, Answer::Subscribe(answer));
        self.sent(bytes);
    }

    /// Stores what a token grants to the loading subscription that waits for it.
    fn let_in(&mut self, now: Moment, at: usize, result: Result<Grant, Denial>) -> Result<(), Denial> {
        let grant = result?;
        if grant.user != *self.user() {
            return Err(Denial::Disconnect(Disconnect::INVALID_TOKEN));
        }
        let expires = expiry(now, grant.expires).map_err(|_| ErrorCode::Expired)?;
        if let Some(loading) = self.loading_mut(at) {
            loading.entry.overrides = grant.overrides;
            loading.entry.data = grant.data.clone().map(Payload::of_unknown);
            loading.entry.granted = granted(grant, expires).boxed();
        }
        Ok(())
    }

    /// Returns whether the subscriber will be sent patches, which apply to the payloads of the pages before.
    fn gives_patches(&self, channel: &Channel, recovery: &RecoveryRequest, options: &ChannelOptions) -> bool {
        let rights = self.rights(channel);
        SubscriptionTerms::new(
            options,
            recovery,
            crate::effect::Overrides::default(),
            rights,
            self.context.insecure,
        )
        .delta
    }

    /// Marks the client's request as in flight.
    fn await_page(&mut self, at: usize, busy: PageInFlight) {
        if let Some(loading) = self.loading_mut(at) {
            loading.step = LoadingStep::Busy(busy);
            self.joining += 1;
        }
    }

    fn fail_loading(&mut self, now: Moment, at: usize, id: u32, awaited: LoadingAwaited, refusal: Refusal) {
        if awaited == LoadingAwaited::Join
            && let Some(loading) = self.loading_mut(at)
        {
            // The hub has begun to hold publications back.
            loading.held_back = true;
        }
        self.stop_loading(at);
        self.refuse(now, id, refusal);
    }

    /// Stops holding publications back for clients that did not ask for the next page in time.
    pub(super) fn end_late_loadings(&mut self, now: Moment) {
        let Some(loadings) = &mut self.loading else { return };
        let late =
            loadings.0.iter_mut().filter(|one| matches!(one.step, LoadingStep::Idle) && one.until <= now);
        let mut left = Vec::new();
        for loading in late {
            loading.step = LoadingStep::Late;
            if std::mem::take(&mut loading.held_back) {
                left.push(loading.channel.clone());
            }
        }
        for channel in left {
            self.leave(channel, None);
        }
    }

    /// Ends a loading subscription on behalf of the client.
    pub(super) fn forget_loading(&mut self, channel: &str) {
        if let Some(at) = self.loading.as_ref().and_then(|loading| loading.find(channel)) {
            self.stop_loading(at);
        }
    }

    /// Ends a loading subscription on behalf of the server. Returns whether there was one.
    pub(super) fn end_loading(&mut self, channel: &Channel, code: UnsubscribeCode) -> bool {
        let Some(at) = self.loading.as_ref().and_then(|loading| loading.find(channel.as_str())) else {
            return false;
        };
        match self.loading_mut(at) {
            Some(loading) if loading.is_busy() => loading.ended = true,
            _ => {
                self.stop_loading(at);
                self.push(Push::to(channel, Event::Unsubscribed(code)));
            }
        }
        true
    }

    fn stop_loading(&mut self, at: usize) {
        if let Some(loading) = self.take_loading(at).filter(|loading| loading.held_back) {
            self.leave(loading.channel, None);
        }
    }

    /// Removes a loading subscription.
    fn take_loading(&mut self, at: usize) -> Option<Loading> {
        let loadings = self.loading.as_mut()?;
        let loading = (at < loadings.0.len()).then(|| loadings.0.swap_remove(at));
        if loadings.0.is_empty() {
            self.loading = None;
        }
        if loading.as_ref().is_some_and(Loading::is_busy) {
            self.joining -= 1;
        }
        loading
    }

    fn loading_mut(&mut self, at: usize) -> Option<&mut Loading> {
        self.loading.as_mut()?.0.get_mut(at)
    }
}
