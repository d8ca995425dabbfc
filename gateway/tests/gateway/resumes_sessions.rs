//! Tests Socket.IO clients that lost their connection and resume their session at any node, with what they missed.

use std::time::Duration;

use serde_json::{Value, json};

use crate::application::Application;
use crate::gateway::{Description, Gateway, eventually, gateway};
use crate::nats_server::NatsServer;
use crate::redis_server::RedisServer;
use crate::socketio::SocketIo;

const NAMESPACES: &str = r#"
[namespaces.socketio]
history_size = 100
history_ttl_s = 60
presence = true
[socketio]
enabled = true
[socketio.namespaces."/"]
recovery_ms = 60000
[socketio.namespaces."/".events.say]
action = "publish"
[socketio.namespaces."/".events.others]
action = "publish"
to_sender = false
[socketio.namespaces."/".events.whisper]
action = "publish"
room_argument = 0
[socketio.namespaces."/".events.to]
action = "publish"
client_argument = 0
[socketio.namespaces."/".events.join]
action = "join"
room_argument = 0
[socketio.namespaces."/".events.leave]
action = "leave"
room_argument = 0
"#;

fn keeping() -> Description {
    gateway().and(NAMESPACES)
}

/// What a client remembers of its session.
#[derive(Clone, Debug)]
struct Known {
    sid: String,
    pid: String,
    offset: Option<String>,
}

/// A client that remembers what the libraries remember.
#[derive(Debug)]
struct Client {
    wire: SocketIo,
    known: Known,
}

impl Client {
    async fn enter(node: &Gateway) -> Self {
        Self::enter_with(node, Value::Null).await
    }

    async fn enter_with(node: &Gateway, auth: Value) -> Self {
        let mut wire = node.socketio().await;
        let auth = if auth.is_null() { String::new() } else { auth.to_string() };
        wire.send(&format!("0{auth}")).await;
        let known = welcome(&wire.next_packet().await);
        Self { wire, known }
    }

    /// Connects and asks to resume the session. The caller reads the events that follow.
    async fn come_back(node: &Gateway, known: &Known) -> Self {
        let mut wire = node.socketio().await;
        wire.send(&format!("0{}", json!({ "pid": known.pid, "offset": known.offset }))).await;
        let told = welcome(&wire.next_packet().await);
        let offset = known.offset.clone();
        Self { wire, known: Known { offset, ..told } }
    }

    fn is_back(&self, known: &Known) -> bool {
        assert_eq!(self.known.pid == known.pid, self.known.sid == known.sid, "both, or none");
        self.known.pid == known.pid
    }

    /// Returns the next event without its offset, which is remembered.
    async fn event(&mut self) -> Value {
        let told = self.wire.next_packet().await;
        let packet = told.strip_prefix('2').unwrap_or_else(|| panic!("no event: {told}"));
        let mut event: Vec<Value> = serde_json::from_str(packet).expect("a list");
        let offset = event.pop().expect("an offset");
        self.known.offset = Some(offset.as_str().expect("an offset is a text").to_owned());
        event.into()
    }

    async fn ask(&mut self, packet: &str) {
        self.wire.send(&format!("27{packet}")).await;
        assert_eq!(self.wire.next_packet().await, r#"37[{"status":"ok"}]"#);
    }

    /// Drops the connection without a packet.
    fn lose(self) -> Known {
        self.known
    }
}

fn welcome(told: &str) -> Known {
    let json = told.strip_prefix('0').unwrap_or_else(|| panic!("not let in: {told}"));
    let welcome: Value = serde_json::from_str(json).expect("JSON");
    let text = |key: &str| welcome[key].as_str().unwrap_or_else(|| panic!("no {key}: {told}")).to_owned();
    Known { sid: text("sid"), pid: text("pid"), offset: None }
}

async fn publish(node: &Gateway, channel: &str, number: u32) {
    let body = json!({ "channel": channel, "data": number, "tags": { "event": "news" } });
    node.api("publish", body).await;
}

async fn recoveries(node: &Gateway, result: &str) -> f64 {
    node.metric(&format!("tidegate_socketio_recoveries_total{{result=\"{result}\"}}")).await
}

#[tokio::test]
async fn who_comes_back_is_who_it_was_in_its_rooms_and_misses_nothing() {
    let node = keeping().start().await;
    let mut client = Client::enter(&node).await;
    client.ask(r#"["join","a"]"#).await;
    client.ask(r#"["join","b"]"#).await;
    client.ask(r#"["leave","b"]"#).await;
    publish(&node, "socketio:a", 1).await;
    publish(&node, "socketio:*", 2).await;
    assert_eq!(client.event().await, json!(["news", 1]));
    let known = client.known.clone();
    assert_eq!(client.event().await, json!(["news", 2]));
    // The client has not received the second event.
    drop(client);
    for (channel, number) in [("socketio:a", 3), ("socketio:*", 4), ("socketio:b", 5), ("socketio:a", 6)] {
        publish(&node, channel, number).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut back = Client::come_back(&node, &known).await;
    assert!(back.is_back(&known));
    let mut told = Vec::new();
    for _ in 0..4 {
        told.push(back.event().await[1].clone());
    }
    assert_eq!(told, [2, 3, 4, 6]);
    publish(&node, "socketio:a", 7).await;
    assert_eq!(back.event().await, json!(["news", 7]));
    assert_eq!(recoveries(&node, "recovered").await, 1.0);
    // The resumed client is found by its id.
    let (mut other, _) = node.in_main().await;
    other.send(&format!("2{}", json!(["to", known.sid, "you"]))).await;
    assert_eq!(back.event().await, json!(["to", "you"]));
}

#[tokio::test]
async fn who_was_told_nothing_and_who_lost_its_connection_again_come_back_too() {
    let node = keeping().start().await;
    let known = Client::enter(&node).await.lose();
    publish(&node, "socketio:*", 1).await;
    let mut back = Client::come_back(&node, &known).await;
    assert!(back.is_back(&known));
    assert_eq!(back.event().await, json!(["news", 1]));
    let known = back.lose();
    let back = Client::come_back(&node, &known).await;
    assert!(back.is_back(&known));
    let known = back.lose();
    publish(&node, "socketio:*", 2).await;
    let mut back = Client::come_back(&node, &known).await;
    assert!(back.is_back(&known));
    assert_eq!(back.event().await, json!(["news", 2]));
}

#[tokio::test]
async fn what_was_for_some_is_told_to_those_alone() {
    let node = keeping().start().await;
    let known = Client::enter(&node).await.lose();
    let (mut other, _) = node.in_main().await;
    other.send(&format!("2{}", json!(["to", known.sid, "for you"]))).await;
    let stranger = Client::enter(&node).await.lose();
    other.send(&format!("2{}", json!(["to", stranger.sid, "for another"]))).await;
    other.send(r#"20["say","mark"]"#).await;
    loop {
        if other.next_packet().await.starts_with("30") {
            break;
        }
    }
    let mut back = Client::come_back(&node, &known).await;
    assert!(back.is_back(&known));
    assert_eq!(back.event().await, json!(["to", "for you"]));
    assert_eq!(back.event().await, json!(["say", "mark"]));
    // The client's own events are not among those that it missed.
    back.ask(r#"["others","mine"]"#).await;
    let known = back.lose();
    let mut back = Client::come_back(&node, &known).await;
    assert!(back.is_back(&known));
    publish(&node, "socketio:*", 1).await;
    assert_eq!(back.event().await, json!(["news", 1]));
}

#[tokio::test]
async fn a_connection_that_looks_alive_is_displaced_here_and_at_another_node() {
    let redis = RedisServer::start();
    let nodes = [keeping().over(&redis.url()).start().await, keeping().over(&redis.url()).start().await];
    displace(&nodes).await;
}

#[tokio::test]
async fn over_nats_a_connection_that_looks_alive_is_displaced_here_and_at_another_node() {
    let nats = NatsServer::start();
    let nodes =
        [keeping().over_nats(&nats.url()).start().await, keeping().over_nats(&nats.url()).start().await];
    displace(&nodes).await;
}

/// Lets a client resume four times, at either node, while its previous connection is still open.
async fn displace(nodes: &[Gateway; 2]) {
    let mut client = Client::enter(&nodes[0]).await;
    client.ask(r#"["join","a"]"#).await;
    let known = client.known.clone();
    for (number, node) in [0, 1, 1, 0].into_iter().enumerate() {
        let mut next = Client::come_back(&nodes[node], &client.known).await;
        assert!(next.is_back(&known), "at node {node}");
        // The previous connection is disconnected, and its socket is closed.
        assert_eq!(client.wire.next_packet().await, "1");
        assert!(client.wire.socket.is_cut_off().await);
        publish(&nodes[1 - node], "socketio:a", number as u32).await;
        assert_eq!(next.event().await, json!(["news", number]));
        let clients = nodes[0].api("presence", json!({ "channel": "socketio:*" })).await;
        assert_eq!(clients["presence"].as_object().map(|clients| clients.len()), Some(1), "{clients}");
        client = next;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_that_come_back_at_once_one_is_the_client() {
    let redis = RedisServer::start();
    let nodes = [keeping().over(&redis.url()).start().await, keeping().over(&redis.url()).start().await];
    for turn in 0..12 {
        let live = Client::enter(&nodes[turn % 2]).await;
        let known = live.known.clone();
        let mut wires = Vec::new();
        for at in 0..6 {
            wires.push(nodes[at % 2].socketio().await);
        }
        let come = wires.into_iter().map(|mut wire| {
            let pid = known.pid.clone();
            async move {
                wire.send(&format!("0{}", json!({ "pid": pid }))).await;
                wire
            }
        });
        let wires = futures_util::future::join_all(come).await;
        let count = async || {
            let listed = nodes[0].api("socketio_sockets", json!({})).await;
            let sockets = listed["sockets"].as_array().expect("sockets").clone();
            let own = sockets.iter().filter(|socket| socket["id"] == known.sid).count();
            (sockets.len(), own)
        };
        let is_settled = async || {
            let received = ["recovered", "taken", "unknown", "stale", "history", "unreachable"];
            let mut sum = 0.0;
            for node in &nodes {
                for why in received {
                    sum += recoveries(node, why).await;
                }
            }
            sum == 6.0 * (turn as f64 + 1.0)
        };
        eventually("all have tried", is_settled).await;
        eventually("one of them is the client", async || count().await.1 == 1).await;
        for _ in 0..5 {
            publish(&nodes[0], "socketio:*", 1).await;
        }
        eventually("it is still one", async || count().await.1 == 1).await;
        drop((live, wires));
        eventually("all are gone", async || count().await.0 == 0).await;
    }
}

#[tokio::test]
async fn who_comes_back_into_two_namespaces_does_not_displace_itself() {
    let node = keeping()
        .and("[namespaces.admin]\nhistory_size = 9\nhistory_ttl_s = 60\n[socketio.namespaces.\"/admin\"]\nrecovery_ms = 60000\n")
        .start()
        .await;
    let mut client = Client::enter(&node).await;
    client.wire.send("0/admin,").await;
    let told = client.wire.next_packet().await;
    let admin = welcome(&told.replacen("/admin,", "", 1));
    let known = client.lose();
    let mut back = Client::come_back(&node, &known).await;
    assert!(back.is_back(&known));
    back.wire.send(&format!("0/admin,{}", json!({ "pid": admin.pid }))).await;
    let told = back.wire.next_packet().await;
    assert_eq!(welcome(&told.replacen("/admin,", "", 1)).pid, admin.pid);
    publish(&node, "socketio:*", 1).await;
    assert_eq!(back.event().await, json!(["news", 1]));
}

#[tokio::test]
async fn whoever_cannot_have_all_of_it_begins_anew_and_it_is_counted_why() {
    let node = keeping().start().await;
    let known = Client::enter(&node).await.lose();
    let offset = |offset: &str| Known { offset: Some(offset.to_owned()), ..known.clone() };
    let mark = &known.pid[..4];
    for (what, changed) in [
        ("unknown", Known { pid: "made up".into(), ..known.clone() }),
        ("offset", offset("hello")),
        ("stale", offset(&format!("{mark}.9-1"))),
        ("history", offset(&format!("{mark}.0-9"))),
    ] {
        let before = recoveries(&node, what).await;
        assert!(!Client::come_back(&node, &changed).await.is_back(&known), "{what}");
        assert_eq!(recoveries(&node, what).await, before + 1.0, "{what}");
    }
    // None of these attempts has ended the session.
    let back = Client::come_back(&node, &known).await;
    assert!(back.is_back(&known));
    let known = back.lose();
    for number in 0..101 {
        publish(&node, "socketio:*", number).await;
    }
    let before = recoveries(&node, "history").await;
    let mut anew = Client::come_back(&node, &known).await;
    assert!(!anew.is_back(&known), "the oldest is gone");
    assert_eq!(recoveries(&node, "history").await, before + 1.0);
    publish(&node, "socketio:*", 101).await;
    assert_eq!(anew.event().await, json!(["news", 101]));
}

#[tokio::test]
async fn who_leaves_for_good_or_is_put_out_has_no_session() {
    let node = keeping().start().await;
    let has_none = async || node.metric("tidegate_socketio_sessions").await == 0.0;
    let mut client = Client::enter(&node).await;
    client.wire.send("1").await;
    eventually("it has no session", has_none).await;
    let known = client.lose();
    assert!(!Client::come_back(&node, &known).await.is_back(&known));
    let node = keeping().start().await;
    let has_none = async || node.metric("tidegate_socketio_sessions").await == 0.0;
    let mut put_out = Client::enter_with(&node, json!({ "token": node.token("ann") })).await;
    node.api("unsubscribe", json!({ "channel": "socketio:*", "user": "ann" })).await;
    assert_eq!(put_out.wire.next_packet().await, "1");
    eventually("it has no session", has_none).await;
    let known = put_out.known.clone();
    let back = json!({ "token": node.token("ann"), "pid": known.pid });
    assert!(!Client::enter_with(&node, back).await.is_back(&known));
}

#[tokio::test]
async fn a_session_is_of_its_user() {
    let node = keeping().start().await;
    let known = Client::enter_with(&node, json!({ "token": node.token("ann") })).await.lose();
    let back = async |token: Option<String>| {
        let auth = json!({ "pid": known.pid, "token": token });
        Client::enter_with(&node, auth).await.is_back(&known)
    };
    assert!(!back(Some(node.token("bob"))).await);
    assert!(!back(None).await);
    assert_eq!(recoveries(&node, "other_user").await, 2.0);
    assert!(back(Some(node.token("ann"))).await);
}

#[tokio::test]
async fn the_application_is_told_who_comes_back_unless_it_is_not_to_be_asked() {
    for skips in [false, true] {
        let application = Application::start(|received| {
            // The application refuses only clients that ask it to.
            let refuses = received.json()["data"]["refuse"] == true;
            let answer =
                if refuses { r#"{"error":{"code":1000,"message":"no"}}"# } else { r#"{"result":{}}"# };
            Some((200, answer.to_owned()))
        })
        .await;
        let hook = format!("connect_hook = true\nrecovery_skips_hook = {skips}\n");
        let main = "[socketio.namespaces.\"/\"]\n";
        let node = gateway()
            .with("backend.socketio.url", &application.url)
            .and(&NAMESPACES.replace(main, &format!("{main}{hook}")))
            .start()
            .await;
        let known = Client::enter_with(&node, json!({ "name": "x" })).await.lose();
        if !skips {
            let mut wire = node.socketio().await;
            wire.send(&format!("0{}", json!({ "pid": known.pid, "refuse": true }))).await;
            assert!(wire.next_packet().await.starts_with("4"));
        }
        assert!(Client::come_back(&node, &known).await.is_back(&known));
        let received: Vec<Value> = application.requests("/").iter().map(|received| received.json()).collect();
        let told: Vec<_> = received
            .iter()
            .map(|received| {
                (received["recovered"] == true, received["data"].clone(), received["sid"] == *known.sid)
            })
            .collect();
        let first = (false, json!({ "name": "x" }), true);
        let expected = match skips {
            true => vec![first],
            // The application is not shown the secrets of the session.
            false => vec![first, (true, json!({ "refuse": true }), true), (true, Value::Null, true)],
        };
        assert_eq!(told, expected);
    }
}

#[tokio::test]
async fn who_was_not_let_in_may_come_back_to_its_session_on_the_same_connection() {
    let application = Application::start(|received| {
        let refuses = received.json()["data"]["refuse"] == true;
        let answer = if refuses { r#"{"error":{"code":1000,"message":"no"}}"# } else { r#"{"result":{}}"# };
        Some((200, answer.to_owned()))
    })
    .await;
    let main = "[socketio.namespaces.\"/\"]\n";
    let node = gateway()
        .with("backend.socketio.url", &application.url)
        .and(&NAMESPACES.replace(main, &format!("{main}connect_hook = true\n")))
        .start()
        .await;
    let known = Client::enter(&node).await.lose();
    publish(&node, "socketio:*", 1).await;
    let mut wire = node.socketio().await;
    for _ in 0..2 {
        wire.send(&format!("0{}", json!({ "pid": known.pid, "refuse": true }))).await;
        assert!(wire.next_packet().await.starts_with("4"));
    }
    wire.send(&format!("0{}", json!({ "pid": known.pid }))).await;
    let told = welcome(&wire.next_packet().await);
    let mut client = Client { wire, known: told };
    assert!(client.is_back(&known));
    assert_eq!(client.event().await, json!(["news", 1]));
    assert_eq!(recoveries(&node, "recovered").await, 3.0);
    client.wire.send("1").await;
    let has_none = async || node.metric("tidegate_socketio_sessions").await == 0.0;
    eventually("it has no session", has_none).await;
    assert!(!Client::come_back(&node, &known).await.is_back(&known), "it has left for good");
}

#[tokio::test]
async fn a_session_outlives_its_node() {
    let redis = RedisServer::start();
    a_node_is_killed(|node| node.over(&redis.url())).await;
}

#[tokio::test]
async fn over_nats_a_session_outlives_its_node() {
    let nats = NatsServer::start();
    a_node_is_killed(|node| node.over_nats(&nats.url())).await;
}

/// Lets a client resume a session that was at a killed node.
async fn a_node_is_killed(over: impl Fn(Description) -> Description) {
    let staying = over(keeping()).start().await;
    let doomed = over(keeping()).run().await;
    let mut client = Client::enter(&doomed).await;
    client.ask(r#"["join","a"]"#).await;
    publish(&staying, "socketio:a", 1).await;
    assert_eq!(client.event().await, json!(["news", 1]));
    let known = client.known.clone();
    doomed.signal(rustix::process::Signal::KILL);
    doomed.ended().await;
    publish(&staying, "socketio:a", 2).await;
    publish(&staying, "socketio:*", 3).await;
    let mut back = Client::come_back(&staying, &known).await;
    assert!(back.is_back(&known));
    let mut told = [back.event().await, back.event().await];
    told.sort_by_key(Value::to_string);
    assert_eq!(told, [json!(["news", 2]), json!(["news", 3])]);
    publish(&staying, "socketio:a", 4).await;
    assert_eq!(back.event().await, json!(["news", 4]));
}

#[tokio::test]
async fn without_redis_clients_come_in_and_have_no_session() {
    let mut redis = RedisServer::start();
    let node = keeping().over(&redis.url()).start().await;
    let known = Client::enter(&node).await.lose();
    redis.restart();
    // Redis has lost its data, and the session with it.
    eventually("it is reached again", async || node.is_ready().await).await;
    assert!(!Client::come_back(&node, &known).await.is_back(&known));
}

#[tokio::test]
async fn who_polls_comes_back() {
    let node = keeping().with("socketio.path", "/engine.io/").start().await;
    let poller = node.poller().await;
    poller.bring("40").await;
    let told = poller.fetch().await;
    let known = welcome(told.strip_prefix('4').expect("a message"));
    publish(&node, "socketio:*", 1).await;
    let told = poller.fetch().await;
    let event: Vec<Value> = serde_json::from_str(told.strip_prefix("42").expect("an event")).expect("a list");
    assert_eq!(event[..2], [json!("news"), json!(1)]);
    let known = Known { offset: event[2].as_str().map(str::to_owned), ..known };
    publish(&node, "socketio:*", 2).await;
    let back = node.poller().await;
    back.bring(&format!("40{}", json!({ "pid": known.pid, "offset": known.offset }))).await;
    let mut told = back.fetch().await;
    while !told.contains("42") {
        told = format!("{told}\u{1e}{}", back.fetch().await);
    }
    let (first, rest) = told.split_once('\u{1e}').expect("two packets");
    assert_eq!(welcome(first.strip_prefix('4').expect("a message")).pid, known.pid);
    assert!(rest.starts_with(r#"42["news",2,""#), "{rest}");
}
