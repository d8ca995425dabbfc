//! Who holds what over all nodes, and the news of it, which are told once whatever becomes of a node.
//!
//! One ledger for each app. It is kept in this process ([`memory`]), or under a lease for each holder in Redis ([`redis`]) or NATS ([`nats`]):
//! what a node held that has died is free when its lease has run out, and one of the others has that told.

pub mod memory;
pub mod nats;
pub mod redis;
pub mod shards;

use std::time::Duration;

use futures_util::future::BoxFuture;
use gateway_core::ledger::{LedgerCapacity, LedgerChange, LedgerPage, ReaderProgress};

use crate::broker::BrokerError;

/// What came of what a holder did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum HoldOutcome {
    Done,
    /// The same, and there is more to be freed of what dead holders held: to be prolonged again soon.
    Freeing,
    /// Nothing was done: what this holder held is not its own any more, or may have been lost. It begins anew under a name
    /// that was never used.
    Over,
}

/// What a reader asks for.
#[derive(Clone, Copy, Debug)]
pub struct LedgerQuery<'a> {
    pub ledger: &'a str,
    pub reader: &'a str,
    /// All who read this ledger: news are kept until each has done with them.
    pub readers: &'a [&'a str],
    /// Who reads for it. It is the only one for as long as `lease` says, from each call on.
    pub by: &'a str,
    pub lease: Duration,
    /// What it has done with, if it has.
    pub done: Option<ReaderProgress>,
    pub limit: usize,
}

/// Every call ends by itself, as those of brokers do.
pub trait Ledger: Send + Sync + std::fmt::Debug {
    /// Carries out changes, in their order. Doing it twice is doing it once, but for what is only said.
    fn change<'a>(
        &'a self,
        ledger: &'a str,
        holder: &'a str,
        changes: &'a [LedgerChange],
        room: LedgerCapacity,
    ) -> BoxFuture<'a, Result<HoldOutcome, BrokerError>>;

    /// How many of these changes are done as one, of which all count or none does. Where more are given, and not all can be done, some may
    /// be. 0: the first is longer than can be kept at all. Before the ledger was used it is not known for certain.
    fn fits_in_a_step(&self, changes: &[LedgerChange]) -> usize {
        changes.len()
    }

    /// Has a holder keep what it holds for `lease` from now on, the first time as every time, and frees some of what those
    /// held whose lease is over.
    fn prolong<'a>(
        &'a self,
        ledger: &'a str,
        holder: &'a str,
        lease: Duration,
        room: LedgerCapacity,
    ) -> BoxFuture<'a, Result<HoldOutcome, BrokerError>>;

    /// A holder ends: what it held is free after a while, or at once where nobody else could hold it meanwhile.
    fn retire<'a>(
        &'a self,
        ledger: &'a str,
        holder: &'a str,
        after: Duration,
        room: LedgerCapacity,
    ) -> BoxFuture<'a, Result<(), BrokerError>>;

    /// Reads on, if nobody else reads for this reader: `None` if somebody does.
    fn read<'a>(&'a self, reading: LedgerQuery<'a>)
    -> BoxFuture<'a, Result<Option<LedgerPage>, BrokerError>>;

    /// Whether news are still there for other nodes when this one has ended.
    fn outlives_node(&self) -> bool;

    /// How long what a node holds can outlive the node.
    fn lease(&self) -> Duration;
}
