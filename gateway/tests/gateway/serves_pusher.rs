//! Tests Pusher clients: channels, events and members, shared with every other protocol.

use serde_json::{Value, json};

use crate::gateway::gateway;
use crate::pusher::APP;

fn wrong(path: &str) -> String {
    format!("/app/{path}")
}

#[tokio::test]
async fn what_is_published_by_anyone_is_an_event_with_a_name_and_data() {
    let gateway = gateway().and(APP).start().await;
    let mut client = gateway.pusher().await;
    client.subscribe("news").await;
    let data = json!({ "a": [1, "é"] });
    let publication = json!({ "channel": "shop:news", "data": data, "tags": { "event": "price" } });
    gateway.api("publish", publication).await;
    assert_eq!(client.hears("price", "news").await, data);
    gateway.publish("shop:news", json!("text")).await;
    assert_eq!(client.hears("message", "news").await, json!("text"), "what has no name has this one");
    client.say(json!({ "event": "pusher:unsubscribe", "data": { "channel": "news" } })).await;
    client.hears_nothing().await;
    gateway.publish("shop:news", json!(1)).await;
    client.hears_nothing().await;
}

#[tokio::test]
async fn the_protocols_own_names_are_nobodys_events() {
    let gateway = gateway().and(APP).start().await;
    let mut client = gateway.pusher().await;
    client.subscribe("news").await;
    for name in ["pusher:error", "pusher_internal:subscription_succeeded"] {
        let body = json!({ "name": name, "channel": "news", "data": "{}" }).to_string();
        let (status, why) = gateway.pusher_api("POST", "/events", "", &body).await;
        assert_eq!(status, 400, "{why}");
        let publication = json!({ "channel": "shop:news", "data": 1, "tags": { "event": name } });
        gateway.api("publish", publication).await;
        assert_eq!(client.hears("message", "news").await, json!(1));
    }
    client.ask("private-a", None).await;
    client.hears("pusher_internal:subscription_succeeded", "private-a").await;
    // Half of a surrogate pair, in a string of data.
    let half = r#"{"event":"client-a","channel":"private-a","data":"\"\ud83d\""}"#;
    client.socket.send(half.to_owned()).await;
    assert_eq!(client.hear().await.0, "pusher:error", "and it stays connected");
    client.subscribe("more").await;
}

#[tokio::test]
async fn a_room_of_another_wire_that_asks_for_a_signature_has_no_other_door() {
    let rooms = "[socketio]\nenabled = true\n[socketio.namespaces.\"/\"]\nchannels = \"shop\"\n\
                 [socketio.namespaces.\"/\".events.join]\naction = \"join\"\nroom_argument = 0\n";
    let gateway = gateway().and(APP).and(rooms).start().await;
    let (mut client, _) = gateway.in_main().await;
    for (room, answer) in [
        ("private-a", r#"{"status":"error","code":103"#),
        ("presence-a", r#"{"status":"error","code":103"#),
        ("private-encrypted-a", r#"{"status":"error","code":103"#),
        ("news", r#"{"status":"ok"}"#),
    ] {
        client.send(&format!("21[\"join\",\"{room}\"]")).await;
        let told = client.next_packet().await;
        assert!(told.starts_with(&format!("31[{answer}")), "{room}: {told}");
    }
}

#[tokio::test]
async fn client_events_reach_everybody_else_in_any_protocol() {
    let gateway = gateway()
        .and(APP)
        .and("[namespaces.shop]\nallow_subscribe = true\nallow_subscribe_anonymous = true\n")
        .start()
        .await;
    let (mut one, mut other) = (gateway.pusher().await, gateway.pusher().await);
    for client in [&mut one, &mut other] {
        client.subscribe("private-map").await;
    }
    one.say(json!({ "event": "client-moved", "channel": "private-map", "data": { "x": 1 } })).await;
    assert_eq!(other.hears("client-moved", "private-map").await, json!({ "x": 1 }));
    one.hears_nothing().await;
    // Also of events that are delivered together, each client misses only its own.
    for number in 0..5 {
        let from = if number % 2 == 0 { &mut one } else { &mut other };
        from.say(json!({ "event": "client-n", "channel": "private-map", "data": number })).await;
    }
    let (mut of_one, mut of_other) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        of_one.push(one.hears("client-n", "private-map").await);
    }
    for _ in 0..3 {
        of_other.push(other.hears("client-n", "private-map").await);
    }
    assert_eq!((of_one, of_other), (vec![json!(1), json!(3)], vec![json!(0), json!(2), json!(4)]));

    let mut native = gateway.connect_as("ann").await;
    assert_eq!(native.refused("subscribe", json!({ "channel": "shop:private-map" })).await, 103);
    native.subscribe("shop:news").await;
    gateway.publish("shop:news", json!({ "y": 1 })).await;
    assert_eq!(native.publication().await.data, json!({ "y": 1 }));
}

#[tokio::test]
async fn members_are_users_and_a_user_is_there_from_its_first_client_to_its_last() {
    let gateway = gateway().and(APP).start().await;
    let (mut ann, mut bob, mut bob_again) =
        (gateway.pusher().await, gateway.pusher().await, gateway.pusher().await);
    assert_eq!(ann.enter("presence-room", "ann").await, ["ann"]);
    assert_eq!(bob.enter("presence-room", "bob").await, ["ann", "bob"]);
    let added = ann.hears("pusher_internal:member_added", "presence-room").await;
    assert_eq!(added, json!({ "user_id": "bob", "user_info": { "name": "bob" } }));
    assert_eq!(bob_again.enter("presence-room", "bob").await, ["ann", "bob"]);
    bob.socket.close().await;
    let event = json!({ "event": "client-hi", "channel": "presence-room", "data": {} });
    bob_again.say(event).await;
    let message: Value = serde_json::from_str(&ann.socket.text().await).expect("JSON");
    assert_eq!((&message["event"], &message["user_id"]), (&json!("client-hi"), &json!("bob")));
    bob_again.hears_nothing().await;
    bob_again.say(json!({ "event": "pusher:unsubscribe", "data": { "channel": "presence-room" } })).await;
    let removed = ann.hears("pusher_internal:member_removed", "presence-room").await;
    assert_eq!(removed, json!({ "user_id": "bob" }));
    let present = gateway.api("presence", json!({ "channel": "shop:presence-room" })).await;
    let present = present["presence"].as_object().expect("clients").values().next().expect("ann").clone();
    assert_eq!((&present["user"], &present["chan_info"]), (&json!("ann"), &json!({ "name": "ann" })));
}

#[tokio::test]
async fn a_presence_channel_has_room_for_so_many_users_and_their_further_clients() {
    let gateway = gateway().and(APP).and("presence_members_max = 1\n").start().await;
    let (mut ann, mut bob) = (gateway.pusher().await, gateway.pusher().await);
    ann.enter("presence-room", "ann").await;
    bob.ask("presence-room", Some(json!({ "user_id": "bob" }))).await;
    let error = bob.hears("pusher:subscription_error", "presence-room").await;
    assert_eq!(error["type"], "LimitReached");
    assert_eq!(gateway.pusher().await.enter("presence-room", "ann").await, ["ann"]);
}

#[tokio::test]
async fn a_cache_channel_gives_its_last_event_whoever_has_published_it() {
    let gateway = gateway().and(APP).start().await;
    let mut client = gateway.pusher().await;
    client.subscribe("private-cache-price").await;
    client.hears("pusher:cache_miss", "private-cache-price").await;
    for number in [1, 2] {
        gateway.publish("shop:private-cache-price", json!(number)).await;
        assert_eq!(client.hears("message", "private-cache-price").await, json!(number));
    }
    let mut late = gateway.pusher().await;
    late.subscribe("private-cache-price").await;
    assert_eq!(late.hears("message", "private-cache-price").await, json!(2));
    gateway.publish("shop:private-cache-price", json!(3)).await;
    assert_eq!(late.hears("message", "private-cache-price").await, json!(3));
}

#[tokio::test]
async fn who_has_signed_in_has_a_channel_of_its_own_and_is_seen_by_those_who_watch() {
    let gateway = gateway().and(APP).start().await;
    let (mut ann, mut bob) = (gateway.pusher().await, gateway.pusher().await);
    ann.ask("#server-to-user-ann", None).await;
    ann.hears("pusher:subscription_error", "#server-to-user-ann").await;
    ann.sign_in(json!({ "id": "ann", "watchlist": ["bob"] })).await;
    ann.subscribe("#server-to-user-ann").await;
    gateway.api("publish", json!({ "channel": "shop:#ann", "data": 1, "tags": { "event": "hi" } })).await;
    assert_eq!(ann.hears("hi", "#server-to-user-ann").await, json!(1));
    bob.sign_in(json!({ "id": "bob", "watchlist": ["ann"] })).await;
    let told = |name: &str, user: &str| json!({ "events": [{ "name": name, "user_ids": [user] }] });
    assert_eq!(bob.hears("pusher_internal:watchlist_events", "").await, told("online", "ann"));
    assert_eq!(ann.hears("pusher_internal:watchlist_events", "").await, told("online", "bob"));
    bob.socket.close().await;
    assert_eq!(ann.hears("pusher_internal:watchlist_events", "").await, told("offline", "bob"));
    let connections = gateway.api("connections", json!({ "user": "shop:ann" })).await;
    assert_eq!(connections["connections"].as_object().expect("clients").len(), 1);
}

#[tokio::test]
async fn who_is_not_let_in_is_told_why_in_codes_that_keep_it_away() {
    let gateway = gateway().and(APP).start().await;
    for (path, code) in [
        (wrong("other?protocol=7"), 4001),
        (wrong("key"), 4008),
        (wrong("key?protocol=4"), 4007),
        (wrong("key?protocol=8"), 4007),
        (wrong("key?protocol=seven"), 4006),
    ] {
        let mut socket = gateway.open(&path, &[]).await;
        let told: Value = serde_json::from_str(&socket.text().await).expect("JSON");
        assert_eq!((&told["event"], &told["data"]["code"]), (&json!("pusher:error"), &json!(code)), "{path}");
        assert_eq!(socket.closed().await.0, code, "{path}");
    }
    let mut broken = gateway.pusher().await;
    broken.socket.send("no JSON").await;
    assert_eq!(broken.hear().await.2["code"], 4009);
    assert_eq!(broken.socket.closed().await.0, 4009);
    let mut forger = gateway.pusher().await;
    let data = json!({ "auth": "key:00", "user_data": "{\"id\":\"1\"}" });
    forger.say(json!({ "event": "pusher:signin", "data": data })).await;
    assert_eq!(forger.hear().await.2["code"], 4009);
}

#[tokio::test]
async fn a_drain_brings_clients_back_after_a_second_and_a_disconnect_for_good() {
    let gateway = gateway().and(APP).start().await;
    let mut sent_away = gateway.pusher().await;
    sent_away.sign_in(json!({ "id": "ann" })).await;
    gateway.api("disconnect", json!({ "user": "shop:ann" })).await;
    assert_eq!(sent_away.hear().await.2["code"], 4009);
    assert_eq!(sent_away.socket.closed().await.0, 4009);
    let mut drained = gateway.pusher().await;
    gateway.drain().await;
    assert_eq!(drained.hear().await.2, json!({ "code": 4100, "message": "shutdown" }));
    assert_eq!(drained.socket.closed().await.0, 4100);
}

#[tokio::test]
async fn a_drain_lets_clients_go_one_after_the_other_as_they_all_come_back_after_the_same_second() {
    let gateway = gateway().and(APP).with("workers.count", 1).with("drain.grace_ms", 60_000).start().await;
    let (mut one, mut other) = (gateway.pusher().await, gateway.pusher().await);
    let drained = tokio::spawn(gateway.drain());
    // One client is closed at once, the other after half of the grace period.
    let (told, mut stays) = tokio::select! {
        told = one.hear() => (told, other),
        told = other.hear() => (told, one),
    };
    assert_eq!(told.2["code"], 4100);
    stays.hears_nothing().await;
    stays.socket.close().await;
    drained.await.expect("nobody is left to wait for");
}

#[tokio::test]
async fn what_an_apps_server_triggers_reaches_clients_of_every_protocol_but_the_one_excepted() {
    let gateway = gateway()
        .and(APP)
        .and("[namespaces.shop]\nallow_subscribe = true\nallow_subscribe_anonymous = true\n")
        .start()
        .await;
    let (mut one, mut other) = (gateway.pusher().await, gateway.pusher().await);
    one.subscribe("news").await;
    other.subscribe("news").await;
    let mut native = gateway.connect().await;
    native.subscribe("shop:news").await;
    let data = r#"{"a":1}"#;
    let event = json!({ "name": "price", "channels": ["news"], "data": data, "socket_id": one.id });
    let answer = gateway.pusher_api("POST", "/events", "", &event.to_string()).await;
    assert_eq!(answer, (200, "{}".to_owned()));
    assert_eq!(other.hears("price", "news").await, json!({ "a": 1 }));
    one.hears_nothing().await;
    let push = native.push().await["push"].take();
    assert_eq!(
        (&push["pub"]["data"], &push["pub"]["tags"]),
        (&json!({ "a": 1 }), &json!({ "event": "price" }))
    );

    let event =
        json!({ "name": "e", "channel": "news", "data": "x", "info": "subscription_count,user_count" });
    let batch = json!({ "batch": [event, { "name": "e", "channel": "presence-a", "data": "y" }] });
    let (status, told) = gateway.pusher_api("POST", "/batch_events", "", &batch.to_string()).await;
    assert_eq!((status, &*told), (200, r#"{"batch":[{"subscription_count":3},{}]}"#));
    assert_eq!(one.hears("e", "news").await, json!("x"));
}

#[tokio::test]
async fn subscribers_are_told_how_many_they_are_where_the_app_wants_that() {
    let gateway = gateway().and(APP).and("subscription_counts = true\n").start().await;
    let count = |number: u32| json!({ "subscription_count": number });
    let event = "pusher_internal:subscription_count";
    let mut one = gateway.pusher().await;
    one.subscribe("news").await;
    assert_eq!(one.hears(event, "news").await, count(1));
    let mut other = gateway.pusher().await;
    other.subscribe("news").await;
    assert_eq!(one.hears(event, "news").await, count(2));
    other.socket.close().await;
    assert_eq!(one.hears(event, "news").await, count(1));
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_its_status() {
    let gateway = gateway().and(APP).start().await;
    let status = async |method, path, more, body: &str| gateway.pusher_api(method, path, more, body).await.0;
    assert_eq!(status("POST", "/events", "", "{}").await, 400);
    let large = json!({ "name": "e", "channel": "a", "data": "x".repeat(10 * 1024 + 1) }).to_string();
    assert_eq!(status("POST", "/events", "", &large).await, 413);
    assert_eq!(status("POST", "/events", "", &"x".repeat(200 * 1024)).await, 413);
    assert_eq!(status("GET", "/events", "", "").await, 405);
    assert_eq!(status("GET", "/nothing", "", "").await, 404);
    assert_eq!(status("GET", "/channels", "info=user_count", "").await, 400);
    assert_eq!(status("GET", "/channels/news/users", "", "").await, 400);
    assert_eq!(status("GET", "/channels", "x=1", "").await, 200);
    let unsigned = crate::http::request(gateway.api, "GET", "/apps/1/channels", "", "").await;
    assert_eq!(unsigned.status, 401);
    let unknown = crate::http::request(gateway.api, "GET", "/apps/2/channels", "", "").await;
    assert_eq!(unknown.status, 401);
}

#[tokio::test]
async fn an_app_with_its_api_elsewhere_is_asked_there_alone() {
    let gateway = gateway().and(APP).with("api.listen", "127.0.0.1:0").start().await;
    assert_eq!(gateway.pusher_api("GET", "/channels", "", "").await, (200, r#"{"channels":{}}"#.to_owned()));
    let elsewhere = crate::http::request(gateway.address, "GET", "/apps/1/channels", "", "").await;
    assert_eq!(elsewhere.status, 404);
}

#[tokio::test]
async fn users_are_sent_away_also_by_a_library_that_names_no_app() {
    let gateway = gateway().and(APP).start().await;
    let (mut ann, mut bob) = (gateway.pusher().await, gateway.pusher().await);
    ann.sign_in(json!({ "id": "ann" })).await;
    bob.sign_in(json!({ "id": "b/b" })).await;
    let terminate = async |path: &str| gateway.pusher_api("POST", path, "", "{}").await;
    assert_eq!(terminate("/users/ann/terminate_connections").await, (200, "{}".to_owned()));
    assert_eq!(ann.hear().await.2["code"], 4009);
    bob.hears_nothing().await;
    assert_eq!(terminate("/users/b%2Fb/terminate_connections").await, (200, "{}".to_owned()));
    assert_eq!(bob.hear().await.2["code"], 4009);
    let unsigned = "/users/ann/terminate_connections?auth_key=key";
    assert_eq!(crate::http::request(gateway.api, "POST", unsigned, "", "").await.status, 401);
    let nobodys = "/users/ann/terminate_connections?auth_key=other";
    assert_eq!(crate::http::request(gateway.api, "POST", nobodys, "", "").await.status, 401);
    assert_eq!(terminate("/users/ann/other").await.0, 404);
}

#[tokio::test]
async fn without_a_word_about_it_there_is_no_pusher() {
    let gateway = gateway().start().await;
    assert!(gateway.try_open("/app/key?protocol=7", &[]).await.is_err());
}
