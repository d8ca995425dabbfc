//! Sends hooks and events to the application's own servers over HTTP.
//!
//! A [`Backend`] has a method for each hook. Every hook has a deadline, a concurrency limit and a circuit breaker, and
//! none runs on a worker. [`hook`] holds what hooks have in common, [`client`] the HTTP client, [`hook_request`] and
//! [`hook_response`] the messages, and [`send_event`] the events, which are sent after they have happened.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway_core::effect::{Denial, EventActions, Grant, Identity, Renewal};
use gateway_core::poll::PolledKey;
use http::{HeaderMap, HeaderName, HeaderValue};
use shared::error::ErrorCode;
use shared::protocol::socketio::Namespace;
use shared::publication::Payload;
use shared::refusal::Refusal;
use tokio::runtime::Handle;

use crate::clock::Clock;
use crate::secret::Secret;
use crate::telemetry::Metrics;

mod allowed_address;
mod backend_config;
mod backend_event;
mod breaker;
mod client;
mod courier;
mod failure;
mod hook;
mod hook_request;
mod hook_response;
mod message_hook;
mod poll_hook;
mod resolve;
mod send_events;
mod sign_request;
mod socketio_hook;

pub use backend_config::{BackendConfig, EventsConfig, HookConfig};
pub(crate) use backend_config::{check_post, secret_fault};
pub use backend_event::{BackendEvent, EventType};
pub use client::ClientError;
pub(crate) use courier::{BatchDestination, Courier, stopping};
pub use hook::{ClientOrigin, HookKind};
pub use hook_request::{ConnectQuestion, HookSubject};
pub(crate) use hook_response::answers_in_words;
pub use hook_response::{KeyAnswer, PublishAnswer};
pub use message_hook::BareMessage;
pub use poll_hook::PollResponse;
pub use socketio_hook::SocketIoEvent;

use client::{HttpClient, ResolveFuture};
use hook::{Hook, HookContext};
use hook_request::{HookRequest, RequestStyle};
use hook_response::{ConnectResult, KeyResult, PublishResult, RefreshResult, RpcResult, SubscribeResult};
use send_events::Events;

/// Separates the namespace of an RPC method from the rest of its name.
const METHOD_SEPARATOR: char = ':';

/// Why the backend cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum BackendSetupError {
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("backend.signing_secret_file: {0}")]
    Secret(String),
    #[error("backend.{section}: {problem}")]
    Hook { section: String, problem: String },
}

/// The HTTP client for other parts that post to configured addresses. The settings of `[backend]` apply: whom TLS
/// trusts, and which addresses are not allowed.
#[derive(Clone, Debug)]
pub(crate) struct Outbound(HttpClient);

impl Outbound {
    pub(crate) fn new(config: &BackendConfig) -> Result<Self, ClientError> {
        http_client(config, client::system_lookup()).map(Self)
    }

    pub(crate) fn courier(&self, errand: BatchDestination<'_>) -> Result<Courier, String> {
        Courier::new(self.0.clone(), errand)
    }
}

fn http_client(config: &BackendConfig, lookup: ResolveFuture) -> Result<HttpClient, ClientError> {
    HttpClient::new(client::HookClientParts {
        ca_file: config.ca_file.as_deref(),
        allow_private_addresses: config.allow_private_addresses,
        idle_connections_max: config.idle_connections_max,
        idle_timeout: Duration::from_millis(config.idle_timeout_ms),
        lookup,
    })
}

/// The application's own servers, as far as hooks and events go to them.
#[derive(Debug)]
pub struct Backend {
    connect: Option<Hook>,
    refresh: Option<Hook>,
    subscribe: Option<Hook>,
    sub_refresh: Option<Hook>,
    publish: Option<Hook>,
    map_publish: Option<Hook>,
    map_remove: Option<Hook>,
    rpc: Option<Hook>,
    rpc_namespaces: BTreeMap<Box<str>, Hook>,
    message: Option<Hook>,
    graphql: Option<Hook>,
    socketio: Option<Hook>,
    polls: BTreeMap<Box<str>, Hook>,
    events: Option<Events>,
    /// The headers of a handshake, and of a connect command, that some hook passes on.
    http_headers: Vec<HeaderName>,
    emulated_headers: Vec<HeaderName>,
    style: RequestStyle,
    clock: Clock,
    connect_always: bool,
    refresh_grace: Duration,
}

impl Backend {
    /// Returns `None` if no hook is on and no events are sent. `node` is unique over all nodes and time.
    pub fn start(
        config: &BackendConfig,
        node: &str,
        clock: Clock,
        metrics: &Arc<Metrics>,
        runtime: &Handle,
    ) -> Result<Option<Self>, BackendSetupError> {
        Self::start_with(config, node, clock, metrics, runtime, client::system_lookup())
    }

    fn start_with(
        config: &BackendConfig,
        node: &str,
        clock: Clock,
        metrics: &Arc<Metrics>,
        runtime: &Handle,
        lookup: ResolveFuture,
    ) -> Result<Option<Self>, BackendSetupError> {
        let on = config.hooks().into_iter().filter(|(_, _, hook)| hook.is_on());
        let on: Vec<_> = on.collect();
        if on.is_empty() && config.events.url.is_empty() {
            return Ok(None);
        }
        let secret = match &config.signing_secret_file {
            Some(file) => {
                let secret =
                    Secret::from_file(file).map_err(|error| BackendSetupError::Secret(error.to_string()))?;
                backend_config::secret_fault(&secret)
                    .map_or(Ok(secret), |problem| Err(BackendSetupError::Secret(problem)))?
            }
            None => config.signing_secret.clone(),
        };
        let common = HookContext {
            client: http_client(config, lookup)?,
            signer: (!secret.is_empty()).then(|| Arc::new(sign_request::HookSigner::new(&secret))),
            client_ip_header: HeaderName::from_bytes(config.client_ip_header.as_bytes()).ok(),
            clock,
            metrics: metrics.clone(),
        };
        let mut backend = Self {
            connect: None,
            refresh: None,
            subscribe: None,
            sub_refresh: None,
            publish: None,
            map_publish: None,
            map_remove: None,
            rpc: None,
            rpc_namespaces: BTreeMap::new(),
            message: None,
            graphql: None,
            socketio: None,
            polls: BTreeMap::new(),
            events: None,
            http_headers: Vec::new(),
            emulated_headers: Vec::new(),
            style: RequestStyle {
                include_meta: config.include_meta,
                binary_encoding: config.binary_encoding,
            },
            clock,
            connect_always: config.connect_always,
            refresh_grace: Duration::from_secs(config.refresh_grace_s),
        };
        let (mut passed, mut emulated) = (BTreeSet::new(), BTreeSet::new());
        for (kind, section, own) in on {
            let hook = Hook::new(kind, config, own, &common)
                .map_err(|problem| BackendSetupError::Hook { section: section.clone(), problem })?;
            passed.extend(hook.http_headers().iter().map(|name| name.as_str().to_owned()));
            emulated.extend(hook.emulated_headers().iter().map(|name| name.as_str().to_owned()));
            if let Some(namespace) = section.strip_prefix("rpc_namespaces.") {
                backend.rpc_namespaces.insert(namespace.into(), hook);
                continue;
            }
            if let Some(name) = section.strip_prefix(backend_config::POLLS) {
                backend.polls.insert(name.into(), hook);
                continue;
            }
            let place = match kind {
                HookKind::Connect => &mut backend.connect,
                HookKind::Refresh => &mut backend.refresh,
                HookKind::Subscribe => &mut backend.subscribe,
                HookKind::SubRefresh => &mut backend.sub_refresh,
                HookKind::Publish => &mut backend.publish,
                HookKind::MapPublish => &mut backend.map_publish,
                HookKind::MapRemove => &mut backend.map_remove,
                HookKind::Rpc => &mut backend.rpc,
                HookKind::Message => &mut backend.message,
                HookKind::Graphql => &mut backend.graphql,
                HookKind::SocketIo => &mut backend.socketio,
                HookKind::Poll | HookKind::Events => continue,
            };
            *place = Some(hook);
        }
        let names = |names: BTreeSet<String>| names.iter().filter_map(|name| name.parse().ok()).collect();
        (backend.http_headers, backend.emulated_headers) = (names(passed), names(emulated));
        if !config.events.url.is_empty() {
            let events = Events::start(config, node, common, runtime)
                .map_err(|problem| BackendSetupError::Hook { section: "events".to_owned(), problem })?;
            backend.events = Some(events);
        }
        Ok(Some(backend))
    }

    /// Whether the hook of this kind is on.
    pub fn has(&self, kind: HookKind) -> bool {
        match kind {
            HookKind::Connect => self.connect.is_some(),
            HookKind::Refresh => self.refresh.is_some(),
            HookKind::Subscribe => self.subscribe.is_some(),
            HookKind::SubRefresh => self.sub_refresh.is_some(),
            HookKind::Publish => self.publish.is_some(),
            HookKind::MapPublish => self.map_publish.is_some(),
            HookKind::MapRemove => self.map_remove.is_some(),
            HookKind::Rpc => self.rpc.is_some() || !self.rpc_namespaces.is_empty(),
            HookKind::Message => self.message.is_some(),
            HookKind::Graphql => self.graphql.is_some(),
            HookKind::SocketIo => self.socketio.is_some(),
            HookKind::Poll => !self.polls.is_empty(),
            HookKind::Events => self.events.is_some(),
        }
    }

    /// Whether any hook about clients is on.
    pub fn asks(&self) -> bool {
        let fixed = [
            &self.connect,
            &self.refresh,
            &self.subscribe,
            &self.sub_refresh,
            &self.publish,
            &self.rpc,
            &self.message,
            &self.graphql,
            &self.socketio,
        ];
        fixed.into_iter().any(Option::is_some) || !self.rpc_namespaces.is_empty()
    }

    /// Returns the origin of a client as hooks receive it, from its address and the headers of its handshake.
    pub fn origin<'a>(
        &self,
        address: IpAddr,
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> ClientOrigin {
        let mut passed_on = HeaderMap::new();
        for (name, value) in headers {
            let known = self.http_headers.iter().find(|known| known.as_str().eq_ignore_ascii_case(name));
            if let (Some(name), Ok(value)) = (known, HeaderValue::from_bytes(value)) {
                passed_on.append(name.clone(), value);
            }
        }
        ClientOrigin { address: Some(address), headers: passed_on, ..ClientOrigin::default() }
    }

    /// Whether the connect hook is called for a client.
    pub fn runs_connect_hook(&self, has_token: bool) -> bool {
        self.connect.is_some() && (self.connect_always || !has_token)
    }

    /// Returns those headers of a connect command that some hook passes on.
    pub fn emulated<'a>(&self, given: impl IntoIterator<Item = (&'a str, &'a str)>) -> HeaderMap {
        let mut passed_on = HeaderMap::new();
        for (name, value) in given {
            let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else { continue };
            if self.emulated_headers.contains(&name)
                && let Ok(value) = HeaderValue::from_str(value)
            {
                passed_on.insert(name, value);
            }
        }
        passed_on
    }

    /// Asks who a client is. `None`: the backend does not say, and the client is treated as one without a token.
    pub async fn connect(
        &self,
        origin: &ClientOrigin,
        asker: &HookSubject<'_>,
        question: ConnectQuestion<'_>,
    ) -> Result<Option<Identity>, Denial> {
        let hook = self.connect.as_ref().ok_or_else(not_available)?;
        let ConnectQuestion { data, name, version, channels } = question;
        let mut request =
            HookRequest { name, version, channels, ..HookRequest::new(asker, data, self.style) };
        request.user = Some(asker.user.as_str()).filter(|user| !user.is_empty());
        let mean =
            |result: Option<ConnectResult>| result.map(|result| result.into_identity(self.clock)).transpose();
        match hook.ask(origin, &request, mean).await? {
            None => Ok(None),
            Some(identity) => identity.map(Some).ok_or_else(expired),
        }
    }

    /// Asks whether a connection that expires may stay.
    pub async fn refresh(&self, origin: &ClientOrigin, asker: &HookSubject<'_>) -> Result<Renewal, Denial> {
        let hook = self.refresh.as_ref().ok_or_else(not_available)?;
        let request = HookRequest::new(asker, None, self.style);
        self.refreshed(hook, origin, &request).await
    }

    /// Asks whether a client may subscribe, and with what options.
    pub async fn subscribe(
        &self,
        origin: &ClientOrigin,
        asker: &HookSubject<'_>,
        channel: &str,
        token: &str,
        data: Option<&[u8]>,
    ) -> Result<Grant, Denial> {
        let hook = self.subscribe.as_ref().ok_or_else(not_available)?;
        let request = HookRequest { channel, token, ..HookRequest::new(asker, data, self.style) };
        let mean = |result: Option<SubscribeResult>| {
            result.unwrap_or_default().into_grant(asker.user.clone(), self.clock)
        };
        hook.ask(origin, &request, mean).await?.ok_or_else(expired)
    }

    /// Asks whether a subscription that expires may stay.
    pub async fn sub_refresh(
        &self,
        origin: &ClientOrigin,
        asker: &HookSubject<'_>,
        channel: &str,
    ) -> Result<Renewal, Denial> {
        let hook = self.sub_refresh.as_ref().ok_or_else(not_available)?;
        let request = HookRequest { channel, ..HookRequest::new(asker, None, self.style) };
        self.refreshed(hook, origin, &request).await
    }

    /// Asks whether a client's publication is published, and with what content.
    pub async fn publish(
        &self,
        origin: &ClientOrigin,
        asker: &HookSubject<'_>,
        channel: &str,
        data: &[u8],
    ) -> Result<PublishAnswer, Denial> {
        let hook = self.publish.as_ref().ok_or_else(not_available)?;
        let request = HookRequest { channel, ..HookRequest::new(asker, Some(data), self.style) };
        let mean = |result: Option<PublishResult>| result.unwrap_or_default().into_answer();
        hook.ask(origin, &request, mean).await
    }

    /// Asks whether a client sets a key, which one, and to what value; without `data`, whether it removes a key and which one.
    pub async fn change_key(
        &self,
        origin: &ClientOrigin,
        asker: &HookSubject<'_>,
        channel: &str,
        key: &str,
        data: Option<&[u8]>,
    ) -> Result<KeyAnswer, Denial> {
        let hook = if data.is_some() { &self.map_publish } else { &self.map_remove };
        let hook = hook.as_ref().ok_or_else(not_available)?;
        let request = HookRequest { channel, key, ..HookRequest::new(asker, data, self.style) };
        let mean = |result: Option<KeyResult>| result.unwrap_or_default().into_answer();
        hook.ask(origin, &request, mean).await
    }

    /// Passes on a client's RPC call, and returns the data of the reply, if there is any.
    pub async fn rpc(
        &self,
        origin: &ClientOrigin,
        asker: &HookSubject<'_>,
        method: &str,
        data: Option<&[u8]>,
    ) -> Result<Option<Payload>, Denial> {
        let hook = match method.split_once(METHOD_SEPARATOR) {
            Some((namespace, _)) => {
                let unknown = || Denial::Error(ErrorCode::MethodNotFound.into());
                self.rpc_namespaces.get(namespace).ok_or_else(unknown)?
            }
            None => self.rpc.as_ref().ok_or_else(not_available)?,
        };
        let request = HookRequest { method, ..HookRequest::new(asker, data, self.style) };
        hook.ask(origin, &request, |result: Option<RpcResult>| result.unwrap_or_default().into_data()).await
    }

    /// Passes on a client's message that expects no reply, such as one of a raw endpoint. Returns the message that goes
    /// back to the client, if there is one.
    pub async fn message(
        &self,
        origin: &ClientOrigin,
        sent: BareMessage<'_>,
    ) -> Result<Option<Payload>, Denial> {
        let hook = self.message.as_ref().ok_or_else(not_available)?;
        message_hook::send(hook, origin, sent).await
    }

    /// Asks what to do about an event of a Socket.IO client.
    pub async fn socketio(
        &self,
        origin: &ClientOrigin,
        asker: &HookSubject<'_>,
        namespace: &Namespace,
        happened: SocketIoEvent<'_>,
    ) -> Result<EventActions, Denial> {
        let hook = self.socketio.as_ref().ok_or_else(not_available)?;
        socketio_hook::ask(hook, origin, asker, self.style, namespace, happened).await
    }

    /// Asks the backend of this name for these keys of a polled channel. `None`: there is no answer.
    pub async fn poll(&self, name: &str, channel: &str, keys: &[PolledKey]) -> Option<PollResponse> {
        poll_hook::ask(self.polls.get(name)?, channel, keys).await
    }

    /// Whether events of this kind are sent, so that callers do not build others for nothing.
    pub fn sends_events_of(&self, kind: EventType) -> bool {
        self.events.as_ref().is_some_and(|events| events.wants(kind))
    }

    /// Queues an event. Does not wait.
    pub fn send_event(&self, event: &BackendEvent<'_>) {
        if let Some(events) = &self.events {
            events.push(event, self.clock.unix_millis());
        }
    }

    /// Sends the queued events, until this time.
    pub async fn shut_down(&self, until: Instant) {
        if let Some(events) = &self.events {
            events.shut_down(until).await;
        }
    }

    async fn refreshed(
        &self,
        hook: &Hook,
        origin: &ClientOrigin,
        request: &HookRequest<'_>,
    ) -> Result<Renewal, Denial> {
        // Centrifugo takes an answer without a result for the end of the connection.
        let mean = |result: Option<RefreshResult>| {
            result.map_or(Ok(Renewal::Expired), |result| result.into_renewal(self.clock))
        };
        hook.question(origin, request, mean).await.unwrap_or_else(|failure| {
            // The failure is counted and logged like any other; the error for the client does not matter here.
            let _ = hook.denied(&failure);
            Ok(Renewal::Unanswered { grace: self.refresh_grace })
        })
    }
}

fn not_available() -> Denial {
    Denial::Error(ErrorCode::NotAvailable.into())
}

fn expired() -> Denial {
    Denial::Error(Refusal::of(ErrorCode::Expired))
}

#[cfg(test)]
mod tests;
