//! Tests questions between nodes, and that the server API names nodes that do not answer.

use bytes::Bytes;
use serde_json::json;
use tidegate::node::AskError;
use tidegate::node::control::{ControlTarget, NodeInfo};
use tidegate::node::node_message::{
    ChannelsWanted, ClientCommand, ConnectionsWanted, NODE_MESSAGE_BYTES_MAX, NodeRequest, NodeResponse,
    PAGE_MAX,
};

use crate::gateway::{eventually, gateway};
use crate::redis_server::RedisServer;
use crate::spans_nodes::nodes;

/// Announces a node that does not exist.
fn announce(redis: &RedisServer, uid: &str, questions: u32) {
    let info = NodeInfo { uid: uid.into(), name: uid.into(), questions, ..NodeInfo::default() };
    let description = String::from_utf8(info.encode().expect("JSON").to_vec()).expect("text");
    let far = u64::MAX / 4096;
    redis.ask::<i64>(&["ZADD", "tidegate:{nodes}:leases", &far.to_string(), uid]);
    redis.ask::<i64>(&["HSET", "tidegate:{nodes}:descriptions", uid, &description]);
}

fn message(session: &str, data: impl Into<Bytes>) -> NodeRequest {
    NodeRequest::Message { session: session.into(), data: data.into() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_is_asked_by_its_name_and_who_is_not_there_is_told_apart() {
    let redis = RedisServer::start();
    let [asking, there] = nodes::<2>(&redis).await;
    let (here, other) = (asking.node(), there.node());
    let uid =
        other.nodes().await.expect("nodes").iter().find(|node| &*node.name == "node-1").unwrap().uid.clone();
    let nobodys = message("nobody's", "{}");
    eventually("it listens", async || there.is_ready().await).await;
    assert_eq!(here.ask(&uid, nobodys.clone()).await.unwrap(), NodeResponse::NoSuchSession);
    let own = here.nodes().await.unwrap().iter().find(|node| &*node.name == "node-0").unwrap().uid.clone();
    assert_eq!(here.ask(&own, nobodys.clone()).await.unwrap(), NodeResponse::NoSuchSession);
    for unknown in ["", "another", &"x".repeat(1_000)] {
        let error = here.ask(unknown, nobodys.clone()).await.unwrap_err();
        assert!(matches!(error, AskError::UnknownNode), "{error}");
    }
    announce(&redis, "deaf", 1);
    let error = here.ask("deaf", nobodys).await.unwrap_err();
    assert!(matches!(error, AskError::Deaf), "{error}");
    let error = here.ask(&uid, message("s", vec![b' '; NODE_MESSAGE_BYTES_MAX])).await.unwrap_err();
    assert!(matches!(error, AskError::Unsendable(_)), "{error}");
    assert_eq!(asking.metric("tidegate_node_questions_total{result=\"answered\"}").await, 2.0);
    assert_eq!(asking.metric("tidegate_node_questions_total{result=\"unknown_node\"}").await, 3.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_are_asked_and_those_who_do_not_answer_hold_nobody_up() {
    let redis = RedisServer::start();
    let [here, there] = nodes::<2>(&redis).await;
    let (mut one, mut two) = (here.connect_as("ann").await, there.connect_as("ann").await);
    one.subscribe("chat").await;
    two.subscribe("chat").await;
    eventually("both listen", async || here.is_ready().await && there.is_ready().await).await;
    announce(&redis, "deaf", 1);
    announce(&redis, "of an earlier release", 0);
    let node = here.node();
    eventually("both are announced", async || node.nodes().await.is_ok_and(|nodes| nodes.len() == 4)).await;

    let wanted = ChannelsWanted { pattern: "c*".into(), limit: PAGE_MAX, ..ChannelsWanted::default() };
    let answers = node.ask_all(NodeRequest::Channels(wanted)).await.expect("nodes");
    let by_name = |name: &str| &answers.iter().find(|(node, _)| &*node.name == name).unwrap().1;
    assert!(matches!(by_name("deaf"), Err(AskError::Deaf)));
    assert!(matches!(by_name("of an earlier release"), Err(AskError::NotUnderstood)));
    for name in ["node-0", "node-1"] {
        let Ok(NodeResponse::Channels(page)) = by_name(name) else { panic!("{:?}", by_name(name)) };
        assert_eq!((&page.channels[..], page.until.as_deref()), (&[("chat".into(), 1)][..], None));
    }

    let target = ControlTarget { user: Some("ann".into()), ..ControlTarget::default() };
    let channel = shared::channel::Channel::parse("chat", 255).unwrap();
    let answers =
        node.ask_all(NodeRequest::Act(target, ClientCommand::Unsubscribe(channel))).await.expect("nodes");
    let done = answers
        .iter()
        .filter(|(_, answer)| matches!(answer, Ok(NodeResponse::Done { clients: 1, failed: 0, .. })));
    assert_eq!(done.count(), 2);
    for client in [&mut one, &mut two] {
        assert_eq!(client.unsubscribed().await, ("chat".to_owned(), 2000));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_listed_page_by_page_and_each_once() {
    let gateway = gateway().with("workers.count", 2).start().await;
    let mut clients = Vec::new();
    for number in 0..7 {
        let mut client = gateway.connect_as(["ann", "bob"][number % 2]).await;
        if number % 3 == 0 {
            client.subscribe("chat").await;
        }
        clients.push(client);
    }
    let node = gateway.node();
    let uid = node.nodes().await.expect("nodes")[0].uid.clone();
    let list = async |wanted: ConnectionsWanted| {
        let (mut wanted, mut all) = (wanted, Vec::new());
        loop {
            let answer = node.ask(&uid, NodeRequest::Connections(wanted.clone())).await.expect("an answer");
            let NodeResponse::Connections(page) = answer else { panic!("{answer:?}") };
            assert!(page.connections.len() <= wanted.limit as usize);
            all.extend(page.connections);
            match page.next {
                Some(next) => wanted.from = next,
                None => return all,
            }
        }
    };
    let all = list(ConnectionsWanted { limit: 2, ..Default::default() }).await;
    let mut ids: Vec<_> = all.iter().map(|one| one.client.clone()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), all.len()), (7, 7));
    let ann = ConnectionsWanted { user: Some("ann".into()), limit: 3, ..Default::default() };
    assert_eq!(list(ann).await.len(), 4);
    let channel = shared::channel::Channel::parse("chat", 255).ok();
    let chatting = list(ConnectionsWanted { channel, limit: 100, ..Default::default() }).await;
    assert_eq!(chatting.len(), 3);
    assert!(chatting.iter().all(|one| &*one.channels[0] == "chat" && one.num_channels == 1));
    let client = shared::id::ClientId::parse(&ids[0]);
    let found = list(ConnectionsWanted { client, limit: 1, ..Default::default() }).await;
    assert_eq!((found.len(), &found[0].client), (1, &ids[0]));
    assert_eq!(json!(found[0].transport), "websocket");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_of_any_node_lists_what_all_have_page_by_page() {
    let redis = RedisServer::start();
    let nodes = nodes::<2>(&redis).await;
    let mut clients = Vec::new();
    for number in 0..6 {
        let mut client = nodes[number % 2].connect_as("ann").await;
        client.subscribe("chat").await;
        client.subscribe(&format!("stream:{number}")).await;
        clients.push(client);
    }
    eventually("both listen", async || nodes[0].is_ready().await && nodes[1].is_ready().await).await;
    let node = nodes[0].node();
    eventually("both are announced", async || node.nodes().await.is_ok_and(|nodes| nodes.len() == 2)).await;

    let all = nodes[0].api("channels", json!({})).await;
    let expected = json!({"channels": {
        "chat": {"num_clients": 6},
        "stream:0": {"num_clients": 1}, "stream:1": {"num_clients": 1}, "stream:2": {"num_clients": 1},
        "stream:3": {"num_clients": 1}, "stream:4": {"num_clients": 1}, "stream:5": {"num_clients": 1},
    }});
    assert_eq!(all, expected);
    assert_eq!(nodes[1].api("channels", json!({"pattern": "{chat,stream:[0-9]}"})).await, expected);
    let (mut cursor, mut names) = (json!(""), Vec::new());
    while cursor.is_string() {
        let parameters = json!({"pattern": "stream:*", "limit": 2, "cursor": cursor});
        let page = nodes[1].api("channels", parameters).await;
        names.extend(page["channels"].as_object().expect("channels").keys().cloned());
        cursor = page["cursor"].clone();
    }
    assert_eq!(names, ["stream:0", "stream:1", "stream:2", "stream:3", "stream:4", "stream:5"]);

    let (mut cursor, mut found) = (json!(""), std::collections::BTreeMap::new());
    while cursor.is_string() {
        let page =
            nodes[0].api("connections", json!({"channel": "chat", "limit": 4, "cursor": cursor})).await;
        let connections = page["connections"].as_object().expect("connections").clone();
        assert!(connections.len() <= 4);
        found.extend(connections);
        cursor = page["cursor"].clone();
    }
    assert_eq!(found.len(), 6);
    let one = found.values().next().unwrap();
    assert_eq!((&one["user"], &one["num_channels"]), (&json!("ann"), &json!(2)));
    assert!(one["state"]["channels"]["chat"].is_object(), "{one}");
    let only = nodes[1].api("connections", json!({"channel": "stream:3"})).await;
    assert_eq!(only["connections"].as_object().map(|all| all.len()), Some(1));

    announce(&redis, "deaf", 1);
    let partial = nodes[0].api("channels", json!({"pattern": "chat"})).await;
    assert_eq!(partial, json!({"channels": {"chat": {"num_clients": 6}}, "missing_nodes": ["deaf"]}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disconnect_is_answered_by_those_who_have_the_clients_and_says_who_did_not_answer() {
    let redis = RedisServer::start();
    let [here, there] = nodes::<2>(&redis).await;
    eventually("both listen", async || here.is_ready().await && there.is_ready().await).await;
    let node = here.node();
    eventually("both are announced", async || node.nodes().await.is_ok_and(|nodes| nodes.len() == 2)).await;
    let (mut ann, bob) = (there.connect_as("ann").await, there.connect_as("bob").await);
    here.api("disconnect", json!({"user": "ann"})).await;
    assert_eq!(ann.closed().await.0, 3503);

    announce(&redis, "deaf", 1);
    let answer = here.try_api("disconnect", &json!({"user": "nobody"})).await;
    let answer: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!(answer["error"]["code"], 100);
    assert!(answer["error"]["message"].as_str().is_some_and(|message| message.contains("deaf")), "{answer}");
    // Once the client is found, no other node needs to be asked.
    let list = here.api("connections", json!({"user": "bob"})).await;
    let id = list["connections"].as_object().and_then(|all| all.keys().next().cloned()).expect("bob");
    here.api("disconnect", json!({"client": id})).await;
    let mut bob = bob;
    assert_eq!(bob.closed().await.0, 3503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_know_no_questions_are_commanded_as_before() {
    let redis = RedisServer::start();
    let [here] = nodes::<1>(&redis).await;
    eventually("it listens", async || here.is_ready().await).await;
    announce(&redis, "of an earlier release", 0);
    let client = redis::Client::open(redis.url()).expect("an address");
    let mut listening = client.get_async_pubsub().await.expect("a connection");
    listening.subscribe("tidegate:control").await.expect("subscribed");
    here.api("disconnect", json!({"user": "ann"})).await;
    let command = {
        use futures_util::StreamExt;
        listening.on_message().next().await.expect("a command")
    };
    let command = tidegate::node::control::ControlCommand::decode(command.get_payload_bytes());
    let target = ControlTarget { user: Some("ann".into()), ..ControlTarget::default() };
    let disconnect = shared::disconnect::Disconnect::FORCE_DISCONNECT;
    let expected = tidegate::node::control::ControlCommand::Disconnect { target, disconnect };
    assert_eq!(command.expect("it reads"), expected);
}
