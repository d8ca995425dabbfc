//! The ledgers of a single node. They end with the process; holders have leases all the same, as one that begins anew leaves
//! its old name to run out.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use gateway_core::ledger::{Change, Ledger as Table, Page, Room};
use parking_lot::Mutex;

use super::{Held, Ledger, Reading};
use crate::broker::BrokerError;

const LEASE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub struct MemoryLedger(Mutex<HashMap<Box<str>, Kept>>);

#[derive(Debug, Default)]
struct Kept {
    table: Table,
    /// Until when each holder holds what it does. One that is over stays until it has heard of it.
    leases: BTreeMap<Box<str>, Instant>,
}

impl Kept {
    /// Whether this holder has begun. `None`: it has, and is over, of which it is told once.
    fn holds(&mut self, holder: &str, now: Instant) -> Option<bool> {
        match self.leases.get(holder) {
            Some(until) if *until <= now => {
                self.leases.remove(holder);
                None
            }
            until => Some(until.is_some()),
        }
    }

    fn free(&mut self, now: Instant, room: Room) {
        for (holder, _) in self.leases.iter().filter(|(_, until)| **until <= now) {
            self.table.end(holder, room);
        }
    }
}

impl MemoryLedger {
    fn with<T>(&self, ledger: &str, act: impl FnOnce(&mut Kept) -> T) -> T {
        let mut ledgers = self.0.lock();
        match ledgers.get_mut(ledger) {
            Some(kept) => act(kept),
            None => act(ledgers.entry(ledger.into()).or_default()),
        }
    }
}

impl Ledger for MemoryLedger {
    fn change<'a>(
        &'a self,
        ledger: &'a str,
        holder: &'a str,
        changes: &'a [Change],
        room: Room,
    ) -> BoxFuture<'a, Result<Held, BrokerError>> {
        let held = self.with(ledger, |kept| {
            let now = Instant::now();
            kept.free(now, room);
            if kept.holds(holder, now) != Some(true) {
                return Held::Over;
            }
            changes.iter().for_each(|change| kept.table.change(holder, change.clone(), room));
            Held::Done
        });
        ready(Ok(held)).boxed()
    }

    fn prolong<'a>(
        &'a self,
        ledger: &'a str,
        holder: &'a str,
        lease: Duration,
        room: Room,
    ) -> BoxFuture<'a, Result<Held, BrokerError>> {
        let held = self.with(ledger, |kept| {
            let now = Instant::now();
            kept.free(now, room);
            if kept.holds(holder, now).is_none() {
                return Held::Over;
            }
            kept.leases.insert(holder.into(), now + lease);
            Held::Done
        });
        ready(Ok(held)).boxed()
    }

    fn retire<'a>(
        &'a self,
        ledger: &'a str,
        holder: &'a str,
        _after: Duration,
        room: Room,
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.with(ledger, |kept| {
            kept.leases.remove(holder);
            kept.table.end(holder, room);
        });
        ready(Ok(())).boxed()
    }

    fn read<'a>(&'a self, reading: Reading<'a>) -> BoxFuture<'a, Result<Option<Page>, BrokerError>> {
        let Reading { ledger, reader, done, limit, readers, .. } = reading;
        let page = self.with(ledger, |kept| kept.table.read(reader, done, limit, readers));
        ready(Ok(Some(page))).boxed()
    }

    fn outlives_node(&self) -> bool {
        false
    }

    fn lease(&self) -> Duration {
        LEASE
    }
}
