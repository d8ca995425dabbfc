//! The two regions, event by event.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use gateway_core::feed::{Admission, Feed, FeedDelivery, GapCheck, GapState, RepairOutcome};
use gateway_core::history::{HistoryFilter, HistoryPage, Retention};
use gateway_core::stream::Stream;
use rustc_hash::{FxHashMap, FxHashSet};
use shared::moment::Moment;
use shared::position::{Epoch, StreamPosition};
use shared::publication::{Payload, Publication};

/// When the link goes down, if it does.
const CUT_AT: Moment = Moment(20_000);
/// The most publications of one read of history.
const PAGE: u32 = 500;

#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// 1: the channel's stream is in the first region. 2: there is one in each region, for what is published there.
    pub homes: usize,
    /// The latency from one region to the other.
    pub one_way: Duration,
    /// How long the link is down.
    pub cut: Duration,
    /// How many publications a stream keeps.
    pub history: u32,
    /// Publications in each region per second.
    pub a_second: u64,
    pub time: Duration,
}

/// The result, by region where there are two figures.
#[derive(Debug, Default)]
pub struct Report {
    pub requests: [u64; 2],
    pub refused: [u64; 2],
    /// The longest that a publisher waited for success.
    pub accepted_within: [Duration; 2],
    /// The median time until subscribers of the publisher's own region saw a publication, and those of the other region,
    /// while the link was up.
    pub here: [Duration; 2],
    pub there: [Duration; 2],
    /// How many publications subscribers saw.
    pub seen: [u64; 2],
    /// How many of those came from history.
    pub recovered: u64,
    /// How many publications subscribers were told they missed.
    pub lost: u64,
    /// How many publications the two regions see in another order than some other publication.
    pub other_order: u64,
}

#[derive(Debug)]
enum Event {
    /// A client in this region publishes.
    Ask {
        region: usize,
        number: u64,
    },
    /// A publish request reaches the stream's home.
    Append {
        stream: usize,
        region: usize,
        number: u64,
        requested_at: Moment,
    },
    Answered {
        region: usize,
        requested_at: Moment,
    },
    Arrives {
        stream: usize,
        region: usize,
        publication: Box<Publication>,
    },
    LinkIsBack,
    /// A region asks for a stream's position, and reports its own.
    AskTop {
        stream: usize,
        region: usize,
        before: Option<StreamPosition>,
    },
    /// The answer to that: the stream's position, and the region's position when it asked.
    Top {
        stream: usize,
        region: usize,
        before: Option<StreamPosition>,
        top: StreamPosition,
    },
    Read {
        stream: usize,
        region: usize,
        since: u64,
    },
    Page {
        stream: usize,
        region: usize,
        page: HistoryPage,
    },
}

struct Next {
    at: Moment,
    turn: u64,
    event: Event,
}

impl PartialEq for Next {
    fn eq(&self, other: &Self) -> bool {
        self.turn == other.turn
    }
}

impl Eq for Next {}

impl PartialOrd for Next {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Next {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.turn).cmp(&(other.at, other.turn))
    }
}

struct World {
    setting: Setting,
    now: Moment,
    turn: u64,
    events: BinaryHeap<Reverse<Next>>,
    streams: Vec<Stream>,
    /// The feed of each stream on each region's node.
    feeds: [Vec<Feed>; 2],
    /// The publications that each region's subscribers saw, in order.
    saw: [Vec<u64>; 2],
    origins: FxHashMap<u64, (usize, Moment)>,
    /// The publication at each position.
    named: FxHashMap<(usize, StreamPosition), u64>,
    delays: FxHashMap<(usize, usize), Vec<Duration>>,
    report: Report,
}

pub fn run(setting: Setting) -> Report {
    let epochs = (0..setting.homes as u64).map(Epoch::from_random);
    let streams: Vec<Stream> = epochs.map(Stream::new).collect();
    let feeds = [(); 2].map(|()| {
        let anchored = |stream: &Stream| {
            let mut feed = Feed::default();
            feed.anchor(stream.position());
            feed
        };
        streams.iter().map(anchored).collect()
    });
    let mut world = World {
        setting,
        now: Moment::ZERO,
        turn: 0,
        events: BinaryHeap::new(),
        streams,
        feeds,
        saw: [Vec::new(), Vec::new()],
        origins: FxHashMap::default(),
        named: FxHashMap::default(),
        delays: FxHashMap::default(),
        report: Report::default(),
    };
    world.begin();
    while let Some(Reverse(next)) = world.events.pop() {
        world.now = next.at;
        world.happen(next.event);
    }
    world.end()
}

impl World {
    fn begin(&mut self) {
        let every = 1_000 / self.setting.a_second;
        let count = self.setting.time.as_secs() * self.setting.a_second;
        for number in 0..count {
            for region in 0..2 {
                // Publications of the regions come neither at the same time nor evenly spaced.
                let after = Duration::from_millis(number * every + region as u64 * every / 3);
                self.after(after, Event::Ask { region, number: number * 2 + region as u64 });
            }
        }
        if !self.setting.cut.is_zero() {
            self.after(CUT_AT - Moment::ZERO + self.setting.cut, Event::LinkIsBack);
        }
    }

    fn after(&mut self, delay: Duration, event: Event) {
        self.turn += 1;
        self.events.push(Reverse(Next { at: self.now + delay, turn: self.turn, event }));
    }

    fn home(&self, stream: usize) -> usize {
        stream
    }

    /// Sends something to a region. It is lost if the link is down before it arrives.
    fn send(&mut self, from: usize, to: usize, event: Event) -> bool {
        if from == to {
            self.after(Duration::ZERO, event);
            return true;
        }
        let one_way = self.setting.one_way;
        let goes = !self.is_cut(self.now) && !self.is_cut(self.now + one_way);
        if goes {
            self.after(one_way, event);
        }
        goes
    }

    fn is_cut(&self, at: Moment) -> bool {
        at >= CUT_AT && at < CUT_AT + self.setting.cut
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Ask { region, number } => {
                self.report.requests[region] += 1;
                self.origins.insert(number, (region, self.now));
                let stream = if self.setting.homes == 1 { 0 } else { region };
                let append = Event::Append { stream, region, number, requested_at: self.now };
                if !self.send(region, self.home(stream), append) {
                    self.report.refused[region] += 1;
                }
            }
            Event::Append { stream, region, number, requested_at } => {
                let retention = Retention::new(self.setting.history, Duration::from_secs(3_600));
                let mut publication = Publication::new(Payload::json(number.to_string()));
                let at = self.streams[stream].append(self.now, &mut publication, retention, usize::MAX);
                assert_eq!(self.named.insert((stream, at), number), None, "a position names one publication");
                for to in 0..2 {
                    let arrives =
                        Event::Arrives { stream, region: to, publication: publication.clone().into() };
                    self.send(self.home(stream), to, arrives);
                }
                // A publisher that gets no answer does not know, but its publication was made.
                self.send(self.home(stream), region, Event::Answered { region, requested_at });
            }
            Event::Answered { region, requested_at } => {
                let within = &mut self.report.accepted_within[region];
                *within = (*within).max(self.now - requested_at);
            }
            Event::Arrives { stream, region, publication } => {
                match self.feeds[region][stream].admit(*publication) {
                    Admission::Deliver(publication) => self.deliver(stream, region, publication, false),
                    Admission::Gap { since } | Admission::Doubtful { since } => {
                        self.read(stream, region, since)
                    }
                    Admission::Duplicate | Admission::Held => {}
                }
            }
            Event::LinkIsBack => {
                for stream in 0..self.streams.len() {
                    let region = 1 - self.home(stream);
                    let before = self.feeds[region][stream].position();
                    self.send(region, self.home(stream), Event::AskTop { stream, region, before });
                }
            }
            Event::AskTop { stream, region, before } => {
                let top = self.streams[stream].position();
                self.send(self.home(stream), region, Event::Top { stream, region, before, top });
            }
            Event::Top { stream, region, before, top } => {
                match self.feeds[region][stream].check(before, top, GapCheck::AfterLoss) {
                    GapState::Missing { since } => self.read(stream, region, since),
                    GapState::Lost(_) => panic!("the epoch is the same"),
                    GapState::Fine | GapState::Suspicious => {}
                }
            }
            Event::Read { stream, region, since } => {
                let filter = HistoryFilter { since: Some(since), limit: PAGE, ..HistoryFilter::default() };
                let page = self.streams[stream].page(filter);
                self.send(self.home(stream), region, Event::Page { stream, region, page });
            }
            Event::Page { stream, region, page } => {
                let repaired = self.feeds[region][stream].repair(page);
                self.repaired(stream, region, repaired);
            }
        }
    }

    fn read(&mut self, stream: usize, region: usize, since: u64) {
        self.send(region, self.home(stream), Event::Read { stream, region, since });
    }

    fn repaired(&mut self, stream: usize, region: usize, repaired: RepairOutcome) {
        let mut stands = None;
        for delivery in repaired.deliveries {
            match delivery {
                FeedDelivery::Publication(publication) => {
                    stands = publication.position;
                    self.deliver(stream, region, publication, true);
                }
                FeedDelivery::Lost(up_to) => {
                    let missing = self.named.keys().filter(|(of, at)| {
                        *of == stream
                            && at.offset <= up_to.offset
                            && stands.is_none_or(|stands: StreamPosition| at.offset > stands.offset)
                    });
                    let numbers: FxHashSet<u64> = missing.map(|name| self.named[name]).collect();
                    let seen: FxHashSet<u64> = self.saw[region].iter().copied().collect();
                    self.report.lost += numbers.difference(&seen).count() as u64;
                    stands = Some(up_to);
                }
            }
        }
        if let Some(since) = repaired.again {
            self.read(stream, region, since);
        }
        assert_eq!(repaired.leave, None, "no offset is given out twice");
    }

    fn deliver(&mut self, stream: usize, region: usize, publication: Publication, from_history: bool) {
        let text = std::str::from_utf8(&publication.data.bytes).expect("text");
        let number: u64 = text.parse().expect("a number");
        let position = publication.position.expect("it is of a stream");
        assert_eq!(self.named[&(stream, position)], number, "a position names one publication");
        self.saw[region].push(number);
        let (publisher, requested_at) = self.origins[&number];
        if from_history {
            self.report.recovered += 1;
        } else {
            self.delays.entry((publisher, region)).or_default().push(self.now - requested_at);
        }
    }

    fn end(mut self) -> Report {
        for region in 0..2 {
            let distinct: FxHashSet<u64> = self.saw[region].iter().copied().collect();
            assert_eq!(distinct.len(), self.saw[region].len(), "each once");
            self.report.seen[region] = distinct.len() as u64;
            self.report.here[region] = self.median(region, region);
            self.report.there[region] = self.median(region, 1 - region);
        }
        self.report.other_order = self.other_order();
        self.report
    }

    fn median(&mut self, publisher: usize, region: usize) -> Duration {
        let delays = self.delays.get_mut(&(publisher, region)).expect("some were seen");
        delays.sort_unstable();
        delays[delays.len() / 2]
    }

    /// Returns how many of the publications that both saw come on another side of some other one.
    fn other_order(&self) -> u64 {
        let [here, there] = &self.saw;
        let place: FxHashMap<u64, usize> =
            there.iter().enumerate().map(|(at, number)| (*number, at)).collect();
        let places: Vec<usize> = here.iter().filter_map(|number| place.get(number).copied()).collect();
        let (mut most, mut highest) = (0, vec![0; places.len()]);
        for (at, place) in places.iter().enumerate() {
            highest[at] = most;
            most = most.max(place + 1);
        }
        let (mut least, mut differ) = (usize::MAX, 0);
        for (at, place) in places.iter().enumerate().rev() {
            // One before it comes after it there, or one after it before.
            if highest[at] > place + 1 || least < *place {
                differ += 1;
            }
            least = least.min(*place);
        }
        differ
    }
}
