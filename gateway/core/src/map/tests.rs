//! Checks random changes against a plain model of a state.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use shared::moment::Moment;
use shared::position::Epoch;

use super::*;
use crate::stream::Stream;

const PLENTY: usize = usize::MAX;

#[derive(Clone, Debug)]
enum Step {
    Set { key: u8, score: i64, mode: SetMode, refreshes: bool, version: u64, expected: Option<u64> },
    Remove { key: u8, expected: Option<u64> },
    Wait(u64),
}

/// What the model knows of a key.
#[derive(Clone, PartialEq, Debug)]
struct Known {
    value: u64,
    score: i64,
    offset: u64,
    expires: Option<u64>,
    version: u64,
}

fn step() -> impl Strategy<Value = Step> {
    let mode = prop_oneof![4 => Just(SetMode::Any), 1 => Just(SetMode::IfNew), 1 => Just(SetMode::IfExists)];
    let expected = || prop::option::weighted(0.2, 0_u64..12);
    let set = (0_u8..6, -2_i64..3, mode, any::<bool>(), 0_u64..4, expected());
    prop_oneof![
        6 => set.prop_map(|(key, score, mode, refreshes, version, expected)| {
            Step::Set { key, score, mode, refreshes, version, expected }
        }),
        2 => (0_u8..6, expected()).prop_map(|(key, expected)| Step::Remove { key, expected }),
        2 => (1_u64..4_000).prop_map(Step::Wait),
    ]
}

struct Tried {
    state: MapState,
    stream: Stream,
    keeping: MapRetention,
    model: BTreeMap<String, Known>,
    now: u64,
    told: u64,
    value: u64,
}

impl Tried {
    fn new(keeping: MapRetention) -> Self {
        let stream = Stream::new(Epoch::from_random(3));
        Self {
            state: MapState::default(),
            stream,
            keeping,
            model: BTreeMap::new(),
            now: 0,
            told: 0,
            value: 0,
        }
    }

    fn has_stream(&self) -> bool {
        self.keeping.stream.keeps_history()
    }

    /// Checks the next publication: it has the offset at which the stream now ends.
    fn check_told(&mut self, told: &Publication) {
        self.told += 1;
        assert_eq!(told.offset(), self.told);
    }

    fn expire(&mut self) {
        while let Some(told) = self.state.expire(Moment(self.now), &self.keeping, &mut self.stream, PLENTY) {
            let keyed = told.keyed.clone().unwrap();
            assert!(keyed.removed);
            let known = self.model.remove(&*keyed.key).expect("it was there");
            assert!(known.expires.unwrap() <= self.now);
            self.check_told(&told);
        }
        assert!(self.model.values().all(|known| known.expires.is_none_or(|at| at > self.now)));
    }

    fn position(&self, offset: Option<u64>) -> Option<StreamPosition> {
        offset.map(|offset| StreamPosition { offset, ..self.stream.position() })
    }

    /// The result of a change according to the model.
    fn expect(&self, key: &str, expected: Option<u64>, set: Option<&Step>) -> Result<(), NotMade> {
        let suppressed = |why| Err(NotMade::Suppressed(why));
        let known = self.model.get(key);
        let stands = known.map(|known| known.offset);
        if self.has_stream() && expected.is_some() && expected != stands {
            return suppressed(Suppressed::PositionMismatch);
        }
        let Some(Step::Set { mode, version, .. }) = set else {
            return if known.is_some() { Ok(()) } else { suppressed(Suppressed::KeyNotFound) };
        };
        match (known, mode) {
            (None, SetMode::IfExists) => suppressed(Suppressed::KeyNotFound),
            (None, _) if self.model.len() >= self.keeping.keys_max as usize => Err(NotMade::Full),
            (Some(_), SetMode::IfNew) => suppressed(Suppressed::KeyExists),
            (Some(known), _) if self.has_stream() && *version > 0 && *version <= known.version => {
                suppressed(Suppressed::Version)
            }
            _ => Ok(()),
        }
    }

    fn step(&mut self, step: &Step) {
        let expires = self.keeping.key_ttl.map(|ttl| self.now + ttl.as_millis() as u64);
        match step {
            Step::Wait(ms) => {
                self.now += ms;
                self.expire();
            }
            Step::Remove { key, expected } => {
                let key = format!("k{key}");
                let expectation = self.expect(&key, *expected, None);
                let action = KeyAction::Remove { tags: None };
                let change =
                    MapChange { key: key.as_str().into(), action, expected: self.position(*expected) };
                let told = self.change(change);
                assert_eq!(told.as_ref().map(|_| ()).map_err(|error| *error), expectation);
                if let Ok(told) = told {
                    self.model.remove(&key);
                    assert!(only(&told).keyed.as_ref().unwrap().removed);
                    self.check_told(only(&told));
                }
            }
            Step::Set { key, score, mode, refreshes, version, expected } => {
                let key = format!("k{key}");
                let expectation = self.expect(&key, *expected, Some(step));
                self.value += 1;
                let publication =
                    Publication { delta: true, ..Publication::new(Payload::json(self.value.to_string())) };
                let version = (*version > 0).then(|| Version { number: *version, epoch: "".into() });
                let number = version.as_ref().map_or(0, |version| version.number);
                let (score, mode, refreshes) = (*score, *mode, *refreshes);
                let set = SetKey { publication, score, mode, refreshes, version };
                let action = KeyAction::Set(Box::new(set));
                let change =
                    MapChange { key: key.as_str().into(), action, expected: self.position(*expected) };
                let told = self.change(change);
                assert_eq!(told.as_ref().map(|_| ()).map_err(|error| *error), expectation);
                match told {
                    Ok(told) => {
                        let told = only(&told);
                        self.check_told(told);
                        let before = self.model.get(&key).map(|known| known.value.to_string());
                        let keyed = told.keyed.as_ref().unwrap();
                        let said = keyed
                            .before
                            .as_ref()
                            .map(|before| String::from_utf8(before.bytes.to_vec()).unwrap());
                        assert_eq!(said, before);
                        let kept = self.model.get(&key).map_or(0, |known| known.version);
                        let version = if number == 0 { kept } else { number };
                        let offset = told.offset();
                        self.model.insert(key, Known { value: self.value, score, offset, expires, version });
                    }
                    Err(NotMade::Suppressed(Suppressed::KeyExists)) if refreshes => {
                        self.model.get_mut(&key).unwrap().expires = expires;
                    }
                    Err(_) => {}
                }
            }
        }
    }

    fn change(&mut self, change: MapChange) -> Result<MapPublications, NotMade> {
        self.state.change(Moment(self.now), change, &self.keeping, &mut self.stream, PLENTY)
    }

    /// All keys, read in pages.
    fn read(&self, limit: u32, ascending: bool) -> Vec<(String, String)> {
        let mut filter = StateFilter { limit, ascending, enough_bytes: u32::MAX, ..StateFilter::default() };
        let mut read = Vec::new();
        loop {
            let page = self.state.page(&filter, self.keeping.ordered);
            assert!(page.entries.len() <= limit as usize);
            read.extend(page.entries.into_iter().map(|entry| {
                let value = String::from_utf8(entry.data.bytes.to_vec()).unwrap();
                (entry.keyed.unwrap().key.to_string(), value)
            }));
            if page.cursor.is_empty() {
                return read;
            }
            filter.cursor = page.cursor;
        }
    }

    fn check_read(&self, limit: u32, ascending: bool) {
        let mut all: Vec<_> = self.model.iter().collect();
        if self.keeping.ordered {
            all.sort_by_key(|(key, known)| (known.score, (*key).clone()));
            if !ascending {
                all.reverse();
            }
        }
        let all: Vec<_> =
            all.into_iter().map(|(key, known)| (key.clone(), known.value.to_string())).collect();
        assert_eq!(self.read(limit, ascending), all);
        assert_eq!(self.state.len(), self.model.len());
        assert_eq!(self.state.bytes() == 0, self.model.is_empty());
        assert_eq!(
            self.state.next_expiry().map(|at| at.0),
            self.model.values().filter_map(|k| k.expires).min()
        );
    }
}

fn only(told: &MapPublications) -> &Publication {
    assert_eq!(told.len(), 1);
    &told[0]
}

fn keeping() -> impl Strategy<Value = MapRetention> {
    (any::<bool>(), any::<bool>(), any::<bool>(), 3_u32..8).prop_map(
        |(stream, expires, ordered, keys_max)| {
            let size = if stream { 4 } else { 0 };
            MapRetention {
                stream: Retention::new(size, Duration::from_secs(60)),
                key_ttl: expires.then(|| Duration::from_secs(5)),
                ordered,
                keys_max,
                quiet: false,
            }
        },
    )
}

proptest! {
    #[test]
    fn a_state_is_what_a_plain_model_says(
        keeping in keeping(),
        steps in vec(step(), 1..80),
        limit in 1_u32..5,
        ascending in any::<bool>(),
    ) {
        let mut tried = Tried::new(keeping);
        for step in &steps {
            tried.step(step);
            tried.check_read(limit, ascending);
        }
    }
}

fn set(key: &str, data: &'static str) -> MapChange {
    let publication = Publication::new(Payload::json(data));
    let set = SetKey { publication, score: 0, mode: SetMode::Any, refreshes: false, version: None };
    MapChange { key: key.into(), action: KeyAction::Set(Box::new(set)), expected: None }
}

#[test]
fn a_page_ends_where_it_has_enough_bytes_and_the_next_goes_on_there() {
    let keeping = MapRetention { keys_max: 10, ..MapRetention::default() };
    let mut tried = Tried::new(keeping);
    for key in ["a", "b", "c"] {
        tried.change(set(key, "1")).unwrap();
    }
    let mut filter = StateFilter { limit: 10, enough_bytes: 1, ..StateFilter::default() };
    let page = tried.state.page(&filter, false);
    assert_eq!((page.entries.len(), &*page.cursor), (1, "a"));
    filter.cursor = page.cursor;
    filter.enough_bytes = u32::MAX;
    let page = tried.state.page(&filter, false);
    assert_eq!((page.entries.len(), &*page.cursor), (2, ""));
    filter.key = Some("b".into());
    assert_eq!(tried.state.page(&filter, false).entries.len(), 1);
}

#[test]
fn a_removal_is_told_with_the_tags_of_what_was_there() {
    let mut tried = Tried::new(MapRetention { keys_max: 1, ..MapRetention::default() });
    let mut first = set("a", "1");
    if let KeyAction::Set(set) = &mut first.action {
        set.publication.tags.insert("team".into(), "x".into());
    }
    tried.change(first).unwrap();
    assert_eq!(tried.change(set("b", "1")), Err(NotMade::Full));
    let remove = MapChange { key: "a".into(), action: KeyAction::Remove { tags: None }, expected: None };
    let told = tried.change(remove.clone()).unwrap();
    assert_eq!(only(&told).tags.get("team").map(|value| &**value), Some("x"));
    assert_eq!(tried.change(remove), Err(NotMade::Suppressed(Suppressed::KeyNotFound)));
    tried.change(set("b", "1")).unwrap();
}

#[test]
fn whoever_a_filter_shows_a_key_to_is_told_when_it_gets_other_tags() {
    let mut tried = Tried::new(MapRetention { keys_max: 1, ..MapRetention::default() });
    let tagged = |team: Option<&str>| {
        let mut change = set("a", "1");
        if let KeyAction::Set(set) = &mut change.action {
            set.publication.delta = true;
            set.publication.tags.extend(team.map(|team| ("team".into(), team.into())));
        }
        change
    };
    let mut told = |team: Option<&str>| {
        let told = tried.change(tagged(team)).unwrap();
        let said = told.iter().map(|told| {
            let keyed = told.keyed.as_ref().unwrap();
            let team = told.tags.get("team").map_or("none", |team| team);
            let before = if keyed.before.is_some() { " after another" } else { "" };
            format!("{} {}{team}{before}", told.offset(), if keyed.removed { "gone from " } else { "in " })
        });
        said.collect::<Vec<_>>()
    };
    assert_eq!(told(Some("x")), ["1 in x"]);
    assert_eq!(told(Some("x")), ["2 in x after another"]);
    assert_eq!(told(Some("y")), ["3 gone from x", "4 in y"]);
    assert_eq!(told(None), ["5 gone from y", "6 in none"]);
}
