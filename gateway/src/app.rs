//! The whole node: builds every part in order, owns the parts, and stops them in reverse.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use futures_util::future::BoxFuture;
use gateway_core::hub::DeflateOptions;
use parking_lot::{Mutex, RwLock};
use shared::id::NodeId;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::client_ip::TrustedProxies;
use crate::admission::{Admission, AdmissionConfig};
use crate::api::update::Hub;
use crate::api::{Api, ByClient};
use crate::auth::Authenticator;
use crate::backend::{Backend, Outbound};
use crate::clock::Clock;
use crate::config::Config;
use crate::console::Console;
use crate::demo;
use crate::emitters::{self, EmitterListener};
use crate::engine_io::EngineIo;
use crate::feeds::{self, Feeds};
use crate::graphql::FieldConfigError;
use crate::http::origin::OriginPolicy;
use crate::http::raw_paths::RawPaths;
use crate::http::{ClientEntry, DeliveryOutcome, EmulatedCommands, HttpRouter, graphql};
use crate::listener::from_nodes::{self, FromNodes};
use crate::listener::internal::Internal;
use crate::listener::tls::ListenerTls;
use crate::listener::{ClientListener, descriptors, internal};
use crate::memory_budget::Memory;
use crate::node::node_message::{NodeRequest, NodeResponse};
use crate::node::{AskError, FromBroker, Node, NodeParts};
use crate::pusher::Apps;
use crate::pusher_api::{self, PusherApi};
use crate::sessions::SessionKeeper;
use crate::telemetry::metrics::catch_up;
use crate::telemetry::traces::failed_exports;
use crate::telemetry::{Metrics, Readiness};
use crate::transport::encodings::Encodings;
use crate::webhooks::{self, Webhooks};
use crate::worker::inbox::{Inbox, WorkerEvent};
use crate::worker::{self, Worker, WorkerSeat};

mod canary_probe;
mod connect;
mod open_listener;
mod reload;
mod shut_down;

pub use reload::{LoadConfigFn, ReloadError, ReloadReport};

use canary_probe::keep_canary;
use connect::Connected;
use open_listener::{listen, open_listener};
use reload::Reloader;

/// The greatest age of the last canary that came back through the broker. Past it the node is unready, and clients go elsewhere.
const CANARY_AGE_MAX: Duration = Duration::from_secs(4);

/// A running node.
#[derive(Debug)]
pub struct App {
    reload: Arc<Reloader>,
    clock: Clock,
    client_address: SocketAddr,
    api_address: SocketAddr,
    internal_address: SocketAddr,
    readiness: Arc<Readiness>,
    metrics: Arc<Metrics>,
    node: Arc<Node>,
    inboxes: Vec<Arc<Inbox>>,
    workers: Vec<thread::JoinHandle<()>>,
    /// The accept loops. Each ends when its listener closes.
    accepting: Vec<JoinHandle<()>>,
    api: Arc<Api>,
    pusher_api: Option<Arc<PusherApi>>,
    emitters: Option<EmitterListener>,
    feeds: Option<Feeds>,
    /// The connections that speak HTTP.
    http: TaskTracker,
    leaving: CancellationToken,
    stop: CancellationToken,
    /// Runs everything that is not a worker.
    runtime: Handle,
}

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {address} ({setting}): {error}")]
    Listen { address: SocketAddr, setting: &'static str, error: std::io::Error },
    #[error("{0}")]
    Setup(Box<dyn std::error::Error + Send + Sync>),
}

impl App {
    /// Starts every part. When this returns, clients are served. With `load`, SIGHUP and requests to the API read the
    /// configuration again.
    pub fn start(config: Config, load: Option<LoadConfigFn>, runtime: Handle) -> Result<Self, StartError> {
        let clock = Clock::start();
        let metrics = Arc::new(Metrics::new());
        metrics.refresh_with(|metrics| {
            catch_up(&metrics.trace_exports_failed_total, failed_exports());
        });
        let stop = CancellationToken::new();

        // Everything that can fail because of a setting comes before anything runs.
        let tls = ListenerTls::load(&config.tls).map_err(setup)?.map(Arc::new);
        let authenticator = Authenticator::counted_by(&config.auth, clock, Some(metrics.clone()));
        let authenticator = Arc::new(authenticator.map_err(setup)?);
        let origins = OriginPolicy::new(&config.http).map_err(|faults| setup(faults[0].1.clone()))?;
        let origins = Arc::new(RwLock::new(origins));
        let descriptors = descriptors::raise();
        let (connections_max, advice) =
            descriptors.allow(config.limits.connections_max, config.api.connections_max);
        tracing::info!(before = descriptors.before, limit = descriptors.limit, connections_max, "open files");
        if let Some(advice) = advice {
            tracing::warn!("{advice}");
        }
        let entered = runtime.enter();
        // SIGHUP is handled before anybody knows that this node serves: until then it would end the process.
        let hangups = signal(SignalKind::hangup()).map_err(setup)?;
        let (client_socket, client_address) =
            open_listener(config.server.listen, "server.listen, or --listen", config.server.backlog)?;
        let internal_socket =
            listen(config.internal.listen, "internal.listen, or --internal-listen", INTERNAL_BACKLOG)?;
        let cluster_socket = config
            .cluster
            .listen
            .map(|address| listen(address, "cluster.listen", CLUSTER_BACKLOG))
            .transpose()?;
        let console_at = config.console.listen.filter(|_| config.console.enabled);
        let console_socket =
            console_at.map(|address| listen(address, "console.listen", INTERNAL_BACKLOG)).transpose()?;
        let api_socket =
            config.api.listen.map(|address| open_listener(address, "api.listen", API_BACKLOG)).transpose()?;
        drop(entered);
        let console_address =
            console_socket.as_ref().map(tokio::net::TcpListener::local_addr).transpose().map_err(setup)?;
        let internal_address = internal_socket.local_addr().map_err(setup)?;
        let cluster_address =
            cluster_socket.as_ref().map(tokio::net::TcpListener::local_addr).transpose().map_err(setup)?;
        let takes_in_at = cluster_address.map(|address| config.cluster.advertised(address));

        let processors = thread::available_parallelism().map_or(1, usize::from);
        let workers = config.workers.count_for(processors);
        let memory = Memory::new(config.limits.memory_bytes_max, workers);
        metrics.memory_budget_bytes.set(i64::try_from(memory.budget()).unwrap_or(i64::MAX));
        let seats: Vec<WorkerSeat> = (0..workers)
            .map(|_| WorkerSeat::new(&config.workers, &memory))
            .collect::<Result<_, _>>()
            .map_err(setup)?;
        let inboxes: Vec<Arc<Inbox>> = seats.iter().map(|seat| seat.inbox.clone()).collect();
        let encodings = Arc::new(encodings(&config));
        let name = config.node.name_or(client_address);
        metrics.place_node(&name, &config.telemetry, config.cluster.nodes_expected);
        let rules = Arc::new(metrics.namespaces.number(config.channel_rules()));

        let id = NodeId(uuid::Uuid::new_v4().to_string().into());
        let backend = Backend::start(&config.backend, &id.0, clock, &metrics, &runtime).map_err(setup)?;
        let backend = backend.map(Arc::new);

        let apps = Apps::new(&config.pusher, &config.channel_names).map_err(setup)?.map(Arc::new);

        let engine_io = Arc::new(EngineIo::new(&config.socketio, &id.0));
        let node = runtime.block_on(async {
            let from_broker = Arc::new(FromBroker::default());
            let Connected { broker, presence, ledger, sessions } =
                connect::connect(&config, &id.0, from_broker.clone(), &metrics).await.map_err(setup)?;
            let webhooks = apps.clone().map(|apps| {
                Webhooks::start(webhooks::WebhooksParts {
                    settings: config.pusher.webhooks.clone(),
                    apps,
                    ledger,
                    outbound: Outbound::new(&config.backend).map_err(setup)?,
                    node: (*id.0).into(),
                    clock,
                    metrics: metrics.clone(),
                    runtime: runtime.clone(),
                })
                .map_err(setup)
            });
            let webhooks = webhooks.transpose()?.flatten().map(Arc::new);
            Ok::<_, StartError>(Node::start(NodeParts {
                id,
                name: name.clone(),
                clock,
                rules: rules.clone(),
                metrics: metrics.clone(),
                variants: encodings.variants.clone(),
                broker,
                presence,
                inboxes: inboxes.clone(),
                from_broker,
                user_connections_max: config.limits.connections_per_user_max,
                backend: backend.clone(),
                apps: apps.clone(),
                webhooks,
                memory: memory.clone(),
                engine_io: engine_io.clone(),
                takes_in_at,
                shared_poll: config.shared_poll.clone(),
                sessions: SessionKeeper::new(sessions),
            }))
        })?;

        node.set_balance(&config.balance, &config.drain, config.limits.accepts_per_s);
        let broker_parts = node.broker_parts();
        let readiness = Arc::new(Readiness::of_parts(CANARY_AGE_MAX, broker_parts.clone()));
        let contexts = reload::contexts(&config, &node, &authenticator, metrics.clone());
        let websocket = Arc::new(config.websocket.clone());
        let mut workers = Vec::new();
        for (index, seat) in seats.into_iter().enumerate() {
            let parts = worker::WorkerParts {
                index,
                clock,
                node: node.clone(),
                contexts: contexts.clone(),
                authenticator: authenticator.clone(),
                encodings: encodings.clone(),
                websocket: websocket.clone(),
                packet_bytes_max: config.socketio.payload_bytes_max,
                metrics: metrics.clone(),
                memory: memory.clone(),
                io_uring: config.workers.io_uring,
            };
            workers.push(Worker::spawn(seat, parts).map_err(setup)?);
        }

        let proxies = TrustedProxies::new(&config.http.trusted_proxies);
        metrics.connection.max.set(i64::from(connections_max));
        let api = Arc::new(Api::new(&config.api, node.clone()).map_err(setup)?);
        let socketio = encodings.socketio_common().clone();
        if config.socketio.enabled {
            api.set_socketio(socketio.clone());
        }
        let spare_max = if api_socket.is_some() { 0 } else { config.api.connections_max };
        let limits = pusher_api::PusherApiLimits {
            requests_max: config.api.requests_max,
            deadline: config.api.deadline(),
            list_max: config.api.list_limit_max as usize,
        };
        let pusher_api = |apps: &Arc<Apps>| Arc::new(PusherApi::new(apps.clone(), node.clone(), limits));
        let pusher_api = apps.as_ref().map(pusher_api);
        let raw_paths = Arc::new(RawPaths::new(&config.raw));
        let graphql = config.graphql.enabled.then(|| config.graphql.catalog()).transpose();
        let graphql = graphql.map_err(|unusable| setup(graphql_fault(unusable)))?;
        let graphql = graphql.map(|catalog| {
            let operations_max = config.session.channels_max as usize;
            Arc::new(graphql::GraphqlEndpoint::new(Arc::new(catalog), operations_max, metrics.clone()))
        });
        let router = HttpRouter {
            origins: origins.clone(),
            raw_paths: raw_paths.clone(),
            proxies,
            admission: Admission::new(
                &config.limits,
                connections_max,
                spare_max,
                config.balancers(),
                clock,
                metrics.clone(),
            ),
            clients: true,
            sse: config.sse.enabled,
            hub: config
                .mercure
                .enabled
                .then(|| Arc::new(Hub::new(config.mercure.clone(), authenticator.clone(), node.clone()))),
            api: api_socket.is_none().then(|| api.clone()),
            by_client: Arc::new(ByClient::new(authenticator.clone(), node.clone())),
            encodings,
            engine_io,
            reception: reception(&inboxes, &node),
            metrics: metrics.clone(),
            bodies: memory.bodies.clone(),
            url_bytes_max: config.http.url_bytes_max,
            message_bytes_max: config.websocket.message_bytes_max,
            pages: config.demo.page,
            backend,
            refusals_log: Arc::default(),
            graphql: graphql.clone(),
            pusher_api: pusher_api.clone().filter(|_| api_socket.is_none()),
            apps: apps.clone(),
        };
        let api_router = HttpRouter {
            admission: Admission::new(
                &AdmissionConfig::default(),
                config.api.connections_max,
                0,
                config.balancers(),
                clock,
                metrics.clone(),
            ),
            clients: false,
            api: Some(api.clone()),
            pusher_api: pusher_api.clone(),
            pages: false,
            ..router.clone()
        };
        let reload = Arc::new(Reloader {
            load,
            metrics: metrics.clone(),
            node: node.clone(),
            inboxes: inboxes.clone(),
            authenticator: authenticator.clone(),
            origins,
            raw_paths,
            admission: router.admission.clone(),
            descriptors,
            api: api.clone(),
            tls: tls.clone(),
            apps: apps.clone(),
            socketio: socketio.clone(),
            graphql,
            running: Mutex::new(config.clone()),
        });
        api.reload_with(reload.clone());
        metrics.config_applied(&config.to_toml());
        runtime.spawn(reload.clone().watch(hangups, stop.clone()));
        if let Some(tls) = &tls {
            let interval = config.tls.reload_interval();
            runtime.spawn(tls.clone().watch(interval, metrics.clone(), stop.clone()));
        }
        let (http, leaving) = (TaskTracker::new(), CancellationToken::new());
        let listener = |router: HttpRouter| {
            Arc::new(ClientListener {
                admission: router.admission.clone(),
                tls: tls.clone(),
                tls_timeout: config.tls.handshake_timeout(),
                http2_streams_max: config.tls.http2_streams_max,
                proxy_protocol: config.proxy_protocol.clone(),
                http: config.http.clone(),
                router: Arc::new(router),
                metrics: metrics.clone(),
                leaving: leaving.clone(),
                stop: stop.clone(),
                connections: http.clone(),
            })
        };
        if let Some(socket) = cluster_socket {
            let (engine_io, metrics) = (node.engine_io.clone(), metrics.clone());
            let from_nodes = FromNodes { engine_io, graphql: router.graphql.clone(), metrics };
            runtime.spawn(from_nodes::accept_relayed(socket, from_nodes, stop.clone()));
        }
        let keep_alive = config.http.keep_alive();
        let console = config
            .console
            .enabled
            .then(|| Console::new(&config.console, api.clone(), clock, readiness.clone(), metrics.clone()));
        let console = console.transpose().map_err(setup)?.map(Arc::new);
        let at = |console: Option<Arc<Console>>, health| {
            let (readiness, metrics) = (readiness.clone(), metrics.clone());
            Internal { clock, readiness, metrics, console, health }
        };
        let beside = console.clone().filter(|_| console_socket.is_none());
        runtime.spawn(internal::serve(internal_socket, at(beside, true), keep_alive));
        if let (Some(socket), Some(console)) = (console_socket, console) {
            runtime.spawn(internal::serve(socket, at(Some(console), false), keep_alive));
        }
        for (part, name) in broker_parts.into_iter().enumerate() {
            runtime.spawn(keep_canary(node.clone(), readiness.clone(), part, name));
        }
        runtime.spawn(authenticator.keep(readiness.clone(), stop.clone()));
        let mut accepting = vec![runtime.spawn(listener(router).accept(client_socket))];
        let mut api_address = client_address;
        if let Some((socket, address)) = api_socket {
            api_address = address;
            accepting.push(runtime.spawn(listener(api_router).accept(socket)));
        }
        if config.demo.feed {
            runtime.spawn(demo::run(node.clone()));
        }
        let emitters = (config.socketio.enabled && config.socketio.emitters.enabled).then(|| {
            EmitterListener::start(emitters::EmitterParts {
                settings: &config.socketio.emitters,
                redis: &config.redis,
                common: socketio,
                node: node.clone(),
                runtime: &runtime,
            })
        });
        let emitters = emitters.transpose().map_err(setup)?;
        let feeds = Feeds::start(feeds::FeedsParts {
            feeds: &config.feeds,
            servers: (&config.redis, &config.nats),
            api: &config.api,
            node: &node,
            runtime: &runtime,
        });
        let feeds = Some(feeds.map_err(setup)?);
        readiness.set_started();
        tracing::info!(
            node = %node.name(), %client_address, %api_address, %internal_address, connections_max,
            workers = workers.len(), version = crate::VERSION, "serving"
        );
        if config.console.enabled {
            let address = console_address.unwrap_or(internal_address);
            tracing::info!("the console is at http://{address}/console/");
        }
        if config.demo.page {
            let scheme = if config.tls.is_on() { "https" } else { "http" };
            tracing::info!("the ticker is at {scheme}://{client_address}/");
        }
        Ok(Self {
            reload,
            clock,
            client_address,
            api_address,
            internal_address,
            readiness,
            metrics,
            node,
            inboxes,
            workers,
            accepting,
            api,
            pusher_api,
            emitters,
            feeds,
            http,
            leaving,
            stop,
            runtime,
        })
    }

    /// Returns the address for clients, with the port that the kernel chose if the configuration left it open.
    pub fn client_address(&self) -> SocketAddr {
        self.client_address
    }

    /// Returns the address of the server API: the one for clients, or one of its own.
    pub fn api_address(&self) -> SocketAddr {
        self.api_address
    }

    pub fn internal_address(&self) -> SocketAddr {
        self.internal_address
    }

    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }
}

const INTERNAL_BACKLOG: u32 = 128;
const API_BACKLOG: u32 = 1024;
const CLUSTER_BACKLOG: u32 = 4096;

fn encodings(config: &Config) -> Encodings {
    let websocket = &config.websocket;
    let level = websocket.compression_level as u8;
    let deflate = DeflateOptions { min_bytes: websocket.compression_bytes_min, level };
    Encodings::new(
        websocket.compression,
        deflate,
        config.session.queued_commands_max,
        websocket.uni_join_pushes,
        config.sse.retry_ms,
        config.pusher.protocol(&config.channel_names),
        Arc::new(config.socketio.common(&config.channel_names)),
    )
}

/// Assigns new clients to the workers in turn, so that each gets its share, and passes commands from requests to
/// `/emulation` on to the nodes of their sessions.
fn reception(inboxes: &[Arc<Inbox>], node: &Arc<Node>) -> ClientEntry {
    let next = || {
        let (inboxes, next) = (inboxes.to_vec(), AtomicUsize::new(0));
        move || inboxes[next.fetch_add(1, Ordering::Relaxed) % inboxes.len()].clone()
    };
    let (for_client, for_caller, node, asking) = (next(), next(), node.clone(), node.clone());
    let receive = move |new| for_client().push(WorkerEvent::Open(new));
    let call = move |new| for_caller().push(WorkerEvent::Call(new));
    let tell = move |commands: EmulatedCommands| {
        let node = node.clone();
        Box::pin(async move {
            let question = NodeRequest::Message { session: commands.session, data: commands.data };
            match node.ask(&commands.node, question).await {
                Ok(NodeResponse::NoSuchSession) => DeliveryOutcome::NoSuchSession,
                Ok(NodeResponse::Repeated) => DeliveryOutcome::Repeated,
                Ok(_) => DeliveryOutcome::Done,
                Err(AskError::UnknownNode) => DeliveryOutcome::NoSuchNode,
                Err(AskError::Unsendable(_)) => DeliveryOutcome::TooLong,
                Err(error) => {
                    tracing::debug!(%error, "commands could not be passed on");
                    DeliveryOutcome::Failed
                }
            }
        }) as BoxFuture<'static, DeliveryOutcome>
    };
    let find_node = move |other: Box<str>| {
        let node = asking.clone();
        Box::pin(async move { node.address_of(&other).await }) as BoxFuture<'static, Option<Box<str>>>
    };
    ClientEntry::new(receive, tell, call, find_node)
}

fn graphql_fault(unusable: Vec<FieldConfigError>) -> String {
    let each = unusable.into_iter().map(|one| format!("graphql.{}: {}", one.key, one.problem));
    each.collect::<Vec<_>>().join("; ")
}

fn setup(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StartError {
    StartError::Setup(error.into())
}
