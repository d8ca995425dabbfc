//! Ledgers: the entries that holders have over all nodes, such as occupied channels, and the news of changes, each of which is
//! told once whatever happens to a node.
//!
//! There is one ledger for each app. It is kept in this process ([`memory`]), or with a lease for each holder in Redis
//! ([`redis`]) or NATS ([`nats`]): what a dead node held becomes free when its lease expires, and another node sends
//! the news of it.

pub mod memory;
pub mod nats;
pub mod redis;
pub mod shards;

use std::time::Duration;

use futures_util::future::BoxFuture;
use gateway_core::ledger::{LedgerCapacity, LedgerChange, LedgerPage, ReaderProgress};

use crate::broker::BrokerError;

/// The result of a holder's call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum HoldOutcome {
    Done,
    /// Done, and dead holders still have entries to be freed: prolong again soon.
    Freeing,
    /// Nothing was done: the holder has lost its entries, or they may have been lost. It must begin anew under a name
    /// that was never used.
    Over,
}

/// A reader's request.
#[derive(Clone, Copy, Debug)]
pub struct LedgerQuery<'a> {
    pub ledger: &'a str,
    pub reader: &'a str,
    /// All readers of this ledger: news are kept until each reader has acknowledged them.
    pub readers: &'a [&'a str],
    /// The node that reads for the reader. No other node can for the duration of `lease` after each call.
    pub by: &'a str,
    pub lease: Duration,
    /// The progress to acknowledge, if there is any.
    pub done: Option<ReaderProgress>,
    pub limit: usize,
}

/// Stores ledgers. Every call ends by itself, as those of brokers do.
pub trait Ledger: Send + Sync + std::fmt::Debug {
    /// Applies changes in order. Applying them again has no further effect, except that plain news are repeated.
    fn change<'a>(
        &'a self,
        ledger: &'a str,
        holder: &'a str,
        changes: &'a [LedgerChange],
        room: LedgerCapacity,
    ) -> BoxFuture<'a, Result<HoldOutcome, BrokerError>>;

    /// Returns how many of these changes can be applied atomically. If more are given and not all can be applied, some may
    /// be. 0: the first change is too long to be kept at all. The answer is certain only once the ledger has been used.
    fn fits_in_a_step(&self, changes: &[LedgerChange]) -> usize {
        changes.len()
    }

    /// Begins or renews a holder's lease, to last for `lease` from now on, and frees some entries of holders whose
    /// lease has expired.
    fn prolong<'a>(
        &'a self,
        ledger: &'a str,
        holder: &'a str,
        lease: Duration,
        room: LedgerCapacity,
    ) -> BoxFuture<'a, Result<HoldOutcome, BrokerError>>;

    /// Ends a holder. Its entries become free after a while, or at once where nobody else could hold them meanwhile.
    fn retire<'a>(
        &'a self,
        ledger: &'a str,
        holder: &'a str,
        after: Duration,
        room: LedgerCapacity,
    ) -> BoxFuture<'a, Result<(), BrokerError>>;

    /// Reads on for a reader. `None`: another node reads for it.
    fn read<'a>(&'a self, reading: LedgerQuery<'a>)
    -> BoxFuture<'a, Result<Option<LedgerPage>, BrokerError>>;

    /// Whether news outlive this node, for other nodes to tell.
    fn outlives_node(&self) -> bool;

    /// Returns how long the entries of a node can outlive the node.
    fn lease(&self) -> Duration;
}
