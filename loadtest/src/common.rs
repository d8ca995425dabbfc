//! State that all threads of a run share: its plan, what has been published, the accounts of its connections, and its phase.

use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use crate::counts::{Published, Received};
use crate::flow::Flow;
use crate::ledger::Ledger;
use crate::plan::Plan;
use crate::subscriber::Subscriber;
use crate::token::Tokens;

#[derive(Debug)]
pub struct Shared {
    pub plan: Plan,
    pub ledger: Ledger,
    pub tokens: Tokens,
    /// Publications due before this moment are checked but not timed.
    pub timed_from_ns: AtomicU64,
    /// Only in a closed loop.
    pub flow: Option<Flow>,
    /// Bounds how many connections are opening at the same time.
    pub opening: Semaphore,
    /// Connections whose first attempt has succeeded or failed.
    pub settled: AtomicU64,
    /// Connections that were cut by the storm and are not back yet.
    pub away: AtomicU64,
    /// Slow readers that have stopped reading.
    pub dozing: AtomicU64,
    /// The accounts of each thread that holds connections. The recorder takes the lock a few times a second, and no other thread.
    pub accounts: Vec<Mutex<Accounts>>,
    pub published: Mutex<Published>,
    phase: watch::Sender<Phase>,
}

/// The connections of one thread, and what it has counted since the last collection.
#[derive(Debug, Default)]
pub struct Accounts {
    pub subscribers: Vec<Subscriber>,
    pub counted: Received,
}

/// What all connections are to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    Running,
    /// Every connection is cut and stays away.
    Away,
    /// All connections that were cut come back, at this moment.
    Back {
        at_ns: u64,
    },
    /// Slow readers read on, to see how their connections ended.
    Awake,
    Stopping,
}

impl Shared {
    pub fn new(plan: Plan) -> Self {
        let connections = &plan.arguments.connections;
        let of_thread = |thread: u16| {
            let numbers = (thread.into()..connections.connections).step_by(connections.threads.into());
            let subscriber = |number| Subscriber::new(plan.channels_of(number), plan.is_slow(number));
            Mutex::new(Accounts { subscribers: numbers.map(subscriber).collect(), ..Accounts::default() })
        };
        Self {
            ledger: Ledger::new(plan.channel_names()),
            tokens: Tokens::new(&plan.arguments.access, SystemTime::now()),
            timed_from_ns: AtomicU64::new(0),
            flow: plan.arguments.publications.in_flight.map(Flow::new),
            opening: Semaphore::new(connections.opening_max as usize),
            settled: AtomicU64::new(0),
            away: AtomicU64::new(0),
            dozing: AtomicU64::new(0),
            accounts: (0..connections.threads).map(of_thread).collect(),
            published: Mutex::default(),
            phase: watch::Sender::new(Phase::Running),
            plan,
        }
    }

    /// Enters a phase, and wakes all connections that wait for it.
    pub fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Waits for a phase that fulfils `holds`, and returns it.
    pub async fn until(&self, holds: impl Fn(Phase) -> bool) -> Phase {
        let mut phases = self.phase.subscribe();
        let phase = phases.wait_for(|phase| holds(*phase)).await;
        // The sender lives as long as `self`.
        phase.map_or(Phase::Stopping, |phase| *phase)
    }

    /// Returns once the run is over.
    pub async fn stopped(&self) {
        self.until(|phase| phase == Phase::Stopping).await;
    }

    /// Returns how many publications may still come.
    pub fn missing(&self) -> u64 {
        let of_thread = |accounts: &Mutex<Accounts>| -> u64 {
            accounts.lock().subscribers.iter().map(|subscriber| subscriber.missing(&self.ledger)).sum()
        };
        self.accounts.iter().map(of_thread).sum()
    }
}
