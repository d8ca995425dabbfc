//! Random changes: the writer, a reader of its messages, and a reader that began with a written state hold the same.

use std::time::Duration;

use gateway_core::history::{HistoryFilter, KeysBeside, Retention};
use gateway_core::map::{KeyAction, KeyEntry, MapChange, MapRetention, SetKey, SetMode, Suppressed};
use proptest::collection::vec;
use proptest::prelude::*;
use shared::channel::Channel;
use shared::moment::Moment;
use shared::position::{Epoch, StreamPosition};
use shared::publication::{Payload, Publication};

use super::decide_changes::MapRequest;
use super::map_fold::MapFold;
use super::map_message::{ChangesMessage, MapRow};
use super::once_keys::{KeyDigest, UsedKey};
use crate::broker::{BrokerError, ChangeRequest, Idempotency, PublishRequest, Version};

const PLENTY: usize = usize::MAX;
const NOW: u64 = 1_700_000_000_000;

#[derive(Clone, Debug)]
enum Step {
    Set {
        key: u8,
        tag: Option<u8>,
        mode: SetMode,
        refreshes: bool,
        version: u64,
        once: Option<u8>,
    },
    Remove {
        key: u8,
    },
    Publish {
        version: u64,
        once: Option<u8>,
    },
    /// All waiting changes go as one message.
    Go {
        taken: bool,
    },
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let mode = prop_oneof![4 => Just(SetMode::Any), 1 => Just(SetMode::IfNew), 1 => Just(SetMode::IfExists)];
    let once = || prop::option::weighted(0.2, 0_u8..6);
    let set = (0_u8..6, prop::option::of(0_u8..2), mode, any::<bool>(), 0_u64..4, once());
    prop_oneof![
        6 => set.prop_map(|(key, tag, mode, refreshes, version, once)| {
            Step::Set { key, tag, mode, refreshes, version, once }
        }),
        2 => (0_u8..6).prop_map(|key| Step::Remove { key }),
        1 => (0_u64..4, once()).prop_map(|(version, once)| Step::Publish { version, once }),
        4 => prop::bool::weighted(0.8).prop_map(|taken| Step::Go { taken }),
        2 => (1_u64..4_000).prop_map(Step::Wait),
    ]
}

fn channel() -> Channel {
    Channel::parse("a", 255).unwrap()
}

fn version(number: u64) -> Option<Version> {
    (number > 0).then(|| Version { number, epoch: "".into() })
}

fn idempotency(key: Option<u8>) -> Option<Idempotency> {
    key.map(|key| Idempotency { key: key.to_string().into(), ttl: Duration::from_secs(3) })
}

fn request(step: &Step, value: usize, keeping: MapRetention) -> Option<MapRequest> {
    let payload = Payload::json(value.to_string());
    let (key, action, once) = match step {
        Step::Set { key, tag, mode, refreshes, version: number, once } => {
            let tags = tag.map(|tag| ("tag".into(), tag.to_string().into())).into_iter().collect();
            let publication = Publication { tags, delta: true, ..Publication::new(payload) };
            let (score, mode, refreshes) = (i64::from(*key) % 3, *mode, *refreshes);
            let set = SetKey { publication, score, mode, refreshes, version: version(*number) };
            (key, KeyAction::Set(Box::new(set)), *once)
        }
        Step::Remove { key } => (key, KeyAction::Remove { tags: None }, None),
        Step::Publish { version: number, once } => {
            return Some(MapRequest::publish(PublishRequest {
                channel: channel(),
                publication: Publication::new(payload),
                retention: keeping.stream,
                idempotency: idempotency(*once),
                version: version(*number),
            }));
        }
        Step::Go { .. } | Step::Wait(_) => return None,
    };
    let change = MapChange { key: format!("k{key}").into(), action, expected: None };
    let idempotency = idempotency(once);
    Some(MapRequest::change(ChangeRequest { channel: channel(), change, keeping, idempotency }))
}

/// Everything that can be seen of a fold.
#[derive(PartialEq, Debug)]
struct Seen {
    position: StreamPosition,
    keys: Vec<(String, KeyEntry)>,
    kept: Vec<Publication>,
    ends: Option<Moment>,
    version: Option<Version>,
    once: Vec<(KeyDigest, UsedKey)>,
    bytes: usize,
}

fn seen(fold: &MapFold) -> Seen {
    let whole = HistoryFilter { limit: u32::MAX, ..HistoryFilter::default() };
    Seen {
        position: fold.position(),
        keys: fold.state.entries().map(|(key, entry)| (key.to_owned(), entry.clone())).collect(),
        kept: fold.stream.page(whole).publications,
        ends: (!fold.stream.is_empty()).then(|| fold.stream.expires()),
        version: fold.version.clone(),
        once: fold.once.iter().filter(|(_, used)| used.until > fold.time).collect(),
        bytes: fold.state.bytes() + fold.stream.bytes(),
    }
}

fn new_fold() -> MapFold {
    MapFold::new(StreamPosition { offset: 0, epoch: Epoch::from_random(1) }, PLENTY)
}

fn written_down(fold: &MapFold, chunk_bytes: usize) -> MapFold {
    let mut copy = MapFold::new(fold.position(), PLENTY);
    copy.time = fold.time;
    fold.write_down(chunk_bytes).into_iter().for_each(|rows| copy.put_back(rows).unwrap());
    copy
}

fn keeping() -> impl Strategy<Value = MapRetention> {
    (any::<bool>(), any::<bool>(), any::<bool>(), 3_u32..8).prop_map(|(stream, expires, quiet, keys_max)| {
        let beside = if expires { KeysBeside::Expiring } else { KeysBeside::Staying };
        MapRetention {
            stream: Retention {
                beside,
                ..Retention::new(if stream { 4 } else { 0 }, Duration::from_secs(60))
            },
            key_ttl: expires.then(|| Duration::from_secs(5)),
            ordered: false,
            keys_max,
            quiet: quiet && expires,
        }
    })
}

proptest! {
    #[test]
    fn whoever_reads_what_was_decided_has_what_whoever_decided_it_has(
        keeping in keeping(),
        steps in vec(step(), 1..80),
        copied in 0_usize..80,
        chunk_bytes in 1_usize..400,
    ) {
        let (mut decides, mut reads) = (new_fold(), new_fold());
        let mut copies: Option<MapFold> = None;
        let (mut now, mut waiting) = (NOW, Vec::new());
        for (number, step) in steps.iter().enumerate() {
            if number == copied {
                copies = Some(written_down(&decides, chunk_bytes));
            }
            waiting.extend(request(step, number, keeping));
            match step {
                Step::Wait(millis) => now += millis,
                Step::Go { taken } => {
                    let before = seen(&decides);
                    let batch = std::mem::take(&mut waiting);
                    let draft = decides.decide(&batch, &keeping, now, PLENTY);
                    prop_assert_eq!(draft.outcomes.len(), batch.len());
                    let message = draft.message(&decides, true).filter(|_| *taken);
                    let Some(message) = message else {
                        decides.undo(draft);
                        prop_assert_eq!(seen(&decides), before);
                        continue;
                    };
                    decides.commit(draft, now);
                    let message = ChangesMessage::decode(message.encode()).unwrap();
                    for fold in std::iter::once(&mut reads).chain(&mut copies) {
                        fold.take_in(&message, now).unwrap();
                    }
                    prop_assert_eq!(message.head, decides.head());
                    prop_assert!(reads.take_in(&message, now).is_err() || message.before() == message.head.top.offset);
                }
                _ => {}
            }
            prop_assert_eq!(seen(&reads), seen(&decides));
            if let Some(copies) = &copies {
                prop_assert_eq!(seen(copies), seen(&decides));
            }
        }
    }
}

fn keep(keys_max: u32) -> MapRetention {
    let stream = Retention { beside: KeysBeside::Staying, ..Retention::new(10, Duration::from_secs(60)) };
    MapRetention { stream, keys_max, ..MapRetention::default() }
}

fn set(key: u8) -> Step {
    Step::Set { key, tag: None, mode: SetMode::Any, refreshes: false, version: 0, once: None }
}

fn commit(fold: &mut MapFold, steps: &[Step], keeping: MapRetention, now: u64) -> ChangesMessage {
    let batch: Vec<_> = steps.iter().filter_map(|step| request(step, 1, keeping)).collect();
    let draft = fold.decide(&batch, &keeping, now, PLENTY);
    let message = draft.message(fold, true).expect("something changes");
    fold.commit(draft, now);
    message
}

#[test]
fn times_are_by_the_clock_of_the_server_whatever_that_of_the_writer_shows() {
    let expiring = MapRetention { key_ttl: Some(Duration::from_secs(5)), ..keep(9) };
    for slow in [NOW - 3_600_000, NOW, NOW + 3_600_000] {
        let message = commit(&mut new_fold(), &[set(1)], expiring, slow);
        let mut fold = new_fold();
        fold.take_in(&message, NOW).unwrap();
        assert_eq!(fold.state.get("k1").unwrap().expires, Some(Moment(NOW + 5_000)));
    }
}

#[test]
fn a_key_that_would_take_too_much_is_refused_and_one_that_is_there_may_get_shorter() {
    let mut fold = new_fold();
    commit(&mut fold, &[set(1)], keep(9), NOW);
    let full = fold.state.bytes();
    let outcome = |fold: &mut MapFold, value: usize, key, bytes_max| {
        let one = request(&set(key), value, keep(9)).unwrap();
        let draft = fold.decide(&[one], &keep(9), NOW, bytes_max);
        let outcome = draft.outcomes[0].clone();
        fold.undo(draft);
        outcome
    };
    assert!(matches!(outcome(&mut fold, 1, 2, full), Err(BrokerError::Full)));
    assert!(matches!(outcome(&mut fold, 1_000_000, 1, full), Err(BrokerError::Full)));
    assert!(outcome(&mut fold, 2, 1, full).is_ok());
    assert!(outcome(&mut fold, 2, 1, full / 2).is_ok(), "the bound was lowered since");
    assert!(outcome(&mut fold, 1, 2, 2 * full).is_ok());
}

#[test]
fn behind_messages_that_are_missing_the_state_goes_on_without_what_they_changed() {
    let expiring = MapRetention { key_ttl: Some(Duration::from_secs(5)), ..keep(9) };
    let alive =
        Step::Set { key: 2, tag: None, mode: SetMode::IfNew, refreshes: true, version: 0, once: None };
    let mut writer = new_fold();
    let log = [vec![set(1)], vec![set(2)], vec![set(3), alive], vec![set(1)]];
    let mut now = NOW;
    let log = log.map(|steps| {
        now += 1_000;
        commit(&mut writer, &steps, expiring, now)
    });
    assert!(matches!(&log[2].rows[..], [MapRow::Lives(..), MapRow::Held { .. }]));
    let mut reader = new_fold();
    for (at, message) in log.iter().enumerate().filter(|(at, _)| *at != 1) {
        assert_eq!(reader.skip_missing(message), at == 2);
        reader.take_in(message, NOW).unwrap();
    }
    assert_eq!(reader.position(), writer.position());
    assert_eq!(reader.state.entries().map(|(key, _)| key).collect::<Vec<_>>(), ["k1", "k3"]);
    assert_eq!(seen(&reader).kept.len(), 2, "what is retained has no gap");
}

#[test]
fn in_another_epoch_all_is_where_it_was() {
    let mut fold = new_fold();
    commit(&mut fold, &[set(1), set(2), set(1)], keep(9), NOW);
    let next = Epoch::from_random(2);
    let renewed = fold.in_epoch(next).unwrap();
    assert_eq!(renewed.position(), StreamPosition { offset: 3, epoch: next });
    let stands = renewed.state.get("k1").unwrap().publication.position;
    assert_eq!(stands, Some(StreamPosition { offset: 3, epoch: next }));
    assert_eq!(seen(&renewed).kept.len(), 3);
    let without = fold.without_history().unwrap();
    assert_eq!((without.position(), without.stream.is_empty()), (fold.position(), true));
}

#[test]
fn an_idempotency_key_is_good_for_one_change_in_the_same_message_too() {
    let mut fold = new_fold();
    let once =
        |key| Step::Set { key, tag: None, mode: SetMode::Any, refreshes: false, version: 0, once: Some(1) };
    let batch: Vec<_> = [once(1), once(2)].iter().filter_map(|step| request(step, 1, keep(9))).collect();
    let draft = fold.decide(&batch, &keep(9), NOW, PLENTY);
    let outcomes: Vec<_> = draft.outcomes.iter().map(|one| one.clone().unwrap()).collect();
    assert_eq!((outcomes[0].suppressed, outcomes[1].suppressed), (None, Some(Suppressed::Idempotency)));
    assert_eq!(outcomes[0].position, outcomes[1].position);
    let message = draft.message(&fold, true).unwrap();
    assert_eq!((message.entries.len(), message.rows.len()), (1, 2));
    assert!(matches!(&message.rows[0], MapRow::Held { entry: 0, .. }));
}
