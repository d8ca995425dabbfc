//! The section `backend`: which of the application's servers is asked what, how long, and what it is told.

use std::collections::BTreeMap;
use std::path::PathBuf;

use http::{HeaderName, HeaderValue, Uri};
use serde::{Deserialize, Serialize};
use shared::error::ErrorCode;
use shared::refusal::CUSTOM_CODES;

use super::backend_event::EventType;
use super::hook::HookKind;
use super::sign_request::{HOOK, SIGNATURE, TIMESTAMP};
use crate::secret::Secret;
use crate::setting::Faults;

/// Shorter secrets can be guessed from one signed request.
const SECRET_BYTES_MIN: usize = 32;
/// The prefix of the sections of polled channels.
pub(super) const POLLS: &str = "polls.";
/// The problem of a section that has settings and no URL.
const NEEDS_URL: &str = "needs a url: without one it has no effect";
/// The longest `failure_message`, in bytes.
const FAILURE_MESSAGE_BYTES_MAX: usize = 256;

/// Settings that all hooks share. A hook is on when its section has a `url`.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackendConfig {
    /// Allows host names of backends to resolve to private, loopback and link-local addresses. An IP address in a
    /// `url`, and `localhost`, are always allowed.
    pub allow_private_addresses: bool,
    /// PEM file of certificate authorities to trust in addition to those of the operating system.
    pub ca_file: Option<PathBuf>,
    /// Time limit for a hook, including retries, in milliseconds.
    pub timeout_ms: u64,
    /// The most retries within `timeout_ms` if the backend cannot be reached or answers 502, 503 or 504. Requests
    /// with side effects (`publish`, `map_publish`, `map_remove`, `rpc`, `message`, `socketio`) are retried only if
    /// nothing of them was sent.
    pub retries: u32,
    /// Delay before the first retry, in milliseconds: a random time from half of it to all of it. It doubles with
    /// each further retry.
    pub retry_delay_ms: u64,
    /// The longest response, in bytes.
    pub answer_bytes_max: usize,
    /// The most concurrent requests of one hook. Further ones are refused with error 111 (too many requests), which
    /// clients retry.
    pub concurrency_max: usize,
    /// The most idle connections kept open to one backend.
    pub idle_connections_max: usize,
    /// Time that an idle connection is kept open, in milliseconds. Set it shorter than the backend's own keep-alive.
    pub idle_timeout_ms: u64,
    /// Headers of the client's handshake that are forwarded, such as `Cookie` and `Authorization`.
    pub http_headers: Vec<String>,
    /// Headers inside the client's connect command that are forwarded, for browsers, which cannot set headers of the
    /// handshake. Clients can write anything in them. Headers of the handshake take precedence.
    pub emulated_headers: Vec<String>,
    /// Headers of every request, each as `Name: value`. They take precedence over headers of clients.
    pub static_headers: Vec<Secret>,
    /// The name of a header for the client's address, such as `X-Client-Address`. Empty: the address is not sent.
    pub client_ip_header: String,
    /// Sends hooks the metadata that the connect hook or the token gave the connection.
    pub include_meta: bool,
    /// Sends all data of clients in base64 (`b64data`). If false, only data that is not JSON.
    pub binary_encoding: bool,
    /// The secret that signs every request (HMAC-SHA256), so that the backend can verify that it comes from the
    /// gateway. At least 32 random bytes. Empty: requests are not signed.
    pub signing_secret: Secret,
    /// A file that holds the secret. Replaces `signing_secret`.
    pub signing_secret_file: Option<PathBuf>,
    /// The code of the error that clients get when a hook fails: 100, or a code of the application's own from 400 to
    /// 1999.
    pub failure_code: u32,
    /// The message of that error.
    pub failure_message: String,
    /// Marks that error as temporary, so that client libraries retry.
    pub failure_temporary: bool,
    /// The number of failures of a hook within `breaker_window_ms` that opens its circuit breaker: the hook is then
    /// not called, and clients get the error at once. 0: no circuit breaker.
    pub breaker_failures: u32,
    /// The window of `breaker_failures`, in milliseconds.
    pub breaker_window_ms: u64,
    /// Time for which the circuit breaker stays open, in milliseconds. One request is then let through, and its
    /// result closes the breaker or opens it again.
    pub breaker_open_ms: u64,
    /// Asks the connect hook about clients with a token, too. If false, only about clients without one.
    pub connect_always: bool,
    /// Time for which an expired connection or subscription is kept, before the hook is asked again, when the hook
    /// that could renew it fails, in seconds.
    pub refresh_grace_s: u64,
    /// Authenticates a client.
    pub connect: HookConfig,
    /// Renews an expiring connection.
    pub refresh: HookConfig,
    /// Allows or refuses a subscription, in channels with `subscribe_hook`.
    pub subscribe: HookConfig,
    /// Renews an expiring subscription, in channels with `sub_refresh_hook`.
    pub sub_refresh: HookConfig,
    /// Allows, changes or refuses a publication of a client, in channels with `publish_hook`.
    pub publish: HookConfig,
    /// Allows, changes or refuses the setting of a key by a client, in channels with `map.publish_hook`.
    pub map_publish: HookConfig,
    /// Allows, changes or refuses the removal of a key by a client, in channels with `map.remove_hook`.
    pub map_remove: HookConfig,
    /// Answers RPC calls of clients.
    pub rpc: HookConfig,
    /// Answers RPC calls of the methods `NAME:…`, for each NAME. These calls go to no other hook.
    pub rpc_namespaces: BTreeMap<String, HookConfig>,
    /// Answers messages of clients of raw endpoints.
    pub message: HookConfig,
    /// Allows or refuses a GraphQL operation and may name its channel, for fields with `hook`.
    pub graphql: HookConfig,
    /// Answers events of Socket.IO clients whose rule is `hook`, and admits clients to namespaces with
    /// `connect_hook`.
    pub socketio: HookConfig,
    /// Polls the keys of polled channels. `shared_poll.backend` of a namespace names one of these sections.
    pub polls: BTreeMap<String, HookConfig>,
    /// Events sent to the backend after they happened.
    pub events: EventsConfig,
}

/// One hook. Settings that are not set have the value of `[backend]`. `[backend.refresh]`, `[backend.subscribe]`,
/// `[backend.sub_refresh]`, `[backend.publish]`, `[backend.map_publish]`, `[backend.map_remove]`, `[backend.rpc]`,
/// `[backend.rpc_namespaces.NAME]`, `[backend.message]`, `[backend.graphql]`, `[backend.socketio]` and
/// `[backend.polls.NAME]` have the same keys.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct HookConfig {
    /// The `http://` or `https://` URL of the hook. Empty: the hook is off.
    pub url: String,
    /// Time limit for the hook, including retries, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// The most retries.
    pub retries: Option<u32>,
    /// The longest response, in bytes.
    pub answer_bytes_max: Option<usize>,
    /// The most concurrent requests.
    pub concurrency_max: Option<usize>,
    /// Headers of the client's handshake that are forwarded.
    pub http_headers: Option<Vec<String>>,
    /// Headers inside the client's connect command that are forwarded.
    pub emulated_headers: Option<Vec<String>>,
    /// Headers of every request, each as `Name: value`.
    pub static_headers: Option<Vec<Secret>>,
    /// The code of the error that clients get when the hook fails.
    pub failure_code: Option<u32>,
    /// The message of that error.
    pub failure_message: Option<String>,
    /// Marks that error as temporary, so that client libraries retry.
    pub failure_temporary: Option<bool>,
}

/// Events sent to the application after they happened: in batches, in order, retried until they are accepted.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventsConfig {
    /// The `http://` or `https://` URL that events are posted to. Empty: no events are sent.
    pub url: String,
    /// The events to send: `disconnect`, `unsubscribe`, `occupied` (a channel got its first subscriber on this node),
    /// `vacated` (a channel lost its last subscriber on this node). A client that disconnects produces an
    /// `unsubscribe` for each of its channels.
    pub types: Vec<EventType>,
    /// Time limit for one attempt to deliver a batch, in milliseconds.
    pub timeout_ms: u64,
    /// Time for which delivery of a batch is retried before the batch is given up, in seconds.
    pub deadline_s: u64,
    /// Time that an event waits for others to share its batch, in milliseconds.
    pub batch_wait_ms: u64,
    /// The most events of one batch.
    pub batch_events_max: usize,
    /// The most queued events. When the queue is full, new events are lost; they are counted, and their number is
    /// sent with the next batch.
    pub queue_events_max: usize,
    /// The most bytes of queued events.
    pub queue_bytes_max: usize,
    /// Headers of every request, each as `Name: value`. Not set: those of `[backend]`.
    pub static_headers: Option<Vec<Secret>>,
}

impl Default for BackendConfig {
    fn default() -> Self {
        Self {
            allow_private_addresses: false,
            ca_file: None,
            timeout_ms: 1_000,
            retries: 2,
            retry_delay_ms: 50,
            answer_bytes_max: 256 * 1024,
            concurrency_max: 256,
            idle_connections_max: 64,
            idle_timeout_ms: 4_000,
            http_headers: Vec::new(),
            emulated_headers: Vec::new(),
            static_headers: Vec::new(),
            client_ip_header: String::new(),
            include_meta: false,
            binary_encoding: false,
            signing_secret: Secret::default(),
            signing_secret_file: None,
            failure_code: ErrorCode::Internal.code(),
            failure_message: ErrorCode::Internal.message().to_owned(),
            failure_temporary: true,
            breaker_failures: 20,
            breaker_window_ms: 10_000,
            breaker_open_ms: 5_000,
            connect_always: false,
            refresh_grace_s: 60,
            connect: HookConfig::default(),
            refresh: HookConfig::default(),
            subscribe: HookConfig::default(),
            sub_refresh: HookConfig::default(),
            publish: HookConfig::default(),
            map_publish: HookConfig::default(),
            map_remove: HookConfig::default(),
            rpc: HookConfig::default(),
            rpc_namespaces: BTreeMap::new(),
            message: HookConfig::default(),
            graphql: HookConfig::default(),
            socketio: HookConfig::default(),
            polls: BTreeMap::new(),
            events: EventsConfig::default(),
        }
    }
}

impl Default for EventsConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            types: EventType::ALL.to_vec(),
            timeout_ms: 5_000,
            deadline_s: 300,
            batch_wait_ms: 100,
            batch_events_max: 100,
            queue_events_max: 100_000,
            queue_bytes_max: 16 * 1024 * 1024,
            static_headers: None,
        }
    }
}

impl HookConfig {
    pub fn is_on(&self) -> bool {
        !self.url.is_empty()
    }
}

impl BackendConfig {
    /// Returns every hook with its section.
    pub(super) fn hooks(&self) -> Vec<(HookKind, String, &HookConfig)> {
        let fixed = [
            (HookKind::Connect, &self.connect),
            (HookKind::Refresh, &self.refresh),
            (HookKind::Subscribe, &self.subscribe),
            (HookKind::SubRefresh, &self.sub_refresh),
            (HookKind::Publish, &self.publish),
            (HookKind::MapPublish, &self.map_publish),
            (HookKind::MapRemove, &self.map_remove),
            (HookKind::Rpc, &self.rpc),
            (HookKind::Message, &self.message),
            (HookKind::Graphql, &self.graphql),
            (HookKind::SocketIo, &self.socketio),
        ];
        let fixed = fixed.into_iter().map(|(kind, hook)| (kind, kind.name().to_owned(), hook));
        let named = self.rpc_namespaces.iter();
        let named = named.map(|(name, hook)| (HookKind::Rpc, format!("rpc_namespaces.{name}"), hook));
        let polls = self.polls.iter().map(|(name, hook)| (HookKind::Poll, format!("{POLLS}{name}"), hook));
        fixed.chain(named).chain(polls).collect()
    }

    pub fn check(&self, faults: &mut Faults) {
        faults.outside("timeout_ms", self.timeout_ms, 10..=60_000);
        faults.outside("retries", self.retries, 0..=10);
        faults.outside("retry_delay_ms", self.retry_delay_ms, 1..=10_000);
        faults.outside("answer_bytes_max", self.answer_bytes_max, 1_024..=64 * 1024 * 1024);
        faults.outside("concurrency_max", self.concurrency_max, 1..=65_536);
        faults.outside("idle_connections_max", self.idle_connections_max, 0..=65_536);
        faults.outside("idle_timeout_ms", self.idle_timeout_ms, 1..=600_000);
        faults.outside("breaker_failures", self.breaker_failures, 0..=10_000);
        faults.outside("breaker_window_ms", self.breaker_window_ms, 100..=3_600_000);
        faults.outside("breaker_open_ms", self.breaker_open_ms, 1..=3_600_000);
        faults.outside("refresh_grace_s", self.refresh_grace_s, 1..=86_400);
        check_names(faults, "http_headers", &self.http_headers);
        check_names(faults, "emulated_headers", &self.emulated_headers);
        check_lines(faults, "static_headers", &self.static_headers);
        if !self.client_ip_header.is_empty() {
            check_names(faults, "client_ip_header", std::slice::from_ref(&self.client_ip_header));
        }
        check_failure(faults, "", Some(self.failure_code), Some(&self.failure_message));
        if (1..SECRET_BYTES_MIN).contains(&self.signing_secret.reveal().len()) {
            faults.add("signing_secret", too_short());
        }
        if !self.signing_secret.is_empty() && self.signing_secret_file.is_some() {
            faults.add("signing_secret_file", "must not be set together with signing_secret");
        }
        for (_, section, hook) in self.hooks() {
            let key = |key: &str| format!("{section}.{key}");
            if hook.is_on()
                && let Err(problem) = parse_url(&hook.url)
            {
                faults.add(key("url"), problem);
            }
            let is_named = section.starts_with("rpc_namespaces") || section.starts_with(POLLS);
            if !hook.is_on() && (is_named || *hook != HookConfig::default()) {
                faults.add(&*section, NEEDS_URL);
            }
            faults.outside(&key("timeout_ms"), hook.timeout_ms.unwrap_or(1_000), 10..=60_000);
            faults.outside(&key("retries"), hook.retries.unwrap_or(0), 0..=10);
            let bytes_max = hook.answer_bytes_max.unwrap_or(1_024);
            faults.outside(&key("answer_bytes_max"), bytes_max, 1_024..=64 * 1024 * 1024);
            faults.outside(&key("concurrency_max"), hook.concurrency_max.unwrap_or(1), 1..=65_536);
            check_names(faults, &key("http_headers"), hook.http_headers.as_deref().unwrap_or_default());
            check_names(
                faults,
                &key("emulated_headers"),
                hook.emulated_headers.as_deref().unwrap_or_default(),
            );
            check_lines(faults, &key("static_headers"), hook.static_headers.as_deref().unwrap_or_default());
            check_failure(faults, &format!("{section}."), hook.failure_code, hook.failure_message.as_deref());
        }
        if self.connect_always && !self.connect.is_on() {
            faults.add("connect_always", "needs backend.connect.url");
        }
        self.events.check(faults);
    }
}

impl EventsConfig {
    fn check(&self, faults: &mut Faults) {
        match (self.url.is_empty(), parse_url(&self.url)) {
            (false, Err(problem)) => faults.add("events.url", problem),
            (true, _) if *self != Self::default() => faults.add("events", NEEDS_URL),
            _ => {}
        }
        if self.types.is_empty() {
            faults.add("events.types", "must name at least one type; to send no events, leave out the url");
        }
        faults.outside("events.timeout_ms", self.timeout_ms, 10..=60_000);
        faults.outside("events.deadline_s", self.deadline_s, 1..=86_400);
        faults.outside("events.batch_wait_ms", self.batch_wait_ms, 0..=60_000);
        faults.outside("events.batch_events_max", self.batch_events_max, 1..=10_000);
        faults.outside("events.queue_events_max", self.queue_events_max, 1..=10_000_000);
        faults.outside("events.queue_bytes_max", self.queue_bytes_max, 65_536..=4 * 1024 * 1024 * 1024);
        check_lines(faults, "events.static_headers", self.static_headers.as_deref().unwrap_or_default());
    }
}

fn too_short() -> String {
    format!("must be at least {SECRET_BYTES_MIN} random bytes")
}

/// Returns what is wrong with a secret that was read from a file, if it is too short.
pub(crate) fn secret_fault(secret: &Secret) -> Option<String> {
    (secret.reveal().len() < SECRET_BYTES_MIN).then(too_short)
}

/// Parses the URL of a hook.
pub(super) fn parse_url(text: &str) -> Result<Uri, String> {
    let uri: Uri =
        text.parse().map_err(|_| "must be a URL such as https://app.example/connect".to_owned())?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
        return Err("must be a URL such as https://app.example/connect".to_owned());
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err("must not contain a user or a password: set static_headers".to_owned());
    }
    Ok(uri)
}

/// Checks the URL of a server that receives posts, and the static headers for it. `key` completes the names of the two settings.
pub(crate) fn check_post(faults: &mut Faults, key: impl Fn(&str) -> String, url: &str, lines: &[Secret]) {
    if let Err(problem) = parse_url(url) {
        faults.add(key("url"), problem);
    }
    check_lines(faults, &key("static_headers"), lines);
}

/// The name of this machine, allowed wherever it leads.
pub(super) const LOCALHOST: &str = "localhost";

/// Parses one static header.
pub(super) fn parse_line(line: &Secret) -> Result<(HeaderName, HeaderValue), &'static str> {
    const SHAPE: &str = "each must be a header such as X-Key: secret";
    let (name, value) = line.reveal().split_once(':').ok_or(SHAPE)?;
    let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| SHAPE)?;
    let mut value = HeaderValue::from_str(value.trim()).map_err(|_| SHAPE)?;
    value.set_sensitive(true);
    if is_ours(&name) {
        return Err("each must be a header that the gateway does not set itself");
    }
    Ok((name, value))
}

/// Whether a header is the gateway's own, because it says what a request is. Settings cannot set or pass on such headers.
fn is_ours(name: &HeaderName) -> bool {
    const OURS: [&str; 14] = [
        "host",
        "connection",
        "content-length",
        "content-type",
        "expect",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        TIMESTAMP,
        SIGNATURE,
        HOOK,
    ];
    OURS.contains(&name.as_str()) || name.as_str().starts_with("tidegate-")
}

fn check_names(faults: &mut Faults, key: &str, names: &[String]) {
    for name in names {
        match HeaderName::from_bytes(name.as_bytes()) {
            Err(_) => faults.add(key, format!("\"{name}\" is not a valid name of a header")),
            Ok(parsed) if is_ours(&parsed) => {
                faults.add(key, format!("\"{name}\" is a header that the gateway sets itself"));
            }
            Ok(_) => {}
        }
    }
}

fn check_lines(faults: &mut Faults, key: &str, lines: &[Secret]) {
    if let Some(problem) = lines.iter().find_map(|line| parse_line(line).err()) {
        faults.add(key, problem);
    }
}

fn check_failure(faults: &mut Faults, prefix: &str, code: Option<u32>, message: Option<&str>) {
    if code.is_some_and(|code| code != ErrorCode::Internal.code() && !CUSTOM_CODES.contains(&code)) {
        faults.add(format!("{prefix}failure_code"), "must be 100, or from 400 to 1999");
    }
    if message.is_some_and(|message| message.len() > FAILURE_MESSAGE_BYTES_MAX) {
        let problem = format!("must be no longer than {FAILURE_MESSAGE_BYTES_MAX} bytes");
        faults.add(format!("{prefix}failure_message"), problem);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faulty(config: &BackendConfig) -> Vec<String> {
        let mut faults = Faults::default();
        config.check(&mut faults);
        faults.into_inner().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn the_defaults_are_sound_and_ask_nobody() {
        let config = BackendConfig::default();
        assert_eq!(faulty(&config), Vec::<String>::new());
        assert!(config.hooks().iter().all(|(_, _, hook)| !hook.is_on()) && config.events.url.is_empty());
    }

    #[test]
    fn where_no_hook_can_be_is_told_with_its_section() {
        for bad in ["app.example/x", "ftp://app.example/", "http://", "https://user:word@app.example/", "/x"]
        {
            let hook = HookConfig { url: bad.to_owned(), ..HookConfig::default() };
            let namespaces = BTreeMap::from([("shop".to_owned(), hook.clone())]);
            let config =
                BackendConfig { publish: hook, rpc_namespaces: namespaces, ..BackendConfig::default() };
            assert_eq!(faulty(&config), ["publish.url", "rpc_namespaces.shop.url"], "{bad}");
        }
    }

    #[test]
    fn what_is_said_of_a_hook_that_is_nowhere_is_a_mistake() {
        let hook = HookConfig { retries: Some(1), ..HookConfig::default() };
        let events = EventsConfig { deadline_s: 5, ..EventsConfig::default() };
        let config =
            BackendConfig { publish: hook, events, connect_always: true, ..BackendConfig::default() };
        assert_eq!(faulty(&config), ["publish", "connect_always", "events"]);
    }

    #[test]
    fn headers_that_the_gateway_sets_itself_can_be_neither_passed_on_nor_set() {
        for bad in ["Host", "Content-Length", "Tidegate-Signature", "a b", ""] {
            let config =
                BackendConfig { http_headers: vec!["Cookie".into(), bad.into()], ..BackendConfig::default() };
            assert_eq!(faulty(&config), ["http_headers"], "{bad:?}");
        }
        for bad in ["X-Key", "Host: me", ": x", "X-Key: a\nb"] {
            let url = "http://app.example/".to_owned();
            let static_headers = Some(vec![Secret::new(bad)]);
            let hook = HookConfig { url, static_headers, ..HookConfig::default() };
            let config = BackendConfig { rpc: hook, ..BackendConfig::default() };
            assert_eq!(faulty(&config), ["rpc.static_headers"], "{bad:?}");
        }
        let (name, value) = parse_line(&Secret::new("X-Key:  s:e c ")).unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("x-key", "s:e c"));
        assert!(value.is_sensitive());
    }

    #[test]
    fn a_failure_is_told_in_a_code_that_clients_can_place() {
        for (code, sound) in
            [(100, true), (400, true), (1_999, true), (99, false), (109, false), (2_000, false)]
        {
            let config = BackendConfig { failure_code: code, ..BackendConfig::default() };
            assert_eq!(faulty(&config).is_empty(), sound, "{code}");
        }
    }
}
