//! GraphQL subscriptions: over WebSockets in both of their subprotocols, and over server-sent events in both modes.
//!
//! An operation reads a channel. A client may have several operations, also on one channel, each with an id and a
//! selection of its own. So unlike other protocols this one has a value per connection ([`GraphQl`]), which knows the
//! operations. All subscribers of a channel share a [`PayloadRecord`] ([`GraphQlRecords`]), from which each client's
//! value makes its messages.

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

/// The current subprotocol, of `graphql-ws` on npm.
pub const TRANSPORT_WS: &str = "graphql-transport-ws";
/// The previous subprotocol, of `subscriptions-transport-ws`.
pub const SUBSCRIPTIONS_TRANSPORT: &str = "graphql-ws";

/// The header with which the gateway names a client's event stream, and the client refers to it. In lower case.
pub const STREAM_TOKEN: &str = "x-graphql-event-stream-token";

/// The `extensions.code` of an error about an exceeded limit.
pub const LIMIT_EXCEEDED: &str = "LIMIT_EXCEEDED";

/// Longest id of an operation, in bytes.
pub const ID_BYTES_MAX: usize = 255;

/// Numbers of commands that belong to no operation.
mod number {
    pub(super) const CONNECT: u32 = 1;
    pub(super) const PING: u32 = 2;
    pub(super) const UNSUBSCRIBE: u32 = 3;
    /// The number of the first operation.
    pub(super) const OPERATIONS: u32 = 16;
}

/// The format of the messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dialect {
    TransportWs,
    SubscriptionsTransport,
    /// The events of all of a client's operations in one stream.
    OneStream,
    /// A stream for each operation.
    StreamEach,
}

impl Dialect {
    fn is_streamed(self) -> bool {
        matches!(self, Self::OneStream | Self::StreamEach)
    }
}

/// Validates operations and decides how each is carried out.
pub trait Planner: Send + Sync + std::fmt::Debug {
    /// Plans an operation. Has no visible side effects.
    fn plan(&self, operation: &RequestedOperation<'_>) -> Result<Plan, Vec<GraphQlError>>;
}

/// How an operation is carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Plan {
    /// The operation has this one result.
    Answer(Bytes),
    Subscribe(PlannedSubscription),
}

/// A subscription to carry out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlannedSubscription {
    /// The channel. Empty if only the application knows it.
    pub channel: Box<str>,
    /// The question to the application whether the client may subscribe and to which channel, if it is asked.
    pub ask: Option<Payload>,
    pub selection: Arc<FieldSelection>,
}

/// An error that prevents or ends an operation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GraphQlError {
    pub message: String,
    /// The content of `extensions.code`.
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

/// The operations of one client. The lock is never contended, as both of its users run on the client's worker. It
/// exists because the session and the delivery of publications share the value.
#[derive(Debug)]
pub struct GraphQl {
    dialect: Dialect,
    planner: Arc<dyn Planner>,
    operations_max: usize,
    state: Mutex<OperationState>,
}

/// Actions that the session must take after replies and messages.
#[derive(Debug, Default)]
pub struct SessionActions {
    pub commands: Vec<Command>,
    pub close: Option<Disconnect>,
}

impl GraphQl {
    /// Makes the operations of one client, which may have `operations_max` in flight.
    pub fn new(dialect: Dialect, planner: Arc<dyn Planner>, operations_max: usize) -> Self {
        Self { dialect, planner, operations_max, state: Mutex::default() }
    }

    /// Appends this client's messages for the records that the hub shares, and returns the length of each in bytes.
    pub fn deliver(&self, records: &Bytes, selected: &mut Selected, out: &mut BytesMut) -> Vec<usize> {
        let (mut rest, mut lengths) = (records.clone(), Vec::new());
        let mut state = self.state();
        while let Some((bytes, record)) = PayloadRecord::take(&mut rest) {
            let result = |selection: &Arc<FieldSelection>| selected.get(&bytes, &record, selection);
            lengths.append(&mut state.deliver(self.dialect, &record, out, result));
        }
        lengths
    }

    /// Whether a message of this client would begin an operation with the id of one that is in flight.
    pub fn would_repeat(&self, message: &[u8]) -> bool {
        self.state().would_repeat(message)
    }

    /// Returns the actions that replies and messages have caused since the last call, if there are any.
    pub fn take_actions(&self) -> Option<SessionActions> {
        let mut state = self.state();
        let actions = SessionActions { commands: state.settle(), close: state.close.take() };
        (!actions.commands.is_empty() || actions.close.is_some()).then_some(actions)
    }

    fn state(&self) -> MutexGuard<'_, OperationState> {
        // A state that a panic left inconsistent affects one client only.
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
            // Clients do not answer its keep-alive messages, and one that has received a keep-alive expects more.
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

/// Returns text messages of these lengths.
fn texts(lengths: Vec<usize>) -> Encoded {
    match lengths.is_empty() {
        true => Encoded::Nothing,
        false => Encoded::Messages(lengths.into_iter().map(|length| (MessageKind::Text, length)).collect()),
    }
}

#[cfg(test)]
mod tests;
