//! Brokers carry publications between nodes and keep the history of channels.
//!
//! All implementations share one trait and one test suite. A broker never names the node: whatever it receives leaves
//! through the [`BrokerEvents`] it was made with.

mod broker_config;
pub mod export_broker_metrics;
pub mod measure;
pub mod memory;
pub mod nats;
pub mod redis;
mod refusal;
pub mod shards;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use gateway_core::history::{HistoryFilter, HistoryPage, Retention};
use gateway_core::map::{ChangedKey, MapChange, MapRetention, StateFilter, StatePage};
pub use gateway_core::version::Version;
use shared::channel::Channel;
use shared::position::{Epoch, StreamPosition};
use shared::publication::Publication;
use shared::push::OwnedEvent;

pub use broker_config::{BrokerConfig, BrokerKind};
pub use refusal::BrokerRefusal;

/// Whether a request has taken effect already, or a future that completes when it has.
#[expect(missing_debug_implementations, reason = "a boxed future has nothing to show")]
pub enum Effective {
    Now,
    Later(BoxFuture<'static, Result<(), BrokerError>>),
}

impl Effective {
    pub fn is_now(&self) -> bool {
        matches!(self, Self::Now)
    }

    pub async fn wait(self) -> Result<(), BrokerError> {
        match self {
            Self::Now => Ok(()),
            Self::Later(effective) => effective.await,
        }
    }
}

/// The largest number of parts that a broker has.
pub const PARTS_MAX: usize = 64;

/// Every call ends by itself: implementations keep a deadline and answer [`BrokerError::Timeout`] or
/// [`BrokerError::Unanswered`] past it.
pub trait Broker: Send + Sync + std::fmt::Debug {
    /// Returns the number of parts, each of which can fail while the others work: at most [`PARTS_MAX`]. Everything that
    /// belongs to a channel is in one part.
    fn parts(&self) -> usize {
        1
    }

    /// Returns the part that a channel is in at this moment. A caller that waits for one part must not hold up callers
    /// that want another.
    fn part_of(&self, _channel: &Channel) -> usize {
        0
    }

    /// Returns the name of a part for operators: its address. Empty if there is only one part, or none at this index at
    /// the moment.
    fn part_name(&self, _part: usize) -> Arc<str> {
        "".into()
    }

    /// Whether there is a part at this index at the moment. Where parts come and go, an index may later be another part's.
    fn has_part(&self, _part: usize) -> bool {
        true
    }

    /// Describes how channels are placed on parts. Nodes whose layouts differ miss each other's publications.
    fn layout(&self) -> &str {
        ""
    }

    /// Appends to the channel's stream (if `retention` keeps one) and sends to every interested node, atomically. Returns
    /// the position of the publication, which is `None` without a stream. Publications are made in the order of the
    /// calls, even if nobody waits for the answers yet.
    fn publish(&self, request: PublishRequest) -> BoxFuture<'_, Result<Published, BrokerError>>;

    /// Sends a join or a leave to every interested node, after the publications made before it. The event is not kept.
    fn publish_event(&self, channel: Channel, event: OwnedEvent) -> BoxFuture<'_, Result<(), BrokerError>>;

    /// Subscribes this node to these channels. Completes when nothing published from now on can be missed. The caller
    /// counts: a channel is subscribed at most once until it is unsubscribed. After an error the channels are not
    /// subscribed; a caller that stops waiting cannot know, and unsubscribes.
    fn subscribe(&self, channels: Vec<Channel>) -> BoxFuture<'_, Result<(), BrokerError>>;

    /// Subscribes to one channel if this broker can do so without waiting. Returns whether it did.
    fn subscribe_at_once(&self, _channel: &Channel) -> bool {
        false
    }

    fn unsubscribe(&self, channels: Vec<Channel>) -> BoxFuture<'_, Result<(), BrokerError>>;

    /// Reads a channel's stream. A stream that does not exist yet is created empty, so that its epoch holds.
    fn history(
        &self,
        channel: Channel,
        filter: HistoryFilter,
        retention: Retention,
    ) -> BoxFuture<'_, Result<HistoryPage, BrokerError>>;

    /// Returns where a channel's stream ends, if this broker knows without waiting.
    fn position_now(&self, _channel: &Channel) -> Option<StreamPosition> {
        None
    }

    /// Whether a publication is handed to this node before anyone can read it in history.
    fn hands_out_at_once(&self) -> bool {
        false
    }

    /// Returns the top positions of several streams, in the order asked.
    fn positions(
        &self,
        channels: Vec<(Channel, Retention)>,
    ) -> BoxFuture<'_, Result<Vec<StreamPosition>, BrokerError>>;

    /// Ends an epoch of a channel because offsets assigned in it are being assigned again. Returns the position in the
    /// epoch that follows, which may have begun already.
    fn leave_epoch(
        &self,
        channel: Channel,
        epoch: Epoch,
    ) -> BoxFuture<'_, Result<StreamPosition, BrokerError>>;

    /// Removes the publications of a channel. Offsets go on, so that subscribers see no gap.
    fn remove_history(&self, channel: Channel) -> BoxFuture<'_, Result<(), BrokerError>>;

    /// Changes a key of a channel that keeps state by key: updates the state and the stream, if there is one, and tells
    /// every interested node, atomically. Changes have offsets as publications of streams do, even where no stream is
    /// kept. Changes are made in the order of the calls, even if nobody waits for the answers yet.
    fn change_key(&self, _request: ChangeRequest) -> BoxFuture<'_, Result<ChangedKey, BrokerError>> {
        ready(Err(BrokerError::NotAvailable)).boxed()
    }

    /// Reads a part of a channel's state. Soon after a key expires, some node publishes its removal.
    fn read_state(
        &self,
        _channel: Channel,
        _filter: StateFilter,
        _keeping: MapRetention,
    ) -> BoxFuture<'_, Result<StatePage, BrokerError>> {
        ready(Err(BrokerError::NotAvailable)).boxed()
    }

    /// Whether the removal of expired keys is published even if nobody reads the state.
    fn takes_out_expired(&self) -> bool {
        true
    }

    /// Returns the number of keys of a channel.
    fn count_keys(&self, _channel: Channel) -> BoxFuture<'_, Result<u64, BrokerError>> {
        ready(Err(BrokerError::NotAvailable)).boxed()
    }

    /// Forgets the state and the stream of a channel that keeps state by key. Subscribers are not told: any position they
    /// know is of an epoch that is over.
    fn clear_state(&self, _channel: Channel) -> BoxFuture<'_, Result<(), BrokerError>> {
        ready(Err(BrokerError::NotAvailable)).boxed()
    }

    /// Sends a message to every node, this one included. Returns how many nodes it was handed to.
    fn send_control(&self, message: Bytes) -> BoxFuture<'_, Result<u32, BrokerError>>;

    /// Sends a message to one node: the one that was made with this name, or that announces itself with it. Returns the
    /// number of receivers, which is 0 if no such node listens.
    fn tell_node(&self, node: &str, message: Bytes) -> BoxFuture<'_, Result<u32, BrokerError>>;

    /// Sends a message through the broker to this node alone, waits for it, and returns how long the round trip took.
    /// This proves what no connection state can: that publications arrive.
    fn canary(&self) -> BoxFuture<'_, Result<Duration, BrokerError>>;

    /// Does the same through one part alone.
    fn canary_of(&self, _part: usize) -> BoxFuture<'_, Result<Duration, BrokerError>> {
        self.canary()
    }

    /// Acquires or renews the lease on a task that one of all nodes does, unless another node holds it. This node then
    /// holds it for `lease` from the call on, and releases it by a call with a `lease` of zero.
    fn acquire_lease<'a>(
        &'a self,
        _taking: LeaseRequest<'a>,
    ) -> BoxFuture<'a, Result<LeaseOutcome, BrokerError>> {
        // This default is for a broker with one node: no other node could hold the lease.
        ready(Ok(LeaseOutcome { held: true, done: "".into(), over: Duration::ZERO })).boxed()
    }

    /// Announces this node to the others, for `lease`, with a description they can read. Returns the descriptions of all
    /// nodes whose lease has not run out.
    fn announce(
        &self,
        node: &str,
        description: Bytes,
        lease: Duration,
    ) -> BoxFuture<'_, Result<Vec<Bytes>, BrokerError>>;

    /// Returns the descriptions of all nodes whose lease has not run out. With several parts, a node may appear several
    /// times, with descriptions of different times.
    fn nodes(&self) -> BoxFuture<'_, Result<Vec<Bytes>, BrokerError>>;

    /// Withdraws this node's announcement.
    fn retire(&self, node: &str) -> BoxFuture<'_, Result<(), BrokerError>>;
}

/// A request for the lease on a task.
#[derive(Clone, Copy, Debug)]
pub struct LeaseRequest<'a> {
    /// The name of the task.
    pub what: &'a str,
    pub node: &'a str,
    pub lease: Duration,
    /// The node gets the lease only if the previous holder's lease ended at least this long ago.
    pub patience: Duration,
    /// How far this node has got, for the next holder. Stored if this node holds the lease already.
    pub done: &'a str,
}

/// The response to a [`LeaseRequest`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaseOutcome {
    /// Whether this node holds the lease.
    pub held: bool,
    /// How far the holder before this call had got. Empty if there was none, or if that is unknown.
    pub done: Box<str>,
    /// If this node holds the lease: how long ago the previous holder's lease had ended.
    pub over: Duration,
}

/// The receiver of everything that arrives through a broker. Called on the broker's own threads: must not block or wait.
pub trait BrokerEvents: Send + Sync {
    /// Receives a publication of a subscribed channel, in the channel's order, with its position set if it has one.
    fn publication(&self, channel: &str, publication: Publication);

    /// Receives a join or a leave of a subscribed channel, in order with its publications.
    fn event(&self, channel: &str, event: OwnedEvent);

    /// Receives a control message of some node.
    fn control(&self, message: Bytes);

    /// Receives a message for this node alone.
    fn node_message(&self, message: Bytes);

    /// Reports that anything in this part may have been missed, and that streams may have begun anew: the link that
    /// carries subscriptions was lost and is back with everything subscribed again, the link that carries commands was
    /// opened again, or the server behind one of them is not the one it was.
    fn resumed(&self, part: usize);

    /// Reports that these channels are in this part from now on and are subscribed there again. Anything in these
    /// channels may have been missed, and nothing in others.
    fn moved(&self, _part: usize, _channels: Vec<Channel>) {}
}

#[derive(Clone, Debug)]
pub struct PublishRequest {
    pub channel: Channel,
    pub publication: Publication,
    pub retention: Retention,
    /// A second publication with the same key in the same channel within the TTL is not made; its answer is that of the first.
    pub idempotency: Option<Idempotency>,
    /// In a channel with a stream, the publication is not made unless this version is newer than that of the last
    /// publication with a version. The answer is then the top of the stream.
    pub version: Option<Version>,
}

#[derive(Clone, Debug)]
pub struct ChangeRequest {
    pub channel: Channel,
    pub change: MapChange,
    pub keeping: MapRetention,
    pub idempotency: Option<Idempotency>,
}

#[derive(Clone, Debug)]
pub struct Idempotency {
    pub key: Box<str>,
    pub ttl: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Published {
    pub position: Option<StreamPosition>,
    /// Whether the publication was made before under the same idempotency key, or its version is not newer than the last one.
    pub duplicate: bool,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum BrokerError {
    /// Nothing was sent: there is no connection.
    #[error("the broker cannot be reached: {0}")]
    Unreachable(Arc<str>),
    /// Nothing was sent: there was no room for the request in time.
    #[error("the broker accepted nothing for {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The request was sent and its outcome is unknown: it may have been carried out, or may still be.
    #[error("the broker has not answered: {0}")]
    Unanswered(Arc<str>),
    /// The server refused, in its own words: nothing was done.
    #[error("the broker's server refused the request: {text}")]
    Refused { kind: BrokerRefusal, text: Arc<str> },
    /// The broker was not asked, because a worker of this node is behind.
    #[error("a worker of this node has been behind for {} ms, so this was not published", .0.as_millis())]
    Behind(Duration),
    #[error("the broker answered something unexpected: {0}")]
    Unexpected(Arc<str>),
    /// This broker keeps no state by key.
    #[error("this broker does not support state by key")]
    NotAvailable,
    /// Nothing was done: the channel has as many keys as its settings allow, or their bytes have reached the bound.
    #[error("the channel has reached its limit of keys or of their bytes")]
    Full,
    /// Nothing was done: the keys of all channels together leave no room for one more.
    #[error("the keys of all channels have reached the limit of their bytes")]
    NoRoom,
    /// Everybody who waited for the result has gone meanwhile.
    #[error("nobody waits for the result any more")]
    Abandoned,
}

impl BrokerError {
    /// Returns the error for a server's refusal, classified by its text.
    pub(crate) fn refused(text: impl Into<Arc<str>>) -> Self {
        let text = text.into();
        Self::Refused { kind: BrokerRefusal::read(&text), text }
    }

    /// Returns the error for a request that was sent and not answered within `after`.
    pub(crate) fn unanswered(after: Duration) -> Self {
        Self::Unanswered(format!("no reply within {} ms", after.as_millis()).into())
    }

    /// Whether the request may have been carried out despite the error, or may still be.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::Unanswered(_) | Self::Unexpected(_))
    }

    /// Returns the value for metric labels.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Timeout(_) => "timeout",
            Self::Unanswered(_) => "unanswered",
            Self::Refused { kind, .. } => kind.label(),
            Self::Behind(_) => "behind",
            Self::Unexpected(_) => "unexpected",
            Self::NotAvailable => "not_available",
            Self::Full | Self::NoRoom => "full",
            Self::Abandoned => "abandoned",
        }
    }
}
