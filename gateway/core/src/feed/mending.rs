//! A gap while it is mended: what is held back behind it, and what is known of what is missing.

use std::collections::VecDeque;

use shared::position::StreamPosition;
use shared::publication::Publication;

use super::{FEED_HELD_BYTES_MAX, FEED_HELD_PUBLICATIONS_MAX};

/// A gap that history is asked about.
#[derive(Debug, Default)]
pub(super) struct Mending {
    /// What came since, in its order.
    pub(super) held: VecDeque<Publication>,
    pub(super) bytes: usize,
    /// The last that came, held or not.
    pub(super) heard: Option<StreamPosition>,
    /// History was seen to join on to what was given out.
    pub(super) is_joined: bool,
    /// Nothing is known to be missing: something came twice.
    pub(super) doubtful: bool,
    /// Offsets of the epoch are given out again, and it has yet to be left.
    pub(super) leave: bool,
    /// What is known to be in the stream beside what is held: there was no room for it, or a check found it.
    pub(super) expected: Option<StreamPosition>,
    /// Reads that brought nothing, and such that failed, one after the other.
    pub(super) fruitless: u32,
    pub(super) failed: u32,
}

impl Mending {
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

    /// Lets go of what history has brought meanwhile.
    pub(super) fn forget(&mut self, at: StreamPosition) {
        while self.next_if(|stands| stands.epoch == at.epoch && stands.offset <= at.offset).is_some() {}
    }
}
