//! GraphQL subscriptions: over WebSockets in both of their subprotocols, and over server-sent events in both modes.
//!
//! An operation is a reader of a channel. A client may have several, also of one channel, each with an id and a selection of
//! its own: so unlike other protocols this one has a value per connection ([`GraphQl`]), which knows the operations. What
//! all subscribers of a channel share is a [`PayloadRecord`] ([`GraphQlRecords`]), of which each client's value makes its messages.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

use super::{DecodeError, Encoded, Heartbeat, Protocol, ProtocolId};
use crate::command::Command;
use crate::disconnect::Disconnect;
use crate::framing::{Message, MessageKind};
use crate::publication::Payload;
use crate::push::{Event, Push};
use crate::reply::Reply;

mod close;
mod decode;
mod encode;
mod operations;
mod record;
mod selected;
mod selection;

pub use decode::RequestedOperation;
pub use record::{GraphQlRecords, PayloadRecord};
pub use selected::Selected;
pub use selection::{Field, FieldOf, FieldSelection, Objects, Scalar, Typed, ValueRule, ValueType};

use operations::OperationState;

/// The subprotocol of today, of `graphql-ws` on npm.
pub const TRANSPORT_WS: &str = "graphql-transport-ws";
/// The one before it, of `subscriptions-transport-ws`.
pub const SUBSCRIPTIONS_TRANSPORT: &str = "graphql-ws";

/// The header in which a client of event streams is told what its stream is called, and says it. In lower case.
pub const STREAM_TOKEN: &str = "x-graphql-event-stream-token";

/// What `extensions.code` says of more than there may be.
pub const LIMIT_EXCEEDED: &str = "LIMIT_EXCEEDED";

/// Longest id of an operation, in bytes.
pub const ID_BYTES_MAX: usize = 255;

/// The numbers of commands that are no operation's.
mod number {
    pub(super) const CONNECT: u32 = 1;
    pub(super) const PING: u32 = 2;
    pub(super) const UNSUBSCRIBE: u32 = 3;
    /// Operations are numbered from here on.
    pub(super) const OPERATIONS: u32 = 16;
}

/// How messages are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    TransportWs,
    SubscriptionsTransport,
    /// Events of all operations of a client in one stream.
    OneStream,
    /// A stream for each operation.
    StreamEach,
}

impl Dialect {
    fn is_streamed(self) -> bool {
        matches!(self, Self::OneStream | Self::StreamEach)
    }
}

/// Finds out what an operation is.
pub trait Planner: Send + Sync + std::fmt::Debug {
    /// Changes nothing that anybody could see.
    fn plan(&self, operation: &RequestedOperation<'_>) -> Result<Plan, Vec<GraphQlError>>;
}

/// What an operation comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Plan {
    /// This result, and nothing more.
    Answer(Bytes),
    Subscribe(PlannedSubscription),
}

/// A subscription.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlannedSubscription {
    /// Empty where only the application knows it.
    pub channel: Box<str>,
    /// What the application is told that says whether and where, if it is asked.
    pub ask: Option<Payload>,
    pub selection: Arc<FieldSelection>,
}

/// Why an operation is not carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GraphQlError {
    pub message: String,
    /// What is in `extensions.code`.
    pub code: &'static str,
    /// Line and column in the document, from 1.
    pub location: Option<(usize, usize)>,
}

impl GraphQlError {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { message: message.into(), code, location: None }
    }

    #[must_use]
    pub fn at(self, line: usize, column: usize) -> Self {
        Self { location: Some((line, column)), ..self }
    }
}

/// One client's operations. Its worker has both ends of the lock, so that nobody waits for it; it is there because the
/// session and whoever delivers publications hold the same value.
#[derive(Debug)]
pub struct GraphQl {
    dialect: Dialect,
    planner: Arc<dyn Planner>,
    operations_max: usize,
    state: Mutex<OperationState>,
}

/// What follows for the session from what it has answered.
#[derive(Debug, Default)]
pub struct SessionActions {
    pub commands: Vec<Command>,
    pub close: Option<Disconnect>,
}

impl GraphQl {
    /// `operations_max`: how many a client may have in flight.
    pub fn new(dialect: Dialect, planner: Arc<dyn Planner>, operations_max: usize) -> Self {
        Self { dialect, planner, operations_max, state: Mutex::default() }
    }

    /// The messages that records which the hub shares are to this client, one after the other, and how long each is, in bytes.
    pub fn deliver(&self, records: &Bytes, selected: &mut Selected, out: &mut BytesMut) -> Vec<usize> {
        let (mut rest, mut lengths) = (records.clone(), Vec::new());
        let mut state = self.state();
        while let Some((bytes, record)) = PayloadRecord::take(&mut rest) {
            let result = |selection: &Arc<FieldSelection>| selected.get(&bytes, &record, selection);
            lengths.append(&mut state.deliver(self.dialect, &record, out, result));
        }
        lengths
    }

    /// Whether a message of this client would begin an operation under the id of one that is in flight.
    pub fn would_repeat(&self, message: &[u8]) -> bool {
        self.state().would_repeat(message)
    }

    /// What follows from what was answered and decoded since this was last asked for, if anything does.
    pub fn take_wishes(&self) -> Option<SessionActions> {
        let mut state = self.state();
        let wishes = SessionActions { commands: state.settle(), close: state.close.take() };
        (!wishes.commands.is_empty() || wishes.close.is_some()).then_some(wishes)
    }

    fn state(&self) -> MutexGuard<'_, OperationState> {
        // What was half done when it panicked concerns one client.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Protocol for GraphQl {
    fn id(&self) -> ProtocolId {
        ProtocolId::GRAPHQL
    }

    fn decode(&self, message: Message<'_>, commands: &mut Vec<Command>) -> Result<(), DecodeError> {
        let decoded = self.state().decode(self, message.data);
        commands.extend(decoded?);
        Ok(())
    }

    fn encode_reply(&self, reply: &Reply, out: &mut BytesMut) -> Encoded {
        self.state().encode_reply(self.dialect, reply, out)
    }

    fn encode_push(&self, push: Push<'_>, out: &mut BytesMut) -> Encoded {
        let Some(channel) = push.channel else { return Encoded::Nothing };
        match push.event {
            Event::Publication(publication, _) => {
                let mut record = BytesMut::new();
                record::put(channel, publication, &mut record);
                let record = record.freeze();
                let lengths = self.deliver(&record, &mut Selected::default(), out);
                texts(lengths)
            }
            Event::Unsubscribed(code) => self.state().end_channel(self.dialect, channel.as_str(), code, out),
            _ => Encoded::Nothing,
        }
    }

    fn heartbeat(&self) -> Heartbeat {
        match self.dialect {
            Dialect::TransportWs => Heartbeat::Message(MessageKind::Text, br#"{"type":"ping"}"#),
            // Its keep-alive messages are not answered, and a client that has had one expects more.
            Dialect::SubscriptionsTransport => Heartbeat::Transport,
            Dialect::OneStream | Dialect::StreamEach => Heartbeat::Unanswered,
        }
    }

    fn close(&self, disconnect: &Disconnect) -> Disconnect {
        close::translated(disconnect)
    }

    fn delimiter(&self) -> Option<&'static [u8]> {
        None
    }
}

/// Messages of these lengths.
fn texts(lengths: Vec<usize>) -> Encoded {
    match lengths.is_empty() {
        true => Encoded::Nothing,
        false => Encoded::Messages(lengths.into_iter().map(|length| (MessageKind::Text, length)).collect()),
    }
}

#[cfg(test)]
mod tests;
