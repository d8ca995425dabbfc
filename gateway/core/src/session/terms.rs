//! What a subscriber asks for, and what it gets of that.

use std::sync::Arc;

use shared::command::{ResumeAfter, Since, Subscribe};
use shared::delivery::DeliveryWanted;
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;

use crate::channel_rules::{ChannelOptions, DeltaType, RecoveryMode};
use crate::effect::{DeliveryTerms, Denial, Overrides, Rights};
use crate::newest::{DeliveryMode, NewestOptions, NewestTerms};
use crate::permission::may_recover;
use crate::tag_filter::TagFilter;
use shared::topic_selector::Selector;

/// The one format of deltas that clients may ask for.
const DELTA_FOSSIL: &str = "fossil";

#[derive(Clone, Debug, Default)]
pub(super) struct RecoveryRequest {
    /// Where the client stopped reading, if it asks to recover.
    pub(super) since: Option<Since>,
    /// The same as the id of an update.
    pub(super) after: Option<ResumeAfter>,
    /// Of which topics updates are asked for, in a channel of many.
    pub(super) topics: Box<[Selector]>,
    pub(super) reject_unrecovered: bool,
    pub(super) recoverable: bool,
    pub(super) positioned: bool,
    pub(super) joins: bool,
    pub(super) delta: bool,
    pub(super) filter: Option<Arc<TagFilter>>,
    /// To be told which users are there.
    pub(super) members: bool,
    /// To be sent the newest value of each key.
    pub(super) latest: Option<NewestTerms>,
    /// It has said whether it wants the newest values or all, and may say so again.
    pub(super) chooses: bool,
}

impl RecoveryRequest {
    /// What a subscribe command asks for in a channel with these options.
    pub(super) fn of(request: Subscribe, options: &ChannelOptions) -> Result<Self, Denial> {
        if !request.delta.is_empty() && *request.delta != *DELTA_FOSSIL {
            return Err(Denial::Disconnect(Disconnect::BAD_REQUEST.because("the delta is of no known kind")));
        }
        if request.kind != options.subscription_type.kind() {
            return Err(ErrorCode::PermissionDenied.into());
        }
        // Without its filter the client would get what it asked not to get.
        let filter = match &request.filter {
            None => None,
            Some(_) if !options.allow_tags_filter => return Err(ErrorCode::BadRequest.into()),
            Some(filter) => Some(Arc::new(TagFilter::new(filter).map_err(|_| ErrorCode::BadRequest)?)),
        };
        let wanted = request.delivery().map_err(|_| ErrorCode::BadRequest)?;
        let (latest, chooses) = (latest(wanted, &options.newest)?, wanted.is_some());
        Ok(Self {
            since: request.recover.then_some(Since { offset: request.offset, epoch: request.epoch }),
            after: request.after,
            topics: request.topics,
            reject_unrecovered: request.reject_unrecovered,
            recoverable: request.recoverable,
            positioned: request.positioned,
            joins: request.join_leave,
            delta: !request.delta.is_empty(),
            filter,
            members: request.members,
            latest,
            chooses,
        })
    }
}

/// How a subscriber is served that wants this. `None`: it is sent all.
pub(super) fn latest(
    wanted: Option<DeliveryWanted>,
    options: &NewestOptions,
) -> Result<Option<NewestTerms>, ErrorCode> {
    let usual = options.latest();
    match wanted {
        None => Ok((options.delivery == DeliveryMode::Latest).then_some(usual)),
        Some(_) if !options.allow_choice => Err(ErrorCode::BadRequest),
        Some(DeliveryWanted { latest: false, .. }) => Ok(None),
        Some(DeliveryWanted { times_per_s, bytes_per_s, .. }) => {
            // 0 is no bound, on either side.
            let within = |wanted: u32, max: u32| match (wanted, max) {
                (0, max) | (max, 0) => max,
                (wanted, max) => wanted.min(max),
            };
            Ok(Some(NewestTerms {
                times_per_s: within(times_per_s.unwrap_or(usual.times_per_s), options.times_per_s_max),
                bytes_per_s: within(bytes_per_s.unwrap_or(usual.bytes_per_s), options.bytes_per_s_max),
                ..usual
            }))
        }
    }
}

/// Which part of the retained history a subscriber is given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum InitialHistory {
    #[default]
    Nothing,
    /// All since it stopped reading.
    Missed,
    /// The newest publication.
    Newest,
    /// All since an update, which has to be looked for.
    After,
    /// The newest of each key.
    NewestOfKeys,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct SubscriptionTerms {
    pub(super) initial_history: InitialHistory,
    /// Its reply says so: it asked for history, or is given it unasked.
    pub(super) was_recovering: bool,
    pub(super) recoverable: bool,
    pub(super) positioned: bool,
    pub(super) joins: bool,
    pub(super) delta: bool,
    /// The others are told when it comes and goes.
    pub(super) announced: bool,
    pub(super) presence: bool,
    pub(super) latest: Option<NewestTerms>,
    /// It is sent the newest values, or may be: values of other keys than those it was sent last may be missing behind them,
    /// so that no position says what it has.
    pub(super) floats: bool,
}

impl SubscriptionTerms {
    /// For one that the server subscribes to a channel of keys, and that is not given its state: it is told of changes as
    /// they come, and follows nothing.
    pub(super) fn changes_alone(self) -> Self {
        let initial_history = InitialHistory::Nothing;
        Self {
            initial_history,
            was_recovering: false,
            recoverable: false,
            positioned: false,
            delta: false,
            ..self
        }
    }

    /// How it follows the channel.
    pub(super) fn terms(self, filter: Option<Arc<TagFilter>>) -> DeliveryTerms {
        DeliveryTerms {
            positioned: self.positioned,
            joins_and_leaves: self.joins,
            patches: self.delta,
            filter,
            members_known: 0,
            latest: self.latest,
        }
    }

    /// `rights`: what the client may do in the channel beside what its options allow. `insecure`: everything that these
    /// make possible.
    pub(super) fn new(
        options: &ChannelOptions,
        recovery: &RecoveryRequest,
        overrides: Overrides,
        rights: Rights,
        insecure: bool,
    ) -> Self {
        let streamed = options.retention().keeps_history();
        // Keys are worth nothing to whoever misses a change of one.
        let keyed = options.keeps_keys();
        let force_recovery = overrides.force_recovery.unwrap_or(options.force_recovery);
        let force_positioning = overrides.force_positioning.unwrap_or(options.force_positioning);
        let floats = recovery.latest.is_some() || recovery.chooses;
        let may_recover = streamed
            && !floats
            && (insecure || keyed || force_recovery || may_recover(options) || rights.history);
        let recoverable =
            may_recover && (keyed || force_recovery || recovery.recoverable || recovery.since.is_some());
        let seeks = recovery.after.is_some();
        let may_position = may_recover || options.allow_positioning;
        // Whoever misses something has the newest values given anew.
        let has_snapshot = options.newest.snapshot && recovery.after.is_none();
        let positioned = recoverable
            || keyed
            || floats && has_snapshot
            || streamed && (force_positioning || recovery.positioned && may_position);
        let cached = options.force_recovery_mode == RecoveryMode::Cache && !keyed;
        let was_recovering =
            recovery.since.is_some() || seeks || recoverable && cached && options.auto_cache_recover;
        Self {
            initial_history: match (was_recovering && may_recover, cached) {
                _ if has_snapshot && (floats || recovery.since.is_none()) => InitialHistory::NewestOfKeys,
                (false, _) => InitialHistory::Nothing,
                (true, _) if seeks => InitialHistory::After,
                (true, false) => InitialHistory::Missed,
                (true, true) => InitialHistory::Newest,
            },
            was_recovering,
            recoverable,
            positioned,
            joins: overrides.force_push_join_leave.unwrap_or(options.force_push_join_leave)
                || recovery.joins && (insecure || options.allow_join_leave || rights.presence),
            // Whoever has some left out, or may miss some, has not the payload that a patch is of; nor has who reads a
            // state whose changes are not kept: what has changed since the first page is left out of the others.
            delta: positioned
                && !floats
                && (recoverable || !keyed)
                && recovery.delta
                && recovery.filter.is_none()
                && options.allowed_delta_types.contains(&DeltaType::Fossil),
            announced: overrides.join_leave.unwrap_or(options.join_leave),
            presence: overrides.presence.unwrap_or(options.presence),
            latest: recovery.latest,
            floats,
        }
    }
}
