//! Tests `/sse`: channels as event streams, for `EventSource`.

use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::application::Application;
use crate::gateway::{Description, Gateway, eventually, gateway};
use crate::http;
use crate::redis_server::RedisServer;
use crate::response::{Response, ask, ask_on};

fn served() -> Description {
    gateway().with("sse.enabled", true)
}

/// Requests an event stream.
async fn follow(gateway: &Gateway, query: &str, headers: &str) -> Response<TcpStream> {
    ask(gateway, "GET", &format!("/sse?{query}"), headers, "").await
}

/// Returns the fields of the next event.
async fn event(stream: &mut Response<TcpStream>) -> Vec<(String, String)> {
    let event = stream.until("\n\n").await.expect("an event");
    let field = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
    event.lines().filter_map(field).collect()
}

fn field<'a>(event: &'a [(String, String)], name: &str) -> Option<&'a str> {
    event.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
}

/// Reads the first event and returns its data and its id.
async fn begun(stream: &mut Response<TcpStream>) -> (Value, String) {
    let first = event(stream).await;
    assert_eq!(field(&first, "event"), Some("subscribed"), "{first:?}");
    let said = serde_json::from_str(field(&first, "data").expect("data")).expect("JSON");
    (said, field(&first, "id").unwrap_or_default().to_owned())
}

#[tokio::test]
async fn one_channel_is_followed_and_gone_on_with_from_the_last_id() {
    let gateway = served().start().await;
    let mut stream = follow(&gateway, "channel=stream:a", "").await;
    assert_eq!(stream.status, 200);
    assert_eq!(stream.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(stream.header("x-accel-buffering"), Some("no"));
    let (said, first_id) = begun(&mut stream).await;
    assert_eq!(said["channels"], json!({ "stream:a": {} }));
    gateway.publish("stream:a", json!({ "a": 1 })).await;
    let one = event(&mut stream).await;
    assert_eq!((field(&one, "data"), field(&one, "event")), (Some(r#"{"a":1}"#), None));
    let id = field(&one, "id").expect("an id").to_owned();
    assert!(id.starts_with("stream:a=") && id.ends_with(":1") && first_id.ends_with(":0"), "{id} {first_id}");
    drop(stream);

    gateway.publish("stream:a", json!(2)).await;
    gateway.publish("stream:a", json!(3)).await;
    let in_query = format!("channel=stream:a&lastEventId={}", id.replace('=', "%3D"));
    for (query, headers) in
        [("channel=stream:a", format!("Last-Event-ID: {id}\r\n")), (&*in_query, String::new())]
    {
        let mut stream = follow(&gateway, query, &headers).await;
        let (said, _) = begun(&mut stream).await;
        assert_eq!(said["channels"]["stream:a"]["recovered"], true);
        for expected in ["2", "3"] {
            assert_eq!(field(&event(&mut stream).await, "data"), Some(expected));
        }
    }
    let mut stream = follow(&gateway, "channel=stream:a", "Last-Event-ID: stream:a=another:1\r\n").await;
    let (said, id) = begun(&mut stream).await;
    assert!(said["channels"]["stream:a"]["recovered"] == false && id.ends_with(":3"), "{said} {id}");
}

#[tokio::test]
async fn each_event_of_several_channels_says_where_all_of_them_stand() {
    let gateway = served().start().await;
    let several = "channel=stream:a&channel=stream:b&channel=c";
    let mut stream = follow(&gateway, several, "").await;
    let (said, _) = begun(&mut stream).await;
    assert_eq!(said["channels"], json!({ "stream:a": {}, "stream:b": {}, "c": {} }));
    let mut id = String::new();
    for (channel, data) in [("stream:b", 1), ("c", 2), ("stream:a", 3), ("stream:b", 4)] {
        gateway.publish(channel, json!(data)).await;
        let one = event(&mut stream).await;
        assert_eq!(field(&one, "event"), Some(channel));
        assert_eq!(field(&one, "data"), Some(&*data.to_string()));
        id = field(&one, "id").unwrap_or(&id).to_owned();
    }
    let offsets = |id: &str| -> Vec<String> {
        id.split('&').map(|pair| pair.rsplit_once(':').expect("an offset").1.to_owned()).collect()
    };
    assert_eq!(offsets(&id), ["1", "2"], "{id}");
    drop(stream);

    for (channel, data) in [("stream:b", 5), ("stream:a", 6), ("stream:b", 7)] {
        gateway.publish(channel, json!(data)).await;
    }
    let mut stream = follow(&gateway, several, &format!("Last-Event-ID: {id}\r\n")).await;
    let (said, begun_at) = begun(&mut stream).await;
    assert_eq!(begun_at, id);
    assert_eq!(said["channels"]["stream:a"], json!({ "recovered": true }));
    // The channels are recovered one after the other, and the id of each event is a position to recover from.
    let mut told = Vec::new();
    for _ in 0..3 {
        let one = event(&mut stream).await;
        told.push((
            field(&one, "data").expect("data").to_owned(),
            offsets(field(&one, "id").expect("an id")),
        ));
    }
    let at = |data: &str, a: &str, b: &str| (data.to_owned(), vec![a.to_owned(), b.to_owned()]);
    assert_eq!(told, [at("6", "2", "2"), at("5", "2", "3"), at("7", "2", "4")]);
    gateway.publish("stream:a", json!(8)).await;
    assert_eq!(offsets(field(&event(&mut stream).await, "id").expect("an id")), ["3", "4"]);
}

#[tokio::test]
async fn events_have_their_names_as_types_for_those_who_ask_for_them() {
    let gateway = served().start().await;
    let mut named = follow(&gateway, "channel=stream:a&names=true", "").await;
    let mut plain = follow(&gateway, "channel=stream:a", "").await;
    let (_, began) = begun(&mut named).await;
    begun(&mut plain).await;
    let publish = async |data: u32, tags: Value| {
        gateway.api("publish", json!({ "channel": "stream:a", "data": data, "tags": tags })).await;
    };
    let told = [Some("price"), None, None, None, Some("café")];
    publish(0, json!({ "event": "price" })).await;
    publish(1, json!({ "other": "price" })).await;
    publish(2, json!({ "event": "x\ndata: forged" })).await;
    publish(3, json!({ "event": "disconnect" })).await;
    publish(4, json!({ "event": "café" })).await;
    for (data, name) in told.iter().enumerate() {
        let (one, other) = (event(&mut named).await, event(&mut plain).await);
        assert_eq!(field(&one, "event"), *name, "{one:?}");
        assert_eq!(field(&one, "data"), Some(&*data.to_string()));
        assert_eq!(field(&other, "event"), None, "onmessage would not hear it");
    }
    // Recovered events have names too.
    let mut back =
        follow(&gateway, "channel=stream:a&names=true", &format!("Last-Event-ID: {began}\r\n")).await;
    begun(&mut back).await;
    assert_eq!(field(&event(&mut back).await, "event"), Some("price"));
    for query in ["channel=stream:a&channel=b&names=true", "channel=stream:a&names=yes"] {
        assert_eq!(follow(&gateway, query, "").await.status, 400, "{query}");
    }
}

#[tokio::test]
async fn lines_and_bytes_come_through() {
    let gateway = served().start().await;
    let mut stream = follow(&gateway, "channel=stream:a", "").await;
    begun(&mut stream).await;
    gateway.api("publish", json!({ "channel": "stream:a", "data": { "a": "x\ny" } })).await;
    assert_eq!(field(&event(&mut stream).await, "data"), Some(r#"{"a":"x\ny"}"#));
    gateway.api("publish", json!({ "channel": "stream:a", "b64data": "AP8K" })).await;
    assert_eq!(field(&event(&mut stream).await, "data"), Some("AP8K"));
    let mut raw = gateway.open("/raw/stream:a", &[]).await;
    raw.send("one\ntwo\r\n").await;
    let lines: Vec<_> = event(&mut stream).await.into_iter().filter(|(name, _)| name == "data").collect();
    assert_eq!(lines.iter().map(|(_, line)| &**line).collect::<Vec<_>>(), ["one", "two", ""]);
}

#[tokio::test]
async fn who_may_not_is_told_so_by_a_status() {
    let gateway = served()
        .with("auth.allow_anonymous", false)
        .with("http.allowed_origins", "https://good.example")
        .and("[namespaces.shut]\n[namespaces.keys]\nsubscription_type = \"map\"\nallow_subscribe = true\n")
        .start()
        .await;
    let token = gateway.token("ann");
    let good = "Origin: https://good.example\r\n";
    let bearer = format!("Authorization: Bearer {token}\r\n");
    for (query, headers, status) in [
        ("channel=news".to_owned(), String::new(), 401),
        ("channel=news&token=wrong".to_owned(), good.to_owned(), 401),
        ("channel=news".to_owned(), "Authorization: Basic x\r\n".to_owned(), 400),
        ("channel=".to_owned(), bearer.clone(), 400),
        ("channel=a&channel=open".to_owned(), bearer.clone(), 400),
        ("channel=nowhere:a".to_owned(), bearer.clone(), 400),
        ("channel=keys:a".to_owned(), bearer.clone(), 400),
        ("channel=shut:a".to_owned(), bearer.clone(), 403),
        ("channel=news&channel=shut:a".to_owned(), bearer.clone(), 403),
        ("channel=news".to_owned(), format!("{bearer}Origin: https://bad.example\r\n"), 403),
        ("channel=news".to_owned(), format!("{bearer}{good}"), 200),
        (format!("channel=news&token={token}"), good.to_owned(), 200),
    ] {
        let response = follow(&gateway, &query, &headers).await;
        assert_eq!(response.status, status, "{query} {headers}");
        let is_let_in = headers.contains("good.example");
        assert_eq!(response.header("access-control-allow-origin").is_some(), is_let_in, "{query} {headers}");
        assert_eq!(response.header("www-authenticate").is_some(), status == 401, "{query}");
    }
    for (method, status) in [("POST", 405), ("OPTIONS", 403)] {
        let origin = "Origin: https://bad.example\r\n";
        let headers = if method == "OPTIONS" { origin } else { &bearer };
        let answer = http::request(gateway.address, method, "/sse?channel=news", headers, "").await;
        assert_eq!(answer.status, status, "{method}");
    }
    gateway.metric_becomes("tidegate_handshakes_total{result=\"accepted\"}", 2.0).await;
}

#[tokio::test]
async fn it_is_there_only_where_it_is_switched_on() {
    let gateway = gateway().start().await;
    assert_eq!(http::request(gateway.address, "GET", "/sse?channel=news", "", "").await.status, 404);
}

#[tokio::test]
async fn a_client_is_present_and_counted_and_leaves_with_its_connection() {
    let gateway = served().start().await;
    let mut stream = follow(&gateway, "channel=stream:a", "").await;
    let (said, _) = begun(&mut stream).await;
    let presence = gateway.api("presence", json!({ "channel": "stream:a" })).await;
    assert!(presence["presence"][said["client"].as_str().expect("an id")].is_object(), "{presence}");
    gateway.metric_becomes("tidegate_connections{protocol=\"sse\"}", 1.0).await;
    drop(stream);
    gateway.metric_becomes("tidegate_connections{protocol=\"sse\"}", 0.0).await;
    eventually("nobody is present", async || {
        let presence = gateway.api("presence", json!({ "channel": "stream:a" })).await;
        presence["presence"] == json!({})
    })
    .await;
}

#[tokio::test]
async fn the_end_says_why_and_the_stream_ends_as_it_should() {
    let gateway = served().start().await;
    for query in ["channel=stream:a", "channel=stream:a&channel=stream:b"] {
        let mut stream = follow(&gateway, query, "").await;
        let (said, _) = begun(&mut stream).await;
        gateway.api("disconnect", json!({ "user": "", "client": said["client"] })).await;
        let last = event(&mut stream).await;
        assert_eq!(field(&last, "event"), Some("disconnect"));
        assert_eq!(field(&last, "data"), Some(r#"{"code":3503,"reason":"force disconnect"}"#));
        assert!(stream.is_over().await, "{query}");
    }
    let mut stream = follow(&gateway, "channel=stream:a", "").await;
    begun(&mut stream).await;
    let drained = tokio::spawn(gateway.drain());
    assert_eq!(field(&event(&mut stream).await, "data"), Some(r#"{"code":3001,"reason":"shutdown"}"#));
    assert!(stream.is_over().await);
    drop(stream);
    drained.await.expect("drained");
}

#[tokio::test]
async fn what_may_be_over_the_next_time_ends_the_stream_and_is_no_status() {
    let redis = RedisServer::start();
    let gateway = served().over(&redis.url()).with("redis.timeout_ms", 300).start().await;
    redis.freeze();
    for query in ["channel=stream:a", "channel=stream:a&channel=stream:b"] {
        let mut stream = follow(&gateway, query, "").await;
        assert_eq!(stream.status, 200, "after any other a reader would not come back: {query}");
        assert_eq!(field(&event(&mut stream).await, "event"), Some("disconnect"));
        assert!(stream.is_over().await, "{query}");
    }
    redis.thaw();
}

#[tokio::test]
async fn old_clients_of_http_are_served_without_chunks() {
    let gateway = served().start().await;
    let stream = TcpStream::connect(gateway.address).await.expect("the node listens");
    let mut stream = ask_on(stream, "HTTP/1.0", "GET", "/sse?channel=stream:a", "", "").await;
    assert_eq!((stream.status, stream.header("transfer-encoding")), (200, None));
    begun(&mut stream).await;
    gateway.publish("stream:a", json!(1)).await;
    assert_eq!(field(&event(&mut stream).await, "data"), Some("1"));
}

#[tokio::test]
async fn the_application_says_who_may_follow_where_its_channels_have_it_asked() {
    let application = Application::start(|received| match received.json()["channel"].as_str() {
        Some("good") => Some((200, r#"{"result":{}}"#.to_owned())),
        _ => Some((200, r#"{"error":{"code":403,"message":"not you"}}"#.to_owned())),
    })
    .await;
    let gateway = served()
        .with("backend.subscribe.url", format!("{}/subscribe", application.url))
        .with("channels.subscribe_hook", true)
        .start()
        .await;
    assert_eq!(follow(&gateway, "channel=good", "").await.status, 200);
    assert_eq!(follow(&gateway, "channel=bad", "").await.status, 403);
    let received = application.requests("/subscribe")[0].json();
    assert_eq!((&received["protocol"], &received["transport"]), (&json!("sse"), &json!("uni_sse")));
}

#[tokio::test]
async fn a_silent_stream_shows_that_it_lives() {
    let gateway =
        served().with("session.ping_interval_ms", 1_000).with("session.pong_timeout_ms", 500).start().await;
    let mut stream = follow(&gateway, "channel=news", "").await;
    begun(&mut stream).await;
    for _ in 0..3 {
        assert_eq!(stream.until("\n").await.as_deref(), Some(":"));
    }
}
