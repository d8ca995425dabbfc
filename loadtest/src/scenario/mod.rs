//! A run, and how it is told to end early.

mod steady;
mod storm;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub use steady::run;

const POLL: Duration = Duration::from_millis(5);

/// Tells every stage of a run that it must end, and why.
#[derive(Clone, Debug, Default)]
pub struct Cut {
    token: CancellationToken,
    reason: Arc<OnceLock<&'static str>>,
}

impl Cut {
    pub fn cut(&self, reason: &'static str) {
        self.reason.get_or_init(|| reason);
        self.token.cancel();
    }

    pub fn reason(&self) -> Option<&'static str> {
        self.reason.get().copied()
    }

    /// Does some work, unless the run is cut short before the work is done.
    pub async fn unless<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.token.run_until_cancelled(work).await
    }
}

/// Waits until a condition on what all threads share is met.
async fn wait_until(condition: impl Fn() -> bool) {
    while !condition() {
        sleep(POLL).await;
    }
}
