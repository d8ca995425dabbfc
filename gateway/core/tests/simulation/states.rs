//! The broker's channels that keep state by key: changed, read, expired and cleared. Changes are numbered and sent on like
//! publications, whether or not the channel keeps a stream of them.

use std::collections::BTreeMap;

use gateway_core::map::{
    KeyAction, MapChange, MapRetention, NotMade, SetKey, SetMode, StateFilter, StatePage,
};
use shared::channel::Channel;
use shared::moment::Moment;
use shared::publication::{Payload, Publication};

use crate::broker::{Broker, STREAM_BYTES_MAX, TAG};
use crate::checkers::number;
use crate::network::{Net, trace};

/// The number of keys of each channel.
const KEYS: usize = 6;

/// The value of each key on the broker: its number, and whether it is tagged.
pub(crate) type Truth = BTreeMap<String, (u64, bool)>;

impl Broker {
    /// Returns one of the keys that may exist.
    pub(crate) fn any_key(net: &mut Net) -> Box<str> {
        format!("k{}", net.dice.index(KEYS)).into()
    }

    /// Returns the payload for a key: long enough for deltas, and no two are the same.
    pub(crate) fn content(number: u64) -> Payload {
        Payload::json(format!("{{\"n\":{number},\"pad\":\"{:>60}\"}}", number % 5))
    }

    /// Has the application set or remove a key.
    pub(crate) fn change_any_key(&mut self, channel: &Channel, net: &mut Net) {
        let key = Self::any_key(net);
        let action = if net.dice.chance(750) {
            let mut publication = Publication { delta: true, ..Publication::new(Self::content(0)) };
            if net.dice.chance(333) {
                publication.tags.insert(TAG.0.into(), TAG.1.into());
            }
            let set = SetKey { publication, score: 0, mode: SetMode::Any, refreshes: false, version: None };
            KeyAction::Set(Box::new(set))
        } else {
            KeyAction::Remove { tags: None }
        };
        self.change_key(channel, MapChange { key, action, expected: None }, net);
    }

    pub(crate) fn change_key(&mut self, channel: &Channel, mut change: MapChange, net: &mut Net) {
        if let KeyAction::Set(set) = &mut change.action {
            // Numbered in the order in which they arrive here, whoever made them.
            set.publication.data = Self::content(self.number());
        }
        self.expire_keys(channel, net);
        let now = net.now;
        let keeping = self.keeping(channel);
        self.stream(channel, net);
        let (state, stream) = self.state_and_stream(channel);
        trace(now, || format!("{channel} is changed by {change:?}"));
        match state.change(now, change, &keeping, stream, STREAM_BYTES_MAX) {
            Ok(told) => {
                net.stats.count("keys changed");
                told.iter().for_each(|publication| self.send_on(channel, publication, net));
            }
            Err(NotMade::Suppressed(_)) => {}
            Err(NotMade::Full) => panic!("there are only {KEYS} keys"),
        }
    }

    pub(crate) fn read_state(&mut self, channel: &Channel, filter: &StateFilter, net: &mut Net) -> StatePage {
        self.expire_keys(channel, net);
        let top = Some(self.stream(channel, net).position());
        let page = self.states.get(channel).map(|state| state.page(filter, false)).unwrap_or_default();
        StatePage { top, ..page }
    }

    /// Removes expired keys, and publishes the removals.
    pub(crate) fn expire_keys(&mut self, channel: &Channel, net: &mut Net) {
        let (now, keeping) = (net.now, self.keeping(channel));
        self.stream(channel, net);
        loop {
            let (state, stream) = self.state_and_stream(channel);
            let Some(publication) = state.expire(now, &keeping, stream, STREAM_BYTES_MAX) else { return };
            net.stats.count("keys expired");
            self.send_on(channel, &publication, net);
        }
    }

    /// Has the application clear a channel: what follows has a new epoch.
    pub(crate) fn clear_state(&mut self, channel: &Channel, now: Moment) {
        self.cleared_at.insert(channel.clone(), now);
        self.states.remove(channel);
        self.streams.remove(channel);
    }

    /// Returns what every client with the channel's state should have.
    pub(crate) fn truth(&self, channel: &Channel) -> Truth {
        let all = StateFilter { limit: u32::MAX, enough_bytes: u32::MAX, ..StateFilter::default() };
        let page = self.states.get(channel).map(|state| state.page(&all, false)).unwrap_or_default();
        let entry = |entry: Publication| {
            let text = std::str::from_utf8(&entry.data.bytes).expect("payloads are text");
            let key = entry.keyed.expect("it is of a key").key;
            (key.into(), (number(text), !entry.tags.is_empty()))
        };
        page.entries.into_iter().map(entry).collect()
    }

    fn keeping(&self, channel: &Channel) -> MapRetention {
        self.rules.options(channel).expect("only channels with options are used").map.keeping()
    }
}
