//! One thread with its runtime and its share of the connections. Nothing on it is shared with other threads while a
//! message is handled; what it counts is handed over in pieces.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::arguments::ConnectionArguments;
use crate::clock::{Alarm, NANOS_PER_SECOND};
use crate::counts::{Absorb, Published, Received, Verdict};
use crate::receive::{Account, live};
use crate::subscriber::{Shared, Subscriber};

/// How often counts are handed over.
pub const HANDOVER_EVERY: Duration = Duration::from_millis(100);
/// Handovers that may wait for the collector; while it is full a thread goes on counting for itself.
pub const HANDOVERS_MAX: usize = 64;
/// How long all connections of a thread together may take to say goodbye.
const GOODBYES: Duration = Duration::from_secs(3);

/// A thread's state, as its connections see it.
#[derive(Debug)]
pub struct Lane {
    pub shared: Arc<Shared>,
    pub books: RefCell<Received>,
    pub subscribers: RefCell<Vec<Subscriber>>,
    /// Bounds how many are opening at the same time.
    pub opening: Semaphore,
    number: u32,
    phase: Cell<Phase>,
    turned: Notify,
}

/// What all connections of a thread are to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    Running,
    /// Every connection is cut and stays away.
    Away,
    /// Those that were cut come back, all at this moment.
    Back {
        at_ns: u64,
    },
    /// Slow readers read on, to see what became of them.
    Awake,
    Stopping,
}

/// Counts of one thread since its last handover.
#[derive(Debug)]
pub enum Handover {
    Received(Box<Received>),
    Published(Box<Published>),
}

/// What can be asked of a thread.
#[derive(Debug)]
pub enum Order {
    /// How many publications are still on their way?
    Missing(oneshot::Sender<u64>),
    /// Hand over what has been counted up to now, and then say so.
    HandOver(oneshot::Sender<()>),
    /// Cut every connection, or bring them back.
    Turn(Phase),
    /// Settle every account, then close every connection.
    Finish(oneshot::Sender<Verdict>),
}

/// A running thread, as the scenario sees it.
#[derive(Debug)]
pub struct LaneHandle {
    pub orders: mpsc::Sender<Order>,
    thread: JoinHandle<()>,
}

impl Lane {
    /// The place of a connection of this thread among all of the run: threads take turns.
    pub fn number_of(&self, index: usize) -> u32 {
        index as u32 * u32::from(self.shared.plan.arguments.connections.threads) + self.number
    }

    /// Returns once the run is over.
    pub async fn stopped(&self) {
        self.until(|phase| phase == Phase::Stopping).await;
    }

    /// Waits for a phase of which this holds.
    pub async fn until(&self, holds: impl Fn(Phase) -> bool) -> Phase {
        loop {
            let turned = self.turned.notified();
            let phase = self.phase.get();
            if holds(phase) {
                return phase;
            }
            turned.await;
        }
    }

    fn turn(&self, phase: Phase) {
        self.phase.set(phase);
        self.turned.notify_waiters();
    }

    pub(crate) fn account(&self, index: usize) -> Account<'_> {
        Account { shared: &self.shared, subscribers: &self.subscribers, index, books: &self.books }
    }
}

/// Starts thread number `number`; its connections open at the ramp's rate from `start_ns` on.
pub fn start(
    shared: Arc<Shared>,
    number: u16,
    start_ns: u64,
    collector: mpsc::Sender<Handover>,
) -> io::Result<LaneHandle> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (orders, inbox) = mpsc::channel(4);
    let thread = std::thread::Builder::new().name(format!("receive-{number}")).spawn(move || {
        let plan = &shared.plan;
        let ConnectionArguments { connections, threads, opening_max, .. } = plan.arguments.connections;
        let numbers = (u32::from(number)..connections).step_by(usize::from(threads));
        let subscribers = numbers
            .map(|connection| Subscriber::new(plan.channels_of(connection), plan.is_slow(connection)))
            .collect();
        let opening = opening_max.div_ceil(u32::from(threads)) as usize;
        let lane = Rc::new(Lane {
            shared: shared.clone(),
            books: RefCell::default(),
            subscribers: RefCell::new(subscribers),
            opening: Semaphore::new(opening),
            number: u32::from(number),
            phase: Cell::new(Phase::Running),
            turned: Notify::new(),
        });
        LocalSet::new().block_on(&runtime, run(lane, start_ns, inbox, collector));
    })?;
    Ok(LaneHandle { orders, thread })
}

impl LaneHandle {
    /// Waits for the thread, which ends by itself after [`Order::Finish`] or when its orders are dropped.
    pub fn join(self) {
        drop(self.orders);
        // A panic has already been printed by its thread, and shows as connections that never settled.
        let _ = self.thread.join();
    }
}

async fn run(
    lane: Rc<Lane>,
    start_ns: u64,
    mut inbox: mpsc::Receiver<Order>,
    collector: mpsc::Sender<Handover>,
) {
    let mut connections = JoinSet::new();
    connections.spawn_local(ramp(lane.clone(), start_ns));
    let mut handover = interval(HANDOVER_EVERY);
    handover.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let asked = loop {
        tokio::select! {
            _ = handover.tick() => {
                // A full collector gets it all with the next handover.
                if let Ok(place) = collector.try_reserve() {
                    place.send(Handover::Received(Box::new(lane.books.take())));
                }
            }
            order = inbox.recv() => match order {
                Some(Order::Missing(answer)) => {
                    let missing = lane.subscribers.borrow().iter().map(|one| one.missing(&lane.shared.ledger)).sum();
                    // Nobody waits any more if the run was interrupted.
                    let _ = answer.send(missing);
                }
                Some(Order::HandOver(answer)) => {
                    let books = Box::new(lane.books.take());
                    // The collector goes first only when the run is given up, and then nobody waits for the answer.
                    let _ = collector.send(Handover::Received(books)).await;
                    let _ = answer.send(());
                }
                Some(Order::Turn(phase)) => lane.turn(phase),
                Some(Order::Finish(answer)) => break Some(answer),
                None => break None,
            },
        }
    };
    // Accounts are settled before the first goodbye, so that closing cannot be taken for a loss.
    let accounts = std::mem::take(&mut *lane.subscribers.borrow_mut());
    lane.subscribers.borrow_mut().resize_with(accounts.len(), || Subscriber::new(std::iter::empty(), false));
    let last = Handover::Received(Box::new(lane.books.take()));
    lane.turn(Phase::Stopping);
    // The collector goes first only when the run is given up.
    let _ = collector.send(last).await;
    drop(collector);
    if let Some(answer) = asked {
        let mut verdict = Verdict::default();
        for account in accounts {
            verdict.absorb(account.finish(&lane.shared.ledger));
        }
        // The scenario waits for it, unless the run was given up.
        let _ = answer.send(verdict);
    }
    let goodbyes = async { while connections.join_next().await.is_some() {} };
    // Connections that cannot say goodbye in time are dropped with the runtime.
    let _ = timeout(GOODBYES, goodbyes).await;
}

/// Starts this thread's connections, each at its moment of the common ramp.
async fn ramp(lane: Rc<Lane>, start_ns: u64) {
    let Ok(alarm) = Alarm::new() else {
        lane.books.borrow_mut().connections.failures.count("out of file descriptors");
        return;
    };
    let mut living = JoinSet::new();
    let count = lane.subscribers.borrow().len();
    for index in 0..count {
        let offset = f64::from(lane.number_of(index)) / lane.shared.plan.arguments.connections.ramp;
        let due_ns = start_ns + (offset * NANOS_PER_SECOND as f64) as u64;
        tokio::select! {
            waited = alarm.wait_until(due_ns) => if waited.is_err() { return },
            () = lane.stopped() => break,
        }
        living.spawn_local(live(lane.clone(), index, due_ns));
    }
    while living.join_next().await.is_some() {}
}
