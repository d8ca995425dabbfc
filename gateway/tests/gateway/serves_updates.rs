//! Tests `/.well-known/mercure`: subscribing to updates of topics, and publishing them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gateway_core::catch_up::FRESH;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use ring::hmac;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::application::Application;
use crate::client::Client;
use crate::gateway::{Description, Gateway, gateway};
use crate::http::{self, Answer};
use crate::redis_server::RedisServer;
use crate::response::{Response, ask};

const PATH: &str = "/.well-known/mercure";
/// The secret in the node's configuration.
const SECRET: &str = "a secret of the tests, thirty-two bytes or more";
const FORM: &str = "Content-Type: application/x-www-form-urlencoded\r\n";

/// A configured section for the hub's namespace that equals the built-in one.
const OPEN: &str = "[namespaces.mercure]\nhistory_size = 300\nhistory_ttl_s = 3600\nforce_recovery = true\n\
                    allow_subscribe = true\nallow_subscribe_anonymous = true\n";

fn hub() -> Description {
    gateway().with("mercure.enabled", true)
}

/// Returns a token with these claims.
fn token(claims: &Value) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let signed =
        format!("{}.{}", encode(br#"{"alg":"HS256","typ":"JWT"}"#), encode(claims.to_string().as_bytes()));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    format!("{signed}.{}", encode(hmac::sign(&key, signed.as_bytes()).as_ref()))
}

fn bearer(mercure: &Value) -> String {
    format!("Authorization: Bearer {}\r\n", token(&json!({ "mercure": mercure })))
}

fn form(pairs: &[(&str, &str)]) -> String {
    let pair =
        |(name, value): &(&str, &str)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC));
    pairs.iter().map(pair).collect::<Vec<_>>().join("&")
}

async fn follow(gateway: &Gateway, pairs: &[(&str, &str)], headers: &str) -> Response<TcpStream> {
    ask(gateway, "GET", &format!("{PATH}?{}", form(pairs)), headers, "").await
}

async fn try_publish(gateway: &Gateway, headers: &str, pairs: &[(&str, &str)]) -> Answer {
    http::request(gateway.address, "POST", PATH, &format!("{FORM}{headers}"), &form(pairs)).await
}

/// Publishes with the permission for all topics, and returns the update's id.
async fn publish(gateway: &Gateway, pairs: &[(&str, &str)]) -> String {
    let answer = try_publish(gateway, &bearer(&json!({ "publish": ["*"] })), pairs).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    String::from_utf8(answer.body).expect("text")
}

/// Returns the fields of the next event, without comments.
async fn event(stream: &mut Response<TcpStream>) -> Vec<(String, String)> {
    let event = stream.until("\n\n").await.expect("an event");
    let fields = event.lines().filter(|line| !line.starts_with(':')).filter_map(|line| line.split_once(": "));
    fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

async fn data(stream: &mut Response<TcpStream>) -> String {
    let event = event(stream).await;
    let lines = event.iter().filter(|(name, _)| name == "data").map(|(_, value)| &**value);
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn an_update_comes_to_those_who_follow_one_of_its_topics_each_once() {
    let gateway = hub().start().await;
    let book = "https://example.com/books/1";
    let mut by_name = follow(&gateway, &[("topic", book)], "").await;
    assert_eq!(by_name.status, 200);
    assert_eq!(by_name.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(by_name.header("link"), Some("</.well-known/mercure>; rel=\"mercure\""));
    let mut by_template = follow(&gateway, &[("topic", "https://example.com/books/{id}")], "").await;
    let mut by_several =
        follow(&gateway, &[("topic", "other"), ("topic", book), ("topic", "alternate")], "").await;
    let mut by_star = follow(&gateway, &[("topic", "*")], "").await;
    let mut others = follow(&gateway, &[("topic", "https://example.com/authors/{id}")], "").await;

    let pairs = [
        ("topic", book),
        ("topic", "alternate"),
        ("data", "one\n\ntwo"),
        ("id", "id-1"),
        ("type", "t"),
        ("retry", "5"),
    ];
    assert_eq!(publish(&gateway, &pairs).await, "id-1");
    let second = publish(&gateway, &[("topic", book), ("data", "{}")]).await;
    assert!(second.starts_with("urn:uuid:"), "{second}");
    for stream in [&mut by_name, &mut by_template, &mut by_several, &mut by_star] {
        let first = event(stream).await;
        let fields =
            [("event", "t"), ("retry", "5"), ("data", "one"), ("data", ""), ("data", "two"), ("id", "id-1")];
        assert_eq!(first, fields.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(event(stream).await[1], ("id".to_owned(), second.clone()));
    }
    publish(&gateway, &[("topic", "https://example.com/authors/1"), ("data", "x")]).await;
    assert_eq!(data(&mut others).await, "x", "and nothing before it");
}

#[tokio::test]
async fn private_updates_are_for_those_whose_token_names_a_topic_of_them() {
    let gateway = hub().start().await;
    let selectors = json!({ "subscribe": ["https://example.com/users/ann/{?topic}"] });
    let ann = token(&json!({ "mercure": selectors }));
    let cookie = format!("Cookie: a=b; mercureAuthorization={ann}\r\n");
    let in_header = bearer(&selectors);
    let (one, all) = ([("topic", "/books/1")], [("topic", "/books/{id}")]);
    let mut allowed = vec![
        follow(&gateway, &one, &in_header).await,
        follow(&gateway, &all, &in_header).await,
        follow(&gateway, &one, &cookie).await,
        follow(&gateway, &[("topic", "/books/1"), ("authorization", &ann)], "").await,
    ];
    let mut strangers = vec![
        follow(&gateway, &one, "").await,
        follow(&gateway, &all, "").await,
        follow(&gateway, &one, &bearer(&json!({ "subscribe": ["/books/2"] }))).await,
    ];
    // Private updates are kept from clients of other protocols too.
    let mut native = Client::new(gateway.open("/connection/websocket", &[]).await);
    native.command("connect", json!({})).await;
    native.subscribe("mercure:/books/1").await;
    let user_topic = "https://example.com/users/ann/?topic=%2Fbooks%2F1";
    publish(&gateway, &[("topic", "/books/1"), ("topic", user_topic), ("data", "secret"), ("private", "on")])
        .await;
    publish(&gateway, &[("topic", "/books/1"), ("data", "public")]).await;
    for stream in &mut allowed {
        assert_eq!((data(stream).await, data(stream).await), ("secret".to_owned(), "public".to_owned()));
    }
    for stream in &mut strangers {
        assert_eq!(data(stream).await, "public");
    }
    assert_eq!(native.publication().await.data, "public");
    assert_eq!(native.refused("history", json!({ "channel": "mercure:/books/1", "limit": 10 })).await, 103);
    // Nor are private updates found in the retained history.
    for (headers, expected) in [(&*in_header, "secret"), ("", "public")] {
        let mut stream =
            follow(&gateway, &[("topic", "/books/1"), ("lastEventID", "earliest")], headers).await;
        assert_eq!(data(&mut stream).await, expected);
    }
}

#[tokio::test]
async fn who_comes_back_is_given_what_came_after_the_last_update() {
    let gateway = hub().start().await;
    for number in 1..=4 {
        publish(&gateway, &[("topic", "a"), ("id", &format!("id-{number}")), ("data", &number.to_string())])
            .await;
    }
    for topics in [&[("topic", "a")][..], &[("topic", "a"), ("topic", "b")], &[("topic", "{name}")]] {
        let mut stream = follow(&gateway, topics, "Last-Event-ID: id-2\r\n").await;
        assert_eq!(stream.header("last-event-id"), Some("id-2"));
        assert_eq!((data(&mut stream).await, data(&mut stream).await), ("3".to_owned(), "4".to_owned()));
        let in_query = [topics, &[("lastEventID", "id-3")]].concat();
        let mut stream = follow(&gateway, &in_query, "").await;
        assert_eq!(stream.header("last-event-id"), Some("id-3"));
        assert_eq!(data(&mut stream).await, "4");
        let mut stream = follow(&gateway, topics, "Last-Event-ID: earliest\r\n").await;
        assert_eq!(stream.header("last-event-id"), Some("earliest"));
        assert_eq!(data(&mut stream).await, "1");
        let mut stream = follow(&gateway, topics, "Last-Event-ID: never-there\r\n").await;
        assert_eq!(stream.header("last-event-id"), Some("earliest"));
        let id = publish(&gateway, &[("topic", "a"), ("data", "new")]).await;
        assert_eq!(event(&mut stream).await, [("data".to_owned(), "new".to_owned()), ("id".to_owned(), id)]);
        // Prepares four updates for the next iteration.
        let end = follow(&gateway, topics, "").await;
        assert_eq!(end.header("last-event-id"), None);
        break_history(&gateway).await;
    }
}

/// Clears the test's channels and publishes the same four updates again.
async fn break_history(gateway: &Gateway) {
    for channel in ["mercure:a", "mercure:*"] {
        gateway.api("history_remove", json!({ "channel": channel })).await;
    }
    for number in 1..=4 {
        publish(gateway, &[("topic", "a"), ("id", &format!("id-{number}")), ("data", &number.to_string())])
            .await;
    }
}

#[tokio::test]
async fn publishing_takes_a_token_that_names_every_topic() {
    let gateway = hub().with("http.allowed_origins", "https://good.example").start().await;
    let may = |publish: &[&str]| bearer(&json!({ "publish": publish }));
    let own = token(&json!({ "mercure": { "publish": ["a"] } }));
    let cookie = format!("Cookie: mercureAuthorization={own}\r\n");
    let good = "Origin: https://good.example\r\n";
    for (headers, pairs, status) in [
        (String::new(), &[("topic", "a")][..], 401),
        ("Authorization: Bearer x.y.z\r\n".to_owned(), &[("topic", "a")], 401),
        ("Authorization: Basic x\r\n".to_owned(), &[("topic", "a")], 400),
        (bearer(&json!({ "subscribe": ["*"] })), &[("topic", "a")], 403),
        (may(&[]), &[("topic", "a")], 403),
        (may(&["a"]), &[("topic", "a"), ("topic", "b")], 403),
        (may(&["a"]), &[("topic", "a")], 200),
        (may(&["*"]), &[("topic", "a"), ("topic", "b")], 200),
        (may(&["*"]), &[("data", "x")], 400),
        (may(&["*"]), &[("topic", "a"), ("id", "#x")], 400),
        (may(&["*"]), &[("topic", "with a space")], 400),
        (may(&["*"]), &[("topic", "names#ann")], 400),
        (cookie.clone(), &[("topic", "a")], 403),
        (format!("{cookie}{good}"), &[("topic", "a")], 200),
        (format!("{cookie}Origin: https://bad.example\r\n"), &[("topic", "a")], 403),
    ] {
        let answer = try_publish(&gateway, &headers, pairs).await;
        assert_eq!(answer.status, status, "{headers} {pairs:?} {answer:?}");
    }
    let json = format!("Content-Type: application/json\r\n{}", may(&["*"]));
    assert_eq!(http::request(gateway.address, "POST", PATH, &json, "{}").await.status, 415);
    let preflight = http::request(gateway.address, "OPTIONS", PATH, good, "").await;
    assert_eq!(preflight.status, 204);
    assert_eq!(follow(&gateway, &[("topic", "")], "").await.status, 400);
}

#[tokio::test]
async fn a_namespace_that_is_not_open_is_read_only_by_tokens() {
    let gateway =
        hub().and("[namespaces.mercure]\nhistory_size = 10\nhistory_ttl_s = 60\nforce_recovery = true\n");
    let gateway = gateway.start().await;
    for pairs in [[("topic", "a")], [("topic", "*")]] {
        assert_eq!(follow(&gateway, &pairs, "").await.status, 403);
    }
    let own = bearer(&json!({ "subscribe": ["a"] }));
    assert_eq!(follow(&gateway, &[("topic", "b")], &own).await.status, 403);
    let mut by_name = follow(&gateway, &[("topic", "a")], &own).await;
    let mut by_star = follow(&gateway, &[("topic", "*")], &own).await;
    publish(&gateway, &[("topic", "b"), ("data", "not for it")]).await;
    publish(&gateway, &[("topic", "a"), ("data", "for it")]).await;
    for stream in [&mut by_name, &mut by_star] {
        assert_eq!(data(stream).await, "for it");
    }
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let gateway = hub().start().await;
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let headers = format!("Authorization: Bearer {}\r\n", token(&json!({ "exp": now + 2, "mercure": {} })));
    let mut stream = follow(&gateway, &[("topic", "a")], &headers).await;
    assert_eq!(stream.status, 200);
    assert_eq!(stream.until("\n").await.as_deref(), Some(":"));
    assert!(stream.is_over().await);
    assert_eq!(follow(&gateway, &[("topic", "a")], &headers).await.status, 401);
}

#[tokio::test]
async fn what_is_published_another_way_is_an_update_of_its_topic() {
    let gateway = hub().with("namespaces.mercure.allow_publish_anonymous", true).and(OPEN).start().await;
    let mut by_name = follow(&gateway, &[("topic", "/books/1")], "").await;
    let mut by_template = follow(&gateway, &[("topic", "/books/{id}")], "").await;
    let mut by_several = follow(&gateway, &[("topic", "a"), ("topic", "/books/1")], "").await;
    let mut others = follow(&gateway, &[("topic", "/authors/{id}")], "").await;
    let channel = "mercure:/books/1";
    let named = json!({ "channel": channel, "data": { "by": "the API" }, "tags": { "event": "changed" } });
    gateway.api("publish", named).await;
    let mut native = Client::new(gateway.open("/connection/websocket", &[]).await);
    native.command("connect", json!({})).await;
    native.subscribe(channel).await;
    native.command("publish", json!({ "channel": channel, "data": "by a client" })).await;
    let mut ids = Vec::new();
    for stream in [&mut by_name, &mut by_template, &mut by_several] {
        let first = event(stream).await;
        assert_eq!((&*first[0].0, &*first[0].1), ("event", "changed"));
        assert_eq!((&*first[1].0, &*first[1].1), ("data", r#"{"by":"the API"}"#));
        ids.push(first[2].1.clone());
        assert_eq!(data(stream).await, r#""by a client""#);
    }
    assert!(ids[0].starts_with("urn:uuid:") && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    // The id is a position to recover from, for either kind of topic.
    for topic in ["/books/1", "/books/{id}"] {
        let mut back = follow(&gateway, &[("topic", topic), ("lastEventID", &ids[0])], "").await;
        assert_eq!(back.header("last-event-id"), Some(&*ids[0]));
        assert_eq!(data(&mut back).await, r#""by a client""#);
    }
    gateway.publish("mercure:/authors/1", json!("x")).await;
    assert_eq!(data(&mut others).await, r#""x""#, "and nothing before it");
    gateway.metric_becomes("tidegate_connections{protocol=\"mercure\"}", 4.0).await;
}

#[tokio::test]
async fn what_was_published_before_is_no_update_again() {
    let gateway = hub().start().await;
    let mut all = follow(&gateway, &[("topic", "*")], "").await;
    assert_eq!(all.status, 200);
    let publish = async |channel: &str, more: Value| {
        let mut body = json!({ "channel": channel, "data": channel });
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        gateway.api("publish", body).await;
    };
    // Idempotency keys and versions apply to one channel each.
    for channel in ["mercure:a", "mercure:b", "mercure:a", "mercure:b"] {
        publish(channel, json!({ "idempotency_key": "once" })).await;
    }
    for (channel, version) in [("mercure:c", 7), ("mercure:d", 3), ("mercure:c", 7), ("mercure:d", 4)] {
        publish(channel, json!({ "version": version })).await;
    }
    for expected in ["a", "b", "c", "d", "d"] {
        assert_eq!(data(&mut all).await, format!("\"mercure:{expected}\""));
    }
    // Publications for some users are not sent to everyone.
    publish("mercure:e#ann", json!({})).await;
    publish("mercure:f", json!({})).await;
    assert_eq!(data(&mut all).await, "\"mercure:f\"");
}

#[tokio::test]
async fn the_application_is_asked_about_an_update_in_each_of_its_topics() {
    let application = Application::start(|received| match received.json()["channel"].as_str() {
        Some("mercure:shut") => Some((200, r#"{"error":{"code":403,"message":"not here"}}"#.to_owned())),
        Some("mercure:mended") => Some((
            200,
            r#"{"result":{"data":{"mended":true},"tags":{"event":"seen","mercure.id":"forged"}}}"#.to_owned(),
        )),
        Some("mercure:broken") => Some((500, String::new())),
        _ => Some((200, r#"{"result":{}}"#.to_owned())),
    })
    .await;
    let gateway = hub()
        .with("backend.publish.url", format!("{}/publish", application.url))
        .with("namespaces.mercure.publish_hook", true)
        .and(OPEN)
        .start()
        .await;
    let mut all = follow(&gateway, &[("topic", "*")], "").await;
    let may = bearer(&json!({ "publish": ["*"] }));
    for (topics, status) in [
        (&[("topic", "open"), ("topic", "shut")][..], 403),
        (&[("topic", "shut"), ("topic", "open")], 403),
        (&[("topic", "broken")], 503),
        (&[("topic", "open"), ("topic", "mended"), ("data", "as sent"), ("id", "own")], 200),
    ] {
        let answer = try_publish(&gateway, &may, topics).await;
        assert_eq!(answer.status, status, "{topics:?} {answer:?}");
    }
    let told = event(&mut all).await;
    let fields = [("event", "seen"), ("data", r#"{"mended":true}"#), ("id", "own")];
    assert_eq!(
        told,
        fields.map(|(name, value)| (name.to_owned(), value.to_owned())),
        "and nothing before it"
    );
    let received: Vec<Value> =
        application.requests("/publish").iter().map(|received| received.json()).collect();
    let channels: Vec<&str> = received.iter().filter_map(|received| received["channel"].as_str()).collect();
    assert_eq!(
        channels,
        ["mercure:open", "mercure:shut", "mercure:shut", "mercure:broken", "mercure:open", "mercure:mended"]
    );
    assert_eq!((&received[0]["protocol"], &received[0]["transport"]), (&json!("mercure"), &json!("http")));
}

#[tokio::test]
async fn all_who_come_back_together_are_told_by_one_read() {
    let redis = RedisServer::start();
    let gateway = hub().over(&redis.url()).start().await;
    for number in 1..=20 {
        publish(&gateway, &[("topic", "a"), ("id", &format!("id-{number}")), ("data", &number.to_string())])
            .await;
    }
    let topics = [[("topic", "a")], [("topic", "{any}")]];
    let here = [follow(&gateway, &topics[0], "").await, follow(&gateway, &topics[1], "").await];
    assert!(here.iter().all(|stream| stream.status == 200));
    // Unlike the broker's metrics, this one does not count the reads of a node's readiness probe.
    let reads = "tidegate_catch_ups_total{from=\"read\"}";
    let (before, start) = (gateway.metric(reads).await, std::time::Instant::now());
    let back = (0..60).map(|number| {
        let last = format!("Last-Event-ID: id-{}\r\n", 1 + number % 19);
        let (gateway, topics) = (&gateway, &topics[number % 2]);
        async move {
            let mut stream = follow(gateway, topics, &last).await;
            let mut next = 2 + number % 19;
            while next <= 20 {
                assert_eq!(data(&mut stream).await, next.to_string());
                next += 1;
            }
        }
    });
    futures_util::future::join_all(back).await;
    let read = gateway.metric(reads).await - before;
    // One read for each of the two channels, and another whenever the last one is too old.
    let allowed = 2.0 * (1.0 + (start.elapsed().as_secs_f64() / FRESH.as_secs_f64()).floor());
    assert!(read <= allowed, "{read} reads");
}

#[tokio::test]
async fn who_follows_what_is_listed_and_told_to_those_who_may_know() {
    let gateway = hub().with("mercure.subscriptions", true).start().await;
    let list = "/.well-known/mercure/subscriptions";
    let any = json!({ "subscribe": [format!("{list}{{/topic}}{{/subscriber}}")] });
    let mut watching =
        follow(&gateway, &[("topic", &format!("{list}/a/{{subscriber}}"))], &bearer(&any)).await;
    assert_eq!(watching.status, 200);
    let mut stranger = follow(&gateway, &[("topic", "*")], "").await;
    assert_eq!(stranger.status, 200);

    let ann = bearer(&json!({ "payload": { "name": "Ann" } }));
    let follower = follow(&gateway, &[("topic", "a"), ("topic", "https://b.example/{id}")], &ann).await;
    assert_eq!(follower.status, 200);
    let begun: Value = serde_json::from_str(&data(&mut watching).await).expect("JSON");
    assert_eq!(
        (&begun["type"], &begun["topic"], &begun["active"]),
        (&json!("Subscription"), &json!("a"), &json!(true))
    );
    assert_eq!(begun["payload"], json!({ "name": "Ann" }));

    let get =
        async |path: &str, headers: &str| http::request(gateway.address, "GET", path, headers, "").await;
    assert_eq!(get(list, "").await.status, 401);
    assert_eq!(get(list, &ann).await.status, 403);
    let listed = get(list, &bearer(&any)).await;
    assert_eq!(listed.status, 200, "{listed:?}");
    let listed: Value = serde_json::from_slice(&listed.body).expect("JSON");
    assert_eq!((&listed["@context"], &listed["id"]), (&json!("https://mercure.rocks/"), &json!(list)));
    assert!(listed["lastEventID"].as_str().is_some_and(|id| id.starts_with("urn:uuid:")), "{listed}");
    let topics: Vec<&str> = listed["subscriptions"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|one| one["topic"].as_str())
        .collect();
    assert!(
        topics.contains(&"a") && topics.contains(&"https://b.example/{id}") && topics.contains(&"*"),
        "{topics:?}"
    );
    let of_topic = get(&format!("{list}/https%3A%2F%2Fb.example%2F%7Bid%7D"), &bearer(&any)).await;
    let of_topic: Value = serde_json::from_slice(&of_topic.body).expect("JSON");
    assert_eq!(of_topic["subscriptions"].as_array().map(Vec::len), Some(1));
    let own = begun["id"].as_str().expect("an id");
    let one: Value = serde_json::from_slice(&get(own, &bearer(&any)).await.body).expect("JSON");
    assert_eq!((&one["id"], &one["subscriber"]), (&begun["id"], &begun["subscriber"]));

    drop(follower);
    let ended: Value = serde_json::from_str(&data(&mut watching).await).expect("JSON");
    assert_eq!((&ended["id"], &ended["active"]), (&begun["id"], &json!(false)));
    assert_eq!(get(own, &bearer(&any)).await.status, 404);
    publish(&gateway, &[("topic", "a"), ("data", "public")]).await;
    assert_eq!(data(&mut stranger).await, "public", "and nothing of subscriptions before it");
}

/// Readers differ in how they treat blocks without data and half an event at the end of a stream: see the page on event streams.
#[tokio::test]
async fn every_block_has_data_and_ends_with_its_id() {
    let gateway = hub()
        .with("sse.enabled", true)
        .with("session.ping_interval_ms", 1_000)
        .with("session.pong_timeout_ms", 500)
        .and(OPEN)
        .start()
        .await;
    let mercure = format!("{PATH}?topic=a");
    for (path, first) in [
        ("/sse?channel=mercure:a", "event: subscribed\n"),
        ("/sse?channel=mercure:a&channel=b", "event: subscribed\n"),
        (&mercure, ":\n"),
    ] {
        let mut stream = ask(&gateway, "GET", path, "", "").await;
        let mut block = stream.until("\n").await.expect("it begins") + "\n";
        assert_eq!(block, first, "{path}");
        // An idle stream contains comments, not followed by an empty line.
        if first.starts_with(':') {
            assert_eq!(stream.until("\n").await.as_deref(), Some(":"), "{path}");
            block.clear();
        } else {
            block += &stream.until("\n\n").await.expect("a block");
            let (data, id) = (block.find("\ndata: ").expect("data"), block.find("\nid: ").expect("an id"));
            let retry = block.find("\nretry: ").expect("a time to come back after");
            assert!(
                data < retry
                    && retry < id
                    && block.lines().last().is_some_and(|last| last.starts_with("id: "))
            );
            assert_eq!(stream.until("\n").await.as_deref(), Some(":"), "{path}");
        }
        publish(&gateway, &[("topic", "a"), ("data", "1"), ("type", "t"), ("retry", "9")]).await;
        let block = stream.until("\n\n").await.expect("a block");
        let lines: Vec<&str> = block.lines().filter(|line| *line != ":").collect();
        assert!(lines.last().is_some_and(|last| last.starts_with("id: ")), "{path} {block}");
        assert!(lines.contains(&"data: 1") && lines.iter().all(|line| !line.is_empty()) && block.is_ascii());
    }
}

#[tokio::test]
async fn what_only_version_1_0_asks_for_is_refused_and_not_passed_over() {
    let gateway = hub().start().await;
    for query in ["match=a", "match_exact=a", "match_urlpattern=/books/:id"] {
        let answer = http::request(gateway.address, "GET", &format!("{PATH}?{query}"), "", "").await;
        assert_eq!(answer.status, 400, "{query}");
        assert!(String::from_utf8_lossy(&answer.body).contains("topic"), "{query} {answer:?}");
    }
}

#[tokio::test]
async fn it_is_there_only_where_it_is_switched_on() {
    let gateway = gateway().start().await;
    assert_eq!(http::request(gateway.address, "GET", &format!("{PATH}?topic=a"), "", "").await.status, 404);
}
