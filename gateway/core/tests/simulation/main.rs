//! Checks that the gateway keeps its promises under faults: nodes with real sessions, hubs and feeds, wired as in a
//! gateway, in virtual time, with everything that can go wrong decided by one seed.
//!
//! To run one seed: `SIMULATION_SEED=7 cargo test -p gateway-core --test simulation`. It prints what happened. To try more
//! seeds: `SIMULATION_SEEDS=10000`.

mod broker;
mod checkers;
mod client;
mod cluster;
mod map;
mod map_client;
mod network;
mod node;
mod poll_client;
mod polling;
mod polls;
mod states;
mod subscription;
mod worker;

use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use network::{Stats, start_trace, take_trace};

const SEEDS: u64 = 240;
const THREADS: usize = 4;
/// How many lines of the trace are shown when a promise was broken.
const TRACE_LINES_SHOWN: usize = 150;

#[test]
fn promises_are_kept_under_every_seed() {
    if let Some(seed) = number_from("SIMULATION_SEED") {
        start_trace();
        let result = catch_unwind(|| cluster::run(seed));
        take_trace().iter().for_each(|line| println!("{line}"));
        println!("{:#?}", result.expect("the seed keeps its promises").0);
        return;
    }
    let seeds = number_from("SIMULATION_SEEDS").unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let (all, broken) = (Mutex::new(Stats::default()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some(seed) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&seed| seed < seeds)
                {
                    match catch_unwind(|| cluster::run(seed)) {
                        Ok(stats) => {
                            let mut all = all.lock().unwrap();
                            stats.0.iter().for_each(|(what, count)| *all.0.entry(what).or_default() += count);
                        }
                        Err(_) => {
                            broken.lock().unwrap().push(seed);
                            next.store(seeds, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    if let Some(seed) = broken.into_inner().unwrap().into_iter().min() {
        start_trace();
        let _ = catch_unwind(|| cluster::run(seed));
        let lines = take_trace();
        let shown = lines.len().saturating_sub(TRACE_LINES_SHOWN);
        lines[shown..].iter().for_each(|line| eprintln!("{line}"));
        panic!("seed {seed} breaks a promise: SIMULATION_SEED={seed} runs it alone");
    }
    let all = all.into_inner().unwrap().0;
    println!("{all:#?}");
    for what in STRIKES {
        assert!(all.contains_key(what), "no seed has any {what:?}, so nothing was tried there");
    }
}

#[test]
fn the_same_seed_happens_in_the_same_way() {
    let happened = || {
        start_trace();
        cluster::run(5);
        take_trace()
    };
    let (first, second) = (happened(), happened());
    assert!(first.len() > 1000);
    assert!(first == second);
}

/// What must occur in every run over many seeds.
const STRIKES: [&str; 59] = [
    "clients gone for a while",
    "closed for a hole in a subscription of the server's",
    "connects refused",
    "joins told",
    "leaves told",
    "member lists compared",
    "patches applied",
    "recoveries at the connect",
    "subscriptions ended by the server",
    "subscriptions made by the server",
    "connections cut",
    "gaps dealt with",
    "gaps found by a look",
    "gaps found by a publication",
    "held back without room",
    "histories removed",
    "inbox overflows",
    "links lost",
    "lost with a link",
    "nodes crashed",
    "pasts that nobody could share",
    "pasts told by a read",
    "pasts told without a read",
    "changes checked",
    "keys changed",
    "keys expired",
    "maps cleared",
    "maps compared",
    "maps read",
    "maps recovered",
    "maps that could not be gone on with",
    "maps told to be read anew",
    "pages of changes",
    "patches of keys applied",
    "epochs of polled keys told",
    "followers told to come back",
    "keys followed",
    "news of polled keys",
    "news that found no room",
    "polled keys compared",
    "polled keys removed",
    "polls",
    "polls without an answer",
    "versions counted anew",
    "publications by clients",
    "publications checked",
    "publications dropped",
    "publications through a filter",
    "recoveries",
    "recoveries through a filter",
    "silent clients closed",
    "slow clients closed",
    "sweeps gone on with",
    "streams reset",
    "told of a hole",
    "told of a hole after an overflow",
    "told of a hole before they were live",
    "told that recovery failed",
    "writes",
];

#[expect(clippy::disallowed_methods, reason = "which seeds to try is for whoever runs the tests to say")]
fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}
