//! Tests that every fault of Redis makes a node unready, with a reason, and that the node is ready again once the fault is over.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};

use crate::gateway::{Gateway, eventually, gateway};
use crate::redis_server::RedisServer;
use crate::relay::Relay;

/// The command that creates the nodes' user, so that a test can revoke its rights.
const RIGHTS: [&str; 7] = ["ACL", "SETUSER", "gate", "on", ">secret", "~tidegate:*", "&tidegate:*"];

/// A Redis and a node over it.
struct World {
    redis: RedisServer,
    node: Gateway,
}

impl World {
    async fn new(options: &[&str]) -> Self {
        let redis = RedisServer::start_with(options);
        let mut rights = RIGHTS.to_vec();
        rights.push("+@all");
        redis.ask::<()>(&rights);
        let node = gateway().over(&format!("redis://gate:secret@127.0.0.1:{}", redis.port())).start().await;
        Self { redis, node }
    }

    fn set(&self, option: &str, value: &str) {
        self.redis.ask::<()>(&["CONFIG", "SET", option, value]);
    }

    fn change_user(&self, rule: &str) {
        self.redis.ask::<()>(&["ACL", "SETUSER", "gate", rule]);
    }
}

async fn reasons(node: &Gateway) -> String {
    let answer = node.internal("/readyz").await;
    let verdict: Value = serde_json::from_slice(&answer.body).expect("JSON");
    verdict["reasons"].to_string()
}

async fn turns_red(node: &Gateway, why: &str, case: &str) {
    eventually(&format!("{case}: red because of {why}"), async || reasons(node).await.contains(why)).await;
    let answer = node.internal("/readyz").await;
    assert_eq!(answer.status, 503, "{case}");
}

async fn turns_green(node: &Gateway, case: &str) {
    eventually(&format!("{case}: green again"), async || node.is_ready().await).await;
    assert_eq!(node.publish("stream:proof", json!(1)).await, 1, "{case}");
}

/// A fault of Redis, the reason that the node gives, and the remedy.
struct Case {
    name: &'static str,
    harm: fn(&World),
    why: &'static str,
    heal: fn(&World),
}

const CASES: &[Case] = &[
    Case {
        name: "it has become a replica",
        harm: |world| world.redis.ask(&["REPLICAOF", "127.0.0.1", "1"]),
        why: "read-only replica",
        heal: |world| world.redis.ask(&["REPLICAOF", "NO", "ONE"]),
    },
    Case {
        name: "it is full",
        harm: |world| world.set("maxmemory", "1"),
        why: "OOM",
        heal: |world| world.set("maxmemory", "0"),
    },
    Case {
        name: "it cannot save",
        harm: |world| {
            std::fs::create_dir_all(world.redis.directory().join("saved/in-the-way")).expect("a directory");
            world.set("save", "3600 1");
            world.redis.ask::<()>(&["BGSAVE"]);
        },
        why: "MISCONF",
        heal: |world| world.set("stop-writes-on-bgsave-error", "no"),
    },
    Case {
        name: "its replicas are gone",
        harm: |world| world.set("min-replicas-to-write", "1"),
        why: "NOREPLICAS",
        heal: |world| world.set("min-replicas-to-write", "0"),
    },
    Case {
        name: "scripting is forbidden",
        harm: |world| world.change_user("-@scripting"),
        why: "evalsha",
        heal: |world| world.change_user("+@scripting"),
    },
    Case {
        name: "scripts are forgotten and may not be left there",
        harm: |world| {
            world.change_user("-script");
            world.redis.ask::<()>(&["SCRIPT", "FLUSH"]);
        },
        why: "NOPERM",
        heal: |world| world.change_user("+script"),
    },
    Case {
        name: "the time may not be asked for",
        harm: |world| world.change_user("-time"),
        why: "time",
        heal: |world| world.change_user("+time"),
    },
    Case {
        name: "history may not be written",
        harm: |world| world.change_user("-xadd"),
        why: "xadd",
        heal: |world| world.change_user("+xadd"),
    },
    Case {
        name: "channels may not be used",
        harm: |world| world.change_user("resetchannels"),
        why: "NOPERM",
        heal: |world| world.change_user("&tidegate:*"),
    },
    Case {
        name: "keys may not be used",
        harm: |world| world.change_user("resetkeys"),
        why: "NOPERM",
        heal: |world| world.change_user("~tidegate:*"),
    },
    Case {
        name: "nothing new may be subscribed",
        harm: |world| world.change_user("-subscribe"),
        why: "subscribe",
        heal: |world| world.change_user("+subscribe"),
    },
    Case {
        name: "the user is shut out",
        harm: |world| {
            world.change_user("off");
            world.redis.ask::<i64>(&["CLIENT", "KILL", "USER", "gate"]);
        },
        why: "WRONGPASS",
        heal: |world| world.change_user("on"),
    },
    Case {
        name: "it hangs",
        harm: |world| world.redis.freeze(),
        why: "nothing",
        heal: |world| world.redis.thaw(),
    },
    Case {
        name: "a script of somebody runs for ever",
        harm: |world| {
            world.set("lua-time-limit", "10");
            let url = world.redis.url();
            std::thread::spawn(move || {
                let mut connection = redis::Client::open(url)?.get_connection()?;
                redis::cmd("EVAL").arg("while true do end").arg(0).query::<()>(&mut connection)
            });
        },
        why: "BUSY",
        heal: |world| world.redis.ask(&["SCRIPT", "KILL"]),
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_refuses_turns_a_node_red_in_words_until_it_refuses_no_more() {
    let cases = CASES.iter().map(|case| async move {
        let world = World::new(&["--dbfilename", "saved"]).await;
        eventually(&format!("{}: green at first", case.name), async || world.node.is_ready().await).await;
        (case.harm)(&world);
        turns_red(&world.node, case.why, case.name).await;
        (case.heal)(&world);
        turns_green(&world.node, case.name).await;
    });
    futures_util::future::join_all(cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_never_do_is_said_to_be_so() {
    let renamed = |command| RedisServer::start_with(&["--rename-command", command, ""]);
    let cluster = RedisServer::start_with(&["--cluster-enabled", "yes"]);
    let watched = RedisServer::start();
    let sentinel = RedisServer::start_sentinel(&watched, "");
    for (redis, why) in [
        (renamed("EVALSHA"), "unknown command"),
        (renamed("SCRIPT"), "unknown command"),
        (cluster, "a node of a Redis Cluster: set redis.mode"),
        (sentinel, "a Sentinel: set redis.mode"),
    ] {
        let node = gateway().over(&redis.url()).start().await;
        turns_red(&node, why, why).await;
    }
    let redis = renamed("EVAL");
    let node = gateway().over(&redis.url()).start().await;
    turns_green(&node, "EVAL is not needed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_still_reads_its_data_is_waited_for() {
    let mut redis = RedisServer::start();
    // Data that takes long to load, during which Redis answers now and then.
    redis.ask::<()>(&[
        "EVAL",
        "for i = 1, 100 do local t = {} for j = 1, 500 do t[j] = math.random(1e9) end \
        redis.call('SET', 'key:' .. i, table.concat(t)) end",
        "0",
    ]);
    redis.ask::<()>(&["SAVE"]);
    redis.restart_with(&["--key-load-delay", "200000", "--loading-process-events-interval-bytes", "1024"]);
    let node = gateway().over(&redis.url()).run().await;
    turns_red(&node, "LOADING", "it loads").await;
    redis.ask::<()>(&["CONFIG", "SET", "key-load-delay", "0"]);
    turns_green(&node, "it has loaded").await;
    node.signal(rustix::process::Signal::TERM);
    let (_, log) = node.ended().await;
    let connected = log.iter().filter(|line| line.contains("connected to Redis")).count();
    assert_eq!(connected, 3, "each link once, when it is of use: {log:#?}");
}

fn at(redis: &RedisServer) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, redis.port()))
}

/// Starts a node whose connections to Redis can be led elsewhere.
async fn behind_relay(redis: &RedisServer) -> (Relay, Gateway) {
    let relay = Relay::start(at(redis), b"SUBSCRIBE").await;
    let node = gateway().over(&format!("redis://127.0.0.1:{}", relay.port())).start().await;
    eventually("green at first", async || node.is_ready().await).await;
    (relay, node)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_behind_a_name_is_followed_though_the_old_connections_stay_open() {
    let (old, new) = (RedisServer::start(), RedisServer::start());
    let (relay, node) = behind_relay(&old).await;
    relay.lead_to(&[at(&new)]);
    old.ask::<()>(&["REPLICAOF", "127.0.0.1", &new.port().to_string()]);
    eventually("the new master is used", async || {
        let answer = node.try_api("publish", &json!({ "channel": "stream:a", "data": 1 })).await;
        let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
        body.get("result").is_some() && new.ask::<bool>(&["EXISTS", "tidegate:stream:{stream:a}"])
    })
    .await;
    eventually("green", async || node.is_ready().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_again_and_again_is_told_once_with_its_cause_and_counted() {
    let redis = RedisServer::start();
    let node = gateway().over(&redis.url()).run().await;
    eventually("green at first", async || node.is_ready().await).await;
    node.publish("stream:a", json!(0)).await;
    redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]);
    for _ in 0..50 {
        let answer = node.try_api("publish", &json!({ "channel": "stream:a", "data": 1 })).await;
        let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(body["error"], json!({ "code": 100, "message": "internal server error" }));
    }
    assert!(node.metric("tidegate_publications_refused_total{reason=\"oom\"}").await >= 50.0);
    let mut clients = Vec::new();
    for _ in 0..12 {
        let mut client = node.connect().await;
        let id = client.ask("subscribe", json!({ "channel": "stream:a" })).await;
        clients.push((client, id));
    }
    for (client, id) in &mut clients {
        assert_eq!(client.reply(*id).await.get("error"), None, "who is there is not needed for going on");
    }
    turns_red(&node, "OOM", "full").await;
    redis.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]);
    turns_green(&node, "no longer full").await;
    node.signal(rustix::process::Signal::TERM);
    let (_, log) = node.ended().await;
    let lines = |with: &str| log.iter().filter(|line| line.contains(with)).count();
    assert_eq!(lines("a call was refused"), 1, "{log:#?}");
    assert_eq!(lines("the broker cannot be used"), 1, "{log:#?}");
    assert_eq!(lines("the broker can be used again"), 1, "{log:#?}");
    assert!(lines("OOM") >= 2, "{log:#?}");
    let absent = lines("is not in the channel's presence yet");
    assert!((1..12).contains(&absent), "some of the lines: {log:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_and_not_answered_is_said_to_be_unknown_and_a_key_makes_asking_again_safe() {
    let redis = RedisServer::start();
    let node = gateway().over(&redis.url()).with("redis.timeout_ms", 500).start().await;
    eventually("green at first", async || node.is_ready().await).await;
    redis.freeze();
    let publish = json!({ "channel": "stream:a", "data": 1, "idempotency_key": "once" });
    let answer = node.try_api("publish", &publish).await;
    let said = String::from_utf8(answer.body).expect("text");
    assert!(said.contains("\"code\":100") && said.contains("the outcome is unknown"), "{said}");
    let read = node.try_api("history", &json!({ "channel": "stream:a", "limit": 1 })).await;
    let said = String::from_utf8(read.body).expect("text");
    assert!(said.contains("\"message\":\"internal server error\""), "who only reads just asks again: {said}");
    redis.thaw();
    eventually("it is published", async || {
        node.try_api("publish", &publish).await.body.starts_with(b"{\"result\"")
    })
    .await;
    let history = node.api("history", json!({ "channel": "stream:a", "limit": 10 })).await;
    assert_eq!(history["publications"].as_array().map(Vec::len), Some(1), "{history}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_history_over_a_slow_path_holds_nobody_up() {
    let redis = RedisServer::start();
    let (relay, node) = behind_relay(&redis).await;
    let text = "x".repeat(60_000);
    for _ in 0..500 {
        node.publish("stream:long", json!(text)).await;
    }
    relay.slow_down(10_000_000);
    let reading = node.api("history", json!({ "channel": "stream:long", "limit": 500 }));
    let publishing = async {
        for number in 1.. {
            assert_eq!(node.publish("stream:other", json!(number)).await, number);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let history = tokio::select! {
        history = reading => history,
        () = publishing => unreachable!("it goes on for ever"),
    };
    let offsets: Vec<_> =
        history["publications"].as_array().into_iter().flatten().map(|one| one["offset"].as_u64()).collect();
    assert_eq!(offsets, (1..=500).map(Some).collect::<Vec<_>>());
    assert_eq!(node.metric("tidegate_broker_reconnects_total").await, 0.0);
}
