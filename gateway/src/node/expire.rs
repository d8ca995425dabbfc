//! Expires keys where the broker removes them only when someone reads their channel: this node reads the channels it has
//! subscribers of, so that these are told. The reads also show when a channel was cleared.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use gateway_core::map::{MapRetention, StateFilter};
use shared::channel::Channel;
use shared::position::StreamPosition;
use tokio::time::{MissedTickBehavior, interval};

use crate::node::Node;
use crate::node::interest::{ChannelLink, SHARDS};
use crate::node::per_part::by_part;

/// How often each channel is read, as long as there are not too many.
const ROUND: Duration = Duration::from_secs(1);
/// The most channels read at once.
const TOGETHER: usize = 64;

pub(super) async fn keep_expiring(node: Arc<Node>) {
    if node.broker.takes_out_expired() {
        return;
    }
    let mut round = interval(ROUND);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        round.tick().await;
        for shard in 0..SHARDS {
            let channels = node.with_keys_that_expire(shard);
            let parts = by_part(channels, node.broker.parts(), |(channel, _)| node.broker.part_of(channel));
            join_all(parts.into_iter().map(|channels| node.take_out_expired(channels))).await;
        }
    }
}

impl Node {
    /// Expires the keys of channels in one part of the broker.
    async fn take_out_expired(self: &Arc<Self>, channels: Vec<(Channel, MapRetention)>) {
        for batch in channels.chunks(TOGETHER) {
            let reads = batch.iter().map(|(channel, keeping)| {
                // Only the position is read; no keys are transferred.
                self.broker.read_state(channel.clone(), StateFilter::default(), *keeping)
            });
            for ((channel, _), page) in batch.iter().zip(join_all(reads).await) {
                match page {
                    Ok(page) => self.find_cleared(channel, page.top),
                    // Tried again in the next round.
                    Err(error) => tracing::debug!(%error, "keys whose time is over could not be taken out"),
                }
            }
        }
    }

    /// Compares the channel's position with the one handed out. In another epoch, the state that subscribers have is
    /// obsolete.
    fn find_cleared(self: &Arc<Self>, channel: &Channel, top: Option<StreamPosition>) {
        let shard = self.interest.shard(channel.as_str());
        let known = shard.get(channel.as_str()).and_then(|local| local.feed.position());
        drop(shard);
        if known.zip(top).is_some_and(|(known, top)| known.epoch != top.epoch) {
            self.compare(channel);
        }
    }

    /// Returns the channels of a shard that have subscribers here and keys that expire.
    fn with_keys_that_expire(&self, shard: usize) -> Vec<(Channel, MapRetention)> {
        let rules = self.rules();
        let mut found = Vec::new();
        self.interest.for_each_of(shard, |local| {
            let channel = &local.channel;
            let options = rules.options(channel).filter(|options| options.keeps_keys());
            let keeping = options.map(|options| options.map.keeping());
            let expires = keeping.filter(|keeping| keeping.key_ttl.is_some());
            if let Some(keeping) = expires.filter(|_| local.workers != 0 && local.link == ChannelLink::Up) {
                found.push((channel.clone(), keeping));
            }
        });
        found
    }
}
