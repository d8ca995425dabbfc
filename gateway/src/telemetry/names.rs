//! Every metric of a node: its name, what it counts, and which values its labels can have.
//!
//! The values of every label are bounded: nothing a client chooses (a channel, a user, an address) is a label.
//! `docs/metrics.md` is written from this file.

/// The type of a metric.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

/// The definition of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Name {
    pub name: &'static str,
    pub kind: MetricKind,
    pub help: &'static str,
    /// Each label, and a description of its values.
    pub labels: &'static [(&'static str, &'static str)],
}

impl Name {
    pub(super) fn label_names(&self) -> Vec<&'static str> {
        self.labels.iter().map(|(label, _)| *label).collect()
    }
}

macro_rules! metrics {
    ($($section:literal: $($constant:ident $kind:ident $name:literal [$($label:literal: $values:literal),*] $help:literal;)*)*) => {
        $($(
            #[doc = $help]
            pub const $constant: Name = Name {
                name: concat!("tidegate_", $name),
                kind: MetricKind::$kind,
                help: $help,
                labels: &[$(($label, $values)),*],
            };
        )*)*

        /// Every metric, by section, in the order of this file.
        pub const ALL: &[(&str, &[Name])] = &[$(($section, &[$($constant),*])),*];
    };
}

metrics! {
    "Connections":
    CONNECTIONS Gauge "connections" ["protocol": "`centrifuge_json`, `centrifuge_protobuf`, `centrifuge_uni_json`, `centrifuge_uni_protobuf`, `raw`, `sse`, `sse_channels`, `sse_names`, `mercure`, `pusher`, `socketio`, `graphql`"]
        "Open client connections.";
    CONNECTIONS_TOTAL Counter "connections_total" ["protocol": "`centrifuge_json`, `centrifuge_protobuf`, `centrifuge_uni_json`, `centrifuge_uni_protobuf`, `raw`, `sse`, `sse_channels`, `sse_names`, `mercure`, `pusher`, `socketio`, `graphql`"]
        "Client connections opened.";
    CONNECTIONS_MAX Gauge "connections_max" []
        "Client connections this node takes at most, by its settings and its file descriptors.";
    HANDSHAKES_TOTAL Counter "handshakes_total" ["result": "`accepted`, or why not: `node_full`, `handshakes_full`, `address_full`, `address_rate`, `user_full`, `draining`, `proxy_header`, `tls`, `request`, `origin`, `path`, `upgrade`"]
        "Attempts to connect, by what came of them.";
    HANDSHAKES_PENDING Gauge "handshakes_pending" []
        "Connections that are in their TLS or HTTP handshake.";
    ENGINE_IO_UPGRADES_TOTAL Counter "engine_io_upgrades_total" ["result": "`changed`, or why not: `not_polling`, `unexpected`, `late`, `lost`; at a node that has not the session: `carried`, or why not: `no_address`, `unreachable`"]
        "WebSockets tried by clients that poll over Engine.IO, by what came of them.";
    ENGINE_IO_CARRIED Gauge "engine_io_carried" []
        "WebSockets that are carried to the nodes of their Engine.IO sessions.";
    ENGINE_IO_CARRIED_BYTES_TOTAL Counter "engine_io_carried_bytes_total" ["to": "`session`, `client`"]
        "Bytes of those WebSockets, by where they were carried.";
    BODIES_BYTES Gauge "bodies_bytes" []
        "Bodies of requests that are being read or worked on, in bytes: against a sixteenth of `limits.memory_bytes_max`.";
    BODIES_REFUSED_TOTAL Counter "bodies_refused_total" []
        "Requests refused with 503 because too much of other requests' bodies was kept.";
    ENGINE_IO_WAITING Gauge "engine_io_waiting" []
        "Requests over Engine.IO that wait for packets.";
    CLOSES_TOTAL Counter "closes_total" ["reason": "the gateway's own close reasons, `custom reconnect`, `custom terminal`, `peer`, `lost`"]
        "Connections closed, by the close code's reason or by how the client left.";
    SLOW_CONSUMERS_TOTAL Counter "slow_consumers_total" ["cause": "`outbox_full`, `write_timeout` (the socket took nothing for too long), `memory_short` (the node's memory, of which the client owed most), `page_timeout` (the next page of a channel's state was asked for too late)"]
        "Connections closed with 3008, by what the client was too slow for.";
    MEMORY_CLOSES_TOTAL Counter "memory_closes_total" []
        "Connections closed with 3008 because they owed the most when the node was short of memory.";
    BALANCE_CLOSES_TOTAL Counter "balance_closes_total" []
        "Connections closed with 3001 because this node had more than the mean of all nodes: their clients come back to others.";
    BALANCE_CLOSES_PENDING Gauge "balance_closes_pending" []
        "Connections that are still to be closed for that.";
    PRESENCE_HELD Gauge "presence_held" []
        "Clients that were closed to come back to another node and are still shown in presence (`drain.presence_hold_ms`).";
    PRESENCE_HELD_CHANNELS Gauge "presence_held_channels" []
        "Channels in which these clients are still shown, each once for every client: at most 65,536.";
    PRESENCE_HELD_BYTES Gauge "presence_held_bytes" []
        "Bytes of what is told of them there: at most 64 MiB.";
    PRESENCE_HOLD_OVERFLOWS_TOTAL Counter "presence_hold_overflows_total" []
        "Clients that were closed to come back to another node and said to have left at once, since too many others were held.";
    CONNECTION_SECONDS Histogram "connection_seconds" []
        "How long connections lived.";

    "Commands of clients":
    MESSAGES_IN_TOTAL Counter "messages_in_total" ["protocol": "`centrifuge_json`, `centrifuge_protobuf`, `centrifuge_uni_json`, `centrifuge_uni_protobuf`, `raw`, `sse`, `sse_channels`, `sse_names`, `mercure`, `pusher`, `socketio`, `graphql`"]
        "Messages received from clients.";
    BYTES_IN_TOTAL Counter "bytes_in_total" []
        "Bytes of messages received from clients, as they came over the wire.";
    BYTES_OUT_TOTAL Counter "bytes_out_total" []
        "Bytes handed to clients' sockets, frame headers included.";
    COMMANDS_TOTAL Counter "commands_total" ["command": "`connect`, `subscribe`, `publish`, … or `other`"]
        "Commands of clients that were begun.";
    REFUSALS_TOTAL Counter "refusals_total" ["error": "the error's message"]
        "Commands of clients that were answered with an error.";
    TOKENS_TOTAL Counter "tokens_total" ["kind": "`connection`, `subscription`", "result": "`accepted`, or why not: `missing`, `malformed`, `algorithm`, `unknown_key`, `keys_unavailable`, `signature`, `claims`, `audience`, `issuer`, `expired`, `early`, `misplaced`"]
        "Tokens of clients, by what came of them. `misplaced`: for another channel, client or purpose.";
    JWKS_FETCHES_TOTAL Counter "jwks_fetches_total" ["result": "`fetched`, `failed`"]
        "Times the keys of tokens were asked for at `auth.jwks_url`.";
    JWKS_AGE_SECONDS Gauge "jwks_age_seconds" []
        "How long ago the keys of tokens were last fetched; of two sets, the older. 0 without any.";
    COMMANDS_GIVEN_UP_TOTAL Counter "commands_given_up_total" []
        "Commands that clients had sent before they left and that were not carried out within `websocket.finish_timeout_ms`.";

    "Publications":
    PUBLICATIONS_IN_TOTAL Counter "publications_in_total" ["source": "`api`, `client`, `feed`, `demo`: published at this node; `node`: come through the broker"]
        "Publications received. Each counts at the node where it was published, and once more as `node` at every node that the broker sends it to, that one included.";
    PUBLICATIONS_REFUSED_TOTAL Counter "publications_refused_total" ["reason": "`behind`, `unreachable` and `timeout`: not sent; `unanswered`: sent, outcome unknown; `unexpected`; or what Redis refuses: `readonly`, `oom`, `misconf`, `noreplicas`, `noperm`, `loading`, `moved`, `clusterdown`, `masterdown`, `noscript`, `busy`, `unknown_command`, `other`"]
        "Publications that the broker did not take.";
    DELIVERIES_OUT_TOTAL Counter "deliveries_out_total" []
        "Publications handed to a subscriber's socket or outbox.";
    PUBLISH_TO_SOCKET_SECONDS Histogram "publish_to_socket_seconds" []
        "From a publication's acceptance on this node, or its arrival from the broker, to the last local socket write.";
    DELIVERY_SECONDS Histogram "delivery_seconds" []
        "From the publisher's request, at any node, to the last socket write of a worker's subscribers. Of the publications that are measured (`telemetry.stage_samples_per_second`). Between nodes it includes the difference of their clocks.";
    STAGE_SECONDS Histogram "stage_seconds" ["stage": "`ingress`: from the publisher's request to the broker; `broker`: from there to a node with subscribers, the difference of the two nodes' clocks included; `node`: to the workers; `queue`: in a worker's inbox; `socket`: from a worker's first socket to its last; `acknowledgement`: from a ping behind what a client was sent to its answer, in whole milliseconds, of all clients that answer pings"]
        "The parts of a publication's way, measured as `tidegate_delivery_seconds` is.";
    DROPS_TOTAL Counter "drops_total" ["reason": "`inbox_full`, `outbox_full`, `held_back_full`, `announcements_full`, `quarantined`, `stale`"]
        "Publications and control messages that did not reach someone. Each one is repaired or told to the client.";
    DUPLICATES_TOTAL Counter "duplicates_total" []
        "Publications that came again and were not delivered twice.";
    GAPS_TOTAL Counter "gaps_total" []
        "Times a channel's publications did not follow each other.";
    REPAIRS_TOTAL Counter "repairs_total" []
        "Gaps that were filled from history.";
    INSUFFICIENT_TOTAL Counter "insufficient_total" []
        "Subscriptions ended because a gap could not be filled.";
    SUPERSEDED_TOTAL Counter "superseded_total" []
        "Newest values that gave way to newer ones before a subscriber was sent them, once for each subscriber. Each is told of with the value that it is sent.";
    CATCH_UPS_TOTAL Counter "catch_ups_total" ["from": "`read`, `earlier_read`"]
        "Times someone who subscribes was told of a channel's retained history, by whether history was read for it or an earlier read told them too.";
    RECOVERIES_TOTAL Counter "recoveries_total" ["result": "`recovered`, `unrecovered`"]
        "Subscriptions that asked to be brought up to date.";

    "By namespace":
    NAMESPACE_PUBLICATIONS_IN_TOTAL Counter "namespace_publications_in_total" ["namespace": "`(default)` for channels without one, those of the configuration, `(unknown)` for one that it does not have, `(others)` for those beyond the first 253", "source": "as in `tidegate_publications_in_total`"]
        "`tidegate_publications_in_total`, by the namespace of the channel.";
    NAMESPACE_PUBLICATIONS_REFUSED_TOTAL Counter "namespace_publications_refused_total" ["namespace": "as in `tidegate_namespace_publications_in_total`", "reason": "as for `tidegate_publications_refused_total`"]
        "`tidegate_publications_refused_total`, by the namespace of the channel.";
    NAMESPACE_DELIVERIES_OUT_TOTAL Counter "namespace_deliveries_out_total" ["namespace": "as in `tidegate_namespace_publications_in_total`"]
        "`tidegate_deliveries_out_total`, by the namespace of the channel.";
    NAMESPACE_BYTES_IN_TOTAL Counter "namespace_bytes_in_total" ["namespace": "as in `tidegate_namespace_publications_in_total`"]
        "Bytes of the payloads of what was published at this node, whoever did, and of the values that keys were set to. What the broker refused is not in it, nor what other nodes published; a change or a publication that it took and that altered nothing, since its key of idempotency was used or its condition did not hold, is.";
    NAMESPACE_BYTES_OUT_TOTAL Counter "namespace_bytes_out_total" ["namespace": "as in `tidegate_namespace_publications_in_total`"]
        "Bytes of publications, joins and leaves handed to subscribers' sockets and outboxes, frame headers included. Answers to commands are not in it.";
    NAMESPACE_SUBSCRIPTIONS Gauge "namespace_subscriptions" ["namespace": "as in `tidegate_namespace_publications_in_total`"]
        "`tidegate_subscriptions`, by the namespace of the channel.";
    NAMESPACE_CHANNELS Gauge "namespace_channels" ["namespace": "as in `tidegate_namespace_publications_in_total`"]
        "`tidegate_channels`, by their namespace.";
    NAMESPACE_RECOVERIES_TOTAL Counter "namespace_recoveries_total" ["namespace": "as in `tidegate_namespace_publications_in_total`", "result": "`recovered`, `unrecovered`"]
        "`tidegate_recoveries_total`, by the namespace of the channel.";
    NAMESPACE_REFUSALS_TOTAL Counter "namespace_refusals_total" ["namespace": "as in `tidegate_namespace_publications_in_total`", "error": "the error's message"]
        "Commands of clients to subscribe, publish, and read history or presence that were answered with an error, as far as the node refused them itself.";
    NAMESPACE_HISTORY_READS_TOTAL Counter "namespace_history_reads_total" ["namespace": "as in `tidegate_namespace_publications_in_total`"]
        "Times the broker was asked for a channel's history: by clients, the server API, those who recover, and to fill gaps.";

    "Subscribers":
    SUBSCRIPTIONS Gauge "subscriptions" []
        "Subscriptions of this node's clients.";
    CHANNELS Gauge "channels" []
        "Channels with a subscriber on this node.";

    "Workers":
    WORKER_INBOX Gauge "worker_inbox" ["worker": "its number, at most 64"]
        "Publications and answers that wait for a worker.";
    WORKER_BUSY_SECONDS_TOTAL Counter "worker_busy_seconds_total" ["worker": "its number, at most 64"]
        "Time a worker did not wait. Its rate is the share of one processor.";
    WORKER_CONNECTIONS Gauge "worker_connections" ["worker": "its number, at most 64"]
        "Connections of a worker.";
    WORKER_IO_URING Gauge "worker_io_uring" ["worker": "its number, at most 64"]
        "Whether a worker sends to many clients in one system call (1), or to each in one (0): `workers.io_uring`.";
    OUTBOX_BYTES Gauge "outbox_bytes" []
        "Bytes kept for clients whose sockets are full.";
    OUTBOX_BLOCKED Gauge "outbox_blocked" []
        "Connections whose sockets are full.";

    CLIENT_BUFFER_BYTES Gauge "client_buffer_bytes" []
        "Bytes kept for clients that read slowly, and of their commands. Half of the budget is for these.";
    MEMORY_BUDGET_BYTES Gauge "memory_budget_bytes" []
        "What this node may keep of all kinds, in bytes: `limits.memory_bytes_max`.";

    "Broker":
    BROKER_SECONDS Histogram "broker_seconds" ["operation": "`publish`, `subscribe`, `unsubscribe`, `history`, `positions`, `control`, `nodes`, `presence_write`, `presence_read`, `ledger_write`, `ledger_read`, `session_write`, `session_read`, `turn`"]
        "Round trips to Redis.";
    BROKER_ERRORS_TOTAL Counter "broker_errors_total" ["reason": "as for `tidegate_publications_refused_total`"]
        "Calls to the broker that failed.";
    BROKER_LINK_UP Gauge "broker_link_up" ["link": "`command`, `read`, `subscriber`"]
        "1 while a link to Redis is up.";
    BROKER_RECONNECTS_TOTAL Counter "broker_reconnects_total" ["link": "`command`, `read`, `subscriber`"]
        "Times a link to Redis was made again after it was lost.";
    BROKER_MASTER_CHANGES_TOTAL Counter "broker_master_changes_total" []
        "Times another Redis became the master that Sentinel names, and the node moved there.";
    BROKER_SENTINELS_UP Gauge "broker_sentinels_up" []
        "Sentinels of `redis.addresses` that answer.";
    BROKER_SHARD_UP Gauge "broker_shard_up" ["shard": "the addresses in `redis.addresses`, or those of a cluster's masters"]
        "1 while messages to this node itself come back through this Redis. Only where there are several, as with the other metrics of shards.";
    BROKER_SHARD_CHANNELS Gauge "broker_shard_channels" ["shard": "the addresses in `redis.addresses`, or those of a cluster's masters"]
        "Channels this node has this Redis deliver.";
    BROKER_SHARD_PUBLISHED_TOTAL Counter "broker_shard_published_total" ["shard": "the addresses in `redis.addresses`, or those of a cluster's masters"]
        "Publications of this node that this Redis took.";
    BROKER_SHARD_ERRORS_TOTAL Counter "broker_shard_errors_total" ["shard": "the addresses in `redis.addresses`, or those of a cluster's masters"]
        "Calls to this Redis that failed.";
    BROKER_SHARD_RECONNECTS_TOTAL Counter "broker_shard_reconnects_total" ["shard": "the addresses in `redis.addresses`, or those of a cluster's masters"]
        "Times a link to this Redis was made again after it was lost.";
    NODES_APART Gauge "nodes_apart" []
        "Other nodes that place channels in another way, because they have another list of Redis servers or another `redis.cluster_partitions`. Must be 0.";
    BROKER_CHANNELS Gauge "broker_channels" []
        "Channels this node has the broker deliver.";
    BROKER_RECEIVED_BYTES_TOTAL Counter "broker_received_bytes_total" []
        "Bytes of publications received through the broker.";
    BROKER_UNREADABLE_TOTAL Counter "broker_unreadable_total" []
        "Messages from the broker that could not be read and were dropped.";
    BROKER_REPEATED_TOTAL Counter "broker_repeated_total" []
        "Publications not made again, because their idempotency key had been used.";
    BROKER_EVICTIONS_TOTAL Counter "broker_evictions_total" ["what": "`stream`, `key`"]
        "Histories and idempotency keys that the memory broker forgot before their time, for want of room.";
    PRESENCE_OVERFLOWS_TOTAL Counter "presence_overflows_total" []
        "Times so many presence changes waited for Redis that all of the node's presence was written anew instead.";
    LEDGER_UNSHORTENED_TOTAL Counter "ledger_unshortened_total" []
        "Times a ledger's log in NATS was not made shorter when it was due: the nodes wrote to it all the time, or NATS failed. It is tried again when it is longer.";
    NODE_QUESTIONS_TOTAL Counter "node_questions_total" ["result": "`answered`, or why not: `unknown_node`, `deaf`, `late`, `too_many`, `busy`, `not_understood`, `unsendable`, `broker`"]
        "Questions that this node asked another or itself, by what came of them.";
    CANARY_SECONDS Histogram "canary_seconds" []
        "How long a message to this node itself took through the broker.";
    CANARY_AGE_SECONDS Gauge "canary_age_seconds" []
        "Seconds since such a message last came back.";

    "Other nodes":
    NODES Gauge "nodes" []
        "Nodes that are announced in Redis, this one included: 1 where it cannot be asked. Those that drain count until they end.";
    NODES_EXPECTED Gauge "nodes_expected" []
        "How many nodes there should be at least: `cluster.nodes_expected`.";
    NODES_LOST_TOTAL Counter "nodes_lost_total" []
        "Other nodes that are gone without having said that they leave: they ended, or cannot reach Redis. Each of the others counts it, some 25 s later.";

    "HTTP":
    API_CONNECTIONS_ON_WORKERS Gauge "api_connections_on_workers" []
        "Connections of the server API that only publish, and are served where the subscribers are.";
    API_REQUESTS_TOTAL Counter "api_requests_total" ["method": "the API's methods, or `unknown`", "status": "the HTTP status"]
        "Requests to the server API.";
    API_SECONDS Histogram "api_seconds" ["method": "the API's methods, or `unknown`"]
        "How long requests to the server API took.";
    TLS_RELOADS_TOTAL Counter "tls_reloads_total" ["result": "`changed`, `failed`"]
        "Times a changed certificate was taken, or could not be.";

    CONFIG_RELOADS_TOTAL Counter "config_reloads_total" ["result": "`applied`, `unchanged`, `refused`"]
        "Times the configuration was read again. What needs a restart does not count as applied.";
    CONFIG_APPLIED_SECONDS Gauge "config_applied_time_seconds" []
        "When the configuration in use was last read, in seconds since 1970.";
    CONFIG_HASH Gauge "config_hash" []
        "A number made of the configuration in use, secrets left out: nodes with the same one have the same settings.";

    "The application's servers":
    BACKEND_SECONDS Histogram "backend_seconds" ["hook": "`connect`, `refresh`, `subscribe`, `sub_refresh`, `publish`, `rpc`, `message`, `poll`"]
        "How long questions to a backend took, retries included.";
    BACKEND_RESULTS_TOTAL Counter "backend_results_total" ["hook": "as for `tidegate_backend_seconds`", "result": "`answered`; `denied`: by the backend; or why there was no answer: `too_many`, `open`, `timeout`, `unreachable`, `private_address`, `broken`, `status`, `too_long`, `malformed`"]
        "Questions to a backend, by what came of them.";
    BACKEND_RETRIES_TOTAL Counter "backend_retries_total" ["hook": "as for `tidegate_backend_seconds`"]
        "Times a backend was asked again.";
    BACKEND_IN_FLIGHT Gauge "backend_in_flight" ["hook": "as for `tidegate_backend_seconds`"]
        "Questions that wait for a backend.";
    BACKEND_BREAKERS_OPEN Gauge "backend_breakers_open" ["hook": "as for `tidegate_backend_seconds`"]
        "Hooks that are left alone because they failed too often: 1 for one, more where `rpc` has namespaces or `poll` has several sections.";
    BACKEND_EVENTS_TOTAL Counter "backend_events_total" ["result": "`sent`, or why it was lost: `full`, `deadline`, `refused`, `stopping`, `failed`"]
        "Events for the backend, by what came of them.";
    BACKEND_EVENT_FAILURES_TOTAL Counter "backend_event_failures_total" ["reason": "`timeout`, `unreachable`, `private_address`, `broken`, `status`, `too_long`"]
        "Times a batch of events was not taken. It is sent again.";
    BACKEND_EVENTS_QUEUED Gauge "backend_events_queued" []
        "Events that wait to be sent.";
    BACKEND_EVENTS_QUEUED_BYTES Gauge "backend_events_queued_bytes" []
        "Their bytes.";

    "Webhooks of Pusher's apps":
    WEBHOOK_EVENTS_TOTAL Counter "webhook_events_total" ["result": "`sent`, or why it was lost: `full`, `deadline`, `refused`, `stopping`, `failed`"]
        "Events for webhooks, by what came of them. Counted on the node that sends them, or that found no room for them.";
    WEBHOOK_FAILURES_TOTAL Counter "webhook_failures_total" ["reason": "`timeout`, `unreachable`, `private_address`, `broken`, `status`, `too_long`"]
        "Times a batch was not taken by a webhook. It is sent again.";
    WEBHOOK_CHANGES_QUEUED Gauge "webhook_changes_queued" []
        "What has happened on this node and is yet to be written to a ledger.";
    WEBHOOK_CHANGES_QUEUED_BYTES Gauge "webhook_changes_queued_bytes" []
        "Its bytes.";
    WEBHOOK_RESTARTS_TOTAL Counter "webhook_restarts_total" []
        "Times this node wrote anew who is where, because Redis may have lost it or this node was taken for dead.";

    "Emitters of Socket.IO":
    EMITTED_TOTAL Counter "socketio_emitted_total" ["kind": "`emit`, `join`, `leave`, `disconnect`, `other`", "result": "`done`; `repeated`: another node had done it; or why not: `malformed`, `too_long`, `pickle`, `unsupported`, `unknown_namespace`, `refused`, `failed`, `late`, `dropped`, `unplaced`"]
        "What emitters have said through Redis, by what came of it. Counted on the node that carries it out; `dropped` and `unplaced` on each.";
    EMITTERS_LINK_UP Gauge "socketio_emitters_link_up" []
        "1 while this node is connected to the Redis of the emitters.";
    EMITTERS_RECONNECTS_TOTAL Counter "socketio_emitters_reconnects_total" []
        "Times that connection was opened again.";
    EMITTERS_LEADER Gauge "socketio_emitters_leader" []
        "1 on the one node of the cluster that carries out what emitters say.";
    EMITTERS_WAITING_BYTES Gauge "socketio_emitters_waiting_bytes" []
        "Messages of emitters that this node has heard and does not know to be done.";

    "Feeds":
    FEED_READ_TOTAL Counter "feed_read_total" ["feed": "the name of a section `feeds.NAME`"]
        "Records that this node has read, those included that it reads again.";
    FEED_RECORDS_TOTAL Counter "feed_records_total" ["feed": "the name of a section `feeds.NAME`", "result": "`published`; `repeated`: nothing new, as it was published before or its version is no newer; `dead_lettered`"]
        "Records that this node is done with, by what came of them.";
    FEED_RETRIES_TOTAL Counter "feed_retries_total" ["feed": "the name of a section `feeds.NAME`"]
        "Times this node had to pause and try again, because the source or the broker was away.";
    FEED_CONNECTED Gauge "feed_connected" ["feed": "the name of a section `feeds.NAME`"]
        "1 while this node can use the source.";
    FEED_READER Gauge "feed_reader" ["feed": "the name of a section `feeds.NAME`"]
        "1 on the one node that reads the feed; of a topic of Kafka on each that reads a partition.";
    FEED_HELD_RECORDS Gauge "feed_held_records" ["feed": "the name of a section `feeds.NAME`"]
        "Records that this node has read and is not done with.";
    FEED_BEHIND_RECORDS Gauge "feed_behind_records" ["feed": "the name of a section `feeds.NAME`"]
        "Records in the source that are not done with. Only who reads shows it, and only where the source can tell.";
    FEED_OLDEST_SECONDS Gauge "feed_oldest_seconds" ["feed": "the name of a section `feeds.NAME`"]
        "How old the oldest of them is. Shown as the one before.";

    "Polled channels":
    POLL_CHANNELS Gauge "poll_channels" []
        "Polled channels that clients of this node follow keys of, or did until a moment ago.";
    POLL_KEYS Gauge "poll_keys" []
        "Their keys, each once.";
    POLL_CLIENT_KEYS Gauge "poll_client_keys" []
        "The same, each once for every client that follows it.";
    POLL_RESULTS_TOTAL Counter "poll_results_total" ["source": "`round`: a backend was asked; `published`: the server API was called", "result": "`changed`, `unchanged`, `removed`"]
        "What was said of keys that are followed here. There is news only of what has changed or was removed.";
    POLL_RESETS_TOTAL Counter "poll_resets_total" []
        "Times the versions of a channel counted anew, so that its subscribers were sent to come back.";

    "Socket.IO":
    SOCKETIO_RECOVERIES_TOTAL Counter "socketio_recoveries_total" ["result": "`recovered`, or why the client began anew: `unknown`: no such session, or away for too long; `other_user`; `other_client`: its connection was somebody else in a namespace before; `offset`: not one of ours; `stale`: what is kept is older than what it was told; `history`: what it missed is not there any more; `taken`: another connection was quicker; `unreachable`: Redis did not answer"]
        "Clients of Socket.IO that asked to come back to their session.";
    SOCKETIO_CLIENTS Gauge "socketio_clients" ["namespace": "those of `socketio.namespaces`, at most 64"]
        "Clients of this node in each namespace of Socket.IO.";
    SOCKETIO_EVENTS_TOTAL Counter "socketio_events_total" ["result": "`received`; `refused`: those of them that were answered with an error"]
        "Events that clients of Socket.IO have sent.";
    SOCKETIO_SESSIONS Gauge "socketio_sessions" []
        "Sessions of this node's clients that they can come back to.";

    SOCKETIO_ASKS_TOTAL Counter "socketio_asks_total" ["result": "`answered`; `timeout`; `gone`: its connection ended, or it was not there; `too_many`: too many were waited for, of it or of all; `too_long`: there was no room for its answer; `late`: an acknowledgement that nobody waited for"]
        "Acknowledgements that servers asked clients of this node for, by what came of them.";
    SOCKETIO_ASKS_PENDING Gauge "socketio_asks_pending" []
        "Acknowledgements of this node's clients that are waited for.";

    "GraphQL":
    GRAPHQL_OPERATIONS_TOTAL Counter "graphql_operations_total" ["result": "`subscription`: it has a channel, which the client may still be refused; `answered`: at once, such as what the schema is; `refused`: it is not valid, or more than the limits allow"]
        "Operations that clients have asked for in GraphQL.";

    "Traces":
    TRACE_EXPORTS_FAILED_TOTAL Counter "trace_exports_failed_total" []
        "Batches of spans that the collector of traces did not take, and that are lost.";

    "The process":
    PANICS_TOTAL Counter "panics_total" ["what": "`client`, `request`, `delivery`, `worker`, `feed`"]
        "Faults of the program itself that cost one client, one request, one delivery, a worker's clients or a pause of a feed, and not the node. Report them.";
    UP Gauge "build_info" ["version": "of this program"]
        "Always 1.";
    READY Gauge "ready" []
        "1 while `/readyz` says yes.";
    START_TIME_SECONDS Gauge "process_start_time_seconds" []
        "When this node was started, in seconds since 1970.";
    CPU_SECONDS_TOTAL Counter "process_cpu_seconds_total" []
        "Processor time used.";
    RESIDENT_BYTES Gauge "process_resident_memory_bytes" []
        "Memory in use.";
    DESCRIPTORS Gauge "process_open_fds" []
        "Open file descriptors.";
    DESCRIPTORS_MAX Gauge "process_max_fds" []
        "File descriptors this process may open.";
    THREADS Gauge "process_threads" []
        "Threads.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_say_their_kind_and_unit() {
        let mut seen = BTreeSet::new();
        for metric in ALL.iter().flat_map(|(_, metrics)| *metrics) {
            assert!(seen.insert(metric.name), "{} is there twice", metric.name);
            assert_eq!(
                metric.kind == MetricKind::Counter,
                metric.name.ends_with("_total"),
                "{}",
                metric.name
            );
            if metric.kind == MetricKind::Histogram {
                assert!(metric.name.ends_with("_seconds"), "{}", metric.name);
            }
            assert!(metric.help.ends_with('.'), "{}: {}", metric.name, metric.help);
        }
    }
}
