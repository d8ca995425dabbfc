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
const NEEDS_URL: &str = "needs a url: without one nobody is asked or told anything";
/// The longest `failure_message`, in bytes.
const FAILURE_MESSAGE_BYTES_MAX: usize = 256;

/// What all hooks have in common. A hook is on when its section has a `url`.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackendConfig {
    /// Let the names of backends lead to private, loopback and link-local addresses. An address that stands in a `url`
    /// itself, and `localhost`, may be any.
    pub allow_private_addresses: bool,
    /// A file of certificates (PEM) of authorities that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// The longest a hook may take, retries included, in milliseconds.
    pub timeout_ms: u64,
    /// How often a question is asked again when the backend cannot be reached or answers 502, 503 or 504, within
    /// `timeout_ms`. What is not only a question (`publish`, `rpc`, `message`, `socketio`) is sent again only if it was never
    /// sent.
    pub retries: u32,
    /// How long to wait before the first of these, in milliseconds: half of it to all of it, and twice as long before
    /// each that follows.
    pub retry_delay_ms: u64,
    /// Longest answer, in bytes.
    pub answer_bytes_max: usize,
    /// Requests of one hook at once. More are refused with 111 (too many requests), and clients come back.
    pub concurrency_max: usize,
    /// Connections kept open to one backend while nothing is asked.
    pub idle_connections_max: usize,
    /// How long they are kept, in milliseconds: less than the backend's own patience.
    pub idle_timeout_ms: u64,
    /// Headers of the client's handshake that are passed on, such as `Cookie` and `Authorization`.
    pub http_headers: Vec<String>,
    /// Headers that clients send inside their connect command, as browsers must, and that are passed on. Anybody can
    /// write anything in them. Those of the handshake go first.
    pub emulated_headers: Vec<String>,
    /// Headers of every request, each as `Name: value`. They go before those of clients.
    pub static_headers: Vec<Secret>,
    /// The name of a header that tells the client's address, such as `X-Client-Address`. Empty: it is not told.
    pub client_ip_header: String,
    /// Tell hooks the metadata of a connection that its connect hook or its token gave it.
    pub include_meta: bool,
    /// Send the data of clients in base64 (`b64data`), whatever it is. Otherwise so only what is no JSON.
    pub binary_encoding: bool,
    /// Signs every request (HMAC-SHA256), so that the backend knows who asks. At least 32 random bytes. Empty: requests
    /// are not signed.
    pub signing_secret: Secret,
    /// A file that holds it, in place of `signing_secret`.
    pub signing_secret_file: Option<PathBuf>,
    /// The error clients get while a backend does not answer: 100, or a code of the application's own, 400 to 1999.
    pub failure_code: u32,
    /// Its message.
    pub failure_message: String,
    /// Whether clients then try again by themselves.
    pub failure_temporary: bool,
    /// After so many failures of a hook within `breaker_window_ms` it is not asked for a while, and clients get the error
    /// at once. 0: it is asked always.
    pub breaker_failures: u32,
    /// The time in which failures are counted, in milliseconds.
    pub breaker_window_ms: u64,
    /// How long it is not asked, in milliseconds. Then one request is let through, and what comes of it decides.
    pub breaker_open_ms: u64,
    /// Ask the connect hook about clients with a token, too. Otherwise only about those without one.
    pub connect_always: bool,
    /// How long a connection or a subscription that has expired is kept while the hook that could renew it fails, in
    /// seconds, before it is asked again.
    pub refresh_grace_s: u64,
    /// Who a client is.
    pub connect: HookConfig,
    /// Whether a connection that expires may stay.
    pub refresh: HookConfig,
    /// Whether a client may subscribe: in channels with `subscribe_hook`.
    pub subscribe: HookConfig,
    /// Whether a subscription that expires may stay: in channels with `sub_refresh_hook`.
    pub sub_refresh: HookConfig,
    /// Whether, and as what, a client's publication is published: in channels with `publish_hook`.
    pub publish: HookConfig,
    /// Whether, which and to what a client sets a key: in channels with `map.publish_hook`.
    pub map_publish: HookConfig,
    /// Whether and which a client removes: in channels with `map.remove_hook`.
    pub map_remove: HookConfig,
    /// Calls of clients.
    pub rpc: HookConfig,
    /// Calls of the methods `NAME:…`, for each NAME. They go to no other hook.
    pub rpc_namespaces: BTreeMap<String, HookConfig>,
    /// Messages of clients of bare endpoints.
    pub message: HookConfig,
    /// Whether an operation of GraphQL is carried out, and in which channel: for fields with `hook`.
    pub graphql: HookConfig,
    /// Events of Socket.IO's clients whose rule says `hook`, and who comes into namespaces with `connect_hook`.
    pub socketio: HookConfig,
    /// Where the keys of polled channels are asked for, by the name that `shared_poll.backend` of their namespace says.
    pub polls: BTreeMap<String, HookConfig>,
    /// What is told to the backend after it has happened.
    pub events: EventsConfig,
}

/// One question. What is not set is as `[backend]` says. `[backend.refresh]`, `[backend.subscribe]`,
/// `[backend.sub_refresh]`, `[backend.publish]`, `[backend.map_publish]`, `[backend.map_remove]`, `[backend.rpc]`,
/// `[backend.rpc_namespaces.NAME]`, `[backend.message]`, `[backend.graphql]`, `[backend.socketio]` and
/// `[backend.polls.NAME]` have the same keys.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct HookConfig {
    /// Where it is asked: `http://` or `https://`. Empty: it is not asked.
    pub url: String,
    /// The longest it may take, retries included, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// How often it is asked again.
    pub retries: Option<u32>,
    /// Longest answer, in bytes.
    pub answer_bytes_max: Option<usize>,
    /// Requests at once.
    pub concurrency_max: Option<usize>,
    /// Headers of the client's handshake that are passed on.
    pub http_headers: Option<Vec<String>>,
    /// Headers inside the client's connect command that are passed on.
    pub emulated_headers: Option<Vec<String>>,
    /// Headers of every request, each as `Name: value`.
    pub static_headers: Option<Vec<Secret>>,
    /// The error clients get while it does not answer.
    pub failure_code: Option<u32>,
    /// Its message.
    pub failure_message: Option<String>,
    /// Whether clients then try again by themselves.
    pub failure_temporary: Option<bool>,
}

/// What is told after it has happened: in batches, in order, again until it is taken.
#[derive(Clone, PartialEq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventsConfig {
    /// Where events are sent: `http://` or `https://`. Empty: nowhere.
    pub url: String,
    /// Which: `disconnect`, `unsubscribe`, `occupied` (a channel has its first subscriber on this node), `vacated` (it has
    /// lost the last). A client that goes is an `unsubscribe` for each of its channels.
    pub types: Vec<EventType>,
    /// The longest one attempt may take, in milliseconds.
    pub timeout_ms: u64,
    /// How long a batch is tried, in seconds, before it is given up.
    pub deadline_s: u64,
    /// How long an event waits for others to go with it, in milliseconds.
    pub batch_wait_ms: u64,
    /// The most events of one batch.
    pub batch_events_max: usize,
    /// The most events that wait. Those that find no room are lost: counted, and told with the next batch.
    pub queue_events_max: usize,
    /// The most bytes of events that wait.
    pub queue_bytes_max: usize,
    /// Headers of every request, each as `Name: value`. Not set: as `[backend]` says.
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
            faults.add("events.types", "must name at least one type; without a url nothing is sent");
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
        return Err("must hold no user or password: set static_headers".to_owned());
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
            Err(_) => faults.add(key, format!("\"{name}\" is no name of a header")),
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
