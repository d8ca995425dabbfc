//! Tests that clients with the state of a channel stay correct: they receive what they missed or are told to read the state
//! again, also where no stream is kept beside the state.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::client::Client;
use crate::gateway::{Description, Gateway, eventually, gateway};
use crate::redis_server::{RedisServer, free_port};
use crate::relay::Relay;

/// Adds a namespace for each mode. Keys of the first two modes outlive each of these tests.
pub fn with_maps(description: Description) -> Description {
    let mut toml = String::new();
    for (mode, ttl) in
        [("ephemeral", ", key_ttl_s = 300"), ("recoverable", ", key_ttl_s = 300"), ("persistent", "")]
    {
        toml += &format!(
            "[namespaces.{mode}]\nsubscription_type = \"map\"\nallow_subscribe = true\n\
             allow_subscribe_anonymous = true\nmap = {{ mode = \"{mode}\"{ttl} }}\n"
        );
    }
    description.and(&toml)
}

/// A client that maintains the state of a channel, as libraries do.
pub struct Holder {
    client: Client,
    pub channel: &'static str,
    state: BTreeMap<String, Value>,
    /// How often the client was told to read the state again.
    pub told: usize,
}

impl Holder {
    pub async fn of(node: &Gateway, channel: &'static str) -> Self {
        let mut holder = Self { client: node.connect().await, channel, state: BTreeMap::new(), told: 0 };
        holder.reads().await;
        holder
    }

    async fn reads(&mut self) {
        self.state.clear();
        let mut page = json!({ "channel": self.channel, "type": 1, "phase": 2 });
        loop {
            let result = self.client.command("subscribe", page.clone()).await;
            for part in ["state", "publications"] {
                result[part].as_array().into_iter().flatten().for_each(|change| self.takes(change));
            }
            let Some(cursor) = result["cursor"].as_str().filter(|cursor| !cursor.is_empty()) else { return };
            page["cursor"] = cursor.into();
        }
    }

    fn takes(&mut self, change: &Value) {
        if self.channel.starts_with("ephemeral") {
            assert!(change.get("offset").is_none(), "numbers are for nodes: {change}");
        }
        let key = change["key"].as_str().expect("a key").to_owned();
        match change["removed"].as_bool() {
            Some(true) => drop(self.state.remove(&key)),
            _ => drop(self.state.insert(key, change["data"].clone())),
        }
    }

    /// Applies pushes until the client has this state.
    pub async fn comes_to_have(&mut self, state: &[(&str, u64)]) {
        let truth: BTreeMap<_, _> =
            state.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        while self.state != truth {
            let push = self.client.push().await["push"].take();
            if push["unsubscribe"]["code"] == 2500 {
                self.told += 1;
                self.reads().await;
            } else {
                self.takes(&push["pub"]);
            }
        }
    }
}

pub async fn set(node: &Gateway, channel: &str, key: &str, value: u64) {
    eventually("it is set", async || {
        let set = json!({ "channel": channel, "key": key, "data": value });
        let answer = node.try_api("map_publish", &set).await;
        serde_json::from_slice::<Value>(&answer.body).is_ok_and(|body| body.get("result").is_some())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_a_map_without_a_stream_reads_anew_when_redis_has_lost_its_data() {
    let redis = RedisServer::start();
    let node = with_maps(gateway().over(&redis.url())).start().await;
    let mut holder = Holder::of(&node, "ephemeral:a").await;
    set(&node, holder.channel, "a", 1).await;
    set(&node, holder.channel, "b", 2).await;
    holder.comes_to_have(&[("a", 1), ("b", 2)]).await;
    redis.ask::<()>(&["FLUSHALL"]);
    // The loss is noticed although nothing is changed afterwards.
    holder.comes_to_have(&[]).await;
    set(&node, holder.channel, "c", 3).await;
    holder.comes_to_have(&[("c", 3)]).await;
    assert_eq!(holder.told, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lost_link_did_not_bring_is_read_anew_and_only_if_there_is_any() {
    let redis = RedisServer::start();
    let relay = Relay::to(redis.port()).await;
    let node = with_maps(gateway().over(&format!("redis://127.0.0.1:{}", relay.port()))).start().await;
    let other = with_maps(gateway().over(&redis.url())).start().await;
    let mut holder = Holder::of(&node, "ephemeral:a").await;
    set(&other, holder.channel, "a", 1).await;
    holder.comes_to_have(&[("a", 1)]).await;
    for missed in [false, true] {
        relay.point(free_port());
        relay.cut();
        node.metric_becomes("tidegate_broker_link_up", 0.0).await;
        if missed {
            set(&other, holder.channel, "b", 2).await;
        }
        relay.point(redis.port());
        node.metric_becomes("tidegate_broker_link_up", 3.0).await;
        match missed {
            false => {
                set(&other, holder.channel, "a", 7).await;
                holder.comes_to_have(&[("a", 7)]).await;
            }
            true => holder.comes_to_have(&[("a", 7), ("b", 2)]).await,
        }
        assert_eq!(holder.told, usize::from(missed));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clearing_a_map_is_told_at_once_on_all_nodes_whatever_its_mode() {
    let redis = RedisServer::start();
    let first = with_maps(gateway().over(&redis.url())).start().await;
    let second = with_maps(gateway().over(&redis.url())).start().await;
    let alone = with_maps(gateway()).start().await;
    for channel in ["ephemeral:a", "recoverable:a", "persistent:a"] {
        for nodes in [&[&first, &second][..], &[&alone]] {
            let mut holders = Vec::new();
            for node in nodes {
                holders.push(Holder::of(node, channel).await);
            }
            set(nodes[0], channel, "a", 1).await;
            for holder in &mut holders {
                holder.comes_to_have(&[("a", 1)]).await;
            }
            nodes[0].api("map_clear", json!({ "channel": channel })).await;
            for holder in &mut holders {
                holder.comes_to_have(&[]).await;
                assert_eq!(holder.told, 1, "{channel}");
            }
            // The clients continue from the new state.
            set(nodes[0], channel, "b", 2).await;
            for holder in &mut holders {
                holder.comes_to_have(&[("b", 2)]).await;
                assert_eq!(holder.told, 1, "{channel}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_subscribed_is_shown_again_soon_after_redis_has_lost_its_data() {
    let redis = RedisServer::start();
    let node = gateway()
        .over(&redis.url())
        .with("redis.ping_ms", 100)
        .and(
            "[namespaces.game]\nallow_subscribe = true\nallow_subscribe_anonymous = true\n\
             map_clients_presence_channel_prefix = \"players:\"\n\
             [namespaces.players]\nsubscription_type = \"map_clients\"\nallow_subscribe = true\n\
             allow_subscribe_anonymous = true\nmap = { mode = \"ephemeral\", key_ttl_s = 3600 }\n",
        )
        .start()
        .await;
    let mut player = node.connect().await;
    player.subscribe("game:1").await;
    let players = async || {
        let page = node.api("map_read_state", json!({ "channel": "players:game:1", "limit": 10 })).await;
        page["entries"].as_array().map_or(0, Vec::len)
    };
    eventually("the player is shown", async || players().await == 1).await;
    // Redis loses its data, and the node reconnects.
    redis.ask::<()>(&["FLUSHALL"]);
    redis.ask::<i64>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    eventually("the player is shown again", async || players().await == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_the_server_subscribes_is_told_of_changes_as_they_come() {
    let node = with_maps(gateway()).start().await;
    let mut client = node.connect_as("ann").await;
    for channel in ["ephemeral:a", "recoverable:a"] {
        set(&node, channel, "before", 1).await;
        node.api("subscribe", json!({ "channel": channel, "user": "ann" })).await;
        assert_eq!(client.push().await["push"], json!({ "channel": channel, "subscribe": {} }));
        set(&node, channel, "a", 2).await;
        let told = client.push().await["push"]["pub"].take();
        assert_eq!((&told["key"], &told["data"]), (&json!("a"), &json!(2)));
    }
}
