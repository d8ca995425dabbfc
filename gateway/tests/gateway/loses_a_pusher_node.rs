//! Tests Pusher over several nodes: members and users are counted over all nodes, and those of a dead node are removed.

use serde_json::json;

use crate::gateway::gateway;
use crate::pusher::APP;
use crate::redis_server::RedisServer;

#[tokio::test]
async fn members_of_a_killed_node_are_told_as_gone_and_others_stay() {
    let redis = RedisServer::start();
    let node = || gateway().and(APP).with("redis.presence_ttl_s", 3).over(&redis.url());
    let (first, second, doomed) = (node().start().await, node().start().await, node().run().await);
    let (mut ann, mut bob) = (first.pusher().await, second.pusher().await);
    assert_eq!(ann.enter("presence-room", "ann").await, ["ann"]);
    assert_eq!(bob.enter("presence-room", "bob").await, ["ann", "bob"]);
    ann.hears("pusher_internal:member_added", "presence-room").await;
    // One user is only at the doomed node, the other is at a second node too.
    let (mut cyd, mut ann_again) = (doomed.pusher().await, doomed.pusher().await);
    assert_eq!(cyd.enter("presence-room", "cyd").await, ["ann", "bob", "cyd"]);
    for client in [&mut ann, &mut bob] {
        let added = client.hears("pusher_internal:member_added", "presence-room").await;
        assert_eq!(added["user_id"], "cyd");
    }
    assert_eq!(ann_again.enter("presence-room", "ann").await, ["ann", "bob", "cyd"]);

    doomed.signal(rustix::process::Signal::KILL);
    for client in [&mut ann, &mut bob] {
        let removed = client.hears("pusher_internal:member_removed", "presence-room").await;
        assert_eq!(removed, json!({ "user_id": "cyd" }), "and nobody else");
    }
    assert_eq!(second.pusher().await.enter("presence-room", "dan").await, ["ann", "bob", "dan"]);
}

#[tokio::test]
async fn numbers_are_right_again_after_a_node_was_killed_and_told() {
    let redis = RedisServer::start();
    let node = || {
        gateway()
            .and(APP)
            .and("subscription_counts = true\n")
            .with("redis.presence_ttl_s", 3)
            .over(&redis.url())
    };
    let (staying, doomed) = (node().start().await, node().run().await);
    let (mut ann, mut bob) = (staying.pusher().await, doomed.pusher().await);
    let event = "pusher_internal:subscription_count";
    let count = |number: u32| json!({ "subscription_count": number });
    ann.subscribe("news").await;
    assert_eq!(ann.hears(event, "news").await, count(1));
    bob.subscribe("news").await;
    assert_eq!(ann.hears(event, "news").await, count(2));
    let (mut here, mut there) = (staying.pusher().await, doomed.pusher().await);
    here.enter("presence-room", "ann").await;
    there.enter("presence-room", "bob").await;
    here.hears("pusher_internal:member_added", "presence-room").await;
    doomed.signal(rustix::process::Signal::KILL);
    let removed = here.hears("pusher_internal:member_removed", "presence-room").await;
    assert_eq!(removed, json!({ "user_id": "bob" }));
    assert_eq!(ann.hears(event, "news").await, count(1));
    let info = "info=subscription_count,user_count";
    let (_, told) = staying.pusher_api("GET", "/channels/presence-room", info, "").await;
    assert_eq!(told, r#"{"occupied":true,"subscription_count":1,"user_count":1}"#);
}

#[tokio::test]
async fn an_event_excepts_a_socket_of_another_node_and_a_user_is_online_on_any() {
    let redis = RedisServer::start();
    let node = || gateway().and(APP).over(&redis.url());
    let (one, other) = (node().start().await, node().start().await);
    let (mut ann, mut bob) = (one.pusher().await, other.pusher().await);
    for client in [&mut ann, &mut bob] {
        client.subscribe("private-map").await;
    }
    ann.say(json!({ "event": "client-moved", "channel": "private-map", "data": { "x": 1 } })).await;
    assert_eq!(bob.hears("client-moved", "private-map").await, json!({ "x": 1 }));
    ann.hears_nothing().await;

    bob.sign_in(json!({ "id": "bob", "watchlist": ["ann"] })).await;
    ann.sign_in(json!({ "id": "ann" })).await;
    let told = |name: &str| json!({ "events": [{ "name": name, "user_ids": ["ann"] }] });
    assert_eq!(bob.hears("pusher_internal:watchlist_events", "").await, told("online"));
    ann.socket.close().await;
    assert_eq!(bob.hears("pusher_internal:watchlist_events", "").await, told("offline"));
}
