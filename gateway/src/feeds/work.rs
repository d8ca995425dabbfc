//! Publishes the records of one delivery: channel by channel, within each channel in the order of the records.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt;
use rustc_hash::FxHashMap;
use shared::channel::{CHANNEL_BYTES_MAX, Channel};

use super::record::RecordRequest;
use super::source::SettledRecord;
use crate::api;
use crate::broker::{BrokerError, Published};
use crate::node::Node;
use crate::telemetry::labels::PublicationSource;

/// The number of channels that are published to concurrently.
const CONCURRENT: usize = 64;

/// Records in flight.
#[derive(Debug)]
pub(super) struct RecordsInFlight {
    records: Vec<PendingRecord>,
    chains: Vec<Chain>,
}

#[derive(Debug)]
struct PendingRecord {
    position: Box<str>,
    /// `None`: the record cannot be published.
    wanted: Option<RecordRequest>,
    /// The number of channels that the record was not published to yet.
    open: usize,
    /// Whether the record was new to any of its channels.
    is_new: bool,
    /// Why the record will never be published, to one of its channels at least.
    dead: Option<String>,
    is_settled: bool,
}

/// The records for one channel, in order.
#[derive(Debug)]
struct Chain {
    channel: Box<str>,
    waiting: VecDeque<usize>,
}

/// The progress of a chain.
struct ChainProgress {
    chain: Chain,
    outcomes: Vec<(usize, Result<Published, String>)>,
    /// Why the chain is stuck, for now.
    failure: Option<BrokerError>,
}

/// Counts of finished records, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct RecordCounts {
    pub(super) published: u64,
    /// Records that had been published before.
    pub(super) repeated: u64,
    pub(super) dead: u64,
}

impl RecordsInFlight {
    /// Takes the position of each record, with its publication or why it has none.
    pub(super) fn new(records: impl Iterator<Item = (Box<str>, Result<RecordRequest, String>)>) -> Self {
        let mut work = Self { records: Vec::new(), chains: Vec::new() };
        let mut chains: FxHashMap<Box<str>, usize> = FxHashMap::default();
        for (at, (position, wanted)) in records.enumerate() {
            let (wanted, dead) = match wanted {
                Ok(wanted) => (Some(wanted), None),
                Err(why) => (None, Some(why)),
            };
            let channels = wanted.as_ref().map_or(&[][..], |wanted| &wanted.channels);
            for channel in channels {
                let chain = *chains.entry(channel.clone()).or_insert_with(|| {
                    work.chains.push(Chain { channel: channel.clone(), waiting: VecDeque::new() });
                    work.chains.len() - 1
                });
                work.chains[chain].waiting.push_back(at);
            }
            let open = channels.len();
            let is_settled = false;
            work.records.push(PendingRecord { position, wanted, open, is_new: false, dead, is_settled });
        }
        work
    }

    /// Returns how many records are unfinished.
    pub(super) fn held(&self) -> usize {
        self.records.iter().filter(|record| !record.is_settled).count()
    }

    /// Publishes as much as it can. Returns an error if there are records left that may be published later.
    pub(super) async fn publish(&mut self, node: &Node) -> Option<BrokerError> {
        let chains = std::mem::take(&mut self.chains);
        // Once one channel is stuck, others of that part of the broker need not fail one after the other.
        let stuck: Vec<AtomicBool> = (0..node.parts().max(1)).map(|_| AtomicBool::new(false)).collect();
        let came: Vec<ChainProgress> = {
            let records = &self.records;
            let running = chains.into_iter().map(|chain| {
                let channel = Channel::parse_unicode(&chain.channel, CHANNEL_BYTES_MAX).ok();
                // An invalid channel is refused before it reaches any part.
                let part = channel.map_or(0, |channel| node.part_of(&channel));
                follow(chain, records, node, &stuck[part.min(stuck.len() - 1)])
            });
            futures_util::stream::iter(running).buffer_unordered(CONCURRENT).collect().await
        };
        let mut failure = None;
        for ChainProgress { chain, outcomes, failure: failed } in came {
            for (at, outcome) in outcomes {
                let record = &mut self.records[at];
                record.open -= 1;
                match outcome {
                    Ok(published) => record.is_new |= !published.duplicate,
                    Err(why) => record.dead = Some(format!("channel {}: {why}", chain.channel)),
                }
            }
            if !chain.waiting.is_empty() {
                self.chains.push(chain);
            }
            failure = failure.or(failed);
        }
        failure
    }

    /// Returns the records that have been finished since the last call.
    pub(super) fn take_settled(&mut self) -> (Vec<SettledRecord>, RecordCounts) {
        let mut counts = RecordCounts::default();
        let mut settled = Vec::new();
        for record in self.records.iter_mut().filter(|record| record.open == 0 && !record.is_settled) {
            record.is_settled = true;
            match (&record.dead, record.is_new) {
                (Some(_), _) => counts.dead += 1,
                (None, true) => counts.published += 1,
                (None, false) => counts.repeated += 1,
            }
            // Frees the memory of the publication.
            record.wanted = None;
            settled.push(SettledRecord { position: record.position.clone(), dead: record.dead.take() });
        }
        (settled, counts)
    }
}

/// Publishes the records of a chain in order, until one fails for now. The records behind it wait.
async fn follow(
    mut chain: Chain,
    records: &[PendingRecord],
    node: &Node,
    is_stuck: &AtomicBool,
) -> ChainProgress {
    let mut outcomes = Vec::with_capacity(chain.waiting.len());
    let mut failure = None;
    while let Some(&at) = chain.waiting.front() {
        if is_stuck.load(Ordering::Relaxed) {
            break;
        }
        let Some(wanted) = &records[at].wanted else { break };
        match publish(&chain.channel, wanted, node).await {
            Ok(outcome) => outcomes.push((at, outcome)),
            Err(error) => {
                is_stuck.store(true, Ordering::Relaxed);
                failure = Some(error);
                break;
            }
        }
        chain.waiting.pop_front();
    }
    ChainProgress { chain, outcomes, failure }
}

/// Publishes to one channel. Returns the final result, or the error because of which it must be tried again.
async fn publish(
    channel: &str,
    wanted: &RecordRequest,
    node: &Node,
) -> Result<Result<Published, String>, BrokerError> {
    let request = api::channel(&node.rules(), channel)
        .and_then(|(channel, options)| wanted.message.to(channel, &options));
    let request = match request {
        Ok(request) => request,
        Err(refused) => return Ok(Err(refused.message())),
    };
    let namespace = node.namespace_of(&request.channel);
    match node.publish(request).await {
        Ok(published) => {
            node.metrics.publication_in(namespace, PublicationSource::Feed);
            Ok(Ok(published))
        }
        Err(error) if is_for_good(&error) => Ok(Err(error.to_string())),
        Err(error) => Err(error),
    }
}

/// Whether a retry cannot help. Where the room of all channels is used up there will be some once keys have expired or
/// were removed, so the record waits, as it does for a broker that is away. A limit of the channel's own settings is
/// the record's fault.
fn is_for_good(error: &BrokerError) -> bool {
    matches!(error, BrokerError::NotAvailable | BrokerError::Full)
}
