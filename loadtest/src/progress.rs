//! The progress bar: one line, on a terminal only.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};

use crate::counts::{Published, Received};

/// The bar, which disappears when it is dropped.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    connections: u64,
    publications: u64,
}

impl Progress {
    /// Draws on standard error if that is a terminal. `connections` and `publications` are the numbers that the run is to
    /// reach; 0 publications if their number is not known.
    pub fn new(connections: u64, publications: u64, quiet: bool) -> Self {
        if quiet {
            return Self { bar: ProgressBar::hidden(), connections, publications };
        }
        let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{spinner} {elapsed:>4} {prefix:8} {bar:24} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar: bar.with_finish(ProgressFinish::AndClear), connections, publications }
    }

    pub fn enter(&self, stage: &str) {
        self.bar.set_prefix(stage.to_owned());
    }

    pub fn show(&self, connections: u64, received: &Received, published: &Published) {
        let begins = published.sent == 0;
        let (done, wanted) =
            if begins { (connections, self.connections) } else { (published.sent, self.publications) };
        self.bar.set_length(wanted.max(1));
        self.bar.set_position(done);
        self.bar.set_message(format!(
            "{connections} connections, {} failed · {} published, {} failed · {} delivered",
            received.connections.failures.total(),
            published.sent,
            published.failures.total(),
            received.deliveries.received,
        ));
    }
}
