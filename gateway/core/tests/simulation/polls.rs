//! Keys of a polled channel: what the application has, and what a client knows that follows some of them.

use std::collections::{BTreeMap, BTreeSet};

use gateway_core::poll::{PolledItem, PolledKey};
use shared::channel::Channel;
use shared::command::{Request, Subscribe, SubscriptionKind, TrackBatch};
use shared::position::Epoch;
use shared::protocol::centrifuge::json::client::ReceivedPublication;
use shared::publication::Payload;

use crate::network::{Net, trace};
use crate::subscription::State;

/// The only polled channel.
pub(crate) const POLLED: &str = "poll:e";
/// The number of keys that may exist.
const KEYS: usize = 8;

/// The application. It numbers its contents, and starts to count anew each time it is started.
#[derive(Debug)]
pub(crate) struct Application {
    epoch: Epoch,
    last_version: u64,
    versions: BTreeMap<Box<str>, u64>,
    removed: BTreeMap<Box<str>, u64>,
}

impl Application {
    pub(crate) fn new(net: &mut Net) -> Self {
        let epoch = Epoch::from_random(net.dice.roll());
        Self { epoch, last_version: 0, versions: BTreeMap::new(), removed: BTreeMap::new() }
    }

    fn any_key(net: &mut Net) -> Box<str> {
        format!("p{}", net.dice.index(KEYS)).into()
    }

    /// Changes a key. Returns the key and its version, if it may be published.
    pub(crate) fn change(&mut self, net: &mut Net) -> Option<(Box<str>, u64, Epoch)> {
        let key = Self::any_key(net);
        self.last_version += 1;
        let version = self.last_version;
        if net.dice.chance(80) {
            net.stats.count("polled keys removed");
            self.versions.remove(&key);
            self.removed.insert(key, version);
            return None;
        }
        trace(net.now, || format!("the application has {key} in version {version}"));
        self.removed.remove(&key);
        self.versions.insert(key.clone(), version);
        net.dice.chance(300).then_some((key, version, self.epoch))
    }

    /// Restarts the application, which then counts from the beginning.
    pub(crate) fn restart(&mut self, net: &mut Net) {
        net.stats.count("versions counted anew");
        self.epoch = Epoch::from_random(net.dice.roll());
        self.last_version = 0;
        self.removed.clear();
        for version in self.versions.values_mut() {
            self.last_version += 1;
            *version = self.last_version;
        }
    }

    pub(crate) fn answer(&self, keys: &[PolledKey]) -> (Epoch, Vec<PolledItem>) {
        let items = keys.iter().filter_map(|PolledKey { key, version: known }| {
            let item = |version, removed| PolledItem {
                key: (&**key).into(),
                data: content(version),
                version,
                removed,
            };
            match (self.versions.get(key.as_ref()), self.removed.get(key.as_ref())) {
                (Some(&version), _) => (version > *known || *known == 0).then(|| item(version, false)),
                (None, Some(&version)) => Some(item(version, true)),
                (None, None) => None,
            }
        });
        (self.epoch, items.collect())
    }
}

pub(crate) fn content(version: u64) -> Payload {
    Payload::json(format!("{{\"n\":{version}}}"))
}

/// A client's view of the keys that it follows.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) channel: Channel,
    pub(crate) state: State,
    /// The epoch of the versions that it has.
    epoch: String,
    pub(crate) wants: BTreeSet<Box<str>>,
    has: BTreeMap<Box<str>, u64>,
}

impl Follower {
    pub(crate) fn new(channel: Channel, net: &mut Net) -> Self {
        let wants = (0..3).map(|_| Application::any_key(net)).collect();
        Self { channel, state: State::Off, epoch: String::new(), wants, has: BTreeMap::new() }
    }

    pub(crate) fn begin(&mut self) -> Request {
        self.state = State::Requested;
        let channel = self.channel.as_str().into();
        Request::Subscribe(Subscribe { channel, kind: SubscriptionKind::SharedPoll, ..Subscribe::default() })
    }

    /// Handles the answer to the subscribe command: versions of another epoch cannot be compared.
    pub(crate) fn on_subscribed(&mut self, epoch: &str, net: &mut Net) -> Request {
        assert_eq!(self.state, State::Requested);
        self.state = State::On;
        if !epoch.is_empty() && *epoch != *self.epoch {
            net.stats.count("epochs of polled keys told");
            self.epoch = epoch.to_owned();
            self.has.clear();
        }
        self.track(self.wants.iter().cloned().collect())
    }

    pub(crate) fn track(&self, keys: Vec<Box<str>>) -> Request {
        let version = |key: &str| self.has.get(key).copied().unwrap_or(0);
        let items = keys.into_iter().map(|key| (key.clone(), version(&key))).collect();
        let batches = vec![TrackBatch { signature: "signed".into(), items }];
        Request::Track { channel: self.channel.as_str().into(), batches, untrack: Vec::new() }
    }

    /// Takes in a publication. Returns the key if it was removed.
    pub(crate) fn get(&mut self, publication: &ReceivedPublication<'_>, net: &mut Net) -> Option<Box<str>> {
        assert_eq!(self.state, State::On, "news without a subscription");
        let key: Box<str> = publication.key.as_ref().into();
        assert!(self.wants.contains(&key), "{key} is not followed");
        net.stats.count("news of polled keys");
        if publication.removed {
            self.has.remove(&key);
            self.wants.remove(&key);
            return Some(key);
        }
        assert_eq!(publication.data.as_bytes(), &content(publication.version).bytes[..]);
        let before = self.has.insert(key, publication.version);
        let is_newer = before.is_none_or(|before| publication.version > before);
        assert!(is_newer, "{} comes after {before:?}", publication.version);
        None
    }

    /// Checks, once it has been quiet for long enough, that the client knows the newest version of each key that it
    /// follows.
    pub(crate) fn check_end(&self, application: &Application, net: &mut Net) {
        assert_eq!(self.state, State::On, "a client did not come back to {}", self.channel);
        for key in &self.wants {
            let newest = application.versions.get(key);
            assert_eq!(self.has.get(key), newest, "what a client has of {key}, and what there is");
            net.stats.count("polled keys compared");
        }
    }
}
