//! Tests GraphQL over WebSockets: operations on channels that are shared with every other protocol.

use serde_json::{Value, json};

use crate::application::Application;
use crate::gateway::gateway;
use crate::graphql::{OLD, TRANSPORT_WS, served};

const NEWS: &str = r#"subscription { message(topic: "news") }"#;

#[tokio::test]
async fn what_is_published_by_anyone_is_a_result_of_every_operation_on_its_channel() {
    let gateway = served().start().await;
    let mut client = gateway.graphql().await;
    client.subscribe("a", NEWS).await;
    client.subscribe("b", "subscription { m: message(topic: \"news\") }").await;
    client
        .subscribe_with(
            "c",
            json!({
                "query": "subscription On($t: String!) { message(topic: $t) }", "variables": { "t": "sport" },
            }),
        )
        .await;
    client.settle().await;
    gateway.publish("stream:news", json!({ "a": [1, "é"] })).await;
    assert_eq!(client.next("a").await, json!({ "data": { "message": { "a": [1, "é"] } } }));
    assert_eq!(client.next("b").await, json!({ "data": { "m": { "a": [1, "é"] } } }));
    gateway.publish("stream:sport", json!(7)).await;
    assert_eq!(client.next("c").await, json!({ "data": { "message": 7 } }));
    let mut native = gateway.connect_as("ann").await;
    native.publish("stream:sport", json!(8)).await;
    assert_eq!(client.next("c").await, json!({ "data": { "message": 8 } }));

    client.say(json!({ "type": "complete", "id": "a" })).await;
    client.settle().await;
    gateway.publish("stream:news", json!(9)).await;
    assert_eq!(client.next("b").await, json!({ "data": { "m": 9 } }));
    client.say(json!({ "type": "complete", "id": "b" })).await;
    client.settle().await;
    let present = gateway.api("presence_stats", json!({ "channel": "stream:news" })).await;
    assert_eq!(present["num_clients"], 0, "a channel is left with its last reader");
    client.subscribe("a", "subscription { message(topic: \"sport\") }").await;
    gateway.publish("stream:news", json!("late")).await;
    gateway.publish("stream:sport", json!(10)).await;
    assert_eq!(client.next("c").await, json!({ "data": { "message": 10 } }));
    assert_eq!(
        client.next("a").await,
        json!({ "data": { "message": 10 } }),
        "its id reads another channel now"
    );
}

#[tokio::test]
async fn a_schema_says_what_is_selected_of_payloads() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("schema.graphql");
    std::fs::write(
        &file,
        "type Subscription { order(shop: ID!): Order! } \
         type Order { id: ID! lines: [Line!]! note: String } type Line { name: String! price: Float }",
    )
    .unwrap();
    let gateway = gateway()
        .and("[graphql.subscriptions.order]\nchannel = \"stream:{shop}\"\n")
        .with("graphql.enabled", true)
        .with("graphql.schema_file", file.display())
        .start()
        .await;
    let mut client = gateway.graphql().await;
    client.subscribe("1", "subscription { order(shop: 7) { lines { name } n: note __typename } }").await;
    client.subscribe("2", "subscription { order(shop: 7) { id } }").await;
    gateway.publish("stream:7", json!({ "id": 1, "lines": [{ "name": "x", "price": 2 }] })).await;
    let order = json!({ "lines": [{ "name": "x" }], "n": null, "__typename": "Order" });
    assert_eq!(client.next("1").await, json!({ "data": { "order": order } }));
    assert_eq!(client.next("2").await, json!({ "data": { "order": { "id": "1" } } }));
    gateway.publish("stream:7", json!({ "id": 2 })).await;
    let missing = client.next("1").await;
    assert_eq!((&missing["data"], &missing["errors"][0]["path"]), (&Value::Null, &json!(["order", "lines"])));
    client.next("2").await;
    client.subscribe_with("3", json!({ "query": "subscription { order(shop: 7) { none } }" })).await;
    assert_eq!(client.error("3").await, "GRAPHQL_VALIDATION_FAILED");
    client.subscribe_with("4", json!({ "query": "{ __type(name: \"Line\") { fields { name } } }" })).await;
    let fields = json!([{ "name": "name" }, { "name": "price" }]);
    assert_eq!(client.next("4").await, json!({ "data": { "__type": { "fields": fields } } }));
    assert_eq!(client.hear().await, json!({ "type": "complete", "id": "4" }));
    for (result, count) in [("subscription", 2.0), ("answered", 1.0), ("refused", 1.0)] {
        let metric = format!("tidegate_graphql_operations_total{{result=\"{result}\"}}");
        assert_eq!(gateway.metric(&metric).await, count, "{result}");
    }
}

#[tokio::test]
async fn a_mistake_ends_its_operation_and_not_the_connection() {
    let gateway = served().start().await;
    let mut client = gateway.graphql().await;
    for (query, code) in [
        ("subscription { message(topic: ", "GRAPHQL_PARSE_FAILED"),
        ("subscription { none }", "GRAPHQL_VALIDATION_FAILED"),
        ("subscription { message }", "BAD_USER_INPUT"),
        ("subscription { message(topic: \"a\\nb\") }", "BAD_USER_INPUT"),
        ("subscription { shut(name: \"a\") }", "FORBIDDEN"),
        ("subscription { plain(name: \"none:a\") }", "UNKNOWN_CHANNEL"),
        ("mutation { a }", "OPERATION_NOT_SUPPORTED"),
        ("{ a }", "OPERATION_NOT_SUPPORTED"),
    ] {
        client.subscribe_with("1", json!({ "query": query })).await;
        assert_eq!(client.error("1").await, code, "{query}");
    }
    client.subscribe("1", NEWS).await;
    gateway.publish("stream:news", json!(1)).await;
    client.next("1").await;
}

#[tokio::test]
async fn who_the_client_is_stands_in_its_init() {
    let gateway = served().with("auth.allow_anonymous", false).start().await;
    let token = gateway.token("ann");
    for payload in [json!({ "token": token }), json!({ "Authorization": format!("Bearer {token}") })] {
        let client = gateway.graphql_with(payload).await;
        let info = gateway.api("connections", json!({})).await.to_string();
        assert!(info.contains("\"ann\"") && info.contains("graphql"), "{info}");
        client.socket.close().await;
    }
    for (payload, code) in [(json!({ "token": "none" }), 4403), (json!({}), 4403)] {
        let mut client = gateway.graphql_stranger(TRANSPORT_WS).await;
        client.say(json!({ "type": "connection_init", "payload": payload })).await;
        assert_eq!(client.closed().await, code, "{payload}");
    }
}

#[tokio::test]
async fn closes_are_those_that_libraries_go_by() {
    let gateway =
        served().with("session.connect_timeout_ms", 300).with("session.channels_max", 2).start().await;
    let subscribe = |id: &str| json!({ "type": "subscribe", "id": id, "payload": { "query": NEWS } });
    let mut late = gateway.graphql_stranger(TRANSPORT_WS).await;
    let mut early = gateway.graphql_stranger(TRANSPORT_WS).await;
    early.say(subscribe("1")).await;
    assert_eq!(early.closed().await, 4401);
    for (messages, code) in [
        (vec![json!({ "type": "connection_init" })], 4429),
        (vec![subscribe("1"), subscribe("1")], 4409),
        (vec![json!({ "type": "nothing" })], 4400),
        (vec![json!(7)], 4400),
    ] {
        let mut client = gateway.graphql().await;
        for message in messages {
            client.say(message).await;
        }
        assert_eq!(client.closed().await, code);
    }
    assert_eq!(late.closed().await, 4408);
    let mut neither = gateway.open("/graphql", &[]).await;
    assert_eq!(neither.closed().await.0, 4406);
    let mut client = gateway.graphql().await;
    for id in ["1", "2"] {
        client.subscribe(id, NEWS).await;
    }
    client.say(subscribe("3")).await;
    assert_eq!(client.error("3").await, "LIMIT_EXCEEDED");
    let id = gateway.api("connections", json!({})).await;
    let id = id["connections"].as_object().unwrap().keys().next().unwrap().clone();
    gateway.api("disconnect", json!({ "user": "", "client": id })).await;
    assert_eq!(client.closed().await, 4401, "it is not to come back");
    let mut client = gateway.graphql().await;
    gateway.drain().await;
    assert_eq!(client.closed().await, 1012);
}

#[tokio::test]
async fn of_both_subprotocols_todays_is_spoken_and_the_old_one_to_whoever_knows_no_other() {
    let gateway = served().start().await;
    let mut both = gateway.graphql_stranger("graphql-ws, graphql-transport-ws").await;
    // gql for Python pings before it sends connection_init, and its own pongs have no payload.
    both.say(json!({ "type": "ping" })).await;
    assert_eq!(both.hear().await, json!({ "type": "pong" }));
    both.say(json!({ "type": "connection_init", "payload": {} })).await;
    assert_eq!(both.hear().await, json!({ "type": "connection_ack" }));
    both.say(json!({ "type": "pong" })).await;
    both.settle().await;

    let mut old = gateway.graphql_stranger(OLD).await;
    old.say(json!({ "type": "connection_init", "payload": {} })).await;
    old.say(json!({ "type": "start", "id": "1", "payload": { "query": NEWS } })).await;
    assert_eq!(old.hear().await, json!({ "type": "connection_ack" }));
    old.say(json!({ "type": "start", "id": "2", "payload": { "query": "{ __typename }" } })).await;
    assert_eq!(
        old.hear().await,
        json!({ "id": "2", "type": "data", "payload": { "data": { "__typename": "Query" } } })
    );
    assert_eq!(old.hear().await, json!({ "id": "2", "type": "complete" }));
    gateway.publish("stream:news", json!(1)).await;
    assert_eq!(
        old.hear().await,
        json!({ "id": "1", "type": "data", "payload": { "data": { "message": 1 } } })
    );
    old.say(json!({ "type": "connection_terminate" })).await;
    assert_eq!(old.closed().await, 1000);
}

#[tokio::test]
async fn a_silent_client_is_asked_and_one_that_does_not_answer_is_closed_so_that_it_comes_back() {
    let gateway =
        served().with("session.ping_interval_ms", 1_000).with("session.pong_timeout_ms", 400).start().await;
    let mut client = gateway.graphql().await;
    let ping: Value = serde_json::from_str(&client.socket.text().await).unwrap();
    assert_eq!(ping, json!({ "type": "ping" }));
    client.say(json!({ "type": "pong" })).await;
    assert_eq!(serde_json::from_str::<Value>(&client.socket.text().await).unwrap(), ping);
    assert_eq!(client.closed().await, 1013);
}

#[tokio::test]
async fn a_client_goes_on_from_where_it_was_and_is_told_if_it_cannot() {
    let gateway = served().start().await;
    let ann = json!({ "token": gateway.token("ann") });
    let mut client = gateway.graphql_with(ann.clone()).await;
    let counting = json!({ "query": NEWS, "extensions": { "tidegate": { "positions": true } } });
    client.subscribe_with("1", counting.clone()).await;
    client.settle().await;
    gateway.publish("stream:news", json!(1)).await;
    let first = client.next("1").await;
    let position = first["extensions"]["tidegate"]["position"].clone();
    assert_eq!(position["offset"], 1);
    client.socket.close().await;
    for number in 2..5 {
        gateway.publish("stream:news", json!(number)).await;
    }
    let mut client = gateway.graphql_with(ann).await;
    let from =
        |position: &Value| json!({ "query": NEWS, "extensions": { "tidegate": { "recover": position } } });
    client.subscribe_with("1", from(&position)).await;
    for number in 2..5 {
        let next = client.next("1").await;
        assert_eq!(
            (&next["data"]["message"], &next["extensions"]["tidegate"]["position"]["offset"]),
            (&json!(number), &json!(number))
        );
    }
    // A second operation on the same channel from another position: the first receives nothing twice.
    let mut there = position.clone();
    there["offset"] = json!(3);
    client.subscribe_with("2", from(&there)).await;
    assert_eq!(client.next("2").await["data"]["message"], 4);
    gateway.publish("stream:news", json!(5)).await;
    assert_eq!(client.next("1").await["data"]["message"], 5);
    assert_eq!(client.next("2").await["data"]["message"], 5);
    let present = gateway.api("presence", json!({ "channel": "stream:news" })).await;
    assert_eq!(present["presence"].as_object().unwrap().len(), 1);
    there["epoch"] = json!("another");
    client.subscribe_with("3", from(&there)).await;
    assert_eq!(client.error("3").await, "UNRECOVERABLE_POSITION");
    client.subscribe_with("3", json!({ "query": "subscription { plain(name: \"a\") }", "extensions": { "tidegate": { "recover": there } } })).await;
    assert_eq!(client.error("3").await, "UNRECOVERABLE_POSITION", "a channel without history");
    gateway.publish("stream:news", json!(6)).await;
    assert_eq!(client.next("1").await["data"]["message"], 6, "the others go on");
    client.next("2").await;
    gateway.api("unsubscribe", json!({ "user": "ann", "channel": "stream:news" })).await;
    let mut over =
        [client.hear().await, client.hear().await].map(|message| message["id"].clone().to_string());
    over.sort();
    assert_eq!(over, ["\"1\"", "\"2\""]);
}

#[tokio::test]
async fn the_application_says_whether_and_in_which_channel() {
    let application = Application::start(|received| {
        let received = received.json();
        let answer = match received["data"]["arguments"]["room"].as_str() {
            Some("closed") => json!({ "error": { "code": 1_000, "message": "the room is closed" } }),
            Some("out") => json!({ "disconnect": { "code": 4_403, "reason": "out" } }),
            Some("elsewhere") => json!({ "result": { "channel": "shut:elsewhere" } }),
            _ => json!({ "result": {} }),
        };
        Some((200, answer.to_string()))
    })
    .await;
    let gateway = gateway()
        .and("[graphql.subscriptions.room]\nchannel = \"shut:{room}\"\nhook = true\n[namespaces.shut]\n")
        .with("graphql.enabled", true)
        .with("backend.graphql.url", format!("{}/graphql", application.url))
        .start()
        .await;
    let mut client = gateway.graphql_with(json!({ "token": gateway.token("ann") })).await;
    let query = "subscription R($room: String!) { room(room: $room) }";
    let enter = |room: &str| json!({ "query": query, "variables": { "room": room } });
    client.subscribe_with("1", enter("red")).await;
    client.subscribe_with("2", enter("elsewhere")).await;
    client.subscribe_with("3", enter("red")).await;
    client.settle().await;
    gateway.publish("shut:red", json!(1)).await;
    assert_eq!(client.next("1").await, json!({ "data": { "room": 1 } }));
    assert_eq!(client.next("3").await, json!({ "data": { "room": 1 } }));
    gateway.publish("shut:elsewhere", json!(2)).await;
    assert_eq!(client.next("2").await, json!({ "data": { "room": 2 } }));
    client.subscribe_with("4", enter("closed")).await;
    let refused = client.hear().await;
    assert_eq!(
        refused["payload"][0],
        json!({ "message": "the room is closed", "extensions": { "code": "REFUSED", "number": 1_000 } })
    );
    let received = application.requests("/graphql")[0].json();
    assert_eq!(
        (&received["user"], &received["channel"], &received["data"]["field"]),
        (&json!("ann"), &json!("shut:red"), &json!("room"))
    );
    assert_eq!(
        (&received["data"]["query"], &received["data"]["variables"]),
        (&json!(query), &json!({ "room": "red" }))
    );
    client.subscribe_with("5", enter("out")).await;
    assert_eq!(client.closed().await, 4403);
}

#[tokio::test]
async fn what_is_off_is_not_there() {
    let gateway = gateway().start().await;
    let refused = gateway.try_open("/graphql", &[("sec-websocket-protocol", TRANSPORT_WS)]).await;
    assert!(refused.unwrap_err().to_string().contains("404"));
}
