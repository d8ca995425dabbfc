//! Puts one channel's publications in order on one node, and repairs gaps from history before any subscriber notices.
//!
//! The owner passes everything on in the order in which it is returned here: calls for one channel must not overtake each
//! other. Publications of a channel without a stream pass through.

mod gap_repair;

use std::hash::{Hash, Hasher};

use rustc_hash::FxHasher;
use shared::position::{Epoch, StreamPosition};
use shared::publication::Publication;

use self::gap_repair::GapRepair;
use crate::history::HistoryPage;

/// The most publications held while a gap is repaired. Beyond this they are read from history again.
pub const FEED_HELD_PUBLICATIONS_MAX: usize = 1024;
/// The most bytes held while a gap is repaired.
pub const FEED_HELD_BYTES_MAX: usize = 1 << 20;
/// How many reads of history in a row may bring nothing before a gap is given up. Also how many attempts to leave an epoch
/// may fail in a row.
pub const REPAIR_ATTEMPTS_MAX: u32 = 5;
/// How many reads of history in a row may fail. Links that come and go are no reason to give up what history holds.
pub const REPAIR_FAILURES_MAX: u32 = 40;

/// The state of one channel's stream on one node.
///
/// A broker's data can be rolled back, so that it assigns the offsets of an epoch again. The broker then begins a new
/// epoch, if it notices; a feed is the second safety net. It knows that something is wrong when the stream ends before what
/// was delivered here, when a publication comes twice for no known reason, and when history has another publication at the
/// offset that was delivered last.
#[derive(Debug, Default)]
pub struct Feed {
    known: FeedPosition,
    /// Fingerprint of the publication at `known`; 0 if none was delivered at that offset.
    fingerprint: u64,
    /// State that exists only after a loss or a new epoch.
    aside: Option<Box<FeedRareState>>,
}

#[derive(Debug, Default)]
struct FeedRareState {
    /// Where a check found the stream, ahead of this node. If something is lost, the next check finds the same again.
    suspicion: Option<StreamPosition>,
    /// Offsets that history brought or that were reported as lost. Their publications may still arrive.
    echo: EchoRange,
    /// The epoch that was replaced. Publications of it that still arrive belong to no current stream.
    left: Option<Epoch>,
    /// The position at which history was found to match what was delivered, after something came twice.
    assured: Option<StreamPosition>,
    repair: Option<GapRepair>,
}

/// Offsets after `after` and up to `until`, each of which may come once.
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
    /// It came before, or its stream is gone.
    Duplicate,
    /// It is held until the gap before it is repaired.
    Held,
    /// Something before it is missing. It is held: read history after this offset and call [`Feed::repair`].
    Gap {
        since: u64,
    },
    /// Its offset was delivered before, for no known reason: read history as for a gap.
    Doubtful {
        since: u64,
    },
}

/// What workers get, in this order.
#[expect(
    clippy::large_enum_variant,
    reason = "a publication is moved here once, which is cheaper than a box"
)]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FeedDelivery {
    Publication(Publication),
    /// Publications up to here that have not come are lost.
    Lost(StreamPosition),
}

/// The result of an attempt to repair a gap.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RepairOutcome {
    pub deliveries: Vec<FeedDelivery>,
    /// The gap is not fully repaired: read history after this offset and call again.
    pub again: Option<u64>,
    /// The broker assigns offsets of this epoch again. Have it leave the epoch, and call [`Feed::left`] with the position
    /// that it returns, or [`Feed::repair_failed`].
    pub leave: Option<Epoch>,
}

/// Whether a missing publication may still arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GapCheck {
    /// Nothing is known to be wrong. Publications ahead of this node may still be on their way.
    Routine,
    /// The link was lost and is back.
    AfterLoss,
}

/// The result of comparing this node with the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GapState {
    Fine,
    /// The stream is ahead. Check again, once everything on its way must have arrived.
    Suspicious,
    /// Read history after this offset and call [`Feed::repair`].
    Missing {
        since: u64,
    },
    /// The stream is a different one: pass this position to the workers.
    Lost(StreamPosition),
}

impl Feed {
    /// Handles a publication from the broker.
    pub fn admit(&mut self, publication: Publication) -> Admission {
        let Some(comes) = publication.position else { return Admission::Deliver(publication) };
        if let Some(aside) = &mut self.aside {
            if aside.left == Some(comes.epoch) {
                return Admission::Duplicate;
            }
            if let Some(repair) = &mut aside.repair {
                repair.received = Some(comes);
                if self.known.includes(comes) {
                    return Admission::Duplicate;
                }
                repair.hold(publication);
                return Admission::Held;
            }
        }
        match self.known {
            FeedPosition::Arrived(at) if self.known.includes(comes) => return self.again(at, comes),
            // A publication up to the anchor may reach this node later, although subscribers know it from history.
            FeedPosition::Arrived(at) | FeedPosition::Anchored(at)
                if at.epoch == comes.epoch && comes.offset > at.offset.saturating_add(1) =>
            {
                let since = self.joint(at);
                let repair = self.begin_repair();
                repair.received = Some(comes);
                repair.hold(publication);
                return Admission::Gap { since };
            }
            _ => {}
        }
        if self.aside.as_ref().is_some_and(|aside| aside.suspicion.is_none()) {
            // Nothing from before can arrive any more.
            self.aside = None;
        }
        self.stand_at(&publication, comes);
        Admission::Deliver(publication)
    }

    /// Whether everything up to this position was delivered.
    pub fn has_given_out(&self, position: StreamPosition) -> bool {
        matches!(self.known, FeedPosition::Arrived(_)) && self.known.includes(position)
    }

    /// Sets the position from which a subscriber starts, by history that was read after the channel's publications began to
    /// come. As long as none has come, the first one must be the next.
    pub fn anchor(&mut self, top: StreamPosition) {
        if self.known == FeedPosition::Nothing {
            self.known = FeedPosition::Anchored(top);
        }
    }

    /// Takes in history read after the offset asked for, oldest first.
    pub fn repair(&mut self, page: HistoryPage) -> RepairOutcome {
        let Some(mut repair) = self.take_repair() else { return RepairOutcome::default() };
        let Some(before) = self.known.position() else { return self.give_up(repair, Vec::new()) };
        if page.top.epoch != before.epoch {
            return self.change_epoch(repair, page.top);
        }
        if repair.leave || page.top.offset < before.offset || self.is_replaced(before, &page, &repair) {
            repair.leave = true;
            return self.go_on(repair, Vec::new());
        }
        if std::mem::take(&mut repair.doubtful) {
            self.aside.get_or_insert_default().assured = Some(before);
        }
        // A page may end with the publication that was delivered last.
        let is_nothing_left =
            !page.publications.iter().any(|publication| publication.position == Some(before));
        repair.is_joined = true;
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
        self.join_held(repair, deliveries, before, at, page.top)
    }

    /// Handles that the broker has left the epoch whose offsets it assigned again. `top` is its position in the new epoch.
    pub fn left(&mut self, top: StreamPosition) -> RepairOutcome {
        if self.known.position().is_some_and(|at| at.epoch == top.epoch) {
            return self.repair_failed();
        }
        let Some(repair) = self.take_repair() else { return RepairOutcome::default() };
        self.change_epoch(repair, top)
    }

    /// Handles a failed read of history, or a failed attempt to leave the epoch. The caller should pause before it tries
    /// again.
    pub fn repair_failed(&mut self) -> RepairOutcome {
        let Some(mut repair) = self.take_repair() else { return RepairOutcome::default() };
        repair.failed += 1;
        self.go_on(repair, Vec::new())
    }

    /// Compares with the top of the stream as the broker has just reported it. This finds losses in a channel that has been
    /// quiet since. A publication that is missing in one check only was on its way. `before` is where this feed stood when
    /// the broker was asked: what has come since may be newer than the answer.
    pub fn check(&mut self, before: Option<StreamPosition>, top: StreamPosition, look: GapCheck) -> GapState {
        let Some(at) = self.known.position() else { return GapState::Fine };
        if let Some(repair) = self.aside.as_mut().and_then(|aside| aside.repair.as_mut()) {
            repair.expect(top);
            return GapState::Fine;
        }
        let is_behind = before.is_some_and(|before| {
            before.epoch == top.epoch && top.offset < before.offset && before.epoch == at.epoch
        });
        if is_behind {
            let since = self.joint(at);
            self.begin_repair();
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
            self.begin_repair().expect(top);
            GapState::Missing { since }
        } else {
            self.take_over(at.epoch, top);
            GapState::Lost(top)
        }
    }

    /// Returns the position up to which everything was delivered.
    pub fn position(&self) -> Option<StreamPosition> {
        self.known.position()
    }

    /// Whether a read of history is awaited.
    #[cfg(test)]
    fn is_repairing(&self) -> bool {
        self.gap_repair().is_some()
    }

    #[cfg(test)]
    fn gap_repair(&self) -> Option<&GapRepair> {
        self.aside.as_ref().and_then(|aside| aside.repair.as_ref())
    }

    fn begin_repair(&mut self) -> &mut GapRepair {
        self.aside.get_or_insert_default().repair.get_or_insert_default()
    }

    fn take_repair(&mut self) -> Option<GapRepair> {
        self.aside.as_mut()?.repair.take()
    }

    /// Returns the offset after which to read history, such that the page shows whether it joins on to what was delivered.
    fn joint(&self, at: StreamPosition) -> u64 {
        if self.fingerprint == 0 { at.offset } else { at.offset.saturating_sub(1) }
    }

    fn stand_at(&mut self, publication: &Publication, at: StreamPosition) {
        self.known = FeedPosition::Arrived(at);
        self.fingerprint = fingerprint(publication);
    }

    /// Handles an offset that was delivered already.
    fn again(&mut self, at: StreamPosition, comes: StreamPosition) -> Admission {
        let aside = self.aside.get_or_insert_default();
        if aside.echo.takes(comes.offset) || aside.assured == Some(at) {
            return Admission::Duplicate;
        }
        let since = self.joint(at);
        self.begin_repair().doubtful = true;
        Admission::Doubtful { since }
    }

    /// Whether history has another publication in the place of the last delivered one.
    fn is_replaced(&self, at: StreamPosition, page: &HistoryPage, repair: &GapRepair) -> bool {
        if self.fingerprint == 0 {
            return false;
        }
        match page.publications.iter().find(|publication| publication.position == Some(at)) {
            Some(publication) => fingerprint(publication) != self.fingerprint,
            // It is not kept any more, so a doubt cannot be cleared.
            None => repair.doubtful,
        }
    }

    /// Switches to another stream at `top`. Only what comes after it is delivered.
    fn take_over(&mut self, left: Epoch, top: StreamPosition) {
        self.known = FeedPosition::Arrived(top);
        self.fingerprint = 0;
        let aside = self.aside.get_or_insert_default();
        aside.left = Some(left);
        aside.echo = EchoRange { after: 0, until: top.offset };
        aside.assured = None;
    }

    /// Switches to another stream while a gap was being repaired.
    fn change_epoch(&mut self, mut repair: GapRepair, top: StreamPosition) -> RepairOutcome {
        let Some(before) = self.known.position() else { return self.give_up(repair, Vec::new()) };
        let mut deliveries = Vec::new();
        // What is held of the old stream is delivered as it is.
        while let Some(publication) = repair.next_if(|stands| stands.epoch == before.epoch) {
            deliveries.push(FeedDelivery::Publication(publication));
        }
        let first = repair.held.front().and_then(|held| held.position).filter(|held| held.epoch == top.epoch);
        let begins = first.map_or(top.offset, |first| first.offset.saturating_sub(1).min(top.offset));
        let at = StreamPosition { offset: begins, ..top };
        self.take_over(before.epoch, at);
        deliveries.push(FeedDelivery::Lost(at));
        let repair =
            GapRepair { fruitless: 0, failed: 0, doubtful: false, leave: false, is_joined: true, ..repair };
        self.join_held(repair, deliveries, before, at, top)
    }

    /// Delivers held publications that follow on.
    fn join_held(
        &mut self,
        mut repair: GapRepair,
        mut deliveries: Vec<FeedDelivery>,
        before: StreamPosition,
        mut at: StreamPosition,
        top: StreamPosition,
    ) -> RepairOutcome {
        repair.forget(at);
        let read = at;
        while let Some(publication) = repair.next_if(|stands| match stands.epoch == at.epoch {
            true => stands.offset == at.offset.saturating_add(1),
            false => top == at,
        }) {
            at = publication.position.unwrap_or(at);
            deliveries.push(FeedDelivery::Publication(publication));
            repair.forget(at);
        }
        let of_this =
            |position: StreamPosition| if position.epoch == read.epoch { position.offset } else { 0 };
        let received = repair.received.map_or(0, of_this);
        self.aside.get_or_insert_default().echo.extend(of_this(before), read.offset, received);
        match deliveries.last() {
            Some(FeedDelivery::Publication(last)) if last.position == Some(at) => {
                self.fingerprint = fingerprint(last);
            }
            Some(_) => self.fingerprint = 0,
            None => {}
        }
        self.known = FeedPosition::Arrived(at);
        let behind = |other: StreamPosition| other.epoch == at.epoch && other.offset > at.offset;
        if repair.held.is_empty() && !behind(top) && !repair.expected.is_some_and(behind) {
            return RepairOutcome { deliveries, ..RepairOutcome::default() };
        }
        repair.fruitless = if at == before { repair.fruitless + 1 } else { 0 };
        repair.failed = 0;
        self.go_on(repair, deliveries)
    }

    fn go_on(&mut self, repair: GapRepair, deliveries: Vec<FeedDelivery>) -> RepairOutcome {
        let failures_max = if repair.leave { REPAIR_ATTEMPTS_MAX } else { REPAIR_FAILURES_MAX };
        match self.known.position() {
            Some(at) if repair.fruitless < REPAIR_ATTEMPTS_MAX && repair.failed < failures_max => {
                let repaired = if repair.leave {
                    RepairOutcome { deliveries, again: Some(self.joint(at)), leave: Some(at.epoch) }
                } else {
                    let since = if repair.is_joined { at.offset } else { self.joint(at) };
                    RepairOutcome { deliveries, again: Some(since), leave: None }
                };
                self.aside.get_or_insert_default().repair = Some(repair);
                repaired
            }
            _ => self.give_up(repair, deliveries),
        }
    }

    /// Delivers everything that is held. Workers see the gaps in it themselves, except for one at the end.
    fn give_up(&mut self, repair: GapRepair, mut deliveries: Vec<FeedDelivery>) -> RepairOutcome {
        if repair.leave || repair.doubtful {
            // No subscriber can be sure of what it has, and no position in a stream can be named. An empty epoch tells
            // everyone so.
            deliveries.push(FeedDelivery::Lost(StreamPosition::default()));
            *self = Self::default();
        } else if let Some(lost) =
            repair.expected.filter(|&lost| repair.held.is_empty() && !self.known.includes(lost))
        {
            deliveries.push(FeedDelivery::Lost(lost));
            let of_this =
                |position: StreamPosition| if position.epoch == lost.epoch { position.offset } else { 0 };
            let (before, received) =
                (self.known.position().map_or(0, of_this), repair.received.map_or(0, of_this));
            self.aside.get_or_insert_default().echo.extend(before, lost.offset, received);
            self.known = FeedPosition::Arrived(lost);
            self.fingerprint = 0;
        }
        for publication in repair.held {
            if let Some(stands) = publication.position {
                self.stand_at(&publication, stands);
            }
            deliveries.push(FeedDelivery::Publication(publication));
        }
        RepairOutcome { deliveries, ..RepairOutcome::default() }
    }
}

/// Hashes the payload. Never 0.
fn fingerprint(publication: &Publication) -> u64 {
    let mut hasher = FxHasher::default();
    publication.data.bytes.hash(&mut hasher);
    hasher.finish() | 1
}

impl EchoRange {
    /// Returns whether this offset was expected. Each is expected once, in order.
    fn takes(&mut self, offset: u64) -> bool {
        let is_expected = offset > self.after && offset <= self.until;
        if is_expected {
            self.after = offset;
        }
        is_expected
    }

    /// Adds offsets that history brought, when the last one that had come was `received`.
    fn extend(&mut self, after: u64, until: u64, received: u64) {
        let joins = self.after < self.until && self.until >= after;
        let after = if joins { self.after } else { after };
        *self = Self { after: after.max(received), until };
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum FeedPosition {
    /// Nothing came yet, and no subscriber has set an anchor.
    #[default]
    Nothing,
    /// Nothing came yet. A subscriber knows everything up to here.
    Anchored(StreamPosition),
    /// Everything up to here was delivered.
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
