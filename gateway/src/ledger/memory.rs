//! The ledgers of a single node, which end with the process. Holders have leases all the same: a holder that begins
//! anew abandons its old name, whose lease then expires.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use gateway_core::ledger::{Ledger as Table, LedgerCapacity, LedgerChange, LedgerPage};
use parking_lot::Mutex;

use super::{HoldOutcome, Ledger, LedgerQuery};
use crate::broker::BrokerError;

const LEASE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub struct MemoryLedger(Mutex<HashMap<Box<str>, MemoryLedgerState>>);

#[derive(Debug, Default)]
struct MemoryLedgerState {
    table: Table,
    /// The expiry of each holder's lease. An expired lease is kept until its holder has been told.
    leases: BTreeMap<Box<str>, Instant>,
}

impl MemoryLedgerState {
    /// Whether this holder has a lease. `None`: the lease has expired, which is reported once.
    fn holds(&mut self, holder: &str, now: Instant) -> Option<bool> {
        match self.leases.get(holder) {
            Some(until) if *until <= now => {
                self.leases.remove(holder);
                None
            }
            until => Some(until.is_some()),
        }
    }

    fn free(&mut self, now: Instant, room: LedgerCapacity) {
        for (holder, _) in self.leases.iter().filter(|(_, until)| **until <= now) {
            self.table.end(holder, room);
        }
    }
}

impl MemoryLedger {
    fn with<T>(&self, ledger: &str, act: impl FnOnce(&mut MemoryLedgerState) -> T) -> T {
        let mut ledgers = self.0.lock();
        match ledgers.get_mut(ledger) {
            Some(ledger_state) => act(ledger_state),
            None => act(ledgers.entry(ledger.into()).or_default()),
        }
    }
}

impl Ledger for MemoryLedger {
    fn change<'a>(
        &'a self,
        ledger: &'a str,
        holder: &'a str,
        changes: &'a [LedgerChange],
        room: LedgerCapacity,
    ) -> BoxFuture<'a, Result<HoldOutcome, BrokerError>> {
        let held = self.with(ledger, |ledger_state| {
            let now = Instant::now();
            ledger_state.free(now, room);
            if ledger_state.holds(holder, now) != Some(true) {
                return HoldOutcome::Over;
            }
            changes.iter().for_each(|change| ledger_state.table.change(holder, change.clone(), room));
            HoldOutcome::Done
        });
        ready(Ok(held)).boxed()
    }

    fn prolong<'a>(
        &'a self,
        ledger: &'a str,
        holder: &'a str,
        lease: Duration,
        room: LedgerCapacity,
    ) -> BoxFuture<'a, Result<HoldOutcome, BrokerError>> {
        let held = self.with(ledger, |ledger_state| {
            let now = Instant::now();
            ledger_state.free(now, room);
            if ledger_state.holds(holder, now).is_none() {
                return HoldOutcome::Over;
            }
            ledger_state.leases.insert(holder.into(), now + lease);
            HoldOutcome::Done
        });
        ready(Ok(held)).boxed()
    }

    fn retire<'a>(
        &'a self,
        ledger: &'a str,
        holder: &'a str,
        _after: Duration,
        room: LedgerCapacity,
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.with(ledger, |ledger_state| {
            ledger_state.leases.remove(holder);
            ledger_state.table.end(holder, room);
        });
        ready(Ok(())).boxed()
    }

    fn read<'a>(
        &'a self,
        reading: LedgerQuery<'a>,
    ) -> BoxFuture<'a, Result<Option<LedgerPage>, BrokerError>> {
        let LedgerQuery { ledger, reader, done, limit, readers, .. } = reading;
        let page = self.with(ledger, |ledger_state| ledger_state.table.read(reader, done, limit, readers));
        ready(Ok(Some(page))).boxed()
    }

    fn outlives_node(&self) -> bool {
        false
    }

    fn lease(&self) -> Duration {
        LEASE
    }
}
