//! The threads of a run, each with a runtime of its own, and the threads that hold connections.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::task::TaskTracker;

use crate::clock::{Alarm, NANOS_PER_SECOND};
use crate::common::Shared;
use crate::receive::live;

/// How long all connections of a thread together may take to close.
const GOODBYES: Duration = Duration::from_secs(3);

/// Starts a thread with a runtime for `work`. `tracker` waits for its end.
pub fn start(
    name: String,
    tracker: &TaskTracker,
    work: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let work = tracker.track_future(work);
    std::thread::Builder::new().name(name).spawn(move || runtime.block_on(work))?;
    Ok(())
}

/// Starts all threads that hold connections, which open at the ramp's rate from `start_ns` on. The tracker waits for their end.
pub fn hold_connections(shared: &Arc<Shared>, start_ns: u64) -> io::Result<TaskTracker> {
    let threads = TaskTracker::new();
    for thread in 0..shared.plan.arguments.connections.threads {
        start(format!("receive-{thread}"), &threads, hold(shared.clone(), thread, start_ns))?;
    }
    threads.close();
    Ok(threads)
}

/// Opens each connection of one thread when it is due, and keeps them until the run stops.
async fn hold(shared: Arc<Shared>, thread: u16, start_ns: u64) {
    let Ok(alarm) = Alarm::new() else {
        let counted = &mut shared.accounts[usize::from(thread)].lock().counted;
        counted.connections.failures.count("out of file descriptors");
        return;
    };
    let arguments = &shared.plan.arguments.connections;
    let living = TaskTracker::new();
    for number in (thread.into()..arguments.connections).step_by(arguments.threads.into()) {
        let offset = f64::from(number) / arguments.ramp;
        let due_ns = start_ns + (offset * NANOS_PER_SECOND as f64) as u64;
        tokio::select! {
            waited = alarm.wait_until(due_ns) => if waited.is_err() { break },
            () = shared.stopped() => break,
        }
        living.spawn(live(shared.clone(), number, due_ns));
    }
    living.close();
    let too_late = async {
        shared.stopped().await;
        sleep(GOODBYES).await;
    };
    tokio::select! {
        () = living.wait() => {}
        // Connections that are not closed in time are dropped with the runtime.
        () = too_late => {}
    }
}
