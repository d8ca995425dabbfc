//! The members of channels, by user: kept on each node that has subscribers who are told of members.
//!
//! Joins and leaves carry the changes. Those of a node that died are never sent, and some are lost with a link, so presence
//! is read again after nodes have come or gone, after the broker was out of reach, and at intervals in any case.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use gateway_core::effect::ChannelMembers;
use gateway_core::roster::TRUSTED;
use shared::channel::Channel;
use shared::id::ClientId;
use shared::moment::Moment;
use shared::publication::ClientInfo;
use shared::push::OwnedEvent;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};

use crate::broker::BrokerError;
use crate::node::Node;
use crate::node::interest::{ChannelLink, LocalChannel, SHARDS};

/// How often the task checks whether presence has to be read.
const ROUND: Duration = Duration::from_secs(1);
/// How often presence is read while clients of a node that is gone may still be in it.
const SETTLING_INTERVAL: Duration = Duration::from_secs(2);
/// How often presence is read in any case.
const QUIET: Duration = Duration::from_secs(60);
/// The most channels whose presence is read at once.
const TOGETHER: usize = 64;

/// Wakes the task that reads presence again.
#[derive(Debug, Default)]
pub(super) struct MembersMissed {
    missed: Notify,
    /// The parts of the broker to read. Bit N: part N.
    parts: AtomicU64,
    /// Whether the members of any channel have ever been asked for.
    wanted: AtomicBool,
}

impl MembersMissed {
    pub(super) fn note(&self, part: usize) {
        if self.wanted.load(Ordering::Relaxed) {
            self.parts.fetch_or(bit(part), Ordering::Relaxed);
            self.missed.notify_one();
        }
    }

    fn want(&self) {
        if !self.wanted.swap(true, Ordering::Relaxed) {
            self.parts.store(u64::MAX, Ordering::Relaxed);
            self.missed.notify_one();
        }
    }
}

fn bit(part: usize) -> u64 {
    1_u64.checked_shl(part as u32).unwrap_or(u64::MAX)
}

impl Node {
    /// Returns the members of a channel. This node keeps them from now on, for as long as it has subscribers of the channel.
    pub(crate) async fn members(&self, channel: &Channel) -> Result<ChannelMembers, BrokerError> {
        self.members_missed.want();
        let known = {
            let mut shard = self.interest.shard(channel.as_str());
            let Some(local) = shard.get_mut(channel.as_str()) else { return Ok(ChannelMembers::default()) };
            let roster = self.interest.aside(local).roster.get_or_insert_default();
            roster.is_complete().then(|| roster.members())
        };
        match known {
            Some(members) => Ok(members),
            None => {
                let present = self.presence(channel.clone()).await?;
                Ok(self.take_presence(channel, present))
            }
        }
    }

    /// Applies a join or leave to the members, where they are kept. Returns the event for users, if their members changed.
    pub(super) fn note_members(&self, local: &mut LocalChannel, event: &OwnedEvent) -> Option<OwnedEvent> {
        let roster = local.roster()?;
        match event {
            OwnedEvent::Joined(info) => roster.joined(self.clock.now(), info.clone()),
            OwnedEvent::Left(info) => roster.left(self.clock.now(), info.client),
            _ => None,
        }
    }

    fn take_presence(&self, channel: &Channel, present: BTreeMap<ClientId, ClientInfo>) -> ChannelMembers {
        let mut shard = self.interest.shard(channel.as_str());
        let Some(local) = shard.get_mut(channel.as_str()) else { return ChannelMembers::default() };
        let Some(roster) = local.roster() else { return ChannelMembers::default() };
        let changes = roster.read(self.clock.now(), present);
        let members = roster.members();
        for change in changes {
            self.hand_event(local, change);
        }
        members
    }

    /// Reads presence for the channels of a shard that are in these parts of the broker.
    async fn read_members_of(&self, shard: usize, parts: u64) {
        let mut channels = Vec::new();
        self.interest.for_each_of(shard, |local| {
            let is_followed = local.workers != 0 && local.link == ChannelLink::Up && local.roster().is_some();
            if is_followed && parts & bit(self.broker.part_of(&local.channel)) != 0 {
                channels.push(local.channel.clone());
            }
        });
        for batch in channels.chunks(TOGETHER) {
            let reads = batch.iter().map(|channel| async move {
                match self.presence(channel.clone()).await {
                    Ok(present) => drop(self.take_presence(channel, present)),
                    // Tried again in the next round.
                    Err(error) => tracing::debug!(%error, %channel, "presence could not be read"),
                }
            });
            join_all(reads).await;
        }
    }
}

/// Reads presence again where joins or leaves may have been missed.
pub(super) async fn keep_members(node: Arc<Node>) {
    // Most nodes have no subscriber that is told of members.
    node.members_missed.missed.notified().await;
    let mut round = interval(ROUND);
    round.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut peers = node.peers.watch();
    let mut read = node.clock.now();
    let mut settled = Moment::ZERO;
    loop {
        let missed = tokio::select! {
            () = node.members_missed.missed.notified() => node.members_missed.parts.swap(0, Ordering::Relaxed),
            _ = round.tick() => 0,
        };
        let now = node.clock.now();
        if peers.has_changed().unwrap_or(false) {
            peers.mark_unchanged();
            settled = settled_by(now, node.presence.lease());
        }
        let all = is_due(now, read, settled);
        if all {
            read = now;
        }
        let parts = if all { u64::MAX } else { missed };
        if parts != 0 {
            for shard in 0..SHARDS {
                node.read_members_of(shard, parts).await;
            }
        }
    }
}

/// Returns when nothing is left of a node found gone now. Its clients stay in presence until its lease expires, and its last
/// joins and leaves are trusted for a while over what is read.
fn settled_by(now: Moment, lease: Duration) -> Moment {
    now + lease.max(TRUSTED) + SETTLING_INTERVAL
}

/// Whether presence last read at `read` is to be read again. It is read once more after everything has settled, however late
/// that is noticed.
fn is_due(now: Moment, read: Moment, settled: Moment) -> bool {
    let since = now.since(read);
    since >= QUIET || read < settled && (since >= SETTLING_INTERVAL || now >= settled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_node_leaves_is_read_until_it_is_gone_and_no_longer_believed() {
        for lease in [3, 30].map(Duration::from_secs) {
            // A busy node checks less often.
            for look_ms in [1_000, 1_900, 2_500, 7_000] {
                let gone = Moment(50_000);
                let settled = settled_by(gone, lease);
                let (mut now, mut read, mut reads) = (gone, gone, Vec::new());
                while now < gone + QUIET {
                    now = now + Duration::from_millis(look_ms);
                    if is_due(now, read, settled) {
                        read = now;
                        reads.push(now);
                    }
                }
                let is_over = |at: &&Moment| **at >= gone + lease && **at >= gone + TRUSTED;
                let after = reads.iter().filter(is_over).count();
                assert!(
                    (1..=4).contains(&after),
                    "{after} reads, one look in {look_ms} ms, a lease of {lease:?}"
                );
            }
        }
    }
}
