//! What comes to a channel of many subscribers goes out in pieces, so that others get their turn in between.
//!
//! While a channel is swept, its list of live subscribers has two parts: those in front are still to be served, those
//! behind them have been. Whoever goes live meanwhile is put behind, being past what is under way. What comes to the
//! channel meanwhile waits until all are served, and then leaves as one.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Hub;
use super::prepared::Prepared;
use super::subscriber::Sink;

/// How many subscribers are served at a time: some two milliseconds, where a `send` takes four microseconds.
pub const SWEEP_PIECE: usize = 512;

/// No more than this waits behind a sweep: then the sweep is finished at once, and what waits as well. A queue that is
/// emptied at leisure would hide from publishers that the worker is behind.
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
    now: Vec<Arc<Prepared>>,
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

    /// Serves all that is under way, ahead of something that must not overtake it.
    pub fn finish_sweeps(&mut self, sink: &mut impl Sink) {
        while let Some(sweep) = self.sweeps.under_way.pop_front() {
            self.serve(sweep, usize::MAX, sink);
        }
    }

    /// The same for one channel.
    pub(super) fn finish_sweep(&mut self, id: u32, sink: &mut impl Sink) {
        while let Some(sweep) = self.sweeps.take(id) {
            self.serve(sweep, usize::MAX, sink);
        }
    }

    /// Starts to serve all live subscribers of a channel, with at most a piece of them.
    pub(super) fn begin_sweep(&mut self, id: u32, publications: &[Arc<Prepared>], sink: &mut impl Sink) {
        let Some(members) = self.channels.get_mut(id as usize) else { return };
        let count = members.live.len();
        if count == 0 {
            return;
        }
        if count <= self.sweeps.piece {
            sink.deliver(&members.live, publications);
            sink.delivered(publications);
            return;
        }
        members.unserved = count as u32;
        let sweep = UnderWay { id, now: publications.to_vec(), next: Vec::new(), next_bytes: 0 };
        self.serve(sweep, self.sweeps.piece, sink);
    }

    /// Has publications wait behind the sweep of their channel. Answers whether there is one.
    pub(super) fn wait_for_sweep(
        &mut self,
        id: u32,
        publications: &[Arc<Prepared>],
        sink: &mut impl Sink,
    ) -> bool {
        let Some(sweep) = self.sweeps.under_way.iter_mut().find(|sweep| sweep.id == id) else { return false };
        sweep.next.extend_from_slice(publications);
        sweep.next_bytes +=
            publications.iter().map(|prepared| prepared.publication().data.bytes.len()).sum::<usize>();
        if sweep.next.len() > WAITING_PUBLICATIONS_MAX || sweep.next_bytes > WAITING_BYTES_MAX {
            self.finish_sweep(id, sink);
        }
        true
    }

    fn serve(&mut self, sweep: UnderWay, count: usize, sink: &mut impl Sink) {
        let Some(members) = self.channels.get_mut(sweep.id as usize) else { return };
        let unserved = members.unserved as usize;
        let left = unserved.saturating_sub(count);
        // All of them can have left.
        if left < unserved {
            sink.deliver(&members.live[left..unserved], &sweep.now);
        }
        members.unserved = left as u32;
        if left > 0 {
            self.sweeps.under_way.push_back(sweep);
            return;
        }
        sink.delivered(&sweep.now);
        self.advance_by(sweep.id, &sweep.next, sink);
    }
}

impl Sweeps {
    fn take(&mut self, id: u32) -> Option<UnderWay> {
        let index = self.under_way.iter().position(|sweep| sweep.id == id)?;
        self.under_way.remove(index)
    }

    /// The channel is gone, and its number may be another's soon.
    pub(super) fn forget(&mut self, id: u32) {
        drop(self.take(id));
    }

    /// How many publications wait behind the sweep of a channel.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.under_way.iter().map(|sweep| sweep.next.len()).sum()
    }
}
