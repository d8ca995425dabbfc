//! Accepts events that other servers send through Redis, as they send them to servers of Socket.IO. Each is carried out
//! once over the whole cluster.
//!
//! Every node hears all messages, and keeps each until it is carried out. One node leads: it carries the messages out,
//! as publications and commands that reach all nodes, and records its progress. If it dies, another node goes on from
//! there. Publications that both have made are recognized by the place of their message, which is the same on all nodes
//! ([`gateway_core::received_messages`]).

mod carry_out;
mod emitter_channels;
mod emitter_message;
mod event_arguments;
mod lead;
mod read_packet;
mod read_python;
mod read_request;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gateway_core::received_messages::{ReceiveOutcome, ReceivedMessages};
use parking_lot::Mutex;
use shared::protocol::socketio::SocketIoShared;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use self::emitter_channels::{EmitterChannels, EmitterSource};
use self::emitter_message::{EmitterCommand, EmitterMessage, EmitterMessageError, EmitterMessageKind};
use crate::broker::redis::follow_patterns::{Follow, Follower, Following};
use crate::broker::redis::{DialError, RedisConfig};
use crate::node::Node;
use crate::socketio::EmittersConfig;
use crate::telemetry::LogLimiter;
use crate::telemetry::emitters_metrics::EmittersMetrics;

/// The name of the connection in logs.
const WHAT: &str = "emitters";

/// How long a stopping node may take to hand over.
const HAND_OVER: Duration = Duration::from_secs(2);

/// The approximate overhead of a message beside its bytes.
const OVERHEAD_BYTES: usize = 128;

/// A message that has not been parsed yet.
#[derive(Clone, Debug)]
enum UnreadMessage {
    Packet(Arc<str>, Bytes),
    Request(Arc<str>, Bytes),
    Python(Bytes),
    TooLong,
}

#[derive(Debug)]
struct EmitterContext {
    node: Arc<Node>,
    common: Arc<SocketIoShared>,
    names: EmitterChannels,
    /// The upper half of the marks of all nodes that listen to the same channels.
    digest: u64,
    message_bytes_max: usize,
    received: Mutex<ReceivedMessages<UnreadMessage>>,
    news: Notify,
    metrics: EmittersMetrics,
    logs: EmitterLogs,
}

/// The rate limits of the log lines.
#[derive(Debug, Default)]
struct EmitterLogs {
    unread: LogLimiter,
    undone: LogLimiter,
    dropped: LogLimiter,
    unplaced: LogLimiter,
}

#[derive(Debug)]
pub(crate) struct EmitterListener {
    stop: CancellationToken,
    leading: tokio::task::JoinHandle<()>,
    _following: AbortOnDropHandle<()>,
}

/// The parameters of [`EmitterListener::start`].
#[derive(Debug)]
pub(crate) struct EmitterParts<'a> {
    pub(crate) settings: &'a EmittersConfig,
    /// The section `redis`.
    pub(crate) redis: &'a RedisConfig,
    pub(crate) common: Arc<SocketIoShared>,
    pub(crate) node: Arc<Node>,
    pub(crate) runtime: &'a Handle,
}

impl EmitterListener {
    /// Starts to connect, and returns at once.
    pub(crate) fn start(parts: EmitterParts<'_>) -> Result<Self, DialError> {
        let EmitterParts { settings, redis, common, node, runtime } = parts;
        let names = EmitterChannels::new(settings, &common.namespaces);
        // Nodes that listen to other channels number messages differently.
        let digest = u64::from(names.digest()) << 32;
        let mark = move || format!("{:016x}", digest | u64::from(rand::random::<u32>()));
        let following =
            Following { patterns: names.patterns(), hello: (names.marks().to_owned(), Box::new(mark)) };
        let name = format!("{}:{}:{WHAT}", redis.prefix, node.id.0);
        let metrics = node.metrics.emitters().clone();
        let listening = Arc::new(EmitterContext {
            message_bytes_max: settings.message_bytes_max,
            received: Mutex::new(ReceivedMessages::new(settings.waiting_bytes_max)),
            news: Notify::new(),
            logs: EmitterLogs::default(),
            metrics,
            digest: digest >> 32,
            names,
            common,
            node,
        });
        // Sentinels, if there are any, are asked for the master from now on.
        let _entered = runtime.enter();
        let follower = Follower::new(settings.redis(redis), name, following, listening.clone())?;
        let stop = CancellationToken::new();
        let leading = runtime.spawn(listening.lead(stop.clone()));
        let following = AbortOnDropHandle::new(runtime.spawn(follower.run(WHAT)));
        Ok(Self { stop, leading, _following: following })
    }

    /// Carries out the messages that were heard, and hands over to another node.
    pub(crate) async fn shut_down(self) {
        self.stop.cancel();
        if tokio::time::timeout(HAND_OVER, self.leading).await.is_err() {
            tracing::warn!(
                "the last messages of emitters were not carried out before this node stopped: other nodes \
                 carry them out"
            );
        }
    }
}

impl Follow for EmitterContext {
    fn opened(&self, again: bool) {
        self.metrics.link_up.set(1);
        if again {
            self.metrics.reconnects.inc();
        }
    }

    fn lost(&self) {
        self.metrics.link_up.set(0);
        self.received.lock().lose();
        self.news.notify_one();
    }

    fn message(&self, name: &[u8], data: &[u8]) {
        // Copied, because the buffer that the message arrived in may be far larger.
        let bytes = |data: &[u8]| Bytes::copy_from_slice(data);
        let message = match self.names.source(name) {
            None => return,
            Some(EmitterSource::Mark) => {
                let mark = std::str::from_utf8(data).ok().and_then(|text| u64::from_str_radix(text, 16).ok());
                if let Some(mark) = mark.filter(|mark| mark >> 32 == self.digest) {
                    self.received.lock().mark(mark);
                    self.news.notify_one();
                }
                return;
            }
            Some(_) if data.len() > self.message_bytes_max => UnreadMessage::TooLong,
            Some(EmitterSource::Packet(namespace)) => UnreadMessage::Packet(namespace.into(), bytes(data)),
            Some(EmitterSource::Request(namespace)) => UnreadMessage::Request(namespace.into(), bytes(data)),
            Some(EmitterSource::Python) => UnreadMessage::Python(bytes(data)),
        };
        let size = message.bytes() + OVERHEAD_BYTES;
        let outcome = {
            let mut received = self.received.lock();
            let outcome = received.receive(self.node.clock.now(), size, message);
            self.metrics.waiting_bytes.set(i64::try_from(received.bytes()).unwrap_or(i64::MAX));
            outcome
        };
        match outcome {
            ReceiveOutcome::Waits => {}
            ReceiveOutcome::InPlaceOf(dropped) => {
                self.metrics.message(EmitterMessageKind::Other.label(), "dropped", dropped as u64);
                if let Some(suppressed) = self.logs.dropped.admit() {
                    tracing::warn!(
                        dropped,
                        suppressed,
                        "too many messages of emitters wait at this node: the oldest are dropped"
                    );
                }
            }
            ReceiveOutcome::Unplaced => {
                self.metrics.message(EmitterMessageKind::Other.label(), "unplaced", 1);
                if let Some(suppressed) = self.logs.unplaced.admit() {
                    tracing::warn!(suppressed, "a message of an emitter arrived before this node was ready");
                }
            }
        }
        self.news.notify_one();
    }
}

impl UnreadMessage {
    fn bytes(&self) -> usize {
        match self {
            Self::Packet(_, data) | Self::Request(_, data) | Self::Python(data) => data.len(),
            Self::TooLong => 0,
        }
    }

    /// Returns the kind that is counted if the message cannot be read.
    fn kind(&self) -> EmitterMessageKind {
        match self {
            Self::Packet(..) => EmitterMessageKind::Emit,
            _ => EmitterMessageKind::Other,
        }
    }

    fn read(&self) -> Result<EmitterMessage, EmitterMessageError> {
        let to_namespace =
            |namespace: &str, what: EmitterCommand| EmitterMessage { namespace: namespace.to_owned(), what };
        match self {
            Self::Packet(namespace, data) => {
                read_packet::read(data, namespace).map(|what| to_namespace(namespace, what))
            }
            Self::Request(namespace, data) => {
                read_request::read(data).map(|what| to_namespace(namespace, what))
            }
            Self::Python(data) => read_python::read(data),
            Self::TooLong => Err(EmitterMessageError::TooLong),
        }
    }
}

/// Describes a message, or why it cannot be read, for each kind of channel: for [`crate::readers`].
pub(crate) fn describe(message: &[u8]) -> [Result<String, String>; 3] {
    let data = Bytes::copy_from_slice(message);
    [
        UnreadMessage::Packet("/".into(), data.clone()),
        UnreadMessage::Request("/".into(), data.clone()),
        UnreadMessage::Python(data),
    ]
    .map(|message| message.read().map(|read| format!("{read:?}")).map_err(|unread| unread.to_string()))
}
