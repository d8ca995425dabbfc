//! The subscribe command: allowed? joined, caught up, answered, live.

use shared::command::{Since, Subscribe, SubscriptionKind};
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::moment::Moment;
use shared::position::{Epoch, StreamPosition};
use shared::push::{Event, Push};
use shared::refusal::Refusal;
use shared::reply::{Answer, Subscribed};

use super::behind::Reader;
use super::on_connect::{expiry, remaining};
use super::state::{Granted, Joining, Stage, Subscription};
use super::{Session, Unserved};
use crate::channel_rules::ChannelOptions;
use crate::effect::{Denial, Effect, GoLive, Grant, Join, PastWanted, Terms};
use crate::history::{HistoryFilter, HistoryPage};
use crate::permission::{may_recover, may_subscribe};
use crate::recovery::is_recovered;

/// The one format of deltas that clients may ask for. None is served: they get whole publications then, which is an
/// answer that the protocol allows.
const DELTA_FOSSIL: &str = "fossil";

impl Session {
    pub(super) fn on_subscribe(&mut self, now: Moment, id: u32, request: Subscribe) {
        let Some(channel) = self.channel(now, id, &request.channel) else { return };
        if !request.delta.is_empty() && *request.delta != *DELTA_FOSSIL {
            return self.close(Disconnect::BAD_REQUEST.because("the delta is of no known kind"));
        }
        if request.filter.is_some() {
            // Without its filter the client would get what it asked not to get.
            return self.refuse(now, id, ErrorCode::BadRequest);
        }
        if request.kind != SubscriptionKind::Stream {
            return self.refuse(now, id, ErrorCode::NotAvailable);
        }
        let Err(at) = self.find(channel.as_str()) else {
            return self.refuse(now, id, ErrorCode::AlreadySubscribed);
        };
        let context = self.context.clone();
        if self.subscriptions.len() >= context.settings.channels_max as usize {
            return self.refuse(now, id, ErrorCode::LimitExceeded);
        }
        let Some(options) = context.rules.options(&channel) else {
            return self.refuse(now, id, ErrorCode::UnknownChannel);
        };
        let has_token = !request.token.is_empty();
        if !has_token
            && !context.insecure
            && !may_subscribe(&context.rules, options, &channel, self.user(), self.client)
        {
            return self.refuse(now, id, ErrorCode::PermissionDenied);
        }

        let ticket = self.ticket();
        let streamed = options.retention().keeps_history();
        let may_recover = streamed && (context.insecure || may_recover(options));
        let recoverable = may_recover && (options.force_recovery || request.recoverable || request.recover);
        if request.join_leave {
            context.observer.unserved(Unserved::JoinLeave);
        }
        let joining = Box::new(Joining {
            ticket,
            id,
            since: request.recover.then_some(Since { offset: request.offset, epoch: request.epoch }),
            reject_unrecovered: request.reject_unrecovered,
            may_recover,
            recoverable,
            positioned: recoverable || streamed && (options.force_positioning || request.positioned),
            granted: None,
            ended: None,
        });
        self.joining += 1;
        if has_token {
            let stage = Stage::Authorizing(joining);
            self.effects.push_back(Effect::Authorize {
                ticket,
                channel: channel.clone(),
                token: request.token,
            });
            self.insert(at, Subscription { channel, stage });
        } else {
            self.insert(at, Subscription { channel, stage: Stage::Joining(joining) });
            self.join(at, options);
        }
    }

    pub(super) fn on_authorized(&mut self, now: Moment, at: usize, result: Result<Grant, Denial>) {
        let grant = match result {
            Ok(grant) => grant,
            Err(Denial::Error(error)) => return self.fail_joining(now, at, error),
            Err(Denial::Disconnect(disconnect)) => return self.close(disconnect),
        };
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
        let ticket = self.ticket();
        let subscription = &mut self.subscriptions[at];
        let Stage::Authorizing(mut joining) = std::mem::replace(&mut subscription.stage, Stage::Live(None))
        else {
            return;
        };
        joining.ticket = ticket;
        joining.granted = granted(grant.info, expires);
        subscription.stage = Stage::Joining(joining);
        self.join(at, options);
    }

    pub(super) fn on_joined(
        &mut self,
        now: Moment,
        at: usize,
        result: Result<Option<HistoryPage>, ErrorCode>,
    ) {
        let page = match result {
            Ok(page) => page,
            Err(error) => return self.fail_joining(now, at, error),
        };
        let Some(joining) = self.subscriptions[at].joining() else { return };
        let position = page.as_ref().map(|page| page.top);
        let was_recovering = joining.since.is_some();
        let recovered = match (&joining.since, &page) {
            (Some(since), Some(page)) => joining.may_recover && is_recovered(since, page),
            _ => false,
        };
        if was_recovering {
            self.context.observer.recovery(recovered);
        }
        if was_recovering && !recovered && joining.reject_unrecovered {
            return self.fail_joining(now, at, ErrorCode::UnrecoverablePosition);
        }

        let stage = std::mem::replace(&mut self.subscriptions[at].stage, Stage::Live(None));
        let Stage::Joining(joining) = stage else { return };
        self.joining -= 1;
        let Joining { id, since, recoverable, positioned, granted, ended, .. } = *joining;
        let expires = granted.as_ref().and_then(|granted| granted.expires);
        self.subscriptions[at].stage = Stage::Live(granted);
        // A client that is given what it missed counts on from where it stood.
        let reads_on = since.filter(|_| recovered).map(|since| since.offset);
        let mut publications = page.filter(|_| recovered).map(|page| page.publications).unwrap_or_default();
        let (bytes, rest) = self.leave_for_later(&mut publications);
        let subscribed = Subscribed {
            expires: expires.map(|expires| remaining(now, expires)),
            recoverable,
            positioned,
            position: position.map(|top| StreamPosition { offset: reads_on.unwrap_or(top.offset), ..top }),
            publications,
            recovered,
            was_recovering,
            ..Subscribed::default()
        };
        self.answer(id, Answer::Subscribe(subscribed));
        let channel = self.subscriptions[at].channel.clone();
        if let Some(code) = ended {
            self.remove(at);
            self.leave(channel.clone());
            return self.push(Push::to(&channel, Event::Unsubscribed(code)));
        }
        match rest.zip(position) {
            Some((rest, top)) => {
                let position = StreamPosition { offset: rest.before, ..top };
                let terms = Terms { positioned, ..Terms::default() };
                self.read_on(Reader::new(channel, position, terms, rest.limit));
            }
            None => {
                let terms = Terms { positioned, ..Terms::default() };
                let go_live = GoLive { channel, position, has_last: false, terms, may_read_on: true };
                self.after_replies(Effect::GoLive(go_live));
            }
        }
        self.sent(bytes);
        if expires.is_some() {
            self.reckon_expiry();
        }
    }

    /// The subscription does not come about.
    pub(super) fn fail_joining(&mut self, now: Moment, at: usize, error: impl Into<Refusal>) {
        let Subscription { channel, stage } = self.remove(at);
        match stage {
            Stage::Authorizing(joining) => self.refuse(now, joining.id, error),
            Stage::Joining(joining) => {
                self.leave(channel);
                self.refuse(now, joining.id, error);
            }
            Stage::Live(_) => {}
        }
    }

    fn join(&mut self, at: usize, options: &ChannelOptions) {
        let subscription = &self.subscriptions[at];
        let Some(joining) = subscription.joining() else { return };
        let retention = options.retention();
        let past =
            retention.keeps_history().then(|| match joining.since.as_ref().filter(|_| joining.may_recover) {
                Some(since) => PastWanted {
                    part: false,
                    filter: HistoryFilter {
                        since: Some(since.offset),
                        limit: self.context.settings.recovery_limit_max,
                        reverse: false,
                        enough_bytes: None,
                    },
                    epoch: Epoch::parse(&since.epoch),
                },
                None => {
                    PastWanted { filter: HistoryFilter::default(), epoch: Some(Epoch::EMPTY), part: false }
                }
            });
        let channel_info = joining.granted.as_ref().and_then(|granted| granted.info.clone());
        let join = Join {
            ticket: joining.ticket,
            channel: subscription.channel.clone(),
            terms: Terms { positioned: joining.positioned, ..Terms::default() },
            retention,
            past,
            presence: options.presence.then(|| self.info(channel_info)),
        };
        self.effects.push_back(Effect::Join(join));
    }

    fn insert(&mut self, at: usize, subscription: Subscription) {
        // Most clients stay with the few channels that they begin with.
        self.subscriptions.reserve_exact(1);
        self.subscriptions.insert(at, subscription);
    }
}

/// What a token gave, if it gave anything worth remembering.
pub(super) fn granted(info: Option<bytes::Bytes>, expires: Option<Moment>) -> Option<Box<Granted>> {
    (info.is_some() || expires.is_some()).then(|| Box::new(Granted { info, expires }))
}
