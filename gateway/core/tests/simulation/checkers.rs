//! The invariants, whatever happened: order, no duplicates, no loss without notice.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use shared::channel::Channel;
use shared::moment::Moment;
use shared::position::StreamPosition;
use shared::protocol::centrifuge::json::client::{ReceivedPublication, ReceivedSubscribeResult};
use shared::publication::Publication;
use shared::push::OwnedEvent;

/// What a subscriber asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// To be told of gaps, and to recover after them.
    Recoverable,
    /// To be told of gaps.
    Positioned,
    /// Tagged publications, and to recover after gaps.
    Filtered,
    /// Deltas, and to recover after gaps.
    Patched,
    /// Nothing: the server subscribes it, and recovers it when it comes back.
    Served,
    /// Publications as they come.
    Plain,
}

/// A publication that was made.
#[derive(Debug)]
struct Record {
    channel: Channel,
    position: Option<StreamPosition>,
    /// How many there were before it in its channel.
    index: usize,
    is_tagged: bool,
}

/// Everything that was ever published.
#[derive(Debug, Default)]
pub(crate) struct Checkers {
    records: BTreeMap<u64, Record>,
    /// For each publication of a channel, whether it was tagged.
    tagged: BTreeMap<Channel, Vec<bool>>,
    /// The tagged publications by their position.
    tagged_at: BTreeSet<(Channel, String, u64)>,
    /// The members of each channel according to the announcements, and since when.
    members: BTreeMap<Channel, BTreeMap<String, Moment>>,
    /// Whether joins and leaves reach all subscribers in this run.
    pub(crate) all_are_announced: bool,
    /// Whether nothing goes wrong in this run, so that no subscriber may miss anything.
    pub(crate) nothing_is_lost: bool,
}

impl Checkers {
    pub(crate) fn published(&mut self, channel: &Channel, publication: &Publication) {
        let text = std::str::from_utf8(&publication.data.bytes).expect("payloads are text");
        let is_tagged = !publication.tags.is_empty();
        let tagged = self.tagged.entry(channel.clone()).or_default();
        let (position, index) = (publication.position, tagged.len());
        let record = Record { channel: channel.clone(), position, index, is_tagged };
        tagged.push(is_tagged);
        if let Some(position) = position.filter(|_| is_tagged) {
            self.tagged_at.insert((channel.clone(), position.epoch.as_str().to_owned(), position.offset));
        }
        assert!(self.records.insert(number(text), record).is_none(), "{text} was published twice");
    }

    pub(crate) fn announced(&mut self, channel: &Channel, event: &OwnedEvent, now: Moment) {
        let members = self.members.entry(channel.clone()).or_default();
        match event {
            OwnedEvent::Joined(info) => {
                let before = members.insert(info.client.to_string(), now);
                assert_eq!(before, None, "{} came to {channel} twice", info.client);
            }
            OwnedEvent::Left(info) => {
                let before = members.remove(&info.client.to_string());
                assert!(before.is_some(), "{} left {channel} and had not come", info.client);
            }
            _ => panic!("only joins and leaves are announced"),
        }
    }

    /// Checks, once it is quiet, that exactly these subscribers are announced.
    pub(crate) fn check_members(&self, subscribers: impl Iterator<Item = (Channel, String)>) {
        let announced = self
            .members
            .iter()
            .flat_map(|(channel, members)| members.keys().map(|client| (channel.clone(), client.clone())));
        let (announced, subscribers): (BTreeSet<_>, BTreeSet<_>) =
            (announced.collect(), subscribers.collect());
        assert_eq!(announced, subscribers, "who is announced, and who is there");
    }

    /// Whether no tagged publication has an offset in this range.
    fn is_nothing_between(&self, channel: &Channel, epoch: &str, offsets: Range<u64>) -> bool {
        let at = |offset| (channel.clone(), epoch.to_owned(), offset);
        offsets.is_empty() || self.tagged_at.range(at(offsets.start)..at(offsets.end)).next().is_none()
    }

    /// Whether no tagged publication has an index in this range.
    fn is_nothing_counted(&self, channel: &Channel, indices: Range<usize>) -> bool {
        self.tagged[channel].get(indices).is_none_or(|tagged| tagged.iter().all(|is_tagged| !is_tagged))
    }

    fn record(&self, channel: &Channel, publication: &ReceivedPublication<'_>) -> &Record {
        let record = &self.records[&number(publication.data)];
        assert_eq!(record.channel, *channel, "{} in the wrong channel", publication.data);
        let offset = record.position.map_or(0, |position| position.offset);
        assert_eq!(offset, publication.offset, "{} has a wrong offset", publication.data);
        record
    }
}

/// One subscriber's view of one channel, over all its connections.
#[derive(Debug)]
pub(crate) struct Reader {
    channel: Channel,
    kind: Kind,
    /// The position up to which everything was seen, for a subscriber that follows the stream.
    pub(crate) position: Option<(String, u64)>,
    /// The index of the last publication of the current subscription.
    last: Option<usize>,
}

impl Reader {
    pub(crate) fn new(channel: Channel, kind: Kind) -> Self {
        Self { channel, kind, position: None, last: None }
    }

    /// Handles the reply to a subscribe command that asked to recover from `position_sent`. Returns whether the reply says
    /// that something may have been missed.
    pub(crate) fn begin(
        &mut self,
        position_sent: Option<&(String, u64)>,
        result: &ReceivedSubscribeResult<'_>,
    ) -> bool {
        self.last = None;
        assert_eq!(result.was_recovering, position_sent.is_some());
        let streamed = !result.epoch.is_empty();
        assert_eq!(
            result.positioned,
            streamed && self.kind != Kind::Plain,
            "{} {:?}",
            self.channel,
            self.kind
        );
        if !result.recovered {
            self.position = result.positioned.then(|| (result.epoch.to_string(), result.offset));
            return position_sent.is_some();
        }
        let (epoch, offset) = position_sent.expect("only who asks recovers");
        assert_eq!(
            (result.epoch.as_ref(), result.offset),
            (epoch.as_str(), *offset),
            "recovered from elsewhere"
        );
        assert_eq!(self.position.as_ref(), position_sent, "the reader went on while it was away");
        false
    }

    pub(crate) fn get(&mut self, publication: &ReceivedPublication<'_>, checkers: &Checkers) {
        let record = checkers.record(&self.channel, publication);
        let filtered = self.kind == Kind::Filtered;
        assert!(record.is_tagged || !filtered, "{} is not for who filters", publication.data);
        if let Some((epoch, offset)) = &mut self.position {
            let stands = record.position.expect("a channel has a stream or it has none");
            let joins_on = match filtered {
                false => stands.offset == *offset + 1,
                true => {
                    let between = *offset + 1..stands.offset;
                    stands.offset > *offset && checkers.is_nothing_between(&self.channel, epoch, between)
                }
            };
            assert!(
                stands.epoch.as_str() == epoch && joins_on,
                "a hole or a repetition between {offset} and {stands:?} in {} that a {:?} subscriber was not told of",
                self.channel,
                self.kind
            );
            *offset = stands.offset;
        }
        if let Some(last) = self.last {
            assert!(record.index > last, "{} comes after what came later", publication.data);
            let next = record.index == last + 1
                || filtered && checkers.is_nothing_counted(&self.channel, last + 1..record.index);
            assert!(next || !checkers.nothing_is_lost, "{} was not lost and did not come", last + 1);
        }
        self.last = Some(record.index);
    }

    /// Checks, once it has been quiet for long enough, that a subscriber that follows the stream is at its end.
    pub(crate) fn check_end(&self, top: Option<StreamPosition>, checkers: &Checkers) {
        if let Some(top) = top.filter(|_| self.kind != Kind::Plain) {
            let (epoch, offset) = self.position.as_ref().expect("it follows the stream");
            let is_at_end = match self.kind {
                Kind::Filtered => {
                    checkers.is_nothing_between(&self.channel, epoch, *offset + 1..top.offset + 1)
                }
                _ => *offset == top.offset,
            };
            assert!(
                epoch == top.epoch.as_str() && is_at_end,
                "at {offset} of {top:?} a {:?} subscriber of {} missed the end of the stream and was not told",
                self.kind,
                self.channel
            );
        }
        if let Some(last) = self.last.filter(|_| checkers.nothing_is_lost) {
            let end = checkers.tagged[&self.channel].len();
            let is_at_end = match self.kind {
                Kind::Filtered => checkers.is_nothing_counted(&self.channel, last + 1..end),
                _ => last + 1 == end,
            };
            assert!(is_at_end, "the end of {} did not come", self.channel);
        }
    }
}

/// The members that one subscriber knows in a channel, since it subscribed.
#[derive(Debug, Default)]
pub(crate) struct MemberList {
    present: BTreeSet<String>,
}

impl MemberList {
    pub(crate) fn begin(&mut self) {
        self.present.clear();
    }

    pub(crate) fn joined(&mut self, channel: &Channel, client: &str, checkers: &Checkers) {
        let is_new = self.present.insert(client.to_owned());
        assert!(is_new || !checkers.all_are_announced, "{client} came to {channel} a second time");
    }

    pub(crate) fn left(&mut self, client: &str) {
        self.present.remove(client);
    }

    /// Checks, once it is quiet, that the list has no member that is gone, and all that have joined since.
    pub(crate) fn check_end(&self, channel: &Channel, since: Moment, checkers: &Checkers) {
        let nobody = BTreeMap::new();
        let truth = checkers.members.get(channel).unwrap_or(&nobody);
        for client in &self.present {
            assert!(truth.contains_key(client), "{client} has left {channel} and a subscriber was not told");
        }
        for (client, came) in truth.iter().filter(|(_, came)| **came > since) {
            assert!(
                self.present.contains(client),
                "{client} came to {channel} at {came:?} and it was not told"
            );
        }
    }
}

pub(crate) fn number(payload: &str) -> u64 {
    let rest = payload.strip_prefix("{\"n\":");
    let digits = rest.and_then(|rest| rest.split([',', '}']).next());
    digits.and_then(|digits| digits.parse().ok()).expect("every payload here is a number")
}
