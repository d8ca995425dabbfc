//! A play: events drawn from a seed, under load; in the end everything heals, and every subscriber receives the last
//! publication.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::audience::{Audience, all_ready};
use crate::events::{HARMLESS, SEVERE, SLY, draw, happen};
use crate::ledger::Ledger;
use crate::stage::{Make, Stage};

/// The events of a play.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Everything,
    /// All events, with nodes that may not call INFO.
    WithoutInfo,
    /// Only events that lose nothing.
    Harmless,
}

pub const CHANNELS: [&str; 3] = ["stream:a", "stream:b", "stream:c"];

pub async fn play(make: Make, kind: Kind, seed: u64, time: Duration) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut stage = Stage::set(make, kind != Kind::WithoutInfo).await;
    all_ready(&stage.nodes).await;
    let ledger = Arc::new(Ledger::new(kind == Kind::WithoutInfo));
    let mut audience = Audience::gather(&stage.nodes, &CHANNELS, &ledger, &mut rng).await;
    let sets: &[&[_]] = match kind {
        Kind::Everything => &[HARMLESS, SEVERE, SLY],
        Kind::WithoutInfo => &[HARMLESS, SEVERE],
        Kind::Harmless => &[HARMLESS],
    };
    let start = Instant::now();
    let mut events = Vec::new();
    while start.elapsed() < time {
        tokio::time::sleep(Duration::from_millis(rng.random_range(100..900))).await;
        let event = draw(sets, &mut rng);
        println!("{:>6} ms {event:?}", start.elapsed().as_millis());
        happen(event, &mut stage, &audience, &CHANNELS, &ledger, &mut rng).await;
        audience.check();
        events.push(event);
    }
    all_ready(&stage.nodes).await;
    let accepted = audience.accepted.load(Ordering::Relaxed);
    let accounts = audience.end().await;
    let sum = |of: fn(&crate::account::Account) -> u64| accounts.iter().map(of).sum::<u64>();
    println!(
        "{} events, {accepted} accepted, {} positions; {} received, {} recoveries, told {} times",
        events.len(),
        ledger.positions(),
        sum(|account| account.received),
        sum(|account| account.recoveries),
        sum(|account| account.told)
    );
    assert!(accepted > 100 && sum(|account| account.received) > accepted, "too little to tell");
    if kind == Kind::Harmless {
        assert_eq!(sum(|account| account.told), 0, "nothing was lost");
    }
}
