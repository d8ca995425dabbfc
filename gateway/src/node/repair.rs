//! Repairs gaps from history, once for each channel and node, before subscribers notice.
//!
//! A gap shows when the next publication arrives. In a quiet channel nothing arrives, so positions are compared with the
//! broker's at intervals, and all of them after anything may have been missed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use gateway_core::feed::{Feed, FeedDelivery, GapCheck, GapState, RepairOutcome};
use gateway_core::history::{HistoryFilter, Retention};
use shared::channel::Channel;
use shared::moment::Moment;
use shared::position::{Epoch, StreamPosition};
use tokio::sync::{Notify, Semaphore};
use tokio::time::MissedTickBehavior;
use tracing::Span;

use crate::node::Node;
use crate::node::interest::{LocalChannel, SHARDS};
use crate::node::per_part::by_part;
use crate::telemetry::Reminder;

/// How often a quiet channel's position is compared, as long as there are not too many of them.
const QUIET: Duration = Duration::from_secs(30);
/// The most quiet channels compared per second, those compared longest ago first. 75,000 channels can be compared every
/// [`QUIET`]; a million take seven minutes.
const LOOKS_PER_S_MAX: usize = 2_500;
/// The time in which the channels of all shards are visited once.
const ROUND: Duration = Duration::from_secs(10);
/// A publication in flight arrives within this time, or not at all.
const SECOND_LOOK: Duration = Duration::from_secs(2);
/// The most channels in one call to the broker.
const BATCH: usize = 1_000;
/// The most publications in one read of history.
const PAGE: u32 = 1_000;
/// The bytes after which one read ends, because many gaps may be repaired at once.
const PAGE_BYTES: u32 = 1 << 20;
/// The pause after the broker failed to answer.
const RETRY: Duration = Duration::from_millis(500);

/// The most gaps repaired at the same time in one part of the broker. Publications of channels whose gap waits are held
/// meanwhile.
const REPAIRS_MAX: usize = 256;

/// The repairs in one part of the broker.
#[derive(Debug)]
pub(super) struct Repairs {
    /// One permit for each gap being repaired: after a long outage every channel may have one.
    permits: Semaphore,
    /// Wakes the task that compares all channels, because publications may have been missed in any of them.
    pub(super) compare_all: Notify,
}

impl Default for Repairs {
    fn default() -> Self {
        Self { permits: Semaphore::new(REPAIRS_MAX), compare_all: Notify::new() }
    }
}

/// A channel whose position is to be compared with the broker's.
#[derive(Debug)]
struct CheckedChannel {
    channel: Channel,
    retention: Retention,
    /// The feed's position before the broker was asked.
    before: Option<StreamPosition>,
}

/// Reads the publications after `since` and hands them out, until nothing is missing or nothing more can be read.
pub(super) async fn repair(node: Arc<Node>, channel: Channel, retention: Retention, mut since: u64) {
    // The semaphore lives as long as the node and is never closed.
    let _permit = node.repairs.of(node.broker.part_of(&channel)).permits.acquire().await;
    loop {
        let filter =
            HistoryFilter { since: Some(since), limit: PAGE, reverse: false, enough_bytes: Some(PAGE_BYTES) };
        node.note_history_read(&channel);
        let page = node.broker.history(channel.clone(), filter, retention).await;
        let mut failed = page.is_err();
        let repaired = node.go_on(&channel, |feed| match page {
            Ok(page) => feed.repair(page),
            Err(error) => {
                if let Some(suppressed) = node.unmended_log.admit() {
                    tracing::warn!(%error, %channel, suppressed, "a gap could not be repaired yet");
                }
                feed.repair_failed()
            }
        });
        let Some(mut repaired) = repaired else { return };
        if let Some(epoch) = repaired.leave.filter(|_| !failed) {
            let left = node.broker.leave_epoch(channel.clone(), epoch).await;
            failed = left.is_err();
            let then = node.go_on(&channel, |feed| match left {
                Ok(top) => {
                    if let Some(suppressed) = node.went_back_log.admit() {
                        tracing::warn!(
                            %channel, suppressed,
                            "the broker assigns offsets again that it assigned before: its data went back, \
                             and the channel begins a new epoch"
                        );
                    }
                    feed.left(top)
                }
                Err(error) => {
                    if let Some(suppressed) = node.unmended_log.admit() {
                        tracing::warn!(
                            %error, %channel, suppressed,
                            "the broker's data went back, and the channel cannot begin a new epoch yet"
                        );
                    }
                    feed.repair_failed()
                }
            });
            let Some(then) = then else { return };
            repaired = RepairRemainder { lost: repaired.lost || then.lost, ..then };
        }
        match repaired.again {
            Some(next) => since = next,
            None => {
                if !repaired.lost && !failed {
                    node.metrics.repairs_total.inc();
                }
                return;
            }
        }
        if failed {
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// What remains to be done after one step of a repair.
struct RepairRemainder {
    again: Option<u64>,
    leave: Option<Epoch>,
    lost: bool,
}

impl Node {
    /// Applies a step to the channel's feed and hands out the resulting deliveries. `None` if the channel has no subscribers
    /// here any more.
    fn go_on(
        &self,
        channel: &Channel,
        step: impl FnOnce(&mut Feed) -> RepairOutcome,
    ) -> Option<RepairRemainder> {
        let mut shard = self.interest.shard(channel.as_str());
        let local = shard.get_mut(channel.as_str())?;
        let RepairOutcome { deliveries, again, leave } = step(&mut local.feed);
        let lost = deliveries.iter().any(|delivery| matches!(delivery, FeedDelivery::Lost(_)));
        for mut delivery in deliveries {
            // The arrival of publications held behind the gap was recorded when they came.
            let _span = match &mut delivery {
                FeedDelivery::Publication(publication)
                    if publication.stamp.as_ref().is_some_and(|stamp| stamp.arrived_micros == 0) =>
                {
                    self.note_arrival(channel.as_str(), publication)
                }
                _ => Span::none(),
            }
            .entered();
            self.hand_out(local, delivery);
        }
        Some(RepairRemainder { again, leave, lost })
    }
}

/// Compares all channels of a part of the broker whenever publications may have been missed.
pub(super) async fn compare_all(node: Arc<Node>, part: usize) {
    loop {
        node.repairs.of(part).compare_all.notified().await;
        let is_there = |local: &LocalChannel| node.broker.part_of(&local.channel) == part;
        let all = (0..SHARDS).flat_map(|shard| node.followed(shard, is_there));
        let all = all.map(|(_, looked)| looked).collect();
        node.look_at(all, GapCheck::AfterLoss).await;
    }
}

/// Compares quiet channels, in case they are quiet because publications were lost.
pub(super) async fn check_positions(node: Arc<Node>) {
    let mut turn = tokio::time::interval(ROUND / SHARDS as u32);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shards = (0..SHARDS).cycle();
    let mut suspicious: VecDeque<(Moment, CheckedChannel)> = VecDeque::new();
    loop {
        turn.tick().await;
        let quiet = node.quiet(shards.next().unwrap_or_default());
        let due = node.clock.now() + SECOND_LOOK;
        suspicious.extend(node.look_at_each(quiet).await.into_iter().map(|looked| (due, looked)));
        let now = node.clock.now();
        let again = suspicious.iter().take_while(|(due, _)| *due <= now).count();
        let again = suspicious.drain(..again).map(|(_, looked)| node.looked_at_again(looked)).collect();
        node.look_at_each(again).await;
    }
}

impl CheckedChannel {
    fn new(local: &LocalChannel) -> Self {
        Self { channel: local.channel.clone(), retention: local.retention(), before: local.feed.position() }
    }
}

impl Node {
    /// Returns the channels of a shard that have been quiet for long enough, those compared longest ago first.
    fn quiet(&self, shard: usize) -> Vec<CheckedChannel> {
        let now = self.clock.now();
        self.interest.for_each_of(shard, |local| {
            if let Some(aside) = local.aside() {
                aside.catch_up.forget_old(now);
                self.interest.weigh(local);
            }
        });
        let mut quiet = self.followed(shard, |local| now.since(local.checked) >= QUIET);
        let most = LOOKS_PER_S_MAX * ROUND.as_secs() as usize / SHARDS;
        if quiet.len() > most {
            quiet.select_nth_unstable_by_key(most, |(checked, _)| *checked);
            quiet.truncate(most);
        }
        quiet.into_iter().map(|(_, looked)| looked).collect()
    }

    /// Returns the channels of a shard whose publications have offsets and subscribers, each with the time of its last
    /// check.
    fn followed(
        &self,
        shard: usize,
        wanted: impl Fn(&LocalChannel) -> bool,
    ) -> Vec<(Moment, CheckedChannel)> {
        let mut followed = Vec::new();
        self.interest.for_each_of(shard, |local| {
            if local.is_followed() && wanted(local) {
                followed.push((local.checked, CheckedChannel::new(local)));
            }
        });
        followed
    }

    /// Compares one channel's position at once.
    pub(super) fn compare(self: &Arc<Self>, channel: &Channel) {
        let shard = self.interest.shard(channel.as_str());
        let looked = shard.get(channel.as_str()).filter(|local| local.is_followed());
        if let Some(looked) = looked.map(CheckedChannel::new) {
            let node = self.clone();
            self.runtime.spawn(async move { drop(node.look_at(vec![looked], GapCheck::AfterLoss).await) });
        }
    }

    /// Compares the positions of these channels at once, because publications may have been missed.
    pub(super) fn compare_these(self: &Arc<Self>, channels: &[Channel]) {
        let looked = channels.iter().filter_map(|channel| {
            let shard = self.interest.shard(channel.as_str());
            shard.get(channel.as_str()).filter(|local| local.is_followed()).map(CheckedChannel::new)
        });
        let (looked, node): (Vec<CheckedChannel>, _) = (looked.collect(), self.clone());
        if !looked.is_empty() {
            self.runtime.spawn(async move { drop(node.look_at(looked, GapCheck::AfterLoss).await) });
        }
    }

    fn looked_at_again(&self, looked: CheckedChannel) -> CheckedChannel {
        let shard = self.interest.shard(looked.channel.as_str());
        let before = shard.get(looked.channel.as_str()).and_then(|local| local.feed.position());
        CheckedChannel { before, ..looked }
    }

    /// Compares positions in all parts of the broker at the same time. Returns the channels to compare once more.
    async fn look_at_each(self: &Arc<Self>, channels: Vec<CheckedChannel>) -> Vec<CheckedChannel> {
        let parts = by_part(channels, self.broker.parts(), |looked| self.broker.part_of(&looked.channel));
        let looked = join_all(parts.into_iter().map(|part| self.look_at(part, GapCheck::Routine))).await;
        looked.into_iter().flatten().collect()
    }

    /// Compares positions of channels in one part of the broker. Returns the channels to compare once more.
    async fn look_at(
        self: &Arc<Self>,
        mut channels: Vec<CheckedChannel>,
        look: GapCheck,
    ) -> Vec<CheckedChannel> {
        let mut suspicious = Vec::new();
        while !channels.is_empty() {
            let batch = channels.split_off(channels.len().saturating_sub(BATCH));
            let checked: Vec<_> =
                batch.iter().map(|looked| (looked.channel.clone(), looked.retention)).collect();
            let mut reminder = Reminder::new();
            let tops = loop {
                match self.broker.positions(checked.clone()).await {
                    Ok(tops) => break tops,
                    Err(error) if look == GapCheck::AfterLoss => {
                        if reminder.is_due(&error.to_string(), Instant::now()) {
                            tracing::warn!(%error, "positions could not be compared after a loss; trying again");
                        }
                        tokio::time::sleep(RETRY).await;
                    }
                    // Tried again in the next round.
                    Err(error) => {
                        tracing::debug!(%error, "positions could not be compared");
                        return suspicious;
                    }
                }
            };
            for (looked, top) in batch.into_iter().zip(tops) {
                let mut shard = self.interest.shard(looked.channel.as_str());
                let Some(local) = shard.get_mut(looked.channel.as_str()) else { continue };
                local.checked = self.clock.now();
                match local.feed.check(looked.before, top, look) {
                    GapState::Fine => {}
                    GapState::Suspicious => suspicious.push(looked),
                    GapState::Missing { since } => {
                        self.metrics.gaps_total.inc();
                        self.repair(local, since);
                    }
                    GapState::Lost(position) => {
                        self.metrics.gaps_total.inc();
                        self.hand_out(local, FeedDelivery::Lost(position));
                    }
                }
            }
        }
        suspicious
    }
}
