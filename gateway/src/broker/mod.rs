//! A broker carries publications between nodes and remembers them.
//!
//! One trait, one test suite, several implementations. A broker never names the node: what arrives leaves
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

/// Whether something that was asked for has taken effect, or when it will have.
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

/// The most parts that a broker has.
pub const PARTS_MAX: usize = 64;

/// Every call ends by itself: implementations keep a deadline and answer [`BrokerError::Timeout`] or
/// [`BrokerError::Unanswered`] past it.
pub trait Broker: Send + Sync + std::fmt::Debug {
    /// Of how many parts it is made, each of which can fail while the others work: at most [`PARTS_MAX`]. Everything of a
    /// channel is in one.
    fn parts(&self) -> usize {
        1
    }

    /// In which of them a channel is at this moment. Who waits for one part lets nobody wait who wants another.
    fn part_of(&self, _channel: &Channel) -> usize {
        0
    }

    /// What people call a part: where it is. Empty, if there is only one, or none at this place at the moment.
    fn part_name(&self, _part: usize) -> Arc<str> {
        "".into()
    }

    /// Whether there is a part at this place at the moment. Where they come and go, a place may be another one's later.
    fn has_part(&self, _part: usize) -> bool {
        true
    }

    /// How channels are placed. Nodes that say different things miss each other's publications.
    fn layout(&self) -> &str {
        ""
    }

    /// Appends to the channel's stream (if `retention` keeps one) and sends to every interested node, atomically.
    /// Returns where the publication stands: `None` without a stream. What was called first is published first, also
    /// if nobody waits for its answer yet.
    fn publish(&self, request: PublishRequest) -> BoxFuture<'_, Result<Published, BrokerError>>;

    /// Sends a join or a leave to every interested node, behind what was published before. It is not kept.
    fn publish_event(&self, channel: Channel, event: OwnedEvent) -> BoxFuture<'_, Result<(), BrokerError>>;

    /// Has these channels delivered to this node. Answered when nothing published from now on can be missed.
    /// The caller counts: a channel is subscribed at most once until it is unsubscribed. After an error it is not
    /// subscribed; a caller that stops waiting cannot know, and unsubscribes.
    fn subscribe(&self, channels: Vec<Channel>) -> BoxFuture<'_, Result<(), BrokerError>>;

    /// The same for one channel, if this broker need not wait for that. Returns whether it is done.
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

    /// Where a channel's stream ends, if this broker knows without waiting.
    fn position_now(&self, _channel: &Channel) -> Option<StreamPosition> {
        None
    }

    /// Whether what is published has been handed to this node before anyone can read of it in history.
    fn hands_out_at_once(&self) -> bool {
        false
    }

    /// The top of several streams, in the order asked.
    fn positions(
        &self,
        channels: Vec<(Channel, Retention)>,
    ) -> BoxFuture<'_, Result<Vec<StreamPosition>, BrokerError>>;

    /// Ends an epoch of a channel, because offsets that were given out in it are given out again. Returns the position in
    /// the epoch that follows, or in the one that has followed already.
    fn leave_epoch(
        &self,
        channel: Channel,
        epoch: Epoch,
    ) -> BoxFuture<'_, Result<StreamPosition, BrokerError>>;

    /// Forgets the publications of a channel. Offsets go on, so that subscribers see no gap.
    fn remove_history(&self, channel: Channel) -> BoxFuture<'_, Result<(), BrokerError>>;

    /// Changes a key of a channel that keeps state by key: its state, its stream if it has one, and what every interested
    /// node is told, atomically. Changes have offsets as publications of streams do, also where no stream is kept. What was called first is done first, also if nobody waits for its answer yet.
    fn change_key(&self, _request: ChangeRequest) -> BoxFuture<'_, Result<ChangedKey, BrokerError>> {
        ready(Err(BrokerError::NotAvailable)).boxed()
    }

    /// Reads a part of such a state. Keys whose time is over are told as removed, by somebody, soon after that.
    fn read_state(
        &self,
        _channel: Channel,
        _filter: StateFilter,
        _keeping: MapRetention,
    ) -> BoxFuture<'_, Result<StatePage, BrokerError>> {
        ready(Err(BrokerError::NotAvailable)).boxed()
    }

    /// Whether keys whose time is over are told as removed although nobody asks for the state.
    fn takes_out_expired(&self) -> bool {
        true
    }

    /// How many keys it has.
    fn count_keys(&self, _channel: Channel) -> BoxFuture<'_, Result<u64, BrokerError>> {
        ready(Err(BrokerError::NotAvailable)).boxed()
    }

    /// Forgets such a channel's state and stream. Nobody is told: whoever knows where it stood, knows that in an epoch that
    /// is over.
    fn clear_state(&self, _channel: Channel) -> BoxFuture<'_, Result<(), BrokerError>> {
        ready(Err(BrokerError::NotAvailable)).boxed()
    }

    /// Sends a message to every node, this one included. Returns how many nodes it was handed to.
    fn send_control(&self, message: Bytes) -> BoxFuture<'_, Result<u32, BrokerError>>;

    /// Sends a message to one node: the one that was made with this name, or that announces itself with it. Returns how
    /// many it was handed to: none if no such node listens.
    fn tell_node(&self, node: &str, message: Bytes) -> BoxFuture<'_, Result<u32, BrokerError>>;

    /// Sends a message through the broker to this node alone and waits for it: how long the way there and back
    /// took. Proves what no connection state can: that publications arrive.
    fn canary(&self) -> BoxFuture<'_, Result<Duration, BrokerError>>;

    /// The same through one part alone.
    fn canary_of(&self, _part: usize) -> BoxFuture<'_, Result<Duration, BrokerError>> {
        self.canary()
    }

    /// Has this node be the only one of all nodes that does something, if nobody else is. Returns whether it is. The turn
    /// holds for a time from the call on; it is given back by a call with no time.
    fn take_turn<'a>(&'a self, _taking: TurnRequest<'a>) -> BoxFuture<'a, Result<TurnLease, BrokerError>> {
        // Of a broker with one node: nobody else could.
        ready(Ok(TurnLease { held: true, done: "".into(), over: Duration::ZERO })).boxed()
    }

    /// Announces this node to the others, for `lease`, with a description they can read. Returns the descriptions of all
    /// nodes whose lease has not run out.
    fn announce(
        &self,
        node: &str,
        description: Bytes,
        lease: Duration,
    ) -> BoxFuture<'_, Result<Vec<Bytes>, BrokerError>>;

    /// The descriptions of all nodes whose lease has not run out. Where there are several parts, a node may be among them
    /// several times, with what it said at different times.
    fn nodes(&self) -> BoxFuture<'_, Result<Vec<Bytes>, BrokerError>>;

    /// Takes this node's announcement back.
    fn retire(&self, node: &str) -> BoxFuture<'_, Result<(), BrokerError>>;
}

/// What a node asks for that wants to be the only one to do something.
#[derive(Clone, Copy, Debug)]
pub struct TurnRequest<'a> {
    /// What is done.
    pub what: &'a str,
    pub node: &'a str,
    pub lease: Duration,
    /// Only if the turn of whoever had it last has been over for so long.
    pub patience: Duration,
    /// How far it has got, for whoever follows. Kept if the turn is this node's already.
    pub done: &'a str,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TurnLease {
    /// Whether it is this node's.
    pub held: bool,
    /// How far whoever had it before this call had got. Empty: nobody had it, or there is no telling.
    pub done: Box<str>,
    /// Where the turn is this node's: for how long the one before it had been over.
    pub over: Duration,
}

/// Where what a broker receives goes. Called on the broker's own threads: must not block or wait.
pub trait BrokerEvents: Send + Sync {
    /// A publication in a subscribed channel, in the channel's order, with its position set if it has one.
    fn publication(&self, channel: &str, publication: Publication);

    /// A join or a leave in a subscribed channel, in order with its publications.
    fn event(&self, channel: &str, event: OwnedEvent);

    /// A control message of some node.
    fn control(&self, message: Bytes);

    /// A message for this node alone.
    fn node_message(&self, message: Bytes);

    /// Of what is in this part anything may have been missed, and streams may have begun anew: the link over which publications arrive was
    /// lost and is back with everything subscribed again, the link over which they are made was opened again, or the
    /// server behind one of them is not what it was.
    fn resumed(&self, part: usize);

    /// These channels are in this part from now on, where they are subscribed again. Of what is in them anything may have been missed,
    /// and nothing of others.
    fn moved(&self, _part: usize, _channels: Vec<Channel>) {}
}

#[derive(Clone, Debug)]
pub struct PublishRequest {
    pub channel: Channel,
    pub publication: Publication,
    pub retention: Retention,
    /// A second publication with the same key in the same channel within the time is not made; it answers as the
    /// first did.
    pub idempotency: Option<Idempotency>,
    /// In a channel with a stream: the publication is not made unless this is newer than the last one that had a
    /// version. It then answers where the stream ends.
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
    /// It was made before, under the same idempotency key, or has no newer version than what was made before.
    pub duplicate: bool,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum BrokerError {
    /// Nothing was sent: there is no connection.
    #[error("the broker cannot be reached: {0}")]
    Unreachable(Arc<str>),
    /// Nothing was sent: it found no place in time.
    #[error("the broker took nothing more within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// It was sent, and nobody knows what came of it: it may have been done, or may still be.
    #[error("the broker has not answered: {0}")]
    Unanswered(Arc<str>),
    /// The server said no, in its own words: it was not done.
    #[error("the broker's server refuses: {text}")]
    Refused { kind: BrokerRefusal, text: Arc<str> },
    /// The broker was not asked.
    #[error("a worker of this node has been behind for {} ms, so this was not published", .0.as_millis())]
    Behind(Duration),
    #[error("the broker answered something unexpected: {0}")]
    Unexpected(Arc<str>),
    /// This broker keeps no state by key.
    #[error("the broker keeps no state by key")]
    NotAvailable,
    /// It was not done: the channel has as many keys as its settings let it have, or they take as much as they may.
    #[error("the channel has as many keys as it may, or they take as much as they may")]
    Full,
    /// It was not done: all channels together leave no room for one key more.
    #[error("the keys of all channels take all the room that they may")]
    NoRoom,
    /// Everybody who wanted it has gone meanwhile.
    #[error("nobody wants it any more")]
    Abandoned,
}

impl BrokerError {
    /// What a server's refusal means.
    pub(crate) fn refused(text: impl Into<Arc<str>>) -> Self {
        let text = text.into();
        Self::Refused { kind: BrokerRefusal::read(&text), text }
    }

    /// It was sent, and no answer has come in this time.
    pub(crate) fn unanswered(after: Duration) -> Self {
        Self::Unanswered(format!("nothing within {} ms", after.as_millis()).into())
    }

    /// Whether what was asked may have been done all the same, or may still be.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self, Self::Unanswered(_) | Self::Unexpected(_))
    }

    /// A word for labels.
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
