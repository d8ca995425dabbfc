//! Mending gaps: once for a channel and node, from history, before subscribers notice.
//!
//! A gap shows itself when the next publication comes. In a channel that stays quiet it does not, so positions are
//! compared with the broker's now and then, and all of them after the broker's link was lost.

use std::sync::Arc;
use std::time::Duration;

use gateway_core::feed::{Check, Delivery, Look};
use gateway_core::history::{HistoryFilter, Retention};
use shared::channel::Channel;

use crate::node::Node;
use crate::node::interest::Link;

/// How often quiet channels are looked for.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// How long a channel must have been quiet to be checked.
const QUIET: Duration = Duration::from_secs(30);
/// What is on its way has come after this, or will not come.
const SECOND_LOOK: Duration = Duration::from_secs(2);
/// The most channels of one call to the broker.
const BATCH: usize = 1_000;
/// The most publications of one read of history.
const PAGE: u32 = 1_000;
/// How long to wait after the broker could not answer.
const RETRY: Duration = Duration::from_millis(500);

/// Reads what is missing after `since` and hands it out, until nothing is missing or nothing more can be had.
pub(super) async fn mend(node: Arc<Node>, channel: Channel, retention: Retention, mut since: u64) {
    // Never closed: the node would have to be gone.
    let _permit = node.mending.acquire().await;
    loop {
        let filter = HistoryFilter { since: Some(since), limit: PAGE, reverse: false };
        let page = node.broker.history(channel.clone(), filter, retention).await;
        let failed = page.is_err();
        let again = {
            let mut shard = node.interest.shard(channel.as_str());
            let Some(local) = shard.get_mut(channel.as_str()) else { return };
            let mended = match page {
                Ok(page) => local.feed.mend(page),
                Err(error) => {
                    tracing::warn!(%error, %channel, "a gap could not be mended yet");
                    local.feed.mend_failed()
                }
            };
            let lost = mended.deliveries.iter().any(|delivery| matches!(delivery, Delivery::Lost(_)));
            for delivery in mended.deliveries {
                node.hand_out(local, delivery);
            }
            if mended.again.is_none() && !lost && !failed {
                node.metrics.repairs_total.inc();
            }
            mended.again
        };
        match again {
            Some(next) => since = next,
            None => return,
        }
        if failed {
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Looks again and again for channels that are quiet because something was lost.
pub(super) async fn check_positions(node: Arc<Node>) {
    let mut interval = tokio::time::interval(CHECK_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let suspicious = check(&node, |quiet| quiet >= QUIET, Look::Routine).await;
        if !suspicious.is_empty() {
            tokio::time::sleep(SECOND_LOOK).await;
            check_channels(&node, suspicious, Look::Routine).await;
        }
    }
}

/// Compares every channel, because the link over which publications come was down.
pub(super) async fn check_after_loss(node: Arc<Node>) {
    check(&node, |_| true, Look::AfterLoss).await;
}

/// Checks the channels that have been quiet for long enough. Answers those to look at once more.
async fn check(
    node: &Arc<Node>,
    quiet_enough: impl Fn(Duration) -> bool,
    look: Look,
) -> Vec<(Channel, Retention)> {
    let now = node.clock.now();
    let mut channels = Vec::new();
    node.interest.for_each(|channel, local| {
        local.catch_up.forget_old(now);
        node.interest.weigh(local);
        let follows = local.workers != 0 && local.retention.keeps_history() && local.link == Link::Up;
        if follows && quiet_enough(now.since(local.checked)) {
            channels.push((channel.clone(), local.retention));
        }
    });
    check_channels(node, channels, look).await
}

async fn check_channels(
    node: &Arc<Node>,
    channels: Vec<(Channel, Retention)>,
    look: Look,
) -> Vec<(Channel, Retention)> {
    let mut suspicious = Vec::new();
    for batch in channels.chunks(BATCH) {
        let tops = loop {
            match node.broker.positions(batch.to_vec()).await {
                Ok(tops) => break tops,
                Err(error) if look == Look::AfterLoss => {
                    tracing::warn!(%error, "positions could not be compared after a lost link; trying again");
                    tokio::time::sleep(RETRY).await;
                }
                // The next round comes.
                Err(error) => {
                    tracing::debug!(%error, "positions could not be compared");
                    return suspicious;
                }
            }
        };
        for ((channel, retention), top) in batch.iter().zip(tops) {
            let mut shard = node.interest.shard(channel.as_str());
            let Some(local) = shard.get_mut(channel.as_str()) else { continue };
            local.checked = node.clock.now();
            match local.feed.check(top, look) {
                Check::Fine => {}
                Check::Suspicious => suspicious.push((channel.clone(), *retention)),
                Check::Missing { since } => {
                    node.metrics.gaps_total.inc();
                    node.runtime.spawn(mend(node.clone(), channel.clone(), *retention, since));
                }
                Check::Lost(position) => {
                    node.metrics.gaps_total.inc();
                    node.hand_out(local, Delivery::Lost(position));
                }
            }
        }
    }
    suspicious
}
