//! The client listener's HTTP: routes paths to handlers, and makes every check before a client is admitted.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{Either, Full};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, StatusCode};
use parking_lot::RwLock;

use crate::admission::Admission;
use crate::admission::client_ip::TrustedProxies;
use crate::api::update::Hub;
use crate::api::{Api, ByClient};
use crate::backend::Backend;
use crate::bodies::Bodies;
use crate::client::open::NewClient;
use crate::engine_io::EngineIo;
use crate::pusher::Apps;
use crate::pusher_api::PusherApi;
use crate::telemetry::labels::Handshake;
use crate::telemetry::{LogLimiter, Metrics};
use crate::transport::encodings::Encodings;
use crate::transport::task_pipe::HandedBody;
use crate::worker::callers::NewCaller;

pub mod event_stream;
pub(crate) mod graphql;
pub mod http_config;
pub mod origin;
pub mod pages;
pub mod raw_paths;

mod cors;
mod emulate;
mod engine_io;
mod head;
mod http_stream;
mod mercure;
mod reserved;
mod reserved_remote;
mod respond;
mod route;
mod take_over;
mod upgrade;

pub(crate) use http_stream::HttpStream;
pub(crate) use route::GrantedUpgrade;
pub(crate) use take_over::TakeOver;

use origin::OriginPolicy;
use raw_paths::RawPaths;

/// A request head read without hyper, for [`crate::readers`].
#[derive(PartialEq, Eq, Debug)]
pub struct ReadHead<'a> {
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub headers: Vec<(&'a str, &'a [u8])>,
    /// The length of the head.
    pub bytes: usize,
}

pub(crate) fn read_head(bytes: &[u8]) -> Option<ReadHead<'_>> {
    let (head, bytes) = head::ConnectHead::read(bytes)?;
    Some(ReadHead { path: head.path, query: head.query, headers: head.headers().collect(), bytes })
}

/// Reads the body of a request to `/emulation`, for [`crate::readers`]: node, session and commands.
pub(crate) fn read_emulation(body: &[u8], in_protobuf: bool) -> Result<(Box<str>, Box<str>, Bytes), String> {
    let commands = emulate::read_emulation(Bytes::copy_from_slice(body), in_protobuf)?;
    Ok((commands.node, commands.session, commands.data))
}

/// Routes every request of a client.
#[derive(Clone, Debug)]
pub(crate) struct HttpRouter {
    /// May be replaced while the node runs.
    pub(crate) origins: Arc<RwLock<OriginPolicy>>,
    /// May be replaced while the node runs.
    pub(crate) raw_paths: Arc<RawPaths>,
    pub(crate) proxies: TrustedProxies,
    pub(crate) admission: Arc<Admission>,
    /// Whether clients connect here.
    pub(crate) clients: bool,
    /// Whether `/sse` is served.
    pub(crate) sse: bool,
    /// The Mercure hub, if it is enabled.
    pub(crate) hub: Option<Arc<Hub>>,
    /// `None` if the API has its own address.
    pub(crate) api: Option<Arc<Api>>,
    pub(crate) by_client: Arc<ByClient>,
    pub(crate) encodings: Arc<Encodings>,
    pub(crate) engine_io: Arc<EngineIo>,
    pub(crate) reception: ClientEntry,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) bodies: Arc<Bodies>,
    pub(crate) url_bytes_max: usize,
    /// Longest body of a request with commands, in bytes.
    pub(crate) message_bytes_max: usize,
    /// Whether the demo's ticker page is served.
    pub(crate) pages: bool,
    /// Receives the details of clients' handshakes that hooks pass on.
    pub(crate) backend: Option<Arc<Backend>>,
    pub(crate) refusals_log: Arc<LogLimiter>,
    /// The GraphQL endpoint, if it is enabled.
    pub(crate) graphql: Option<Arc<graphql::GraphqlEndpoint>>,
    /// The Pusher apps, if there are any.
    pub(crate) apps: Option<Arc<Apps>>,
    /// The HTTP API for the servers of Pusher apps. `None` if the API has its own address.
    pub(crate) pusher_api: Option<Arc<PusherApi>>,
}

/// The body of a response: complete, or written by a worker.
pub(crate) type Body = Either<Full<Bytes>, HandedBody>;

fn whole(bytes: impl Into<Bytes>) -> Body {
    Either::Left(Full::new(bytes.into()))
}

/// Returns the address of the node with this id, if it accepts connections of other nodes.
type FindNode = dyn Fn(Box<str>) -> BoxFuture<'static, Option<Box<str>>> + Send + Sync;

/// Passes on admitted clients, and commands that arrive apart from them.
#[derive(Clone)]
pub(crate) struct ClientEntry {
    receive: Arc<dyn Fn(Box<NewClient>) + Send + Sync>,
    tell: Arc<dyn Fn(EmulatedCommands) -> BoxFuture<'static, DeliveryOutcome> + Send + Sync>,
    call: Arc<dyn Fn(Box<NewCaller>) + Send + Sync>,
    find_node: Arc<FindNode>,
}

/// A client's commands, with the ids of its node and session.
#[derive(Debug)]
pub(crate) struct EmulatedCommands {
    pub(crate) node: Box<str>,
    pub(crate) session: Box<str>,
    pub(crate) data: Bytes,
}

/// The outcome of delivering commands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DeliveryOutcome {
    /// The session has taken the commands.
    Done,
    /// The node has no such session.
    NoSuchSession,
    /// The session has not taken the commands, because the same ones are in flight already.
    Repeated,
    NoSuchNode,
    /// The commands are longer than a message between nodes may be.
    TooLong,
    /// The outcome is unknown.
    Failed,
}

impl ClientEntry {
    pub(crate) fn new(
        receive: impl Fn(Box<NewClient>) + Send + Sync + 'static,
        tell: impl Fn(EmulatedCommands) -> BoxFuture<'static, DeliveryOutcome> + Send + Sync + 'static,
        call: impl Fn(Box<NewCaller>) + Send + Sync + 'static,
        find_node: impl Fn(Box<str>) -> BoxFuture<'static, Option<Box<str>>> + Send + Sync + 'static,
    ) -> Self {
        let (receive, tell, call) = (Arc::new(receive), Arc::new(tell), Arc::new(call));
        Self { receive, tell, call, find_node: Arc::new(find_node) }
    }

    /// Has a worker serve a connection of an application server.
    pub(crate) fn call(&self, new: NewCaller) {
        (self.call)(Box::new(new));
    }

    fn receive(&self, new: NewClient) {
        (self.receive)(Box::new(new));
    }
}

impl fmt::Debug for ClientEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientEntry")
    }
}

/// Why a request is refused, for the client and for the metrics.
#[derive(Debug)]
pub(crate) struct HttpRefusal {
    result: Handshake,
    status: StatusCode,
    why: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl HttpRefusal {
    pub(crate) fn new(result: Handshake, status: StatusCode, why: impl Into<String>) -> Self {
        Self { result, status, why: why.into(), headers: Vec::new() }
    }

    /// Refuses a malformed request. Pages of other origins may read the response, too.
    fn malformed(why: impl Into<String>, cors: &HeaderMap) -> Self {
        let refused = Self::new(Handshake::Request, StatusCode::BAD_REQUEST, why);
        refused.with(cors::lines(cors.clone()))
    }

    /// Adds headers to the refusal.
    fn with(mut self, headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>) -> Self {
        self.headers.extend(headers);
        self
    }
}
