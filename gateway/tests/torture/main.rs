//! Real servers lose data, forget it and go back in time under load. No subscriber may miss a publication, or receive a
//! wrong one, without being told, and none may be told for no reason.
//!
//! A short play of each kind is part of every test run. To run a long one, of any seed:
//!
//! ```sh
//! TORTURE_SECONDS=600 TORTURE_SEED=7 cargo test -p tidegate --test torture -- --ignored --nocapture
//! ```

#![allow(
    unreachable_pub,
    reason = "a test program has no users; `pub` says what its modules offer each other"
)]
#![allow(clippy::print_stdout, reason = "a play that fails is told by what was played")]

#[path = "../support/client.rs"]
#[allow(dead_code, reason = "a small language is defined whole")]
mod client;
#[path = "../support/gateway.rs"]
#[allow(dead_code, reason = "a small language is defined whole")]
mod gateway;
#[path = "../support/http.rs"]
#[allow(dead_code, reason = "a small language is defined whole")]
mod http;
#[path = "../support/nats.rs"]
#[allow(dead_code, reason = "each test program uses its part of what is shared")]
mod nats_server;
#[path = "../support/redis_cluster.rs"]
#[allow(dead_code, reason = "each test program uses its part of what is shared")]
mod redis_cluster;
#[path = "../support/redis.rs"]
#[allow(dead_code, reason = "each test program uses its part of what is shared")]
mod redis_server;
#[path = "../support/relay.rs"]
#[allow(dead_code, reason = "each test program uses its part of what is shared")]
mod relay;

mod account;
mod audience;
mod cluster;
mod events;
mod ledger;
mod nats;
mod play;
mod sentinel;
mod shards;
mod stage;

use std::time::Duration;

use play::{Kind, play};
use sentinel::Way;
use stage::Make;

/// The duration of a short play, without its end.
const SHORT: Duration = Duration::from_secs(7);

/// The duration of each play in a long run.
const LONG: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_untold_when_redis_servers_fail_and_go_back() {
    play(Make::Redis, Kind::Everything, 1, SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_untold_when_valkey_servers_fail_and_go_back() {
    play(Make::Valkey, Kind::Everything, 2, SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_untold_by_a_user_who_may_not_call_info() {
    play(Make::Redis, Kind::WithoutInfo, 3, SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_told_of_a_loss_where_only_links_fail() {
    play(Make::Redis, Kind::Harmless, 4, SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_untold_when_sentinel_fails_over_and_back() {
    sentinel::play(Make::Redis, 5, Way::Doors).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_untold_when_nodes_follow_sentinel_themselves() {
    sentinel::play(Make::Redis, 6, Way::Asked).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_untold_and_nobody_else_is_told_when_one_of_several_servers_fails() {
    shards::play(Make::Redis, 7, SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_untold_and_nobody_else_is_told_when_masters_of_a_cluster_fail() {
    cluster::play(Make::Redis, cluster::Kind::Everything, 8, SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_told_of_a_loss_where_slots_of_a_cluster_move_and_masters_come_and_go() {
    cluster::play(Make::Redis, cluster::Kind::Harmless, 9, SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_told_of_a_loss_where_slots_of_valkey_migrate_as_a_whole() {
    cluster::play(Make::Valkey, cluster::Kind::Harmless, 10, SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_untold_when_nats_loses_streams_and_goes_back() {
    nats::play(nats::Kind::Everything, 11, SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_told_of_a_loss_where_nats_dies_hangs_and_comes_back() {
    nats::play(nats::Kind::Harmless, 12, SHORT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_told_of_a_loss_where_a_cluster_of_nats_loses_its_leaders() {
    nats::play_cluster(13, SHORT).await;
}

/// Plays one seed after the other, until the time is over.
async fn play_long(play: impl AsyncFn(u64)) {
    let number = |name: &str, default: u64| {
        std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
    };
    let until = std::time::Instant::now() + Duration::from_secs(number("TORTURE_SECONDS", 60));
    let mut seed = number("TORTURE_SEED", 100);
    while std::time::Instant::now() < until {
        println!("seed {seed}");
        play(seed).await;
        seed += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "as long as TORTURE_SECONDS says"]
async fn a_long_play_of_any_seed_with_servers_and_sentinel() {
    play_long(async |seed| {
        for make in [Make::Redis, Make::Valkey] {
            for kind in [Kind::Everything, Kind::WithoutInfo, Kind::Harmless] {
                println!("{make:?} {kind:?}");
                play(make, kind, seed, LONG).await;
            }
            for way in [Way::Doors, Way::Asked] {
                println!("{make:?} with Sentinel, {way:?}");
                sentinel::play(make, seed, way).await;
            }
            println!("{make:?}, several servers");
            shards::play(make, seed, LONG).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "as long as TORTURE_SECONDS says"]
async fn a_long_play_of_any_seed_with_clusters() {
    play_long(async |seed| {
        for make in [Make::Redis, Make::Valkey] {
            for kind in [cluster::Kind::Everything, cluster::Kind::Harmless] {
                println!("{make:?} {kind:?}");
                cluster::play(make, kind, seed, LONG).await;
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "as long as TORTURE_SECONDS says"]
async fn a_long_play_of_any_seed_with_nats() {
    play_long(async |seed| {
        for kind in [nats::Kind::Everything, nats::Kind::Harmless] {
            println!("{kind:?}");
            nats::play(kind, seed, LONG).await;
        }
        println!("three servers");
        nats::play_cluster(seed, LONG).await;
    })
    .await;
}
