//! Tests channels that keep state by key.

use std::time::Duration;

use gateway_core::history::{KeysBeside, Retention};
use gateway_core::map::{
    ChangedKey, KeyAction, MapChange, MapRetention, SetKey, SetMode, StateFilter, StatePage, Suppressed,
};
use gateway_core::version::Version;
use shared::channel::Channel;
use shared::publication::{Payload, Publication};
use tidegate::broker::{BrokerError, ChangeRequest, Idempotency};

use crate::harness::{ALL, Backend, KEPT, Node, channel, eventually, texts};

pub const STAYING: MapRetention = MapRetention {
    stream: Retention { beside: KeysBeside::Staying, ..KEPT },
    key_ttl: None,
    ordered: false,
    keys_max: 100,
    quiet: false,
};
pub const BRIEF: MapRetention = MapRetention {
    stream: Retention { beside: KeysBeside::Expiring, ..Retention::new(0, Duration::ZERO) },
    key_ttl: Some(Duration::from_millis(300)),
    ordered: false,
    keys_max: 100,
    quiet: false,
};

pub fn set(key: &str, data: &str) -> MapChange {
    let publication = Publication::new(Payload::json(data.to_owned()));
    let set = SetKey { publication, score: 0, mode: SetMode::Any, refreshes: false, version: None };
    MapChange { key: key.into(), action: KeyAction::Set(Box::new(set)), expected: None }
}

/// Sets a key to `9` with further options.
pub fn set_with(key: &str, with: impl FnOnce(&mut SetKey)) -> MapChange {
    let mut change = set(key, "9");
    if let KeyAction::Set(set) = &mut change.action {
        with(set);
    }
    change
}

pub fn remove(key: &str) -> MapChange {
    MapChange { key: key.into(), action: KeyAction::Remove { tags: None }, expected: None }
}

pub async fn change(node: &Node, channel: &Channel, change: MapChange, keeping: MapRetention) -> ChangedKey {
    let request = ChangeRequest { channel: channel.clone(), change, keeping, idempotency: None };
    node.broker.change_key(request).await.expect("changed")
}

pub async fn read(node: &Node, channel: &Channel, filter: StateFilter, keeping: MapRetention) -> StatePage {
    node.broker.read_state(channel.clone(), filter, keeping).await.expect("read")
}

pub fn all(limit: u32) -> StateFilter {
    StateFilter { limit, enough_bytes: u32::MAX, ..StateFilter::default() }
}

/// Formats a publication as `key=value@offset`, with `-` as the value of a removed key.
pub fn told(publication: &Publication) -> String {
    let keyed = publication.keyed.as_ref().expect("a key");
    let value = if keyed.removed { "-".into() } else { String::from_utf8_lossy(&publication.data.bytes) };
    format!("{}={value}@{}", keyed.key, publication.offset())
}

pub async fn a_key_holds_what_was_set_last_and_everybody_hears_of_it<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let a = channel("a");
    node.listens().await;
    node.subscribe(&a).await;
    let empty = read(&node, &a, all(10), STAYING).await;
    let epoch = empty.top.expect("a position").epoch;
    for (key, data) in [("k", "1"), ("l", "2"), ("k", "3")] {
        let changed = change(&node, &a, set(key, data), STAYING).await;
        assert_eq!(changed.position.expect("a position").epoch, epoch);
    }
    change(&node, &a, remove("l"), STAYING).await;
    eventually("all is heard", async || node.heard.in_channel(&a).len() == 4).await;
    let heard: Vec<_> = node.heard.in_channel(&a).iter().map(told).collect();
    assert_eq!(heard, ["k=1@1", "l=2@2", "k=3@3", "l=-@4"]);
    let page = read(&node, &a, all(10), STAYING).await;
    assert_eq!(page.entries.iter().map(told).collect::<Vec<_>>(), ["k=3@3"]);
    assert_eq!((page.top.expect("a position").offset, &*page.cursor), (4, ""));
    let stream = node.broker.history(a.clone(), ALL, STAYING.stream).await.expect("history");
    assert_eq!(stream.publications.iter().map(told).collect::<Vec<_>>(), heard);
    assert_eq!(node.broker.count_keys(a.clone()).await.expect("counted"), 1);
}

pub async fn keys_are_read_in_pages_by_name_or_by_score<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    for (name, ordered, ascending, expected) in [
        ("named", false, false, ["a", "b", "c", "d", "e"]),
        ("scored", true, false, ["b", "e", "d", "c", "a"]),
        ("rising", true, true, ["a", "c", "d", "e", "b"]),
    ] {
        let channel = channel(name);
        let keeping = MapRetention { ordered, ..STAYING };
        for (key, score) in [("a", -1), ("b", 9), ("c", 3), ("d", 3), ("e", 3)] {
            change(&node, &channel, set_with(key, |set| set.score = score), keeping).await;
        }
        for limit in 1..=6 {
            let mut filter = StateFilter { ascending, ..all(limit) };
            let mut found = Vec::new();
            loop {
                let page = read(&node, &channel, filter.clone(), keeping).await;
                assert!(page.entries.len() <= limit as usize);
                found.extend(page.entries.into_iter().map(|entry| entry.keyed.expect("a key").key));
                if page.cursor.is_empty() {
                    break;
                }
                filter.cursor = page.cursor;
            }
            assert_eq!(found.iter().map(|key| &**key).collect::<Vec<_>>(), expected, "{name} {limit}");
        }
        let one = StateFilter { key: Some("c".into()), ..StateFilter::default() };
        assert_eq!(read(&node, &channel, one, keeping).await.entries.len(), 1);
    }
}

pub async fn a_change_is_made_only_on_its_conditions<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let a = channel("a");
    let suppressed = async |made: MapChange| change(&node, &a, made, STAYING).await.suppressed;
    let with_mode = |key: &str, mode| set_with(key, |set| set.mode = mode);
    let version = |number| set_with("v", |set| set.version = Some(Version { number, epoch: "".into() }));
    assert_eq!(suppressed(with_mode("k", SetMode::IfExists)).await, Some(Suppressed::KeyNotFound));
    assert_eq!(suppressed(remove("k")).await, Some(Suppressed::KeyNotFound));
    assert_eq!(suppressed(with_mode("k", SetMode::IfNew)).await, None);
    assert_eq!(suppressed(with_mode("k", SetMode::IfNew)).await, Some(Suppressed::KeyExists));
    assert_eq!(suppressed(with_mode("k", SetMode::IfExists)).await, None);
    for (number, expected) in [
        (9, None),
        (9, Some(Suppressed::Version)),
        (10, None),
        (u64::MAX, None),
        (7, Some(Suppressed::Version)),
    ] {
        assert_eq!(suppressed(version(number)).await, expected, "{number}");
    }
    let page = read(&node, &a, all(10), STAYING).await;
    let stands =
        page.entries.iter().find(|entry| told(entry).starts_with('k')).and_then(|entry| entry.position);
    let mut first = set("k", "5");
    first.expected = stands;
    assert_eq!(suppressed(first.clone()).await, None);
    assert_eq!(suppressed(first).await, Some(Suppressed::PositionMismatch));
    let idempotency = Some(Idempotency { key: "once".into(), ttl: Duration::from_secs(60) });
    let request = ChangeRequest { channel: a.clone(), change: set("k", "6"), keeping: STAYING, idempotency };
    let made = node.broker.change_key(request.clone()).await.expect("changed");
    let again = node.broker.change_key(request).await.expect("changed");
    assert_eq!(again, ChangedKey { suppressed: Some(Suppressed::Idempotency), ..made });
}

pub async fn a_quiet_state_keeps_the_newest_and_tells_nobody_that_a_key_has_gone<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let a = channel("a");
    node.listens().await;
    node.subscribe(&a).await;
    let stream = Retention { beside: KeysBeside::Expiring, ..KEPT };
    let quiet = MapRetention { quiet: true, stream, key_ttl: Some(Duration::from_secs(1)), ..BRIEF };
    let tagged = |tag: &str| {
        let tag = tag.to_owned();
        set_with("k", move |set| drop(set.publication.tags.insert("tag".into(), tag.into())))
    };
    for made in [set("k", "1"), tagged("x"), tagged("y")] {
        change(&node, &a, made, quiet).await;
    }
    assert_eq!(read(&node, &a, all(10), quiet).await.entries.iter().map(told).collect::<Vec<_>>(), ["k=9@3"]);
    eventually("it expires", async || read(&node, &a, all(10), quiet).await.entries.is_empty()).await;
    change(&node, &a, set("l", "2"), quiet).await;
    eventually("all is heard", async || node.heard.in_channel(&a).len() == 4).await;
    let heard: Vec<_> = node.heard.in_channel(&a).iter().map(told).collect();
    assert_eq!(heard, ["k=1@1", "k=9@2", "k=9@3", "l=2@4"]);
    let stream = node.broker.history(a.clone(), ALL, stream).await.expect("history");
    assert_eq!(stream.publications.iter().map(told).collect::<Vec<_>>(), heard);
}

pub async fn keys_expire_and_that_is_told<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let a = channel("a");
    node.listens().await;
    node.subscribe(&a).await;
    change(&node, &a, set("k", "1"), BRIEF).await;
    assert_eq!(read(&node, &a, all(10), BRIEF).await.entries.len(), 1);
    eventually("it is told as removed", async || {
        // Some brokers find expired keys only when the state is read.
        read(&node, &a, StateFilter::default(), BRIEF).await;
        node.heard.in_channel(&a).len() == 2
    })
    .await;
    let heard: Vec<_> = node.heard.in_channel(&a).iter().map(told).collect();
    assert_eq!(heard, ["k=1@1", "k=-@2"]);
    assert_eq!(read(&node, &a, all(10), BRIEF).await.entries, []);
}

pub async fn a_channel_has_only_so_many_keys<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let a = channel("a");
    let two = MapRetention { keys_max: 2, ..STAYING };
    change(&node, &a, set("k", "1"), two).await;
    change(&node, &a, set("l", "1"), two).await;
    let request =
        ChangeRequest { channel: a.clone(), change: set("m", "1"), keeping: two, idempotency: None };
    assert!(matches!(node.broker.change_key(request.clone()).await, Err(BrokerError::Full)));
    assert_eq!(change(&node, &a, set("k", "2"), two).await.suppressed, None);
    change(&node, &a, remove("l"), two).await;
    assert!(node.broker.change_key(request).await.is_ok());
}

pub async fn a_cleared_channel_begins_anew<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let a = channel("a");
    let before = change(&node, &a, set("k", "1"), STAYING).await.position.expect("a position");
    node.broker.clear_state(a.clone()).await.expect("cleared");
    let page = read(&node, &a, all(10), STAYING).await;
    let top = page.top.expect("a position");
    assert_eq!((page.entries.len(), top.offset), (0, 0));
    assert_ne!(top.epoch, before.epoch);
}

pub async fn a_patch_can_be_made_of_what_the_key_held<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let a = channel("a");
    node.listens().await;
    node.subscribe(&a).await;
    for number in ["1", "2"] {
        let changed = set_with("k", |set| {
            set.publication = Publication { delta: true, ..Publication::new(Payload::json(number)) };
        });
        change(&node, &a, changed, STAYING).await;
    }
    eventually("both are heard", async || node.heard.in_channel(&a).len() == 2).await;
    let heard = node.heard.in_channel(&a);
    let before: Vec<_> =
        heard.iter().map(|one| one.keyed.as_ref().and_then(|keyed| keyed.before.clone())).collect();
    assert_eq!(before, [None, Some(Payload::json("1"))]);
    assert_eq!(texts(&heard), ["1", "2"]);
}

pub async fn a_key_that_gets_other_tags_is_told_as_gone_first<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let a = channel("a");
    node.listens().await;
    node.subscribe(&a).await;
    for (data, team) in [("1", "x"), ("2", "x"), ("3", "y")] {
        let changed = set_with("k", |set| {
            let tags = [("team".into(), team.into())].into();
            set.publication = Publication { tags, delta: true, ..Publication::new(Payload::json(data)) };
        });
        change(&node, &a, changed, STAYING).await;
    }
    eventually("all is heard", async || node.heard.in_channel(&a).len() == 4).await;
    let heard = node.heard.in_channel(&a);
    assert_eq!(heard.iter().map(told).collect::<Vec<_>>(), ["k=1@1", "k=2@2", "k=-@3", "k=3@4"]);
    let teams: Vec<_> = heard.iter().filter_map(|one| Some(&**one.tags.get("team")?)).collect();
    assert_eq!(teams, ["x", "x", "x", "y"]);
    let has_base = |one: &Publication| one.keyed.as_ref().is_some_and(|keyed| keyed.before.is_some());
    assert_eq!(heard.iter().map(has_base).collect::<Vec<_>>(), [false, true, false, false]);
    let page = read(&node, &a, all(10), STAYING).await;
    assert_eq!(page.entries.iter().map(told).collect::<Vec<_>>(), ["k=3@4"]);
}
