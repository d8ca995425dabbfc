//! Publishes on the schedule, on a thread of its own, through the server API or through client connections.

mod api;
mod client;
mod request;

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{MissedTickBehavior, interval};

use crate::arguments::Entrance;
use crate::clock::now_ns;
use crate::counts::{Absorb, Largest, Published};
use crate::lane::{HANDOVER_EVERY, Handover};
use crate::mark::PayloadMaker;
use crate::schedule::{Due, Schedule};
use crate::subscriber::Shared;

/// Longest wait for the answer to one publication.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The publishing thread, as the scenario sees it.
#[derive(Debug)]
pub struct PublishHandle {
    stop: watch::Sender<bool>,
    finished: watch::Receiver<bool>,
    thread: JoinHandle<()>,
}

/// What the publishers of the thread share.
struct Publisher {
    shared: Arc<Shared>,
    schedule: Schedule,
    payloads: PayloadMaker,
    books: RefCell<Published>,
    stop: watch::Receiver<bool>,
}

/// A publication that has been given its place in the sequence.
#[derive(Clone, Copy, Debug)]
struct Issued {
    due: Due,
    sequence: u64,
}

pub fn start(
    shared: Arc<Shared>,
    schedule: Schedule,
    collector: mpsc::Sender<Handover>,
) -> io::Result<PublishHandle> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (stop, stopped) = watch::channel(false);
    let (finish, finished) = watch::channel(false);
    let thread = std::thread::Builder::new().name("publish".to_owned()).spawn(move || {
        let payloads = PayloadMaker::new(shared.plan.run, shared.plan.arguments.publications.payload);
        let publisher =
            Rc::new(Publisher { shared, schedule, payloads, books: RefCell::default(), stop: stopped });
        LocalSet::new().block_on(&runtime, run(publisher, collector));
        // Nobody may be waiting any more.
        let _ = finish.send(true);
    })?;
    Ok(PublishHandle { stop, finished, thread })
}

impl PublishHandle {
    /// Returns when everything has been sent and answered, or given up.
    pub async fn finished(&self) {
        // An error means that the thread is gone, which is as finished as it can be.
        let _ = self.finished.clone().wait_for(|finished| *finished).await;
    }

    /// Ends publishing where it stands.
    pub fn stop(&self) {
        // The thread may have ended by itself.
        let _ = self.stop.send(true);
    }

    pub fn join(self) {
        // A panic has been printed by its thread, and shows as publications that were never sent.
        let _ = self.thread.join();
    }
}

async fn run(publisher: Rc<Publisher>, collector: mpsc::Sender<Handover>) {
    let arguments = &publisher.shared.plan.arguments.publications;
    let publishers = arguments.publishers;
    let mut running = JoinSet::new();
    for number in 0..publishers {
        match arguments.publish_via {
            Entrance::Api => running.spawn_local(api::run(publisher.clone(), number)),
            Entrance::Client => running.spawn_local(client::run(publisher.clone(), number)),
        };
    }
    let mut handover = interval(HANDOVER_EVERY);
    handover.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            next = running.join_next() => if next.is_none() { break },
            _ = handover.tick() => {
                if let Ok(place) = collector.try_reserve() {
                    place.send(Handover::Published(Box::new(publisher.books.take())));
                }
            }
        }
    }
    // The collector goes first only when the run is given up.
    let _ = collector.send(Handover::Published(Box::new(publisher.books.take()))).await;
}

impl Publisher {
    fn share(&self, number: u32) -> impl Iterator<Item = Due> + use<> {
        self.schedule.share(number, self.shared.plan.arguments.publications.publishers)
    }

    async fn stopped(&self) {
        // An error means that the scenario is gone, which ends publishing too.
        let _ = self.stop.clone().wait_for(|stop| *stop).await;
    }

    /// Takes a publication's place in its channel's sequence, just before it is sent.
    fn issue(&self, due: Due) -> Issued {
        let sequence = self.shared.ledger.issue(due.channel);
        let books = &mut *self.books.borrow_mut();
        books.sent += 1;
        books.late_ms_max.absorb(Largest(now_ns().saturating_sub(due.at_ns)));
        Issued { due, sequence }
    }

    fn payload(&self, issued: Issued) -> String {
        self.payloads.make(issued.due.channel, issued.sequence, issued.due.at_ns)
    }

    fn confirm(&self, issued: Issued) {
        let books = &mut *self.books.borrow_mut();
        books.confirmed += 1;
        books.answered.record(now_ns().saturating_sub(issued.due.at_ns));
    }

    /// It may have been published or not.
    fn fail(&self, issued: Issued, reason: &str) {
        self.shared.ledger.note_failure(issued.due.channel, issued.sequence);
        self.books.borrow_mut().failures.count(reason);
    }
}
