//! Checks random requests against a real stream: what the stream could serve is served, and nothing else.

use proptest::collection::vec;
use proptest::prelude::*;
use shared::command::Since;

use super::*;
use crate::recovery::is_recovered;

#[derive(Clone, Debug)]
enum Step {
    /// This many are published.
    Publish(u64),
    /// This many of them are delivered on this node.
    HandOut(usize),
    /// A client comes that stopped this many before the newest (or after it), with this limit.
    Recover {
        behind: i64,
        limit: u32,
        any_epoch: bool,
        other_epoch: bool,
    },
    Begin,
    /// A client comes that wants the newest publication.
    Newest,
    /// A client comes that looks for the update this many before the newest, within this limit; with `None`, for
    /// everything.
    Seek {
        behind: Option<i64>,
        limit: u32,
    },
    /// The read in flight has reached the broker.
    Reach,
    /// The read returns, or fails.
    Return {
        fails: bool,
    },
    RemoveHistory,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let recover = (-3_i64..30, select_limit(), prop::bool::weighted(0.1), prop::bool::weighted(0.1));
    prop_oneof![
        4 => (1_u64..4).prop_map(Step::Publish),
        4 => (1_usize..5).prop_map(Step::HandOut),
        8 => recover.prop_map(|(behind, limit, any_epoch, other_epoch)| {
            Step::Recover { behind, limit, any_epoch, other_epoch }
        }),
        1 => Just(Step::Begin),
        2 => Just(Step::Newest),
        4 => (prop::option::weighted(0.9, -3_i64..30), select_limit())
            .prop_map(|(behind, limit)| Step::Seek { behind, limit }),
        6 => Just(Step::Reach),
        6 => prop::bool::weighted(0.05).prop_map(|fails| Step::Return { fails }),
        1 => Just(Step::RemoveHistory),
        1 => (0_u64..6_000).prop_map(Step::Wait),
    ]
}

fn select_limit() -> impl Strategy<Value = u32> {
    prop::sample::select(vec![1, 3, 8, 1_000])
}

/// A client that waits.
#[derive(Clone, Debug)]
struct Asker {
    want: CatchUpRequest<'static>,
    since: Option<Since>,
    /// The stream's end when the client came.
    top: u64,
}

struct Model {
    now: Moment,
    retention: Retention,
    stream: Stream,
    catch_up: CatchUp,
    /// Published but not delivered yet.
    on_their_way: VecDeque<Publication>,
    handed_out: u64,
    reading: Option<(ReadRequest, Option<HistoryPage>)>,
    waiting: Vec<Asker>,
    served: u32,
}

impl Model {
    fn new(kept: u32) -> Self {
        let retention = Retention::new(kept, Duration::from_secs(60));
        Self {
            now: NOW,
            retention,
            stream: Stream::new(epoch()),
            catch_up: CatchUp::new(0, retention),
            on_their_way: VecDeque::new(),
            handed_out: 0,
            reading: None,
            waiting: Vec::new(),
            served: 0,
        }
    }

    fn happens(&mut self, step: Step) {
        match step {
            Step::Publish(count) => {
                for _ in 0..count {
                    let mut publication = Publication::new(Payload::json("1"));
                    self.stream.append(self.now, &mut publication, self.retention, usize::MAX);
                    self.on_their_way.push_back(publication);
                }
            }
            Step::HandOut(count) => {
                for _ in 0..count {
                    let Some(publication) = self.on_their_way.pop_front() else { break };
                    self.handed_out = publication.offset();
                    self.catch_up.handed_out(self.now, &publication);
                }
            }
            Step::Recover { behind, limit, any_epoch, other_epoch } => {
                let top = self.stream.position().offset;
                let offset = top.saturating_add_signed(-behind);
                let of = match (any_epoch, other_epoch) {
                    (true, _) => Epoch::EMPTY,
                    (_, true) => Epoch::from_random(8),
                    _ => epoch(),
                };
                let since = Since { offset, epoch: of.as_str().into() };
                let want = self.catch_up.want(Some(ClientPosition { offset, epoch: Some(of) }), limit);
                self.asks(Asker { want, since: Some(since), top });
            }
            Step::Begin => {
                let top = self.stream.position().offset;
                let want = self.catch_up.want(None, 0);
                self.asks(Asker { want, since: None, top });
            }
            Step::Newest => {
                let top = self.stream.position().offset;
                let want = self.catch_up.want_newest();
                self.asks(Asker { want, since: None, top });
            }
            Step::Seek { behind, limit } => {
                let top = self.stream.position().offset;
                let sought = match behind {
                    Some(behind) => update(top.saturating_add_signed(-behind)),
                    None => ResumeAfter::Everything,
                };
                let want = self.catch_up.want_after(Box::leak(Box::new(sought)), limit);
                self.asks(Asker { want, since: None, top });
            }
            Step::Reach => {
                self.stream.expire(self.now);
                if let Some((reading, page @ None)) = &mut self.reading {
                    *page = Some(self.stream.page(reading.filter));
                }
            }
            Step::Return { fails } => {
                let Some((reading, page)) = self.reading.take() else { return };
                let past = match page.filter(|_| !fails) {
                    Some(page) => self.catch_up.read(self.now, reading, &page),
                    None => {
                        self.catch_up.read_failed(reading);
                        self.waiting.clear();
                        return;
                    }
                };
                for asker in std::mem::take(&mut self.waiting) {
                    match &past {
                        ReadResult::Shared(past) => match past.answer(&asker.want) {
                            Some(page) => self.check(&asker, &page),
                            None => self.asks(asker),
                        },
                        // Each client reads for itself.
                        ReadResult::Unshared => {}
                    }
                }
            }
            Step::RemoveHistory => {
                self.stream.clear();
                self.catch_up.forget();
            }
            Step::Wait(ms) => {
                self.now = Moment(self.now.0 + ms);
                self.stream.expire(self.now);
            }
        }
        assert!(self.waiting.is_empty() || self.reading.is_some(), "they wait for nothing");
    }

    fn asks(&mut self, asker: Asker) {
        match self.catch_up.ask(self.now, &asker.want) {
            CatchUpAnswer::Answered(page) => self.check(&asker, &page),
            CatchUpAnswer::Read(reading) => {
                assert!(self.reading.is_none(), "two reads at once");
                self.reading = Some((reading, None));
                self.waiting.push(asker);
            }
            CatchUpAnswer::Wait => self.waiting.push(asker),
        }
    }

    fn check(&mut self, asker: &Asker, page: &HistoryPage) {
        self.served += 1;
        assert!(page.top.offset >= self.handed_out, "what was handed out before is a gap");
        if let Some(sought) = asker.want.sought {
            return self.check_sought(asker, sought, page);
        }
        if asker.want.newest {
            match page.publications.first() {
                Some(newest) => assert_eq!(newest.position, Some(page.top)),
                None => {
                    self.stream.expire(self.now);
                    let newest = HistoryFilter { limit: 1, reverse: true, ..HistoryFilter::default() };
                    let is_there = |one: &Publication| one.offset() <= page.top.offset;
                    assert!(!self.stream.page(newest).publications.iter().any(is_there), "it could be had");
                }
            }
            return;
        }
        let Some(since) = &asker.since else {
            assert!(page.top.offset >= asker.top, "what was published before they came is new to them");
            return;
        };
        if is_recovered(since, page) {
            let all: Vec<u64> = (since.offset + 1..=page.top.offset).collect();
            assert_eq!(offsets(page), all);
            assert!(all.len() <= asker.want.limit as usize);
            return;
        }
        // Compares up to the answered position, with a stream as it is now: it only ever loses publications with time.
        self.stream.expire(self.now);
        let filter =
            HistoryFilter { since: Some(since.offset), limit: u32::MAX, reverse: false, enough_bytes: None };
        let mut could = self.stream.page(filter);
        could.publications.retain(|publication| publication.offset() <= page.top.offset);
        could.top = page.top;
        could.publications.truncate(asker.want.limit as usize);
        assert!(!is_recovered(since, &could), "{since:?} up to {:?} could be had", page.top);
    }

    /// The answer has everything since the update. A client with an empty answer could not have had it.
    fn check_sought(&mut self, asker: &Asker, sought: &ResumeAfter, page: &HistoryPage) {
        let told = offsets(page);
        let limit = asker.want.limit as usize;
        let from_the_top = || (1..=page.top.offset).rev();
        assert!(told.len() <= limit && told.iter().copied().eq(from_the_top().take(told.len())), "{told:?}");
        if let ResumeAfter::Id(_) = sought
            && let Some(last) = page.publications.last()
        {
            assert!(mercure::has_id(last, id(sought)), "it is the last of them");
            return;
        }
        assert!(
            page.top.offset >= asker.top || sought == &ResumeAfter::Everything,
            "it may have been published since"
        );
        self.stream.expire(self.now);
        let all = HistoryFilter { limit: u32::MAX, reverse: true, ..HistoryFilter::default() };
        let mut could = self.stream.page(all).publications;
        could.retain(|publication| publication.offset() <= page.top.offset);
        could.truncate(limit);
        match sought {
            ResumeAfter::Everything => assert!(could.len() <= told.len(), "more could be had"),
            ResumeAfter::Id(_) => {
                assert!(!could.iter().any(|one| mercure::has_id(one, id(sought))), "it is there")
            }
        }
    }
}

fn id(sought: &ResumeAfter) -> &str {
    match sought {
        ResumeAfter::Id(id) => id,
        ResumeAfter::Everything => "",
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_the_stream_could_serve_is_served_and_nothing_else(
        kept in prop::sample::select(vec![1_u32, 4, 12, 100]),
        steps in vec(step(), 1..120),
    ) {
        let mut model = Model::new(kept);
        for step in steps {
            model.happens(step);
        }
    }
}
