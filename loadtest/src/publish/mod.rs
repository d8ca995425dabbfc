//! Publishes on the schedule, on a thread of its own, through the server API or through client connections.

mod api;
mod client;
mod request;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::arguments::Entrance;
use crate::clock::{Alarm, now_ns};
use crate::common::Shared;
use crate::counts::{Absorb, Largest};
use crate::failure::Failure;
use crate::mark::PayloadMaker;
use crate::schedule::{Due, Schedule};
use crate::threads;

/// Longest wait for the answer to one publication.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The publishing thread, as the scenario sees it.
#[derive(Debug)]
pub struct PublishHandle {
    stop: CancellationToken,
    thread: TaskTracker,
}

/// State that all publishers share.
struct Publisher {
    shared: Arc<Shared>,
    schedule: Schedule,
    payloads: PayloadMaker,
}

/// A publication that has its place in the sequence.
#[derive(Clone, Copy, Debug)]
struct Issued {
    due: Due,
    sequence: u64,
}

/// Publications that wait for their answer, oldest first, each with the id of its command (0 through the API).
type Unanswered = VecDeque<(u32, Issued)>;

pub fn start(shared: Arc<Shared>, schedule: Schedule) -> io::Result<PublishHandle> {
    let (stop, thread) = (CancellationToken::new(), TaskTracker::new());
    threads::start("publish".to_owned(), &thread, run(shared, schedule, stop.clone()))?;
    thread.close();
    Ok(PublishHandle { stop, thread })
}

impl PublishHandle {
    /// Waits until every publication is sent and answered, or given up.
    pub async fn finished(&self) {
        self.thread.wait().await;
    }

    /// Ends publishing where it stands.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

async fn run(shared: Arc<Shared>, schedule: Schedule, stop: CancellationToken) {
    let payloads = PayloadMaker::new(shared.plan.run, shared.plan.arguments.publications.payload);
    let publishers = shared.plan.arguments.publications.publishers;
    let publisher = Arc::new(Publisher { shared, schedule, payloads });
    let running = TaskTracker::new();
    for number in 0..publishers {
        running.spawn(publish_share(publisher.clone(), number, stop.clone()));
    }
    running.close();
    running.wait().await;
}

/// Publishes one publisher's share, until all is answered or publishing is stopped.
async fn publish_share(publisher: Arc<Publisher>, number: u32, stop: CancellationToken) {
    let Publisher { shared, schedule, .. } = &*publisher;
    let arguments = &shared.plan.arguments.publications;
    let mut share = schedule.share(number, arguments.publishers).peekable();
    let mut unanswered = Unanswered::new();
    let publishing = async {
        let alarm = Alarm::new()?;
        match arguments.publish_via {
            Entrance::Api => api::run(&publisher, number, &alarm, &mut share, &mut unanswered).await,
            Entrance::Client => client::run(&publisher, number, &alarm, &mut share, &mut unanswered).await,
        }
        Ok::<_, Failure>(())
    };
    if let Some(Err(Failure(reason))) = stop.run_until_cancelled(publishing).await {
        shared.published.lock().failures.count(reason);
    }
    // A publication whose answer is not awaited may have been published or not.
    for (_, issued) in unanswered {
        shared.ledger.note_failure(issued.due.channel, issued.sequence);
    }
}

impl Publisher {
    /// Takes a publication's place in its channel's sequence, just before it is sent.
    fn issue(&self, due: Due) -> Issued {
        let sequence = self.shared.ledger.issue(due.channel);
        let mut published = self.shared.published.lock();
        published.sent += 1;
        published.late_ms_max.absorb(Largest(now_ns().saturating_sub(due.at_ns)));
        Issued { due, sequence }
    }

    fn channel(&self, issued: Issued) -> &str {
        self.shared.ledger.name(issued.due.channel)
    }

    fn payload(&self, issued: Issued) -> String {
        self.payloads.make(issued.due.channel, issued.sequence, issued.due.at_ns)
    }

    /// Counts the outcome of a publication. After an error it may have been published or not.
    fn settle(&self, issued: Issued, outcome: Result<(), Failure>) {
        let mut published = self.shared.published.lock();
        match outcome {
            Ok(()) => {
                published.confirmed += 1;
                published.answered.record(now_ns().saturating_sub(issued.due.at_ns));
            }
            Err(Failure(reason)) => {
                self.shared.ledger.note_failure(issued.due.channel, issued.sequence);
                published.failures.count(reason);
            }
        }
    }
}
