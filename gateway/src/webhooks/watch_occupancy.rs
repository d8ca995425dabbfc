//! The occupied channels and the members of one app on one node, and the changes that the ledger does not know yet.
//!
//! Entries are released only after a delay: a page that is loaded again is back before that.

use std::collections::VecDeque;
use std::time::Duration;

use gateway_core::ledger::{LedgerCapacity, LedgerChange};
use gateway_core::roster::Roster;
use rustc_hash::FxHashMap;
use shared::id::ClientId;
use shared::moment::Moment;
use shared::publication::ClientInfo;
use shared::push::OwnedEvent;

use super::webhook_event;

/// The overhead of a waiting change beside its text, in bytes.
const CHANGE_BYTES: usize = 48;

/// The state of one app. Bounded by the node's subscriptions, and by the capacity for waiting changes.
#[derive(Debug)]
pub(super) struct OccupancyWatch {
    room: LedgerCapacity,
    delay: Duration,
    /// The held entries, each with the time of its release, if it is to be released.
    held: FxHashMap<Box<str>, Option<Moment>>,
    leaving: VecDeque<(Moment, Box<str>)>,
    /// The members of presence channels on this node.
    rosters: FxHashMap<Box<str>, Roster>,
    changes: VecDeque<LedgerChange>,
    bytes: usize,
    /// Whether everything that is held must be written again.
    anew: bool,
}

impl OccupancyWatch {
    pub(super) fn new(room: LedgerCapacity, delay: Duration) -> Self {
        Self {
            room,
            delay,
            held: FxHashMap::default(),
            leaving: VecDeque::new(),
            rosters: FxHashMap::default(),
            changes: VecDeque::new(),
            bytes: 0,
            anew: false,
        }
    }

    /// Records that a channel has its first subscriber here.
    pub(super) fn occupied(&mut self, name: &str) {
        self.hold(webhook_event::channel(name));
    }

    /// Records that a channel has lost its last subscriber here.
    pub(super) fn vacated(&mut self, now: Moment, name: &str) {
        self.release(now, webhook_event::channel(name));
    }

    pub(super) fn entered(&mut self, now: Moment, name: &str, info: ClientInfo) {
        let roster = match self.rosters.get_mut(name) {
            Some(roster) => roster,
            None => self.rosters.entry(name.into()).or_default(),
        };
        if let Some(OwnedEvent::MemberAdded { info, .. }) = roster.joined(now, info) {
            self.hold(webhook_event::member(name, info.user.as_str()));
        }
    }

    pub(super) fn left(&mut self, now: Moment, name: &str, client: ClientId) {
        let Some(roster) = self.rosters.get_mut(name) else { return };
        let gone = roster.left(now, client);
        if roster.is_empty() {
            self.rosters.remove(name);
        }
        if let Some(OwnedEvent::MemberRemoved { user, .. }) = gone {
            self.release(now, webhook_event::member(name, user.as_str()));
        }
    }

    /// Adds a change that holds nothing: a count, or an event. Returns how many are lost because there is no room.
    pub(super) fn record(&mut self, change: LedgerChange) -> u64 {
        let cost = change.bytes() + CHANGE_BYTES;
        if self.changes.len() >= self.room.news_max || self.bytes + cost > self.room.bytes_max {
            return 1;
        }
        self.push(change);
        0
    }

    fn hold(&mut self, subject: Box<str>) {
        match self.held.get_mut(&subject) {
            Some(leaves) => *leaves = None,
            None => {
                self.held.insert(subject.clone(), None);
                self.change(LedgerChange::Hold(subject));
            }
        }
    }

    fn release(&mut self, now: Moment, subject: Box<str>) {
        if let Some(leaves) = self.held.get_mut(&subject) {
            let at = now + self.delay;
            *leaves = Some(at);
            self.leaving.push_back((at, subject));
        }
    }

    /// Adds a change that must not be lost: where there is no room, everything is written again.
    fn change(&mut self, change: LedgerChange) {
        if self.anew {
            return;
        }
        let cost = change.bytes() + CHANGE_BYTES;
        if self.changes.len() >= self.room.news_max || self.bytes + cost > self.room.bytes_max {
            self.anew = true;
            return;
        }
        self.push(change);
    }

    fn push(&mut self, change: LedgerChange) {
        self.bytes += change.bytes() + CHANGE_BYTES;
        self.changes.push_back(change);
    }

    /// Releases the entries whose delay has passed.
    pub(super) fn pass(&mut self, now: Moment) {
        while let Some((at, _)) = self.leaving.front().filter(|(at, _)| *at <= now) {
            let at = *at;
            let Some((_, subject)) = self.leaving.pop_front() else { return };
            // An entry that came back and left again is queued a second time.
            if self.held.get(&subject) == Some(&Some(at)) {
                self.held.remove(&subject);
                self.change(LedgerChange::Release(subject));
            }
        }
    }

    /// Returns when the next entry is to be released.
    pub(super) fn next_at(&self) -> Option<Moment> {
        self.leaving.front().map(|(at, _)| *at)
    }

    /// Returns whether everything must be written again under a new name, and resets that.
    pub(super) fn take_overflowed(&mut self) -> bool {
        std::mem::take(&mut self.anew)
    }

    /// Queues everything that is held to be written again, and behind it the waiting counts and events.
    pub(super) fn begin_anew(&mut self) {
        self.anew = false;
        let announced = std::mem::take(&mut self.changes).into_iter();
        let announced =
            announced.filter(|change| matches!(change, LedgerChange::Count(..) | LedgerChange::Report(_)));
        let held = self.held.keys().cloned().map(LedgerChange::Hold);
        self.changes = held.chain(announced).collect();
        self.bytes = self.changes.iter().map(|change| change.bytes() + CHANGE_BYTES).sum();
    }

    /// Drops the waiting counts and events. Returns how many there were.
    pub(super) fn give_up_announced(&mut self) -> u64 {
        let announced = self.announced();
        self.changes.retain(|change| !matches!(change, LedgerChange::Count(..) | LedgerChange::Report(_)));
        self.bytes = self.changes.iter().map(|change| change.bytes() + CHANGE_BYTES).sum();
        announced
    }

    /// Returns the first waiting changes, which stay queued until [`OccupancyWatch::done`].
    pub(super) fn first(&self, count_max: usize, bytes_max: usize) -> Vec<LedgerChange> {
        let mut bytes = 0;
        let fits = |change: &&LedgerChange| {
            bytes += change.bytes();
            bytes <= bytes_max || bytes == change.bytes()
        };
        self.changes.iter().take(count_max).take_while(fits).cloned().collect()
    }

    /// Removes changes that have been written.
    pub(super) fn done(&mut self, count: usize) {
        for change in self.changes.drain(..count.min(self.changes.len())) {
            self.bytes -= change.bytes() + CHANGE_BYTES;
        }
    }

    /// Returns the number of waiting changes, and their bytes.
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.changes.len(), self.bytes)
    }

    /// Returns the number of waiting counts and events, which are lost if they are never written.
    pub(super) fn announced(&self) -> u64 {
        self.changes
            .iter()
            .filter(|change| matches!(change, LedgerChange::Count(..) | LedgerChange::Report(_)))
            .count() as u64
    }
}

#[cfg(test)]
mod tests {
    use shared::id::UserId;

    use super::*;

    const ROOM: LedgerCapacity = LedgerCapacity { news_max: 100, bytes_max: 1 << 20 };
    const DELAY: Duration = Duration::from_secs(3);

    fn watch() -> OccupancyWatch {
        OccupancyWatch::new(ROOM, DELAY)
    }

    fn info(client: u8, user: &str) -> ClientInfo {
        let client = ClientId::from_bits(client.into());
        ClientInfo { client, user: UserId::new(user), conn_info: None, chan_info: None }
    }

    fn hold(text: &str) -> LedgerChange {
        LedgerChange::Hold(text.into())
    }

    fn release(text: &str) -> LedgerChange {
        LedgerChange::Release(text.into())
    }

    fn take(watch: &mut OccupancyWatch) -> Vec<LedgerChange> {
        let changes = watch.first(100, usize::MAX);
        watch.done(changes.len());
        changes
    }

    #[test]
    fn who_is_back_soon_has_not_been_away() {
        let (mut watch, start) = (watch(), Moment(1_000));
        watch.occupied("a");
        watch.vacated(start, "a");
        watch.pass(start + DELAY / 2);
        watch.occupied("a");
        watch.pass(start + DELAY);
        assert_eq!(take(&mut watch), [hold("ca")]);
        watch.vacated(start + DELAY, "a");
        watch.pass(start + DELAY * 2);
        assert_eq!(take(&mut watch), [release("ca")]);
        assert!(watch.held.is_empty() && watch.leaving.is_empty() && watch.bytes == 0);
    }

    #[test]
    fn who_comes_and_goes_in_turns_is_let_go_of_after_the_last_time() {
        let (mut watch, start) = (watch(), Moment(1_000));
        watch.occupied("a");
        watch.vacated(start, "a");
        watch.occupied("a");
        watch.vacated(start + DELAY / 2, "a");
        watch.pass(start + DELAY);
        assert_eq!(take(&mut watch), [hold("ca")]);
        watch.pass(start + DELAY + DELAY / 2);
        assert_eq!(take(&mut watch), [release("ca")]);
    }

    #[test]
    fn a_user_is_a_member_from_its_first_client_to_its_last() {
        let (mut watch, start) = (watch(), Moment(1_000));
        watch.entered(start, "presence-a", info(1, "ann"));
        watch.entered(start, "presence-a", info(2, "ann"));
        watch.entered(start, "presence-a", info(3, ""));
        watch.left(start, "presence-a", info(1, "").client);
        watch.pass(start + DELAY);
        assert_eq!(take(&mut watch), [hold("mpresence-a\nann")]);
        watch.left(start, "presence-a", info(2, "").client);
        watch.left(start, "presence-a", info(3, "").client);
        watch.left(start, "presence-a", info(9, "").client);
        watch.pass(start + DELAY);
        assert_eq!(take(&mut watch), [release("mpresence-a\nann")]);
        assert!(watch.rosters.is_empty());
    }

    #[test]
    fn what_is_only_said_finds_room_or_is_lost_and_what_is_held_is_told_anew() {
        let mut watch = OccupancyWatch::new(LedgerCapacity { news_max: 2, ..ROOM }, DELAY);
        watch.occupied("a");
        assert_eq!(watch.record(LedgerChange::Report("x".into())), 0);
        assert_eq!(watch.record(LedgerChange::Report("y".into())), 1);
        watch.occupied("b");
        assert!(watch.take_overflowed() && !watch.take_overflowed());
        watch.begin_anew();
        let mut told = take(&mut watch);
        told.sort_by_key(|change| format!("{change:?}"));
        assert_eq!(told, [hold("ca"), hold("cb"), LedgerChange::Report("x".into())]);
        assert_eq!(watch.waiting(), (0, 0));
    }

    #[test]
    fn one_step_takes_so_many_changes_and_so_many_bytes_and_at_least_one() {
        let mut watch = watch();
        for text in ["12345", "12345", "1234567890123"] {
            watch.record(LedgerChange::Report(text.into()));
        }
        assert_eq!((watch.first(1, 100).len(), watch.first(9, 10).len()), (1, 2));
        watch.done(2);
        assert_eq!(watch.first(9, 10).len(), 1);
        assert_eq!(watch.announced(), 1);
    }
}
