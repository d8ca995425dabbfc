//! Tests offsets, epochs, history and idempotency.

use std::time::Duration;

use gateway_core::history::{HistoryFilter, Retention};
use tidegate::broker::{Idempotency, PublishRequest, Published, Version};

use crate::harness::{ALL, Backend, KEPT, NOT_KEPT, channel, eventually, request};

pub async fn offsets_count_from_one_in_an_epoch_of_the_channel<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let (a, b) = (channel("a"), channel("b"));
    let mut positions = Vec::new();
    for number in 1..=3 {
        let Published { position, duplicate } = node.publish(&a, number).await;
        assert!(!duplicate);
        positions.push(position.expect("a position"));
    }
    assert_eq!(positions.iter().map(|position| position.offset).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(positions.iter().all(|position| position.epoch == positions[0].epoch));
    let other = node.publish(&b, 1).await.position.expect("a position");
    assert_eq!(other.offset, 1);
    assert_ne!(other.epoch, positions[0].epoch);
}

pub async fn an_epoch_that_is_left_gives_way_to_another<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let a = channel("a");
    let before = node.publish(&a, 1).await.position.expect("a position");
    let next = node.broker.leave_epoch(a.clone(), before.epoch).await.expect("left");
    assert_ne!(next.epoch, before.epoch);
    assert_eq!(node.broker.leave_epoch(a.clone(), before.epoch).await.expect("left"), next);
    let after = node.publish(&a, 2).await.position.expect("a position");
    assert_eq!((after.offset, after.epoch), (next.offset + 1, next.epoch));
}

pub async fn a_page_of_history_is_what_the_filter_says<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let a = channel("a");
    for number in 1..=10 {
        node.publish(&a, number).await;
    }
    let page = node.broker.history(a.clone(), ALL, KEPT).await.expect("history");
    assert_eq!(page.top.offset, 10);
    for (publication, offset) in page.publications.iter().zip(1..) {
        let position = publication.position.expect("a position");
        assert_eq!((position.offset, position.epoch), (offset, page.top.epoch));
    }
    for (since, limit, reverse, expected) in [
        (None, 1000, false, vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (None, 3, false, vec![1, 2, 3]),
        (None, 3, true, vec![10, 9, 8]),
        (Some(0), 2, false, vec![1, 2]),
        (Some(7), 1000, false, vec![8, 9, 10]),
        (Some(7), 2, false, vec![8, 9]),
        (Some(10), 1000, false, vec![]),
        (Some(1000), 1000, false, vec![]),
        (Some(u64::MAX), 1000, false, vec![]),
        (Some(4), 1000, true, vec![3, 2, 1]),
        (Some(4), 2, true, vec![3, 2]),
        (Some(1), 1000, true, vec![]),
        (Some(0), 1000, true, vec![]),
        (Some(u64::MAX), 2, true, vec![10, 9]),
        (None, 0, false, vec![]),
        (None, 0, true, vec![]),
    ] {
        let filter = HistoryFilter { since, limit, reverse, enough_bytes: None };
        let expected: Vec<String> = expected.iter().map(u64::to_string).collect();
        assert_eq!(node.history(&a, filter).await, expected, "{filter:?}");
    }
}

pub async fn a_reader_with_enough_bytes_is_given_these_at_least_and_in_order<B: Backend>() {
    const EACH: usize = 32 << 10;
    let backend = B::new();
    let node = backend.node();
    let a = channel("a");
    for _ in 0..24 {
        node.broker.publish(request(&a, "x".repeat(EACH))).await.expect("published");
    }
    let read = async |enough_bytes: Option<u32>| {
        let filter = HistoryFilter { enough_bytes, ..ALL };
        let page = node.broker.history(a.clone(), filter, KEPT).await.expect("history");
        assert_eq!(page.top.offset, 24);
        let offsets = page.publications.iter().map(|publication| publication.position.expect("one").offset);
        assert!(offsets.eq(1..=page.publications.len() as u64));
        page.publications.len()
    };
    // More bytes than may be in flight at once: the reads wait for each other.
    let all = futures_util::future::join_all((0..12).map(|_| read(None))).await;
    assert_eq!(all, [24; 12]);
    assert!(read(Some(256 << 10)).await >= 8);
    assert!(read(Some(1)).await >= 1);
    // The memory broker returns everything, at no cost; a broker that fetches stops after a page.
    let is_fetched = node.counted().read_link.up.get() > 0;
    assert!(!is_fetched || read(Some(256 << 10)).await < 24);
}

pub async fn history_keeps_the_newest_up_to_its_size<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let a = channel("a");
    for number in 1..=10 {
        let retention = Retention { size: 4, ..KEPT };
        node.broker.publish(PublishRequest { retention, ..request(&a, number) }).await.expect("published");
    }
    let retention = Retention { size: 4, ..KEPT };
    assert_eq!(node.history_kept(&a, ALL, retention).await, ["7", "8", "9", "10"]);
}

pub async fn history_ends_with_its_time_but_the_position_stays<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let a = channel("a");
    let retention = Retention::new(10, Duration::from_millis(300));
    let publish = || node.broker.publish(PublishRequest { retention, ..request(&a, "brief") });
    let first = publish().await.expect("published").position.expect("a position");
    assert_eq!(node.history_kept(&a, ALL, retention).await, ["brief"]);
    eventually("the history ends", async || node.history_kept(&a, ALL, retention).await.is_empty()).await;
    let second = publish().await.expect("published").position.expect("a position");
    assert_eq!((second.offset, second.epoch), (2, first.epoch));
    assert_eq!(node.history_kept(&a, ALL, retention).await, ["brief"]);
}

pub async fn an_unknown_channel_gets_an_epoch_that_holds<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let a = channel("a");
    let page = node.broker.history(a.clone(), ALL, KEPT).await.expect("history");
    assert_eq!((page.top.offset, page.publications.len()), (0, 0));
    assert!(!page.top.epoch.is_empty());
    let position = node.publish(&a, 1).await.position.expect("a position");
    assert_eq!((position.offset, position.epoch), (1, page.top.epoch));
}

pub async fn positions_come_in_the_order_asked<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let channels: Vec<_> = (0..1500).map(|number| channel(&format!("c{number}"))).collect();
    node.publish(&channels[3], "x").await;
    node.publish(&channels[3], "y").await;
    node.publish(&channels[1400], "x").await;
    let asked = channels.iter().map(|channel| (channel.clone(), KEPT)).collect();
    let positions = node.broker.positions(asked).await.expect("positions");
    let offsets: Vec<u64> = positions.iter().map(|position| position.offset).collect();
    assert_eq!((offsets.len(), offsets[3], offsets[1400]), (1500, 2, 1));
    assert_eq!(offsets.iter().sum::<u64>(), 3);
    let again = node.broker.positions(vec![(channels[7].clone(), KEPT)]).await.expect("positions");
    assert_eq!(again, [positions[7]]);
    assert_eq!(node.broker.positions(Vec::new()).await.expect("positions"), []);
}

pub async fn removed_history_does_not_take_offsets_back<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let a = channel("a");
    let first = node.publish(&a, 1).await.position.expect("a position");
    node.broker.remove_history(a.clone()).await.expect("removed");
    let page = node.broker.history(a.clone(), ALL, KEPT).await.expect("history");
    assert_eq!((page.publications.len(), page.top), (0, first));
    assert_eq!(node.publish(&a, 2).await.position.expect("a position").offset, 2);
    assert_eq!(node.history(&a, ALL).await, ["2"]);
    node.broker.remove_history(channel("never")).await.expect("removed");
}

pub async fn a_key_is_good_for_one_publication<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let (a, b) = (channel("a"), channel("b"));
    node.subscribe(&a).await;
    let key = |ttl| Some(Idempotency { key: "order 66".into(), ttl });
    let publish = async |channel, text| {
        let idempotency = key(Duration::from_secs(60));
        node.broker
            .publish(PublishRequest { idempotency, ..request(channel, text) })
            .await
            .expect("published")
    };
    let first = publish(&a, "first").await;
    let second = publish(&a, "second").await;
    assert!(!first.duplicate && second.duplicate);
    assert_eq!(first.position, second.position);
    assert!(!publish(&b, "elsewhere").await.duplicate);
    node.publish(&a, "last").await;
    eventually("the last is heard", async || node.heard.texts(&a).ends_with(&["last".into()])).await;
    assert_eq!(node.heard.texts(&a), ["first", "last"]);
    assert_eq!(node.history(&a, ALL).await, ["first", "last"]);
    let counted = node.counted();
    assert_eq!((counted.published.get(), counted.duplicates.get()), (3, 1));
}

pub async fn a_key_is_good_for_one_publication_without_history_too<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let a = channel("a");
    node.subscribe(&a).await;
    let publish = async |text| {
        let idempotency = Some(Idempotency { key: "k".into(), ttl: Duration::from_secs(60) });
        let request = PublishRequest { idempotency, retention: NOT_KEPT, ..request(&a, text) };
        node.broker.publish(request).await.expect("published")
    };
    assert_eq!(publish("first").await, Published { position: None, duplicate: false });
    assert_eq!(publish("second").await, Published { position: None, duplicate: true });
    node.publish(&a, "last").await;
    eventually("the last is heard", async || node.heard.texts(&a).ends_with(&["last".into()])).await;
    assert_eq!(node.heard.texts(&a), ["first", "last"]);
}

pub async fn a_key_may_be_used_again_after_its_time<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let a = channel("a");
    let publish = async || {
        let idempotency = Some(Idempotency { key: "k".into(), ttl: Duration::from_millis(200) });
        node.broker.publish(PublishRequest { idempotency, ..request(&a, "x") }).await.expect("published")
    };
    assert!(!publish().await.duplicate);
    assert!(publish().await.duplicate);
    eventually("the key is forgotten", async || !publish().await.duplicate).await;
}

fn version(number: u64, epoch: &str) -> Option<Version> {
    Some(Version { number, epoch: epoch.into() })
}

pub async fn a_version_that_is_not_newer_is_not_published<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let a = channel("a");
    node.subscribe(&a).await;
    let publish = async |version: Option<Version>| {
        let request = PublishRequest { version, ..request(&a, "x") };
        let Published { position, duplicate } = node.broker.publish(request).await.expect("published");
        (position.expect("a position").offset, duplicate)
    };
    for (version, expected) in [
        (version(5, ""), (1, false)),
        (version(5, ""), (1, true)),
        (version(4, ""), (1, true)),
        (None, (2, false)),
        (version(5, ""), (2, true)),
        (version(10, ""), (3, false)),
        (version(3, "other"), (4, false)),
        (version(3, "other"), (4, true)),
        (version(2, ""), (4, true)),
        (version(4, ""), (5, false)),
        (version(1, "other"), (6, false)),
        (version(u64::MAX - 1, ""), (7, false)),
        (version(u64::MAX - 1, ""), (7, true)),
        (version(u64::MAX, ""), (8, false)),
    ] {
        assert_eq!(publish(version.clone()).await, expected, "{version:?}");
    }
    eventually("what was made is heard", async || node.heard.in_channel(&a).len() == 8).await;
    assert_eq!(node.history(&a, ALL).await.len(), 8);
    // A version is compared with the stream, which is absent here.
    for _ in 0..2 {
        let request = PublishRequest { version: version(1, ""), retention: NOT_KEPT, ..request(&a, "x") };
        assert!(!node.broker.publish(request).await.expect("published").duplicate);
    }
}

pub async fn of_versions_that_come_at_once_the_newest_is_last<B: Backend>() {
    let backend = B::new();
    let node = backend.node();
    let a = channel("a");
    let publishing = (1..=60_u64).map(|number| {
        // Shuffles the numbers.
        let number = number * 37 % 61;
        node.broker.publish(PublishRequest { version: version(number, ""), ..request(&a, number) })
    });
    let made = futures_util::future::join_all(publishing).await;
    let made = made.into_iter().filter(|made| !made.as_ref().expect("published").duplicate).count();
    let kept: Vec<u64> =
        node.history(&a, ALL).await.iter().map(|text| text.parse().expect("a number")).collect();
    assert_eq!(kept.len(), made);
    assert!(kept.is_sorted() && kept.last() == Some(&60), "{kept:?}");
}
