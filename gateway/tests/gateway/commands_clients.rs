//! What the server API does to clients, wherever they are connected.

use serde_json::json;

use crate::gateway::{eventually, gateway};
use crate::http;
use crate::redis_server::RedisServer;
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
    // Who is subscribed already stays so.
    here.api("subscribe", parameters).await;
    let list = here.api("connections", json!({"channel": "stream:news"})).await;
    assert_eq!(list["connections"].as_object().map(|all| all.len()), Some(1));
    here.api("unsubscribe", json!({"user": "ann", "channel": "stream:news"})).await;
    assert_eq!(ann.unsubscribed().await, ("stream:news".to_owned(), 2000));
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
