//! What must hold, whatever happened: order, no duplicate, no loss that nobody is told of.

use std::collections::BTreeMap;

use shared::channel::Channel;
use shared::position::StreamPosition;
use shared::protocol::centrifuge::json::client::{ReceivedPublication, SubscribeResult};
use shared::publication::Publication;

/// What a subscriber asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// To be told of gaps, and to be brought to now after them.
    Recoverable,
    /// To be told of gaps.
    Positioned,
    /// Whatever comes.
    Plain,
}

/// Where a publication stands.
#[derive(Debug)]
struct Record {
    channel: Channel,
    position: Option<StreamPosition>,
    /// How many there were before it in its channel.
    index: usize,
}

/// Everything that was ever published.
#[derive(Debug, Default)]
pub(crate) struct Checkers {
    records: BTreeMap<u64, Record>,
    counts: BTreeMap<Channel, usize>,
    /// Nothing goes wrong in this run, so that nobody may miss anything.
    pub(crate) nothing_is_lost: bool,
}

impl Checkers {
    pub(crate) fn published(&mut self, channel: &Channel, publication: &Publication) {
        let text = std::str::from_utf8(&publication.data.bytes).expect("payloads are text");
        let count = self.counts.entry(channel.clone()).or_default();
        let record = Record { channel: channel.clone(), position: publication.position, index: *count };
        *count += 1;
        assert!(self.records.insert(number(text), record).is_none(), "{text} was published twice");
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
    /// Up to where everything was seen, by one who follows the stream.
    pub(crate) position: Option<(String, u64)>,
    /// The last publication of the present subscription, counted in its channel.
    last: Option<usize>,
}

impl Reader {
    pub(crate) fn new(channel: Channel, kind: Kind) -> Self {
        Self { channel, kind, position: None, last: None }
    }

    /// The reply to a subscribe command that asked to recover from `asked`. Answers whether the reader was told that
    /// it may have missed something.
    pub(crate) fn begin(
        &mut self,
        asked: Option<&(String, u64)>,
        result: &SubscribeResult<'_>,
        checkers: &Checkers,
    ) -> bool {
        self.last = None;
        assert_eq!(result.was_recovering, asked.is_some());
        let streamed = !result.epoch.is_empty();
        assert_eq!(
            result.positioned,
            streamed && self.kind != Kind::Plain,
            "{} {:?}",
            self.channel,
            self.kind
        );
        if !result.recovered {
            assert!(result.publications.is_empty(), "publications without a recovery");
            self.position = result.positioned.then(|| (result.epoch.to_string(), result.offset));
            return asked.is_some();
        }
        let (epoch, offset) = asked.expect("only who asks recovers");
        assert_eq!(
            (result.epoch.as_ref(), result.offset),
            (epoch.as_str(), *offset),
            "recovered from elsewhere"
        );
        assert_eq!(self.position.as_ref(), asked, "the reader went on while it was away");
        for publication in &result.publications {
            self.get(publication, checkers);
        }
        false
    }

    pub(crate) fn get(&mut self, publication: &ReceivedPublication<'_>, checkers: &Checkers) {
        let record = checkers.record(&self.channel, publication);
        if let Some((epoch, offset)) = &mut self.position {
            let stands = record.position.expect("a channel has a stream or it has none");
            assert_eq!(
                (stands.epoch.as_str(), stands.offset),
                (epoch.as_str(), *offset + 1),
                "a hole or a repetition in {} that a {:?} subscriber was not told of",
                self.channel,
                self.kind
            );
            *offset += 1;
        }
        if let Some(last) = self.last {
            assert!(record.index > last, "{} comes after what came later", publication.data);
            let next = record.index == last + 1;
            assert!(next || !checkers.nothing_is_lost, "{} was not lost and did not come", last + 1);
        }
        self.last = Some(record.index);
    }

    /// It is quiet for long enough: who follows the stream is at its end.
    pub(crate) fn check_end(&self, top: Option<StreamPosition>, checkers: &Checkers) {
        if let Some(top) = top.filter(|_| self.kind != Kind::Plain) {
            let at = self.position.as_ref().map(|(epoch, offset)| (epoch.as_str(), *offset));
            assert_eq!(
                at,
                Some((top.epoch.as_str(), top.offset)),
                "a {:?} subscriber of {} missed the end of the stream and was not told",
                self.kind,
                self.channel
            );
        }
        if let Some(last) = self.last.filter(|_| checkers.nothing_is_lost) {
            assert_eq!(last + 1, checkers.counts[&self.channel], "the end of {} did not come", self.channel);
        }
    }
}

fn number(payload: &str) -> u64 {
    let digits = payload.strip_prefix("{\"n\":").and_then(|rest| rest.strip_suffix('}'));
    digits.and_then(|digits| digits.parse().ok()).expect("every payload here is a number")
}
