//! `/graphql`: GraphQL subscriptions over a WebSocket, and over server-sent events in both modes of graphql-sse: a stream
//! for each operation, or one for all operations of a client, which is reserved first and controlled by separate requests.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gateway_core::hub::Layout;
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use shared::command::Connect;
use shared::disconnect::Disconnect;
use shared::protocol::graphql::{self as wire, Dialect, GraphQl, GraphQlError, Plan, Planner};

use crate::admission::Peer;
use crate::graphql::Catalog;
use crate::http::head::ConnectHead;
use crate::http::reserved::{ReserveOutcome, StreamReservations};
use crate::http::reserved_remote;
use crate::http::respond::{RefusalResponse, StreamOpening, headers_of_stream};
use crate::http::{
    Body, DeliveryOutcome, EmulatedCommands, HttpRefusal, HttpRouter, TakeOver, cors, upgrade, whole,
};
use crate::telemetry::Metrics;
use crate::telemetry::labels::Handshake;

pub(crate) const PATH: &str = "/graphql";

pub(super) const METHODS: &str = "GET, POST, PUT, DELETE, OPTIONS";

/// How long a reserved stream may stay unopened.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest id of a session, in bytes.
const SESSION_BYTES_MAX: usize = 64;

const EVENT_STREAM: &str = "text/event-stream";

/// The endpoint at [`PATH`].
#[derive(Debug)]
pub(crate) struct GraphqlEndpoint {
    /// May be replaced for clients that connect later.
    catalog: RwLock<Arc<Catalog>>,
    operations_max: usize,
    pub(super) reserved: Arc<StreamReservations>,
    metrics: Arc<Metrics>,
}

/// Counts operations by the outcome of planning.
#[derive(Debug)]
struct CountedOperations {
    catalog: Arc<Catalog>,
    metrics: Arc<Metrics>,
}

impl Planner for CountedOperations {
    fn plan(&self, requested: &wire::RequestedOperation<'_>) -> Result<Plan, Vec<GraphQlError>> {
        let plan = self.catalog.plan(requested);
        self.metrics.graphql_operation(match &plan {
            Ok(Plan::Subscribe(_)) => "subscription",
            Ok(Plan::Answer(_)) => "answered",
            Err(_) => "refused",
        });
        plan
    }
}

impl GraphqlEndpoint {
    /// `operations_max` is how many operations a client may have in flight.
    pub(crate) fn new(catalog: Arc<Catalog>, operations_max: usize, metrics: Arc<Metrics>) -> Self {
        Self { catalog: RwLock::new(catalog), operations_max, reserved: Arc::default(), metrics }
    }

    /// Sets the fields for clients that connect from now on. Connected clients keep theirs.
    pub(crate) fn set_catalog(&self, catalog: Arc<Catalog>) {
        *self.catalog.write() = catalog;
    }

    fn client(&self, dialect: Dialect) -> Arc<GraphQl> {
        let planner =
            CountedOperations { catalog: self.catalog.read().clone(), metrics: self.metrics.clone() };
        Arc::new(GraphQl::new(dialect, Arc::new(planner), self.operations_max))
    }
}

/// The part of an operation that names it, where all operations share one stream.
#[derive(Deserialize)]
struct NamedOperation<'a> {
    #[serde(borrow, default)]
    extensions: Option<NamedExtensions<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct NamedExtensions<'a> {
    #[serde(borrow, default)]
    operation_id: Option<Cow<'a, str>>,
}

/// What a request asks for.
enum GraphqlRequestKind {
    /// A stream for this operation.
    Stream,
    /// The stream reserved under this name.
    Reserved(String),
    Reserve,
    /// An operation in the stream of this name.
    Operation(String),
    /// The end of an operation in that stream.
    End(String, String),
}

impl HttpRouter {
    /// Reads a request for a WebSocket with one of the subprotocols. A client that offers none of them is admitted and
    /// closed with a code that says so.
    pub(super) fn read_graphql(
        &self,
        endpoint: &GraphqlEndpoint,
        head: &ConnectHead<'_>,
    ) -> Result<upgrade::UpgradeOpening, HttpRefusal> {
        let offered = upgrade::read(head)?;
        // Some clients offer both, the older one first.
        let chosen = [
            (wire::TRANSPORT_WS, Dialect::TransportWs),
            (wire::SUBSCRIPTIONS_TRANSPORT, Dialect::SubscriptionsTransport),
        ]
        .into_iter()
        .find(|(name, _)| offered.subprotocols.contains(name));
        let (name, dialect) = chosen.unwrap_or(("", Dialect::TransportWs));
        let graphql = endpoint.client(dialect);
        let opening = self.opening(offered, name, graphql.clone());
        let turned_away = chosen.is_none().then(|| Disconnect {
            code: 4406,
            reason: "offer the subprotocol graphql-transport-ws, or graphql-ws".into(),
        });
        // Each client's messages are its own, so deflated frames could not be shared.
        Ok(opening.of_operations(graphql, turned_away))
    }

    /// Serves all requests at [`PATH`] that ask for no WebSocket.
    pub(super) async fn serve_graphql(
        self: &Arc<Self>,
        peer: &Peer,
        take_over: &TakeOver,
        request: Request<Incoming>,
        endpoint: &Arc<GraphqlEndpoint>,
    ) -> Result<Response<Body>, HttpRefusal> {
        let (wanted, cors) = {
            let head = ConnectHead::of(&request);
            self.check_request(&head, METHODS)?;
            let cors = cors::headers(&head);
            match wanted(request.method(), &head) {
                Ok(wanted) => (wanted, cors),
                Err((status, why)) => return Ok(json_error(status, why, cors)),
            }
        };
        match wanted {
            GraphqlRequestKind::Stream => {
                self.stream_operation(peer, take_over, request, endpoint, cors).await
            }
            GraphqlRequestKind::Reserved(name) => Ok(self.open_reserved(endpoint, &name, cors).await),
            GraphqlRequestKind::Reserve => self.reserve(peer, request, endpoint, cors).await,
            GraphqlRequestKind::Operation(name) => {
                let operation = match self.read_operation(request).await {
                    Ok(operation) => operation,
                    Err(refused) => return Err(refused.with(cors::lines(cors))),
                };
                let id = match id_of(&operation) {
                    Ok(id) => id,
                    Err(why) => return Ok(json_error(StatusCode::BAD_REQUEST, why, cors)),
                };
                let message = message("subscribe", &id, Some(&operation));
                Ok(self.forward_to_stream(&name, message, StatusCode::ACCEPTED, cors).await)
            }
            GraphqlRequestKind::End(name, id) => {
                Ok(self.forward_to_stream(&name, message("complete", &id, None), StatusCode::OK, cors).await)
            }
        }
    }

    /// Streams one operation. The stream ends with it.
    async fn stream_operation(
        self: &Arc<Self>,
        peer: &Peer,
        take_over: &TakeOver,
        request: Request<Incoming>,
        endpoint: &GraphqlEndpoint,
        cors: HeaderMap,
    ) -> Result<Response<Body>, HttpRefusal> {
        let version = request.version();
        let graphql = endpoint.client(Dialect::StreamEach);
        let opening = self.opening_of_stream(peer, &request, graphql, &cors)?;
        let operation = match self.read_operation(request).await {
            Ok(operation) => operation,
            Err(refused) => return Err(refused.with(cors::lines(cors))),
        };
        let opening = StreamOpening { first: Some(message("subscribe", "", Some(&operation))), ..opening };
        self.open_stream(take_over, opening, version).await
    }

    /// Makes a client whose stream another request opens, and returns its name.
    async fn reserve(
        self: &Arc<Self>,
        peer: &Peer,
        request: Request<Incoming>,
        endpoint: &Arc<GraphqlEndpoint>,
        cors: HeaderMap,
    ) -> Result<Response<Body>, HttpRefusal> {
        let graphql = endpoint.client(Dialect::OneStream);
        let reservation = endpoint.reserved.begin();
        let opening = self.opening_of_stream(peer, &request, graphql, &cors)?;
        let opening = StreamOpening { watcher: Some(reservation.clone()), ..opening };
        let (far, found) = self.open_apart(opening).await?;
        let name = found.map(|header| header.value.to_string()).unwrap_or_default();
        reservation.keep(&name, far);
        tokio::spawn(async move {
            tokio::time::sleep(OPEN_TIMEOUT).await;
            reservation.give_up();
        });
        let mut response = Response::new(whole(name));
        *response.status_mut() = StatusCode::CREATED;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.extend(cors);
        self.metrics.handshake(Handshake::Accepted);
        Ok(response)
    }

    async fn open_reserved(&self, endpoint: &GraphqlEndpoint, name: &str, cors: HeaderMap) -> Response<Body> {
        let taken = match endpoint.reserved.take(name) {
            ReserveOutcome::Unknown => self.take_elsewhere(name).await,
            taken => taken,
        };
        match taken {
            ReserveOutcome::Stream(far) => {
                let mut response = Response::new(Either::Right(far));
                response.headers_mut().extend(headers_of_stream(Layout::Events, cors));
                response
            }
            ReserveOutcome::Already => json_error(StatusCode::CONFLICT, "the stream is open already", cors),
            ReserveOutcome::Unknown => {
                json_error(StatusCode::NOT_FOUND, "this node can reach no reserved stream of this name", cors)
            }
        }
    }

    /// Takes the stream of this name from the node in the name, if that node accepts requests of others.
    async fn take_elsewhere(&self, name: &str) -> ReserveOutcome {
        let Some((node, session)) = name.rsplit_once('.') else { return ReserveOutcome::Unknown };
        // An id that no session can have is not worth a connection to another node.
        if session.len() > SESSION_BYTES_MAX {
            return ReserveOutcome::Unknown;
        }
        let Some(address) = (self.reception.find_node)(node.into()).await else {
            return ReserveOutcome::Unknown;
        };
        let answer = reserved_remote::ask_node(&address, name, self.engine_io.clone()).await;
        answer.unwrap_or_else(|error| {
            tracing::debug!(%error, "a reserved stream could not be taken from its node");
            ReserveOutcome::Unknown
        })
    }

    /// Has the client of a stream take a message, on whichever node it is.
    async fn forward_to_stream(
        &self,
        name: &str,
        message: Bytes,
        done: StatusCode,
        cors: HeaderMap,
    ) -> Response<Body> {
        const NOT_FOUND: &str = "there is no stream of this name";
        let Some((node, session)) = name.rsplit_once('.') else {
            return json_error(StatusCode::NOT_FOUND, NOT_FOUND, cors);
        };
        let message = EmulatedCommands { node: node.into(), session: session.into(), data: message };
        match (self.reception.tell)(message).await {
            DeliveryOutcome::Done => {
                let mut response = Response::new(whole(Bytes::new()));
                *response.status_mut() = done;
                response.headers_mut().extend(cors);
                response
            }
            DeliveryOutcome::Repeated => {
                json_error(StatusCode::CONFLICT, "an operation with this id is in progress", cors)
            }
            DeliveryOutcome::NoSuchNode | DeliveryOutcome::NoSuchSession => {
                json_error(StatusCode::NOT_FOUND, NOT_FOUND, cors)
            }
            DeliveryOutcome::TooLong => {
                json_error(StatusCode::PAYLOAD_TOO_LARGE, "the operation is too long", cors)
            }
            DeliveryOutcome::Failed => {
                json_error(StatusCode::INTERNAL_SERVER_ERROR, "the stream's node does not answer", cors)
            }
        }
    }

    fn opening_of_stream(
        &self,
        peer: &Peer,
        request: &Request<Incoming>,
        graphql: Arc<GraphQl>,
        cors: &HeaderMap,
    ) -> Result<StreamOpening, HttpRefusal> {
        let head = ConnectHead::of(request);
        let token = head.bearer().map_err(|why| HttpRefusal::malformed(why, cors))?.unwrap_or_default();
        let connect = Connect { token: token.into(), name: "graphql".into(), ..Connect::default() };
        Ok(StreamOpening {
            layout: Layout::Events,
            headers: headers_of_stream(Layout::Events, cors.clone()),
            waits: Some(RefusalResponse::with(cors.clone())),
            watcher: None,
            first: None,
            connect: Some(Box::new(connect)),
            protocol: graphql.clone(),
            graphql: Some(graphql),
            admitted: self.admit(peer, &head)?,
            origin: self.origin(&head, self.address_of(peer, &head)),
        })
    }

    /// Reads an operation as JSON, from the body of a POST or the URL of a GET.
    async fn read_operation(&self, request: Request<Incoming>) -> Result<Box<RawValue>, HttpRefusal> {
        let malformed = |why: String| HttpRefusal::new(Handshake::Request, StatusCode::BAD_REQUEST, why);
        if request.method() == Method::GET {
            let head = ConnectHead::of(&request);
            let operation = operation_in(&head).map_err(malformed)?;
            return RawValue::from_string(operation).map_err(|error| malformed(error.to_string()));
        }
        let body = self.read_body(request.into_body()).await?;
        let operation: Box<RawValue> = serde_json::from_slice(&body)
            .map_err(|error| malformed(format!("the body is not JSON: {error}")))?;
        serde_json::from_str::<wire::RequestedOperation<'_>>(operation.get())
            .map_err(|error| malformed(format!("the body is not an operation: {error}")))?;
        Ok(operation)
    }
}

/// Returns what a request asks for, or the error to answer.
fn wanted(method: &Method, head: &ConnectHead<'_>) -> Result<GraphqlRequestKind, (StatusCode, &'static str)> {
    let accepts = |kind: &str| {
        let given = head.header("accept").map(|accept| String::from_utf8_lossy(accept).to_ascii_lowercase());
        let given = given.filter(|accept| !accept.trim().is_empty());
        given.is_none_or(|accept| {
            let kinds = accept.split(',').map(|one| one.split(';').next().unwrap_or_default().trim());
            let mut kinds = kinds.map(|one| one.to_owned());
            kinds.any(|one| one == kind || one == "*/*" && kind != EVENT_STREAM)
        })
    };
    let asks_for_stream = head.header("accept").is_some() && accepts(EVENT_STREAM);
    let token = head.header(wire::STREAM_TOKEN).and_then(|token| std::str::from_utf8(token).ok());
    let token =
        token.map(str::to_owned).or_else(|| head.form_query("token")).filter(|token| !token.is_empty());
    match (method, token) {
        (&Method::GET | &Method::POST, Some(token)) if asks_for_stream => {
            Ok(GraphqlRequestKind::Reserved(token))
        }
        (&Method::GET | &Method::POST, None) if asks_for_stream => Ok(GraphqlRequestKind::Stream),
        (&Method::PUT, _) if accepts("text/plain") => Ok(GraphqlRequestKind::Reserve),
        (&Method::PUT, _) => Err((
            StatusCode::NOT_ACCEPTABLE,
            "the name of a stream is sent as text/plain, which the Accept header must allow",
        )),
        (_, None) => Err((
            StatusCode::NOT_FOUND,
            "operations are answered over a WebSocket, or as text/event-stream, which the Accept header must allow",
        )),
        (&Method::DELETE, Some(token)) => match head.form_query("operationId").filter(|id| !id.is_empty()) {
            Some(id) => Ok(GraphqlRequestKind::End(token, id)),
            None => Err((StatusCode::BAD_REQUEST, "operationId is missing")),
        },
        (_, Some(_)) if !accepts("application/json") => Err((
            StatusCode::NOT_ACCEPTABLE,
            "the answer to an operation is sent as application/json, which the Accept header must allow",
        )),
        (_, Some(token)) => Ok(GraphqlRequestKind::Operation(token)),
    }
}

/// Returns the id that the client gave an operation.
fn id_of(operation: &RawValue) -> Result<String, &'static str> {
    let named: NamedOperation<'_> =
        serde_json::from_str(operation.get()).map_err(|_| "the operation cannot be read")?;
    let id = named.extensions.and_then(|extensions| extensions.operation_id);
    match id {
        Some(id) if (1..=wire::ID_BYTES_MAX).contains(&id.len()) => Ok(id.into_owned()),
        Some(_) => Err("extensions.operationId must be a text of at most 255 bytes"),
        None => Err("extensions.operationId is missing"),
    }
}

/// Encodes a message as it would arrive over a WebSocket.
fn message(kind: &str, id: &str, payload: Option<&RawValue>) -> Bytes {
    let id = Value::from(id);
    match payload {
        Some(payload) => format!(r#"{{"type":"{kind}","id":{id},"payload":{}}}"#, payload.get()).into(),
        None => format!(r#"{{"type":"{kind}","id":{id}}}"#).into(),
    }
}

/// Reads the operation in a URL.
fn operation_in(head: &ConnectHead<'_>) -> Result<String, String> {
    let query = head.form_query("query").ok_or("query is missing")?;
    let mut operation = json!({ "query": query });
    if let Some(name) = head.form_query("operationName") {
        operation["operationName"] = name.into();
    }
    for name in ["variables", "extensions"] {
        if let Some(text) = head.form_query(name) {
            operation[name] =
                serde_json::from_str(&text).map_err(|error| format!("{name} is not JSON: {error}"))?;
        }
    }
    Ok(operation.to_string())
}

/// Returns a response with an error.
fn json_error(status: StatusCode, why: &str, cors: HeaderMap) -> Response<Body> {
    let body = json!({ "errors": [{ "message": why }] });
    let mut response = Response::new(whole(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    headers.extend(cors);
    response
}

/// Whether a request asks for a WebSocket, rather than another endpoint at the same path.
pub(super) fn asks_for_websocket(head: &ConnectHead<'_>) -> bool {
    head.asks_in_http2() || head.header("upgrade").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(method: &Method, path: &str, headers: &[(&str, &str)]) -> String {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).unwrap();
        match wanted(method, &ConnectHead::of(&request)) {
            Ok(GraphqlRequestKind::Stream) => "stream".to_owned(),
            Ok(GraphqlRequestKind::Reserve) => "reserve".to_owned(),
            Ok(GraphqlRequestKind::Reserved(name)) => format!("open {name}"),
            Ok(GraphqlRequestKind::Operation(name)) => format!("operation in {name}"),
            Ok(GraphqlRequestKind::End(name, id)) => format!("end {id} in {name}"),
            Err((status, _)) => status.as_str().to_owned(),
        }
    }

    #[test]
    fn requests_are_understood_as_graphql_sse_means_them() {
        let token = (wire::STREAM_TOKEN, "n.s");
        let (stream, any, json) =
            (("accept", EVENT_STREAM), ("accept", "*/*"), ("accept", "application/json"));
        for (method, path, headers, expected) in [
            (Method::POST, "/graphql", &[stream][..], "stream"),
            (Method::GET, "/graphql?query=x", &[("accept", "text/event-stream, */*;q=0.1")], "stream"),
            (Method::GET, "/graphql", &[stream, token], "open n.s"),
            (Method::GET, "/graphql?token=n.s", &[stream], "open n.s"),
            (Method::PUT, "/graphql", &[any], "reserve"),
            (Method::PUT, "/graphql", &[], "reserve"),
            (Method::PUT, "/graphql", &[json], "406"),
            (Method::POST, "/graphql", &[any], "404"),
            (Method::POST, "/graphql", &[json], "404"),
            (Method::POST, "/graphql", &[any, token], "operation in n.s"),
            (Method::POST, "/graphql", &[token], "operation in n.s"),
            (Method::POST, "/graphql", &[json, token], "operation in n.s"),
            (Method::POST, "/graphql", &[("accept", "text/html"), token], "406"),
            (Method::DELETE, "/graphql?operationId=a%20b", &[token], "end a b in n.s"),
            (Method::DELETE, "/graphql", &[token], "400"),
            (Method::DELETE, "/graphql?operationId=a", &[], "404"),
        ] {
            assert_eq!(what(&method, path, headers), expected, "{method} {path} {headers:?}");
        }
    }

    #[test]
    fn an_operation_in_an_address_is_the_same_as_one_in_a_body() {
        let path = "/graphql?query=%7Ba%7D&variables=%7B%22b%22%3A1%7D&operationName=c";
        let request = Request::get(path).body(()).unwrap();
        let operation: Value =
            serde_json::from_str(&operation_in(&ConnectHead::of(&request)).unwrap()).unwrap();
        assert_eq!(operation, json!({ "query": "{a}", "variables": {"b": 1}, "operationName": "c" }));
        for wrong in ["/graphql", "/graphql?query=a&variables=%7B"] {
            let request = Request::get(wrong).body(()).unwrap();
            assert!(operation_in(&ConnectHead::of(&request)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_operation_says_what_it_is_called() {
        let id = |text: &str| id_of(&serde_json::from_str::<Box<RawValue>>(text).unwrap());
        assert_eq!(id(r#"{"query":"x","extensions":{"operationId":"a\"b"}}"#).as_deref(), Ok("a\"b"));
        for wrong in
            ["{}", "[]", r#"{"extensions":{"operationId":""}}"#, r#"{"extensions":{"operationId":7}}"#]
        {
            assert!(id(wrong).is_err(), "{wrong}");
        }
        let operation = RawValue::from_string("{}".to_owned()).unwrap();
        assert_eq!(
            message("subscribe", "a\"b", Some(&operation)),
            r#"{"type":"subscribe","id":"a\"b","payload":{}}"#
        );
    }
}
