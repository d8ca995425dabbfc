//! The metrics of one node. Several nodes may live in one process (tests do that): each has its own registry.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gateway_core::session::SessionObserver;
use parking_lot::Mutex;
use prometheus::{
    Counter, Gauge, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
};
use shared::disconnect::{Disconnect, SlowCause};
use shared::protocol::ProtocolId;
use shared::refusal::Refusal;

use super::TelemetryConfig;
use super::backend_metrics::{BackendMetrics, EventsMetrics, HookMetrics};
use super::cluster_metrics::ClusterMetrics;
use super::emitters_metrics::EmittersMetrics;
use super::exposition::{self, ExpositionFormat};
use super::feeds_metrics::FeedsMetrics;
use super::labels::{
    Drop, Handshake, HistorySource, PanicSite, PollSource, PublicationSource, ReloadOutcome, Stage,
};
use super::names;
use super::node_label::NodeLabel;
use super::register::{
    by_protocol, counter, counters, gauge, gauges, histogram, histograms, options, register, shown_counters,
};
use super::shards_metrics::ShardMetrics;
use super::socketio_metrics::SocketIoMetrics;
use super::stages::StageMetrics;
use super::workers_metrics::{WorkerMetrics, WorkersMetrics};

/// Upper ends of the buckets of everything that is a network round trip or less, in seconds.
const FAST_BUCKETS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0,
];

/// The same of what an application's own server takes its time for.
pub(super) const SLOW_BUCKETS: &[f64] =
    &[0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// The same of a publication's way, which may take as long as a broker is away.
pub(super) const STAGE_BUCKETS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0,
];

/// Upper ends of the buckets of a connection's life, in seconds: from a second to a day.
const LIFE_BUCKETS: &[f64] = &[1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 86_400.0];

/// What closes are counted as when no close code of the gateway's was the reason.
pub const CLOSE_BY_PEER: &str = "peer";
pub const CLOSE_LOST: &str = "lost";

/// Everything that is counted. Fields without a label are counted directly; the others through a method, so that a
/// label can only have the values `names` says.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    node: NodeLabel,
    /// Brought up to date, one after the other, at every scrape.
    refreshers: Mutex<Vec<Refresher>>,
    connections: [IntGauge; ProtocolId::COUNT],
    connections_total: [IntCounter; ProtocolId::COUNT],
    pub connections_max: IntGauge,
    handshakes_total: IntCounterVec,
    engine_io_upgrades_total: IntCounterVec,
    pub bodies_bytes: IntGauge,
    pub bodies_refused_total: IntCounter,
    pub engine_io_waiting: IntGauge,
    pub engine_io_carried: IntGauge,
    /// To sessions, and to clients.
    pub engine_io_carried_bytes_total: [IntCounter; 2],
    pub socketio: SocketIoMetrics,
    pub shards: ShardMetrics,
    pub cluster: ClusterMetrics,
    pub moves: super::move_metrics::MoveMetrics,
    graphql_operations_total: IntCounterVec,
    pub handshakes_pending: IntGauge,
    closes_total: IntCounterVec,
    slow_consumers_total: IntCounterVec,
    pub kept_bytes: IntGauge,
    pub memory_budget_bytes: IntGauge,
    pub connection_seconds: Histogram,
    messages_in_total: [IntCounter; ProtocolId::COUNT],
    pub bytes_in_total: IntCounter,
    pub bytes_out_total: IntCounter,
    commands_total: IntCounterVec,
    refusals_total: IntCounterVec,
    tokens_total: IntCounterVec,
    jwks_fetches_total: IntCounterVec,
    pub jwks_age_seconds: Gauge,
    pub commands_given_up_total: IntCounter,
    publications_in_total: [IntCounter; PublicationSource::ALL.len()],
    publications_refused_total: IntCounterVec,
    pub deliveries_out_total: IntCounter,
    pub publish_to_socket_seconds: Histogram,
    pub(crate) stages: StageMetrics,
    drops_total: [IntCounter; Drop::ALL.len()],
    panics_total: [IntCounter; PanicSite::ALL.len()],
    pub duplicates_total: IntCounter,
    pub gaps_total: IntCounter,
    pub repairs_total: IntCounter,
    pub insufficient_total: IntCounter,
    pub superseded_total: IntCounter,
    pasts_total: [IntCounter; HistorySource::ALL.len()],
    recoveries_total: IntCounterVec,
    pub subscriptions: IntGauge,
    pub channels: IntGauge,
    workers: WorkersMetrics,
    pub outbox_bytes: IntGauge,
    pub outbox_blocked: IntGauge,
    pub broker_seconds: HistogramVec,
    pub broker_errors_total: IntCounterVec,
    pub broker_link_up: IntGaugeVec,
    pub broker_reconnects_total: IntCounterVec,
    pub broker_master_changes_total: IntCounter,
    pub broker_sentinels_up: IntGauge,
    pub broker_channels: IntGauge,
    pub broker_received_bytes_total: IntCounter,
    pub broker_unreadable_total: IntCounter,
    pub broker_repeated_total: IntCounter,
    pub broker_evictions_total: IntCounterVec,
    pub presence_overflows_total: IntCounter,
    pub trace_exports_failed_total: IntCounter,
    pub canary_seconds: Histogram,
    pub(super) canary_age_seconds: Gauge,
    node_questions_total: IntCounterVec,
    pub api_connections_on_workers: IntGauge,
    api_requests_total: IntCounterVec,
    api_seconds: HistogramVec,
    tls_reloads_total: IntCounterVec,
    config_reloads_total: [IntCounter; ReloadOutcome::ALL.len()],
    config_applied_seconds: IntGauge,
    config_hash: IntGauge,
    backend: BackendMetrics,
    emitters: EmittersMetrics,
    pub(super) feeds: FeedsMetrics,
    pub poll_channels: IntGauge,
    pub poll_keys: IntGauge,
    pub poll_client_keys: IntGauge,
    poll_results: IntCounterVec,
    pub poll_resets_total: IntCounter,
    pub(super) ready: IntGauge,
    pub(super) process: ProcessMetrics,
}

/// Copies what a part counted by itself into the metrics.
pub struct Refresher(Box<dyn Fn(&Metrics) + Send + Sync>);

impl std::fmt::Debug for Refresher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Refresher")
    }
}

/// What is read from the system at every scrape.
#[derive(Debug)]
pub(super) struct ProcessMetrics {
    pub(super) start_time_seconds: Gauge,
    pub(super) cpu_seconds_total: Counter,
    pub(super) resident_bytes: IntGauge,
    pub(super) descriptors: IntGauge,
    pub(super) descriptors_max: IntGauge,
    pub(super) threads: IntGauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let registry = Registry::new();
        let r = &registry;
        let close_reasons = Disconnect::ALL.iter().map(Disconnect::label).chain([CLOSE_BY_PEER, CLOSE_LOST]);
        let slow_causes = SlowCause::ALL.into_iter().map(SlowCause::label);
        let handshakes_total = counters(r, names::HANDSHAKES_TOTAL);
        for result in Handshake::ALL {
            handshakes_total.with_label_values(&[result.label()]);
        }
        let engine_io_upgrades_total = counters(r, names::ENGINE_IO_UPGRADES_TOTAL);
        for result in
            ["changed", "not_polling", "unexpected", "late", "lost", "carried", "no_address", "unreachable"]
        {
            engine_io_upgrades_total.with_label_values(&[result]);
        }
        let carried_bytes_total = counters(r, names::ENGINE_IO_CARRIED_BYTES_TOTAL);
        let publications_refused_total = counters(r, names::PUBLICATIONS_REFUSED_TOTAL);
        for reason in ["timeout", "unreachable", "unexpected", "behind"] {
            publications_refused_total.with_label_values(&[reason]);
        }
        gauges(r, names::UP).with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let metrics = Self {
            connections: by_protocol(&gauges(r, names::CONNECTIONS)),
            connections_total: by_protocol(&counters(r, names::CONNECTIONS_TOTAL)),
            connections_max: gauge(r, names::CONNECTIONS_MAX),
            handshakes_total,
            engine_io_upgrades_total,
            bodies_bytes: gauge(r, names::BODIES_BYTES),
            bodies_refused_total: counter(r, names::BODIES_REFUSED_TOTAL),
            engine_io_waiting: gauge(r, names::ENGINE_IO_WAITING),
            engine_io_carried: gauge(r, names::ENGINE_IO_CARRIED),
            engine_io_carried_bytes_total: ["session", "client"]
                .map(|to| carried_bytes_total.with_label_values(&[to])),
            socketio: SocketIoMetrics::new(r),
            shards: ShardMetrics::new(r),
            cluster: ClusterMetrics::new(r),
            moves: super::move_metrics::MoveMetrics::new(r),
            graphql_operations_total: counters(r, names::GRAPHQL_OPERATIONS_TOTAL),
            handshakes_pending: gauge(r, names::HANDSHAKES_PENDING),
            closes_total: shown_counters(r, names::CLOSES_TOTAL, close_reasons),
            slow_consumers_total: shown_counters(r, names::SLOW_CONSUMERS_TOTAL, slow_causes),
            kept_bytes: gauge(r, names::KEPT_BYTES),
            memory_budget_bytes: gauge(r, names::MEMORY_BUDGET_BYTES),
            connection_seconds: histogram(r, names::CONNECTION_SECONDS, LIFE_BUCKETS),
            messages_in_total: by_protocol(&counters(r, names::MESSAGES_IN_TOTAL)),
            bytes_in_total: counter(r, names::BYTES_IN_TOTAL),
            bytes_out_total: counter(r, names::BYTES_OUT_TOTAL),
            commands_total: counters(r, names::COMMANDS_TOTAL),
            refusals_total: counters(r, names::REFUSALS_TOTAL),
            tokens_total: counters(r, names::TOKENS_TOTAL),
            jwks_fetches_total: counters(r, names::JWKS_FETCHES_TOTAL),
            jwks_age_seconds: register(r, Gauge::with_opts(options(names::JWKS_AGE_SECONDS))),
            commands_given_up_total: counter(r, names::COMMANDS_GIVEN_UP_TOTAL),
            publications_in_total: {
                let publications = counters(r, names::PUBLICATIONS_IN_TOTAL);
                PublicationSource::ALL.map(|source| publications.with_label_values(&[source.label()]))
            },
            publications_refused_total,
            deliveries_out_total: counter(r, names::DELIVERIES_OUT_TOTAL),
            publish_to_socket_seconds: histogram(r, names::PUBLISH_TO_SOCKET_SECONDS, FAST_BUCKETS),
            stages: StageMetrics::new(r),
            drops_total: {
                let drops = counters(r, names::DROPS_TOTAL);
                Drop::ALL.map(|reason| drops.with_label_values(&[reason.label()]))
            },
            panics_total: {
                let panics = counters(r, names::PANICS_TOTAL);
                PanicSite::ALL.map(|what| panics.with_label_values(&[what.label()]))
            },
            duplicates_total: counter(r, names::DUPLICATES_TOTAL),
            gaps_total: counter(r, names::GAPS_TOTAL),
            repairs_total: counter(r, names::REPAIRS_TOTAL),
            insufficient_total: counter(r, names::INSUFFICIENT_TOTAL),
            superseded_total: counter(r, names::SUPERSEDED_TOTAL),
            pasts_total: {
                let pasts = counters(r, names::PASTS_TOTAL);
                HistorySource::ALL.map(|from| pasts.with_label_values(&[from.label()]))
            },
            recoveries_total: recoveries(r),
            subscriptions: gauge(r, names::SUBSCRIPTIONS),
            channels: gauge(r, names::CHANNELS),
            workers: WorkersMetrics::new(r),
            outbox_bytes: gauge(r, names::OUTBOX_BYTES),
            outbox_blocked: gauge(r, names::OUTBOX_BLOCKED),
            broker_seconds: histograms(r, names::BROKER_SECONDS, FAST_BUCKETS),
            broker_errors_total: counters(r, names::BROKER_ERRORS_TOTAL),
            broker_link_up: gauges(r, names::BROKER_LINK_UP),
            broker_reconnects_total: counters(r, names::BROKER_RECONNECTS_TOTAL),
            broker_master_changes_total: counter(r, names::BROKER_MASTER_CHANGES_TOTAL),
            broker_sentinels_up: gauge(r, names::BROKER_SENTINELS_UP),
            broker_channels: gauge(r, names::BROKER_CHANNELS),
            broker_received_bytes_total: counter(r, names::BROKER_RECEIVED_BYTES_TOTAL),
            broker_unreadable_total: counter(r, names::BROKER_UNREADABLE_TOTAL),
            broker_repeated_total: counter(r, names::BROKER_REPEATED_TOTAL),
            broker_evictions_total: counters(r, names::BROKER_EVICTIONS_TOTAL),
            presence_overflows_total: counter(r, names::PRESENCE_OVERFLOWS_TOTAL),
            trace_exports_failed_total: counter(r, names::TRACE_EXPORTS_FAILED_TOTAL),
            canary_seconds: histogram(r, names::CANARY_SECONDS, FAST_BUCKETS),
            canary_age_seconds: register(r, Gauge::with_opts(options(names::CANARY_AGE_SECONDS))),
            node_questions_total: counters(r, names::NODE_QUESTIONS_TOTAL),
            api_connections_on_workers: gauge(r, names::API_CONNECTIONS_ON_WORKERS),
            api_requests_total: counters(r, names::API_REQUESTS_TOTAL),
            api_seconds: histograms(r, names::API_SECONDS, FAST_BUCKETS),
            tls_reloads_total: counters(r, names::TLS_RELOADS_TOTAL),
            config_reloads_total: {
                let family = counters(r, names::CONFIG_RELOADS_TOTAL);
                ReloadOutcome::ALL.map(|result| family.with_label_values(&[result.label()]))
            },
            config_applied_seconds: gauge(r, names::CONFIG_APPLIED_SECONDS),
            config_hash: gauge(r, names::CONFIG_HASH),
            backend: BackendMetrics::new(r),
            emitters: EmittersMetrics::new(r),
            feeds: FeedsMetrics::new(r),
            poll_channels: gauge(r, names::POLL_CHANNELS),
            poll_keys: gauge(r, names::POLL_KEYS),
            poll_client_keys: gauge(r, names::POLL_CLIENT_KEYS),
            poll_results: poll_results(r),
            poll_resets_total: counter(r, names::POLL_RESETS_TOTAL),
            ready: gauge(r, names::READY),
            process: ProcessMetrics {
                start_time_seconds: register(r, Gauge::with_opts(options(names::START_TIME_SECONDS))),
                cpu_seconds_total: register(r, Counter::with_opts(options(names::CPU_SECONDS_TOTAL))),
                resident_bytes: gauge(r, names::RESIDENT_BYTES),
                descriptors: gauge(r, names::DESCRIPTORS),
                descriptors_max: gauge(r, names::DESCRIPTORS_MAX),
                threads: gauge(r, names::THREADS),
            },
            registry,
            node: NodeLabel::default(),
            refreshers: Mutex::default(),
        };
        metrics.process.start();
        metrics
    }

    /// A client is connected: counted until [`Metrics::disconnected`].
    pub fn connected(&self, protocol: ProtocolId) {
        self.connections[usize::from(protocol.0)].inc();
        self.connections_total[usize::from(protocol.0)].inc();
    }

    /// A connection is over. `reason` is a [`Disconnect::label`], [`CLOSE_BY_PEER`] or [`CLOSE_LOST`].
    pub fn disconnected(&self, protocol: ProtocolId, reason: &'static str, lived: Duration) {
        self.connections[usize::from(protocol.0)].dec();
        self.closes_total.with_label_values(&[reason]).inc();
        self.connection_seconds.observe(lived.as_secs_f64());
    }

    /// A client is closed because it is too slow.
    pub fn slow_consumer(&self, cause: SlowCause) {
        self.slow_consumers_total.with_label_values(&[cause.label()]).inc();
    }

    pub fn handshake(&self, result: Handshake) {
        self.handshakes_total.with_label_values(&[result.label()]).inc();
    }

    /// A client that polls has tried a WebSocket.
    pub fn engine_io_upgrade(&self, result: &'static str) {
        self.engine_io_upgrades_total.with_label_values(&[result]).inc();
    }

    /// A client has asked for an operation in GraphQL.
    pub fn graphql_operation(&self, result: &'static str) {
        self.graphql_operations_total.with_label_values(&[result]).inc();
    }

    /// Connections open now.
    pub fn connections(&self) -> i64 {
        self.connections.iter().map(IntGauge::get).sum()
    }

    pub fn messages_in(&self, protocol: ProtocolId, count: u64) {
        self.messages_in_total[usize::from(protocol.0)].inc_by(count);
    }

    pub fn publication_in(&self, source: PublicationSource) {
        self.publications_in_total[source as usize].inc();
    }

    pub fn publication_refused(&self, reason: &'static str) {
        self.publications_refused_total.with_label_values(&[reason]).inc();
    }

    pub fn past_told(&self, from: HistorySource) {
        self.pasts_total[from as usize].inc();
    }

    pub fn dropped(&self, reason: Drop, count: u64) {
        self.drops_total[reason as usize].inc_by(count);
    }

    pub fn panicked(&self, what: PanicSite) {
        self.panics_total[what as usize].inc();
    }

    pub fn worker(&self, index: usize) -> WorkerMetrics {
        self.workers.of(index)
    }

    /// A node, this one included, was asked something. `result` is one of a few words.
    pub fn node_asked(&self, result: &'static str) {
        self.node_questions_total.with_label_values(&[result]).inc();
    }

    /// A request to the server API was answered. `method` is a method's name or `unknown`, never what was asked.
    pub fn api_request(&self, method: &'static str, status: u16, took: Duration) {
        self.api_requests_total.with_label_values(&[method, status_label(status)]).inc();
        self.api_seconds.with_label_values(&[method]).observe(took.as_secs_f64());
    }

    /// What came of a token: `accepted`, or why not.
    pub fn token(&self, kind: &'static str, result: &'static str) {
        self.tokens_total.with_label_values(&[kind, result]).inc();
    }

    pub fn jwks_fetch(&self, fetched: bool) {
        let result = if fetched { "fetched" } else { "failed" };
        self.jwks_fetches_total.with_label_values(&[result]).inc();
    }

    pub fn tls_reload(&self, changed: bool) {
        let result = if changed { "changed" } else { "failed" };
        self.tls_reloads_total.with_label_values(&[result]).inc();
    }

    pub fn config_reloaded(&self, result: ReloadOutcome) {
        self.config_reloads_total[result as usize].inc();
    }

    /// This configuration holds from now on.
    pub fn config_applied(&self, in_toml: &str) {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.config_applied_seconds.set(since_1970.as_secs() as i64);
        // FNV-1a, and as much of it as every reader of metrics can hold exactly.
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let hash = in_toml.bytes().fold(0xcbf2_9ce4_8422_2325, step) >> 16;
        self.config_hash.set(hash as i64);
    }

    /// What was said of keys that are followed.
    pub fn polled(&self, source: PollSource, changed: usize, unchanged: usize, removed: usize) {
        for (result, count) in [("changed", changed), ("unchanged", unchanged), ("removed", removed)] {
            self.poll_results.with_label_values(&[source.label(), result]).inc_by(count as u64);
        }
    }

    /// Of one hook, whose failures are counted as these.
    pub fn hook(&self, hook: &'static str, failures: &[&'static str]) -> HookMetrics {
        self.backend.hook(hook, failures)
    }

    /// Of the events that are told to webhooks.
    pub fn webhooks(&self) -> EventsMetrics {
        self.backend.webhooks()
    }

    /// Times who is where was written anew for them.
    pub fn webhook_restarts(&self) -> IntCounter {
        self.backend.webhook_restarts()
    }

    /// Of what emitters of Socket.IO say.
    pub fn emitters(&self) -> &EmittersMetrics {
        &self.emitters
    }

    /// Of the events that are told to the backend.
    pub fn events(&self) -> EventsMetrics {
        self.backend.events()
    }

    /// Says among how many nodes this one, of this name, should be. Has every metric carry the name as the label `node`, and
    /// publications measured, as far as that is wanted.
    pub fn place_node(&self, name: &str, config: &TelemetryConfig, nodes_expected: u32) {
        config.node_label.then(|| self.node.set(name));
        self.stages.set_samples_per_second(config.stage_samples_per_second);
        self.cluster.nodes_expected.set(nodes_expected.into());
    }

    /// Has `refresh` called at every scrape, for a part that counts by itself.
    pub fn refresh_with(&self, refresh: impl Fn(&Self) + Send + Sync + 'static) {
        self.refreshers.lock().push(Refresher(Box::new(refresh)));
    }

    /// Everything, as all versions of Prometheus read it.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        self.render_as(ExpositionFormat::Text)
    }

    /// Everything, in one of the formats that Prometheus reads. What others count is read first.
    pub fn render_as(&self, format: ExpositionFormat) -> Result<Vec<u8>, prometheus::Error> {
        let refreshers = self.refreshers.lock();
        self.process.refresh();
        refreshers.iter().for_each(|Refresher(refresh)| refresh(self));
        // Held until here, so that two scrapes at once do not add the same growth twice.
        drop(refreshers);
        let mut families = self.registry.gather();
        self.node.add_to(&mut families);
        exposition::write(format, &families, &self.stages.details())
    }
}

/// Brings a counter up to what was counted elsewhere.
pub fn catch_up(counter: &IntCounter, counted: u64) {
    counter.inc_by(counted.saturating_sub(counter.get()));
}

/// The statuses the API answers with; any other by its class.
fn status_label(status: u16) -> &'static str {
    const KNOWN: [(u16, &str); 14] = [
        (200, "200"),
        (400, "400"),
        (401, "401"),
        (403, "403"),
        (404, "404"),
        (405, "405"),
        (408, "408"),
        (411, "411"),
        (413, "413"),
        (415, "415"),
        (429, "429"),
        (500, "500"),
        (503, "503"),
        (504, "504"),
    ];
    let known = KNOWN.iter().find(|(known, _)| *known == status).map(|(_, label)| *label);
    known.unwrap_or(match status / 100 {
        2 => "2xx",
        4 => "4xx",
        _ => "5xx",
    })
}

/// Shown as 0 from the start, as below.
fn recoveries(registry: &Registry) -> IntCounterVec {
    let family = counters(registry, names::RECOVERIES_TOTAL);
    for result in ["recovered", "unrecovered"] {
        family.with_label_values(&[result]);
    }
    family
}

/// Shown as 0 from the start, so that a rate is right from there on.
fn poll_results(registry: &Registry) -> IntCounterVec {
    let family = counters(registry, names::POLL_RESULTS_TOTAL);
    for source in [PollSource::Round, PollSource::Published] {
        for result in ["changed", "unchanged", "removed"] {
            family.with_label_values(&[source.label(), result]);
        }
    }
    family
}

/// What sessions say they do.
impl SessionObserver for Metrics {
    fn command(&self, name: &'static str) {
        self.commands_total.with_label_values(&[name]).inc();
    }

    fn refused(&self, refusal: &Refusal) {
        self.refusals_total.with_label_values(&[refusal.label()]).inc();
    }

    fn acknowledged(&self, took: Duration) {
        self.stages.observe(Stage::Acknowledgement, took.as_micros() as u64, None);
    }

    fn recovery(&self, recovered: bool) {
        let result = if recovered { "recovered" } else { "unrecovered" };
        self.recoveries_total.with_label_values(&[result]).inc();
    }
}

#[cfg(test)]
mod tests;
