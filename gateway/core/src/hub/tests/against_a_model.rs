//! Compares the hub with a model that stores each subscriber separately and examines each publication for each of them.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use shared::position::StreamPosition;

use super::clients::{Clients, Kind, joined, published};
use super::{Seen, channel, in_epoch, subscriber};
use crate::hub::{Hub, Interest, KnownPosition};

/// An event of the channel: a publication with its position, or a join.
type Comes = Option<StreamPosition>;

#[derive(Debug)]
enum State {
    Joining { held: Vec<Comes>, lost: Option<StreamPosition> },
    Live { position: Option<StreamPosition> },
    Told,
}

#[derive(Debug)]
struct Member {
    positioned: bool,
    state: State,
}

/// The subscribers of one kind.
#[derive(Debug, Default)]
struct List {
    members: BTreeMap<u32, Member>,
    stream: Option<StreamPosition>,
    /// Events that wait behind a sweep and are not delivered yet.
    waiting: VecDeque<Comes>,
}

#[derive(Debug, Default)]
struct Model {
    lists: BTreeMap<Kind, List>,
    got: BTreeMap<u32, Vec<Comes>>,
    told: Vec<u32>,
}

/// Returns whether `comes` is already known at `position`, follows it, or leaves a gap.
fn relation(position: Option<StreamPosition>, comes: StreamPosition) -> std::cmp::Ordering {
    let Some(at) = position else { return std::cmp::Ordering::Equal };
    if at.epoch != comes.epoch { std::cmp::Ordering::Greater } else { comes.offset.cmp(&(at.offset + 1)) }
}

impl Kind {
    fn wants(self, comes: Comes) -> bool {
        comes.map_or(self.joins, |position| self.lets_through(position))
    }
}

impl Model {
    fn kind_of(&self, key: u32) -> Option<Kind> {
        self.lists.iter().find(|(_, list)| list.members.contains_key(&key)).map(|(kind, _)| *kind)
    }

    fn count(&self) -> usize {
        self.lists.values().map(|list| list.members.len()).sum()
    }

    fn join(&mut self, key: u32, positioned: bool, kind: Kind) -> bool {
        let first = self.count() == 0;
        if self.kind_of(key).is_some_and(|before| before != kind) {
            self.leave(key);
        }
        let members = &mut self.lists.entry(kind).or_default().members;
        let held = match members.remove(&key).map(|member| member.state) {
            // The subscriber reads on in history, which contains only publications, so held-back joins are kept.
            Some(State::Joining { held, .. }) => held.into_iter().filter(Option::is_none).collect(),
            _ => Vec::new(),
        };
        members.insert(key, Member { positioned, state: State::Joining { held, lost: None } });
        first
    }

    fn go_live(&mut self, key: u32, position: StreamPosition, is_handed_out: bool) {
        let Some(kind) = self.kind_of(key) else { return };
        let list = self.lists.entry(kind).or_default();
        let Some(member) = list.members.get_mut(&key) else { return };
        let State::Joining { held, lost } = &member.state else { return };
        let (mut at, mut got, mut hole) = (position, Vec::new(), false);
        for &comes in held {
            if let Some(stands) = comes {
                if relation(Some(at), stands).is_lt() {
                    continue;
                }
                hole |= relation(Some(at), stands).is_gt();
                at = stands;
            }
            got.push(comes);
        }
        hole |= lost.is_some_and(|lost| lost.epoch != position.epoch || lost.offset > position.offset);
        hole |= list.stream.is_some_and(|seen| seen.epoch == at.epoch && seen.offset > at.offset);
        if hole && member.positioned {
            // The subscriber may join again.
            self.told.push(key);
        } else {
            member.state = State::Live { position: Some(at) };
            let got = got.into_iter().filter(|&comes| kind.wants(comes));
            self.got.entry(key).or_default().extend(got);
            // The list counts as having reached a position that all its subscribers already know.
            let knows_that = |member: &Member| match &member.state {
                State::Live { position } => *position == Some(at),
                State::Joining { .. } => false,
                State::Told => true,
            };
            if is_handed_out && list.stream.is_none() && list.members.values().all(knows_that) {
                list.stream = Some(at);
            }
        }
    }

    fn comes(&mut self, kind: Kind, comes: Comes, lost: bool) {
        let Some(list) = self.lists.get_mut(&kind) else { return };
        let Some(stands) = comes else {
            for (key, member) in &mut list.members {
                match &mut member.state {
                    State::Joining { held, .. } if kind.joins => held.push(None),
                    State::Live { .. } if kind.joins => self.got.entry(*key).or_default().push(None),
                    _ => {}
                }
            }
            return;
        };
        if list.members.is_empty() || list.stream.is_some() && relation(list.stream, stands).is_lt() {
            return;
        }
        list.stream = Some(stands);
        for (key, member) in &mut list.members {
            match &mut member.state {
                State::Joining { held, .. } if !lost => held.push(comes),
                State::Joining { lost, .. } => *lost = Some(stands),
                State::Live { position } if relation(*position, stands).is_ge() => {
                    if member.positioned && (lost || relation(*position, stands).is_gt()) {
                        member.state = State::Told;
                        self.told.push(*key);
                        continue;
                    }
                    *position = Some(stands);
                    if !lost && kind.wants(comes) {
                        self.got.entry(*key).or_default().push(comes);
                    }
                }
                _ => {}
            }
        }
    }

    /// Gives a subscriber the waiting events up to the first gap, and nothing after that.
    fn serve_last(&mut self, key: u32) {
        let Some(kind) = self.kind_of(key) else { return };
        let List { members, stream, waiting } = self.lists.entry(kind).or_default();
        let Some(member) = members.get_mut(&key) else { return };
        let State::Live { position } = member.state else { return };
        let is_behind = |at: &StreamPosition| {
            stream.is_some_and(|stream| stream.epoch == at.epoch && stream.offset > at.offset)
        };
        let mut at = position.filter(|at| !is_behind(at)).or(*stream);
        for &comes in &*waiting {
            if let Some(stands) = comes {
                match relation(at, stands) {
                    std::cmp::Ordering::Less => continue,
                    std::cmp::Ordering::Greater if member.positioned => break,
                    std::cmp::Ordering::Equal | std::cmp::Ordering::Greater => at = comes,
                }
            }
            if kind.wants(comes) {
                self.got.entry(key).or_default().push(comes);
            }
        }
        member.state = State::Told;
    }

    fn leave(&mut self, key: u32) -> Option<bool> {
        let kind = self.kind_of(key)?;
        let list = self.lists.get_mut(&kind)?;
        list.members.remove(&key);
        if list.members.is_empty() {
            self.lists.remove(&kind);
        }
        Some(self.count() == 0)
    }
}

/// Returns how many events wait behind a sweep of this connection's list, or `None` if it is not being swept.
fn waiting(hub: &Hub, key: u32) -> Option<usize> {
    let (list, _) = hub.find_place(hub.ids.find(&hub.channels, "news")?, key)?;
    hub.sweeps.waiting(list)
}

impl Clients {
    /// A client that leaves during a sweep may not have had its turn.
    fn forget_what_is_to_come(&self, hub: &Hub, key: u32, model: &mut Model) {
        if waiting(hub, key).is_some()
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
        kind: Kind,
    },
    /// The history ended this much before the end of the stream. `has_last`: the client was given its last publication.
    GoLive {
        key: u32,
        behind: u64,
        has_last: bool,
        is_handed_out: bool,
    },
    Leave {
        key: u32,
    },
    RemoveAll {
        key: u32,
    },
    Publish,
    /// A client joins the channel, at any node.
    Announce,
    /// The last publication arrives a second time.
    Repeat,
    /// This many events reach the worker, at once or one by one.
    Arrive {
        count: usize,
        at_once: bool,
    },
    Vanish,
    VanishKnowingly,
    /// The next piece of subscribers is served.
    SweepOn,
    /// The client is about to leave.
    ServeLast {
        key: u32,
    },
    /// The stream starts over in another epoch.
    Reset,
}

fn kinds() -> impl Strategy<Value = Kind> {
    let special = (prop::option::of(any::<bool>()), any::<bool>(), any::<bool>());
    prop_oneof![
        1 => Just(Kind::default()),
        1 => special.prop_map(|(odd, joins, patches)| Kind { odd, joins, patches }),
        1 => Just(Kind { patches: true, ..Kind::default() }),
    ]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0u32..6;
    let join = (key.clone(), any::<bool>(), kinds());
    let go_live = (key.clone(), 0u64..4, any::<bool>(), any::<bool>());
    let step = prop_oneof![
        4 => join.prop_map(|(key, positioned, kind)| Step::Join { key, positioned, kind }),
        6 => go_live.prop_map(|(key, behind, has_last, is_handed_out)| {
            Step::GoLive { key, behind, has_last, is_handed_out }
        }),
        2 => key.clone().prop_map(|key| Step::Leave { key }),
        2 => key.clone().prop_map(|key| Step::ServeLast { key }),
        1 => key.prop_map(|key| Step::RemoveAll { key }),
        12 => Just(Step::Publish),
        3 => Just(Step::Announce),
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
        let (mut clients, mut model) = (Clients::default(), Model::default());
        let news = channel("news");
        let mut top = in_epoch("0", 0);
        let mut on_its_way = VecDeque::new();
        let mut last = None;
        let mut epochs = 0;
        let prepare = |comes: Comes| comes.map_or_else(joined, published);
        for step in steps {
            match step {
                Step::Join { key, positioned, kind } => {
                    clients.forget_what_is_to_come(&hub, key, &mut model);
                    let first = hub.join(&news, kind.subscriber(key, positioned), kind.filter()).first;
                    prop_assert_eq!(first, model.join(key, positioned, kind));
                }
                Step::GoLive { key, behind, has_last, is_handed_out } => {
                    let position = StreamPosition { offset: top.offset.saturating_sub(behind), ..top };
                    let has_last = has_last && position.offset > 0;
                    let is_joining = model.kind_of(key).is_some_and(|kind| {
                        matches!(model.lists[&kind].members[&key].state, State::Joining { .. })
                    });
                    if is_joining {
                        clients.answered(key, has_last.then_some(position));
                    }
                    let knows = KnownPosition { position: Some(position), has_last, is_handed_out };
                    hub.go_live("news", key, knows, &mut clients);
                    model.go_live(key, position, is_handed_out);
                }
                Step::Leave { key } => {
                    clients.forget_what_is_to_come(&hub, key, &mut model);
                    prop_assert_eq!(hub.leave("news", key).map(|left| left.last), model.leave(key));
                }
                Step::RemoveAll { key } => {
                    clients.forget_what_is_to_come(&hub, key, &mut model);
                    let mut left = None;
                    hub.remove_all(key, |_, one| left = Some(one.last));
                    prop_assert_eq!(left, model.leave(key));
                }
                Step::Publish => {
                    top.offset += 1;
                    on_its_way.push_back(Some(top));
                }
                Step::Announce => on_its_way.push_back(None),
                Step::Arrive { count, at_once } => {
                    let count = count.min(on_its_way.len());
                    let comes: Vec<_> = on_its_way.drain(..count).collect();
                    let batch: Vec<_> = comes.iter().map(|&comes| prepare(comes)).collect();
                    for batch in batch.chunks(if at_once { 8 } else { 1 }) {
                        hub.deliver("news", batch, &mut clients);
                    }
                    last = comes.iter().rev().find_map(|comes| *comes).or(last);
                    model.lists.values_mut().for_each(|list| list.waiting.extend(&comes));
                }
                Step::Repeat => {
                    if let Some(position) = last {
                        hub.deliver("news", &[published(position)], &mut clients);
                        model.lists.values_mut().for_each(|list| list.waiting.push_back(Some(position)));
                    }
                }
                Step::Vanish => {
                    on_its_way.pop_front();
                }
                Step::VanishKnowingly => {
                    if let Some(Some(position)) = on_its_way.pop_front() {
                        last = None;
                        hub.lost("news", position, &mut clients);
                        for kind in model.lists.keys().copied().collect::<Vec<_>>() {
                            let waiting = std::mem::take(&mut model.lists.get_mut(&kind).unwrap().waiting);
                            waiting.into_iter().for_each(|comes| model.comes(kind, comes, false));
                            model.comes(kind, Some(position), true);
                        }
                    }
                }
                Step::SweepOn => hub.sweep_on(&mut clients),
                Step::ServeLast { key } => {
                    let is_swept = waiting(&hub, key).is_some();
                    if is_swept {
                        model.serve_last(key);
                    }
                    hub.serve_last(key, None, &mut clients);
                    prop_assert!(!is_swept || clients.got.get(&key) == model.got.get(&key));
                }
                Step::Reset => {
                    epochs += 1;
                    // No publication of the old stream arrives again after the new one has begun.
                    last = None;
                    top = in_epoch(&epochs.to_string(), 0);
                }
            }
            for kind in model.lists.keys().copied().collect::<Vec<_>>() {
                let list = model.lists.get_mut(&kind).unwrap();
                let behind = list.members.keys().next().and_then(|&key| waiting(&hub, key)).unwrap_or(0);
                let begun: Vec<_> = list.waiting.drain(..list.waiting.len() - behind).collect();
                begun.into_iter().for_each(|comes| model.comes(kind, comes, false));
            }
            // Subscribers may be told of the same gap in any order.
            clients.told.sort_unstable();
            model.told.sort_unstable();
            prop_assert_eq!(&clients.told, &model.told);
            model.got.retain(|_, got| !got.is_empty());
            if hub.is_sweeping() {
                for (key, got) in &model.got {
                    let seen = clients.got.get(key).map_or(&[][..], Vec::as_slice);
                    prop_assert!(got.starts_with(seen), "{key}: {seen:?} is no beginning of {got:?}");
                }
            } else {
                prop_assert_eq!(&clients.got, &model.got);
            }
            prop_assert_eq!(hub.subscribers("news"), model.count());
            prop_assert_eq!(hub.interest().channels, usize::from(model.count() > 0));
        }
        hub.finish_sweeps(&mut clients);
        for kind in model.lists.keys().copied().collect::<Vec<_>>() {
            let waiting = std::mem::take(&mut model.lists.get_mut(&kind).unwrap().waiting);
            waiting.into_iter().for_each(|comes| model.comes(kind, comes, false));
        }
        model.got.retain(|_, got| !got.is_empty());
        prop_assert_eq!(&clients.got, &model.got);
        prop_assert!(!hub.is_sweeping());
        for key in 0..6 {
            hub.remove_all(key, |_, _| {});
        }
        hub.shrink();
        prop_assert_eq!(hub.interest(), Interest::default());
        prop_assert_eq!(hub.channels.len(), 0);
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
