//! Tests commands of the server API that affect clients on any node.

use std::net::Ipv4Addr;

use serde_json::json;

use crate::gateway::{eventually, gateway};
use crate::http;
use crate::redis_server::RedisServer;
use crate::relay::Relay;
use crate::response::ask;
use crate::spans_nodes::nodes;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_any_node_are_subscribed_by_the_server_and_hear_what_follows() {
    let redis = RedisServer::start();
    let [here, there] = nodes::<2>(&redis).await;
    eventually("both listen", async || here.is_ready().await && there.is_ready().await).await;
    let node = here.node();
    eventually("both are announced", async || node.nodes().await.is_ok_and(|nodes| nodes.len() == 2)).await;
    let mut ann = there.connect_as("ann").await;
    here.publish("stream:news", json!("before")).await;
    let parameters = json!({
        "user": "ann", "channel": "stream:news", "data": {"n": 1.50},
        "override": {"force_recovery": {"value": true}, "presence": null},
    });
    here.api("subscribe", parameters.clone()).await;
    let push = ann.push().await["push"].clone();
    assert_eq!(push["channel"], "stream:news");
    assert_eq!(push["subscribe"]["data"], json!({"n": 1.5}), "{push}");
    assert_eq!(push["subscribe"]["offset"], 1, "{push}");
    here.publish("stream:news", json!("after")).await;
    assert_eq!(ann.publication().await.data, "after");
    // Subscribing a client that is already subscribed changes nothing.
    here.api("subscribe", parameters).await;
    let list = here.api("connections", json!({"channel": "stream:news"})).await;
    assert_eq!(list["connections"].as_object().map(|all| all.len()), Some(1));
    here.api("unsubscribe", json!({"user": "ann", "channel": "stream:news"})).await;
    assert_eq!(ann.unsubscribed().await, ("stream:news".to_owned(), 2000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_published_after_a_subscription_was_acknowledged_reaches_the_client() {
    let redis = RedisServer::start();
    let relay = Relay::start((Ipv4Addr::LOCALHOST, redis.port()).into(), b"SUBSCRIBE").await;
    let node = gateway().over(&format!("redis://127.0.0.1:{}", relay.port())).with("redis.ping_ms", 200);
    let node = node.start().await;
    eventually("it listens", async || node.is_ready().await).await;
    let mut ann = node.connect_as("ann").await;
    let subscription = json!({"user": "ann", "channel": "chat"});
    // Redis does not answer the node's SUBSCRIBE until the node has noticed that the connection is dead.
    relay.silence();
    eventually("it is acknowledged", async || {
        node.try_api("subscribe", &subscription).await.body == br#"{"result":{}}"#
    })
    .await;
    node.publish("chat", json!("after")).await;
    assert_eq!(ann.push().await["push"]["channel"], "chat");
    assert_eq!(ann.publication().await.data, "after");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_for_a_subscription_is_told_if_it_comes_to_nothing() {
    let gateway = gateway()
        .with("session.channels_max", 1)
        .with("namespaces.polled.subscription_type", "shared_poll")
        .with("shared_poll.hmac_secret", "a secret of thirty-two bytes, at least")
        .with("backend.polls.app.url", "http://127.0.0.1:9/poll")
        .with("namespaces.polled.shared_poll.backend", "app")
        .start()
        .await;
    let mut ann = gateway.connect_as("ann").await;
    ann.subscribe("chat").await;
    let subscribed = async |user: &str, channel: &str| {
        let answer = gateway.try_api("subscribe", &json!({"user": user, "channel": channel})).await;
        String::from_utf8(answer.body).expect("text")
    };
    let refused = subscribed("ann", "polled:all").await;
    assert!(refused.starts_with(r#"{"error":{"code":107,"#), "{refused}");
    let failed = subscribed("ann", "stream:news").await;
    assert!(failed.starts_with(r#"{"error":{"code":106,"#), "{failed}");
    assert_eq!(ann.closed().await.0, 3505);
    assert_eq!(subscribed("bob", "stream:news").await, r#"{"result":{}}"#, "who is not there misses nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_says_how_long_connections_are_good_for() {
    let redis = RedisServer::start();
    let [here, there] = nodes::<2>(&redis).await;
    eventually("both listen", async || here.is_ready().await && there.is_ready().await).await;
    let node = here.node();
    eventually("both are announced", async || node.nodes().await.is_ok_and(|nodes| nodes.len() == 2)).await;
    let (mut ann, mut bob) = (there.connect_as("ann").await, there.connect_as("bob").await);
    here.api("refresh", json!({"user": "ann", "expire_at": 4_000_000_000_i64})).await;
    let push = ann.push().await["push"].clone();
    assert_eq!(push["refresh"]["expires"], true, "{push}");
    assert!(push["refresh"]["ttl"].as_u64().is_some_and(|ttl| ttl > 1_000_000), "{push}");
    here.api("refresh", json!({"user": "bob", "expired": true})).await;
    assert_eq!(bob.closed().await.0, 3005);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_session_is_commanded_and_no_other_of_its_user() {
    let redis = RedisServer::start();
    let [here, there] = nodes::<2>(&redis).await;
    eventually("both listen", async || here.is_ready().await && there.is_ready().await).await;
    let node = here.node();
    eventually("both are announced", async || node.nodes().await.is_ok_and(|nodes| nodes.len() == 2)).await;
    let connect = json!({"id": 1, "connect": {"token": there.token("ann")}}).to_string();
    let mut meant = ask(&there, "POST", "/connection/http_stream", "", &connect).await;
    let session = meant.line().await.expect("connected")["connect"]["session"].clone();
    let mut other = ask(&there, "POST", "/connection/sse", "", &connect).await;
    other.event().await.expect("connected");
    let subscription = json!({"session": session, "channel": "stream:news"});

    here.api("subscribe", subscription.clone()).await;
    assert!(meant.line().await.expect("a push")["push"]["subscribe"].is_object());
    let list = here.api("connections", json!({"channel": "stream:news"})).await;
    let listed: Vec<_> = list["connections"].as_object().expect("connections").values().collect();
    assert_eq!(listed.len(), 1);
    assert_eq!((&listed[0]["transport"], &listed[0]["protocol"]), (&json!("http_stream"), &json!("json")));

    // Session and user must both match.
    for nobody in [json!({"session": session, "user": "bob"}), json!({"session": "A".repeat(22)})] {
        here.api("disconnect", nobody).await;
    }
    here.api("refresh", json!({"session": session, "expire_at": 4_000_000_000_i64})).await;
    assert!(meant.line().await.expect("a push")["push"]["refresh"].is_object());
    here.api("unsubscribe", subscription).await;
    assert_eq!(meant.line().await.expect("a push")["push"]["unsubscribe"]["code"], 2000);
    here.api("disconnect", json!({"session": session})).await;
    assert_eq!(meant.line().await.expect("a push")["push"]["disconnect"]["code"], 3503);
    assert!(meant.is_over().await);
    here.api("disconnect", json!({"user": "ann", "disconnect": {"code": 4000, "reason": "all"}})).await;
    assert_eq!(other.event().await.expect("a push")["push"]["disconnect"]["code"], 4000);
}

#[tokio::test]
async fn it_is_listed_how_clients_are_reached_and_what_they_speak() {
    let gateway = gateway().start().await;
    let _socket = gateway.connect_as("ann").await;
    let _bare = gateway.open("/raw/news", &[]).await;
    let connect = json!({"id": 1, "connect": {}}).to_string();
    let mut kept = Vec::new();
    for (path, connect) in [
        ("/connection/sse", &*connect),
        ("/connection/http_stream", &connect),
        ("/connection/uni_sse", "{}"),
        ("/connection/uni_http_stream", "{}"),
    ] {
        kept.push(ask(&gateway, "POST", path, "", connect).await);
    }
    let told = kept[3].line().await.expect("connected")["connect"].clone();
    gateway.metric_becomes("tidegate_connections", 6.0).await;
    eventually("all are in", async || {
        let list = gateway.api("connections", json!({})).await;
        list["connections"].as_object().is_some_and(|all| all.len() == 6)
    })
    .await;
    let list = gateway.api("connections", json!({})).await;
    let mut listed: Vec<_> = list["connections"]
        .as_object()
        .expect("connections")
        .values()
        .map(|one| format!("{} {}", one["transport"], one["protocol"]).replace('"', ""))
        .collect();
    listed.sort_unstable();
    assert_eq!(
        listed,
        [
            "http_stream json",
            "sse json",
            "uni_http_stream json",
            "uni_sse json",
            "websocket json",
            "websocket raw"
        ]
    );
    gateway.api("disconnect", json!({"session": told["session"]})).await;
    let end = kept[3].line().await.expect("a push");
    assert_eq!(end["disconnect"]["code"], 3503, "{end}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_holds_no_connection_publishes_with_its_token_as_far_as_it_may() {
    let gateway = gateway()
        .with("namespaces.open.allow_publish_for_client", true)
        .with("namespaces.open.allow_subscribe", true)
        .with("namespaces.closed.allow_subscribe", true)
        .with("http.allowed_origins", "https://a.example")
        .start()
        .await;
    let mut bob = gateway.connect_as("bob").await;
    bob.subscribe("open:chat").await;
    let token = gateway.token("ann");
    let send = async |token: &str, origin: &str, body: &str| {
        let headers = format!("Authorization: Bearer {token}\r\nOrigin: {origin}\r\n");
        http::request(gateway.address, "POST", "/connection/publish", &headers, body).await
    };
    let page = "https://a.example";
    let answer = send(&token, page, r#"{"channel":"open:chat","data":{ "n" : 1 }}"#).await;
    assert_eq!((answer.status, &answer.body[..]), (200, &b"{\"result\":{}}"[..]));
    let push = bob.push().await["push"].clone();
    assert_eq!(
        (&push["pub"]["data"], &push["pub"]["info"]["user"]),
        (&json!({"n": 1}), &json!("ann")),
        "{push}"
    );
    for (token, origin, body, status) in [
        (&*token, page, r#"{"channel":"closed:chat","data":1}"#, 403),
        (&token, page, r#"{"channel":"unknown:chat","data":1}"#, 404),
        (&token, page, r#"{"channel":"open:chat"}"#, 400),
        (&token, page, r#"{"channel":"a b","data":1}"#, 400),
        (&token, page, "{", 400),
        (&token, "https://b.example", r#"{"channel":"open:chat","data":1}"#, 403),
        ("no.token.here", page, r#"{"channel":"open:chat","data":1}"#, 401),
        ("", page, r#"{"channel":"open:chat","data":1}"#, 401),
    ] {
        let answer = send(token, origin, body).await;
        assert_eq!(answer.status, status, "{origin} {body}: {answer:?}");
    }
    let headers = format!("Origin: {page}\r\nAccess-Control-Request-Headers: authorization\r\n");
    let preflight = http::request(gateway.address, "OPTIONS", "/connection/publish", &headers, "").await;
    assert_eq!(preflight.status, 204);
    assert_eq!(http::request(gateway.address, "GET", "/connection/publish", "", "").await.status, 405);
}
