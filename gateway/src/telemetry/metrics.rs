//! The metrics of one node. Several nodes may live in one process (tests do that): each has its own registry.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gateway_core::namespace_id::NamespaceId;
use gateway_core::session::SessionObserver;
use parking_lot::Mutex;
use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, Registry};
use shared::protocol::ProtocolId;
use shared::refusal::Refusal;

use super::TelemetryConfig;
use super::api_metrics::ApiMetrics;
use super::backend_metrics::{BackendMetrics, EventsMetrics, HookMetrics};
use super::broker_metrics::BrokerFamilies;
use super::cluster_metrics::ClusterMetrics;
use super::connection_metrics::ConnectionMetrics;
use super::emitters_metrics::EmittersMetrics;
use super::exposition::{self, ExpositionFormat};
use super::feeds_metrics::FeedsMetrics;
use super::labels::{Drop, HistorySource, PanicSite, PollSource, PublicationSource, ReloadOutcome, Stage};
use super::names;
use super::namespace_metrics::NamespaceMetrics;
use super::node_label::NodeLabel;
use super::process::ProcessMetrics;
use super::register::{by_protocol, counter, counters, gauge, gauges, histogram, options, register};
use super::shards_metrics::ShardMetrics;
use super::socketio_metrics::SocketIoMetrics;
use super::stages::StageMetrics;
use super::workers_metrics::{WorkerMetrics, WorkersMetrics};

/// The upper bounds of the buckets of network round trips and faster operations, in seconds.
pub(super) const FAST_BUCKETS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0,
];

/// The same for requests to an application's own server.
pub(super) const SLOW_BUCKETS: &[f64] =
    &[0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// The same for the way of a publication, which may take as long as a broker is unreachable.
pub(super) const STAGE_BUCKETS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0,
];

/// All metrics. Fields without a label are counted directly, the others through a method, so that a label can only have
/// the values that `names` lists.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    node: NodeLabel,
    /// Called in turn at every scrape.
    refreshers: Mutex<Vec<Refresher>>,
    pub connection: ConnectionMetrics,
    engine_io_upgrades_total: IntCounterVec,
    pub bodies_bytes: IntGauge,
    pub bodies_refused_total: IntCounter,
    pub engine_io_waiting: IntGauge,
    pub engine_io_carried: IntGauge,
    /// Bytes to sessions, and to clients.
    pub engine_io_carried_bytes_total: [IntCounter; 2],
    pub socketio: SocketIoMetrics,
    pub shards: ShardMetrics,
    pub cluster: ClusterMetrics,
    pub moves: super::move_metrics::MoveMetrics,
    graphql_operations_total: IntCounterVec,
    pub client_buffer_bytes: IntGauge,
    pub memory_budget_bytes: IntGauge,
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
    catch_ups_total: [IntCounter; HistorySource::ALL.len()],
    recoveries_total: IntCounterVec,
    pub subscriptions: IntGauge,
    pub channels: IntGauge,
    workers: WorkersMetrics,
    pub broker: BrokerFamilies,
    pub namespaces: NamespaceMetrics,
    pub api: ApiMetrics,
    pub outbox_bytes: IntGauge,
    pub outbox_blocked: IntGauge,
    pub trace_exports_failed_total: IntCounter,
    pub canary_seconds: Histogram,
    pub(super) canary_age_seconds: Gauge,
    node_questions_total: IntCounterVec,
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

/// Copies the counts of a part into the metrics.
pub struct Refresher(Box<dyn Fn(&Metrics) + Send + Sync>);

impl std::fmt::Debug for Refresher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Refresher")
    }
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
            connection: ConnectionMetrics::new(r),
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
            client_buffer_bytes: gauge(r, names::CLIENT_BUFFER_BYTES),
            memory_budget_bytes: gauge(r, names::MEMORY_BUDGET_BYTES),
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
            catch_ups_total: {
                let catch_ups = counters(r, names::CATCH_UPS_TOTAL);
                HistorySource::ALL.map(|from| catch_ups.with_label_values(&[from.label()]))
            },
            recoveries_total: recoveries(r),
            subscriptions: gauge(r, names::SUBSCRIPTIONS),
            channels: gauge(r, names::CHANNELS),
            workers: WorkersMetrics::new(r),
            broker: BrokerFamilies::new(r),
            namespaces: NamespaceMetrics::new(r),
            api: ApiMetrics::new(r),
            outbox_bytes: gauge(r, names::OUTBOX_BYTES),
            outbox_blocked: gauge(r, names::OUTBOX_BLOCKED),
            trace_exports_failed_total: counter(r, names::TRACE_EXPORTS_FAILED_TOTAL),
            canary_seconds: histogram(r, names::CANARY_SECONDS, FAST_BUCKETS),
            canary_age_seconds: register(r, Gauge::with_opts(options(names::CANARY_AGE_SECONDS))),
            node_questions_total: counters(r, names::NODE_QUESTIONS_TOTAL),
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
            process: ProcessMetrics::new(r),
            registry,
            node: NodeLabel::default(),
            refreshers: Mutex::default(),
        };
        metrics.process.start();
        metrics
    }

    /// Counts a polling client's probe of a WebSocket.
    pub fn engine_io_upgrade(&self, result: &'static str) {
        self.engine_io_upgrades_total.with_label_values(&[result]).inc();
    }

    /// Counts a GraphQL operation of a client.
    pub fn graphql_operation(&self, result: &'static str) {
        self.graphql_operations_total.with_label_values(&[result]).inc();
    }

    pub fn messages_in(&self, protocol: ProtocolId, count: u64) {
        self.messages_in_total[usize::from(protocol.0)].inc_by(count);
    }

    pub fn publication_in(&self, namespace: NamespaceId, source: PublicationSource) {
        self.publications_in_total[source as usize].inc();
        self.namespaces.of(namespace).publication_in(source);
    }

    pub fn publication_refused(&self, namespace: NamespaceId, reason: &'static str) {
        self.namespaces.publication_refused(namespace, reason);
        self.publications_refused_total.with_label_values(&[reason]).inc();
    }

    pub fn catch_up_answered(&self, from: HistorySource) {
        self.catch_ups_total[from as usize].inc();
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

    /// Counts a request between nodes, this one included. `result` is one of a few words.
    pub fn node_request(&self, result: &'static str) {
        self.node_questions_total.with_label_values(&[result]).inc();
    }

    /// Counts the verdict on a token: `accepted`, or why it was refused.
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

    /// Records that this configuration was applied.
    pub fn config_applied(&self, in_toml: &str) {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.config_applied_seconds.set(since_1970.as_secs() as i64);
        // FNV-1a, cut to the bits that every reader of metrics can hold exactly.
        let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let hash = in_toml.bytes().fold(0xcbf2_9ce4_8422_2325, step) >> 16;
        self.config_hash.set(hash as i64);
    }

    /// Counts polled keys by result.
    pub fn polled(&self, source: PollSource, changed: usize, unchanged: usize, removed: usize) {
        for (result, count) in [("changed", changed), ("unchanged", unchanged), ("removed", removed)] {
            self.poll_results.with_label_values(&[source.label(), result]).inc_by(count as u64);
        }
    }

    /// Returns the metrics of one hook, with a label value for each of these failures.
    pub fn hook(&self, hook: &'static str, failures: &[&'static str]) -> HookMetrics {
        self.backend.hook(hook, failures)
    }

    /// Returns the metrics of the events for webhooks.
    pub fn webhooks(&self) -> EventsMetrics {
        self.backend.webhooks()
    }

    /// Counts how often the occupancy of channels was written anew for webhooks.
    pub fn webhook_restarts(&self) -> IntCounter {
        self.backend.webhook_restarts()
    }

    /// Returns the metrics of Socket.IO emitters.
    pub fn emitters(&self) -> &EmittersMetrics {
        &self.emitters
    }

    /// Returns the metrics of the events for the backend.
    pub fn events(&self) -> EventsMetrics {
        self.backend.events()
    }

    /// Sets the node's name, as the label `node` of every metric if that is configured, the sampling of publications,
    /// and the number of nodes that the cluster should have.
    pub fn place_node(&self, name: &str, config: &TelemetryConfig, nodes_expected: u32) {
        config.node_label.then(|| self.node.set(name));
        self.stages.set_samples_per_second(config.stage_samples_per_second);
        self.cluster.nodes_expected.set(nodes_expected.into());
    }

    /// Adds a function that is called at every scrape, for a part that counts by itself.
    pub fn refresh_with(&self, refresh: impl Fn(&Self) + Send + Sync + 'static) {
        self.refreshers.lock().push(Refresher(Box::new(refresh)));
    }

    /// Renders all metrics in the text format, which all versions of Prometheus read.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        self.render_as(ExpositionFormat::Text)
    }

    /// Renders all metrics in a format, after calling the refreshers.
    pub fn render_as(&self, format: ExpositionFormat) -> Result<Vec<u8>, prometheus::Error> {
        let refreshers = self.refreshers.lock();
        self.process.refresh();
        refreshers.iter().for_each(|Refresher(refresh)| refresh(self));
        // Locked until here, so that two concurrent scrapes do not add the same growth twice.
        drop(refreshers);
        let mut families = self.registry.gather();
        self.node.add_to(&mut families);
        exposition::write(format, &families, &self.stages.details())
    }
}

/// Raises a counter to a count that is kept elsewhere.
pub fn catch_up(counter: &IntCounter, counted: u64) {
    counter.inc_by(counted.saturating_sub(counter.get()));
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

/// Counts the reports of sessions.
impl SessionObserver for Metrics {
    fn command(&self, name: &'static str) {
        self.commands_total.with_label_values(&[name]).inc();
    }

    fn refused(&self, namespace: Option<NamespaceId>, refusal: &Refusal) {
        if let Some(namespace) = namespace {
            self.namespaces.refused(namespace, refusal.label());
        }
        self.refusals_total.with_label_values(&[refusal.label()]).inc();
    }

    fn acknowledged(&self, took: Duration) {
        self.stages.observe(Stage::Acknowledgement, took.as_micros() as u64, None);
    }

    fn recovery(&self, namespace: NamespaceId, recovered: bool) {
        self.namespaces.of(namespace).recovery(recovered);
        let result = if recovered { "recovered" } else { "unrecovered" };
        self.recoveries_total.with_label_values(&[result]).inc();
    }
}

#[cfg(test)]
mod tests;
