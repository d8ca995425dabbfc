//! Tests GraphQL over server-sent events: one stream per operation, and one stream for all operations of a client.

use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::gateway::{Gateway, eventually};
use crate::graphql::served;
use crate::http::{self, Answer};
use crate::response::{Response, ask};

const NEWS: &str = r#"subscription { message(topic: "news") }"#;
const STREAM: &str = "Accept: text/event-stream\r\n";
const TOKEN: &str = "X-GraphQL-Event-Stream-Token";

/// Returns the type and the data of the next event.
async fn event(stream: &mut Response<TcpStream>) -> (String, Value) {
    loop {
        let event = stream.until("\n\n").await.expect("an event");
        let field = |name: &str| {
            let mut lines = event.lines().filter(|line| !line.starts_with(':'));
            lines.find_map(|line| line.strip_prefix(name)).map(|value| value.trim_start().to_owned())
        };
        if let Some(kind) = field("event:") {
            let data = field("data:").unwrap_or_default();
            return (kind, serde_json::from_str(&data).unwrap_or_default());
        }
    }
}

async fn operation(gateway: &Gateway, query: &str) -> Response<TcpStream> {
    ask(gateway, "POST", "/graphql", STREAM, &json!({ "query": query }).to_string()).await
}

async fn request(gateway: &Gateway, method: &str, path: &str, headers: &str, body: Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    http::request(gateway.address, method, path, headers, &body).await
}

async fn reserve(gateway: &Gateway) -> String {
    let reserved = request(gateway, "PUT", "/graphql", "", Value::Null).await;
    assert_eq!((reserved.status, reserved.header("content-type")), (201, Some("text/plain; charset=utf-8")));
    String::from_utf8(reserved.body).expect("a token is text")
}

fn named(token: &str) -> String {
    format!("{TOKEN}: {token}\r\n")
}

fn start(id: &str, query: &str) -> Value {
    json!({ "query": query, "extensions": { "operationId": id } })
}

#[tokio::test]
async fn an_operation_is_a_stream_that_ends_with_it() {
    let gateway = served().start().await;
    let ann = format!("{STREAM}Authorization: Bearer {}\r\n", gateway.token("ann"));
    let body = json!({ "query": NEWS }).to_string();
    let mut stream = ask(&gateway, "POST", "/graphql", &ann, &body).await;
    assert_eq!(
        (stream.status, stream.header("content-type")),
        (200, Some("text/event-stream; charset=utf-8"))
    );
    gateway.metric_becomes("tidegate_subscriptions", 1.0).await;
    gateway.publish("stream:news", json!({ "a": 1 })).await;
    assert_eq!(event(&mut stream).await, ("next".to_owned(), json!({ "data": { "message": { "a": 1 } } })));
    gateway.api("unsubscribe", json!({ "user": "ann", "channel": "stream:news" })).await;
    assert_eq!(event(&mut stream).await, ("complete".to_owned(), Value::Null));
    assert!(stream.is_over().await);

    let path = "/graphql?query=%7B%20__typename%20%7D";
    let mut asked = ask(&gateway, "GET", path, STREAM, "").await;
    assert_eq!(event(&mut asked).await.1, json!({ "data": { "__typename": "Query" } }));
    assert_eq!(event(&mut asked).await.0, "complete");
    assert!(asked.is_over().await);
}

#[tokio::test]
async fn a_mistake_is_a_result_and_the_end() {
    let gateway = served().start().await;
    for (query, code) in [
        ("subscription { message(topic: ", "GRAPHQL_PARSE_FAILED"),
        ("subscription { shut(name: \"a\") }", "FORBIDDEN"),
    ] {
        let mut stream = operation(&gateway, query).await;
        assert_eq!(stream.status, 200, "a library that is given another comes back and back");
        let (kind, result) = event(&mut stream).await;
        assert_eq!((&*kind, &result["errors"][0]["extensions"]["code"]), ("next", &json!(code)), "{query}");
        assert_eq!(event(&mut stream).await.0, "complete");
        assert!(stream.is_over().await);
    }
}

#[tokio::test]
async fn statuses_are_those_of_graphql_sse() {
    let gateway = served().with("auth.allow_anonymous", false).start().await;
    let status = async |method: &str, path: &str, headers: &str, body: Value| {
        request(&gateway, method, path, headers, body).await.status
    };
    let wrong = format!("{STREAM}Authorization: Bearer wrong\r\n");
    assert_eq!(status("POST", "/graphql", &wrong, json!({ "query": NEWS })).await, 401);
    assert_eq!(status("POST", "/graphql", STREAM, json!({ "query": NEWS })).await, 401);
    assert_eq!(status("PUT", "/graphql", "", Value::Null).await, 401);
    assert_eq!(status("POST", "/graphql", "Accept: */*\r\n", json!({ "query": NEWS })).await, 404);
    assert_eq!(status("PUT", "/graphql", "Accept: application/json\r\n", Value::Null).await, 406);
    let none = named("none.AAAAAAAAAAAAAAAAAAAAAA");
    assert_eq!(status("GET", "/graphql", &format!("{STREAM}{none}"), Value::Null).await, 404);
    assert_eq!(status("POST", "/graphql", &none, start("1", NEWS)).await, 404);
    assert_eq!(status("DELETE", "/graphql?operationId=1", &none, Value::Null).await, 404);
    assert_eq!(status("POST", "/graphql", &none, json!({ "query": NEWS })).await, 400);
    assert_eq!(status("DELETE", "/graphql", &none, Value::Null).await, 400);
    for odd in [json!({}), json!([]), json!(5), json!({ "query": 5 }), json!({ "query": null })] {
        assert_eq!(status("POST", "/graphql", STREAM, odd.clone()).await, 400, "{odd}");
    }
    assert_eq!(status("PATCH", "/graphql", "", Value::Null).await, 405);
    let token = format!("{STREAM}Authorization: Bearer {}\r\n", gateway.token("ann"));
    let mut stream =
        ask(&gateway, "POST", "/graphql", &token, &json!({ "query": "{ __typename }" }).to_string()).await;
    assert_eq!((stream.status, event(&mut stream).await.0), (200, "next".to_owned()));
}

#[tokio::test]
async fn one_stream_has_the_events_of_all_operations_also_of_those_that_came_before_it() {
    let gateway = served().start().await;
    let token = reserve(&gateway).await;
    let headers = named(&token);
    let begun = request(&gateway, "POST", "/graphql", &headers, start("a", NEWS)).await;
    assert_eq!((begun.status, &begun.body[..]), (202, &b""[..]));
    gateway.metric_becomes("tidegate_subscriptions", 1.0).await;
    gateway.publish("stream:news", json!(1)).await;
    let mut stream = ask(&gateway, "GET", "/graphql", &format!("{STREAM}{headers}"), "").await;
    assert_eq!(stream.status, 200);
    let next = |id: &str, value: Value| {
        ("next".to_owned(), json!({ "id": id, "payload": { "data": { "message": value } } }))
    };
    assert_eq!(event(&mut stream).await, next("a", json!(1)));
    let again = request(&gateway, "GET", "/graphql", &format!("{STREAM}{headers}"), Value::Null).await;
    assert_eq!(again.status, 409);
    let repeated = start("a", "subscription { message(topic: \"sport\") }");
    assert_eq!(request(&gateway, "POST", "/graphql", &headers, repeated).await.status, 409);
    let other = start("b", "subscription { message(topic: \"sport\") }");
    assert_eq!(request(&gateway, "POST", "/graphql", &headers, other).await.status, 202);
    gateway.metric_becomes("tidegate_subscriptions", 2.0).await;
    gateway.publish("stream:sport", json!(2)).await;
    assert_eq!(event(&mut stream).await, next("b", json!(2)));
    let ended = request(&gateway, "DELETE", "/graphql?operationId=a", &headers, Value::Null).await;
    assert_eq!(ended.status, 200);
    gateway.metric_becomes("tidegate_subscriptions", 1.0).await;
    let asked = start("c", "{ __typename }");
    assert_eq!(request(&gateway, "POST", "/graphql", &headers, asked).await.status, 202);
    assert_eq!(event(&mut stream).await.1["id"], "c");
    assert_eq!(event(&mut stream).await, ("complete".to_owned(), json!({ "id": "c" })));
    let again = request(&gateway, "POST", "/graphql", &headers, start("a", NEWS)).await;
    assert_eq!(again.status, 202, "an id is free when its operation is over");
    drop(stream);
    gateway.metric_becomes("tidegate_connections", 0.0).await;
    assert_eq!(request(&gateway, "POST", "/graphql", &headers, start("d", NEWS)).await.status, 404);
}

#[tokio::test]
async fn operations_find_their_stream_from_another_node() {
    let redis = crate::redis_server::RedisServer::start();
    let node = || served().over(&redis.url());
    let (one, other) = (node().start().await, node().start().await);
    let knows_both =
        async |node: &Gateway| node.api("info", json!({})).await["nodes"].as_array().unwrap().len() == 2;
    eventually("they know each other", async || knows_both(&one).await && knows_both(&other).await).await;
    let headers = named(&reserve(&one).await);
    let mut stream = ask(&one, "GET", "/graphql", &format!("{STREAM}{headers}"), "").await;
    assert_eq!(request(&other, "POST", "/graphql", &headers, start("a", NEWS)).await.status, 202);
    one.metric_becomes("tidegate_subscriptions", 1.0).await;
    other.publish("stream:news", json!(1)).await;
    assert_eq!(event(&mut stream).await.1["payload"]["data"]["message"], 1);
    assert_eq!(request(&other, "DELETE", "/graphql?operationId=a", &headers, Value::Null).await.status, 200);
    one.metric_becomes("tidegate_subscriptions", 0.0).await;
}

/// Starts two nodes that know each other and accept each other's requests.
async fn linked(redis: &crate::redis_server::RedisServer) -> [Gateway; 2] {
    let node = || served().over(&redis.url()).with("cluster.listen", "127.0.0.1:0");
    let nodes = [node().start().await, node().start().await];
    let knows_both =
        async |node: &Gateway| node.api("info", json!({})).await["nodes"].as_array().map(Vec::len) == Some(2);
    eventually("they know each other", async || knows_both(&nodes[0]).await && knows_both(&nodes[1]).await)
        .await;
    nodes
}

#[tokio::test]
async fn a_stream_is_opened_at_another_node_than_the_one_where_it_was_reserved() {
    let redis = crate::redis_server::RedisServer::start();
    let [one, other] = linked(&redis).await;
    let headers = named(&reserve(&one).await);
    let opening = format!("{STREAM}{headers}");
    assert_eq!(request(&other, "POST", "/graphql", &headers, start("a", NEWS)).await.status, 202);
    let mut stream = ask(&other, "GET", "/graphql", &opening, "").await;
    assert_eq!(
        (stream.status, stream.header("content-type")),
        (200, Some("text/event-stream; charset=utf-8"))
    );
    for node in [&one, &other] {
        assert_eq!(request(node, "GET", "/graphql", &opening, Value::Null).await.status, 409, "it is open");
    }
    one.metric_becomes("tidegate_subscriptions", 1.0).await;
    // More than all buffers on the way hold.
    let long = "x".repeat(60_000);
    for number in 0..10 {
        other.publish("stream:news", json!([number, long])).await;
        let told = event(&mut stream).await.1;
        assert_eq!(told["payload"]["data"]["message"], json!([number, long]));
    }
    drop(stream);
    one.metric_becomes("tidegate_connections", 0.0).await;
    assert_eq!(
        request(&other, "GET", "/graphql", &opening, Value::Null).await.status,
        404,
        "its client is gone"
    );
}

#[tokio::test]
async fn a_stream_that_is_opened_elsewhere_ends_with_its_node() {
    let redis = crate::redis_server::RedisServer::start();
    let [one, other] = linked(&redis).await;
    let headers = named(&reserve(&one).await);
    let mut stream = ask(&other, "GET", "/graphql", &format!("{STREAM}{headers}"), "").await;
    assert_eq!(stream.status, 200);
    one.drain().await;
    assert!(stream.is_over().await);
    let headers = named(&reserve(&other).await);
    let mut stream = ask(&other, "GET", "/graphql", &format!("{STREAM}{headers}"), "").await;
    assert_eq!(request(&other, "POST", "/graphql", &headers, start("a", "{ __typename }")).await.status, 202);
    assert_eq!(event(&mut stream).await.0, "next", "the other goes on");
}

#[tokio::test]
async fn where_nodes_take_in_nothing_of_each_other_a_stream_is_opened_where_it_was_reserved() {
    let redis = crate::redis_server::RedisServer::start();
    let node = || served().over(&redis.url());
    let (one, other) = (node().start().await, node().start().await);
    let headers = format!("{STREAM}{}", named(&reserve(&one).await));
    let refused = request(&other, "GET", "/graphql", &headers, Value::Null).await;
    assert_eq!(refused.status, 404);
    assert!(String::from_utf8_lossy(&refused.body).contains("can reach no reserved stream"));
    assert_eq!(ask(&one, "GET", "/graphql", &headers, "").await.status, 200);
}
