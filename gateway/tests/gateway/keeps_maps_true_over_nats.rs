//! Tests over NATS that clients with the state of a channel stay correct: when the server dies or loses a stream, when a channel
//! is cleared, and when keys expire.

use serde_json::{Value, json};

use crate::gateway::{Gateway, eventually, gateway};
use crate::keeps_maps_true::{Holder, set, with_maps};
use crate::nats_server::NatsServer;

async fn nodes<const N: usize>(nats: &NatsServer) -> [Gateway; N] {
    let mut nodes = Vec::new();
    for number in 0..N {
        let node = with_maps(gateway().over_nats(&nats.url())).with("node.name", format!("node-{number}"));
        nodes.push(node.start().await);
    }
    for node in &nodes {
        eventually("it is ready", async || node.is_ready().await).await;
    }
    nodes.try_into().expect("as many as were started")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_nats_takes_no_key_and_whoever_has_a_map_goes_on() {
    let mut nats = NatsServer::start();
    let [here, there] = nodes::<2>(&nats).await;
    for channel in ["ephemeral:a", "recoverable:a", "persistent:a"] {
        let mut holder = Holder::of(&here, channel).await;
        set(&there, channel, "a", 1).await;
        set(&here, channel, "b", 2).await;
        holder.comes_to_have(&[("a", 1), ("b", 2)]).await;
        nats.kill();
        eventually("it is noticed", async || !here.is_ready().await && !there.is_ready().await).await;
        nats.restart();
        set(&there, channel, "a", 3).await;
        holder.comes_to_have(&[("a", 3), ("b", 2)]).await;
        eventually("it is back", async || here.is_ready().await && there.is_ready().await).await;
        let mut newcomer = Holder::of(&there, channel).await;
        newcomer.comes_to_have(&[("a", 3), ("b", 2)]).await;
        if channel != "ephemeral:a" {
            assert_eq!(holder.told, 0, "{channel}: the stream has all of it");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_a_map_reads_anew_when_its_stream_is_lost() {
    let nats = NatsServer::start();
    let [node] = nodes::<1>(&nats).await;
    let mut holder = Holder::of(&node, "ephemeral:a").await;
    set(&node, holder.channel, "a", 1).await;
    holder.comes_to_have(&[("a", 1)]).await;
    nats.ask("$JS.API.STREAM.DELETE.tidegate_keys_expiring", "");
    // The loss is noticed although nothing is changed afterwards.
    holder.comes_to_have(&[]).await;
    set(&node, holder.channel, "c", 3).await;
    holder.comes_to_have(&[("c", 3)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clearing_a_map_over_nats_is_told_at_once_on_all_nodes_whatever_its_mode() {
    let nats = NatsServer::start();
    let nodes = nodes::<2>(&nats).await;
    for channel in ["ephemeral:a", "recoverable:a", "persistent:a"] {
        let mut holders = Vec::new();
        for node in &nodes {
            holders.push(Holder::of(node, channel).await);
        }
        for (key, value) in [("a", 1), ("b", 2)] {
            set(&nodes[0], channel, key, value).await;
            for holder in &mut holders {
                holder.comes_to_have(&[(key, value)]).await;
            }
            nodes[1].api("map_clear", json!({ "channel": channel })).await;
            for holder in &mut holders {
                holder.comes_to_have(&[]).await;
            }
        }
        assert!(holders.iter().all(|holder| holder.told == 2), "{channel}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_subscribed_is_shown_over_nats_while_it_is_and_a_node_that_dies_takes_its_clients_with_it() {
    let nats = NatsServer::start();
    let with_players = |number: u32| {
        gateway().over_nats(&nats.url()).with("node.name", format!("node-{number}")).and(
            "[namespaces.game]\nallow_subscribe = true\nallow_subscribe_anonymous = true\n\
             map_clients_presence_channel_prefix = \"players:\"\n\
             [namespaces.players]\nsubscription_type = \"map_clients\"\nallow_subscribe = true\n\
             allow_subscribe_anonymous = true\nmap = { mode = \"ephemeral\", key_ttl_s = 10 }\n",
        )
    };
    let (here, there) = (with_players(0).start().await, with_players(1).start().await);
    let mut players = [here.connect().await, there.connect().await];
    for player in &mut players {
        player.subscribe("game:1").await;
    }
    let shown = async || {
        let page = here.api("map_read_state", json!({ "channel": "players:game:1", "limit": 10 })).await;
        page["entries"].as_array().map_or(0, Vec::len)
    };
    eventually("both are shown", async || shown().await == 2).await;
    drop(there);
    eventually("one has gone", async || shown().await == 1).await;
    let [player, _] = players;
    drop(player);
    eventually("both have gone", async || shown().await == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_value_of_each_key_is_given_to_who_comes_over_nats() {
    let nats = NatsServer::start();
    let with_newest = |number: u32| {
        gateway().over_nats(&nats.url()).with("node.name", format!("node-{number}")).and(
            "[namespaces.kept]\nallow_subscribe = true\nallow_subscribe_anonymous = true\n\
             history_size = 20\nhistory_ttl_s = 60\nnewest = { allow_choice = true, snapshot = true }\n",
        )
    };
    let (here, there) = (with_newest(0).start().await, with_newest(1).start().await);
    for node in [&here, &there] {
        eventually("it is ready", async || node.is_ready().await).await;
    }
    for (node, key, value) in
        [(&here, Some("a"), 1), (&there, Some("b"), 2), (&here, None, 3), (&there, Some("a"), 4)]
    {
        let mut publication = json!({ "channel": "kept:x", "data": value });
        if let Some(key) = key {
            publication["key"] = key.into();
        }
        node.api("publish", publication).await;
    }
    let mut client = here.connect().await;
    let result = client.command("subscribe", json!({ "channel": "kept:x" })).await;
    let given: Vec<&Value> =
        result["publications"].as_array().into_iter().flatten().map(|one| &one["data"]).collect();
    assert_eq!(given, [&json!(2), &json!(4)], "{result}");
    there.api("publish", json!({ "channel": "kept:x", "key": "b", "data": 5 })).await;
    assert_eq!(client.publication().await.data, 5);
    let page = there.api("history", json!({ "channel": "kept:x", "limit": 10 })).await;
    assert_eq!(page["publications"].as_array().map(Vec::len), Some(5), "{page}");
}
