//! The delivered records of each partition that are not committed yet. A partition is committed up to its first
//! unfinished record.

use std::collections::{BTreeMap, HashSet, VecDeque};

use krafka::{ConsumerRecord, Offset, PartitionId};

/// Delivered records by partition, in the order of offsets.
#[derive(Debug, Default)]
pub(super) struct DeliveredRecords {
    partitions: BTreeMap<PartitionId, VecDeque<InFlightRecord>>,
}

#[derive(Debug)]
struct InFlightRecord {
    record: ConsumerRecord,
    is_done: bool,
}

impl DeliveredRecords {
    pub(super) fn add(&mut self, record: ConsumerRecord) {
        self.partitions
            .entry(record.partition)
            .or_default()
            .push_back(InFlightRecord { record, is_done: false });
    }

    pub(super) fn clear(&mut self) {
        self.partitions.clear();
    }

    /// Forgets the records of partitions that this node has lost.
    pub(super) fn give_up(&mut self, partitions: &HashSet<PartitionId>) {
        self.partitions.retain(|partition, _| !partitions.contains(partition));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.partitions.values().all(VecDeque::is_empty)
    }

    /// Returns a record that was delivered and is not done yet.
    pub(super) fn find(&self, partition: PartitionId, offset: Offset) -> Option<&ConsumerRecord> {
        let held = self.partitions.get(&partition)?;
        let at = held.binary_search_by_key(&offset, |held| held.record.offset).ok()?;
        Some(&held[at]).filter(|held| !held.is_done).map(|held| &held.record)
    }

    pub(super) fn done(&mut self, partition: PartitionId, offset: Offset) {
        let Some(held) = self.partitions.get_mut(&partition) else { return };
        if let Ok(at) = held.binary_search_by_key(&offset, |held| held.record.offset) {
            held[at].is_done = true;
        }
    }

    /// Returns the offset behind the finished records of each partition that has such records uncommitted.
    pub(super) fn done_up_to(&self) -> Vec<(PartitionId, Offset)> {
        let up_to = |held: &VecDeque<InFlightRecord>| {
            let last = held.iter().take_while(|held| held.is_done).last()?;
            Some(last.record.offset + 1)
        };
        self.partitions.iter().filter_map(|(partition, held)| Some((*partition, up_to(held)?))).collect()
    }

    /// Forgets the records whose offsets were committed to the group.
    pub(super) fn forget_committed(&mut self) {
        for held in self.partitions.values_mut() {
            while held.front().is_some_and(|held| held.is_done) {
                held.pop_front();
            }
        }
    }

    /// Returns the offset from which each partition has to be read again.
    pub(super) fn from(&self) -> BTreeMap<PartitionId, Offset> {
        let first = |held: &VecDeque<InFlightRecord>| held.front().map(|held| held.record.offset);
        self.partitions.iter().filter_map(|(partition, held)| Some((*partition, first(held)?))).collect()
    }

    /// Returns how many records are unfinished, and when the oldest of them was written, in milliseconds since 1970.
    pub(super) fn left(&self) -> (u64, Option<i64>) {
        let left = || self.partitions.values().flatten().filter(|held| !held.is_done);
        let oldest = left().map(|held| held.record.timestamp).filter(|at| *at > 0).min();
        (left().count() as u64, oldest)
    }
}

/// Returns the position of a record: topic, partition and offset. None of them contains a colon.
pub(super) fn position(record: &ConsumerRecord) -> Box<str> {
    format!("{}:{}:{}", record.topic, record.partition, record.offset).into()
}

/// Returns the partition and the offset of a position.
pub(super) fn place(position: &str) -> Option<(PartitionId, Offset)> {
    let (rest, offset) = position.rsplit_once(':')?;
    let (_, partition) = rest.rsplit_once(':')?;
    Some((partition.parse().ok()?, offset.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(partition: PartitionId, offset: Offset) -> ConsumerRecord {
        let mut record = ConsumerRecord::new("t", partition, offset, None, None);
        record.timestamp = 1_000 - offset;
        record
    }

    #[test]
    fn a_partition_is_done_with_up_to_the_first_record_that_is_not() {
        let mut delivered_records = DeliveredRecords::default();
        // Offsets have gaps where transactions end.
        for (partition, offset) in [(0, 5), (0, 6), (0, 9), (1, 0), (1, 1)] {
            delivered_records.add(record(partition, offset));
        }
        assert_eq!(
            (delivered_records.done_up_to(), delivered_records.from()),
            (vec![], [(0, 5), (1, 0)].into())
        );
        delivered_records.done(0, 6);
        delivered_records.done(1, 0);
        assert_eq!(delivered_records.done_up_to(), [(1, 1)], "what comes first is not done with");
        delivered_records.forget_committed();
        assert_eq!(
            (delivered_records.done_up_to(), delivered_records.from()),
            (vec![], [(0, 5), (1, 1)].into())
        );
        assert!(delivered_records.find(0, 6).is_none() && delivered_records.find(0, 9).is_some());
        assert_eq!(delivered_records.left(), (3, Some(991)));
        delivered_records.done(0, 5);
        assert_eq!(delivered_records.done_up_to(), [(0, 7)]);
        delivered_records.forget_committed();
        delivered_records.done(0, 9);
        delivered_records.done(1, 1);
        delivered_records.done(1, 7);
        assert_eq!(delivered_records.done_up_to(), [(0, 10), (1, 2)]);
        delivered_records.forget_committed();
        assert!(delivered_records.is_empty() && delivered_records.left() == (0, None));
        delivered_records.add(record(0, 12));
        delivered_records.add(record(1, 2));
        delivered_records.give_up(&[0].into());
        assert_eq!(delivered_records.from(), [(1, 2)].into());
    }

    #[test]
    fn a_position_says_which_partition_and_where_in_it() {
        assert_eq!(&*position(&record(3, 7)), "t:3:7");
        assert_eq!(place("shop.orders:3:7"), Some((3, 7)));
        assert_eq!(place("shop.orders"), None);
    }
}
