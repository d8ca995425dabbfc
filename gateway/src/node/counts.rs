//! Counts the subscribers of channels over all nodes, for subscribers whose protocol carries that number.
//!
//! A subscriber that comes or goes only marks the channel as changed. Once a second the nodes are asked for the counts of
//! all channels marked since, and each count is published once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use rustc_hash::FxHashSet;
use shared::channel::Channel;
use shared::push::OwnedEvent;
use tokio::sync::Notify;

use crate::node::Node;
use crate::node::interest::SHARDS;
use crate::node::node_message::PAGE_MAX;
use crate::telemetry::LogLimiter;
use crate::telemetry::labels::Drop;

/// How long a change waits, so that several are counted together.
const WINDOW: Duration = Duration::from_secs(1);
/// The most channels that wait to be counted. Further ones are dropped and counted in a metric.
const CHANGED_MAX: usize = 65_536;
/// The most counts handed to the broker at once.
const TOGETHER: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct ChangedCounts {
    changed: Mutex<FxHashSet<Channel>>,
    wake: Notify,
    /// Whether any channel of this node has ever been counted.
    counting: AtomicBool,
    counted_first: Notify,
    failed_log: LogLimiter,
}

impl Node {
    /// Marks a channel because a subscriber has come or gone.
    pub(crate) fn count_changed(&self, channel: &Channel) {
        if !self.counts.counting.swap(true, Ordering::Relaxed) {
            self.counts.counted_first.notify_one();
        }
        let mut changed = self.counts.changed.lock();
        if changed.len() >= CHANGED_MAX && !changed.contains(channel) {
            return self.metrics.dropped(Drop::AnnouncementsFull, 1);
        }
        changed.insert(channel.clone());
        self.counts.wake.notify_one();
    }

    /// Whether the subscribers of this channel are told their number.
    fn counts_subscribers(&self, channel: &Channel) -> bool {
        let app = self.apps.as_ref().and_then(|apps| apps.of_channel(channel.as_str()));
        app.is_some_and(|app| app.counts(channel.as_str()))
    }

    async fn push_counts(&self, channels: Vec<Channel>) {
        let counted = match self.count_everywhere(&channels).await {
            Ok(counted) => counted,
            Err(error) => {
                if let Some(suppressed) = self.counts.failed_log.admit() {
                    tracing::warn!(%error, suppressed, "subscribers could not be counted; trying again");
                }
                return channels.iter().for_each(|channel| self.count_changed(channel));
            }
        };
        for batch in channels.chunks(TOGETHER) {
            let counts = batch.iter().map(|channel| {
                let count = counted.get(channel.as_str()).copied().unwrap_or(0);
                let subscribers = u32::try_from(count).unwrap_or(u32::MAX);
                if let Some(webhooks) = &self.webhooks {
                    webhooks.counted(channel.as_str(), subscribers);
                }
                self.broker.publish_event(channel.clone(), OwnedEvent::Counted { subscribers })
            });
            for (channel, counts) in batch.iter().zip(join_all(counts).await) {
                let Err(error) = counts else { continue };
                self.note_unpublished(channel, &error);
            }
        }
    }
}

/// Counts all channels again when nodes come or go: the subscribers of a node that died are reported by nobody.
pub(super) async fn keep_recounting(node: Arc<Node>) {
    if !node.counts.counting.load(Ordering::Relaxed) {
        node.counts.counted_first.notified().await;
    }
    let mut peers = node.peers.watch();
    while peers.changed().await.is_ok() {
        for shard in 0..SHARDS {
            let mut here = Vec::new();
            node.interest.for_each_of(shard, |local| {
                if local.workers != 0 {
                    here.push(local.channel.clone());
                }
            });
            here.iter().filter(|channel| node.counts_subscribers(channel)).for_each(|channel| {
                node.count_changed(channel);
            });
        }
    }
}

/// Counts the channels that have changed, once per [`WINDOW`].
pub(super) async fn keep_counting(node: Arc<Node>) {
    loop {
        node.counts.wake.notified().await;
        tokio::time::sleep(WINDOW).await;
        let changed: Vec<Channel> = node.counts.changed.lock().drain().collect();
        for page in changed.chunks(PAGE_MAX as usize) {
            node.push_counts(page.to_vec()).await;
        }
    }
}
