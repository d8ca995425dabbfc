//! Ledgers over several servers: each ledger is on one of them, as a whole. While that server is unreachable, its webhooks wait.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use gateway_core::ledger::{LedgerCapacity, LedgerChange, LedgerPage};

use super::{HoldOutcome, Ledger, LedgerQuery};
use crate::broker::BrokerError;
use crate::broker::shards::Shards;

#[derive(Debug)]
pub struct ShardedLedger {
    shards: Shards<Arc<dyn Ledger>>,
    lease: Duration,
}

impl ShardedLedger {
    pub fn new(shards: Shards<Arc<dyn Ledger>>) -> Self {
        let lease = shards.iter().map(|shard| shard.lease()).max().unwrap_or_default();
        Self { shards, lease }
    }
}

impl Ledger for ShardedLedger {
    fn change<'a>(
        &'a self,
        ledger: &'a str,
        holder: &'a str,
        changes: &'a [LedgerChange],
        room: LedgerCapacity,
    ) -> BoxFuture<'a, Result<HoldOutcome, BrokerError>> {
        self.shards.of(ledger).change(ledger, holder, changes, room)
    }

    fn prolong<'a>(
        &'a self,
        ledger: &'a str,
        holder: &'a str,
        lease: Duration,
        room: LedgerCapacity,
    ) -> BoxFuture<'a, Result<HoldOutcome, BrokerError>> {
        self.shards.of(ledger).prolong(ledger, holder, lease, room)
    }

    fn retire<'a>(
        &'a self,
        ledger: &'a str,
        holder: &'a str,
        after: Duration,
        room: LedgerCapacity,
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        self.shards.of(ledger).retire(ledger, holder, after, room)
    }

    fn read<'a>(
        &'a self,
        reading: LedgerQuery<'a>,
    ) -> BoxFuture<'a, Result<Option<LedgerPage>, BrokerError>> {
        self.shards.of(reading.ledger).read(reading)
    }

    fn outlives_node(&self) -> bool {
        true
    }

    fn lease(&self) -> Duration {
        self.lease
    }
}
