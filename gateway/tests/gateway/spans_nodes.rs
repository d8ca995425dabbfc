//! Tests that several nodes over one Redis behave as one.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::{Value, json};

use crate::gateway::{Gateway, eventually, gateway};
use crate::redis_server::RedisServer;
use crate::relay::Relay;

/// Starts `N` nodes that share a Redis.
pub async fn nodes<const N: usize>(redis: &RedisServer) -> [Gateway; N] {
    let mut nodes = Vec::new();
    for number in 0..N {
        let node = gateway().over(&redis.url()).with("node.name", format!("node-{number}")).start().await;
        nodes.push(node);
    }
    nodes.try_into().expect("as many as were started")
}

/// Returns the number of nodes that are subscribed to a channel in Redis.
fn listeners(redis: &RedisServer, channel: &str) -> u64 {
    let name = format!("tidegate:pub:{{{channel}}}");
    redis.ask::<(String, u64)>(&["PUBSUB", "NUMSUB", &name]).1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_publishes_all_nodes_deliver_in_one_order() {
    let redis = RedisServer::start();
    let nodes = nodes::<3>(&redis).await;
    let mut clients = Vec::new();
    for node in &nodes {
        let mut client = node.connect().await;
        client.subscribe("stream:news").await;
        clients.push(client);
    }
    for number in 0..60 {
        assert_eq!(nodes[number % 3].publish("stream:news", json!(number)).await, number as u64 + 1);
    }
    for client in &mut clients {
        for number in 0..60u64 {
            let publication = client.publication().await;
            assert_eq!((publication.offset, publication.data), (number + 1, json!(number)));
        }
    }
    let page = nodes[2].api("history", json!({ "channel": "stream:news", "limit": 100 })).await;
    assert_eq!(page["publications"].as_array().map(Vec::len), Some(60));
    // Publications without a stream take the same path.
    let mut bare = nodes[0].raw("chat").await;
    nodes[0].metric_becomes("tidegate_subscriptions", 2.0).await;
    eventually("Redis knows", async || listeners(&redis, "chat") == 1).await;
    nodes[1].publish("chat", json!("hello")).await;
    assert_eq!(bare.text().await, "\"hello\"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_listens_once_to_what_its_clients_want_and_for_a_moment_longer() {
    let redis = RedisServer::start();
    let [here, there] = nodes::<2>(&redis).await;
    let (mut one, mut two, mut other) = (here.connect().await, here.connect().await, there.connect().await);
    for client in [&mut one, &mut two, &mut other] {
        client.subscribe("stream:wanted").await;
    }
    assert_eq!(listeners(&redis, "stream:wanted"), 2, "once for each node");
    assert_eq!(listeners(&redis, "stream:unwanted"), 0);
    one.command("unsubscribe", json!({ "channel": "stream:wanted" })).await;
    there.publish("stream:wanted", json!("for two")).await;
    assert_eq!(two.publication().await.data, "for two");
    two.socket.close().await;
    here.metric_becomes("tidegate_subscriptions", 0.0).await;
    assert_eq!(listeners(&redis, "stream:wanted"), 2, "who reloads a page comes back at once");
    let mut again = here.connect().await;
    again.subscribe("stream:wanted").await;
    again.socket.close().await;
    eventually("let go after a while", async || listeners(&redis, "stream:wanted") == 1).await;
    there.publish("stream:wanted", json!("for other")).await;
    assert_eq!(other.publication().await.data, "for two");
    assert_eq!(other.publication().await.data, "for other");
    let mut late = here.connect().await;
    late.subscribe("stream:wanted").await;
    there.publish("stream:wanted", json!("for all")).await;
    assert_eq!(late.publication().await.data, "for all");
}

#[tokio::test]
async fn who_comes_while_a_channel_is_being_let_go_hears_it() {
    let redis = RedisServer::start();
    let relay = Relay::start((Ipv4Addr::LOCALHOST, redis.port()).into(), b"SUBSCRIBE").await;
    let url = format!("redis://127.0.0.1:{}", relay.port());
    let gateway = gateway().over(&url).start().await;
    let (mut one, mut two) = (gateway.connect().await, gateway.connect().await);
    one.subscribe("chat").await;
    one.command("unsubscribe", json!({ "channel": "chat" })).await;
    relay.keep_answers();
    // The node unsubscribes in Redis some time after the last subscriber has left, and gets no answer.
    eventually("Redis let go of it", async || listeners(&redis, "chat") == 0).await;
    let mut id = two.ask("subscribe", json!({ "channel": "chat" })).await;
    relay.release();
    eventually("it is subscribed", async || {
        let reply = two.reply(id).await;
        let is_refused = reply.get("error").is_some();
        if is_refused {
            id = two.ask("subscribe", json!({ "channel": "chat" })).await;
        }
        !is_refused
    })
    .await;
    one.publish("chat", json!("hello")).await;
    assert_eq!(two.publication().await.data, "hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn presence_and_commands_reach_over_nodes() {
    let redis = RedisServer::start();
    let [here, there] = nodes::<2>(&redis).await;
    let (mut ann, mut bob) = (here.connect_as("ann").await, there.connect_as("bob").await);
    let mut anns_other = there.connect_as("ann").await;
    for client in [&mut ann, &mut bob, &mut anns_other] {
        client.subscribe("stream:room").await;
    }
    for node in [&here, &there] {
        let there = node.api("presence", json!({ "channel": "stream:room" })).await;
        let users: Vec<Option<&str>> =
            [&ann.id, &bob.id, &anns_other.id].map(|id| there["presence"][id]["user"].as_str()).to_vec();
        assert_eq!(users, [Some("ann"), Some("bob"), Some("ann")]);
        let stats = node.api("presence_stats", json!({ "channel": "stream:room" })).await;
        assert_eq!((&stats["num_clients"], &stats["num_users"]), (&json!(3), &json!(2)));
    }

    here.api("unsubscribe", json!({ "channel": "stream:room", "user": "bob" })).await;
    assert_eq!(bob.unsubscribed().await, ("stream:room".to_owned(), 2000));
    let of_one =
        json!({ "user": "ann", "client": anns_other.id, "disconnect": { "code": 4100, "reason": "moved" } });
    here.api("disconnect", of_one).await;
    assert_eq!(anns_other.closed().await, (4100, "moved".to_owned()));
    let mut spared = here.connect_as("ann").await;
    let of_all_but_one = json!({ "user": "ann", "whitelist": [spared.id], "disconnect": { "code": 4500 } });
    there.api("disconnect", of_all_but_one).await;
    // With an empty reason, clients would reconnect.
    assert_eq!(ann.closed().await, (4500, "disconnected".to_owned()));
    for client in [&mut bob, &mut spared] {
        client.publish("stream:room", json!("still here")).await;
    }
    eventually("nobody is in the room", async || {
        here.api("presence_stats", json!({ "channel": "stream:room" })).await["num_clients"] == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn info_lists_every_node_and_none_that_has_left() {
    let redis = RedisServer::start();
    let [here, there] = nodes::<2>(&redis).await;
    let _client = here.connect().await;
    let names = |info: &Value| -> Vec<String> {
        let nodes = info["nodes"].as_array().expect("nodes");
        nodes.iter().map(|node| node["name"].as_str().expect("a name").to_owned()).collect()
    };
    eventually("both know both", async || {
        names(&here.api("info", json!({})).await).len() == 2
            && names(&there.api("info", json!({})).await).len() == 2
    })
    .await;
    let info = here.api("info", json!({})).await;
    assert_eq!(names(&info), ["node-0", "node-1"]);
    assert_eq!(info["nodes"][0]["num_clients"], 1);
    there.drain().await;
    assert_eq!(names(&here.api("info", json!({})).await), ["node-0"], "it took its announcement back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_node_that_died_are_present_only_until_their_lease_ends() {
    let redis = RedisServer::start();
    let describe = || gateway().over(&redis.url()).with("redis.presence_ttl_s", 2);
    let here = describe().start().await;
    let doomed = describe().run().await;
    let mut stays = here.connect_as("ann").await;
    stays.subscribe("stream:room").await;
    let mut lost = doomed.connect_as("bob").await;
    lost.subscribe("stream:room").await;
    let present =
        async || here.api("presence_stats", json!({ "channel": "stream:room" })).await["num_clients"].clone();
    assert_eq!(present().await, 2);
    doomed.signal(rustix::process::Signal::KILL);
    doomed.ended().await;
    eventually("only who lives is there", async || present().await == 1).await;
    // The living client stays beyond its own lease.
    let start = std::time::Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        assert_eq!(present().await, 1);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut returned = here.connect_as("bob").await;
    returned.subscribe("stream:room").await;
    assert_eq!(present().await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_connections_that_a_user_opens_at_the_same_time_one_stays() {
    let redis = RedisServer::start();
    let relay = Relay::to(redis.port()).await;
    let url = format!("redis://127.0.0.1:{}", relay.port());
    let single = || gateway().over(&url).with("session.single_connection", true);
    let [here, there] = [single().start().await, single().start().await];
    eventually("both listen", async || here.is_ready().await && there.is_ready().await).await;
    for _ in 0..3 {
        // Both clients connect before their nodes learn of each other.
        relay.hold();
        let clients = [here.connect_as("ann").await, there.connect_as("ann").await];
        relay.release();
        let [mut one, mut other] = clients;
        let mut stays = tokio::select! {
            closed = one.closed() => {
                assert_eq!(closed.0, 3504);
                other
            }
            closed = other.closed() => {
                assert_eq!(closed.0, 3504);
                one
            }
        };
        stays.subscribe("chat").await;
        here.publish("chat", json!("to whoever stays")).await;
        assert_eq!(stays.publication().await.data, "to whoever stays");
        let newest = there.connect_as("ann").await;
        assert_eq!(stays.closed().await, (3504, "connection limit".to_owned()));
        newest.socket.close().await;
    }
}
