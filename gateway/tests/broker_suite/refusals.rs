//! Tests that a script in which Redis refuses a command takes effect as a whole or not at all.

use std::time::Duration;

use futures_util::future::join_all;
use gateway_core::history::Retention;
use tidegate::broker::{Idempotency, PublishRequest};

use crate::harness::{ALL, Backend, KEPT, NOT_KEPT, Node, Redis, channel, eventually, request, texts};
use crate::redis_server::RedisServer;

/// A reason for Redis to refuse writes, which a test can begin and end.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    NoMemory,
    NoReplicas,
    CannotSave,
    ReadOnly,
    NoChannelRights,
    NoStreamRights,
    Frozen,
}

impl Trouble {
    fn begin(self, server: &RedisServer) {
        let config = |name, value| server.ask::<()>(&["CONFIG", "SET", name, value]);
        match self {
            Self::NoMemory => config("maxmemory", "1"),
            Self::NoReplicas => config("min-replicas-to-write", "1"),
            Self::CannotSave => {
                config("save", "3600 1");
                std::fs::remove_dir_all(server.directory()).expect("removed");
                server.ask::<()>(&["BGSAVE"]);
            }
            Self::ReadOnly => server.ask::<()>(&["REPLICAOF", "127.0.0.1", "1"]),
            Self::NoChannelRights => server.ask::<()>(&["ACL", "SETUSER", "default", "resetchannels"]),
            Self::NoStreamRights => server.ask::<()>(&["ACL", "SETUSER", "default", "-xadd"]),
            Self::Frozen => server.freeze(),
        }
    }

    fn end(self, server: &RedisServer) {
        let config = |name, value| server.ask::<()>(&["CONFIG", "SET", name, value]);
        match self {
            Self::NoMemory => config("maxmemory", "0"),
            Self::NoReplicas => config("min-replicas-to-write", "0"),
            Self::CannotSave => config("stop-writes-on-bgsave-error", "no"),
            Self::ReadOnly => server.ask::<()>(&["REPLICAOF", "NO", "ONE"]),
            Self::NoChannelRights => server.ask::<()>(&["ACL", "SETUSER", "default", "allchannels"]),
            Self::NoStreamRights => server.ask::<()>(&["ACL", "SETUSER", "default", "+xadd"]),
            Self::Frozen => server.thaw(),
        }
    }
}

fn watched_rarely() -> Redis {
    let mut redis = Redis::new();
    redis.config.timeout_ms = 500;
    redis.config.ping_ms = 60_000;
    redis.config.reconnect_max_ms = 100;
    redis
}

async fn once(node: &Node, retention: Retention, text: &str) -> Result<bool, String> {
    let idempotency = Some(Idempotency { key: "k".into(), ttl: Duration::from_secs(60) });
    let request = PublishRequest { idempotency, retention, ..request(&channel("a"), text) };
    node.broker.publish(request).await.map(|made| made.duplicate).map_err(|error| error.to_string())
}

/// Publishes with the same key five times during the trouble and once after it, and checks that it was published once.
async fn tries(trouble: Trouble, retention: Retention) {
    let redis = watched_rarely();
    let (node, listener) = (redis.node(), redis.node());
    let a = channel("a");
    listener.subscribe(&a).await;
    if retention.keeps_history() {
        for number in 0..3 {
            node.broker
                .publish(PublishRequest { retention, ..request(&a, number) })
                .await
                .expect("published");
        }
    }
    eventually("what went before is heard", async || {
        listener.heard.in_channel(&a).len() == if retention.keeps_history() { 3 } else { 0 }
    })
    .await;
    trouble.begin(&redis.server);
    if matches!(trouble, Trouble::CannotSave) {
        eventually("it has failed to save", async || {
            redis.server.ask::<String>(&["INFO", "persistence"]).contains("rdb_last_bgsave_status:err")
        })
        .await;
    }
    let mut answered_as_made = false;
    for _ in 0..5 {
        // If the publication became visible before the refusal, it counts as published.
        answered_as_made |= once(&node, retention, "once").await.is_ok();
    }
    trouble.end(&redis.server);
    listener.listens().await;
    // The node may have to reconnect, if the server has closed its connection.
    eventually("it is made", async || once(&node, retention, "once").await.is_ok()).await;
    assert_eq!(once(&node, retention, "once").await, Ok(true), "{trouble:?}");
    let last = PublishRequest { retention, ..request(&a, "last") };
    eventually("the last is made", async || node.broker.publish(last.clone()).await.is_ok()).await;
    eventually("the last is heard", async || listener.heard.texts(&a).contains(&"last".into())).await;
    let count = |texts: &[String]| texts.iter().filter(|text| *text == "once").count();
    assert_eq!(count(&listener.heard.texts(&a)), 1, "{trouble:?} {retention:?}");
    if retention.keeps_history() {
        let page = node.broker.history(a.clone(), ALL, retention).await.expect("history");
        let kept = texts(&page.publications);
        let expected: &[&str] = match trouble {
            Trouble::NoStreamRights => &["0", "1", "2", "last"],
            _ => &["0", "1", "2", "once", "last"],
        };
        assert_eq!(kept, expected, "{trouble:?}");
        assert_eq!(page.top.offset, 5);
        assert!(!answered_as_made || matches!(trouble, Trouble::NoStreamRights), "{trouble:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_good_for_one_publication_whatever_refuses_it_and_where() {
    use Trouble::{CannotSave, Frozen, NoChannelRights, NoMemory, NoReplicas, NoStreamRights, ReadOnly};
    let everywhere = [NoMemory, NoReplicas, CannotSave, ReadOnly, NoChannelRights, Frozen];
    let all = everywhere.into_iter().flat_map(|trouble| [tries(trouble, KEPT), tries(trouble, NOT_KEPT)]);
    join_all(all.chain([tries(NoStreamRights, KEPT)])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_redis_takes_nothing_new_and_lets_everyone_read_and_leave() {
    let redis = Redis::new();
    let node = redis.node();
    let (known, fresh) = (channel("known"), channel("fresh"));
    node.publish(&known, "kept").await;
    let here = crate::presence::info(1, "ann");
    node.presence.add(known.clone(), here.clone()).wait().await.expect("added");
    redis.server.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    redis.server.ask::<()>(&["DEL", "tidegate:life-lease"]);
    let keys: i64 = redis.server.ask(&["DBSIZE"]);
    for _ in 0..3 {
        for channel in [&known, &fresh] {
            let refused = node.broker.publish(request(channel, "x")).await.expect_err("full");
            assert!(refused.to_string().contains("OOM"), "{refused}");
        }
        let refused = node.broker.history(fresh.clone(), ALL, KEPT).await.expect_err("full");
        assert!(refused.to_string().contains("OOM"), "{refused}");
        node.broker.positions(vec![(fresh.clone(), KEPT)]).await.expect_err("full");
    }
    node.presence.add(fresh.clone(), crate::presence::info(2, "bob")).wait().await.expect_err("full");
    node.presence.remove(fresh.clone(), crate::presence::info(2, "bob").client);
    assert_eq!(node.history(&known, ALL).await, ["kept"]);
    assert_eq!(node.broker.positions(vec![(known.clone(), KEPT)]).await.expect("known")[0].offset, 1);
    assert_eq!(redis.server.ask::<i64>(&["DBSIZE"]), keys, "nothing was added");
    node.broker.announce("me", bytes::Bytes::new(), Duration::from_secs(60)).await.expect("there are few");
    node.presence.remove(known.clone(), here.client);
    eventually("she has left", async || {
        node.presence.clients(known.clone()).await.is_ok_and(|all| all.is_empty())
    })
    .await;
    redis.server.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    assert_eq!(node.publish(&known, "again").await.position.expect("a position").offset, 2);
    node.publish(&fresh, "first").await;
}
