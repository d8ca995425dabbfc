//! What a subscriber asks for, and the terms it is given.

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

/// The only delta format that clients may ask for.
const DELTA_FOSSIL: &str = "fossil";

#[derive(Clone, Debug, Default)]
pub(super) struct RecoveryRequest {
    /// The position from which the client asks to recover.
    pub(super) since: Option<Since>,
    /// The same, as the id of an update.
    pub(super) after: Option<ResumeAfter>,
    /// The topics whose updates the client asks for, in a channel of many topics.
    pub(super) topics: Box<[Selector]>,
    pub(super) reject_unrecovered: bool,
    pub(super) recoverable: bool,
    pub(super) positioned: bool,
    pub(super) joins: bool,
    pub(super) delta: bool,
    pub(super) filter: Option<Arc<TagFilter>>,
    /// Whether the client asks which users are in the channel.
    pub(super) members: bool,
    /// The terms of a client that is sent the newest value of each key.
    pub(super) latest: Option<NewestTerms>,
    /// Whether the client has chosen between the newest values and all publications, and so may change that.
    pub(super) chooses: bool,
}

impl RecoveryRequest {
    /// Returns what a subscribe command asks for in a channel with these options.
    pub(super) fn of(request: Subscribe, options: &ChannelOptions) -> Result<Self, Denial> {
        if !request.delta.is_empty() && *request.delta != *DELTA_FOSSIL {
            return Err(Denial::Disconnect(Disconnect::BAD_REQUEST.because("the delta format is unknown")));
        }
        if request.kind != options.subscription_type.kind() {
            return Err(ErrorCode::PermissionDenied.into());
        }
        // Ignoring the filter would send the client publications that it asked not to get.
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

/// Returns the newest-value terms of a subscriber that wants this delivery. `None` if it is sent all publications.
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
            // 0 means no bound, for the client and for the options.
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

/// The part of the retained history that a new subscriber is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum InitialHistory {
    #[default]
    Nothing,
    /// Everything since the client's position.
    Missed,
    /// The newest publication.
    Newest,
    /// Everything since an update, which has to be looked up by its id.
    After,
    /// The newest publication of each key.
    NewestOfKeys,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct SubscriptionTerms {
    pub(super) initial_history: InitialHistory,
    /// Whether the reply reports a recovery: the client asked for history, or is given it unasked.
    pub(super) was_recovering: bool,
    pub(super) recoverable: bool,
    pub(super) positioned: bool,
    pub(super) joins: bool,
    pub(super) delta: bool,
    /// Whether the other subscribers are told when the client joins and leaves.
    pub(super) announced: bool,
    pub(super) presence: bool,
    pub(super) latest: Option<NewestTerms>,
    /// Whether the client is sent the newest values, or may be. It may then lack values of keys other than those it was
    /// sent last, so that no position says what it has.
    pub(super) floats: bool,
}

impl SubscriptionTerms {
    /// Returns the terms of a server-side subscription to a map. It is not given the state: it gets changes as they
    /// come, without recovery.
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

    /// Returns the terms by which the hub delivers to the subscriber.
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

    /// Determines the terms of a subscription. `rights` are those the client has beside the channel's options. With
    /// `insecure` the client has all rights.
    pub(super) fn new(
        options: &ChannelOptions,
        recovery: &RecoveryRequest,
        overrides: Overrides,
        rights: Rights,
        insecure: bool,
    ) -> Self {
        let streamed = options.retention().keeps_history();
        // A map is worthless to a client that misses a change of a key.
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
        // A client that missed a value is sent the newest values again.
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
            // A client that is not sent every publication does not have the payload to which a patch applies. Neither
            // does one that reads a map without a stream, because pages after the first leave out keys that have
            // changed since.
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
