//! What comes to a channel of many subscribers goes out in pieces, so that others get their turn in between.
//!
//! While a channel is swept, its list of live subscribers has two parts: those in front are still to be served, those
//! behind them have been. Whoever goes live meanwhile is put behind, being past what is under way. What comes to the
//! channel meanwhile waits until all are served; a subscriber who came after it gets it nonetheless, where the channel
//! has no stream whose position would tell.

use std::collections::VecDeque;
use std::sync::Arc;

use smallvec::SmallVec;

use super::Hub;
use super::bundle::Bundles;
use super::places::List;
use super::prepared::Prepared;
use super::subscriber::{Sink, Subscriber};

/// How many subscribers are served at a time: some two milliseconds, where a `send` takes four microseconds.
pub const SWEEP_PIECE: usize = 512;

/// No more than this waits behind a sweep: before more does, the sweep is finished. A queue that is emptied at leisure
/// would hide from publishers that the worker is behind.
pub(super) const WAITING_PUBLICATIONS_MAX: usize = 64;
pub(super) const WAITING_BYTES_MAX: usize = 64 << 10;

/// The channels that are being swept; the first goes on next.
#[derive(Debug)]
pub(super) struct Sweeps {
    piece: usize,
    under_way: VecDeque<UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    id: u32,
    now: Bundles,
    /// What came since it began.
    next: Vec<Arc<Prepared>>,
    next_bytes: usize,
}

impl Default for Sweeps {
    fn default() -> Self {
        Self { piece: SWEEP_PIECE, under_way: VecDeque::new() }
    }
}

impl Hub {
    /// Serves `piece` subscribers at a time in place of [`SWEEP_PIECE`].
    #[must_use]
    pub fn with_sweep_piece(mut self, piece: usize) -> Self {
        self.sweeps.piece = piece.max(1);
        self
    }

    /// Whether a channel is being swept: [`Hub::sweep_on`] has something to do.
    pub fn is_sweeping(&self) -> bool {
        !self.sweeps.under_way.is_empty()
    }

    /// Serves the next piece.
    pub fn sweep_on(&mut self, sink: &mut impl Sink) {
        if let Some(sweep) = self.sweeps.under_way.pop_front() {
            self.serve(sweep, self.sweeps.piece, sink);
        }
    }

    /// Serves all that is under way.
    pub fn finish_sweeps(&mut self, sink: &mut impl Sink) {
        while let Some(sweep) = self.sweeps.under_way.pop_front() {
            self.serve(sweep, usize::MAX, sink);
        }
    }

    /// Serves one connection out of turn, ahead of something that must not overtake what was published.
    pub fn serve_now(&mut self, key: u32, sink: &mut impl Sink) {
        let ids: SmallVec<[u32; 4]> = self.sweeps.under_way.iter().map(|sweep| sweep.id).collect();
        for id in ids {
            if self.places.get(key, id).is_none_or(|at| at.list() != List::Live) {
                continue;
            }
            let subscriber = self.take_turn(key, id);
            let Some(sweep) = self.sweeps.find(id) else { continue };
            if let Some(subscriber) = subscriber {
                sink.deliver(&[subscriber], &mut sweep.now);
            }
            // For what waits behind, nobody knows yet who is to get it.
            if !sweep.next.is_empty() {
                self.finish_sweep(id, sink);
            }
        }
    }

    /// Starts to serve all live subscribers of a channel, or serves them, if they are few.
    pub(super) fn begin_sweep(&mut self, id: u32, publications: &[Arc<Prepared>], sink: &mut impl Sink) {
        let Some(members) = self.channels.get_mut(id as usize) else { return };
        let count = members.live.len();
        if count == 0 {
            return;
        }
        let mut now = Bundles::new(publications);
        if count <= self.sweeps.piece {
            sink.deliver(&members.live, &mut now);
            sink.delivered(publications);
            return;
        }
        members.unserved = count as u32;
        self.sweeps.under_way.push_back(UnderWay { id, now, next: Vec::new(), next_bytes: 0 });
    }

    /// Has publications wait behind the sweep of their channel. Answers whether they do: there may be none, or none any
    /// more.
    pub(super) fn wait_for_sweep(
        &mut self,
        id: u32,
        publications: &[Arc<Prepared>],
        sink: &mut impl Sink,
    ) -> bool {
        let Some(sweep) = self.sweeps.find(id) else { return false };
        let waits = sweep.wait(publications);
        if !waits {
            self.finish_sweep(id, sink);
        }
        waits
    }

    pub(super) fn finish_sweep(&mut self, id: u32, sink: &mut impl Sink) {
        while let Some(sweep) = self.sweeps.take(id) {
            self.serve(sweep, usize::MAX, sink);
        }
    }

    fn serve(&mut self, mut sweep: UnderWay, count: usize, sink: &mut impl Sink) {
        let Some(members) = self.channels.get_mut(sweep.id as usize) else { return };
        let unserved = members.unserved as usize;
        let left = unserved.saturating_sub(count);
        members.unserved = left as u32;
        // All of them can have left.
        if left < unserved {
            let shared = self.serve_together(sweep.id, left..unserved, sink);
            sink.deliver(&self.channels[sweep.id as usize].live[left..unserved], &mut sweep.now);
            for (subscribers, other) in shared.iter().zip(&mut self.sweeps.under_way) {
                if !subscribers.is_empty() {
                    sink.deliver(subscribers, &mut other.now);
                }
            }
        }
        if left > 0 {
            self.sweeps.under_way.push_back(sweep);
            return;
        }
        sink.delivered(sweep.now.publications());
        self.advance_by(sweep.id, &sweep.next, sink);
    }

    /// Who of a piece is also still to be served in other channels has its turn there at the same time. Answers who, for
    /// each of the other sweeps.
    fn serve_together(
        &mut self,
        id: u32,
        piece: std::ops::Range<usize>,
        sink: &mut impl Sink,
    ) -> Vec<Vec<Subscriber>> {
        let mut shared = vec![Vec::new(); self.sweeps.under_way.len()];
        if shared.is_empty() {
            return shared;
        }
        for index in piece {
            let key = self.channels[id as usize].live[index].key;
            let mut is_shared = false;
            for (number, subscribers) in shared.iter_mut().enumerate() {
                let subscriber = self.take_turn(key, self.sweeps.under_way[number].id);
                is_shared |= subscriber.is_some();
                subscribers.extend(subscriber);
            }
            if is_shared {
                sink.gather(key);
            }
        }
        shared
    }

    /// If a connection is still to be served in a channel: from now on it has been.
    fn take_turn(&mut self, key: u32, id: u32) -> Option<Subscriber> {
        let at = self.places.get(key, id).filter(|at| at.list() == List::Live)?;
        let members = self.channels.get_mut(id as usize)?;
        let index = members.take_turn(at.index(), id, &mut self.places)?;
        Some(members.live[index])
    }
}

impl Sweeps {
    fn find(&mut self, id: u32) -> Option<&mut UnderWay> {
        self.under_way.iter_mut().find(|sweep| sweep.id == id)
    }

    fn take(&mut self, id: u32) -> Option<UnderWay> {
        let index = self.under_way.iter().position(|sweep| sweep.id == id)?;
        self.under_way.remove(index)
    }

    /// The channel is gone, and its number may be another's soon.
    pub(super) fn forget(&mut self, id: u32) {
        drop(self.take(id));
    }

    /// How many publications wait behind sweeps.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.under_way.iter().map(|sweep| sweep.next.len()).sum()
    }
}

impl UnderWay {
    /// Answers whether there was room.
    fn wait(&mut self, publications: &[Arc<Prepared>]) -> bool {
        let bytes: usize = publications.iter().map(|prepared| prepared.publication().data.bytes.len()).sum();
        let fits = self.next.len() + publications.len() <= WAITING_PUBLICATIONS_MAX
            && self.next_bytes + bytes <= WAITING_BYTES_MAX;
        if fits {
            self.next.extend_from_slice(publications);
            self.next_bytes += bytes;
        }
        fits
    }
}
