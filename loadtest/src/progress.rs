//! The progress bar: a line on a terminal, nothing anywhere else.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::tally::{PublishTally, Tally};

#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    connections_wanted: u64,
    publications_wanted: u64,
}

impl Progress {
    /// Draws on standard error, and only if that is a terminal.
    pub fn new(connections_wanted: u64, publications_wanted: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{spinner} {elapsed:>4} {prefix:8} {bar:24} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, connections_wanted, publications_wanted }
    }

    pub fn hidden() -> Self {
        Self { bar: ProgressBar::hidden(), connections_wanted: 0, publications_wanted: 0 }
    }

    pub fn enter(&self, stage: &str) {
        self.bar.set_prefix(stage.to_owned());
    }

    pub fn show(&self, connections: u64, received: &Tally, published: &PublishTally) {
        let (done, wanted) = if published.sent == 0 {
            (connections, self.connections_wanted)
        } else {
            (published.sent, self.publications_wanted)
        };
        self.bar.set_length(wanted.max(1));
        self.bar.set_position(done);
        self.bar.set_message(format!(
            "{connections} connections, {} failed · {} published, {} failed · {} delivered",
            received.failures.total(),
            published.sent,
            published.failures.total(),
            received.deliveries,
        ));
    }

    /// For runs that count nothing else.
    pub fn show_connections(&self, ready: u64, failed: u64) {
        self.bar.set_length(self.connections_wanted.max(1));
        self.bar.set_position(ready);
        self.bar.set_message(format!("{ready} connections, {failed} attempts failed"));
    }

    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
