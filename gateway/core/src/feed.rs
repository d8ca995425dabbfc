//! One channel's publications in order on one node, with gaps mended from history before any subscriber notices.
//!
//! The owner passes everything on in the order in which it is given out here: several calls for one channel must
//! not overtake each other. A channel without a stream passes through.

use std::collections::VecDeque;

use shared::position::StreamPosition;
use shared::publication::Publication;

use crate::history::HistoryPage;

/// Publications held while a gap is mended. Beyond this they are read from history again.
pub const FEED_HELD_PUBLICATIONS_MAX: usize = 1024;
/// Bytes held while a gap is mended.
pub const FEED_HELD_BYTES_MAX: usize = 1 << 20;
/// Reads of history that may fail or bring nothing, one after the other, before a gap is given up.
pub const MEND_ATTEMPTS_MAX: u32 = 5;

/// What a node knows of the stream of one channel.
#[derive(Debug, Default)]
pub struct Feed {
    known: Known,
    /// Where a check found the stream, ahead of this node. If it is real, the next check finds it again.
    suspicion: Option<StreamPosition>,
    mending: Option<Box<Mending>>,
}

/// What to do with a publication that came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Admission {
    Deliver(Publication),
    /// It came before.
    Duplicate,
    /// It is kept until the gap before it is mended.
    Held,
    /// Something before it did not come. It is kept: read history after this offset and call [`Feed::mend`].
    Gap {
        since: u64,
    },
}

/// What workers are told, in this order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Delivery {
    Publication(Publication),
    /// What did not come up to here will not come.
    Lost(StreamPosition),
}

/// What came of an attempt to mend a gap.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mended {
    pub deliveries: Vec<Delivery>,
    /// Not all is mended: read history after this offset and call again.
    pub again: Option<u64>,
}

/// How sure it is that what has not come by now will not come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// Nothing is known to be wrong. What is ahead of this node may still be on its way.
    Routine,
    /// The link was lost and is back.
    AfterLoss,
}

/// What came of comparing this node with the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Check {
    Fine,
    /// The stream is ahead. Look again, once what is on its way must have come.
    Suspicious,
    /// Read history after this offset and call [`Feed::mend`].
    Missing {
        since: u64,
    },
    /// The stream is another one: tell the workers this.
    Lost(StreamPosition),
}

impl Feed {
    /// A publication came from the broker.
    pub fn admit(&mut self, publication: Publication) -> Admission {
        let Some(comes) = publication.position else { return Admission::Deliver(publication) };
        if let Some(mending) = &mut self.mending {
            if self.known.includes(comes) {
                return Admission::Duplicate;
            }
            mending.hold(publication);
            return Admission::Held;
        }
        match self.known {
            Known::Arrived(_) if self.known.includes(comes) => return Admission::Duplicate,
            // What a subscriber knows from history may come to this node later.
            Known::Arrived(at) | Known::Anchored(at)
                if at.epoch == comes.epoch && comes.offset > at.offset.saturating_add(1) =>
            {
                self.mending.get_or_insert_default().hold(publication);
                return Admission::Gap { since: at.offset };
            }
            _ => {}
        }
        self.known = Known::Arrived(comes);
        Admission::Deliver(publication)
    }

    /// A subscriber starts from here, by history that was read after the channel's publications began to come: as
    /// long as none has come, the first one must be the next.
    pub fn anchor(&mut self, top: StreamPosition) {
        if self.known == Known::Nothing {
            self.known = Known::Anchored(top);
        }
    }

    /// History was read after the offset asked for, oldest first.
    pub fn mend(&mut self, page: HistoryPage) -> Mended {
        let Some(mut mending) = self.mending.take() else { return Mended::default() };
        let Some(before) = self.known.position() else { return self.give_up(*mending, Vec::new()) };
        let mut at = before;
        let mut deliveries = Vec::new();
        if page.top.epoch == at.epoch {
            for publication in page.publications {
                let Some(stands) = publication.position else { continue };
                if stands.epoch == at.epoch && stands.offset > at.offset {
                    if stands.offset > at.offset + 1 {
                        deliveries.push(Delivery::Lost(StreamPosition { offset: stands.offset - 1, ..at }));
                    }
                    at = stands;
                    deliveries.push(Delivery::Publication(publication));
                }
            }
            if at == before && page.top.offset > at.offset {
                at = page.top;
                deliveries.push(Delivery::Lost(at));
            }
        } else {
            // The old stream is gone. What came of it goes out as it is, then the new one is read from its start.
            while let Some(publication) = mending.next_if(|stands| stands.epoch == at.epoch) {
                deliveries.push(Delivery::Publication(publication));
            }
            at = StreamPosition { offset: 0, ..page.top };
            deliveries.push(Delivery::Lost(at));
        }
        mending.forget(at);
        while let Some(publication) = mending.next_if(|stands| match stands.epoch == at.epoch {
            true => stands.offset == at.offset.saturating_add(1),
            false => page.top == at,
        }) {
            at = publication.position.unwrap_or(at);
            deliveries.push(Delivery::Publication(publication));
            mending.forget(at);
        }

        self.known = Known::Arrived(at);
        let behind = |other: StreamPosition| other.epoch == at.epoch && other.offset > at.offset;
        if mending.held.is_empty() && !behind(page.top) && !mending.expected.is_some_and(behind) {
            return Mended { deliveries, again: None };
        }
        mending.fruitless = if at == before { mending.fruitless + 1 } else { 0 };
        self.go_on(mending, deliveries)
    }

    /// History could not be read. Worth a pause before it is tried again.
    pub fn mend_failed(&mut self) -> Mended {
        let Some(mut mending) = self.mending.take() else { return Mended::default() };
        mending.fruitless += 1;
        self.go_on(mending, Vec::new())
    }

    /// Compares with the top of the stream as the broker just answered it: finds what was lost in a channel that is
    /// quiet since. What is missing for one look only was on its way.
    pub fn check(&mut self, top: StreamPosition, look: Look) -> Check {
        let Some(at) = self.known.position() else { return Check::Fine };
        if let Some(mending) = &mut self.mending {
            mending.expect(top);
            return Check::Fine;
        }
        if self.known.includes(top) {
            self.suspicion = None;
            return Check::Fine;
        }
        let again = self.suspicion.is_some_and(|seen| seen.epoch == top.epoch && !self.known.includes(seen));
        if look == Look::Routine && !again {
            self.suspicion = Some(top);
            return Check::Suspicious;
        }
        self.suspicion = None;
        if at.epoch == top.epoch {
            self.mending.get_or_insert_default().expect(top);
            Check::Missing { since: at.offset }
        } else {
            // From its start: what the new stream holds is found missing by the next look.
            let start = StreamPosition { offset: 0, ..top };
            self.known = Known::Arrived(start);
            Check::Lost(start)
        }
    }

    /// Up to where everything was given out.
    pub fn position(&self) -> Option<StreamPosition> {
        self.known.position()
    }

    /// Whether an answer from history is awaited.
    #[cfg(test)]
    fn is_mending(&self) -> bool {
        self.mending.is_some()
    }

    fn go_on(&mut self, mending: Box<Mending>, deliveries: Vec<Delivery>) -> Mended {
        match self.known.position() {
            Some(at) if mending.fruitless < MEND_ATTEMPTS_MAX => {
                self.mending = Some(mending);
                Mended { deliveries, again: Some(at.offset) }
            }
            _ => self.give_up(*mending, deliveries),
        }
    }

    /// Gives out what there is. Workers see the holes in it themselves, all but one at the end.
    fn give_up(&mut self, mending: Mending, mut deliveries: Vec<Delivery>) -> Mended {
        if let Some(lost) =
            mending.expected.filter(|&lost| mending.held.is_empty() && !self.known.includes(lost))
        {
            deliveries.push(Delivery::Lost(lost));
            self.known = Known::Arrived(lost);
        }
        for publication in mending.held {
            if let Some(stands) = publication.position {
                self.known = Known::Arrived(stands);
            }
            deliveries.push(Delivery::Publication(publication));
        }
        Mended { deliveries, again: None }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Known {
    /// Nothing came yet, and nobody who follows the stream asked for it.
    #[default]
    Nothing,
    /// Nothing came yet; a subscriber knows everything up to here.
    Anchored(StreamPosition),
    /// Everything up to here was given out.
    Arrived(StreamPosition),
}

impl Known {
    fn position(self) -> Option<StreamPosition> {
        match self {
            Self::Nothing => None,
            Self::Anchored(at) | Self::Arrived(at) => Some(at),
        }
    }

    fn includes(self, other: StreamPosition) -> bool {
        self.position().is_some_and(|at| at.epoch == other.epoch && other.offset <= at.offset)
    }
}

/// A gap that history is asked about.
#[derive(Debug, Default)]
struct Mending {
    /// What came since, in its order.
    held: VecDeque<Publication>,
    bytes: usize,
    /// What is known to be in the stream beside what is held: there was no room for it, or a check found it.
    expected: Option<StreamPosition>,
    fruitless: u32,
}

impl Mending {
    fn hold(&mut self, publication: Publication) {
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

    fn expect(&mut self, position: StreamPosition) {
        match &mut self.expected {
            Some(expected) if expected.epoch == position.epoch && expected.offset >= position.offset => {}
            expected => *expected = Some(position),
        }
    }

    fn next_if(&mut self, wanted: impl FnOnce(StreamPosition) -> bool) -> Option<Publication> {
        self.held.front().and_then(|next| next.position).filter(|&stands| wanted(stands))?;
        let next = self.held.pop_front()?;
        self.bytes -= next.data.bytes.len();
        Some(next)
    }

    /// Lets go of what history has brought meanwhile.
    fn forget(&mut self, at: StreamPosition) {
        while self.next_if(|stands| stands.epoch == at.epoch && stands.offset <= at.offset).is_some() {}
    }
}

#[cfg(test)]
mod tests;
