//! Tests emitters: events that servers send through Redis reach Socket.IO clients once, whichever node carries them out.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::gateway::{Description, Gateway, eventually, gateway};
use crate::redis_server::RedisServer;
use crate::socketio::SocketIo;

pub const EMITTERS: &str = r#"
[socketio]
enabled = true
[socketio.namespaces."/"]
[socketio.namespaces."/admin"]
[socketio.emitters]
enabled = true
[namespaces.socketio]
history_size = 5000
history_ttl_s = 600
allow_subscribe = true
allow_subscribe_anonymous = true
"#;

const LEADS: &str = "tidegate_socketio_emitters_leader";

fn node(redis: &RedisServer) -> Description {
    gateway().over(&redis.url()).and(EMITTERS)
}

/// Waits until one of the nodes carries out the messages of emitters, and returns its index.
async fn leader(nodes: &[&Gateway]) -> usize {
    let start = Instant::now();
    loop {
        let mut leading = Vec::new();
        for (at, node) in nodes.iter().enumerate() {
            if node.metric(LEADS).await == 1.0 {
                leading.push(at);
            }
        }
        if let [leader] = leading[..] {
            return leader;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "these lead: {leading:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until a node receives the messages of emitters.
async fn hears(node: &Gateway) {
    node.metric_becomes("tidegate_socketio_emitters_link_up", 1.0).await;
}

/// Publishes a message as an emitter with a JSON parser does. Returns the number of Redis subscribers that received it.
pub fn emit(redis: &RedisServer, event: &str, arguments: &[Value], rooms: &[&str], except: &[&str]) -> u64 {
    let mut data = vec![json!(event)];
    data.extend_from_slice(arguments);
    let options = json!({ "rooms": rooms, "flags": {}, "except": except });
    let message = json!(["emitter", { "type": 2, "data": data, "nsp": "/" }, options]);
    let channel = match rooms {
        [room] => format!("socket.io#/#{room}#"),
        _ => "socket.io#/#".to_owned(),
    };
    redis.ask(&["PUBLISH", &channel, &message.to_string()])
}

fn request(redis: &RedisServer, command: &Value) {
    let heard: u64 = redis.ask(&["PUBLISH", "socket.io-request#/#", &command.to_string()]);
    assert!(heard > 0);
}

fn python(redis: &RedisServer, message: &Value) {
    let heard: u64 = redis.ask(&["PUBLISH", "socketio", &message.to_string()]);
    assert!(heard > 0);
}

async fn tell(client: &mut SocketIo, told: &str) {
    assert_eq!(client.next_packet().await, told);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_emitters_say_is_done_once_on_all_nodes() {
    let redis = RedisServer::start();
    let nodes = [node(&redis).start().await, node(&redis).start().await, node(&redis).start().await];
    for node in &nodes {
        hears(node).await;
    }
    leader(&nodes.each_ref()).await;
    let mut clients = Vec::new();
    for node in &nodes {
        clients.push(node.in_main().await);
    }
    let ids: Vec<String> = clients.iter().map(|(_, id)| id.clone()).collect();
    // The first two clients join rooms, and are in both before the next events are sent.
    let opts = |rooms: &[&str], except: &[&str]| json!({ "rooms": rooms, "except": except });
    request(&redis, &json!({ "type": 2, "opts": opts(&[&ids[0], &ids[1]], &[]), "rooms": ["a", "b"] }));
    assert_eq!(emit(&redis, "e", &[json!("union")], &["a", "b"], &[]), 3, "every node hears it");
    emit(&redis, "e", &[json!("all"), json!({ "x": [1] })], &[], &[]);
    emit(&redis, "e", &[json!("b, but not one")], &["b"], &[&ids[0]]);
    emit(&redis, "e", &[json!("its own room")], &[&ids[2]], &[]);
    request(&redis, &json!({ "type": 3, "opts": opts(&["a"], &[&ids[1]]), "rooms": ["a"] }));
    emit(&redis, "e", &[json!("a")], &["a"], &[]);
    python(&redis, &json!({ "method": "enter_room", "sid": ids[2], "room": "p", "namespace": "/" }));
    python(
        &redis,
        &json!({ "method": "emit", "event": "py", "data": ["x", 2], "binary": false, "room": ["a", "p"], "skip_sid": ids[1], "namespace": "/" }),
    );
    python(&redis, &json!({ "method": "close_room", "room": "p", "namespace": "/" }));
    python(
        &redis,
        &json!({ "method": "emit", "event": "py", "data": [null], "binary": false, "room": "p", "namespace": "/" }),
    );
    emit(&redis, "mark", &[], &[], &[]);
    let told: [&[&str]; 3] = [
        &[r#"2["e","union"]"#, r#"2["e","all",{"x":[1]}]"#, r#"2["mark"]"#],
        &[
            r#"2["e","union"]"#,
            r#"2["e","all",{"x":[1]}]"#,
            r#"2["e","b, but not one"]"#,
            r#"2["e","a"]"#,
            r#"2["mark"]"#,
        ],
        &[r#"2["e","all",{"x":[1]}]"#, r#"2["e","its own room"]"#, r#"2["py","x",2]"#, r#"2["mark"]"#],
    ];
    for ((client, _), told) in clients.iter_mut().zip(told) {
        // Each room keeps its order; between rooms the order is undefined.
        let (mut heard, mut told) = (Vec::new(), told.to_vec());
        for _ in &told {
            heard.push(client.next_packet().await);
        }
        heard.sort_unstable();
        told.sort_unstable();
        assert_eq!(heard, told);
    }
    request(&redis, &json!({ "type": 4, "opts": opts(&["b"], &[&ids[1]]), "close": false }));
    tell(&mut clients[0].0, "1").await;
    python(&redis, &json!({ "method": "disconnect", "sid": ids[1], "namespace": "/" }));
    tell(&mut clients[1].0, "1").await;
    request(&redis, &json!({ "type": 4, "opts": opts(&[], &[]), "close": true }));
    tell(&mut clients[2].0, "1").await;
    while clients[2].0.socket.next().await.is_ok() {}
}

/// Checks that each client receives each of these numbers once and in order.
async fn numbers(clients: &mut [SocketIo], numbers: std::ops::Range<u64>) {
    for client in clients {
        for number in numbers.clone() {
            assert_eq!(client.next_packet().await, format!(r#"2["n",{number}]"#));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_goes_on_where_one_has_died_and_nothing_is_missing_or_told_twice() {
    let redis = RedisServer::start();
    let doomed = node(&redis).run().await;
    leader(&[&doomed]).await;
    let nodes = [node(&redis).start().await, node(&redis).start().await];
    for node in &nodes {
        hears(node).await;
    }
    let mut clients = Vec::new();
    for node in [&nodes[0], &nodes[1], &nodes[1]] {
        clients.push(node.in_main().await.0);
    }
    let mut centrifuge = nodes[0].connect().await;
    centrifuge.subscribe("socketio:*").await;
    for number in 0..200 {
        emit(&redis, "n", &[json!(number)], &[], &[]);
    }
    // The leader is killed in the middle of its work.
    for number in 200..400 {
        emit(&redis, "n", &[json!(number)], &[], &[]);
        if number == 300 {
            doomed.signal(Signal::KILL);
        }
    }
    numbers(&mut clients, 0..400).await;
    leader(&nodes.each_ref()).await;
    for number in 400..500 {
        emit(&redis, "n", &[json!(number)], &[], &[]);
    }
    numbers(&mut clients, 400..500).await;
    let page = nodes[0].api("history", json!({ "channel": "socketio:*", "limit": 1000 })).await;
    let kept: Vec<u64> = page["publications"]
        .as_array()
        .expect("a history")
        .iter()
        .map(|one| one["data"].as_u64().expect("a number"))
        .collect();
    assert_eq!(kept, (0..500).collect::<Vec<_>>(), "each has one offset");
    assert_eq!(page["offset"], 500);
    for number in 0..500_u64 {
        let publication = centrifuge.publication().await;
        assert_eq!((publication.offset, publication.data), (number + 1, json!(number)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_hands_over_and_one_that_stands_still_is_not_waited_for() {
    let redis = RedisServer::start();
    let first = node(&redis).start().await;
    leader(&[&first]).await;
    let halted = node(&redis).run().await;
    hears(&halted).await;
    let last = node(&redis).start().await;
    hears(&last).await;
    let mut clients = [last.in_main().await.0];
    for number in 0..50 {
        emit(&redis, "n", &[json!(number)], &[], &[]);
    }
    numbers(&mut clients, 0..50).await;
    // A draining node still carries out what it has received.
    for number in 50..100 {
        emit(&redis, "n", &[json!(number)], &[], &[]);
    }
    first.drain().await;
    let next = leader(&[&halted, &last]).await;
    for number in 100..150 {
        emit(&redis, "n", &[json!(number)], &[], &[]);
    }
    numbers(&mut clients, 50..150).await;
    if next == 0 {
        halted.signal(Signal::STOP);
    }
    for number in 150..200 {
        emit(&redis, "n", &[json!(number)], &[], &[]);
    }
    numbers(&mut clients, 150..200).await;
    // The new leader has already carried out what the halted node still had to do.
    halted.signal(Signal::CONT);
    leader(&[&halted, &last]).await;
    emit(&redis, "n", &[json!(200)], &[], &[]);
    numbers(&mut clients, 200..201).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_of_another_configuration_go_on_without_telling_anything_twice() {
    let redis = RedisServer::start();
    let before = node(&redis).start().await;
    leader(&[&before]).await;
    let after = node(&redis).and("[socketio.namespaces.\"/new\"]\n").start().await;
    hears(&after).await;
    let mut clients = [after.in_main().await.0];
    for number in 0..50 {
        emit(&redis, "n", &[json!(number)], &[], &[]);
    }
    numbers(&mut clients, 0..50).await;
    before.drain().await;
    for number in 50..100 {
        emit(&redis, "n", &[json!(number)], &[], &[]);
    }
    numbers(&mut clients, 50..100).await;
    assert_eq!(after.metric(LEADS).await, 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn emitters_may_have_a_redis_of_their_own_which_comes_and_goes() {
    let (redis, mut theirs) = (RedisServer::start(), RedisServer::start());
    let own = |description: Description| description.with("socketio.emitters.url", theirs.url());
    let nodes = [own(node(&redis)).start().await, own(node(&redis)).start().await];
    let alone = own(gateway().and(EMITTERS)).start().await;
    for node in [&nodes[0], &nodes[1], &alone] {
        hears(node).await;
    }
    leader(&nodes.each_ref()).await;
    leader(&[&alone]).await;
    let mut clients = [nodes[0].in_main().await.0, nodes[1].in_main().await.0, alone.in_main().await.0];
    let everyone_hears = async |theirs: &RedisServer, clients: &mut [SocketIo; 3], number: u64| {
        assert_eq!(emit(theirs, "n", &[json!(number)], &[], &[]), 3);
        numbers(clients, number..number + 1).await;
    };
    everyone_hears(&theirs, &mut clients, 1).await;
    theirs.kill();
    for node in [&nodes[0], &nodes[1], &alone] {
        node.metric_becomes("tidegate_socketio_emitters_link_up", 0.0).await;
    }
    theirs.restart();
    for node in [&nodes[0], &nodes[1], &alone] {
        hears(node).await;
        assert_eq!(node.metric("tidegate_socketio_emitters_reconnects_total").await, 1.0);
    }
    everyone_hears(&theirs, &mut clients, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_of_redis_needs_no_more_rights_than_the_page_says() {
    let theirs = RedisServer::start();
    let page = include_str!("../../../docs/protocols/socketio.md");
    let line = page.lines().find(|line| line.trim().starts_with("ACL SETUSER ")).expect("rights on the page");
    assert_eq!(theirs.ask::<String>(&line.split_whitespace().collect::<Vec<_>>()), "OK");
    let url = theirs.url().replace("redis://", "redis://tidegate:password@");
    let toml = "[socketio]\nenabled = true\n[socketio.emitters]\nenabled = true\n";
    let node = gateway().and(toml).with("socketio.emitters.url", url).start().await;
    leader(&[&node]).await;
    let mut clients = [node.in_main().await.0];
    emit(&theirs, "n", &[json!(1)], &[], &[]);
    numbers(&mut clients, 1..2).await;
    request(&theirs, &json!({ "type": 4, "opts": {}, "close": false }));
    tell(&mut clients[0], "1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_said_while_the_broker_was_away_is_done_when_it_is_back() {
    let (mut redis, theirs) = (RedisServer::start(), RedisServer::start());
    let node = node(&redis).with("socketio.emitters.url", theirs.url()).start().await;
    leader(&[&node]).await;
    let mut clients = [node.in_main().await.0];
    for number in 0..3 {
        emit(&theirs, "n", &[json!(number)], &[], &[]);
    }
    numbers(&mut clients, 0..3).await;
    redis.kill();
    for number in 3..10 {
        emit(&theirs, "n", &[json!(number)], &[], &[]);
    }
    eventually("they wait", async || node.metric("tidegate_socketio_emitters_waiting_bytes").await > 500.0)
        .await;
    redis.restart();
    numbers(&mut clients, 3..10).await;
    node.metric_becomes(r#"tidegate_socketio_emitted_total{kind="emit",result="done"}"#, 10.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_is_counted_and_what_follows_is_done() {
    let redis = RedisServer::start();
    let small = node(&redis).with("socketio.emitters.message_bytes_max", 1024);
    let node = small.start().await;
    leader(&[&node]).await;
    let (mut client, _) = node.in_main().await;
    let publish = |channel: &str, message: &str| {
        let _: u64 = redis.ask(&["PUBLISH", channel, message]);
    };
    publish("socket.io#/#", "no packet");
    publish("socket.io#/#", &"x".repeat(2000));
    publish("socketio", "\u{80}\u{4}");
    publish(
        "socketio",
        "{\"method\":\"emit\",\"event\":\"e\",\"data\":[1],\"binary\":false,\"namespace\":\"/nowhere\"}",
    );
    publish("socket.io-request#/#", r#"{"uid":"emitter","type":6,"data":["hello"]}"#);
    emit(&redis, "connect", &[], &[], &[]);
    emit(&redis, "e", &[json!("nobody's room")], &["r".repeat(300).as_str(), "a"], &[]);
    emit(&redis, "e", &[json!(1)], &[], &[]);
    tell(&mut client, r#"2["e",1]"#).await;
    let counted = async |kind: &str, result: &str| {
        let name = format!(r#"tidegate_socketio_emitted_total{{kind="{kind}",result="{result}"}}"#);
        node.metric(&name).await
    };
    for (kind, result, count) in [
        ("emit", "malformed", 1.0),
        ("other", "too_long", 1.0),
        ("other", "malformed", 1.0),
        ("emit", "unknown_namespace", 1.0),
        ("other", "unsupported", 1.0),
        ("emit", "refused", 2.0),
        ("emit", "done", 1.0),
    ] {
        assert_eq!(counted(kind, result).await, count, "{kind} {result}");
    }
}
