//! Measures what publishing, subscribing and reading cost over NATS. Runs only when asked for; no times are asserted.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream;
use gateway_core::history::Retention;
use gateway_core::map::{MapChange, MapRetention};
use tidegate::broker::{Idempotency, PublishRequest};
use tidegate::sessions::{Holder, SessionKey};

use crate::harness::{ALL, Backend, KEPT, NOT_KEPT, Nats, Node, channel, eventually, request};
use crate::keys::{STAYING, all, change, read, remove, set};
use crate::ledger::hold;
use crate::sessions::{LONG, stored};

const PUBLICATIONS: usize = 20_000;

/// The retention of a map with more keys than those of other tests.
const MANY: MapRetention = MapRetention { keys_max: 10_000, ..STAYING };

/// Publishes `PUBLICATIONS` over this many channels. Returns the publications per second, and the median latency in milliseconds.
async fn publish(
    node: &Node,
    channels: usize,
    in_flight: usize,
    retention: Retention,
    with_key: bool,
) -> (f64, f64) {
    let channels: Vec<_> = (0..channels).map(|number| channel(&format!("c{number}"))).collect();
    let began = Instant::now();
    let publishing = (0..PUBLICATIONS).map(|number| {
        let ttl = Duration::from_secs(60);
        let key = format!("{}-{in_flight}-{number}", retention.size).into();
        let idempotency = with_key.then_some(Idempotency { key, ttl });
        let request = request(&channels[number % channels.len()], "x".repeat(128));
        let request = PublishRequest { retention, idempotency, ..request };
        async move {
            let sent = Instant::now();
            node.broker.publish(request).await.expect("published");
            sent.elapsed()
        }
    });
    let mut took: Vec<Duration> = stream::iter(publishing).buffer_unordered(in_flight).collect().await;
    took.sort_unstable();
    (PUBLICATIONS as f64 / began.elapsed().as_secs_f64(), took[took.len() / 2].as_secs_f64() * 1e3)
}

/// Returns the resident memory of this process, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, for about a minute"]
async fn what_it_costs() {
    let nats = Nats::new();
    let node = nats.node();
    node.listens().await;
    for (what, channels, retention, with_key) in [
        ("without history", 1, NOT_KEPT, false),
        ("with history, one channel", 1, KEPT, false),
        ("with history, 100 channels", 100, KEPT, false),
        ("with history and keys, 100 channels", 100, KEPT, true),
    ] {
        for in_flight in [1, 64] {
            let (a_second, median) = publish(&node, channels, in_flight, retention, with_key).await;
            println!("{what}, {in_flight} in flight: {a_second:.0} a second, median {median:.2} ms");
        }
    }
    let long = channel("long");
    let retention = Retention { size: 1_000, ..KEPT };
    for number in 0..1_000 {
        let request = PublishRequest { retention, ..request(&long, format!("{number:0>128}")) };
        node.broker.publish(request).await.expect("published");
    }
    let began = Instant::now();
    let page = node.broker.history(long.clone(), ALL, retention).await.expect("history");
    println!(
        "a history of {}, each a message: {:.1} ms",
        page.publications.len(),
        began.elapsed().as_secs_f64() * 1e3
    );
    let before = resident();
    let channels: Vec<_> = (0..10_000).map(|number| channel(&format!("s{number}"))).collect();
    let began = Instant::now();
    node.broker.subscribe(channels.clone()).await.expect("subscribed");
    println!("10,000 channels subscribed in {:.0} ms", began.elapsed().as_secs_f64() * 1e3);
    node.publish(&channels[9_999], "x").await;
    eventually("it is heard", async || node.heard.texts(&channels[9_999]) == ["x"]).await;
    println!("{:.1} KiB each", (resident() - before) as f64 / 10_000.0);
}

/// Makes these changes of a map, so many in flight. Returns how many a second, and the median milliseconds.
async fn change_all(node: &Node, changes: Vec<MapChange>, in_flight: usize) -> (f64, f64) {
    let (count, began, a) = (changes.len(), Instant::now(), channel("a"));
    let changing = changes.into_iter().map(|made| async {
        let sent = Instant::now();
        change(node, &a, made, MANY).await;
        sent.elapsed()
    });
    let mut took: Vec<Duration> = stream::iter(changing).buffer_unordered(in_flight).collect().await;
    took.sort_unstable();
    (count as f64 / began.elapsed().as_secs_f64(), took[took.len() / 2].as_secs_f64() * 1e3)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, for about a minute"]
async fn what_maps_cost() {
    const KEYS: usize = 1_000;
    const CHANGES: usize = 10_000;
    const PAGES: usize = 500;
    let nats = Nats::new();
    let [node, other] = nats.listening().await;
    let value = format!("\"{}\"", "x".repeat(128));
    let sets = || (0..CHANGES).map(|number| set(&format!("k{:04}", number % KEYS), &value)).collect();
    for in_flight in [1, 64] {
        let (a_second, median) = publish(&node, 1, in_flight, KEPT, false).await;
        println!(
            "a publication with history, {in_flight} in flight: {a_second:.0} a second, median {median:.2} ms"
        );
        let (a_second, median) = change_all(&node, sets(), in_flight).await;
        println!("a key set of {KEYS}, {in_flight} in flight: {a_second:.0} a second, median {median:.2} ms");
    }
    let (began, a) = (Instant::now(), channel("a"));
    let page = read(&other, &a, all(100), MANY).await;
    assert_eq!(page.entries.len(), 100);
    println!(
        "the first page of 100 at a node that has read nothing: {:.1} ms",
        began.elapsed().as_secs_f64() * 1e3
    );
    for (who, readers) in [("one", 1), ("100 who come together", 100)] {
        let began = Instant::now();
        for _ in 0..PAGES / readers {
            let reading = (0..readers).map(|_| read(&other, &a, all(100), MANY));
            futures_util::future::join_all(reading).await;
        }
        let each = began.elapsed().as_secs_f64() * 1e3 / PAGES as f64;
        println!("a page of 100 of {KEYS} for {who}: {each:.2} ms each");
    }
    for in_flight in [1, 64] {
        let removes =
            (0..KEYS / 2).map(|number| remove(&format!("k{:04}", number * 2 + in_flight % 2))).collect();
        let (a_second, median) = change_all(&node, removes, in_flight).await;
        println!("a key removed, {in_flight} in flight: {a_second:.0} a second, median {median:.2} ms");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures, for about a minute"]
async fn what_sessions_and_ledgers_cost() {
    const SESSIONS: usize = 10_000;
    let nats = Nats::new();
    let node = nats.node();
    node.listens().await;
    let keys: Vec<_> = (0..SESSIONS).map(|number| SessionKey::of(&number.to_string())).collect();
    let value = "x".repeat(256);
    let per_second = |began: Instant, count: usize| count as f64 / began.elapsed().as_secs_f64();
    let began = Instant::now();
    let writing = keys.iter().map(|key| node.sessions.write(key, stored(1, 0, &value), LONG));
    stream::iter(writing)
        .buffer_unordered(64)
        .for_each(async |written| assert!(written.expect("written")))
        .await;
    println!("sessions written, 64 in flight: {:.0} a second", per_second(began, SESSIONS));
    let holds: Vec<_> = keys.iter().map(|key| (key.clone(), Holder(1), LONG)).collect();
    let began = Instant::now();
    for some in holds.chunks(1_000) {
        node.sessions.prolong(some).await.expect("prolonged");
    }
    println!("sessions prolonged, 1,000 at a time: {:.0} a second", per_second(began, SESSIONS));
    let mut took = Vec::new();
    for key in keys.iter().take(1_000) {
        let began = Instant::now();
        assert!(node.sessions.take(key, Holder(1), stored(2, 0, &value), LONG).await.expect("taken"));
        took.push(began.elapsed());
    }
    took.sort_unstable();
    println!("a session taken: median {:.2} ms", took[500].as_secs_f64() * 1e3);
    let other = nats.node();
    for (node, holder) in [(&node, "one"), (&other, "other")] {
        node.begin(holder).await;
    }
    for (count, together) in [(2_000, 1), (200, 500)] {
        let began = Instant::now();
        for number in 0..count {
            let changes: Vec<_> = (0..together).map(|at| hold(&format!("cchannel-{number}-{at}"))).collect();
            node.change("one", &changes).await;
        }
        let changes = count * together;
        println!(
            "changes of a ledger, {together} together: {:.0} a second, {:.2} ms each time",
            per_second(began, changes),
            began.elapsed().as_secs_f64() * 1e3 / count as f64
        );
    }
    let began = Instant::now();
    other.change("other", &[hold("x")]).await;
    println!("who has not looked meanwhile is there after {:.0} ms", began.elapsed().as_secs_f64() * 1e3);
    let (before, began) = (resident(), Instant::now());
    let newcomer = nats.node();
    newcomer.begin("newcomer").await;
    println!(
        "who comes has a ledger of 102,000 things after {:.0} ms, in {:.0} bytes each",
        began.elapsed().as_secs_f64() * 1e3,
        (resident() - before) as f64 * 1_024.0 / 102_000.0
    );
}
