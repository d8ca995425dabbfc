//! Reads publications, waits until each is due, sends them, and counts the results.

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::sync::mpsc;

use super::pace::{Pace, PublishRate};
use super::publish_client::{PublishClient, PublishOutcome, SendError};
use super::read_lines::{InputItem, InputLine, InputOptions, InputSource};
use crate::secret::{Secret, SecretFileError};

/// The most lines that are read ahead.
const LINES_MAX: usize = 1_024;

/// The most publications in one request, and the approximate most bytes.
const BATCH_MAX: usize = 500;
const BATCH_BYTES_MAX: usize = 512 * 1024;

/// How long to wait for the answer to the last request once publishing should stop.
const LAST_ANSWER: Duration = Duration::from_secs(2);

/// The most complaints of one kind that are printed; all are counted.
const COMPLAINTS_MAX: u64 = 20;

/// Publish prices, or lines of `channel<TAB>json`, to a running gateway.
#[derive(Clone, Debug, Args)]
pub struct PublishArgs {
    /// URL of the server API.
    #[arg(long, default_value = "http://127.0.0.1:8000/api")]
    pub url: String,
    /// A key of the server API (api.keys).
    #[arg(long, env = "TIDEGATE_API_KEY", hide_env_values = true, default_value = "")]
    pub key: String,
    /// A file whose first line is the key, such as the file of api.keys_file.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_API_KEY_FILE", conflicts_with = "key")]
    pub key_file: Option<PathBuf>,
    /// A file of prices (date,symbol,open,high,low,close,volume) or of `channel<TAB>json` lines; `-` for standard input.
    /// Default: the prices that come with the gateway.
    #[arg(long)]
    pub file: Option<PathBuf>,
    /// Rate of publications per second (100/s), minute (30/m) or hour (10/h), or `max`.
    #[arg(long, default_value = "10/s")]
    pub rate: PublishRate,
    /// Start again at the end of the file.
    #[arg(long = "loop")]
    pub again: bool,
    /// Prefix of every channel. Default: `prices:` for symbols, and none for channels.
    #[arg(long, value_name = "PREFIX")]
    pub channel_prefix: Option<String>,
    /// Time for which requests are retried when the gateway does not answer, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub retry_s: u64,
    /// Send no idempotency keys: saves memory of the gateway, but a retry may publish twice.
    #[arg(long)]
    pub without_idempotency: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("--loop needs a file: standard input cannot be read again")]
    LoopOverInput,
    #[error("{from} cannot be read: {error}")]
    Read { from: String, error: std::io::Error },
    #[error(transparent)]
    Key(#[from] SecretFileError),
    #[error(transparent)]
    Send(#[from] SendError),
}

/// The totals of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    pub published: u64,
    /// Publications that the gateway has refused.
    pub refused: u64,
    pub bad_lines: u64,
    /// Publications that were read and not sent, because publishing could not go on.
    pub unsent: u64,
    /// Requests that were sent again.
    pub retries: u64,
    pub took: Duration,
    /// The longest a publication was overdue.
    pub late_max: Duration,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        self.refused == 0 && self.bad_lines == 0 && self.unsent == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        write!(
            f,
            "published {} in {seconds:.1} s ({:.0}/s), refused {}, bad lines {}, unsent {}, retried {} requests, at \
             most {} ms late",
            self.published,
            self.published as f64 / seconds.max(0.001),
            self.refused,
            self.bad_lines,
            self.unsent,
            self.retries,
            self.late_max.as_millis(),
        )
    }
}

/// Publishes all input, until its end or until `stop` is ready. `complain` receives what is wrong with single lines.
/// The report also covers what was done before an error.
pub async fn publish(
    args: &PublishArgs,
    stop: impl Future<Output = ()>,
    mut complain: impl FnMut(&str),
) -> (Report, Result<(), PublishError>) {
    let mut report = Report::default();
    let begun = Instant::now();
    let result = run(args, stop, &mut complain, &mut report, begun).await;
    report.took = begun.elapsed();
    (report, result)
}

async fn run(
    args: &PublishArgs,
    stop: impl Future<Output = ()>,
    complain: &mut impl FnMut(&str),
    report: &mut Report,
    begun: Instant,
) -> Result<(), PublishError> {
    let source = match &args.file {
        None => InputSource::Shipped,
        Some(path) if path.as_os_str() == "-" => InputSource::StandardInput,
        Some(path) => InputSource::File(path.clone()),
    };
    if source == InputSource::StandardInput && args.again {
        return Err(PublishError::LoopOverInput);
    }
    let retry_for = Duration::from_secs(args.retry_s);
    let key = match &args.key_file {
        Some(file) => Secret::first_of_file(file)?,
        None => Secret::new(&args.key),
    };
    let mut sender = PublishClient::new(&args.url, &key, retry_for, !args.without_idempotency)?;
    let (lines, mut taken) = mpsc::channel(LINES_MAX);
    let reading = InputOptions { source, again: args.again, prefix: args.channel_prefix.clone() };
    let from = args.file.as_ref().map_or("the shipped prices".to_owned(), |path| path.display().to_string());
    // Reading may block for ever, on a terminal for instance, so the thread is joined only if it has finished.
    let reader = std::thread::spawn(move || reading.run(&lines));

    let mut pace = Pace::new(args.rate);
    let mut stop = std::pin::pin!(stop);
    let ended = loop {
        let due = match pace.due(begun.elapsed()) {
            Ok(due) => due.min(BATCH_MAX),
            Err(wait) => {
                tokio::select! {
                    () = tokio::time::sleep(wait) => continue,
                    () = &mut stop => break false,
                }
            }
        };
        let waiting = Instant::now();
        let first = tokio::select! {
            first = taken.recv() => first,
            () = &mut stop => break false,
        };
        pace.idle(waiting.elapsed());
        let Some(first) = first else { break true };
        let batch = gather(first, due, &mut taken, report, complain);
        if batch.is_empty() {
            continue;
        }
        pace.take(begun.elapsed(), batch.len());
        report.late_max = pace.late_max;
        let (sent, stopped) = {
            let mut sending = std::pin::pin!(sender.send(&batch, complain));
            tokio::select! {
                sent = &mut sending => (Some(sent), false),
                // The request in flight is completed, unless the gateway does not answer.
                () = &mut stop => (tokio::time::timeout(LAST_ANSWER, &mut sending).await.ok(), true),
            }
        };
        report.retries = sender.retries;
        let Some(sent) = sent else {
            report.unsent += batch.len() as u64;
            break false;
        };
        let outcomes = sent.inspect_err(|_| report.unsent += batch.len() as u64)?;
        count(&batch, outcomes, report, complain);
        if stopped {
            break false;
        }
    };
    if ended && let Ok(Err(error)) = reader.join() {
        return Err(PublishError::Read { from, error });
    }
    Ok(())
}

fn count(
    batch: &[InputItem],
    outcomes: Vec<PublishOutcome>,
    report: &mut Report,
    complain: &mut impl FnMut(&str),
) {
    for (item, outcome) in batch.iter().zip(outcomes) {
        match outcome {
            Ok(()) => report.published += 1,
            Err(problem) => {
                report.refused += 1;
                if report.refused <= COMPLAINTS_MAX {
                    complain(&format!("{}: {problem}", item.channel));
                }
            }
        }
    }
}

/// Returns the first line and those that have been read already, as far as they fit into one request.
fn gather(
    first: InputLine,
    due: usize,
    taken: &mut mpsc::Receiver<InputLine>,
    report: &mut Report,
    complain: &mut impl FnMut(&str),
) -> Vec<InputItem> {
    let mut batch = Vec::with_capacity(due.min(BATCH_MAX));
    let mut bytes = 0;
    let mut next = Some(first);
    while let Some(line) = next {
        match line {
            InputLine::Item(item) => {
                bytes += item.channel.len() + item.data.len();
                batch.push(item);
            }
            InputLine::Bad(problem) => {
                report.bad_lines += 1;
                if report.bad_lines <= COMPLAINTS_MAX {
                    complain(&problem);
                }
            }
        }
        let full = batch.len() >= due || bytes >= BATCH_BYTES_MAX;
        next = if full { None } else { taken.try_recv().ok() };
    }
    batch
}

#[cfg(test)]
mod tests;
