//! The newest value of each of a channel's keys, for those who come: read once for all who come while another read is under
//! way, which may have begun too early for them.

use std::sync::Arc;

use gateway_core::history::HistoryPage;
use gateway_core::map::{MapRetention, StateFilter};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use shared::channel::Channel;
use shared::publication::Publication;
use tokio::sync::oneshot;

use crate::broker::BrokerError;
use crate::node::Node;
use crate::telemetry::labels::HistorySource;

/// Keys of one page.
const PAGE_KEYS: u32 = 1_000;
/// And bytes, so that nobody's answer stands long behind it.
const PAGE_BYTES: u32 = 256 << 10;
/// How often it is read from the beginning if the channel's stream begins anew meanwhile.
const READS_MAX: u32 = 3;

type SharedHistoryRead = Result<Arc<HistoryPage>, BrokerError>;

/// Reads that are in flight, by channel, with those who wait for the next.
#[derive(Debug, Default)]
pub(super) struct NewestReads(Mutex<FxHashMap<Channel, ReadWaiters>>);

type ReadWaiters = Vec<oneshot::Sender<ReadTurn>>;

/// What comes of waiting for a read.
#[derive(Debug)]
enum ReadTurn {
    Shared(SharedHistoryRead),
    /// Read, and tell these.
    Read(ReadWaiters),
}

/// A read. Whoever waits for the next has it, also if this one is given up.
struct NewestReadInFlight<'n> {
    node: &'n Node,
    channel: &'n Channel,
    waiting: ReadWaiters,
}

impl Node {
    /// For somebody from whom publications of the channel are held back already: with what comes after the page's position
    /// they have all.
    pub(crate) async fn newest(
        &self,
        channel: &Channel,
        keeping: MapRetention,
    ) -> Result<HistoryPage, BrokerError> {
        let waits = match self.newest_reads.0.lock().entry(channel.clone()) {
            std::collections::hash_map::Entry::Occupied(mut entry) => {
                let (sender, receiver) = oneshot::channel();
                entry.get_mut().push(sender);
                Some(receiver)
            }
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert(ReadWaiters::new());
                None
            }
        };
        let waiting = match waits {
            None => ReadWaiters::new(),
            Some(turn) => match turn.await {
                Ok(ReadTurn::Shared(read)) => {
                    self.metrics.catch_up_answered(HistorySource::EarlierRead);
                    return read.map(|page| HistoryPage::clone(&page));
                }
                Ok(ReadTurn::Read(waiting)) => waiting,
                Err(_) => return Err(BrokerError::Unexpected("a read of newest values was given up".into())),
            },
        };
        let mut in_flight = NewestReadInFlight { node: self, channel, waiting };
        self.metrics.catch_up_answered(HistorySource::Read);
        let read = self.read_newest(channel, keeping).await.map(Arc::new);
        for waiting in in_flight.waiting.drain(..) {
            // Whoever has gone does not listen any more.
            let _ = waiting.send(ReadTurn::Shared(read.clone()));
        }
        drop(in_flight);
        read.map(Arc::unwrap_or_clone)
    }

    async fn read_newest(
        &self,
        channel: &Channel,
        keeping: MapRetention,
    ) -> Result<HistoryPage, BrokerError> {
        for _ in 0..READS_MAX {
            if let Some(page) = self.read_newest_once(channel, keeping).await? {
                return Ok(page);
            }
        }
        Err(BrokerError::Unexpected("a channel began anew each time its newest values were read".into()))
    }

    /// `None`: it began anew in between.
    async fn read_newest_once(
        &self,
        channel: &Channel,
        keeping: MapRetention,
    ) -> Result<Option<HistoryPage>, BrokerError> {
        let mut filter = StateFilter { limit: PAGE_KEYS, enough_bytes: PAGE_BYTES, ..StateFilter::default() };
        let (mut publications, mut top) = (Vec::new(), None);
        loop {
            let page = self.read_state(channel.clone(), filter.clone(), keeping).await?;
            let Some(stands) = page.top else {
                return Err(BrokerError::Unexpected("newest values stand nowhere".into()));
            };
            let began_at = *top.get_or_insert(stands);
            if stands.epoch != began_at.epoch {
                return Ok(None);
            }
            // What was published since the first page comes by itself. Before that comes there is nothing of its key,
            // rather than something that is followed by older values.
            publications.extend(page.entries.into_iter().filter(|entry| entry.offset() <= began_at.offset));
            if page.cursor.is_empty() {
                publications.sort_unstable_by_key(Publication::offset);
                if !keeping.stream.keeps_history() {
                    // Clients do not see the numbers of a channel without a stream.
                    publications.iter_mut().for_each(|publication| publication.position = None);
                }
                return Ok(Some(HistoryPage { publications, top: began_at }));
            }
            filter.cursor = page.cursor;
        }
    }
}

impl Drop for NewestReadInFlight<'_> {
    fn drop(&mut self) {
        let mut reads = self.node.newest_reads.0.lock();
        // Those who waited for a read that was given up wait for the next.
        let mut next = std::mem::take(&mut self.waiting);
        next.append(&mut reads.remove(self.channel).unwrap_or_default());
        while let Some(first) = next.pop() {
            match first.send(ReadTurn::Read(next)) {
                Ok(()) => {
                    reads.insert(self.channel.clone(), ReadWaiters::new());
                    return;
                }
                // It has gone.
                Err(ReadTurn::Read(others)) => next = others,
                Err(ReadTurn::Shared(_)) => return,
            }
        }
    }
}
