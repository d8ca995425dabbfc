//! Tests a data set that goes back to an earlier state: offsets that were assigned and lost are assigned again, in another
//! epoch.

use shared::channel::Channel;
use shared::position::StreamPosition;
use tidegate::broker::redis::RedisUrl;

use crate::harness::{ALL, Backend, KEPT, Node, Redis, channel, eventually, request};
use crate::redis_server::RedisServer;

/// Returns a Redis whose nodes ping so rarely that only scripts notice that the server has changed.
fn unwatched(options: &[&str]) -> Redis {
    let mut redis = Redis::with(options);
    redis.config.ping_ms = 60_000;
    redis.config.reconnect_max_ms = 100;
    redis
}

async fn published(node: &Node, channel: &Channel, numbers: std::ops::RangeInclusive<u64>) -> StreamPosition {
    let mut last = StreamPosition::default();
    for number in numbers {
        last = node.publish(channel, number).await.position.expect("a position");
    }
    last
}

async fn top(node: &Node, channel: &Channel) -> StreamPosition {
    node.broker.positions(vec![(channel.clone(), KEPT)]).await.expect("positions")[0]
}

async fn follow(replica: &RedisServer, master: &RedisServer) {
    replica.ask::<()>(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
    eventually("the replica has everything", async || {
        let (follower, leader) = (replication(replica), replication(master));
        field(&follower, "master_link_status:") == "up"
            && field(&follower, "master_repl_offset:") == field(&leader, "master_repl_offset:")
    })
    .await;
}

fn replication(server: &RedisServer) -> String {
    server.ask(&["INFO", "replication"])
}

fn field<'a>(info: &'a str, name: &str) -> &'a str {
    info.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default()
}

fn promote(server: &RedisServer) {
    server.ask::<()>(&["REPLICAOF", "NO", "ONE"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_failover_and_its_way_back_lost_is_given_out_again_in_another_epoch() {
    let redis = unwatched(&["--repl-diskless-sync-delay", "0"]);
    let other = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    let node = redis.node();
    let (a, b, c) = (channel("a"), channel("b"), channel("c"));
    for channel in [&a, &b, &c] {
        published(&node, channel, 1..=8).await;
    }
    follow(&other, &redis.server).await;
    promote(&other);
    // Nodes do not know that the first server must not be written to any more, and these channels are not touched at the other.
    let mut doomed = Vec::new();
    for channel in [&a, &b, &c] {
        doomed.push(published(&node, channel, 9..=10).await);
    }
    follow(&redis.server, &other).await;
    promote(&redis.server);
    let again = node.publish(&a, "nine").await.position.expect("a position");
    assert_eq!((again.offset, again.epoch == doomed[0].epoch), (9, false));
    assert_eq!(node.history(&a, ALL).await.last().map(String::as_str), Some("nine"));
    let page = node.broker.history(b.clone(), ALL, KEPT).await.expect("history");
    assert_eq!((page.top.offset, page.top.epoch == doomed[1].epoch), (8, false));
    let looked = top(&node, &c).await;
    assert_eq!((looked.offset, looked.epoch == doomed[2].epoch), (8, false));
    assert_eq!(top(&node, &c).await, looked, "and then the epoch holds");
    assert_eq!(node.metrics.command_link.reconnects.get(), 0, "no connection was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_put_back_by_replication_begins_new_epochs() {
    let redis = unwatched(&["--repl-diskless-sync-delay", "0"]);
    let backup = RedisServer::start_with(&["--repl-diskless-sync-delay", "0"]);
    let node = redis.node();
    let a = channel("a");
    published(&node, &a, 1..=5).await;
    follow(&backup, &redis.server).await;
    promote(&backup);
    let before = published(&node, &a, 6..=10).await;
    follow(&redis.server, &backup).await;
    promote(&redis.server);
    let after = published(&node, &a, 6..=6).await;
    assert_eq!((after.offset, after.epoch == before.epoch), (6, false));
    assert_eq!(node.metrics.command_link.reconnects.get(), 0, "no connection was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_holds_as_long_as_nothing_can_have_been_lost() {
    let redis = unwatched(&["--enable-debug-command", "local"]);
    let (node, other) = (redis.node(), redis.node());
    let a = channel("a");
    let followers = [RedisServer::start(), RedisServer::start()];
    follow(&followers[0], &redis.server).await;
    let first = published(&node, &a, 1..=1).await;
    follow(&followers[1], &redis.server).await;
    redis.server.ask::<()>(&["SCRIPT", "FLUSH"]);
    redis.server.ask::<i64>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    for node in [&node, &other] {
        eventually("its link is made again", async || node.metrics.command_link.reconnects.get() == 1).await;
        node.listens().await;
    }
    published(&other, &a, 2..=2).await;
    redis.server.ask::<()>(&["DEL", "tidegate:life", "tidegate:life-lease"]);
    let last = published(&node, &a, 3..=3).await;
    assert_eq!((last.offset, last.epoch), (3, first.epoch));
    redis.server.ask::<()>(&["DEBUG", "CHANGE-REPL-ID"]);
    eventually("a new one begins", async || top(&node, &a).await.epoch != first.epoch).await;
}

/// A user that may not ask Redis for its identity.
const SHY: [&str; 8] = ["--user", "shy", "on", ">secret", "~*", "&*", "+@all", "-@dangerous"];

fn shy() -> (Redis, RedisUrl) {
    let redis = unwatched(&SHY);
    let url = RedisUrl::new(format!("redis://shy:secret@127.0.0.1:{}", redis.server.port()));
    (redis, url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_without_info_has_new_epochs_with_each_connection() {
    let (mut redis, url) = shy();
    redis.config.url = url;
    let node = redis.node();
    let a = channel("a");
    published(&node, &a, 1..=3).await;
    redis.server.ask::<()>(&["SAVE"]);
    let lost = published(&node, &a, 4..=8).await;
    redis.server.restart();
    eventually("calls work", async || node.broker.canary().await.is_ok()).await;
    let next = published(&node, &a, 4..=4).await;
    assert_eq!((next.offset, next.epoch == lost.epoch), (4, false));
    assert_eq!(published(&node, &a, 5..=5).await.epoch, next.epoch, "which then holds");
    let page = node.broker.history(a.clone(), ALL, KEPT).await.expect("history");
    assert_eq!((page.top, page.publications.len()), (top(&node, &a).await, 5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_may_not_ask_goes_by_what_another_finds_out() {
    let (mut redis, url) = shy();
    let knowing = redis.node();
    redis.config.url = url;
    let guessing = redis.node();
    let a = channel("a");
    for node in [&guessing, &knowing] {
        published(node, &a, 1..=1).await;
    }
    let before = top(&knowing, &a).await;
    for node in [&guessing, &knowing, &guessing, &knowing] {
        assert_eq!(published(node, &a, 1..=1).await.epoch, before.epoch);
        assert_eq!(top(node, &a).await.epoch, before.epoch);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_epoch_that_is_left_is_left_once() {
    let redis = Redis::new();
    let (node, other) = (redis.node(), redis.node());
    let a = channel("a");
    let before = published(&node, &a, 1..=3).await;
    let left = node.broker.leave_epoch(a.clone(), before.epoch).await.expect("left");
    assert_eq!((left.offset, left.epoch == before.epoch), (3, false));
    let also = other.broker.leave_epoch(a.clone(), before.epoch).await.expect("left");
    assert_eq!(also, left, "who comes late finds what has followed");
    assert_eq!(published(&other, &a, 4..=4).await, StreamPosition { offset: 4, ..left });
    assert_eq!(node.history(&a, ALL).await, ["1", "2", "3", "4"], "what was kept is kept");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_and_a_position_that_part_begin_anew() {
    let redis = Redis::new();
    let node = redis.node();
    let a = channel("a");
    let first = published(&node, &a, 1..=3).await;
    redis.server.ask::<()>(&["COPY", "tidegate:position:{a}", "older"]);
    redis.server.ask::<()>(&["DEL", "tidegate:stream:{a}"]);
    let on = published(&node, &a, 4..=6).await;
    assert_eq!((on.offset, on.epoch), (6, first.epoch), "a lost stream takes nothing back");
    let ttl: i64 = redis.server.ask(&["PTTL", "tidegate:stream:{a}"]);
    assert!(ttl > 0, "the next one has its time");
    redis.server.ask::<()>(&["COPY", "older", "tidegate:position:{a}", "REPLACE"]);
    node.broker.publish(request(&a, "refused")).await.expect_err("it stands behind its stream");
    let anew = published(&node, &a, 1..=1).await;
    assert_eq!((anew.offset, anew.epoch == first.epoch), (1, false));
    redis.server.ask::<()>(&["DEL", "tidegate:position:{a}"]);
    let anew = published(&node, &a, 7..=7).await;
    assert_eq!((anew.offset, node.history(&a, ALL).await), (1, vec!["7".to_owned()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_position_of_an_earlier_release_gets_a_new_epoch_and_goes_on() {
    let redis = Redis::new();
    let node = redis.node();
    let a = channel("a");
    let key = "tidegate:position:{a}";
    let before = ["HSET", key, "epoch", "oldepoch", "run", "some run", "life", "some life", "offset", "7"];
    redis.server.ask::<()>(&before);
    redis.server.ask::<()>(&["XADD", "tidegate:stream:{a}", "7-0", "r", "\u{1}\u{1}seventh"]);
    let next = published(&node, &a, 8..=8).await;
    assert_eq!((next.offset, next.epoch.as_str() == "oldepoch"), (8, false));
    assert_eq!(node.history(&a, ALL).await, ["seventh", "8"]);
    let fields: Vec<String> = redis.server.ask(&["HKEYS", key]);
    assert!(!fields.iter().any(|field| ["run", "life", "offset"].contains(&&**field)), "{fields:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_nobody_has_published_to_is_not_remembered_for_long() {
    let redis = Redis::new();
    let node = redis.node();
    let (asked, used) = (channel("asked"), channel("used"));
    published(&node, &used, 1..=1).await;
    for channel in [&asked, &used] {
        node.broker.history(channel.clone(), ALL, KEPT).await.expect("history");
        top(&node, channel).await;
    }
    let lives_ms = |name: &str| redis.server.ask::<i64>(&["PTTL", &format!("tidegate:position:{{{name}}}")]);
    let hour = 3_600_000;
    assert!((1..=2 * hour).contains(&lives_ms("asked")), "{}", lives_ms("asked"));
    assert!(lives_ms("used") > 24 * hour, "{}", lives_ms("used"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_history_is_read_in_several_calls_so_that_no_other_answer_stands_long_behind_it() {
    let redis = Redis::new();
    let node = redis.node();
    let a = channel("a");
    for _ in 0..50 {
        node.publish(&a, "x".repeat(16 << 10)).await;
    }
    let calls = || {
        let stats: String = redis.server.ask(&["INFO", "commandstats"]);
        let calls =
            field(&stats, "cmdstat_evalsha:calls=").split(',').next().and_then(|calls| calls.parse().ok());
        calls.unwrap_or(0_u32)
    };
    let before = calls();
    let page = node.broker.history(a, ALL, KEPT).await.expect("history");
    assert_eq!(page.publications.len(), 50);
    assert!(calls() - before >= 4, "{} calls for 800 KiB", calls() - before);
}
