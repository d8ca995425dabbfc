//! Tests channels that keep state by key over NATS: nodes that write the same key, long logs, and values that are too long.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use gateway_core::history::{HistoryFilter, KeysBeside, Retention};
use gateway_core::map::{KeyAction, MapChange, MapRetention, StateFilter, StatePage, Suppressed};
use gateway_core::version::Version;
use shared::channel::Channel;
use shared::position::StreamPosition;
use shared::publication::Publication;
use tidegate::broker::{BrokerError, ChangeRequest, Idempotency, PublishRequest};

use crate::harness::{ALL, Backend, KEPT, Nats, Node, channel, eventually, request, texts};
use crate::keys::{BRIEF, STAYING, all, change, read, remove, set, set_with, told};

/// A retention with keys that expire, and a stream beside them.
pub const EXPIRING: MapRetention = MapRetention {
    stream: Retention { beside: KeysBeside::Expiring, ..KEPT },
    key_ttl: Some(Duration::from_secs(60)),
    ..STAYING
};

/// Returns a long JSON string that begins with `text`.
pub fn long(text: &str, bytes: usize) -> String {
    format!("\"{text}{}\"", "x".repeat(bytes))
}

pub async fn top(node: &Node, channel: &Channel, keeping: MapRetention) -> StreamPosition {
    let asked = vec![(channel.clone(), keeping.stream)];
    node.broker.positions(asked).await.expect("positions")[0]
}

pub fn values(page: &StatePage) -> Vec<String> {
    page.entries.iter().map(told).collect()
}

pub async fn try_change(node: &Node, channel: &Channel, change: MapChange) -> Result<(), BrokerError> {
    let request = ChangeRequest { channel: channel.clone(), change, keeping: STAYING, idempotency: None };
    node.broker.change_key(request).await.map(drop)
}

/// Returns the subject of a channel's log, and how many messages JetStream counts on it.
pub fn log_of(nats: &Nats, stream: &str, channel: &str) -> (String, u64) {
    let info = nats.server.ask(&format!("$JS.API.STREAM.INFO.{stream}"), "{\"subjects_filter\":\">\"}");
    let begins = format!("\"tidegate.ks.{channel}.");
    let at = info.find(&begins).expect("its log");
    let subject = info[at + 1..].split('"').next().expect("a subject").to_owned();
    let count = info[at..].split(':').nth(1).and_then(|rest| rest.split([',', '}']).next()).expect("a count");
    (subject, count.trim().parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_nodes_that_write_one_key_each_change_has_a_place_of_its_own_and_the_last_stays() {
    const EACH: usize = 150;
    let nats = Nats::new();
    let a = channel("a");
    let nodes: [Node; 2] = nats.following(&a).await;
    let write = async |at: usize| {
        let mut positions = Vec::new();
        for number in 0..EACH {
            let key = if number % 3 == 0 { "own" } else { "shared" };
            let key = if key == "own" { format!("own-{at}") } else { key.to_owned() };
            let made = change(&nodes[at], &a, set(&key, &format!("\"{at}-{number}\"")), STAYING).await;
            positions.push(made.position.expect("a position"));
        }
        positions
    };
    let (one, other) = tokio::join!(write(0), write(1));
    let mut offsets: Vec<u64> = one.iter().chain(&other).map(|position| position.offset).collect();
    offsets.sort_unstable();
    assert!(offsets.iter().copied().eq(1..=2 * EACH as u64), "{offsets:?}");
    eventually("all is heard", async || nodes.iter().all(|node| node.heard.in_channel(&a).len() == 2 * EACH))
        .await;
    let heard: Vec<String> = nodes[0].heard.in_channel(&a).iter().map(told).collect();
    assert_eq!(nodes[1].heard.in_channel(&a).iter().map(told).collect::<Vec<_>>(), heard);
    let last = |key: &str| heard.iter().rfind(|one| one.starts_with(key)).expect("it was told").clone();
    for node in &nodes {
        assert_eq!(
            values(&read(node, &a, all(10), STAYING).await),
            [last("own-0"), last("own-1"), last("shared")]
        );
        assert_eq!(top(node, &a, STAYING).await.offset, 2 * EACH as u64);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_all_who_set_a_key_that_is_not_there_and_of_all_with_one_version_one_does() {
    let nats = Nats::new();
    let a = channel("a");
    let nodes: [Node; 3] = nats.listening().await;
    for round in 1..=20_u64 {
        let key = format!("k{round}");
        let new = set_with(&key, |set| set.mode = gateway_core::map::SetMode::IfNew);
        let versioned = set_with("v", |set| {
            set.version = Some(Version { number: round, epoch: "".into() });
        });
        let all = nodes.iter().flat_map(|node| [&new, &versioned].map(|made| (node, made.clone())));
        let made = all.map(|(node, made)| change(node, &a, made, STAYING));
        let made = futures_util::future::join_all(made).await;
        let count = |suppressed| made.iter().filter(|one| one.suppressed == suppressed).count();
        assert_eq!(count(None), 2, "{made:?}");
        assert_eq!(count(Some(Suppressed::KeyExists)), 2);
        assert_eq!(count(Some(Suppressed::Version)), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_whose_node_has_gone_expire_and_whoever_reads_next_tells_of_it() {
    let nats = Nats::new();
    let a = channel("a");
    let gone = nats.node();
    gone.listens().await;
    let keeping = MapRetention { keys_max: 1_000, key_ttl: Some(Duration::from_secs(2)), ..BRIEF };
    let sets = (0..600).map(|number| set(&format!("k{number:03}"), "1"));
    futures_util::future::join_all(sets.map(|made| change(&gone, &a, made, keeping))).await;
    drop(gone);
    let node = nats.node();
    node.listens().await;
    node.subscribe(&a).await;
    eventually("all have expired", async || {
        // Reads no keys, as nodes do for the channels that they follow.
        let page = read(&node, &a, StateFilter::default(), keeping).await;
        page.top.is_some_and(|top| top.offset == 1_200)
    })
    .await;
    eventually("the last is told", async || {
        node.heard.in_channel(&a).last().is_some_and(|one| one.offset() == 1_200)
    })
    .await;
    let heard = node.heard.in_channel(&a);
    assert!(heard.iter().map(Publication::offset).eq(1_201 - heard.len() as u64..=1_200));
    assert!(heard.iter().all(|one| one.keyed.as_ref().is_some_and(|keyed| keyed.removed)));
    assert_eq!(read(&node, &a, all(10), BRIEF).await.entries, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_kept_alive_by_one_node_does_not_expire_at_another() {
    let nats = Nats::new();
    let a = channel("a");
    let nodes: [Node; 2] = nats.listening().await;
    let brief = MapRetention { key_ttl: Some(Duration::from_millis(900)), ..BRIEF };
    change(&nodes[0], &a, set("brief", "1"), brief).await;
    let began = std::time::Instant::now();
    let alive =
        || set_with("kept", |set| (set.mode, set.refreshes) = (gateway_core::map::SetMode::IfNew, true));
    change(&nodes[0], &a, alive(), brief).await;
    eventually("the other key has expired", async || {
        let made = change(&nodes[0], &a, alive(), brief).await;
        assert_eq!(made.suppressed, Some(Suppressed::KeyExists), "after {:?}", began.elapsed());
        values(&read(&nodes[1], &a, all(10), brief).await) == ["kept=9@2"]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_join_with_what_is_heard_behind_them_while_others_write() {
    let nats = Nats::new();
    let a = channel("a");
    let [writer, reader] = nats.listening().await;
    for number in 0..40 {
        change(&writer, &a, set(&format!("k{number:02}"), "0"), STAYING).await;
    }
    reader.subscribe(&a).await;
    let write = async {
        for number in 0..300 {
            let key = format!("k{:02}", number * 7 % 50);
            match number % 5 {
                0 => drop(change(&writer, &a, remove(&key), STAYING).await),
                _ => drop(change(&writer, &a, set(&key, &number.to_string()), STAYING).await),
            }
        }
    };
    let pages = async {
        let mut filter = all(7);
        let mut pages = Vec::new();
        loop {
            let page = read(&reader, &a, filter.clone(), STAYING).await;
            filter.cursor = page.cursor.clone();
            pages.push(page);
            if filter.cursor.is_empty() {
                return pages;
            }
        }
    };
    let ((), pages) = tokio::join!(write, pages);
    let last = top(&writer, &a, STAYING).await.offset;
    let from = pages[0].top.expect("a position").offset;
    eventually("all is heard", async || {
        reader.heard.in_channel(&a).last().is_some_and(|one| one.offset() == last)
    })
    .await;
    // Builds the state as a client does: the entries of all pages, then each change after the first page's position.
    let mut state = std::collections::BTreeMap::new();
    for entry in pages.into_iter().flat_map(|page| page.entries) {
        state.insert(entry.keyed.as_ref().expect("a key").key.clone(), entry);
    }
    for heard in reader.heard.in_channel(&a).into_iter().filter(|one| one.offset() > from) {
        let keyed = heard.keyed.as_ref().expect("a key");
        match keyed.removed {
            true => drop(state.remove(&keyed.key)),
            false => drop(state.insert(keyed.key.clone(), heard.clone())),
        }
    }
    let truth = read(&writer, &a, all(100), STAYING).await;
    assert_eq!(state.values().map(told).collect::<Vec<_>>(), values(&truth));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_come_together_read_the_log_together_and_miss_nothing_that_was_acknowledged() {
    const READERS: usize = 100;
    let nats = Nats::new();
    let a = channel("a");
    let [writer, reader] = nats.listening().await;
    let page_of = async || read(&reader, &a, all(10), STAYING).await;
    change(&writer, &a, set("k", "0"), STAYING).await;
    page_of().await;
    let tap = async_nats::connect(nats.server.url()).await.expect("a connection");
    let mut asked = tap.subscribe("$JS.API.DIRECT.GET.tidegate_keys_staying").await.expect("subscribed");
    tap.flush().await.expect("the server has it");
    for round in 1..=5 {
        let made = change(&writer, &a, set("k", &round.to_string()), STAYING).await.position;
        let pages = futures_util::future::join_all((0..READERS).map(|_| page_of())).await;
        assert!(pages.iter().all(|page| page.top == made), "{made:?}: {pages:?}");
    }
    // The first reader may have begun before the others were called; the second reads for all of them.
    let requests = count(&tap, &mut asked).await;
    assert!(requests <= 5 * 5, "{requests} requests of {READERS} readers, 5 times");
    let pages = async {
        for _ in 0..20 {
            let known = top(&writer, &a, STAYING).await.offset;
            let pages = futures_util::future::join_all((0..READERS / 10).map(|_| page_of())).await;
            assert!(pages.iter().all(|page| page.top.is_some_and(|top| top.offset >= known)));
        }
    };
    let write = async {
        for number in 0..100 {
            change(&writer, &a, set("k", &number.to_string()), STAYING).await;
        }
    };
    tokio::join!(pages, write);
}

/// Messages that have come since the last time.
async fn count(client: &async_nats::Client, messages: &mut async_nats::Subscriber) -> usize {
    client.flush().await.expect("the server has it");
    // What the server sent before it answered this is here by then.
    let (mut count, mut probe) = (0, client.subscribe("probe").await.expect("subscribed"));
    client.publish("probe", "".into()).await.expect("published");
    probe.next().await.expect("it comes back");
    // Not stopped by the runtime's budget of a task, which is less than all of them.
    while tokio::task::unconstrained(messages.next()).now_or_never().flatten().is_some() {
        count += 1;
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_missed_is_read_behind_a_position_as_far_as_it_is_kept() {
    let nats = Nats::new();
    let a = channel("a");
    let [writer, reader] = nats.listening().await;
    for number in 1..=250 {
        change(&writer, &a, set(&format!("k{}", number % 9), &number.to_string()), EXPIRING).await;
    }
    for (since, expected) in [(248, 249..=250_u64), (100, 151..=250), (0, 151..=250)] {
        let filter = HistoryFilter { since: Some(since), ..ALL };
        let page = reader.broker.history(a.clone(), filter, EXPIRING.stream).await.expect("history");
        assert_eq!(page.top, top(&writer, &a, EXPIRING).await);
        assert!(page.publications.iter().map(Publication::offset).eq(expected), "{since}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_log_is_made_short_beside_those_who_write_and_nobody_notices() {
    let nats = Nats::new();
    let a = channel("a");
    let nodes: [Node; 2] = nats.following(&a).await;
    let write = async |at: usize| {
        for number in 0..400 {
            let key = format!("{at}-{}", number % 40);
            change(&nodes[at], &a, set(&key, &long(&number.to_string(), 2_000)), STAYING).await;
        }
    };
    tokio::join!(write(0), write(1));
    eventually("its log is short", async || log_of(&nats, "tidegate_keys_staying", "a").1 < 300).await;
    eventually("all is heard", async || nodes.iter().all(|node| node.heard.in_channel(&a).len() == 800))
        .await;
    let fresh = nats.node();
    fresh.listens().await;
    let page = read(&fresh, &a, all(100), STAYING).await;
    assert_eq!((page.entries.len(), page.top.expect("a position").offset), (80, 800));
    for node in &nodes {
        assert!(node.heard.in_channel(&a).iter().map(Publication::offset).eq(1..=800));
        assert_eq!(values(&read(node, &a, all(100), STAYING).await), values(&page));
    }
    let kept = fresh.broker.history(a.clone(), ALL, STAYING.stream).await.expect("history").publications;
    assert!(kept.iter().map(Publication::offset).eq(701..=800));
    eventually("what it was made of is gone", async || {
        let subjects = nats
            .server
            .ask("$JS.API.STREAM.INFO.tidegate_keys_staying", "{\"subjects_filter\":\"tidegate.ksp.>\"}");
        subjects.matches("\"tidegate.ksp.a.").count() <= 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_room_in_memory_is_read_anew() {
    let mut nats = Nats::new();
    nats.config.maps_memory_bytes_max = 1 << 20;
    let node = nats.node();
    node.listens().await;
    let channels: Vec<Channel> = (0..6).map(|number| channel(&format!("c{number}"))).collect();
    for round in 1..=3 {
        for channel in &channels {
            for key in ["a", "b", "c"] {
                change(&node, channel, set(key, &long(&format!("{round}-"), 100_000)), EXPIRING).await;
            }
            let page = read(&node, channel, all(10), EXPIRING).await;
            assert_eq!((page.entries.len(), page.top.expect("a position").offset), (3, 3 * round));
            assert!(texts(&page.entries).iter().all(|text| text.starts_with(&format!("\"{round}-"))));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_long_is_refused_in_words_and_harms_nothing_else() {
    let mut nats = Nats::with("max_payload: 65536", "");
    nats.config.map_bytes_max = 150_000;
    let node = nats.node();
    node.listens().await;
    node.subscribe(&channel("a")).await;
    let a = channel("a");
    let both = [set("short", "1"), set("long", &long("x", 70_000)), set("other", "2")];
    let made = futures_util::future::join_all(both.map(|made| try_change(&node, &a, made))).await;
    let [Ok(()), Err(error), Ok(())] = &made[..] else { panic!("{made:?}") };
    assert!(error.to_string().contains("more than NATS takes as one message"), "{error}");
    // The value and the one before it do not fit in one message: subscribers receive the whole value.
    let delta = |text: &str| {
        let mut made = set("patched", &long(text, 40_000));
        if let KeyAction::Set(set) = &mut made.action {
            set.publication.delta = true;
        }
        made
    };
    for text in ["1", "2"] {
        try_change(&node, &a, delta(text)).await.expect("it is taken");
    }
    eventually("all is heard", async || node.heard.in_channel(&a).len() == 4).await;
    assert!(node.heard.in_channel(&a)[3].keyed.as_ref().is_some_and(|keyed| keyed.before.is_none()));
    try_change(&node, &a, set("more", &long("x", 60_000))).await.expect("it is taken");
    let error = try_change(&node, &a, set("most", &long("x", 60_000))).await.expect_err("no room");
    assert!(matches!(error, BrokerError::Full), "{error}");
    try_change(&node, &a, remove("more")).await.expect("it is removed");
    try_change(&node, &a, set("most", &long("x", 60_000))).await.expect("there is room");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publications_with_keys_and_without_have_one_order() {
    let nats = Nats::new();
    let a = channel("a");
    let [node, other] = nats.following(&a).await;
    let retention = EXPIRING.stream;
    let quiet = MapRetention { quiet: true, ..EXPIRING };
    for number in 1..=4 {
        let published = node
            .broker
            .publish(PublishRequest { retention, ..request(&a, number) })
            .await
            .expect("published");
        assert_eq!(published.position.expect("a position").offset, 2 * number - 1);
        let made = change(&other, &a, set("k", &number.to_string()), quiet).await;
        assert_eq!(made.position.expect("a position").offset, 2 * number);
    }
    let idempotency = Some(Idempotency { key: "once".into(), ttl: Duration::from_secs(60) });
    let version = Some(Version { number: 7, epoch: "".into() });
    let once = PublishRequest { retention, idempotency, version, ..request(&a, "once") };
    let first = node.broker.publish(once.clone()).await.expect("published");
    let again = other.broker.publish(once.clone()).await.expect("published");
    assert_eq!((first.duplicate, again.duplicate, first.position), (false, true, again.position));
    let stale = PublishRequest { idempotency: None, ..once };
    assert!(other.broker.publish(stale).await.expect("published").duplicate);
    eventually("all is heard", async || node.heard.in_channel(&a).len() == 9).await;
    let heard = node.heard.in_channel(&a);
    assert!(heard.iter().map(Publication::offset).eq(1..=9));
    let page = other.broker.history(a.clone(), ALL, retention).await.expect("history");
    assert_eq!(page.publications, heard);
    node.broker.remove_history(a.clone()).await.expect("removed");
    let page = other.broker.history(a.clone(), ALL, retention).await.expect("history");
    assert_eq!((page.publications.len(), page.top.offset), (0, 9));
    assert_eq!(values(&read(&other, &a, all(10), quiet).await), ["k=4@8"]);
}
