//! What comes to a channel of many subscribers goes out in pieces, so that others get their turn in between.
//!
//! While a channel is swept, its list of live subscribers has two parts: those in front are still to be served, those
//! behind them have been. Whoever goes live meanwhile is put behind, being past what is under way. What comes to the
//! channel meanwhile waits until all are served; a subscriber who came after it gets it nonetheless, where the channel
//! has no stream whose position would tell.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use shared::channel::Channel;
use shared::position::StreamPosition;
use smallvec::SmallVec;

use super::Hub;
use super::bundle::Bundles;
use super::members::{Members, Waiting};
use super::places::{List, Place};
use super::prepared::Prepared;
use super::subscriber::{Sink, Subscriber};

/// How many subscribers are served at a time: some two milliseconds, where a `send` takes four microseconds.
pub const SWEEP_PIECE: usize = 512;

/// Fewer, where together they would be sent more payload bytes than this.
pub(super) const SWEEP_BYTES: usize = 1 << 20;

/// The most payload bytes of other channels that a piece's subscribers are given with it. Those for whom that is too
/// much get the rest when it is its turn.
const SWEEP_TOGETHER_BYTES: usize = 8 << 20;

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
    /// What each subscriber is sent of payload, in bytes.
    bytes: usize,
    /// What came since it began.
    next: Vec<Arc<Prepared>>,
    next_bytes: usize,
    /// The same for those who leave before it is their turn, once anyone has: for who is told of a hole, and who is not.
    next_bundles: [Option<Bundles>; 2],
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
            let piece = self.sweeps.piece_of(sweep.bytes);
            self.serve(sweep, piece, sink);
        }
    }

    /// Serves all that is under way.
    pub fn finish_sweeps(&mut self, sink: &mut impl Sink) {
        while let Some(sweep) = self.sweeps.under_way.pop_front() {
            self.serve(sweep, usize::MAX, sink);
        }
    }

    /// Serves one connection out of turn that is about to leave this channel, or all of its channels: it gets what was
    /// published before that, and then nothing more.
    pub fn serve_last(&mut self, key: u32, channel: Option<&Channel>, sink: &mut impl Sink) {
        let only = channel.map(|channel| self.ids.get(channel.as_str()).copied());
        for sweep in &mut self.sweeps.under_way {
            let id = sweep.id;
            let (Some(at), Some(members)) = (self.places.get(key, id), self.channels.get_mut(id as usize))
            else {
                continue;
            };
            if only.is_some_and(|only| only != Some(id)) {
                continue;
            }
            match at.list() {
                List::Live => {
                    let subscriber = members.live[at.index()];
                    if at.index() < members.unserved as usize {
                        sink.deliver(&[subscriber], &mut sweep.now);
                    }
                    sweep.deliver_next(members.stream, subscriber, sink);
                }
                List::Waiting => {
                    let waiting = members.aside.as_ref().and_then(|aside| aside.waiting.get(at.index()));
                    let Some(&Waiting { subscriber, position }) = waiting else { continue };
                    let next = Members::after(Some(position), subscriber.positioned, &sweep.next);
                    if !next.is_empty() {
                        sink.deliver(&[subscriber], &mut Bundles::new(&next));
                    }
                }
                List::Joining | List::Told => continue,
            }
            self.held_bytes -= members.take_out(at, id, &mut self.places);
            members.make_told(key, id, &mut self.places);
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
        if count <= self.sweeps.piece_of(bytes(publications)) {
            sink.deliver(&members.live, &mut now);
            sink.delivered(publications);
            return;
        }
        members.unserved = count as u32;
        self.sweeps.under_way.push_back(UnderWay::new(id, now));
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
            let together = self.take_turns_with(sweep.id, left..unserved, sink);
            sink.deliver(&self.channels[sweep.id as usize].live[left..unserved], &mut sweep.now);
            for (id, subscribers) in &together {
                if let Some(other) = self.sweeps.find(*id) {
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

    /// Who of a piece is also still to be served in other channels has its turn there at the same time. Answers who that
    /// is, by channel.
    fn take_turns_with(
        &mut self,
        id: u32,
        piece: Range<usize>,
        sink: &mut impl Sink,
    ) -> Vec<(u32, Vec<Subscriber>)> {
        let mut together: Vec<(u32, Vec<Subscriber>)> = Vec::new();
        if self.sweeps.under_way.is_empty() {
            return together;
        }
        // The most that one of them can be sent beside this. Mostly that need not be looked at more closely.
        let most: usize = self.sweeps.under_way.iter().map(|sweep| sweep.bytes).sum();
        let keys = SWEEP_TOGETHER_BYTES / most.max(1);
        for index in piece.take(keys.max(1)) {
            let key = self.channels[id as usize].live[index].key;
            let channels = &self.channels;
            let is_unserved = |place: &Place| {
                place.channel != id
                    && place.at.list() == List::Live
                    && channels
                        .get(place.channel as usize)
                        .is_some_and(|members| place.at.index() < members.unserved as usize)
            };
            let (row, under_way) = (self.places.row(key), &self.sweeps.under_way);
            let others: SmallVec<[Place; 4]> = if row.len() <= under_way.len() {
                row.iter().copied().filter(is_unserved).collect()
            } else {
                let place = |channel| Some(Place { channel, at: self.places.get(key, channel)? });
                under_way.iter().filter_map(|sweep| place(sweep.id)).filter(is_unserved).collect()
            };
            if !others.is_empty() {
                sink.gather(key);
            }
            for Place { channel, at } in others {
                let members = &mut self.channels[channel as usize];
                let Some(served) = members.take_turn(at.index(), channel, &mut self.places) else { continue };
                let subscriber = members.live[served];
                match together.iter_mut().find(|(of, _)| *of == channel) {
                    Some((_, subscribers)) => subscribers.push(subscriber),
                    None => together.push((channel, vec![subscriber])),
                }
            }
        }
        together
    }
}

impl Sweeps {
    /// How many subscribers are served at a time, when each is sent so many bytes.
    fn piece_of(&self, bytes: usize) -> usize {
        (SWEEP_BYTES / bytes.max(1)).clamp(1, self.piece)
    }

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

fn bytes(publications: &[Arc<Prepared>]) -> usize {
    publications.iter().map(|prepared| prepared.publication().data.bytes.len()).sum()
}

impl UnderWay {
    fn new(id: u32, now: Bundles) -> Self {
        let bytes = bytes(now.publications());
        Self { id, now, bytes, next: Vec::new(), next_bytes: 0, next_bundles: [None, None] }
    }

    /// Delivers what waits to one who is live, while the stream is at `stream`.
    fn deliver_next(&mut self, stream: Option<StreamPosition>, subscriber: Subscriber, sink: &mut impl Sink) {
        let bundles = self.next_bundles[usize::from(subscriber.positioned)]
            .get_or_insert_with(|| Bundles::new(&Members::after(stream, subscriber.positioned, &self.next)));
        if !bundles.publications().is_empty() {
            sink.deliver(&[subscriber], bundles);
        }
    }

    /// Answers whether there was room.
    fn wait(&mut self, publications: &[Arc<Prepared>]) -> bool {
        let bytes = bytes(publications);
        let fits = self.next.len() + publications.len() <= WAITING_PUBLICATIONS_MAX
            && self.next_bytes + bytes <= WAITING_BYTES_MAX;
        if fits {
            self.next.extend_from_slice(publications);
            self.next_bundles = [None, None];
            self.next_bytes += bytes;
        }
        fits
    }
}
