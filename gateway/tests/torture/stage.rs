//! Two servers, one of which replicates the other over a relay that can be held, and two nodes, each with a relay of
//! its own to the master.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::audience::recovering_gateway;
use crate::gateway::{Description, Gateway, PATIENCE};
use crate::redis_server::RedisServer;
use crate::relay::Relay;

/// The user of the nodes, which may not call INFO in some plays.
const USER: &str = "limited";
const PASSWORD: &str = "password-of-the-tests";
const USER_OPTIONS: [&str; 7] = ["--user", USER, "on", ">password-of-the-tests", "~*", "&*", "+@all"];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Make {
    Redis,
    Valkey,
}

impl Make {
    pub fn program(self) -> PathBuf {
        match self {
            Self::Redis => "redis-server".into(),
            Self::Valkey => {
                let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
                let target = std::env::var_os("CARGO_TARGET_DIR")
                    .map_or_else(|| PathBuf::from(root).join("target"), PathBuf::from);
                target.join("tools/valkey-server")
            }
        }
    }
}

#[derive(Debug)]
pub struct Stage {
    pub make: Make,
    pub servers: [RedisServer; 2],
    /// The index of the master.
    pub master: usize,
    /// The relays for replication from each server.
    wires: [Relay; 2],
    /// The relay that each node uses as its Redis.
    pub doors: [Relay; 2],
    pub nodes: [Arc<Gateway>; 2],
}

impl Stage {
    pub async fn set(make: Make, with_info: bool) -> Self {
        let servers = servers(make, with_info);
        let (wires, doors) = ways(&servers).await;
        let [here, there] = [0, 1].map(|door: usize| {
            let port = doors[door].port();
            recovering_gateway().over(&format!("redis://{USER}:{PASSWORD}@127.0.0.1:{port}"))
        });
        let nodes = [node(here, "here").await, node(there, "there").await];
        let stage = Self { make, servers, master: 0, wires, doors, nodes };
        stage.follow_master(1).await;
        stage
    }

    /// The same with a Sentinel, which nodes ask themselves if `nodes_ask`. Sentinel gives replicas the port of the
    /// master itself, so replication cannot be held then.
    pub async fn with_sentinel(make: Make, settings: &str, nodes_ask: bool) -> (Self, RedisServer) {
        if !nodes_ask {
            let stage = Self::set(make, true).await;
            replicates(&stage.servers).await;
            let sentinel = RedisServer::start_sentinel(&stage.servers[0], settings);
            return (stage, sentinel);
        }
        let servers = servers(make, true);
        replicates(&servers).await;
        let sentinel = RedisServer::start_sentinel(&servers[0], settings);
        let (wires, doors) = ways(&servers).await;
        let [here, there] = ["here", "there"].map(|name| {
            let asks = recovering_gateway().over_sentinels([sentinel.port()]);
            node(asks.with("redis.user", USER).with("redis.password", PASSWORD), name)
        });
        let nodes = [here.await, there.await];
        (Self { make, servers, master: 0, wires, doors, nodes }, sentinel)
    }

    pub fn replica(&self) -> usize {
        1 - self.master
    }

    /// Holds the replication from the master.
    pub fn hold_replication(&self) {
        self.wires[self.master].hold();
    }

    pub fn release_replication(&self) {
        self.wires.iter().for_each(Relay::release);
    }

    /// Makes a server the replica of the other, and waits until it has its data.
    pub async fn follow_master(&self, server: usize) {
        let port = self.wires[1 - server].port().to_string();
        self.servers[server].ask::<String>(&["REPLICAOF", "127.0.0.1", &port]);
        is_in_sync(&self.servers[server]).await;
    }

    pub fn promote(&mut self, server: usize) {
        self.servers[server].ask::<String>(&["REPLICAOF", "NO", "ONE"]);
        self.master = server;
    }
}

/// Options for fast replication.
pub fn server_options() -> [&'static str; 6] {
    ["--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]
}

fn servers(make: Make, with_info: bool) -> [RedisServer; 2] {
    let mut options = server_options().to_vec();
    options.extend(USER_OPTIONS);
    if !with_info {
        options.push("-@dangerous");
    }
    [(); 2].map(|()| RedisServer::start_program(&make.program(), &options))
}

/// Creates the relays for replication, and those of the nodes.
async fn ways(servers: &[RedisServer; 2]) -> ([Relay; 2], [Relay; 2]) {
    let wires = [Relay::to(servers[0].port()).await, Relay::to(servers[1].port()).await];
    let doors = [Relay::to(servers[0].port()).await, Relay::to(servers[0].port()).await];
    (wires, doors)
}

/// Makes the second server replicate the first, without a relay.
async fn replicates(servers: &[RedisServer; 2]) {
    servers[1].ask::<String>(&["REPLICAOF", "127.0.0.1", &servers[0].port().to_string()]);
    is_in_sync(&servers[1]).await;
}

/// Starts a node with short timeouts for its Redis.
pub async fn node(description: Description, name: &str) -> Arc<Gateway> {
    let node = description.with("node.name", name);
    let node =
        node.with("redis.timeout_ms", 800).with("redis.ping_ms", 200).with("redis.reconnect_max_ms", 200);
    Arc::new(node.with("workers.count", 1).start().await)
}

pub async fn is_in_sync(server: &RedisServer) {
    let start = Instant::now();
    loop {
        let info = server.try_ask::<String>(&["INFO", "replication"]).unwrap_or_default();
        if info.contains("master_link_status:up") {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "no replication: {info}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
