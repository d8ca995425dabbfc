//! The ledger: what each of several holders holds, and the news of it. One event is told when the first holder takes hold
//! of a subject, and one when the last lets go of it. Readers get the events in one order, each from where it left off.
//!
//! A single node keeps this itself. Scripts in Redis do the same for several nodes. Over NATS, each node makes this of the
//! log that is kept there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use rustc_hash::FxHashMap;

/// A change by a holder, in the order of that holder's changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LedgerChange {
    /// Takes hold of a subject. The holder may hold it already.
    Hold(Box<str>),
    Release(Box<str>),
    /// Sets the count of a subject: news only if the count was different. A subject without a count has 0.
    Count(Box<str>, u32),
    /// News that have nothing to do with holding.
    Report(Box<str>),
}

impl LedgerChange {
    /// Returns the letter and the text by which the scripts know the change.
    pub fn written(&self) -> (&'static str, String) {
        match self {
            Self::Hold(subject) => ("+", subject.to_string()),
            Self::Release(subject) => ("-", subject.to_string()),
            Self::Count(subject, count) => ("#", format!("{count} {subject}")),
            Self::Report(text) => ("=", text.to_string()),
        }
    }

    /// Parses what [`LedgerChange::written`] returns.
    pub fn read(letter: char, text: &str) -> Option<Self> {
        Some(match letter {
            '+' => Self::Hold(text.into()),
            '-' => Self::Release(text.into()),
            '#' => {
                let (count, subject) = text.split_once(' ')?;
                Self::Count(subject.into(), count.parse().ok()?)
            }
            '=' => Self::Report(text.into()),
            _ => return None,
        })
    }

    /// Returns what the change costs to keep, in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Hold(text) | Self::Release(text) | Self::Count(text, _) | Self::Report(text) => text.len(),
        }
    }
}

/// News of the ledger.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LedgerEvent {
    /// The subject has its first holder.
    Taken(Box<str>),
    /// The subject has lost its last holder.
    Free(Box<str>),
    Counted(Box<str>, u32),
    Reported(Box<str>),
}

impl LedgerEvent {
    /// Parses an event as scripts keep it: a letter and a text.
    pub fn read(written: &str) -> Option<Self> {
        let letter = written.chars().next()?;
        let text = &written[letter.len_utf8()..];
        Some(match letter {
            '+' => Self::Taken(text.into()),
            '-' => Self::Free(text.into()),
            '#' => {
                let (count, subject) = text.split_once(' ')?;
                Self::Counted(subject.into(), count.parse().ok()?)
            }
            '=' => Self::Reported(text.into()),
            _ => return None,
        })
    }

    /// Returns the event as [`LedgerEvent::read`] parses it.
    pub fn written(&self) -> String {
        match self {
            Self::Taken(subject) => format!("+{subject}"),
            Self::Free(subject) => format!("-{subject}"),
            Self::Counted(subject, count) => format!("#{count} {subject}"),
            Self::Reported(text) => format!("={text}"),
        }
    }

    /// Returns what the event costs to keep, in bytes: as the scripts count it, except for the number.
    fn bytes(&self) -> usize {
        match self {
            Self::Taken(text) | Self::Free(text) | Self::Counted(text, _) | Self::Reported(text) => {
                text.len() + 1
            }
        }
    }
}

/// How much news is kept for readers that are behind. Beyond it, the oldest are dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LedgerCapacity {
    pub news_max: usize,
    pub bytes_max: usize,
}

/// How far a reader has got. This counts only if `from` matches: where the ledger was lost, or replaced by an older one,
/// the reader has read nothing of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReaderProgress {
    /// [`LedgerPage::from`] of the page that the reader has worked on.
    pub from: u64,
    pub until: u64,
}

/// A page of news for a reader.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LedgerPage {
    /// The number of the last event that the reader has finished.
    pub from: u64,
    /// The events in order, each with its number, which the reader reports once it has finished it.
    pub news: Vec<(u64, LedgerEvent)>,
    /// How many events were dropped before the first of these without this reader having read them.
    pub dropped: u64,
}

/// One row of a ledger, for storing it and loading it again.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LedgerRow {
    Held {
        holder: Box<str>,
        subject: Box<str>,
    },
    Counted {
        subject: Box<str>,
        count: u32,
    },
    News {
        number: u64,
        event: LedgerEvent,
    },
    /// The number of the last event that a reader has finished.
    Reader {
        reader: Box<str>,
        done: u64,
    },
    /// The number of the last event.
    Last(u64),
}

#[derive(Debug, Default)]
pub struct Ledger {
    held: BTreeMap<Box<str>, BTreeSet<Box<str>>>,
    holders: FxHashMap<Box<str>, u32>,
    counts: FxHashMap<Box<str>, u32>,
    log: VecDeque<(u64, LedgerEvent)>,
    last: u64,
    bytes: usize,
    /// The number of the last event that each reader has finished.
    readers: BTreeMap<Box<str>, u64>,
}

impl Ledger {
    pub fn change(&mut self, holder: &str, change: LedgerChange, room: LedgerCapacity) {
        match change {
            LedgerChange::Hold(subject) => {
                if self.held.entry(holder.into()).or_default().insert(subject.clone()) {
                    let holders = self.holders.entry(subject.clone()).or_default();
                    *holders += 1;
                    if *holders == 1 {
                        self.append(LedgerEvent::Taken(subject), room);
                    }
                }
            }
            LedgerChange::Release(subject) => self.release(holder, &subject, room),
            LedgerChange::Count(subject, 0) => {
                if self.counts.remove(&subject).is_some() {
                    self.append(LedgerEvent::Counted(subject, 0), room);
                }
            }
            LedgerChange::Count(subject, count) => {
                if self.counts.insert(subject.clone(), count) != Some(count) {
                    self.append(LedgerEvent::Counted(subject, count), room);
                }
            }
            LedgerChange::Report(text) => self.append(LedgerEvent::Reported(text), room),
        }
    }

    /// Releases everything that a holder holds, because the holder is gone.
    pub fn end(&mut self, holder: &str, room: LedgerCapacity) {
        self.end_some(holder, usize::MAX, room);
    }

    /// Releases at most `most` of what a holder holds, because the holder is gone. Returns how many subjects were released,
    /// and whether the holder holds nothing any more.
    pub fn end_some(&mut self, holder: &str, most: usize, room: LedgerCapacity) -> (usize, bool) {
        let held = self.held.get(holder).into_iter().flatten();
        let some: Vec<Box<str>> = held.take(most).cloned().collect();
        for subject in &some {
            self.release(holder, subject, room);
        }
        (some.len(), !self.held.contains_key(holder))
    }

    /// Returns the next events for a reader, which may have finished some. Events that all of `readers` have finished are
    /// forgotten.
    pub fn read(
        &mut self,
        reader: &str,
        done: Option<ReaderProgress>,
        limit: usize,
        readers: &[&str],
    ) -> LedgerPage {
        let known = self.readers.get(reader).copied();
        let done = done.filter(|done| known == Some(done.from)).map(|done| done.until);
        let at = done.or(known).unwrap_or(0);
        self.readers.insert(reader.into(), at);
        let slowest = readers.iter().map(|reader| self.readers.get(*reader).copied().unwrap_or(0)).min();
        while self.log.front().is_some_and(|(number, _)| Some(*number) <= slowest) {
            self.drop_oldest();
        }
        let page = self.page_after(at, limit);
        LedgerPage { dropped: if known.is_some() { page.dropped } else { 0 }, ..page }
    }

    /// Returns the next events for a reader that has read before and has finished no more since.
    pub fn page(&self, reader: &str, limit: usize) -> Option<LedgerPage> {
        self.readers.get(reader).map(|at| self.page_after(*at, limit))
    }

    fn page_after(&self, at: u64, limit: usize) -> LedgerPage {
        let news: Vec<(u64, LedgerEvent)> =
            self.log.iter().filter(|(number, _)| *number > at).take(limit).cloned().collect();
        // A loaded ledger may have reached the highest number.
        let next = at.saturating_add(1);
        let first = news.first().map_or(next, |(number, _)| *number);
        LedgerPage { from: at, news, dropped: first.saturating_sub(next) }
    }

    /// Iterates over the rows of the ledger. The number of each subject's holders is left out: it follows from what is
    /// held.
    pub fn rows(&self) -> impl Iterator<Item = LedgerRow> + '_ {
        let held = self.held.iter().flat_map(|(holder, subjects)| {
            subjects
                .iter()
                .map(|subject| LedgerRow::Held { holder: holder.clone(), subject: subject.clone() })
        });
        let counts = self.counts.iter();
        let counts =
            counts.map(|(subject, count)| LedgerRow::Counted { subject: subject.clone(), count: *count });
        let news =
            self.log.iter().map(|(number, event)| LedgerRow::News { number: *number, event: event.clone() });
        let readers = self.readers.iter();
        let readers = readers.map(|(reader, done)| LedgerRow::Reader { reader: reader.clone(), done: *done });
        held.chain(counts).chain(news).chain(readers).chain([LedgerRow::Last(self.last)])
    }

    /// Puts back a stored row, into a ledger that does not have it. This is no news.
    pub fn put_back(&mut self, row: LedgerRow) {
        match row {
            LedgerRow::Held { holder, subject } => {
                if self.held.entry(holder).or_default().insert(subject.clone()) {
                    *self.holders.entry(subject).or_default() += 1;
                }
            }
            LedgerRow::Counted { subject, count } => drop(self.counts.insert(subject, count)),
            LedgerRow::News { number, event } => {
                self.bytes += event.bytes();
                self.log.push_back((number, event));
            }
            LedgerRow::Reader { reader, done } => drop(self.readers.insert(reader, done)),
            LedgerRow::Last(last) => self.last = last,
        }
    }

    fn release(&mut self, holder: &str, subject: &str, room: LedgerCapacity) {
        let Some(held) = self.held.get_mut(holder) else { return };
        if !held.remove(subject) {
            return;
        }
        if held.is_empty() {
            self.held.remove(holder);
        }
        let Some(holders) = self.holders.get_mut(subject) else { return };
        *holders -= 1;
        if *holders == 0 {
            self.holders.remove(subject);
            if self.counts.remove(subject).is_some() {
                self.append(LedgerEvent::Counted(subject.into(), 0), room);
            }
            self.append(LedgerEvent::Free(subject.into()), room);
        }
    }

    fn append(&mut self, news: LedgerEvent, room: LedgerCapacity) {
        self.last = self.last.saturating_add(1);
        self.bytes += news.bytes();
        self.log.push_back((self.last, news));
        while self.log.len() > room.news_max || self.bytes > room.bytes_max {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, news)) = self.log.pop_front() {
            self.bytes -= news.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOM: LedgerCapacity = LedgerCapacity { news_max: 1_000, bytes_max: 1 << 20 };

    fn hold(subject: &str) -> LedgerChange {
        LedgerChange::Hold(subject.into())
    }

    fn release(subject: &str) -> LedgerChange {
        LedgerChange::Release(subject.into())
    }

    fn read_after(ledger: &mut Ledger, reader: &str, until: Option<u64>, readers: &[&str]) -> LedgerPage {
        let from = ledger.read(reader, None, 0, readers).from;
        ledger.read(reader, until.map(|until| ReaderProgress { from, until }), 100, readers)
    }

    fn read(ledger: &mut Ledger, reader: &str, until: Option<u64>) -> Vec<LedgerEvent> {
        read_after(ledger, reader, until, &[reader]).news.into_iter().map(|(_, news)| news).collect()
    }

    #[test]
    fn the_first_who_holds_and_the_last_who_lets_go_are_news() {
        let mut ledger = Ledger::default();
        for (holder, change) in [
            ("one", hold("a")),
            ("one", hold("a")),
            ("other", hold("a")),
            ("one", release("a")),
            ("one", release("a")),
            ("other", release("a")),
            ("other", release("a")),
        ] {
            ledger.change(holder, change, ROOM);
        }
        assert_eq!(
            read(&mut ledger, "r", None),
            [LedgerEvent::Taken("a".into()), LedgerEvent::Free("a".into())]
        );
        assert!(ledger.held.is_empty() && ledger.holders.is_empty());
    }

    #[test]
    fn who_is_gone_lets_go_of_what_nobody_else_holds() {
        let mut ledger = Ledger::default();
        for (holder, subject) in [("one", "a"), ("one", "b"), ("other", "b")] {
            ledger.change(holder, hold(subject), ROOM);
        }
        ledger.end("one", ROOM);
        ledger.end("one", ROOM);
        assert_eq!(read(&mut ledger, "r", Some(2)), [LedgerEvent::Free("a".into())]);
    }

    #[test]
    fn a_number_is_news_when_it_is_another_one() {
        let mut ledger = Ledger::default();
        ledger.change("one", hold("a"), ROOM);
        for count in [0, 2, 2, 3, 0, 0, 1] {
            ledger.change("one", LedgerChange::Count("a".into(), count), ROOM);
        }
        let counted = |count| LedgerEvent::Counted("a".into(), count);
        assert_eq!(read(&mut ledger, "r", Some(1)), [counted(2), counted(3), counted(0), counted(1)]);
        ledger.end("one", ROOM);
        assert_eq!(read(&mut ledger, "r", Some(5)), [counted(0), LedgerEvent::Free("a".into())]);
    }

    #[test]
    fn each_reader_goes_on_where_it_stood_and_what_all_have_done_with_is_forgotten() {
        let mut ledger = Ledger::default();
        for number in 0..4 {
            ledger.change("one", LedgerChange::Report(format!("{number}").into()), ROOM);
        }
        let page = ledger.read("fast", None, 2, &["fast", "slow"]);
        assert_eq!(page.news.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1, 2]);
        let stale = ledger.read("fast", Some(ReaderProgress { from: 1, until: 2 }), 9, &["fast", "slow"]);
        assert_eq!(stale.news.len(), 4, "that was another ledger");
        assert_eq!(read_after(&mut ledger, "fast", Some(2), &["fast", "slow"]).news.len(), 2);
        assert_eq!(ledger.read("fast", None, 9, &["fast", "slow"]).news.len(), 2, "it is asked again");
        read_after(&mut ledger, "fast", Some(4), &["fast", "slow"]);
        assert_eq!((ledger.log.len(), ledger.read("slow", None, 9, &["fast", "slow"]).news.len()), (4, 4));
        read_after(&mut ledger, "slow", Some(4), &["fast", "slow"]);
        assert_eq!((ledger.log.len(), ledger.bytes), (0, 0));
    }

    #[test]
    fn a_reader_that_is_far_behind_is_told_how_much_it_has_missed() {
        let mut ledger = Ledger::default();
        let room = LedgerCapacity { news_max: 3, bytes_max: 10 };
        ledger.read("r", None, 9, &["r"]);
        for _ in 0..5 {
            ledger.change("one", LedgerChange::Report("x".into()), room);
        }
        let page = ledger.read("r", None, 9, &["r"]);
        assert_eq!((page.news.len(), page.dropped), (3, 2));
        ledger.change("one", LedgerChange::Report("12345678".into()), room);
        let page = ledger.read("r", None, 9, &["r"]);
        assert_eq!((page.news.len(), page.dropped), (1, 5), "bytes are bounded, too");
        ledger.change("one", LedgerChange::Report("1234567890".into()), room);
        assert_eq!(ledger.log.len(), 0, "what has no room at all is not kept");
    }

    #[test]
    fn what_scripts_keep_is_read_as_what_it_was() {
        for (written, news) in [
            ("+cnews", Some(LedgerEvent::Taken("cnews".into()))),
            ("-", Some(LedgerEvent::Free("".into()))),
            ("#3 cnews", Some(LedgerEvent::Counted("cnews".into(), 3))),
            ("={}", Some(LedgerEvent::Reported("{}".into()))),
            ("#x y", None),
            ("#3", None),
            ("é", None),
            ("", None),
        ] {
            assert_eq!(LedgerEvent::read(written), news, "{written}");
        }
    }

    proptest! {
        #[test]
        fn what_is_said_comes_back_and_nothing_that_is_written_can_do_harm(text in ".*", count in 0_u32..) {
            let written = |change: LedgerChange| {
                let (letter, text) = change.written();
                LedgerEvent::read(&format!("{letter}{text}"))
            };
            let subject: Box<str> = text.as_str().into();
            prop_assert_eq!(written(LedgerChange::Hold(subject.clone())), Some(LedgerEvent::Taken(subject.clone())));
            prop_assert_eq!(written(LedgerChange::Release(subject.clone())), Some(LedgerEvent::Free(subject.clone())));
            prop_assert_eq!(written(LedgerChange::Report(subject.clone())), Some(LedgerEvent::Reported(subject.clone())));
            let counted = LedgerEvent::Counted(subject.clone(), count);
            prop_assert_eq!(written(LedgerChange::Count(subject.clone(), count)), Some(counted.clone()));
            let changes = [LedgerChange::Count(subject.clone(), count), LedgerChange::Release(subject.clone())];
            for change in changes {
                let (letter, text) = change.written();
                prop_assert_eq!(LedgerChange::read(letter.chars().next().unwrap(), &text), Some(change));
            }
            for event in [counted, LedgerEvent::Taken(subject.clone()), LedgerEvent::Free(subject)] {
                prop_assert_eq!(LedgerEvent::read(&event.written()), Some(event));
            }
            let _ = LedgerEvent::read(&text);
        }

        #[test]
        fn a_ledger_that_was_written_down_goes_on_as_the_one_that_was_not(
            steps in prop::collection::vec((0_u8..5, 0_u8..3, 0_u8..4), 0..60),
            written_at in 0_usize..60,
        ) {
            let room = LedgerCapacity { news_max: 9, bytes_max: 40 };
            let mut ledger = Ledger::default();
            let mut copy = None;
            for (at, (what, holder, subject)) in steps.into_iter().enumerate() {
                if at == written_at {
                    let mut read = Ledger::default();
                    ledger.rows().for_each(|row| read.put_back(row));
                    copy = Some(read);
                }
                for ledger in std::iter::once(&mut ledger).chain(&mut copy) {
                    let (name, text) = (holder.to_string(), subject.to_string());
                    match what {
                        0 => ledger.change(&name, hold(&text), ROOM),
                        1 => ledger.change(&name, release(&text), ROOM),
                        2 => ledger.change(&name, LedgerChange::Count(text.into(), holder.into()), room),
                        3 => drop(ledger.end_some(&name, 1, ROOM)),
                        _ => {
                            let from = ledger.page(&name, 0).map_or(0, |page| page.from);
                            let done = ReaderProgress { from, until: from + u64::from(subject) };
                            ledger.read(&name, Some(done), 9, &["0", "1"]);
                        }
                    }
                }
            }
            if let Some(copy) = copy {
                prop_assert_eq!(copy.bytes, ledger.bytes);
                prop_assert_eq!(&copy.holders, &ledger.holders);
                prop_assert_eq!(copy.rows().collect::<BTreeSet<_>>(), ledger.rows().collect::<BTreeSet<_>>());
            }
        }

        #[test]
        fn news_of_one_thing_take_turns_and_end_as_it_is(
            steps in prop::collection::vec((0_u8..3, 0_u8..3, 0_u8..3), 0..60),
        ) {
            let mut ledger = Ledger::default();
            let mut model: BTreeSet<(u8, u8)> = BTreeSet::new();
            for (what, holder, subject) in steps {
                let name = holder.to_string();
                match what {
                    0 => {
                        ledger.change(&name, hold(&subject.to_string()), ROOM);
                        model.insert((holder, subject));
                    }
                    1 => {
                        ledger.change(&name, release(&subject.to_string()), ROOM);
                        model.remove(&(holder, subject));
                    }
                    _ => {
                        ledger.end(&name, ROOM);
                        model.retain(|(held_by, _)| *held_by != holder);
                    }
                }
            }
            let mut told: BTreeSet<Box<str>> = BTreeSet::new();
            for news in read(&mut ledger, "r", None) {
                match news {
                    LedgerEvent::Taken(subject) => prop_assert!(told.insert(subject), "told twice"),
                    LedgerEvent::Free(subject) => prop_assert!(told.remove(&subject), "told twice"),
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            let held: BTreeSet<Box<str>> =
                model.iter().map(|(_, subject)| subject.to_string().into()).collect();
            prop_assert_eq!(told, held);
        }
    }
}
