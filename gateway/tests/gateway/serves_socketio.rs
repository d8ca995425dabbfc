//! Tests Socket.IO over WebSockets: namespaces, events, rooms, acknowledgements, and what other protocols receive of them.

use serde_json::{Value, json};

use crate::application::Application;
use crate::gateway::{Description, Gateway, gateway};
use crate::redis_server::RedisServer;
use crate::socketio::SocketIo;

const NAMESPACES: &str = r#"
[socketio]
enabled = true
[socketio.namespaces."/".events.say]
action = "publish"
[socketio.namespaces."/".events.tell-others]
action = "publish"
to_sender = false
[socketio.namespaces."/".events.whisper]
action = "publish"
room_argument = 0
[socketio.namespaces."/".events.join]
action = "join"
room_argument = 0
event = "joined"
[socketio.namespaces."/".events.leave]
action = "leave"
room_argument = 0
event = "left"
[socketio.namespaces."/members"]
channels = "stream"
users_only = true
[socketio.namespaces."/members".events.say]
action = "publish"
"#;

fn namespaced() -> Description {
    gateway().and(NAMESPACES)
}

async fn in_room(gateway: &Gateway, room: &str) -> (SocketIo, String) {
    let (mut client, sid) = gateway.in_main().await;
    client.send(&format!("20[\"join\",\"{room}\"]")).await;
    assert_eq!(client.next_packet().await, r#"30[{"status":"ok"}]"#);
    (client, sid)
}

#[tokio::test]
async fn without_a_section_of_its_own_there_is_one_namespace_of_which_clients_are_told() {
    let gateway = gateway().with("socketio.enabled", true).start().await;
    let (mut client, sid) = gateway.in_main().await;
    assert_eq!(sid.len(), 24);
    client.send(r#"2["say",1]"#).await;
    assert_eq!(client.next_packet().await, r#"2["error",{"code":103,"message":"permission denied"}]"#);
    let body = json!({ "channel": "socketio:*", "data": { "a": 1 }, "tags": { "event": "news" } });
    gateway.api("publish", body).await;
    assert_eq!(client.next_packet().await, r#"2["news",{"a":1}]"#);
    client.send("0/other,").await;
    assert_eq!(client.next_packet().await, r#"4/other,{"message":"Invalid namespace"}"#);
}

#[tokio::test]
async fn an_event_reaches_all_or_all_others() {
    let gateway = namespaced().start().await;
    let (mut one, _) = gateway.in_main().await;
    let (mut other, _) = gateway.in_main().await;
    one.send(r#"2["tell-others",1,"2"]"#).await;
    one.send(r#"27["say",{"a":[1]}]"#).await;
    let mut told = [one.next_packet().await, one.next_packet().await];
    told.sort();
    assert_eq!(told, [r#"2["say",{"a":[1]}]"#, r#"37[{"status":"ok"}]"#]);
    assert_eq!(other.next_packet().await, r#"2["tell-others",1,"2"]"#);
    assert_eq!(other.next_packet().await, r#"2["say",{"a":[1]}]"#);
}

#[tokio::test]
async fn clients_are_counted_by_namespace_and_their_events_by_what_came_of_them() {
    let gateway = namespaced().start().await;
    let (mut one, _) = gateway.in_main().await;
    let (other, _) = gateway.in_main().await;
    let clients = "tidegate_socketio_clients{namespace=\"/\"}";
    gateway.metric_becomes(clients, 2.0).await;
    one.send(r#"2["unheard of"]"#).await;
    one.send(r#"21["unheard of"]"#).await;
    one.send(r#"22["tell-others"]"#).await;
    for _ in 0..3 {
        one.next_packet().await;
    }
    gateway.metric_becomes("tidegate_socketio_events_total{result=\"received\"}", 3.0).await;
    gateway.metric_becomes("tidegate_socketio_events_total{result=\"refused\"}", 2.0).await;
    one.send("1").await;
    gateway.metric_becomes(clients, 1.0).await;
    drop(other);
    gateway.metric_becomes(clients, 0.0).await;
}

#[tokio::test]
async fn bytes_come_as_attachments_and_as_what_other_wires_have_for_them() {
    let gateway = namespaced().and("[namespaces.socketio]\nallow_subscribe_anonymous = true\n").start().await;
    let mut bare = gateway.raw("socketio:*").await;
    let (mut client, _) = gateway.in_main().await;
    gateway.metric_becomes("tidegate_subscriptions", 2.0).await;
    client.send(r#"51-["say",{"_placeholder":true,"num":0}]"#).await;
    client.send_bytes(&[1, 2, 255]).await;
    assert_eq!(client.next_packet().await, r#"51-["say",{"_placeholder":true,"num":0}]"#);
    assert_eq!(client.bytes().await, [1, 2, 255]);
    assert_eq!(bare.data().await.into_data().to_vec(), [1, 2, 255]);
    client.send(r#"51-["say",{"photo":{"_placeholder":true,"num":0}},2]"#).await;
    client.send_bytes(&[255]).await;
    assert_eq!(client.next_packet().await, r#"51-["say",{"photo":{"_placeholder":true,"num":0}},2]"#);
    assert_eq!(client.bytes().await, [255]);
    assert_eq!(bare.text().await, r#"[{"photo":"/w=="},2]"#);
}

#[tokio::test]
async fn rooms_are_for_those_who_are_in_them() {
    let gateway = namespaced().start().await;
    let (mut one, _) = in_room(&gateway, "a b").await;
    let (mut other, sid) = in_room(&gateway, "a b").await;
    let (mut outside, _) = gateway.in_main().await;
    assert_eq!(one.next_packet().await, format!("2[\"joined\",\"{sid}\"]"));
    other.send(r#"2["whisper","a b",1]"#).await;
    assert_eq!(
        (one.next_packet().await, other.next_packet().await),
        (r#"2["whisper",1]"#.into(), r#"2["whisper",1]"#.into())
    );
    outside.send(r#"2["whisper","a b",1]"#).await;
    assert_eq!(outside.next_packet().await, r#"2["error",{"code":103,"message":"permission denied"}]"#);
    other.send(r#"21["leave","a b","bye"]"#).await;
    assert_eq!(other.next_packet().await, r#"31[{"status":"ok"}]"#);
    assert_eq!(one.next_packet().await, r#"2["left","bye"]"#);
    outside.has_been_told_all().await;
    let body = json!({ "channel": "socketio:a%20b", "data": [1, 2], "tags": { "event": "e", "args": "2" } });
    gateway.api("publish", body).await;
    // The outside client's mark was sent to everyone.
    assert_eq!([one.next_packet().await, one.next_packet().await], [r#"2["say","mark"]"#, r#"2["e",1,2]"#]);
}

#[tokio::test]
async fn a_connection_is_in_several_namespaces_as_one_user() {
    let gateway = namespaced().start().await;
    let (mut client, _) = gateway.in_main().await;
    client.send("0/members,").await;
    let refused: Value =
        serde_json::from_str(client.next_packet().await.strip_prefix("4/members,").unwrap()).unwrap();
    assert_eq!(refused["data"]["code"], 101);
    let auth = |user: &str| json!({ "token": gateway.token(user) }).to_string();
    client.enter("/members", &auth("ann")).await;
    client.send("1/members,").await;
    client.send(&format!("0/members,{}", auth("bob"))).await;
    assert!(client.next_packet().await.contains("belongs to another user"));
    client.enter("/members", &auth("ann")).await;
    client.send(r#"2/members,["say",1]"#).await;
    assert_eq!(client.next_packet().await, r#"2/members,["say",1]"#);
}

#[tokio::test]
async fn a_wrong_token_is_told_and_another_may_be_tried() {
    let gateway = namespaced().start().await;
    let mut client = gateway.socketio().await;
    client.send(r#"0{"token":"nonsense"}"#).await;
    assert_eq!(client.next_packet().await, r#"4{"message":"invalid token","data":{"code":101}}"#);
    let auth = json!({ "token": gateway.token("ann") }).to_string();
    client.enter("/members", &auth).await;
}

#[tokio::test]
async fn history_of_other_wires_holds_what_clients_sent() {
    let gateway = namespaced().start().await;
    let mut client = gateway.socketio().await;
    client.enter("/members", &json!({ "token": gateway.token("ann") }).to_string()).await;
    client.send(r#"2/members,["say",1,2]"#).await;
    client.next_packet().await;
    let mut other = gateway.connect_as("bob").await;
    other.command("subscribe", json!({ "channel": "stream:*" })).await;
    let history = other.command("history", json!({ "channel": "stream:*", "limit": 10 })).await;
    let publication = &history["publications"][0];
    assert_eq!(publication["data"], json!([1, 2]));
    assert_eq!(publication["tags"], json!({ "event": "say", "args": "2" }));
    assert_eq!(publication["info"]["user"], "ann");
}

#[tokio::test]
async fn the_server_puts_clients_out_of_a_namespace_or_off_the_node() {
    let gateway = namespaced().start().await;
    let mut client = gateway.socketio().await;
    client.enter("/members", &json!({ "token": gateway.token("ann") }).to_string()).await;
    client.enter("/", "").await;
    gateway.api("unsubscribe", json!({ "user": "ann", "channel": "stream:*" })).await;
    assert_eq!(client.next_packet().await, "1/members,");
    client.has_been_told_all().await;
    gateway.api("disconnect", json!({ "user": "ann" })).await;
    assert_eq!(client.next_packet().await, "1", "it is not to come back");
    assert!(client.socket.is_cut_off().await);
}

#[tokio::test]
async fn what_breaks_the_protocol_or_comes_too_late_closes() {
    let gateway = namespaced().with("socketio.connect_timeout_ms", 150).start().await;
    let mut idle = gateway.socketio().await;
    let (mut client, _) = gateway.in_main().await;
    client.send("abc").await;
    while client.socket.next().await.is_ok() {}
    assert!(idle.socket.is_cut_off().await);
    gateway.metric_becomes("tidegate_closes_total{reason=\"stale\"}", 1.0).await;
}

#[tokio::test]
async fn a_node_that_stops_lets_clients_come_back() {
    let gateway = namespaced().start().await;
    let (mut client, _) = gateway.in_main().await;
    gateway.drain().await;
    assert!(client.socket.is_cut_off().await, "nobody is told to leave");
}

#[tokio::test]
async fn an_event_that_elsewhere_is_called_as_the_protocols_own_goes_by_the_usual_name() {
    let gateway = namespaced().start().await;
    let (mut client, _) = gateway.in_main().await;
    for name in ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"] {
        let body = json!({ "channel": "socketio:*", "data": name, "tags": { "event": name } });
        gateway.api("publish", body).await;
        assert_eq!(
            client.next_packet().await,
            format!("2[\"message\",\"{name}\"]"),
            "libraries take it for a fault"
        );
    }
}

#[tokio::test]
async fn who_cannot_be_let_in_for_now_has_its_connection_closed_so_that_it_comes_back() {
    let application = Application::start(|received| match received.json()["data"]["name"].as_str() {
        Some("nobody") => Some((200, r#"{"error":{"code":1001,"message":"say your name"}}"#.to_owned())),
        Some(_) => Some((200, r#"{"result":{}}"#.to_owned())),
        None => Some((503, String::new())),
    })
    .await;
    let gateway =
        handled_by(&application).and("[socketio.namespaces.\"/chat\"]\nconnect_hook = true\n").start().await;
    let mut early = gateway.socketio().await;
    early.send("0").await;
    assert!(early.socket.is_cut_off().await, "libraries do not ask again on the same connection");
    let mut wrong = gateway.socketio().await;
    wrong.send(r#"0{"name":"nobody"}"#).await;
    assert!(wrong.next_packet().await.starts_with("4{"), "that will be no better the next time");
    let mut inside = gateway.socketio().await;
    inside.enter("/", r#"{"name":"ann"}"#).await;
    inside.send("0/chat,").await;
    assert!(inside.next_packet().await.starts_with("4/chat,{"), "what it has it keeps");
    inside.enter("/chat", r#"{"name":"ann"}"#).await;
}

/// Starts a backend that answers as the handlers of a Socket.IO server would.
async fn handlers() -> Application {
    Application::start(|received| {
        let received = received.json();
        let result = match (received["type"].as_str(), received["event"].as_str()) {
            (Some("connect"), _) if received["data"]["name"] == "nobody" => {
                return Some((200, r#"{"error":{"code":1001,"message":"say your name"}}"#.to_owned()));
            }
            (Some("connect"), _) => {
                json!({ "join": ["lobby"], "emit": [{ "event": "auth", "args": [received["data"]], "to": "sender" }] })
            }
            (_, Some("ask")) => json!({ "ack": [received["args"], received["rooms"]], "ack_binary": ["/0/1"] }),
            (_, Some("move")) => json!({
                "leave": ["lobby"], "join": received["args"],
                "emit": [{ "event": "moved", "args": [received["sid"]], "rooms": received["args"] }],
                "ack": [],
            }),
            (_, Some("emit")) => json!({ "emit": [received["args"][0]] }),
            (_, Some("bye")) => json!({ "disconnect": true }),
            _ => return Some((500, String::new())),
        };
        Some((200, json!({ "result": result }).to_string()))
    })
    .await
}

fn handled_by(application: &Application) -> Description {
    gateway().with("backend.socketio.url", &application.url).with("backend.retries", 0).and(
        "[socketio]\nenabled = true\n[socketio.namespaces.\"/\"]\nconnect_hook = true\n\
         [socketio.namespaces.\"/\".events.\"*\"]\naction = \"hook\"\n\
         [socketio.namespaces.\"/\".events.direct]\naction = \"publish\"\nclient_argument = 0\n",
    )
}

/// Connects a client that the application has admitted, and reads its `auth` event.
async fn let_in(gateway: &Gateway, name: &str) -> (SocketIo, String) {
    let mut client = gateway.socketio().await;
    let sid = client.enter("/", &json!({ "name": name }).to_string()).await;
    assert_eq!(client.next_packet().await, format!("2[\"auth\",{{\"name\":\"{name}\"}}]"));
    (client, sid)
}

#[tokio::test]
async fn an_application_lets_clients_in_and_answers_their_events() {
    let application = handlers().await;
    let gateway = handled_by(&application).start().await;
    let (mut ann, sid) = let_in(&gateway, "ann").await;
    ann.send(r#"51-7["ask",1,{"_placeholder":true,"num":0}]"#).await;
    ann.send_bytes(&[255]).await;
    assert_eq!(ann.next_packet().await, r#"61-7[[1,{"_placeholder":true,"num":0}],["lobby"]]"#);
    assert_eq!(ann.bytes().await, [255]);
    ann.send(r#"28["move","tea"]"#).await;
    let mut told = [ann.next_packet().await, ann.next_packet().await];
    told.sort();
    assert_eq!(told, [format!("2[\"moved\",\"{sid}\"]"), "38[]".to_owned()], "who joins hears what follows");
    ann.send(r#"29["broken"]"#).await;
    assert!(ann.next_packet().await.starts_with(r#"39[{"status":"error","code":100"#));
    ann.send(r#"2["bye"]"#).await;
    assert_eq!(ann.next_packet().await, "1");

    let mut nobody = gateway.socketio().await;
    nobody.send(r#"0{"name":"nobody"}"#).await;
    let refused = r#"4{"message":"say your name","data":{"code":1001}}"#;
    assert_eq!(nobody.next_packet().await, refused);
    nobody.enter("/", r#"{"name":"bob"}"#).await;

    let received: Vec<Value> = application.requests("/").iter().map(|received| received.json()).collect();
    let event = &received[1];
    assert_eq!(
        (&event["type"], &event["namespace"], &event["sid"]),
        (&json!("event"), &json!("/"), &json!(sid))
    );
    assert_eq!((&event["args"], &event["binary"]), (&json!([1, "/w=="]), &json!(["/1"])));
    assert_eq!((&event["protocol"], &event["rooms"]), (&json!("socketio"), &json!(["lobby"])));
}

#[tokio::test]
async fn an_event_reaches_whoever_it_is_for_once() {
    let application = handlers().await;
    let redis = RedisServer::start();
    let nodes = [
        handled_by(&application).over(&redis.url()).start().await,
        handled_by(&application).over(&redis.url()).start().await,
    ];
    let (mut ann, ann_sid) = let_in(&nodes[0], "ann").await;
    let (mut bob, bob_sid) = let_in(&nodes[1], "bob").await;
    let (mut eve, eve_sid) = let_in(&nodes[1], "eve").await;
    for (client, room) in [(&mut ann, "a"), (&mut bob, "b")] {
        client.send(&format!("20[\"move\",\"{room}\"]")).await;
        let told = [client.next_packet().await, client.next_packet().await];
        assert!(told.contains(&"30[]".to_owned()), "{told:?}");
    }
    // Each case ends with a mark for every client.
    for (emit, [to_ann, to_bob, to_eve]) in [
        (json!({ "rooms": ["a", "b"] }), [true, true, false]),
        (json!({ "rooms": ["a", "b", "lobby"], "except": ["b"] }), [true, false, true]),
        (json!({ "except": ["a", bob_sid] }), [false, false, true]),
        (json!({ "rooms": [eve_sid, "a"], "to": "others" }), [false, false, true]),
        (json!({ "rooms": [bob_sid] }), [false, true, false]),
        (json!({ "rooms": ["nobody is here"] }), [false, false, false]),
        (json!({ "volatile": true }), [true, true, true]),
        (json!({ "to": "sender" }), [true, false, false]),
        (json!({ "to": "others" }), [false, true, true]),
    ] {
        let mut emit = emit;
        emit["event"] = json!("e");
        emit["args"] = json!([1]);
        ann.send(&format!("2[\"emit\",{emit}]")).await;
        ann.send(r#"2["emit",{"event":"mark"}]"#).await;
        for (client, hears) in [(&mut ann, to_ann), (&mut bob, to_bob), (&mut eve, to_eve)] {
            if hears {
                assert_eq!(client.next_packet().await, r#"2["e",1]"#, "{emit}");
            }
            assert_eq!(client.next_packet().await, r#"2["mark"]"#, "{emit}");
        }
    }
    eve.send(&format!("2[\"direct\",\"{ann_sid}\",\"psst\"]")).await;
    assert_eq!(ann.next_packet().await, r#"2["direct","psst"]"#);
    eve.send(r#"21["direct","nobody","psst"]"#).await;
    assert_eq!(eve.next_packet().await, r#"31[{"status":"error","code":107,"message":"bad request"}]"#);
}

#[tokio::test]
async fn rooms_span_nodes() {
    let redis = RedisServer::start();
    let (here, there) =
        (namespaced().over(&redis.url()).start().await, namespaced().over(&redis.url()).start().await);
    let (mut one, _) = in_room(&here, "a").await;
    let (mut other, sid) = in_room(&there, "a").await;
    assert_eq!(one.next_packet().await, format!("2[\"joined\",\"{sid}\"]"));
    one.send(r#"2["whisper","a",1]"#).await;
    assert_eq!(
        (one.next_packet().await, other.next_packet().await),
        (r#"2["whisper",1]"#.into(), r#"2["whisper",1]"#.into())
    );
}
