//! What a node makes of what was done to a ledger: the same at every node, as all of it follows from the messages, their order and
//! when the server wrote them.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use gateway_core::ledger::{Ledger as Table, LedgerCapacity, LedgerPage};

use super::ledger_message::{LedgerOp, ReplicaRow};
use crate::ledger::HoldOutcome;

/// How much of what dead holders held is freed in one step.
const FREED_MAX: usize = 5_000;

/// What came of something that was done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum OpOutcome {
    Held(HoldOutcome),
    /// `None`: another reads for this reader.
    Page(Option<LedgerPage>),
}

#[derive(Clone, Copy, Debug)]
struct HolderLease {
    until: u64,
    /// Of what it did last.
    number: u64,
}

/// Times are in milliseconds since 1970, by the server's clock.
#[derive(Debug, Default)]
pub(super) struct LedgerReplica {
    table: Table,
    /// Of those also whose lease is over, until all is freed that they held.
    leases: BTreeMap<Box<str>, HolderLease>,
    /// For each reader: who reads for it, and until when that one alone does.
    turns: BTreeMap<Box<str>, (Box<str>, u64)>,
    /// When the last of it was done. It never goes back.
    time: u64,
}

impl LedgerReplica {
    pub(super) fn at(time: u64) -> Self {
        Self { time, ..Self::default() }
    }

    pub(super) fn time(&self) -> u64 {
        self.time
    }

    /// `limit`: how much news whoever has done it wants to have.
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
            LedgerOp::Prolong { holder, number, room, lease_ms, begins } => {
                let holds = self.counts(&holder, number) || begins && !self.leases.contains_key(&holder);
                if holds {
                    let until = self.time.saturating_add(lease_ms);
                    self.leases.insert(holder, HolderLease { until, number });
                }
                let is_more = self.free(room);
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

    /// Whether this holder holds what it does, and this is not older than what it did already.
    fn counts(&mut self, holder: &str, number: u64) -> bool {
        match self.leases.get_mut(holder) {
            Some(lease) if lease.until > self.time && lease.number < number => {
                lease.number = number;
                true
            }
            _ => false,
        }
    }

    /// Frees some of what those held whose lease is over. Answers whether there is more.
    fn free(&mut self, room: LedgerCapacity) -> bool {
        let dead = self.leases.iter().filter(|(_, lease)| lease.until <= self.time);
        let dead: Vec<Box<str>> = dead.map(|(holder, _)| holder.clone()).collect();
        let mut left = FREED_MAX;
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

    /// Who reads for a reader, and until when that one alone does.
    pub(super) fn turn(&self, reader: &str) -> Option<(&str, u64)> {
        self.turns.get(reader).map(|(by, until)| (&**by, *until))
    }

    /// The next news for a reader that has read before.
    pub(super) fn page(&self, reader: &str, limit: usize) -> Option<LedgerPage> {
        self.table.page(reader, limit)
    }

    /// All of it, as rows of about so many bytes together.
    pub(super) fn write_down(&self, chunk_bytes: usize) -> Vec<Bytes> {
        let leases = self.leases.iter().map(|(holder, lease)| (holder.clone(), lease.until, lease.number));
        let leases = leases.map(|(holder, until, number)| ReplicaRow::Lease(holder, until, number));
        let turns = self.turns.iter();
        let turns = turns.map(|(reader, (by, until))| ReplicaRow::Turn(reader.clone(), by.clone(), *until));
        let (mut chunks, mut chunk) = (Vec::new(), BytesMut::new());
        for row in leases.chain(turns).chain(self.table.rows().map(ReplicaRow::Table)) {
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

    /// Puts back what was written down. `None` if it is not understood.
    pub(super) fn put_back(&mut self, rows: Bytes) -> Option<()> {
        ReplicaRow::decode_all(rows, |row| match row {
            ReplicaRow::Table(row) => self.table.put_back(row),
            ReplicaRow::Lease(holder, until, number) => {
                self.leases.insert(holder, HolderLease { until, number });
            }
            ReplicaRow::Turn(reader, by, until) => drop(self.turns.insert(reader, (by, until))),
        })
    }
}

#[cfg(test)]
mod tests {
    use gateway_core::ledger::{LedgerChange, LedgerEvent};

    use super::*;

    const ROOM: LedgerCapacity = LedgerCapacity { news_max: 100_000, bytes_max: 1 << 24 };

    fn prolong(holder: &str, number: u64, lease_ms: u64, begins: bool) -> LedgerOp {
        LedgerOp::Prolong { holder: holder.into(), number, room: ROOM, lease_ms, begins }
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
        // It was on its way all the time, and its holder has done the same again since.
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
                held(&mut copy, change("other", 9, LedgerChange::Say("late".into())), 1_200),
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
}
