//! Tests the whole node over real sockets: what it serves, what it refuses, which faults it survives, and what it leaves behind.

#![allow(
    unreachable_pub,
    reason = "a test program has no users; `pub` says what its modules offer each other"
)]

#[path = "../support/application.rs"]
mod application;
#[path = "../support/client.rs"]
#[allow(dead_code, reason = "a small language is defined whole")]
mod client;
#[path = "../support/feeds.rs"]
mod feeds;
#[path = "../support/gateway.rs"]
#[allow(dead_code, reason = "a small language is defined whole")]
mod gateway;
#[path = "../support/graphql.rs"]
mod graphql;
#[path = "../support/http.rs"]
mod http;
#[path = "../support/kafka.rs"]
mod kafka;
#[path = "../support/nats.rs"]
#[allow(dead_code, reason = "each test program uses its part of what is shared")]
mod nats_server;
#[path = "../support/polling.rs"]
mod polling;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../support/pusher.rs"]
mod pusher;
#[path = "../support/redis_cluster.rs"]
#[allow(dead_code, reason = "each test program uses its part of what is shared")]
mod redis_cluster;
#[path = "../support/redis.rs"]
#[allow(dead_code, reason = "each test program uses its part of what is shared")]
mod redis_server;
#[path = "../support/relay.rs"]
#[allow(dead_code, reason = "each test program uses its part of what is shared")]
mod relay;
#[path = "../support/response.rs"]
mod response;
#[path = "../support/socketio.rs"]
mod socketio;
#[path = "../support/tls.rs"]
mod tls;

mod asks_backends;
mod asks_nodes;
mod asks_sockets;
mod commands_clients;
mod commands_sockets;
mod compresses;
mod counts_by_namespace;
mod drains;
mod explains_deliveries;
mod fetches_keys;
mod finishes_what_came;
mod follows_sentinel;
mod follows_slots;
mod guards_connections;
mod keeps_maps_true;
mod keeps_maps_true_over_nats;
mod keeps_order;
mod keeps_to_its_memory;
mod leaves_nothing_behind;
mod loses_a_pusher_node;
mod loses_a_shard;
mod moves_clients;
mod notices_lost_data;
mod polls_at_other_nodes;
mod polls_backends;
mod polls_over_engine_io;
mod publishes_on_workers;
mod reaches_by_response;
mod reads_feeds;
mod reads_tables;
mod reads_topics;
pub mod receives_emitters;
mod recovers_slowly;
mod refuses_connections;
mod reports_readiness;
mod resumes_sessions;
mod sends_webhooks;
mod sends_what_is_wanted;
mod serves_commands;
mod serves_engine_io;
mod serves_event_streams;
mod serves_graphql;
mod serves_graphql_streams;
mod serves_http2;
mod serves_many;
mod serves_newest_values;
mod serves_protobuf;
mod serves_pusher;
mod serves_raw;
mod serves_raw_paths;
mod serves_socketio;
mod serves_tls;
mod serves_unidirectional;
mod serves_updates;
pub mod spans_nodes;
mod survives_a_storm;
#[cfg(debug_assertions)]
mod survives_itself;
mod survives_nats;
pub mod survives_redis;
