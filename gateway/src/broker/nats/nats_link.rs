//! A connection to NATS, and the requests over it. Every request has a deadline, and fails at once when the connection is lost.
//!
//! The library reopens the connection for ever and restores its subscriptions; each connection has a number. Answers come
//! to an inbox of this link, so that a caller that gave up waiting leaves nothing behind.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::{
    Client, ConnectOptions, Event, HeaderMap, Message, ServerAddr, StatusCode, Subject, Subscriber,
};
use bytes::Bytes;
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::nats_config::NatsConnectError;
use crate::broker::BrokerError;
use crate::broker::measure::{BrokerMetrics, LinkMetrics};

/// The longest error text of a server that is kept to be shown.
const SERVER_ERROR_BYTES_MAX: usize = 256;

/// The state of the connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum NatsLinkState {
    /// The first connection is being made.
    Opening,
    /// The number of the connection, counted from 1.
    Up(u64),
    Down(Arc<str>),
}

impl NatsLinkState {
    /// Returns the number of the present connection.
    fn connection(&self) -> Result<u64, BrokerError> {
        match self {
            Self::Up(number) => Ok(*number),
            Self::Opening => Err(BrokerError::Unreachable("not connected yet".into())),
            Self::Down(reason) => Err(BrokerError::Unreachable(reason.clone())),
        }
    }
}

/// The purpose of a link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NatsLinkPurpose {
    Commands,
    Reads,
    Subscriptions,
}

impl NatsLinkPurpose {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Commands => "commands",
            Self::Reads => "reads",
            Self::Subscriptions => "subscriptions",
        }
    }

    fn of(self, metrics: &BrokerMetrics) -> &LinkMetrics {
        match self {
            Self::Commands => &metrics.command_link,
            Self::Reads => &metrics.read_link,
            Self::Subscriptions => &metrics.subscriber_link,
        }
    }
}

/// Called when messages of a subscription were dropped here because nobody took them.
pub(crate) type Overflowed = Box<dyn Fn() + Send + Sync>;

pub(crate) struct NatsLink {
    pub(crate) client: Client,
    inbox: Arc<str>,
    number: AtomicU64,
    shared: Arc<NatsLinkShared>,
    state: watch::Receiver<NatsLinkState>,
    timeout: Duration,
    metrics: Arc<BrokerMetrics>,
    _reader: AbortOnDropHandle<()>,
}

/// The state that the connection's events change.
struct NatsLinkShared {
    waiting: Mutex<HashMap<u64, ReplyWaiter>>,
    state: watch::Sender<NatsLinkState>,
    /// The number of connections so far.
    made: AtomicU64,
    /// The last error of the server that was no answer.
    server_error: Mutex<Option<Arc<str>>>,
    purpose: NatsLinkPurpose,
    metrics: Arc<BrokerMetrics>,
    overflowed: Overflowed,
}

enum ReplyWaiter {
    One(oneshot::Sender<Result<Message, BrokerError>>),
    Many(mpsc::Sender<Message>),
}

/// An entry among the callers that wait for answers. It is removed when this is dropped.
struct ReplySlot {
    shared: Arc<NatsLinkShared>,
    number: u64,
}

impl Drop for ReplySlot {
    fn drop(&mut self) {
        self.shared.waiting.lock().remove(&self.number);
    }
}

/// Answers that arrive one after the other.
pub(crate) struct ReplyStream {
    place: ReplySlot,
    messages: mpsc::Receiver<Message>,
}

impl ReplyStream {
    /// Returns the next answer, or `None` if the deadline passes first.
    pub(crate) async fn next_by(&mut self, deadline: Instant) -> Option<Message> {
        tokio::time::timeout_at(deadline, self.messages.recv()).await.ok().flatten()
    }
}

/// A round trip in flight.
#[must_use]
pub(crate) struct RoundTripProbe {
    place: ReplySlot,
    returned: oneshot::Receiver<Result<Message, BrokerError>>,
    timeout: Duration,
}

impl RoundTripProbe {
    pub(crate) async fn wait(self) -> Result<(), BrokerError> {
        let shared = self.place.shared.clone();
        let returned = match tokio::time::timeout(self.timeout, self.returned).await {
            Ok(Ok(returned)) => returned.map(drop),
            Ok(Err(_)) => Err(BrokerError::Unreachable("the link has ended".into())),
            Err(_) => Err(shared.unanswered(self.timeout)),
        };
        returned.inspect_err(|error| shared.metrics.failed(error))
    }
}

impl NatsLink {
    /// Begins to connect and returns soon, whether or not a server can be reached.
    pub(crate) async fn start(
        servers: Vec<ServerAddr>,
        options: ConnectOptions,
        purpose: NatsLinkPurpose,
        timeout: Duration,
        metrics: Arc<BrokerMetrics>,
        overflowed: Overflowed,
    ) -> Result<Self, NatsConnectError> {
        let (sender, state) = watch::channel(NatsLinkState::Opening);
        let shared = Arc::new(NatsLinkShared {
            waiting: Mutex::default(),
            state: sender,
            made: AtomicU64::new(0),
            server_error: Mutex::default(),
            purpose,
            metrics: metrics.clone(),
            overflowed,
        });
        let observer = shared.clone();
        let options = options.retry_on_initial_connect().event_callback(move |event| {
            observer.happened(event);
            async {}
        });
        let client = options.connect(servers).await.map_err(|error| NatsConnectError(error.to_string()))?;
        let inbox: Arc<str> = format!("_INBOX.{}", uuid::Uuid::new_v4().simple()).into();
        let mut answers = client
            .subscribe(format!("{inbox}.*"))
            .await
            .map_err(|error| NatsConnectError(error.to_string()))?;
        let (reader, prefix) = (shared.clone(), inbox.len() + 1);
        let reader = tokio::spawn(async move {
            while let Some(message) = answers.next().await {
                reader.answered(prefix, message);
            }
        });
        Ok(Self {
            client,
            inbox,
            number: AtomicU64::new(0),
            shared,
            state,
            timeout,
            metrics,
            _reader: AbortOnDropHandle::new(reader),
        })
    }

    pub(crate) fn watch(&self) -> watch::Receiver<NatsLinkState> {
        self.state.clone()
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Returns the number of the present connection.
    pub(crate) fn connection(&self) -> Result<u64, BrokerError> {
        self.state.borrow().connection()
    }

    /// Waits for the first connection, unless it cannot be made: a link that has just begun has not lost its connection.
    pub(crate) async fn opened(&self) -> Result<u64, BrokerError> {
        if *self.state.borrow() == NatsLinkState::Opening {
            let mut state = self.watch();
            let opened = state.wait_for(|state| *state != NatsLinkState::Opening);
            drop(tokio::time::timeout(self.timeout, opened).await);
        }
        self.connection().inspect_err(|error| self.metrics.failed(error))
    }

    /// Waits for a connection, for as long as a call may take.
    pub(crate) async fn connected(&self) -> Result<u64, BrokerError> {
        let mut state = self.watch();
        let up = state.wait_for(|state| matches!(state, NatsLinkState::Up(_)));
        match tokio::time::timeout(self.timeout, up).await {
            // `state` holds the lock of the state. Borrowing it again would deadlock as soon as another task waits to
            // change it.
            Ok(Ok(state)) => state.connection(),
            Ok(Err(_)) | Err(_) => self.connection(),
        }
    }

    /// Sends without an answer, in the order of the calls.
    pub(crate) async fn send(&self, subject: impl Into<Subject>, payload: Bytes) -> Result<(), BrokerError> {
        self.put(subject.into(), None, None, payload).await
    }

    /// Does the same with answers: each receiver may send one.
    pub(crate) async fn send_to_all(
        &self,
        subject: impl Into<Subject>,
        payload: Bytes,
        answers_max: usize,
    ) -> Result<ReplyStream, BrokerError> {
        let (number, reply) = self.next_place();
        let (sender, messages) = mpsc::channel(answers_max.max(1));
        self.shared.waiting.lock().insert(number, ReplyWaiter::Many(sender));
        let place = ReplySlot { shared: self.shared.clone(), number };
        self.put(subject.into(), Some(reply.into()), None, payload).await?;
        Ok(ReplyStream { place, messages })
    }

    /// Requests messages of a stream, which arrive under their own subjects.
    pub(crate) async fn pull(&self, subject: String, payload: Bytes) -> Result<Subscriber, BrokerError> {
        self.opened().await?;
        let inbox = self.client.new_inbox();
        let subscribed = tokio::time::timeout(self.timeout, self.client.subscribe(inbox.clone())).await;
        let messages = match subscribed {
            Ok(Ok(messages)) => messages,
            Ok(Err(error)) => return Err(BrokerError::Unreachable(error.to_string().into())),
            Err(_) => return Err(BrokerError::Timeout(self.timeout)),
        };
        self.put(subject.into(), Some(inbox.into()), None, payload).await?;
        Ok(messages)
    }

    /// Sends a request and waits for its only answer. That nobody listens is an answer too.
    pub(crate) async fn ask(
        &self,
        subject: impl Into<Subject>,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<Message, BrokerError> {
        let (number, reply) = self.next_place();
        let (sender, answer) = oneshot::channel();
        self.shared.waiting.lock().insert(number, ReplyWaiter::One(sender));
        let _place = ReplySlot { shared: self.shared.clone(), number };
        self.put(subject.into(), Some(reply.into()), headers, payload).await?;
        let answer = match tokio::time::timeout(self.timeout, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(BrokerError::Unreachable("the link has ended".into())),
            Err(_) => Err(self.shared.unanswered(self.timeout)),
        };
        answer.inspect_err(|error| self.metrics.failed(error))
    }

    /// Sends a message to this connection itself. When it returns, the server has taken everything that was sent before.
    pub(crate) async fn round_trip(&self) -> Result<RoundTripProbe, BrokerError> {
        let (number, reply) = self.next_place();
        let (sender, returned) = oneshot::channel();
        self.shared.waiting.lock().insert(number, ReplyWaiter::One(sender));
        let place = ReplySlot { shared: self.shared.clone(), number };
        self.put(reply.into(), None, None, Bytes::new()).await?;
        Ok(RoundTripProbe { place, returned, timeout: self.timeout })
    }

    fn next_place(&self) -> (u64, String) {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        (number, format!("{}.{number}", self.inbox))
    }

    /// Checks that streams with conditional writes can have this many replicas. Clusters of servers before 2.11 may take
    /// two writes on one condition (decision 32).
    pub(crate) fn can_replicate(&self, replicas: u8) -> Result<(), BrokerError> {
        let version = self.client.server_info().version;
        if replicas == 1 || !is_before_2_11(&version) {
            return Ok(());
        }
        let text = format!(
            "nats.replicas is {replicas}, and the server is nats-server {version}: before 2.11 a cluster can \
             accept two conditional writes where only one may succeed"
        );
        Err(BrokerError::Unexpected(text.into())).inspect_err(|error| self.metrics.failed(error))
    }

    /// Whether the server supports a TTL for each message.
    pub(crate) fn can_end_messages(&self) -> bool {
        !is_before_2_11(&self.client.server_info().version)
    }

    /// Counts a refusal by the server.
    pub(crate) fn failed(&self, error: &BrokerError) {
        self.metrics.failed(error);
    }

    /// Returns the longest message that the server takes, in bytes.
    pub(crate) fn payload_max(&self) -> usize {
        self.client.max_payload()
    }

    async fn put(
        &self,
        subject: Subject,
        reply: Option<Subject>,
        headers: Option<HeaderMap>,
        payload: Bytes,
    ) -> Result<(), BrokerError> {
        // Without a connection, the library would send the message later, when nobody expects it any more.
        self.opened().await?;
        let sending = async {
            match (reply, headers) {
                (None, None) => self.client.publish(subject, payload).await,
                (None, Some(headers)) => self.client.publish_with_headers(subject, headers, payload).await,
                (Some(reply), None) => self.client.publish_with_reply(subject, reply, payload).await,
                (Some(reply), Some(headers)) => {
                    self.client.publish_with_reply_and_headers(subject, reply, headers, payload).await
                }
            }
        };
        let sent = match tokio::time::timeout(self.timeout, sending).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.unsent(&error)),
            Err(_) => Err(BrokerError::Timeout(self.timeout)),
        };
        sent.inspect_err(|error| self.metrics.failed(error))
    }

    fn unsent(&self, error: &async_nats::PublishError) -> BrokerError {
        match error.kind() {
            async_nats::PublishErrorKind::MaxPayloadExceeded => BrokerError::refused(format!(
                "maximum payload exceeded: the server takes {} bytes at most",
                self.payload_max()
            )),
            _ => BrokerError::Unreachable(error.to_string().into()),
        }
    }
}

impl NatsLinkShared {
    fn happened(&self, event: Event) {
        let counted = self.purpose.of(&self.metrics);
        match event {
            Event::Connected => {
                counted.up.set(1);
                *self.server_error.lock() = None;
                let number = self.made.fetch_add(1, Ordering::SeqCst) + 1;
                if number > 1 {
                    counted.reconnects.increment();
                }
                self.state.send_replace(NatsLinkState::Up(number));
            }
            Event::Disconnected | Event::Closed => {
                counted.up.set(0);
                let reason: Arc<str> = "the connection was lost".into();
                self.state.send_replace(NatsLinkState::Down(reason.clone()));
                let waiting = std::mem::take(&mut *self.waiting.lock());
                for waiting in waiting.into_values() {
                    if let ReplyWaiter::One(sender) = waiting {
                        // The caller may have given up.
                        let _ = sender.send(Err(BrokerError::Unanswered(reason.clone())));
                    }
                }
            }
            Event::SlowConsumer(_) => (self.overflowed)(),
            Event::ServerError(error) => self.note_error(&error.to_string()),
            Event::ClientError(error) => self.note_error(&error.to_string()),
            Event::LameDuckMode | Event::Draining => {}
        }
    }

    fn note_error(&self, text: &str) {
        let text: Arc<str> = text.chars().take(SERVER_ERROR_BYTES_MAX).collect::<String>().into();
        *self.server_error.lock() = Some(text.clone());
        self.state.send_if_modified(|state| match state {
            NatsLinkState::Up(_) => false,
            NatsLinkState::Opening | NatsLinkState::Down(_) => {
                *state = NatsLinkState::Down(text);
                true
            }
        });
    }

    fn answered(&self, prefix: usize, message: Message) {
        let number = message.subject.get(prefix..).and_then(|number| number.parse::<u64>().ok());
        let Some(number) = number else { return };
        let mut waiting = self.waiting.lock();
        if let Some(ReplyWaiter::Many(sender)) = waiting.get(&number) {
            // There is room for as many answers as are expected.
            let _ = sender.try_send(message);
            return;
        }
        if let Some(ReplyWaiter::One(sender)) = waiting.remove(&number) {
            drop(waiting);
            let _ = sender.send(Ok(message));
        }
    }

    /// Returns the error for a missing answer. A server reports what it refuses outside of answers, if at all.
    fn unanswered(&self, after: Duration) -> BrokerError {
        match &*self.server_error.lock() {
            Some(server_error) => BrokerError::Unanswered(
                format!("no reply within {} ms; the server reported: {server_error}", after.as_millis())
                    .into(),
            ),
            None => BrokerError::unanswered(after),
        }
    }
}

/// Whether the server is older than 2.11. A version that cannot be read is that of a custom build.
fn is_before_2_11(version: &str) -> bool {
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) < (2, 11),
        _ => false,
    }
}

/// Whether the answer says that nobody listens.
pub(crate) fn is_unheard(message: &Message) -> bool {
    message.status == Some(StatusCode::NO_RESPONDERS)
}

impl std::fmt::Debug for NatsLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NatsLink")
            .field("purpose", &self.shared.purpose)
            .field("state", &*self.state.borrow())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ReplyStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplyStream").field("number", &self.place.number).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::super::fake::serve;
    use super::super::{NatsConfig, NatsDialer, NatsUrl};
    use super::*;

    /// A task that locks the state for reading twice would deadlock as soon as another waits to change it in between.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_waits_for_a_connection_is_not_held_up_by_one_that_changes() {
        let (url, _server) = serve(|_| Vec::new()).await;
        let config = NatsConfig { url: NatsUrl::new(url), ..NatsConfig::default() };
        let dialer = NatsDialer::new(&config).unwrap();
        let options = dialer.options("test").unwrap();
        let (purpose, metrics) = (NatsLinkPurpose::Commands, Arc::default());
        let (servers, nothing) = (dialer.servers(), Box::new(|| {}));
        let link = NatsLink::start(servers, options, purpose, config.timeout(), metrics, nothing);
        let link = Arc::new(link.await.unwrap());
        link.connected().await.unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let changing = {
            let (link, over) = (link.clone(), over.clone());
            std::thread::spawn(move || {
                for number in (1..).take_while(|_| !over.load(Ordering::SeqCst)) {
                    link.shared.state.send_replace(NatsLinkState::Up(number));
                }
            })
        };
        // Separate threads, so that a deadlock does not block the test.
        let (done, is_done) = std::sync::mpsc::channel();
        let waiting = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            for _ in 0..20_000 {
                runtime.block_on(link.connected()).unwrap();
            }
            done.send(()).unwrap();
        });
        let is_done = tokio::task::spawn_blocking(move || is_done.recv_timeout(Duration::from_secs(60)));
        let is_done = is_done.await.unwrap();
        over.store(true, Ordering::SeqCst);
        assert_eq!(is_done, Ok(()), "it waits for itself");
        waiting.join().unwrap();
        changing.join().unwrap();
    }

    #[test]
    fn servers_are_told_apart_by_their_version() {
        for old in ["2.9.10", "2.10.29", "1.4.1"] {
            assert!(is_before_2_11(old), "{old}");
        }
        for new in ["2.11.0", "2.11.0-RC.1", "2.15.1", "3.0.0", "built here", ""] {
            assert!(!is_before_2_11(new), "{new}");
        }
    }
}
