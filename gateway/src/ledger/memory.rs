//! The ledgers of a single node. They end with the process, so no lease is needed.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use gateway_core::ledger::{Change, Ledger as Table, Page, Room};
use parking_lot::Mutex;

use super::{Held, Ledger, Reading};
use crate::broker::BrokerError;

/// How often a holder says that it is still there, four times over. Nothing hangs on it here.
const LEASE: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub struct MemoryLedger(Mutex<HashMap<Box<str>, Table>>);

impl MemoryLedger {
    fn with<T>(&self, ledger: &str, act: impl FnOnce(&mut Table) -> T) -> T {
        let mut ledgers = self.0.lock();
        match ledgers.get_mut(ledger) {
            Some(table) => act(table),
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
        self.with(ledger, |table| {
            changes.iter().for_each(|change| table.change(holder, change.clone(), room));
        });
        ready(Ok(Held::Done)).boxed()
    }

    fn prolong<'a>(
        &'a self,
        _ledger: &'a str,
        _holder: &'a str,
        _lease: Duration,
        _room: Room,
    ) -> BoxFuture<'a, Result<Held, BrokerError>> {
        ready(Ok(Held::Done)).boxed()
    }

    fn retire<'a>(
        &'a self,
        ledger: &'a str,
        holder: &'a str,
        _after: Duration,
        room: Room,
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.with(ledger, |table| table.end(holder, room));
        ready(Ok(())).boxed()
    }

    fn read<'a>(&'a self, reading: Reading<'a>) -> BoxFuture<'a, Result<Option<Page>, BrokerError>> {
        let Reading { ledger, reader, done, limit, readers, .. } = reading;
        let page = self.with(ledger, |table| table.read(reader, done, limit, readers));
        ready(Ok(Some(page))).boxed()
    }

    fn outlives_node(&self) -> bool {
        false
    }

    fn lease(&self) -> Duration {
        LEASE
    }
}
