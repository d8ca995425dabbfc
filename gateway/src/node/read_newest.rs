//! Reads the newest value of each of a channel's keys for subscribers that join. Subscribers that join during a read share
//! the next one, because the current read may have begun too early for them.

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

/// The most keys in one page.
const PAGE_KEYS: u32 = 1_000;
/// The most bytes in one page, so that other answers on the link do not wait long behind it.
const PAGE_BYTES: u32 = 256 << 10;
/// How often the state is read from the beginning if the channel's stream starts anew meanwhile.
const READS_MAX: u32 = 3;

type SharedHistoryRead = Result<Arc<HistoryPage>, BrokerError>;

/// Reads in flight by channel, each with the subscribers that wait for the next one.
#[derive(Debug, Default)]
pub(super) struct NewestReads(Mutex<FxHashMap<Channel, ReadWaiters>>);

type ReadWaiters = Vec<oneshot::Sender<ReadTurn>>;

/// What a subscriber that waits for a read has to do.
#[derive(Debug)]
enum ReadTurn {
    Shared(SharedHistoryRead),
    /// Read, and share the result with these.
    Read(ReadWaiters),
}

/// A read in flight. When it ends or is given up, one of the subscribers that wait makes the next read.
struct NewestReadInFlight<'n> {
    node: &'n Node,
    channel: &'n Channel,
    waiting: ReadWaiters,
}

impl Node {
    /// Returns the newest values for a subscriber from which the channel's publications are held back already. With
    /// publications after the page's position the subscriber has everything.
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
            // A subscriber that is gone no longer listens.
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

    /// Returns `None` if the stream started anew between two pages.
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
            // Publications after the first page's position are delivered anyway. Until then their keys are left out, so that
            // no newer value is followed by an older one.
            publications.extend(page.entries.into_iter().filter(|entry| entry.offset() <= began_at.offset));
            if page.cursor.is_empty() {
                publications.sort_unstable_by_key(Publication::offset);
                if !keeping.stream.keeps_history() {
                    // Clients do not see offsets in a channel without history.
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
        // Subscribers that waited for a read that was given up wait for the next.
        let mut next = std::mem::take(&mut self.waiting);
        next.append(&mut reads.remove(self.channel).unwrap_or_default());
        while let Some(first) = next.pop() {
            match first.send(ReadTurn::Read(next)) {
                Ok(()) => {
                    reads.insert(self.channel.clone(), ReadWaiters::new());
                    return;
                }
                // The subscriber is gone.
                Err(ReadTurn::Read(others)) => next = others,
                Err(ReadTurn::Shared(_)) => return,
            }
        }
    }
}
