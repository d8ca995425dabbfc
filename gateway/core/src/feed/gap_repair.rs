//! A gap that is being repaired: what is held behind it, and what is known to be missing.

use std::collections::VecDeque;

use shared::position::StreamPosition;
use shared::publication::Publication;

use super::{FEED_HELD_BYTES_MAX, FEED_HELD_PUBLICATIONS_MAX};

/// A gap for which history is read.
#[derive(Debug, Default)]
pub(super) struct GapRepair {
    /// Publications that came since, in order.
    pub(super) held: VecDeque<Publication>,
    pub(super) bytes: usize,
    /// The position of the last publication that came, held or not.
    pub(super) received: Option<StreamPosition>,
    /// Whether history was found to join on to what was delivered.
    pub(super) is_joined: bool,
    /// Whether nothing is known to be missing, but something came twice.
    pub(super) doubtful: bool,
    /// Whether the broker assigns the epoch's offsets again, and has yet to leave the epoch.
    pub(super) leave: bool,
    /// A position that the stream is known to have reached beside what is held: there was no room to hold it, or a check
    /// found it.
    pub(super) expected: Option<StreamPosition>,
    /// How many reads in a row brought nothing, and how many failed.
    pub(super) fruitless: u32,
    pub(super) failed: u32,
}

impl GapRepair {
    pub(super) fn hold(&mut self, publication: Publication) {
        self.bytes += publication.data.bytes.len();
        self.held.push_back(publication);
        if self.held.len() > FEED_HELD_PUBLICATIONS_MAX || self.bytes > FEED_HELD_BYTES_MAX {
            if let Some(last) = self.held.back().and_then(|last| last.position) {
                self.expect(last);
            }
            self.held = VecDeque::new();
            self.bytes = 0;
        }
    }

    pub(super) fn expect(&mut self, position: StreamPosition) {
        match &mut self.expected {
            Some(expected) if expected.epoch == position.epoch && expected.offset >= position.offset => {}
            expected => *expected = Some(position),
        }
    }

    pub(super) fn next_if(&mut self, wanted: impl FnOnce(StreamPosition) -> bool) -> Option<Publication> {
        self.held.front().and_then(|next| next.position).filter(|&stands| wanted(stands))?;
        let next = self.held.pop_front()?;
        self.bytes -= next.data.bytes.len();
        Some(next)
    }

    /// Drops held publications that history has brought meanwhile.
    pub(super) fn forget(&mut self, at: StreamPosition) {
        while self.next_if(|stands| stands.epoch == at.epoch && stands.offset <= at.offset).is_some() {}
    }
}
