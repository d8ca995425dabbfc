//! The hub against a model that keeps every subscriber for itself and looks at each publication for each of them.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use shared::position::StreamPosition;

use super::{Seen, channel, in_epoch, publication, subscriber};
use crate::hub::{Hub, Interest};

#[derive(Debug)]
enum State {
    Joining { held: Vec<StreamPosition>, lost: Option<StreamPosition> },
    Live { position: Option<StreamPosition> },
    Told,
}

#[derive(Debug)]
struct Member {
    positioned: bool,
    state: State,
}

#[derive(Debug, Default)]
struct Model {
    members: BTreeMap<u32, Member>,
    stream: Option<StreamPosition>,
    got: BTreeMap<u32, Vec<Option<StreamPosition>>>,
    told: Vec<u32>,
}

/// Whether `comes` is known at `position`, follows it, or leaves a hole.
fn relation(position: Option<StreamPosition>, comes: StreamPosition) -> std::cmp::Ordering {
    let Some(at) = position else { return std::cmp::Ordering::Equal };
    if at.epoch != comes.epoch { std::cmp::Ordering::Greater } else { comes.offset.cmp(&(at.offset + 1)) }
}

impl Model {
    fn join(&mut self, key: u32, positioned: bool) -> bool {
        let first = self.members.is_empty();
        self.members
            .insert(key, Member { positioned, state: State::Joining { held: Vec::new(), lost: None } });
        first
    }

    fn go_live(&mut self, key: u32, position: StreamPosition) {
        let Some(member) = self.members.get_mut(&key) else { return };
        let State::Joining { held, lost } = &mut member.state else { return };
        let lost = lost.take();
        let (mut at, mut got, mut hole) = (position, Vec::new(), false);
        for comes in std::mem::take(held) {
            if relation(Some(at), comes).is_ge() {
                hole |= relation(Some(at), comes).is_gt();
                got.push(Some(comes));
                at = comes;
            }
        }
        hole |= lost.is_some_and(|lost| lost.epoch != position.epoch || lost.offset > position.offset);
        hole |= self.stream.is_some_and(|seen| seen.epoch == at.epoch && seen.offset > at.offset);
        if hole && member.positioned {
            member.state = State::Told;
            self.told.push(key);
        } else {
            member.state = State::Live { position: Some(at) };
            self.got.entry(key).or_default().extend(got);
        }
    }

    fn comes(&mut self, comes: StreamPosition, lost: bool) {
        if self.members.is_empty() || self.stream.is_some() && relation(self.stream, comes).is_lt() {
            return;
        }
        self.stream = Some(comes);
        for (key, member) in &mut self.members {
            match &mut member.state {
                State::Joining { held, .. } if !lost => held.push(comes),
                State::Joining { lost, .. } => *lost = Some(comes),
                State::Live { position } if relation(*position, comes).is_ge() => {
                    if member.positioned && (lost || relation(*position, comes).is_gt()) {
                        member.state = State::Told;
                        self.told.push(*key);
                        continue;
                    }
                    *position = Some(comes);
                    if !lost {
                        self.got.entry(*key).or_default().push(Some(comes));
                    }
                }
                _ => {}
            }
        }
    }

    /// Gets what waits, as far as it follows, and nothing after that.
    fn serve_last(&mut self, key: u32, waiting: &VecDeque<StreamPosition>) {
        let Some(member) = self.members.get_mut(&key) else { return };
        let State::Live { position } = member.state else { return };
        let is_behind = |at: &StreamPosition| {
            self.stream.is_some_and(|stream| stream.epoch == at.epoch && stream.offset > at.offset)
        };
        let mut at = position.filter(|at| !is_behind(at)).or(self.stream);
        for &comes in waiting {
            match relation(at, comes) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Greater if member.positioned => break,
                std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => {
                    at = Some(comes);
                    self.got.entry(key).or_default().push(Some(comes));
                }
            }
        }
        member.state = State::Told;
    }

    fn leave(&mut self, key: u32) -> Option<bool> {
        self.members.remove(&key)?;
        let last = self.members.is_empty();
        if last {
            self.stream = None;
        }
        Some(last)
    }
}

impl Seen {
    /// One who leaves while the channel is swept may not have had its turn.
    fn forget_what_is_to_come(&self, hub: &Hub, key: u32, model: &mut Model) {
        if hub.is_sweeping()
            && let Some(got) = model.got.get_mut(&key)
        {
            got.truncate(self.got.get(&key).map_or(0, Vec::len));
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Join {
        key: u32,
        positioned: bool,
    },
    /// By history that ended this much before the end of the stream.
    GoLive {
        key: u32,
        behind: u64,
    },
    Leave {
        key: u32,
    },
    RemoveAll {
        key: u32,
    },
    Publish,
    /// The last publication comes a second time.
    Repeat,
    /// So many publications reach the worker, at once or one by one.
    Arrive {
        count: usize,
        at_once: bool,
    },
    Vanish,
    VanishKnowingly,
    /// The next few subscribers are served with what is under way.
    SweepOn,
    /// It is about to leave.
    ServeLast {
        key: u32,
    },
    /// The stream begins anew in another epoch.
    Reset,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0u32..6;
    let step = prop_oneof![
        4 => (key.clone(), any::<bool>()).prop_map(|(key, positioned)| Step::Join { key, positioned }),
        6 => (key.clone(), 0u64..4).prop_map(|(key, behind)| Step::GoLive { key, behind }),
        2 => key.clone().prop_map(|key| Step::Leave { key }),
        2 => key.clone().prop_map(|key| Step::ServeLast { key }),
        1 => key.prop_map(|key| Step::RemoveAll { key }),
        12 => Just(Step::Publish),
        8 => (1usize..5, any::<bool>()).prop_map(|(count, at_once)| Step::Arrive { count, at_once }),
        1 => Just(Step::Repeat),
        6 => Just(Step::SweepOn),
        1 => Just(Step::Vanish),
        1 => Just(Step::VanishKnowingly),
    ];
    let rare = prop_oneof![60 => step, 1 => Just(Step::Reset)];
    prop::collection::vec(rare, 0..200)
}

proptest! {
    #[test]
    fn every_subscriber_gets_what_the_model_gives_it(steps in steps(), piece in 1usize..7) {
        let mut hub = Hub::default().with_sweep_piece(piece);
        let (mut seen, mut model) = (Seen::default(), Model::default());
        // What waits behind a sweep has not come yet, as far as the model goes.
        let mut waiting = VecDeque::new();
        let news = channel("news");
        let mut top = in_epoch("0", 0);
        let mut on_its_way = VecDeque::new();
        let mut last = None;
        let mut epochs = 0;
        for step in steps {
            match step {
                Step::Join { key, positioned } => {
                    seen.forget_what_is_to_come(&hub, key, &mut model);
                    prop_assert_eq!(hub.join(&news, subscriber(key, positioned), None).first, model.join(key, positioned));
                }
                Step::GoLive { key, behind } => {
                    let position = StreamPosition { offset: top.offset.saturating_sub(behind), ..top };
                    hub.go_live("news", key, Some(position), &mut seen);
                    model.go_live(key, position);
                }
                Step::Leave { key } => {
                    seen.forget_what_is_to_come(&hub, key, &mut model);
                    prop_assert_eq!(hub.leave("news", key).map(|left| left.last), model.leave(key));
                }
                Step::RemoveAll { key } => {
                    seen.forget_what_is_to_come(&hub, key, &mut model);
                    let mut left = None;
                    hub.remove_all(key, |_, one| left = Some(one.last));
                    prop_assert_eq!(left, model.leave(key));
                }
                Step::Publish => {
                    top.offset += 1;
                    on_its_way.push_back(top);
                }
                Step::Arrive { count, at_once } => {
                    let count = count.min(on_its_way.len());
                    let comes: Vec<_> = on_its_way.drain(..count).collect();
                    let batch: Vec<_> = comes.iter().map(|&position| publication(Some(position))).collect();
                    for batch in batch.chunks(if at_once { 8 } else { 1 }) {
                        hub.deliver("news", batch, &mut seen);
                    }
                    last = comes.last().copied().or(last);
                    waiting.extend(comes);
                }
                Step::Repeat => {
                    if let Some(position) = last {
                        hub.deliver("news", &[publication(Some(position))], &mut seen);
                        waiting.push_back(position);
                    }
                }
                Step::Vanish => {
                    on_its_way.pop_front();
                }
                Step::VanishKnowingly => {
                    last = None;
                    if let Some(position) = on_its_way.pop_front() {
                        hub.lost("news", position, &mut seen);
                        waiting.drain(..).for_each(|position| model.comes(position, false));
                        model.comes(position, true);
                    }
                }
                Step::SweepOn => hub.sweep_on(&mut seen),
                Step::ServeLast { key } => {
                    if hub.is_sweeping() {
                        model.serve_last(key, &waiting);
                    }
                    hub.serve_last(key, None, &mut seen);
                    prop_assert!(!hub.is_sweeping() || seen.got.get(&key) == model.got.get(&key));
                }
                Step::Reset => {
                    epochs += 1;
                    // Nothing of the old stream comes a second time after the new one began.
                    last = None;
                    top = in_epoch(&epochs.to_string(), 0);
                }
            }
            if model.members.is_empty() {
                waiting.clear();
            }
            let begun = waiting.len() - hub.sweeps.waiting();
            waiting.drain(..begun).for_each(|position| model.comes(position, false));
            // Several that are told of one gap may be told in any order.
            seen.told.sort_unstable();
            model.told.sort_unstable();
            prop_assert_eq!(&seen.told, &model.told);
            model.got.retain(|_, got| !got.is_empty());
            if hub.is_sweeping() {
                for (key, got) in &model.got {
                    let seen = seen.got.get(key).map_or(&[][..], Vec::as_slice);
                    prop_assert!(got.starts_with(seen), "{key}: {seen:?} is no beginning of {got:?}");
                }
            } else {
                prop_assert_eq!(&seen.got, &model.got);
            }
            prop_assert_eq!(hub.subscribers("news"), model.members.len());
            prop_assert_eq!(hub.interest().channels, usize::from(!model.members.is_empty()));
        }
        hub.finish_sweeps(&mut seen);
        waiting.into_iter().for_each(|position| model.comes(position, false));
        prop_assert_eq!(&seen.got, &model.got);
        prop_assert!(!hub.is_sweeping());
        for key in 0..6 {
            hub.remove_all(key, |_, _| {});
        }
        hub.shrink();
        prop_assert_eq!(hub.interest(), Interest::default());
        prop_assert_eq!(hub.places.get(0, 0), None);
    }

    #[test]
    fn connections_in_many_channels_leave_each_of_them_once(
        steps in prop::collection::vec((0u32..8, 0u8..12, 0u8..6), 0..300),
    ) {
        let (mut hub, mut seen) = (Hub::default(), Seen::default());
        let mut expected = std::collections::BTreeSet::new();
        for (key, number, kind) in steps {
            let name = channel(&format!("channel {number}").replace(' ', "-"));
            match kind {
                0..=2 => {
                    let first = expected.iter().all(|(_, other)| *other != name);
                    prop_assert_eq!(hub.join(&name, subscriber(key, false), None).first, first);
                    expected.insert((key, name.clone()));
                    if kind > 0 {
                        hub.go_live(name.as_str(), key, None, &mut seen);
                    }
                }
                3 | 4 => {
                    let was = expected.remove(&(key, name.clone()));
                    let last = expected.iter().all(|(_, other)| *other != name);
                    let left = hub.leave(name.as_str(), key).map(|left| left.last);
                    prop_assert_eq!(left, was.then_some(last));
                }
                _ => {
                    let mut left = Vec::new();
                    hub.remove_all(key, |channel, one| left.push((channel.clone(), one.last)));
                    for (channel, last) in left {
                        prop_assert!(expected.remove(&(key, channel.clone())));
                        prop_assert_eq!(last, expected.iter().all(|(_, other)| *other != channel));
                    }
                    prop_assert!(expected.iter().all(|(other, _)| *other != key));
                }
            }
            prop_assert_eq!(hub.interest().subscriptions, expected.len());
            for key in 0..8 {
                let mut channels: Vec<_> = hub.channels_of(key).cloned().collect();
                channels.sort();
                let wanted: Vec<_> =
                    expected.iter().filter(|(other, _)| *other == key).map(|(_, name)| name.clone()).collect();
                prop_assert_eq!(channels, wanted);
            }
        }
    }
}
