//! The client listener's HTTP: paths to handlers, and every check that comes before a client is let in.

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
mod reserved_elsewhere;
mod respond;
mod route;
mod take_over;
mod upgrade;

pub(crate) use http_stream::HttpStream;
pub(crate) use route::GrantedUpgrade;
pub(crate) use take_over::TakeOver;

use origin::OriginPolicy;
use raw_paths::RawPaths;

/// A head that was read without hyper, for [`crate::readers`].
#[derive(PartialEq, Eq, Debug)]
pub struct ReadHead<'a> {
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub headers: Vec<(&'a str, &'a [u8])>,
    /// How long it is.
    pub bytes: usize,
}

pub(crate) fn read_head(bytes: &[u8]) -> Option<ReadHead<'_>> {
    let (head, bytes) = head::ConnectHead::read(bytes)?;
    Some(ReadHead { path: head.path, query: head.query, headers: head.headers().collect(), bytes })
}

/// The body of a request to `/emulation`, for [`crate::readers`]: node, session and commands.
pub(crate) fn read_emulation(body: &[u8], in_protobuf: bool) -> Result<(Box<str>, Box<str>, Bytes), String> {
    let commands = emulate::read_emulation(Bytes::copy_from_slice(body), in_protobuf)?;
    Ok((commands.node, commands.session, commands.data))
}

/// Where every request of a client goes.
#[derive(Clone, Debug)]
pub(crate) struct HttpRouter {
    /// Others can be set while the node runs.
    pub(crate) origins: Arc<RwLock<OriginPolicy>>,
    /// These too.
    pub(crate) raw_paths: Arc<RawPaths>,
    pub(crate) proxies: TrustedProxies,
    pub(crate) admission: Arc<Admission>,
    /// Whether clients connect here.
    pub(crate) clients: bool,
    /// Whether `/sse` is served.
    pub(crate) sse: bool,
    /// The Mercure hub, where it is switched on.
    pub(crate) hub: Option<Arc<Hub>>,
    /// `None` where the API has an address of its own.
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
    /// The ticker page, where the demo is on.
    pub(crate) pages: bool,
    /// Told, with a client, what its handshake says that hooks pass on.
    pub(crate) backend: Option<Arc<Backend>>,
    pub(crate) refusals_log: Arc<LogLimiter>,
    /// Where GraphQL is served.
    pub(crate) graphql: Option<Arc<graphql::GraphqlEndpoint>>,
    /// Where Pusher is served: whose clients connect.
    pub(crate) apps: Option<Arc<Apps>>,
    /// What their servers ask of the gateway. `None` where the API has an address of its own.
    pub(crate) pusher_api: Option<Arc<PusherApi>>,
}

/// What a request is answered with: all of it, or what a worker writes as it goes.
pub(crate) type Body = Either<Full<Bytes>, HandedBody>;

fn whole(bytes: impl Into<Bytes>) -> Body {
    Either::Left(Full::new(bytes.into()))
}

/// Which node keeps something of this name, if any does.
type FindNode = dyn Fn(Box<str>) -> BoxFuture<'static, Option<Box<str>>> + Send + Sync;

/// Where those go who have been let in, and what they send apart.
#[derive(Clone)]
pub(crate) struct ClientEntry {
    receive: Arc<dyn Fn(Box<NewClient>) + Send + Sync>,
    tell: Arc<dyn Fn(EmulatedCommands) -> BoxFuture<'static, DeliveryOutcome> + Send + Sync>,
    call: Arc<dyn Fn(Box<NewCaller>) + Send + Sync>,
    find_node: Arc<FindNode>,
}

/// Commands of a client, with the names of its node and session.
#[derive(Debug)]
pub(crate) struct EmulatedCommands {
    pub(crate) node: Box<str>,
    pub(crate) session: Box<str>,
    pub(crate) data: Bytes,
}

/// What has become of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DeliveryOutcome {
    /// The session has taken them.
    Done,
    /// It has, and the session was not there.
    NoSuchSession,
    /// It has not, for they would begin what is in flight already.
    Repeated,
    NoSuchNode,
    /// Longer than one node tells another.
    TooLong,
    /// Nobody knows.
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

    /// Has a worker serve a connection of an application's server.
    pub(crate) fn call(&self, new: NewCaller) {
        (self.call)(Box::new(new));
    }

    fn receive(&self, new: NewClient) {
        (self.receive)(Box::new(new));
    }
}

impl fmt::Debug for ClientEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reception")
    }
}

/// Why a request goes no further, for the client and for the metrics.
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

    /// What was asked for makes no sense, which a page of another origin may read too.
    fn malformed(why: impl Into<String>, cors: &HeaderMap) -> Self {
        let refused = Self::new(Handshake::Request, StatusCode::BAD_REQUEST, why);
        refused.with(cors::lines(cors.clone()))
    }

    /// The same, with headers.
    fn with(mut self, headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>) -> Self {
        self.headers.extend(headers);
        self
    }
}
