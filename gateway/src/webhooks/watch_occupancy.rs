//! What one node has of one app's channels and members, and what of it the ledger does not know yet.
//!
//! Whoever goes is let go of only after a while: a page that is loaded again is back before.

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

/// What a change that waits costs beside its text, in bytes.
const CHANGE_BYTES: usize = 48;

/// Bounded by the node's subscriptions, and by the room for changes that wait.
#[derive(Debug)]
pub(super) struct OccupancyWatch {
    room: LedgerCapacity,
    delay: Duration,
    /// Each thing that is held, and when it is to be let go of, if it is.
    held: FxHashMap<Box<str>, Option<Moment>>,
    leaving: VecDeque<(Moment, Box<str>)>,
    /// Who is in which presence channel, on this node.
    rosters: FxHashMap<Box<str>, Roster>,
    changes: VecDeque<LedgerChange>,
    bytes: usize,
    /// The ledger is to be told of everything that is held.
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

    /// A channel has its first subscriber here.
    pub(super) fn occupied(&mut self, name: &str) {
        self.hold(webhook_event::channel(name));
    }

    /// It has lost the last.
    pub(super) fn vacated(&mut self, now: Moment, name: &str) {
        self.let_go(now, webhook_event::channel(name));
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
            self.let_go(now, webhook_event::member(name, user.as_str()));
        }
    }

    /// Something that is not held: a number, or an event. Returns how many are lost for want of room.
    pub(super) fn say(&mut self, change: LedgerChange) -> u64 {
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

    fn let_go(&mut self, now: Moment, subject: Box<str>) {
        if let Some(leaves) = self.held.get_mut(&subject) {
            let at = now + self.delay;
            *leaves = Some(at);
            self.leaving.push_back((at, subject));
        }
    }

    /// What cannot be left out: where there is no room, everything is told anew.
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

    /// Lets go of what has been left for long enough.
    pub(super) fn pass(&mut self, now: Moment) {
        while let Some((at, _)) = self.leaving.front().filter(|(at, _)| *at <= now) {
            let at = *at;
            let Some((_, subject)) = self.leaving.pop_front() else { return };
            // Who came back and left again stands in the line a second time.
            if self.held.get(&subject) == Some(&Some(at)) {
                self.held.remove(&subject);
                self.change(LedgerChange::Release(subject));
            }
        }
    }

    /// When something is to be let go of.
    pub(super) fn next_at(&self) -> Option<Moment> {
        self.leaving.front().map(|(at, _)| *at)
    }

    /// Whether a new name has to be taken for what is held. Asking takes it back.
    pub(super) fn take_overflowed(&mut self) -> bool {
        std::mem::take(&mut self.anew)
    }

    /// Has the ledger told of everything that is held, and then of what was only announced.
    pub(super) fn begin_anew(&mut self) {
        self.anew = false;
        let announced = std::mem::take(&mut self.changes).into_iter();
        let announced =
            announced.filter(|change| matches!(change, LedgerChange::Count(..) | LedgerChange::Say(_)));
        let held = self.held.keys().cloned().map(LedgerChange::Hold);
        self.changes = held.chain(announced).collect();
        self.bytes = self.changes.iter().map(|change| change.bytes() + CHANGE_BYTES).sum();
    }

    /// Forgets what was only announced. Returns how much that was.
    pub(super) fn give_up_announced(&mut self) -> u64 {
        let announced = self.announced();
        self.changes.retain(|change| !matches!(change, LedgerChange::Count(..) | LedgerChange::Say(_)));
        self.bytes = self.changes.iter().map(|change| change.bytes() + CHANGE_BYTES).sum();
        announced
    }

    /// The first of what the ledger is to be told. They are still there until [`OccupancyWatch::done`].
    pub(super) fn first(&self, count_max: usize, bytes_max: usize) -> Vec<LedgerChange> {
        let mut bytes = 0;
        let fits = |change: &&LedgerChange| {
            bytes += change.bytes();
            bytes <= bytes_max || bytes == change.bytes()
        };
        self.changes.iter().take(count_max).take_while(fits).cloned().collect()
    }

    /// The ledger knows of so many.
    pub(super) fn done(&mut self, count: usize) {
        for change in self.changes.drain(..count.min(self.changes.len())) {
            self.bytes -= change.bytes() + CHANGE_BYTES;
        }
    }

    /// How much waits: changes and bytes.
    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.changes.len(), self.bytes)
    }

    /// How many of these were only announced, and are lost if nobody takes them any more.
    pub(super) fn announced(&self) -> u64 {
        self.changes
            .iter()
            .filter(|change| matches!(change, LedgerChange::Count(..) | LedgerChange::Say(_)))
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
        assert_eq!(watch.say(LedgerChange::Say("x".into())), 0);
        assert_eq!(watch.say(LedgerChange::Say("y".into())), 1);
        watch.occupied("b");
        assert!(watch.take_overflowed() && !watch.take_overflowed());
        watch.begin_anew();
        let mut told = take(&mut watch);
        told.sort_by_key(|change| format!("{change:?}"));
        assert_eq!(told, [hold("ca"), hold("cb"), LedgerChange::Say("x".into())]);
        assert_eq!(watch.waiting(), (0, 0));
    }

    #[test]
    fn one_step_takes_so_many_changes_and_so_many_bytes_and_at_least_one() {
        let mut watch = watch();
        for text in ["12345", "12345", "1234567890123"] {
            watch.say(LedgerChange::Say(text.into()));
        }
        assert_eq!((watch.first(1, 100).len(), watch.first(9, 10).len()), (1, 2));
        watch.done(2);
        assert_eq!(watch.first(9, 10).len(), 1);
        assert_eq!(watch.announced(), 1);
    }
}
