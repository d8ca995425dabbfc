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
        "The most client connections that this node accepts, by its settings and its file descriptors.";
    HANDSHAKES_TOTAL Counter "handshakes_total" ["result": "`accepted`, or the reason for refusal: `node_full`, `handshakes_full`, `address_full`, `address_rate`, `user_full`, `draining`, `proxy_header`, `tls`, `request`, `origin`, `path`, `upgrade`"]
        "Connection attempts, by result.";
    HANDSHAKES_PENDING Gauge "handshakes_pending" []
        "Connections in their TLS or HTTP handshake.";
    ENGINE_IO_UPGRADES_TOTAL Counter "engine_io_upgrades_total" ["result": "`changed`, or the reason for failure: `not_polling`, `unexpected`, `late`, `lost`; at a node without the session: `carried`, or the reason for failure: `no_address`, `unreachable`"]
        "Upgrades to a WebSocket that Engine.IO clients attempted while polling, by result.";
    ENGINE_IO_CARRIED Gauge "engine_io_carried" []
        "WebSockets that this node forwards to the nodes that have their Engine.IO sessions.";
    ENGINE_IO_CARRIED_BYTES_TOTAL Counter "engine_io_carried_bytes_total" ["to": "`session`, `client`"]
        "Bytes forwarded for these WebSockets, by direction.";
    BODIES_BYTES Gauge "bodies_bytes" []
        "Bytes of request bodies that are being read or processed. They are limited to a sixteenth of `limits.memory_bytes_max`.";
    BODIES_REFUSED_TOTAL Counter "bodies_refused_total" []
        "Requests refused with 503 because the bodies of other requests filled the memory for bodies.";
    ENGINE_IO_WAITING Gauge "engine_io_waiting" []
        "Engine.IO polling requests that wait for packets.";
    CLOSES_TOTAL Counter "closes_total" ["reason": "the gateway's own close reasons, `custom reconnect`, `custom terminal`, `peer`, `lost`"]
        "Connections closed, by the reason of the close code or by how the client left.";
    SLOW_CONSUMERS_TOTAL Counter "slow_consumers_total" ["cause": "`outbox_full`, `write_timeout` (the socket accepted no bytes for too long), `memory_short` (the node was short of memory, and this client had the most pending data), `page_timeout` (the client asked too late for the next page of a map)"]
        "Connections closed with 3008 because the client was too slow, by cause.";
    MEMORY_CLOSES_TOTAL Counter "memory_closes_total" []
        "Connections closed with 3008 because the node was short of memory and they had the most pending data.";
    BALANCE_CLOSES_TOTAL Counter "balance_closes_total" []
        "Connections closed with 3001 by rebalancing: this node had more than the mean of all nodes.";
    BALANCE_CLOSES_PENDING Gauge "balance_closes_pending" []
        "Connections that rebalancing has yet to close.";
    PRESENCE_HELD Gauge "presence_held" []
        "Clients that were closed to reconnect to another node and that presence still shows (`drain.presence_hold_ms`).";
    PRESENCE_HELD_CHANNELS Gauge "presence_held_channels" []
        "Channels in which presence still shows these clients, counted once per client. At most 65,536.";
    PRESENCE_HELD_BYTES Gauge "presence_held_bytes" []
        "Bytes of these presence entries. At most 64 MiB.";
    PRESENCE_HOLD_OVERFLOWS_TOTAL Counter "presence_hold_overflows_total" []
        "Clients that were closed to reconnect to another node and that left presence at once, because too many others were held.";
    CONNECTION_SECONDS Histogram "connection_seconds" []
        "Lifetimes of connections.";

    "Commands of clients":
    MESSAGES_IN_TOTAL Counter "messages_in_total" ["protocol": "`centrifuge_json`, `centrifuge_protobuf`, `centrifuge_uni_json`, `centrifuge_uni_protobuf`, `raw`, `sse`, `sse_channels`, `sse_names`, `mercure`, `pusher`, `socketio`, `graphql`"]
        "Messages received from clients.";
    BYTES_IN_TOTAL Counter "bytes_in_total" []
        "Bytes of messages received from clients, as read from the network.";
    BYTES_OUT_TOTAL Counter "bytes_out_total" []
        "Bytes written to clients' sockets, including frame headers.";
    COMMANDS_TOTAL Counter "commands_total" ["command": "`connect`, `subscribe`, `publish`, … or `other`"]
        "Commands of clients that were started.";
    REFUSALS_TOTAL Counter "refusals_total" ["error": "the error's message"]
        "Commands of clients that were answered with an error, by error.";
    TOKENS_TOTAL Counter "tokens_total" ["kind": "`connection`, `subscription`", "result": "`accepted`, or the reason for refusal: `missing`, `malformed`, `algorithm`, `unknown_key`, `keys_unavailable`, `signature`, `claims`, `audience`, `issuer`, `expired`, `early`, `misplaced`"]
        "Tokens of clients, by result. `misplaced`: the token is for another channel, client or purpose.";
    JWKS_FETCHES_TOTAL Counter "jwks_fetches_total" ["result": "`fetched`, `failed`"]
        "Fetches of token keys from `auth.jwks_url` and `auth.subscription_jwks_url`, by result.";
    JWKS_AGE_SECONDS Gauge "jwks_age_seconds" []
        "Seconds since token keys were last fetched; the older of two sets counts. 0 if no keys are fetched.";
    COMMANDS_GIVEN_UP_TOTAL Counter "commands_given_up_total" []
        "Commands of clients that closed their connection, given up because they were not completed within `websocket.finish_timeout_ms`.";

    "Publications":
    PUBLICATIONS_IN_TOTAL Counter "publications_in_total" ["source": "`api`, `client`, `feed`, `demo`: published at this node; `node`: received from the broker"]
        "Publications received. Each is counted at the node where it was published, and again as `node` at every node that receives it from the broker, including the first.";
    PUBLICATIONS_REFUSED_TOTAL Counter "publications_refused_total" ["reason": "`behind` (a worker of this node is behind), `unreachable` and `timeout`: not sent; `unanswered`: sent, outcome unknown; `unexpected`: not understood, outcome unknown; `full`: no room for a further key; or an error of Redis: `readonly`, `oom`, `misconf`, `noreplicas`, `noperm`, `loading`, `moved`, `clusterdown`, `masterdown`, `noscript`, `busy`, `unknown_command`, `other`"]
        "Publications that the broker did not accept, by reason.";
    DELIVERIES_OUT_TOTAL Counter "deliveries_out_total" []
        "Publications handed to a subscriber's socket or outbox.";
    PUBLISH_TO_SOCKET_SECONDS Histogram "publish_to_socket_seconds" []
        "Time from a publication's acceptance on this node, or its arrival from the broker, to the last local socket write.";
    DELIVERY_SECONDS Histogram "delivery_seconds" []
        "Time from the publisher's request, at any node, to the last socket write of one worker. Only for sampled publications (`telemetry.stage_samples_per_second`). Between nodes it includes the difference of their clocks.";
    STAGE_SECONDS Histogram "stage_seconds" ["stage": "`ingress`: from the publisher's request to the broker; `broker`: from there to a node with subscribers, including the difference of the two nodes' clocks; `node`: to the workers; `queue`: in a worker's inbox; `socket`: from a worker's first socket write to its last; `acknowledgement`: from a ping sent after publications to the client's answer, in whole milliseconds, for all clients that answer pings"]
        "Time that a publication spends in each stage of its way. Only for sampled publications, like `tidegate_delivery_seconds`.";
    DROPS_TOTAL Counter "drops_total" ["reason": "`inbox_full`, `outbox_full`, `held_back_full`, `announcements_full`, `shown_full`, `quarantined`, `stale`"]
        "Publications and control messages that did not reach a receiver, by reason. Each loss is repaired or reported to the client.";
    DUPLICATES_TOTAL Counter "duplicates_total" []
        "Publications that arrived more than once and were delivered once.";
    GAPS_TOTAL Counter "gaps_total" []
        "Gaps found in the offsets of a channel's publications.";
    REPAIRS_TOTAL Counter "repairs_total" []
        "Gaps filled from history.";
    INSUFFICIENT_TOTAL Counter "insufficient_total" []
        "Subscriptions ended because a gap could not be filled.";
    SUPERSEDED_TOTAL Counter "superseded_total" []
        "Newest values that were replaced by newer ones before they were sent, counted once per subscriber. The next value reports their number to the subscriber.";
    CATCH_UPS_TOTAL Counter "catch_ups_total" ["from": "`read`, `earlier_read`"]
        "Subscribers that were brought up to date from a channel's history, by whether history was read for them or an earlier read was reused.";
    RECOVERIES_TOTAL Counter "recoveries_total" ["result": "`recovered`, `unrecovered`"]
        "Subscriptions that asked for recovery, by result.";

    "By namespace":
    NAMESPACE_PUBLICATIONS_IN_TOTAL Counter "namespace_publications_in_total" ["namespace": "a configured namespace, `(default)` for channels without a namespace, `(unknown)` for a namespace that is not configured, `(others)` for namespaces beyond the first 253", "source": "as in `tidegate_publications_in_total`"]
        "`tidegate_publications_in_total`, by the namespace of the channel.";
    NAMESPACE_PUBLICATIONS_REFUSED_TOTAL Counter "namespace_publications_refused_total" ["namespace": "as in `tidegate_namespace_publications_in_total`", "reason": "as for `tidegate_publications_refused_total`"]
        "`tidegate_publications_refused_total`, by the namespace of the channel.";
    NAMESPACE_DELIVERIES_OUT_TOTAL Counter "namespace_deliveries_out_total" ["namespace": "as in `tidegate_namespace_publications_in_total`"]
        "`tidegate_deliveries_out_total`, by the namespace of the channel.";
    NAMESPACE_BYTES_IN_TOTAL Counter "namespace_bytes_in_total" ["namespace": "as in `tidegate_namespace_publications_in_total`"]
        "Bytes of payloads published at this node from any source, including values of keys. Publications that the broker refused, and those of other nodes, are not counted. Accepted requests without effect are counted: a repeated idempotency key, or a condition that did not hold.";
    NAMESPACE_BYTES_OUT_TOTAL Counter "namespace_bytes_out_total" ["namespace": "as in `tidegate_namespace_publications_in_total`"]
        "Bytes of publications, joins and leaves handed to subscribers' sockets and outboxes, including frame headers. Replies to commands are not counted.";
    NAMESPACE_SUBSCRIPTIONS Gauge "namespace_subscriptions" ["namespace": "as in `tidegate_namespace_publications_in_total`"]
        "`tidegate_subscriptions`, by the namespace of the channel.";
    NAMESPACE_CHANNELS Gauge "namespace_channels" ["namespace": "as in `tidegate_namespace_publications_in_total`"]
        "`tidegate_channels`, by their namespace.";
    NAMESPACE_RECOVERIES_TOTAL Counter "namespace_recoveries_total" ["namespace": "as in `tidegate_namespace_publications_in_total`", "result": "`recovered`, `unrecovered`"]
        "`tidegate_recoveries_total`, by the namespace of the channel.";
    NAMESPACE_REFUSALS_TOTAL Counter "namespace_refusals_total" ["namespace": "as in `tidegate_namespace_publications_in_total`", "error": "the error's message"]
        "Commands of clients to subscribe, publish, or read history or presence that this node itself answered with an error, by error.";
    NAMESPACE_HISTORY_READS_TOTAL Counter "namespace_history_reads_total" ["namespace": "as in `tidegate_namespace_publications_in_total`"]
        "Reads of a channel's history from the broker: for clients, the server API, recovery and gaps.";

    "Subscribers":
    SUBSCRIPTIONS Gauge "subscriptions" []
        "Subscriptions of this node's clients.";
    CHANNELS Gauge "channels" []
        "Channels with a subscriber on this node.";

    "Workers":
    WORKER_INBOX Gauge "worker_inbox" ["worker": "the worker's number; at most 64 workers"]
        "Publications and answers that wait in a worker's inbox.";
    WORKER_BUSY_SECONDS_TOTAL Counter "worker_busy_seconds_total" ["worker": "the worker's number; at most 64 workers"]
        "Time that a worker spent working. Its rate is the share of one processor.";
    WORKER_CONNECTIONS Gauge "worker_connections" ["worker": "the worker's number; at most 64 workers"]
        "Connections of a worker.";
    WORKER_IO_URING Gauge "worker_io_uring" ["worker": "the worker's number; at most 64 workers"]
        "1 if the worker sends to many clients with one system call, 0 if it needs one for each client: `workers.io_uring`.";
    OUTBOX_BYTES Gauge "outbox_bytes" []
        "Bytes in the outboxes of clients whose sockets are full.";
    OUTBOX_BLOCKED Gauge "outbox_blocked" []
        "Connections whose sockets are full.";

    CLIENT_BUFFER_BYTES Gauge "client_buffer_bytes" []
        "Bytes kept for slow clients and for commands of clients. 7/16 of `tidegate_memory_budget_bytes` is for these.";
    MEMORY_BUDGET_BYTES Gauge "memory_budget_bytes" []
        "The memory budget of this node for pending data of all kinds, in bytes: `limits.memory_bytes_max`.";

    "Broker":
    BROKER_SECONDS Histogram "broker_seconds" ["operation": "`publish`, `subscribe`, `unsubscribe`, `history`, `positions`, `control`, `nodes`, `presence_write`, `presence_read`, `ledger_write`, `ledger_read`, `session_write`, `session_read`, `turn`"]
        "Durations of calls to the broker, by operation.";
    BROKER_ERRORS_TOTAL Counter "broker_errors_total" ["reason": "as for `tidegate_publications_refused_total`"]
        "Calls to the broker that failed, by reason.";
    BROKER_LINK_UP Gauge "broker_link_up" ["link": "`command`, `read`, `subscriber`"]
        "1 while a connection to the broker is up.";
    BROKER_RECONNECTS_TOTAL Counter "broker_reconnects_total" ["link": "`command`, `read`, `subscriber`"]
        "Times a connection to the broker was reopened.";
    BROKER_MASTER_CHANGES_TOTAL Counter "broker_master_changes_total" []
        "Times Sentinel named another Redis as master and this node changed to it.";
    BROKER_SENTINELS_UP Gauge "broker_sentinels_up" []
        "Sentinels in `redis.addresses` that answer.";
    BROKER_SHARD_UP Gauge "broker_shard_up" ["shard": "the addresses in `redis.addresses`, or those of a cluster's masters"]
        "1 while this node's canary messages return through this Redis. Like all metrics of shards, only with several Redis servers.";
    BROKER_SHARD_CHANNELS Gauge "broker_shard_channels" ["shard": "the addresses in `redis.addresses`, or those of a cluster's masters"]
        "Channels that this node is subscribed to at this Redis.";
    BROKER_SHARD_PUBLISHED_TOTAL Counter "broker_shard_published_total" ["shard": "the addresses in `redis.addresses`, or those of a cluster's masters"]
        "Publications of this node that this Redis accepted.";
    BROKER_SHARD_ERRORS_TOTAL Counter "broker_shard_errors_total" ["shard": "the addresses in `redis.addresses`, or those of a cluster's masters"]
        "Calls to this Redis that failed.";
    BROKER_SHARD_RECONNECTS_TOTAL Counter "broker_shard_reconnects_total" ["shard": "the addresses in `redis.addresses`, or those of a cluster's masters"]
        "Times a connection to this Redis was reopened.";
    NODES_APART Gauge "nodes_apart" []
        "Other nodes that distribute channels differently, because their list of Redis servers or their `redis.cluster_partitions` differs. Must be 0.";
    BROKER_CHANNELS Gauge "broker_channels" []
        "Channels that this node is subscribed to at the broker.";
    BROKER_RECEIVED_BYTES_TOTAL Counter "broker_received_bytes_total" []
        "Bytes of publications received through the broker.";
    BROKER_UNREADABLE_TOTAL Counter "broker_unreadable_total" []
        "Messages from the broker that could not be decoded and were dropped.";
    BROKER_REPEATED_TOTAL Counter "broker_repeated_total" []
        "Publications that had no effect because their idempotency key had been used.";
    BROKER_EVICTIONS_TOTAL Counter "broker_evictions_total" ["what": "`stream`, `key`"]
        "Histories and idempotency keys that the memory broker evicted before they expired, because its limits were reached.";
    PRESENCE_OVERFLOWS_TOTAL Counter "presence_overflows_total" []
        "Times so many presence changes waited for the broker that the node wrote all of its presence anew instead.";
    LEDGER_UNSHORTENED_TOTAL Counter "ledger_unshortened_total" []
        "Times the compaction of a ledger's log in NATS was due and failed, because nodes kept writing to it or NATS failed. It is retried when the log is longer.";
    NODE_QUESTIONS_TOTAL Counter "node_questions_total" ["result": "`answered`, or the reason for failure: `unknown_node`, `deaf`, `late`, `too_many`, `busy`, `not_understood`, `unsendable`, `broker`"]
        "Requests of this node to other nodes or to itself, by result.";
    CANARY_SECONDS Histogram "canary_seconds" []
        "Round-trip times of canary messages, which this node sends to itself through the broker.";
    CANARY_AGE_SECONDS Gauge "canary_age_seconds" []
        "Seconds since a canary message last returned.";

    "Other nodes":
    NODES Gauge "nodes" []
        "Nodes that are announced in the broker, including this one. 1 if the broker cannot be asked. Draining nodes are counted until they exit.";
    NODES_EXPECTED Gauge "nodes_expected" []
        "The least number of nodes that the cluster should have: `cluster.nodes_expected`.";
    NODES_LOST_TOTAL Counter "nodes_lost_total" []
        "Other nodes that disappeared without an orderly shutdown: they ended, or cannot reach the broker. Each remaining node counts them, some 25 s later.";

    "HTTP":
    API_CONNECTIONS_ON_WORKERS Gauge "api_connections_on_workers" []
        "Connections to the server API that only publish and are served by workers.";
    API_REQUESTS_TOTAL Counter "api_requests_total" ["method": "the API's methods, or `unknown`", "status": "the HTTP status"]
        "Requests to the server API.";
    API_SECONDS Histogram "api_seconds" ["method": "the API's methods, or `unknown`"]
        "Durations of requests to the server API.";
    TLS_RELOADS_TOTAL Counter "tls_reloads_total" ["result": "`changed`, `failed`"]
        "Reloads of a changed certificate, by result.";

    CONFIG_RELOADS_TOTAL Counter "config_reloads_total" ["result": "`applied`, `unchanged`, `refused`"]
        "Reloads of the configuration, by result. Changes that need a restart do not count as applied.";
    CONFIG_APPLIED_SECONDS Gauge "config_applied_time_seconds" []
        "Time at which the current configuration was read, in seconds since 1970.";
    CONFIG_HASH Gauge "config_hash" []
        "A hash of the current configuration without secrets: nodes with the same value have the same settings.";

    "The application's servers":
    BACKEND_SECONDS Histogram "backend_seconds" ["hook": "`connect`, `refresh`, `subscribe`, `sub_refresh`, `publish`, `map_publish`, `map_remove`, `rpc`, `message`, `graphql`, `socketio`, `poll`"]
        "Durations of calls to a hook, including retries.";
    BACKEND_RESULTS_TOTAL Counter "backend_results_total" ["hook": "as for `tidegate_backend_seconds`", "result": "`answered`; `denied` by the backend; or the reason for failure: `too_many`, `open`, `timeout`, `unreachable`, `private_address`, `broken`, `status`, `too_long`, `malformed`"]
        "Calls to a hook, by result.";
    BACKEND_RETRIES_TOTAL Counter "backend_retries_total" ["hook": "as for `tidegate_backend_seconds`"]
        "Retries of calls to a hook.";
    BACKEND_IN_FLIGHT Gauge "backend_in_flight" ["hook": "as for `tidegate_backend_seconds`"]
        "Calls in flight to a hook.";
    BACKEND_BREAKERS_OPEN Gauge "backend_breakers_open" ["hook": "as for `tidegate_backend_seconds`"]
        "Hooks with an open circuit breaker. More than 1 is possible if `rpc` has namespaces or `poll` has several sections.";
    BACKEND_EVENTS_TOTAL Counter "backend_events_total" ["result": "`sent`, or the reason for the loss: `full`, `deadline`, `refused`, `stopping`, `failed`"]
        "Events for the backend, by result.";
    BACKEND_EVENT_FAILURES_TOTAL Counter "backend_event_failures_total" ["reason": "`timeout`, `unreachable`, `private_address`, `broken`, `status`, `too_long`"]
        "Failed attempts to deliver a batch of events, by reason. The batch is sent again.";
    BACKEND_EVENTS_QUEUED Gauge "backend_events_queued" []
        "Events queued for the backend.";
    BACKEND_EVENTS_QUEUED_BYTES Gauge "backend_events_queued_bytes" []
        "Bytes of the events queued for the backend.";

    "Webhooks of Pusher's apps":
    WEBHOOK_EVENTS_TOTAL Counter "webhook_events_total" ["result": "`sent`, or the reason for the loss: `full`, `deadline`, `refused`, `stopping`, `failed`"]
        "Events for webhooks, by result. Counted on the node that sends them, or on the node whose queue was full.";
    WEBHOOK_FAILURES_TOTAL Counter "webhook_failures_total" ["reason": "`timeout`, `unreachable`, `private_address`, `broken`, `status`, `too_long`"]
        "Failed attempts to deliver a batch to a webhook, by reason. The batch is sent again.";
    WEBHOOK_CHANGES_QUEUED Gauge "webhook_changes_queued" []
        "Changes on this node that have yet to be written to the ledger of the app.";
    WEBHOOK_CHANGES_QUEUED_BYTES Gauge "webhook_changes_queued_bytes" []
        "Bytes of the changes that have yet to be written to a ledger.";
    WEBHOOK_RESTARTS_TOTAL Counter "webhook_restarts_total" []
        "Times this node wrote all of its subscribers to the ledger anew, because the broker may have lost them or the node had been considered dead.";

    "Emitters of Socket.IO":
    EMITTED_TOTAL Counter "socketio_emitted_total" ["kind": "`emit`, `join`, `leave`, `disconnect`, `other`", "result": "`done`; `repeated`: another node had carried it out; or the reason for failure: `malformed`, `too_long`, `pickle`, `unsupported`, `unknown_namespace`, `refused`, `failed`, `late`, `dropped`, `unplaced`"]
        "Messages of emitters, by result. Counted on the node that carries them out; `dropped` and `unplaced` are counted on each node.";
    EMITTERS_LINK_UP Gauge "socketio_emitters_link_up" []
        "1 while this node is connected to the Redis of the emitters.";
    EMITTERS_RECONNECTS_TOTAL Counter "socketio_emitters_reconnects_total" []
        "Times the connection to the Redis of the emitters was reopened.";
    EMITTERS_LEADER Gauge "socketio_emitters_leader" []
        "1 on the one node of the cluster that carries out messages of emitters.";
    EMITTERS_WAITING_BYTES Gauge "socketio_emitters_waiting_bytes" []
        "Bytes of emitters' messages that this node has received and that are not known to be carried out.";

    "Feeds":
    FEED_READ_TOTAL Counter "feed_read_total" ["feed": "the name of a section `feeds.NAME`"]
        "Records read by this node, including those read again.";
    FEED_RECORDS_TOTAL Counter "feed_records_total" ["feed": "the name of a section `feeds.NAME`", "result": "`published`; `repeated`: published before, or with a version that is not newer; `dead_lettered`"]
        "Records that this node has finished, by result.";
    FEED_RETRIES_TOTAL Counter "feed_retries_total" ["feed": "the name of a section `feeds.NAME`"]
        "Times this node paused and retried, because the source or the broker was unavailable.";
    FEED_CONNECTED Gauge "feed_connected" ["feed": "the name of a section `feeds.NAME`"]
        "1 while this node can use the source.";
    FEED_READER Gauge "feed_reader" ["feed": "the name of a section `feeds.NAME`"]
        "1 on the one node that reads the feed; for a Kafka topic, on each node that reads a partition.";
    FEED_HELD_RECORDS Gauge "feed_held_records" ["feed": "the name of a section `feeds.NAME`"]
        "Records that this node has read and not yet finished.";
    FEED_BEHIND_RECORDS Gauge "feed_behind_records" ["feed": "the name of a section `feeds.NAME`"]
        "Records in the source that are not finished. Only on the node that reads the feed, and only for sources that report it.";
    FEED_OLDEST_SECONDS Gauge "feed_oldest_seconds" ["feed": "the name of a section `feeds.NAME`"]
        "Age of the oldest record that is not finished. Only where `tidegate_feed_behind_records` is available.";

    "Polled channels":
    POLL_CHANNELS Gauge "poll_channels" []
        "Polled channels whose keys clients of this node follow, or followed until a moment ago.";
    POLL_KEYS Gauge "poll_keys" []
        "Keys of polled channels that clients of this node follow.";
    POLL_CLIENT_KEYS Gauge "poll_client_keys" []
        "The same keys, counted once per client that follows them.";
    POLL_RESULTS_TOTAL Counter "poll_results_total" ["source": "`round`: polled from a backend; `published`: sent through the server API", "result": "`changed`, `unchanged`, `removed`"]
        "Results for followed keys of polled channels, by source and result. Subscribers are sent only changed and removed keys.";
    POLL_RESETS_TOTAL Counter "poll_resets_total" []
        "Times the versions of a polled channel were reset, so that its subscribers had to subscribe again.";

    "Socket.IO":
    SOCKETIO_RECOVERIES_TOTAL Counter "socketio_recoveries_total" ["result": "`recovered`, or why a new session began: `unknown`: the session does not exist or has expired; `other_user`; `other_client`: the connection already had another client id in a namespace; `offset`: the offset is not one that the gateway sent; `stale`: the stored session is older than what the client was sent; `history`: the missed events are no longer in history; `taken`: another connection recovered the session first; `unreachable`: the broker did not answer"]
        "Socket.IO clients that asked to recover their session, by result.";
    SOCKETIO_CLIENTS Gauge "socketio_clients" ["namespace": "a section of `socketio.namespaces`; at most 64"]
        "Clients of this node in each Socket.IO namespace.";
    SOCKETIO_EVENTS_TOTAL Counter "socketio_events_total" ["result": "`received`: all events; `refused`: those answered with an error"]
        "Events sent by Socket.IO clients.";
    SOCKETIO_SESSIONS Gauge "socketio_sessions" []
        "Sessions of this node's clients that can be recovered.";

    SOCKETIO_ASKS_TOTAL Counter "socketio_asks_total" ["result": "`answered`; `timeout`; `gone`: the client was not connected or disconnected; `too_many`: too many acknowledgements were pending for the client or in total; `too_long`: there was no memory for the answer; `late`: the answer came when it was no longer awaited"]
        "Acknowledgements that servers requested from clients of this node, by result.";
    SOCKETIO_ASKS_PENDING Gauge "socketio_asks_pending" []
        "Requested acknowledgements of this node's clients that are still awaited.";

    "GraphQL":
    GRAPHQL_OPERATIONS_TOTAL Counter "graphql_operations_total" ["result": "`subscription`: mapped to a channel, to which the subscription may still be refused; `answered`: answered at once, such as a query of the schema; `refused`: invalid, or beyond the limits"]
        "GraphQL operations of clients, by result.";

    "Traces":
    TRACE_EXPORTS_FAILED_TOTAL Counter "trace_exports_failed_total" []
        "Batches of spans that the collector of traces did not accept; they are lost.";

    "The process":
    PANICS_TOTAL Counter "panics_total" ["what": "`client`, `request`, `delivery`, `worker`, `feed`"]
        "Internal faults that affected one client, one request, one delivery, one worker's clients or one feed, but not the node. Please report them.";
    UP Gauge "build_info" ["version": "the version of this program"]
        "Always 1.";
    READY Gauge "ready" []
        "1 while `/readyz` reports ready.";
    START_TIME_SECONDS Gauge "process_start_time_seconds" []
        "Time at which this node was started, in seconds since 1970.";
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
