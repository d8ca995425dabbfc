//! The state machine of a ledger. It is the same on every node, because it depends only on the messages, their order
//! and the times at which the server stored them.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use gateway_core::ledger::{Ledger as Table, LedgerCapacity, LedgerPage};

use super::ledger_message::{LedgerMessage, LedgerOp, ReplicaRow};
use crate::ledger::HoldOutcome;

/// The outcome of an operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum OpOutcome {
    Held(HoldOutcome),
    /// `None`: another node reads for this reader.
    Page(Option<LedgerPage>),
}

#[derive(Clone, Copy, Debug)]
struct HolderLease {
    until: u64,
    /// The number of the holder's last operation.
    number: u64,
}

/// A node's copy of a ledger. Times are in milliseconds since 1970, by the server's clock.
#[derive(Debug, Default)]
pub(super) struct LedgerReplica {
    table: Table,
    /// Includes expired leases, until all entries of their holders are freed.
    leases: BTreeMap<Box<str>, HolderLease>,
    /// For each reader: the node that reads for it, and the expiry of that node's lease on reading.
    turns: BTreeMap<Box<str>, (Box<str>, u64)>,
    /// The time of the last operation. It never goes back.
    time: u64,
}

impl LedgerReplica {
    pub(super) fn at(time: u64) -> Self {
        Self { time, ..Self::default() }
    }

    pub(super) fn time(&self) -> u64 {
        self.time
    }

    /// Applies an operation. `limit`: the most news that its sender wants.
    pub(super) fn apply(&mut self, op: LedgerOp, written: u64, limit: usize) -> OpOutcome {
        self.time = self.time.max(written);
        match op {
            LedgerOp::Change { holder, number, room, changes } => {
                if !self.counts(&holder, number) {
                    return OpOutcome::Held(HoldOutcome::Over);
                }
                changes.into_iter().for_each(|change| self.table.change(&holder, change, room));
                OpOutcome::Held(HoldOutcome::Done)
            }
            LedgerOp::Prolong { holder, number, room, lease_ms, begins, freed_max } => {
                let holds = self.counts(&holder, number) || begins && !self.leases.contains_key(&holder);
                if holds {
                    let until = self.time.saturating_add(lease_ms);
                    self.leases.insert(holder, HolderLease { until, number });
                }
                let is_more = self.free(room, usize::try_from(freed_max).unwrap_or(usize::MAX));
                OpOutcome::Held(match (holds, is_more) {
                    (false, _) => HoldOutcome::Over,
                    (true, true) => HoldOutcome::Freeing,
                    (true, false) => HoldOutcome::Done,
                })
            }
            LedgerOp::Read { reader, by, lease_ms, done, readers } => {
                let known = self.turns.get(&reader);
                if known.is_some_and(|(other, until)| *other != by && *until > self.time) {
                    return OpOutcome::Page(None);
                }
                let done = done.filter(|_| known.is_some_and(|(before, _)| *before == by));
                let readers: Vec<&str> = readers.iter().map(|reader| &**reader).collect();
                let page = self.table.read(&reader, done, limit, &readers);
                self.turns.insert(reader, (by, self.time.saturating_add(lease_ms)));
                OpOutcome::Page(Some(page))
            }
        }
    }

    /// Returns the outcome of an operation that a snapshot covers, so that only its effect is known. It must be the
    /// last operation of its holder or reader. `limit` is that of [`LedgerReplica::apply`].
    pub(super) fn came_of(&self, op: &LedgerOp, limit: usize) -> OpOutcome {
        match op {
            LedgerOp::Change { holder, number, .. } | LedgerOp::Prolong { holder, number, .. } => {
                let is_done = self.leases.get(holder).is_some_and(|lease| lease.number >= *number);
                let is_freeing = matches!(op, LedgerOp::Prolong { .. })
                    && self.leases.values().any(|lease| lease.until <= self.time);
                OpOutcome::Held(match (is_done, is_freeing) {
                    (false, _) => HoldOutcome::Over,
                    (true, true) => HoldOutcome::Freeing,
                    (true, false) => HoldOutcome::Done,
                })
            }
            LedgerOp::Read { reader, by, .. } => {
                let is_own = self.turns.get(reader).is_some_and(|(reads, _)| reads == by);
                OpOutcome::Page(self.page(reader, limit).filter(|_| is_own))
            }
        }
    }

    /// Whether the holder's lease is valid, and this operation is newer than its last one.
    fn counts(&mut self, holder: &str, number: u64) -> bool {
        match self.leases.get_mut(holder) {
            Some(lease) if lease.until > self.time && lease.number < number => {
                lease.number = number;
                true
            }
            _ => false,
        }
    }

    /// Frees some entries of holders whose lease has expired. Returns whether there are more.
    fn free(&mut self, room: LedgerCapacity, freed_max: usize) -> bool {
        let dead = self.leases.iter().filter(|(_, lease)| lease.until <= self.time);
        let dead: Vec<Box<str>> = dead.map(|(holder, _)| holder.clone()).collect();
        let mut left = freed_max;
        let mut is_more = false;
        for holder in dead {
            let (freed, is_all) = self.table.end_some(&holder, left, room);
            left -= freed;
            if is_all {
                self.leases.remove(&holder);
            }
            is_more |= !is_all;
        }
        is_more
    }

    /// Returns the node that reads for a reader, and the expiry of its lease on reading.
    pub(super) fn turn(&self, reader: &str) -> Option<(&str, u64)> {
        self.turns.get(reader).map(|(by, until)| (&**by, *until))
    }

    /// Returns the next news for a reader that has read before.
    pub(super) fn page(&self, reader: &str, limit: usize) -> Option<LedgerPage> {
        self.table.page(reader, limit)
    }

    /// Returns all rows as lines, in an order that does not depend on the history of the ledger.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.rows().map(|row| format!("{row:?}")).collect();
        lines.push(format!("Time({})", self.time));
        lines.sort_unstable();
        lines
    }

    fn rows(&self) -> impl Iterator<Item = ReplicaRow> + '_ {
        let leases = self.leases.iter().map(|(holder, lease)| (holder.clone(), lease.until, lease.number));
        let leases = leases.map(|(holder, until, number)| ReplicaRow::Lease(holder, until, number));
        let turns = self.turns.iter();
        let turns = turns.map(|(reader, (by, until))| ReplicaRow::Turn(reader.clone(), by.clone(), *until));
        leases.chain(turns).chain(self.table.rows().map(ReplicaRow::Table))
    }

    /// Encodes all rows, in chunks of about `chunk_bytes`.
    pub(super) fn write_down(&self, chunk_bytes: usize) -> Vec<Bytes> {
        let (mut chunks, mut chunk) = (Vec::new(), BytesMut::new());
        for row in self.rows() {
            let before = chunk.len();
            row.encode(&mut chunk);
            if before > 0 && chunk.len() > chunk_bytes {
                let last = chunk.split_off(before);
                chunks.push(std::mem::replace(&mut chunk, last).freeze());
            }
        }
        chunks.push(chunk.freeze());
        chunks
    }

    /// Restores encoded rows. Returns `None` if a row is not understood.
    pub(super) fn put_back(&mut self, rows: Bytes) -> Option<()> {
        let mut is_understood = true;
        ReplicaRow::decode_all(rows, |row| match row {
            ReplicaRow::Done(written, op) => match LedgerMessage::decode(op) {
                Some(LedgerMessage::Op(op)) => drop(self.apply(op, written, 0)),
                _ => is_understood = false,
            },
            ReplicaRow::Table(row) => self.table.put_back(row),
            ReplicaRow::Lease(holder, until, number) => {
                self.leases.insert(holder, HolderLease { until, number });
            }
            ReplicaRow::Turn(reader, by, until) => drop(self.turns.insert(reader, (by, until))),
        })?;
        is_understood.then_some(())
    }
}

#[cfg(test)]
mod tests {
    use gateway_core::ledger::{LedgerChange, LedgerEvent, ReaderProgress};

    use super::*;

    const FREED_MAX: usize = 5_000;
    const ROOM: LedgerCapacity = LedgerCapacity { news_max: 100_000, bytes_max: 1 << 24 };

    fn prolong(holder: &str, number: u64, lease_ms: u64, begins: bool) -> LedgerOp {
        LedgerOp::Prolong {
            holder: holder.into(),
            number,
            room: ROOM,
            lease_ms,
            begins,
            freed_max: FREED_MAX as u64,
        }
    }

    fn change(holder: &str, number: u64, change: LedgerChange) -> LedgerOp {
        LedgerOp::Change { holder: holder.into(), number, room: ROOM, changes: vec![change] }
    }

    fn held(replica: &mut LedgerReplica, op: LedgerOp, written: u64) -> HoldOutcome {
        match replica.apply(op, written, 0) {
            OpOutcome::Held(held) => held,
            page => panic!("{page:?}"),
        }
    }

    fn news(replica: &mut LedgerReplica, reader: &str) -> Vec<LedgerEvent> {
        let read = LedgerOp::Read {
            reader: reader.into(),
            by: "n".into(),
            lease_ms: 0,
            done: None,
            readers: vec![reader.into()],
        };
        match replica.apply(read, 0, usize::MAX) {
            OpOutcome::Page(Some(page)) => page.news.into_iter().map(|(_, news)| news).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_comes_late_does_not_undo_what_was_done_since() {
        let mut replica = LedgerReplica::default();
        let hold = || LedgerChange::Hold("a".into());
        assert_eq!(held(&mut replica, prolong("one", 1, 100, true), 1_000), HoldOutcome::Done);
        assert_eq!(held(&mut replica, change("one", 3, hold()), 1_001), HoldOutcome::Done);
        assert_eq!(
            held(&mut replica, change("one", 4, LedgerChange::Release("a".into())), 1_002),
            HoldOutcome::Done
        );
        // The change was in flight all the time, and its holder has repeated it since.
        assert_eq!(held(&mut replica, change("one", 2, hold()), 1_003), HoldOutcome::Over);
        assert_eq!(news(&mut replica, "r"), [LedgerEvent::Taken("a".into()), LedgerEvent::Free("a".into())]);
        assert_eq!(held(&mut replica, prolong("one", 6, 0, false), 1_004), HoldOutcome::Done);
        assert_eq!(
            held(&mut replica, prolong("one", 5, 60_000, false), 1_004),
            HoldOutcome::Over,
            "it has retired"
        );
    }

    #[test]
    fn a_clock_that_goes_back_prolongs_nothing_and_one_node_sees_what_another_does() {
        let mut replica = LedgerReplica::default();
        let _ = held(&mut replica, prolong("one", 1, 100, true), 1_000);
        let _ = held(&mut replica, prolong("other", 1, 1_000, true), 1_100);
        assert_eq!(held(&mut replica, prolong("one", 2, 100, false), 900), HoldOutcome::Over);
        let copied = |replica: &LedgerReplica, chunk_bytes| {
            let mut copy = LedgerReplica::at(replica.time());
            for chunk in replica.write_down(chunk_bytes) {
                copy.put_back(chunk).expect("it was written");
            }
            copy
        };
        for number in 2..50 {
            let _ = held(
                &mut replica,
                change("other", number, LedgerChange::Hold(number.to_string().into())),
                1_100,
            );
        }
        assert_eq!(replica.write_down(64).len() > 10, replica.write_down(1 << 20).len() == 1);
        for chunk_bytes in [1, 64, 1 << 20] {
            let mut copy = copied(&replica, chunk_bytes);
            assert_eq!(copy.write_down(1 << 20), replica.write_down(1 << 20));
            assert_eq!(
                held(&mut copy, change("other", 9, LedgerChange::Report("late".into())), 1_200),
                HoldOutcome::Over
            );
            assert_eq!(news(&mut copy, "r").len(), 48);
        }
    }

    #[test]
    fn what_a_dead_holder_held_is_freed_in_steps_that_have_a_size() {
        let mut replica = LedgerReplica::default();
        let _ = held(&mut replica, prolong("dead", 1, 10, true), 1_000);
        let changes =
            (0..FREED_MAX + 1).map(|number| LedgerChange::Hold(number.to_string().into())).collect();
        let all = LedgerOp::Change { holder: "dead".into(), number: 2, room: ROOM, changes };
        let _ = held(&mut replica, all, 1_000);
        assert_eq!(held(&mut replica, prolong("one", 1, 10, true), 1_010), HoldOutcome::Freeing);
        assert_eq!(held(&mut replica, prolong("one", 2, 10, false), 1_010), HoldOutcome::Done);
        let told = news(&mut replica, "r");
        assert_eq!(told.iter().filter(|news| matches!(news, LedgerEvent::Free(_))).count(), FREED_MAX + 1);
    }

    /// Every kind of operation, with cases that the table alone does not show: expired leases, late changes, and readers.
    fn some_of_everything() -> Vec<(u64, LedgerOp)> {
        let read = |reader: &str, by: &str, done| LedgerOp::Read {
            reader: reader.into(),
            by: by.into(),
            lease_ms: 50,
            done,
            readers: vec!["main".into(), "other".into()],
        };
        let hold = |subject: &str| LedgerChange::Hold(subject.into());
        vec![
            (1_000, prolong("one", 1, 100, true)),
            (1_001, prolong("other", 1, 1_000, true)),
            (1_002, change("one", 2, hold("a"))),
            (1_003, change("one", 3, hold("b"))),
            (1_004, change("other", 2, hold("b"))),
            (1_005, change("other", 3, LedgerChange::Count("b".into(), 7))),
            (1_006, read("main", "n", None)),
            (1_010, read("main", "m", None)),
            (1_020, read("main", "n", Some(ReaderProgress { from: 0, until: 2 }))),
            (1_030, read("other", "m", None)),
            (1_090, change("other", 2, hold("late"))),
            (1_200, change("one", 4, hold("c"))),
            (
                1_201,
                LedgerOp::Prolong {
                    holder: "other".into(),
                    number: 5,
                    room: ROOM,
                    lease_ms: 300,
                    begins: false,
                    freed_max: 1,
                },
            ),
            (1_202, change("other", 6, LedgerChange::Report("x".into()))),
            (1_203, change("other", 7, LedgerChange::Release("b".into()))),
            (900, prolong("third", 1, 10, true)),
        ]
    }

    #[test]
    fn whenever_a_table_is_written_down_it_becomes_the_same_with_what_was_done_since() {
        let all = some_of_everything();
        let mut whole = LedgerReplica::default();
        for (written, op) in &all {
            let _ = whole.apply(op.clone(), *written, 9);
        }
        for at in 0..=all.len() {
            let mut replica = LedgerReplica::default();
            for (written, op) in &all[..at] {
                let _ = replica.apply(op.clone(), *written, 9);
            }
            let mut copy = LedgerReplica::at(replica.time());
            let mut rows = BytesMut::new();
            replica.write_down(1 << 20).iter().for_each(|chunk| rows.extend_from_slice(chunk));
            all[at..]
                .iter()
                .for_each(|(written, op)| ReplicaRow::Done(*written, op.encode()).encode(&mut rows));
            copy.put_back(rows.freeze()).expect("it was written");
            assert_eq!(copy.write_down(1 << 20), whole.write_down(1 << 20), "after {at}");
            assert_eq!(copy.time(), whole.time());
        }
        let mut odd = BytesMut::new();
        ReplicaRow::Done(1, Bytes::from_static(b"odd")).encode(&mut odd);
        assert_eq!(whole.put_back(odd.freeze()), None);
    }

    #[test]
    fn what_came_of_something_is_known_from_what_is_there_after_it() {
        let mut replica = LedgerReplica::default();
        for (written, op) in some_of_everything() {
            let outcome = replica.apply(op.clone(), written, 9);
            // Nobody asks for the outcome of a change that its holder has given up and repeated.
            if !matches!(&op, LedgerOp::Change { changes, .. } if *changes == [LedgerChange::Hold("late".into())])
            {
                assert_eq!(replica.came_of(&op, 9), outcome, "{op:?}");
            }
        }
    }

    #[test]
    fn the_same_bytes_of_a_log_are_the_same_table_in_every_release() {
        let mut log = Vec::new();
        let mut replica = LedgerReplica::default();
        for (written, op) in some_of_everything() {
            log.push(hex(&op.encode()));
            let _ = replica.apply(op, written, 9);
        }
        assert_eq!(log, GOLDEN_LOG);
        let table: Vec<String> = replica.write_down(1 << 20).iter().map(|chunk| hex(chunk)).collect();
        assert_eq!(table, [GOLDEN_TABLE]);
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    const GOLDEN_LOG: [&str; 16] = [
        "c2036f6e6501a08d068080800864018827",
        "c2056f7468657201a08d0680808008e807018827",
        "c1036f6e6502a08d06808080082b0161",
        "c1036f6e6503a08d06808080082b0162",
        "c1056f7468657202a08d06808080082b0162",
        "c1056f7468657203a08d06808080082303372062",
        "c3046d61696e016e32000000046d61696e056f74686572",
        "c3046d61696e016d32000000046d61696e056f74686572",
        "c3046d61696e016e32010002046d61696e056f74686572",
        "c3056f74686572016d32000000046d61696e056f74686572",
        "c1056f7468657202a08d06808080082b046c617465",
        "c1036f6e6504a08d06808080082b0163",
        "c2056f7468657205a08d0680808008ac020001",
        "c1056f7468657206a08d06808080083d0178",
        "c1056f7468657207a08d06808080082d0162",
        "c205746869726401a08d06808080080a018827",
    ];
    const GOLDEN_TABLE: &str = "06056f74686572dd0b0706057468697264bd090107046d61696e016eae0807056f74686572016db8080301022b610302022b62030304233720620304022d610305023d78030604233020620307022d6204046d61696e0204056f74686572000507";
}
