//! One channel's publications in order on one node, with gaps mended from history before any subscriber notices.
//!
//! The owner passes everything on in the order in which it is given out here: several calls for one channel must
//! not overtake each other. A channel without a stream passes through.

mod mending;

use std::hash::{Hash, Hasher};

use rustc_hash::FxHasher;
use shared::position::{Epoch, StreamPosition};
use shared::publication::Publication;

use self::mending::Mending;
use crate::history::HistoryPage;

/// Publications held while a gap is mended. Beyond this they are read from history again.
pub const FEED_HELD_PUBLICATIONS_MAX: usize = 1024;
/// Bytes held while a gap is mended.
pub const FEED_HELD_BYTES_MAX: usize = 1 << 20;
/// Reads of history that may bring nothing, one after the other, before a gap is given up. As often an epoch that is to be
/// left may refuse to be.
pub const MEND_ATTEMPTS_MAX: u32 = 5;
/// Reads of history that may fail, one after the other: links that come and go are no reason to give up what history holds.
pub const MEND_FAILURES_MAX: u32 = 40;

/// What a node knows of the stream of one channel.
///
/// A broker's data can go back to what it was before, and give out the offsets of an epoch once more. It then begins a
/// new epoch, as far as it notices; a feed is the second net. It knows that something is wrong when the stream stands
/// behind what was given out here, when a publication comes twice for no reason, and when what history has at the place
/// of the last publication is not that publication.
#[derive(Debug, Default)]
pub struct Feed {
    known: FeedPosition,
    /// Tells the publication at `known` from another one; 0 if none was given out there.
    fingerprint: u64,
    /// Only what a loss or a new epoch has left.
    aside: Option<Box<FeedRareState>>,
}

#[derive(Debug, Default)]
struct FeedRareState {
    /// Where a check found the stream, ahead of this node. If it is real, the next check finds it again.
    suspicion: Option<StreamPosition>,
    /// History brought these, or someone said that they are lost: they may yet come.
    echo: EchoRange,
    /// The epoch that an answer of the broker replaced: what still comes of it is of no stream any more.
    left: Option<Epoch>,
    /// Where history was compared with what was given out because something came twice, and was found to be the same.
    assured: Option<StreamPosition>,
    mending: Option<Mending>,
}

/// Offsets after the first, up to the second, each of which may come once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct EchoRange {
    after: u64,
    until: u64,
}

/// What to do with a publication that came.
#[expect(
    clippy::large_enum_variant,
    reason = "a publication is moved here once, which is cheaper than a box"
)]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Admission {
    Deliver(Publication),
    /// It came before, or is of a stream that is gone.
    Duplicate,
    /// It is kept until the gap before it is mended.
    Held,
    /// Something before it did not come. It is kept: read history after this offset and call [`Feed::mend`].
    Gap {
        since: u64,
    },
    /// Its offset was given out before, for no reason that is known: read history as for a gap.
    Doubtful {
        since: u64,
    },
}

/// What workers are told, in this order.
#[expect(
    clippy::large_enum_variant,
    reason = "a publication is moved here once, which is cheaper than a box"
)]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FeedDelivery {
    Publication(Publication),
    /// What did not come up to here will not come.
    Lost(StreamPosition),
}

/// What came of an attempt to mend a gap.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mended {
    pub deliveries: Vec<FeedDelivery>,
    /// Not all is mended: read history after this offset and call again.
    pub again: Option<u64>,
    /// Offsets of this epoch are given out again: have the broker leave it, and call [`Feed::left`] with the position
    /// that it answers, or [`Feed::mend_failed`].
    pub leave: Option<Epoch>,
}

/// How sure it is that what has not come by now will not come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GapCheck {
    /// Nothing is known to be wrong. What is ahead of this node may still be on its way.
    Routine,
    /// The link was lost and is back.
    AfterLoss,
}

/// What came of comparing this node with the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GapState {
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
        if let Some(aside) = &mut self.aside {
            if aside.left == Some(comes.epoch) {
                return Admission::Duplicate;
            }
            if let Some(mending) = &mut aside.mending {
                mending.heard = Some(comes);
                if self.known.includes(comes) {
                    return Admission::Duplicate;
                }
                mending.hold(publication);
                return Admission::Held;
            }
        }
        match self.known {
            FeedPosition::Arrived(at) if self.known.includes(comes) => return self.again(at, comes),
            // What a subscriber knows from history may come to this node later.
            FeedPosition::Arrived(at) | FeedPosition::Anchored(at)
                if at.epoch == comes.epoch && comes.offset > at.offset.saturating_add(1) =>
            {
                let since = self.joint(at);
                let mending = self.begin_mending();
                mending.heard = Some(comes);
                mending.hold(publication);
                return Admission::Gap { since };
            }
            _ => {}
        }
        if self.aside.as_ref().is_some_and(|aside| aside.suspicion.is_none()) {
            // Nothing that was before this can come any more.
            self.aside = None;
        }
        self.stand_at(&publication, comes);
        Admission::Deliver(publication)
    }

    /// Whether everything up to there was given out.
    pub fn has_given_out(&self, position: StreamPosition) -> bool {
        matches!(self.known, FeedPosition::Arrived(_)) && self.known.includes(position)
    }

    /// A subscriber starts from here, by history that was read after the channel's publications began to come: as
    /// long as none has come, the first one must be the next.
    pub fn anchor(&mut self, top: StreamPosition) {
        if self.known == FeedPosition::Nothing {
            self.known = FeedPosition::Anchored(top);
        }
    }

    /// History was read after the offset asked for, oldest first.
    pub fn mend(&mut self, page: HistoryPage) -> Mended {
        let Some(mut mending) = self.take_mending() else { return Mended::default() };
        let Some(before) = self.known.position() else { return self.give_up(mending, Vec::new()) };
        if page.top.epoch != before.epoch {
            return self.change_epoch(mending, page.top);
        }
        if mending.leave || page.top.offset < before.offset || self.is_replaced(before, &page, &mending) {
            mending.leave = true;
            return self.go_on(mending, Vec::new());
        }
        if std::mem::take(&mut mending.doubtful) {
            self.aside.get_or_insert_default().assured = Some(before);
        }
        // A page can end with the last publication that was given out.
        let is_nothing_left =
            !page.publications.iter().any(|publication| publication.position == Some(before));
        mending.is_joined = true;
        let mut at = before;
        let mut deliveries = Vec::new();
        for publication in page.publications {
            let Some(stands) = publication.position else { continue };
            if stands.epoch == at.epoch && stands.offset > at.offset {
                if stands.offset > at.offset + 1 {
                    deliveries.push(FeedDelivery::Lost(StreamPosition { offset: stands.offset - 1, ..at }));
                }
                at = stands;
                deliveries.push(FeedDelivery::Publication(publication));
            }
        }
        if at == before && page.top.offset > at.offset && is_nothing_left {
            at = page.top;
            deliveries.push(FeedDelivery::Lost(at));
        }
        self.join_held(mending, deliveries, before, at, page.top)
    }

    /// The broker has left the epoch in which offsets were given out again; this is the position in the one that follows.
    pub fn left(&mut self, top: StreamPosition) -> Mended {
        if self.known.position().is_some_and(|at| at.epoch == top.epoch) {
            return self.mend_failed();
        }
        let Some(mending) = self.take_mending() else { return Mended::default() };
        self.change_epoch(mending, top)
    }

    /// History could not be read, or the epoch not left. Worth a pause before it is tried again.
    pub fn mend_failed(&mut self) -> Mended {
        let Some(mut mending) = self.take_mending() else { return Mended::default() };
        mending.failed += 1;
        self.go_on(mending, Vec::new())
    }

    /// Compares with the top of the stream as the broker just answered it: finds what was lost in a channel that is
    /// quiet since. What is missing for one look only was on its way. `before` is where this feed stood when the broker
    /// was asked, for what has come since then may be newer than the answer.
    pub fn check(&mut self, before: Option<StreamPosition>, top: StreamPosition, look: GapCheck) -> GapState {
        let Some(at) = self.known.position() else { return GapState::Fine };
        if let Some(mending) = self.aside.as_mut().and_then(|aside| aside.mending.as_mut()) {
            mending.expect(top);
            return GapState::Fine;
        }
        let is_behind = before.is_some_and(|before| {
            before.epoch == top.epoch && top.offset < before.offset && before.epoch == at.epoch
        });
        if is_behind {
            let since = self.joint(at);
            self.begin_mending();
            return GapState::Missing { since };
        }
        if self.known.includes(top) {
            if let Some(aside) = &mut self.aside {
                aside.suspicion = None;
            }
            return GapState::Fine;
        }
        let aside = self.aside.get_or_insert_default();
        let seen = aside.suspicion.take();
        let again = seen.is_some_and(|seen| seen.epoch == top.epoch && !self.known.includes(seen));
        if look == GapCheck::Routine && !again {
            aside.suspicion = Some(top);
            return GapState::Suspicious;
        }
        if at.epoch == top.epoch {
            let since = self.joint(at);
            self.begin_mending().expect(top);
            GapState::Missing { since }
        } else {
            self.take_over(at.epoch, top);
            GapState::Lost(top)
        }
    }

    /// Up to where everything was given out.
    pub fn position(&self) -> Option<StreamPosition> {
        self.known.position()
    }

    /// Whether an answer from history is awaited.
    #[cfg(test)]
    fn is_mending(&self) -> bool {
        self.mending().is_some()
    }

    #[cfg(test)]
    fn mending(&self) -> Option<&Mending> {
        self.aside.as_ref().and_then(|aside| aside.mending.as_ref())
    }

    fn begin_mending(&mut self) -> &mut Mending {
        self.aside.get_or_insert_default().mending.get_or_insert_default()
    }

    fn take_mending(&mut self) -> Option<Mending> {
        self.aside.as_mut()?.mending.take()
    }

    /// Where to read history from, so that it shows whether it joins on to what was given out.
    fn joint(&self, at: StreamPosition) -> u64 {
        if self.fingerprint == 0 { at.offset } else { at.offset.saturating_sub(1) }
    }

    fn stand_at(&mut self, publication: &Publication, at: StreamPosition) {
        self.known = FeedPosition::Arrived(at);
        self.fingerprint = fingerprint(publication);
    }

    /// An offset comes that was given out already.
    fn again(&mut self, at: StreamPosition, comes: StreamPosition) -> Admission {
        let aside = self.aside.get_or_insert_default();
        if aside.echo.takes(comes.offset) || aside.assured == Some(at) {
            return Admission::Duplicate;
        }
        let since = self.joint(at);
        self.begin_mending().doubtful = true;
        Admission::Doubtful { since }
    }

    /// Whether history has something else where the last publication was.
    fn is_replaced(&self, at: StreamPosition, page: &HistoryPage, mending: &Mending) -> bool {
        if self.fingerprint == 0 {
            return false;
        }
        match page.publications.iter().find(|publication| publication.position == Some(at)) {
            Some(publication) => fingerprint(publication) != self.fingerprint,
            // It has had its time. Whoever doubts cannot be assured.
            None => mending.doubtful,
        }
    }

    /// The stream is another one, and ends here: nobody is given more of it than comes from now on.
    fn take_over(&mut self, left: Epoch, top: StreamPosition) {
        self.known = FeedPosition::Arrived(top);
        self.fingerprint = 0;
        let aside = self.aside.get_or_insert_default();
        aside.left = Some(left);
        aside.echo = EchoRange { after: 0, until: top.offset };
        aside.assured = None;
    }

    /// Goes over to another stream while a gap was to be mended.
    fn change_epoch(&mut self, mut mending: Mending, top: StreamPosition) -> Mended {
        let Some(before) = self.known.position() else { return self.give_up(mending, Vec::new()) };
        let mut deliveries = Vec::new();
        // What came of the old stream goes out as it is.
        while let Some(publication) = mending.next_if(|stands| stands.epoch == before.epoch) {
            deliveries.push(FeedDelivery::Publication(publication));
        }
        let first =
            mending.held.front().and_then(|held| held.position).filter(|held| held.epoch == top.epoch);
        let begins = first.map_or(top.offset, |first| first.offset.saturating_sub(1).min(top.offset));
        let at = StreamPosition { offset: begins, ..top };
        self.take_over(before.epoch, at);
        deliveries.push(FeedDelivery::Lost(at));
        let mending =
            Mending { fruitless: 0, failed: 0, doubtful: false, leave: false, is_joined: true, ..mending };
        self.join_held(mending, deliveries, before, at, top)
    }

    /// Gives out what was held and follows.
    fn join_held(
        &mut self,
        mut mending: Mending,
        mut deliveries: Vec<FeedDelivery>,
        before: StreamPosition,
        mut at: StreamPosition,
        top: StreamPosition,
    ) -> Mended {
        mending.forget(at);
        let read = at;
        while let Some(publication) = mending.next_if(|stands| match stands.epoch == at.epoch {
            true => stands.offset == at.offset.saturating_add(1),
            false => top == at,
        }) {
            at = publication.position.unwrap_or(at);
            deliveries.push(FeedDelivery::Publication(publication));
            mending.forget(at);
        }
        let of_this =
            |position: StreamPosition| if position.epoch == read.epoch { position.offset } else { 0 };
        let heard = mending.heard.map_or(0, of_this);
        self.aside.get_or_insert_default().echo.extend(of_this(before), read.offset, heard);
        match deliveries.last() {
            Some(FeedDelivery::Publication(last)) if last.position == Some(at) => {
                self.fingerprint = fingerprint(last);
            }
            Some(_) => self.fingerprint = 0,
            None => {}
        }
        self.known = FeedPosition::Arrived(at);
        let behind = |other: StreamPosition| other.epoch == at.epoch && other.offset > at.offset;
        if mending.held.is_empty() && !behind(top) && !mending.expected.is_some_and(behind) {
            return Mended { deliveries, ..Mended::default() };
        }
        mending.fruitless = if at == before { mending.fruitless + 1 } else { 0 };
        mending.failed = 0;
        self.go_on(mending, deliveries)
    }

    fn go_on(&mut self, mending: Mending, deliveries: Vec<FeedDelivery>) -> Mended {
        let failures_max = if mending.leave { MEND_ATTEMPTS_MAX } else { MEND_FAILURES_MAX };
        match self.known.position() {
            Some(at) if mending.fruitless < MEND_ATTEMPTS_MAX && mending.failed < failures_max => {
                let mended = if mending.leave {
                    Mended { deliveries, again: Some(self.joint(at)), leave: Some(at.epoch) }
                } else {
                    let since = if mending.is_joined { at.offset } else { self.joint(at) };
                    Mended { deliveries, again: Some(since), leave: None }
                };
                self.aside.get_or_insert_default().mending = Some(mending);
                mended
            }
            _ => self.give_up(mending, deliveries),
        }
    }

    /// Gives out what there is. Workers see the holes in it themselves, all but one at the end.
    fn give_up(&mut self, mending: Mending, mut deliveries: Vec<FeedDelivery>) -> Mended {
        if mending.leave || mending.doubtful {
            // Nobody can be sure of what they have, and there is no place in a stream to name. An epoch that is none
            // says so to everyone.
            deliveries.push(FeedDelivery::Lost(StreamPosition::default()));
            *self = Self::default();
        } else if let Some(lost) =
            mending.expected.filter(|&lost| mending.held.is_empty() && !self.known.includes(lost))
        {
            deliveries.push(FeedDelivery::Lost(lost));
            let of_this =
                |position: StreamPosition| if position.epoch == lost.epoch { position.offset } else { 0 };
            let (before, heard) =
                (self.known.position().map_or(0, of_this), mending.heard.map_or(0, of_this));
            self.aside.get_or_insert_default().echo.extend(before, lost.offset, heard);
            self.known = FeedPosition::Arrived(lost);
            self.fingerprint = 0;
        }
        for publication in mending.held {
            if let Some(stands) = publication.position {
                self.stand_at(&publication, stands);
            }
            deliveries.push(FeedDelivery::Publication(publication));
        }
        Mended { deliveries, ..Mended::default() }
    }
}

/// Never 0.
fn fingerprint(publication: &Publication) -> u64 {
    let mut hasher = FxHasher::default();
    publication.data.bytes.hash(&mut hasher);
    hasher.finish() | 1
}

impl EchoRange {
    /// Returns whether this was to be expected. Each is expected once, in order.
    fn takes(&mut self, offset: u64) -> bool {
        let is_expected = offset > self.after && offset <= self.until;
        if is_expected {
            self.after = offset;
        }
        is_expected
    }

    /// History brought these, while the last that came was `heard`.
    fn extend(&mut self, after: u64, until: u64, heard: u64) {
        let joins = self.after < self.until && self.until >= after;
        let after = if joins { self.after } else { after };
        *self = Self { after: after.max(heard), until };
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum FeedPosition {
    /// Nothing came yet, and nobody who follows the stream asked for it.
    #[default]
    Nothing,
    /// Nothing came yet; a subscriber knows everything up to here.
    Anchored(StreamPosition),
    /// Everything up to here was given out.
    Arrived(StreamPosition),
}

impl FeedPosition {
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

#[cfg(test)]
mod tests;
