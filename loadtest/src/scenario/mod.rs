//! What a run does with its parts: connections, publications, measurements.

mod handshakes;
mod steady;
mod storm;

use tokio::sync::watch;

pub use handshakes::{HandshakeArguments, HandshakeFindings, run as handshakes};
pub use steady::{Reading, run};
pub use storm::{StormArguments, StormFindings};

use crate::progress::Progress;
use crate::report::Threshold;

/// What came of a scenario: what it has found, and whether its thresholds held.
pub type Outcome<F> = (F, Vec<Threshold>);

/// How a run is told to end, and where it shows how far it is.
#[derive(Clone, Debug)]
pub struct Controls {
    pub cut: Cut,
    pub progress: Progress,
}

impl Controls {
    pub fn new(cut: Cut, quiet: bool) -> Self {
        Self { cut, progress: if quiet { Progress::hidden() } else { Progress::on_terminal() } }
    }
}

/// Why a run ends before its time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CutShort {
    Interrupted,
    TimeLimit,
}

impl CutShort {
    pub fn describe(self) -> &'static str {
        match self {
            Self::Interrupted => "interrupted",
            Self::TimeLimit => "the time limit was reached",
        }
    }
}

/// Tells every stage of a run that it must end.
#[derive(Clone, Debug)]
pub struct Cut(watch::Receiver<Option<CutShort>>);

impl Cut {
    pub fn new() -> (watch::Sender<Option<CutShort>>, Self) {
        let (sender, receiver) = watch::channel(None);
        (sender, Self(receiver))
    }

    pub fn reason(&self) -> Option<CutShort> {
        *self.0.borrow()
    }

    /// Does some work, unless the run is cut short before or meanwhile.
    pub async fn unless<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut receiver = self.0.clone();
        let cut = async move {
            if receiver.wait_for(Option::is_some).await.is_err() {
                // Nobody can cut it short any more.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            () = cut => None,
            result = work => Some(result),
        }
    }
}
