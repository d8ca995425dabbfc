//! What publishing, subscribing and reading cost over NATS. Measured when asked for; nothing is asserted of times.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream;
use gateway_core::history::Retention;
use tidegate::broker::{Idempotency, PublishRequest};

use crate::harness::{ALL, Backend, KEPT, NOT_KEPT, Nats, Node, channel, eventually, request};

const PUBLICATIONS: usize = 20_000;

/// Publishes this many, so many in flight, over so many channels. Answers how many a second, and the median milliseconds.
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

/// Kibibytes of memory that this process has.
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
