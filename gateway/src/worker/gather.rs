//! Gathers what has come to this worker by channel, so that it leaves in few writes.
//!
//! Order is kept within a channel, which is all that subscribers are promised. Publications of one channel that wait
//! together become one write for each subscriber. A client that receives publications of several channels in one turn gets
//! them in one write as well: they go through its outbox, which is flushed when the turn ends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use gateway_core::hub::{Prepared, SWEEP_PIECE};
use rustc_hash::FxHashMap;
use shared::channel::Channel;

use crate::worker::Worker;

/// The most payload bytes of one channel's publications that are delivered together.
const GROUP_BYTES: usize = 64 << 10;

/// Publications that are delivered together, in one turn or, if there are many, in several.
#[derive(Debug, Default)]
pub(super) struct GatheredPublications {
    groups: VecDeque<ChannelGroup>,
    /// The index of each channel's open group.
    by_channel: FxHashMap<Channel, usize>,
    /// The number of gathered publications that have not been served yet, and their bytes.
    unserved: (usize, usize),
}

/// Publications of one channel, in order.
#[derive(Debug)]
pub(super) struct ChannelGroup {
    channel: Channel,
    publications: Vec<Arc<Prepared>>,
    bytes: usize,
}

impl GatheredPublications {
    pub(super) fn add(&mut self, prepared: Arc<Prepared>) {
        let bytes = prepared.bytes();
        let index = self.place_for(prepared.channel(), bytes);
        let group = &mut self.groups[index];
        group.bytes += bytes;
        group.publications.push(prepared);
        self.unserved.0 += 1;
        self.unserved.1 += bytes;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Returns the group that takes `bytes` more of this channel: its last one, or a new one behind it.
    fn place_for(&mut self, channel: &Channel, bytes: usize) -> usize {
        let has_room = |group: &ChannelGroup| group.bytes + bytes <= GROUP_BYTES;
        // Most bursts are of one channel, which then needs no look-up.
        if let Some(last) = self.groups.back()
            && last.channel == *channel
            && has_room(last)
        {
            return self.groups.len() - 1;
        }
        if let Some(&index) = self.by_channel.get(channel.as_str())
            && has_room(&self.groups[index])
        {
            return index;
        }
        self.groups.push_back(ChannelGroup { channel: channel.clone(), publications: Vec::new(), bytes: 0 });
        self.by_channel.insert(channel.clone(), self.groups.len() - 1);
        self.groups.len() - 1
    }
}

impl Worker {
    /// Closes the groups, and adds the publications whose flush interval has passed.
    pub(super) fn close_gathered(&mut self) {
        let mut gathered = std::mem::take(&mut self.gathered);
        if !gathered.groups.is_empty() {
            gathered.by_channel.clear();
            if self.paced {
                self.let_wait(&mut gathered.groups);
            }
        }
        while let Some((channel, publications)) = self.windows.close_next(self.local.now) {
            gathered.groups.push_back(ChannelGroup { channel, publications, bytes: 0 });
        }
        if gathered.groups.len() > 1 {
            self.join_writes(&gathered.groups);
        }
        self.gathered = gathered;
    }

    /// Delivers gathered publications, as far as this turn's share allows.
    pub(super) fn deliver_gathered(&mut self) {
        while !self.share.is_used_up()
            && let Some(group) = self.gathered.groups.pop_front()
        {
            self.deliver(&group.channel, &group.publications);
            let (count, bytes) = &mut self.gathered.unserved;
            let served = (group.publications.len().min(*count), group.bytes.min(*bytes));
            (*count, *bytes) = (*count - served.0, *bytes - served.1);
            self.local.inbox.served(served.0, served.1);
        }
        if self.gathered.is_empty() {
            // Publications that wait for their flush interval are counted by the flush windows.
            let (count, bytes) = std::mem::take(&mut self.gathered.unserved);
            self.local.inbox.served(count, bytes);
        }
    }

    /// Drops the gathered publications.
    pub(super) fn forget_gathered(&mut self) {
        let (count, bytes) = std::mem::take(&mut self.gathered).unserved;
        self.local.inbox.served(count, bytes);
    }

    /// Leaves in each group the publications that its namespace's flush interval lets through.
    fn let_wait(&mut self, groups: &mut VecDeque<ChannelGroup>) {
        for group in groups.iter_mut() {
            let Some(interval) = self.flush_interval(&group.channel) else { continue };
            let (channel, bytes) = (&group.channel, group.bytes);
            self.windows.pass(self.local.now, channel, interval, &mut group.publications, bytes);
        }
        groups.retain(|group| !group.publications.is_empty());
    }

    fn flush_interval(&self, channel: &Channel) -> Option<Duration> {
        let options = self.local.context.rules.options(channel)?;
        (options.flush_interval_ms > 0).then(|| Duration::from_millis(options.flush_interval_ms.into()))
    }

    /// Delivers the publications of a channel that wait for its flush interval, ahead of an event that must not overtake
    /// them.
    pub(super) fn deliver_waiting(&mut self, channel: &Channel) {
        let waiting = self.windows.take(channel.as_str());
        if !waiting.is_empty() {
            self.deliver(channel, &waiting);
        }
    }

    /// Finds the connections subscribed to more than one of these channels: their frames wait for the end of the turn.
    /// Looking at each subscriber's flags costs nothing beside a system call. Channels with many subscribers take several
    /// turns; the hub finds the clients that are in several of those.
    fn join_writes(&mut self, groups: &VecDeque<ChannelGroup>) {
        self.turn = self.turn.wrapping_add(1);
        let (hub, flags) = (&self.local.hub, &mut self.local.flags);
        let mut joined = Vec::new();
        for group in groups {
            let lists = hub.live(group.channel.as_str()).filter(|live| live.len() <= SWEEP_PIECE);
            for subscriber in lists.flatten() {
                let flags = &mut flags[subscriber.key as usize];
                match flags.turn == self.turn {
                    true if !flags.listed => joined.push(subscriber.key),
                    _ => flags.turn = self.turn,
                }
            }
        }
        for key in joined {
            self.local.mark_unwritten(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use gateway_core::namespace_id::NamespaceId;
    use shared::position::{Epoch, StreamPosition};
    use shared::publication::{Payload, Publication};

    use super::*;

    #[test]
    fn a_channel_keeps_its_order_through_groups_that_are_full() {
        let mut gathered = GatheredPublications::default();
        let large = GROUP_BYTES - 10;
        // The last publication would fit into the first group, but must not overtake the second publication.
        for (name, offset, bytes) in [("a", 1, large), ("a", 2, large), ("b", 1, 1), ("a", 3, 1)] {
            let mut publication = Publication::new(Payload::binary(vec![0; bytes]));
            publication.position = Some(StreamPosition { offset, epoch: Epoch::from_random(1) });
            let channel = Channel::parse(name, 255).unwrap();
            gathered.add(Prepared::new(channel, NamespaceId::DEFAULT, publication, 0, &Arc::default()));
        }
        let of_a = gathered.groups.iter().filter(|group| group.channel.as_str() == "a");
        let offsets: Vec<u64> = of_a
            .flat_map(|group| &group.publications)
            .filter_map(|prepared| Some(prepared.publication()?.offset()))
            .collect();
        assert_eq!(offsets, [1, 2, 3]);
        assert!(gathered.groups.iter().all(|group| group.bytes <= GROUP_BYTES));
    }
}
