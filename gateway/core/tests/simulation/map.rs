//! A client's view of a channel that keeps state by key: it reads the state page by page, applies every change, and
//! recovers where it can.

use std::collections::BTreeMap;

use gateway_core::delta;
use shared::channel::Channel;
use shared::command::{FilterNode, Phase, StateRequest, Subscribe, SubscriptionKind};
use shared::protocol::centrifuge::json::client::{ReceivedPublication, ReceivedSubscribeResult};

use crate::broker::TAG;
use crate::checkers::number;
use crate::network::Net;
use crate::states::Truth;
use crate::subscription::{PAYLOAD_BYTES_MAX, State};

/// The number of keys of one page: fewer than there are.
const PAGE: u32 = 2;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MapKind {
    Plain,
    /// Only tagged keys.
    Filtered,
    Patched,
}

/// The client's value of a key.
#[derive(Debug)]
struct Held {
    number: u64,
    text: String,
}

#[derive(Debug)]
pub(crate) struct Map {
    channel: Channel,
    pub(crate) kind: MapKind,
    pub(crate) state: State,
    pub(crate) wanted: bool,
    /// The position up to which everything was seen, where changes can be recovered.
    pub(crate) position: Option<(String, u64)>,
    /// The epoch of the state's pages, where nothing can be recovered.
    epoch: String,
    /// Whether the client has read the whole state.
    is_whole: bool,
    keys: BTreeMap<String, Held>,
    /// Whether payloads come in strings.
    patched: bool,
    phase: Phase,
    cursor: String,
    recovers: bool,
}

impl Map {
    pub(crate) fn new(channel: Channel, kind: MapKind) -> Self {
        Self {
            channel,
            kind,
            state: State::Off,
            wanted: true,
            position: None,
            epoch: String::new(),
            is_whole: false,
            keys: BTreeMap::new(),
            patched: false,
            phase: Phase::Live,
            cursor: String::new(),
            recovers: false,
        }
    }

    /// Begins from the client's position, if it has one, or else from the first page of the state.
    pub(crate) fn begin(&mut self) -> Subscribe {
        self.state = State::Requested;
        self.recovers = self.is_whole && self.position.is_some();
        if self.recovers {
            self.phase = Phase::Stream;
            self.cursor.clear();
        } else {
            self.begin_anew();
        }
        self.request()
    }

    fn begin_anew(&mut self) {
        self.position = None;
        self.keys.clear();
        self.cursor.clear();
        self.epoch.clear();
        (self.phase, self.recovers, self.is_whole) = (Phase::State, false, false);
    }

    fn request(&self) -> Subscribe {
        let (epoch, offset) = self.position.clone().unwrap_or((self.epoch.clone(), 0));
        let (key, val) = TAG;
        let filter =
            FilterNode { key: key.into(), cmp: "eq".into(), val: val.into(), ..FilterNode::default() };
        let page = StateRequest {
            phase: self.phase,
            cursor: self.cursor.as_str().into(),
            limit: PAGE,
            ..StateRequest::default()
        };
        Subscribe {
            channel: self.channel.as_str().into(),
            kind: SubscriptionKind::Map,
            recover: self.recovers,
            epoch: epoch.into(),
            offset,
            filter: (self.kind == MapKind::Filtered).then(|| Box::new(filter)),
            delta: if self.kind == MapKind::Patched { "fossil".into() } else { Box::default() },
            page: Some(Box::new(page)),
            ..Subscribe::default()
        }
    }

    /// Handles an answer. Returns the next request, if the client is not live yet.
    pub(crate) fn on_answer(
        &mut self,
        result: ReceivedSubscribeResult<'_>,
        net: &mut Net,
    ) -> Option<Subscribe> {
        assert_eq!(self.state, State::Requested);
        assert!(!result.epoch.is_empty());
        assert!(self.has_stream() || result.offset == 0, "only a stream has positions that clients know");
        self.patched = self.kind == MapKind::Patched && self.has_stream();
        assert_eq!(result.delta, self.patched);
        assert!(!result.positioned && (result.recoverable == self.has_stream() || result.phase != 0));
        for entry in &result.state {
            self.set(entry, net);
        }
        for publication in &result.publications {
            self.apply(publication, net);
        }
        let stands_at = || (result.epoch.to_string(), result.offset);
        match result.phase {
            0 => {
                net.stats.count(if self.recovers { "maps recovered" } else { "maps read" });
                assert_eq!(result.recovered, self.recovers, "whoever recovers is told so");
                (self.state, self.is_whole) = (State::On, true);
                self.position = self.has_stream().then(stands_at);
                return None;
            }
            1 => {
                net.stats.count("pages of changes");
                self.position = Some(stands_at());
            }
            _ => {
                net.stats.count("pages of maps");
                if !self.has_stream() {
                    self.epoch = result.epoch.to_string();
                } else if self.position.is_none() {
                    self.position = Some(stands_at());
                }
                self.cursor = result.cursor.into_owned();
                if self.cursor.is_empty() {
                    self.phase = Phase::Stream;
                }
            }
        }
        Some(self.request())
    }

    /// Handles that its position cannot be recovered: it reads the whole state again.
    pub(crate) fn on_unrecoverable(&mut self, net: &mut Net) -> Subscribe {
        net.stats.count("maps that could not be gone on with");
        self.begin_anew();
        self.request()
    }

    /// Takes in a change while live.
    pub(crate) fn get(&mut self, publication: &ReceivedPublication<'_>, net: &mut Net) {
        assert_eq!(self.state, State::On, "a change of {} without a subscription", self.channel);
        match &mut self.position {
            Some((_, offset)) => {
                let joins_on = match self.kind {
                    MapKind::Filtered => publication.offset > *offset,
                    MapKind::Plain | MapKind::Patched => publication.offset == *offset + 1,
                };
                assert!(joins_on, "{} comes after {offset} in {}", publication.offset, self.channel);
                *offset = publication.offset;
            }
            None => assert_eq!(publication.offset, 0, "the numbers of {} are for nodes", self.channel),
        }
        net.stats.count("changes checked");
        self.apply(publication, net);
    }

    fn apply(&mut self, publication: &ReceivedPublication<'_>, net: &mut Net) {
        if publication.removed {
            self.keys.remove(&*publication.key);
        } else {
            self.set(publication, net);
        }
    }

    fn set(&mut self, publication: &ReceivedPublication<'_>, net: &mut Net) {
        let before = self.keys.remove(&*publication.key);
        let text = match self.patched {
            false => publication.data.to_owned(),
            true => {
                let text: String = serde_json::from_str(publication.data).expect("a text");
                if publication.delta {
                    net.stats.count("patches of keys applied");
                    let base = before.as_ref().expect("a patch is of what the key held").text.as_bytes();
                    let made = delta::apply(base, text.as_bytes(), PAYLOAD_BYTES_MAX);
                    String::from_utf8(made.expect("a patch is of what the key held")).expect("text")
                } else {
                    text
                }
            }
        };
        let held = Held { number: number(&text), text };
        let is_newer = before.is_none_or(|before| held.number > before.number);
        assert!(is_newer, "{} goes back to {} in {}", publication.key, held.text, self.channel);
        self.keys.insert(publication.key.to_string(), held);
    }

    /// Checks, once it has been quiet for long enough, that the client has the broker's state.
    pub(crate) fn check_end(&self, truth: &Truth, net: &mut Net) {
        assert_eq!(self.state, State::On, "a client did not come back to {}", self.channel);
        let wanted = |tagged: bool| tagged || self.kind != MapKind::Filtered;
        let truth: BTreeMap<_, _> = truth
            .iter()
            .filter(|(_, (_, tagged))| wanted(*tagged))
            .map(|(key, (number, _))| (key.as_str(), *number))
            .collect();
        let held: BTreeMap<_, _> = self.keys.iter().map(|(key, held)| (key.as_str(), held.number)).collect();
        assert_eq!(held, truth, "what a {:?} subscriber of {} has, and what is", self.kind, self.channel);
        net.stats.count("maps compared");
    }

    fn has_stream(&self) -> bool {
        self.channel.as_str().starts_with("map:") || self.channel.as_str().starts_with("tiny:")
    }
}
