//! Tests commands of the server API for Socket.IO clients on every node.

use serde_json::{Value, json};

use crate::gateway::{Gateway, gateway};
use crate::redis_server::RedisServer;
use crate::socketio::SocketIo;

const NAMESPACES: &str = r#"
[socketio]
enabled = true
[socketio.namespaces."/".events.say]
action = "publish"
[socketio.namespaces."/admin"]
"#;

async fn nodes(redis: &RedisServer) -> [Gateway; 2] {
    let node = || gateway().over(&redis.url()).and(NAMESPACES).start();
    [node().await, node().await]
}

/// Connects two clients to each of two nodes, and returns them with their ids.
async fn four(nodes: &[Gateway; 2]) -> ([SocketIo; 4], [String; 4]) {
    let (mut clients, mut ids) = (Vec::new(), Vec::new());
    for node in [&nodes[0], &nodes[0], &nodes[1], &nodes[1]] {
        let (client, id) = node.in_main().await;
        clients.push(client);
        ids.push(id);
    }
    (clients.try_into().expect("four"), ids.try_into().expect("four"))
}

/// Checks which of the clients receive this packet next; the others receive nothing before the mark.
async fn hear(clients: &mut [SocketIo; 4], told: &str, who: [bool; 4]) {
    for (client, hears) in clients.iter_mut().zip(who) {
        if hears {
            assert_eq!(client.next_packet().await, told);
        }
    }
}

async fn mark(node: &Gateway, clients: &mut [SocketIo; 4]) {
    node.api("socketio_emit", json!({ "event": "mark" })).await;
    hear(clients, r#"2["mark"]"#, [true; 4]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_reaches_each_of_those_it_is_for_once_on_every_node() {
    let redis = RedisServer::start();
    let nodes = nodes(&redis).await;
    let (mut clients, ids) = four(&nodes).await;
    nodes[1].api("socketio_join", json!({ "rooms": [ids[0], ids[2]], "join": ["a", "b"] })).await;
    nodes[0].api("socketio_join", json!({ "rooms": [ids[3]], "join": ["b"] })).await;
    let emit = async |node: usize, mut body: Value| {
        body["event"] = "e".into();
        nodes[node].api("socketio_emit", body).await
    };
    emit(0, json!({ "args": [1, { "b": null }] })).await;
    hear(&mut clients, r#"2["e",1,{"b":null}]"#, [true; 4]).await;
    emit(1, json!({ "rooms": ["a", "b"], "args": ["union"] })).await;
    hear(&mut clients, r#"2["e","union"]"#, [true, false, true, true]).await;
    emit(0, json!({ "rooms": ["b"], "except": ["a"], "args": ["b, not a"] })).await;
    hear(&mut clients, r#"2["e","b, not a"]"#, [false, false, false, true]).await;
    emit(1, json!({ "rooms": [ids[1], ids[2]], "except": [ids[2]], "args": ["one"] })).await;
    hear(&mut clients, r#"2["e","one"]"#, [false, true, false, false]).await;
    emit(0, json!({ "except": ["b"], "volatile": true })).await;
    hear(&mut clients, r#"2["e"]"#, [false, true, false, false]).await;
    emit(1, json!({ "rooms": ["a"], "args": ["AQI=", "text"], "binary": ["/0"] })).await;
    for client in [0, 2] {
        assert_eq!(clients[client].next_packet().await, r#"51-["e",{"_placeholder":true,"num":0},"text"]"#);
        assert_eq!(clients[client].bytes().await, [1, 2]);
    }
    for _ in 0..2 {
        emit(0, json!({ "idempotency_key": "once", "args": ["once"] })).await;
    }
    hear(&mut clients, r#"2["e","once"]"#, [true; 4]).await;
    mark(&nodes[0], &mut clients).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_come_into_rooms_leave_them_and_are_put_out_wherever_they_are() {
    let redis = RedisServer::start();
    let nodes = nodes(&redis).await;
    let (mut clients, ids) = four(&nodes).await;
    nodes[0].api("socketio_join", json!({ "rooms": [ids[0], ids[2], ids[3]], "join": ["a"] })).await;
    // The members of one room join another, except one.
    nodes[0].api("socketio_join", json!({ "rooms": ["a"], "except": [ids[3]], "join": ["b c"] })).await;
    let listed = nodes[1].api("socketio_sockets", json!({ "room": "b c" })).await;
    let mut sockets: Vec<Value> = listed["sockets"].as_array().expect("a list").clone();
    sockets.sort_by_key(|socket| socket["id"] != ids[0]);
    assert_eq!(sockets.iter().map(|socket| &socket["id"]).collect::<Vec<_>>(), [&ids[0], &ids[2]]);
    assert_eq!(sockets[0]["rooms"], json!(["a", "b c"]));
    assert_eq!(sockets[0]["user"], "");
    assert_ne!(sockets[0]["node"], sockets[1]["node"]);
    let count = async |body: Value| {
        nodes[0].api("socketio_sockets", body).await["sockets"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(count(json!({})).await, 4);
    assert_eq!(count(json!({ "room": ids[1] })).await, 1);
    assert_eq!(count(json!({ "room": "nobody's" })).await, 0);
    assert_eq!(count(json!({ "namespace": "/admin" })).await, 0);
    nodes[1].api("socketio_leave", json!({ "rooms": ["a"], "leave": ["a", "b c"] })).await;
    assert_eq!(count(json!({ "room": "a" })).await + count(json!({ "room": "b c" })).await, 0);
    nodes[1].api("socketio_leave", json!({ "leave": ["a"] })).await;
    mark(&nodes[1], &mut clients).await;
    nodes[0].api("socketio_disconnect", json!({ "rooms": [ids[2]] })).await;
    assert_eq!(clients[2].next_packet().await, "1");
    assert_eq!(clients[2].enter("/", "").await.len(), 24, "it may come back into the namespace");
    nodes[0].api("socketio_disconnect", json!({ "except": [ids[0]], "close": true })).await;
    for gone in [1, 2, 3] {
        assert_eq!(clients[gone].next_packet().await, "1");
        while clients[gone].socket.next().await.is_ok() {}
    }
    assert_eq!(count(json!({})).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_all_gets_volatile_events_beside_others_too() {
    let node = gateway().and(NAMESPACES).start().await;
    let (mut client, id) = node.in_main().await;
    node.api("socketio_join", json!({ "rooms": [id], "join": ["a"] })).await;
    let commands = [
        json!({ "socketio_emit": { "event": "room", "rooms": ["a"] } }),
        json!({ "socketio_emit": { "event": "gone if slow", "volatile": true } }),
    ];
    for _ in 0..50 {
        let body =
            json!({ "commands": commands.iter().cycle().take(20).collect::<Vec<_>>(), "parallel": true });
        assert_eq!(node.try_api("batch", &body).await.status, 200);
        let mut told = [0, 0];
        for _ in 0..20 {
            told[usize::from(client.next_packet().await == r#"2["gone if slow"]"#)] += 1;
        }
        assert_eq!(told, [10, 10]);
    }
}

#[tokio::test]
async fn what_cannot_be_done_is_told() {
    let served = gateway().and(NAMESPACES).start().await;
    let code = async |node: &Gateway, method: &str, body: Value| {
        let answer = node.try_api(method, &body).await;
        let answer: Value = serde_json::from_slice(&answer.body).expect("JSON");
        answer["error"]["code"].as_u64().unwrap_or_default()
    };
    for (method, body) in [
        ("socketio_emit", json!({ "event": "" })),
        ("socketio_emit", json!({ "event": "connect" })),
        ("socketio_emit", json!({ "event": "e", "namespace": "/nowhere" })),
        ("socketio_emit", json!({ "event": "e", "rooms": [""] })),
        ("socketio_emit", json!({ "event": "e", "rooms": vec!["r"; 257] })),
        ("socketio_emit", json!({ "event": "e", "args": vec![0; 257] })),
        ("socketio_emit", json!({ "event": "e", "args": ["!!not base64"], "binary": ["/0"] })),
        ("socketio_emit", json!({ "event": "e", "args": ["AQI="], "binary": ["/9"] })),
        ("socketio_ask", json!({ "event": "e", "args": ["AQI="], "binary": ["nonsense"] })),
        ("socketio_join", json!({})),
        ("socketio_join", json!({ "join": ["r".repeat(300)] })),
        ("socketio_leave", json!({ "leave": [] })),
        ("socketio_disconnect", json!({ "namespace": "/nowhere" })),
        ("socketio_sockets", json!({ "cursor": "x" })),
    ] {
        assert_eq!(code(&served, method, body.clone()).await, 107, "{method} {body}");
    }
    let without = gateway().start().await;
    assert_eq!(code(&without, "socketio_emit", json!({ "event": "e" })).await, 108);
}

#[tokio::test]
async fn who_may_have_no_more_channels_comes_into_no_more_rooms_and_stays() {
    let gateway = gateway().with("session.channels_max", 3).and(NAMESPACES).start().await;
    let (mut full, full_id) = gateway.in_main().await;
    let (mut other, _) = gateway.in_main().await;
    gateway.api("socketio_join", json!({ "rooms": [full_id], "join": ["x"] })).await;
    // The namespace itself and two rooms: one client already has a room.
    let request = json!({ "join": ["a", "b"] });
    let answer = gateway.try_api("socketio_join", &request).await;
    let answer = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(answer.contains("\"code\":106") && answer.contains("1 clients"), "{answer}");
    for (room, hears_full) in [("x", true), ("a", true), ("b", false)] {
        gateway.api("socketio_emit", json!({ "event": "e", "rooms": [room], "args": [room] })).await;
        if hears_full {
            assert_eq!(full.next_packet().await, format!("2[\"e\",\"{room}\"]"));
        }
        if room != "x" {
            assert_eq!(other.next_packet().await, format!("2[\"e\",\"{room}\"]"));
        }
    }
    gateway.api("socketio_emit", json!({ "event": "end" })).await;
    assert_eq!(full.next_packet().await, "2[\"end\"]");
}
