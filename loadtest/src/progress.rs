//! The progress bar: a line on a terminal, nothing anywhere else.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::tally::{PublishTally, Tally};

#[derive(Clone, Debug)]
pub struct Progress {
    bar: ProgressBar,
    connections_wanted: Arc<AtomicU64>,
    publications_wanted: Arc<AtomicU64>,
}

impl Progress {
    /// Draws on standard error, and only if that is a terminal.
    pub fn on_terminal() -> Self {
        let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{spinner} {elapsed:>4} {prefix:8} {bar:24} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, ..Self::hidden() }
    }

    pub fn hidden() -> Self {
        Self {
            bar: ProgressBar::hidden(),
            connections_wanted: Arc::default(),
            publications_wanted: Arc::default(),
        }
    }

    /// How many there are to be; 0 for as many as there will be.
    pub fn aim_at(&self, connections: u64, publications: u64) {
        self.connections_wanted.store(connections, Ordering::Relaxed);
        self.publications_wanted.store(publications, Ordering::Relaxed);
    }

    pub fn enter(&self, stage: &str) {
        self.bar.set_prefix(stage.to_owned());
    }

    pub fn show(&self, connections: u64, received: &Tally, published: &PublishTally) {
        let (done, wanted) = if published.sent == 0 {
            (connections, &self.connections_wanted)
        } else {
            (published.sent, &self.publications_wanted)
        };
        self.bar.set_length(wanted.load(Ordering::Relaxed).max(1));
        self.bar.set_position(done);
        self.bar.set_message(format!(
            "{connections} connections, {} failed · {} published, {} failed · {} delivered",
            received.failures.total(),
            published.sent,
            published.failures.total(),
            received.deliveries,
        ));
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
