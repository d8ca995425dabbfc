//! Encodes replies, results and errors.

use bytes::{BufMut, Bytes, BytesMut};

use super::operations::{OperationStage, OperationState};
use super::{
    Dialect, GraphQlError, LIMIT_EXCEEDED, PayloadRecord, STREAM_TOKEN, close, number, record, texts,
};
use crate::disconnect::Disconnect;
use crate::error::ErrorCode;
use crate::framing::MessageKind;
use crate::position::StreamPosition;
use crate::protocol::{Encoded, Header, json};
use crate::push::UnsubscribeCode;
use crate::refusal::Refusal;
use crate::reply::{Answer, Connected, Reply, Subscribed};

/// The `extensions.code` of a position from which recovery is impossible.
const UNRECOVERABLE: &str = "UNRECOVERABLE_POSITION";

const TEXT: Encoded = Encoded::Message(MessageKind::Text);

impl OperationState {
    pub(super) fn encode_reply(&mut self, dialect: Dialect, reply: &Reply, out: &mut BytesMut) -> Encoded {
        match (reply.id, &reply.outcome) {
            (number::CONNECT, Ok(Answer::Connect(connected))) => self.welcome(dialect, connected, out),
            (number::CONNECT, Err(refusal)) => self.refuse_connect(dialect, refusal, out),
            (number::PING, Ok(_)) => {
                out.put_slice(br#"{"type":"pong"}"#);
                TEXT
            }
            (number, outcome) => match self.operations.iter().position(|one| one.number == number) {
                Some(at) => self.answer(dialect, at, reply, outcome.as_ref(), out),
                None => self.answer_nobody(reply),
            },
        }
    }

    fn welcome(&mut self, dialect: Dialect, connected: &Connected, out: &mut BytesMut) -> Encoded {
        self.acknowledged = true;
        match dialect {
            Dialect::TransportWs | Dialect::SubscriptionsTransport => {
                out.put_slice(br#"{"type":"connection_ack""#);
                if let Some(data) = connected.data.as_ref().filter(|data| !data.is_missing()) {
                    out.put_slice(br#","payload":"#);
                    json::payload(data, out);
                }
                out.put_u8(b'}');
                TEXT
            }
            Dialect::OneStream => {
                let name =
                    connected.session.as_deref().map(|session| format!("{}.{session}", connected.node));
                Encoded::Begin(name.map(|name| Header { name: STREAM_TOKEN, value: name.into() }))
            }
            Dialect::StreamEach => Encoded::Begin(None),
        }
    }

    fn refuse_connect(&mut self, dialect: Dialect, refusal: &Refusal, out: &mut BytesMut) -> Encoded {
        let disconnect = match refusal.temporary {
            true => refusal.disconnect(),
            false => Disconnect {
                code: close::FORBIDDEN,
                reason: Disconnect::REFUSED.with_reason(&refusal.message).reason,
            },
        };
        match dialect {
            Dialect::SubscriptionsTransport => {
                out.put_slice(br#"{"type":"connection_error","payload":"#);
                first_error(&refused(refusal), out);
                out.put_u8(b'}');
                self.close = Some(disconnect);
                TEXT
            }
            Dialect::TransportWs => Encoded::Close(disconnect),
            // In these dialects the HTTP status tells the client.
            Dialect::OneStream | Dialect::StreamEach => Encoded::Close(refusal.disconnect()),
        }
    }

    fn answer(
        &mut self,
        dialect: Dialect,
        at: usize,
        reply: &Reply,
        outcome: Result<&Answer, &Refusal>,
        out: &mut BytesMut,
    ) -> Encoded {
        let mut lengths = Vec::new();
        match (self.operations[at].stage.clone(), outcome) {
            (OperationStage::Result(result), _) => {
                let (gone, start) = (self.remove(at), out.len());
                next(dialect, &gone.id, &result, None, out);
                lengths.push(out.len() - start);
                self.complete(dialect, &gone.id, out, &mut lengths);
            }
            (OperationStage::Errors(errors), _) => {
                let gone = self.remove(at);
                self.fail(dialect, &gone.id, &errors, out, &mut lengths);
            }
            (OperationStage::Asked(selection), Ok(Answer::Subscribe(subscribed))) => {
                let channel = reply.channel.as_ref().map_or("", |channel| channel.as_str());
                let other_reader = self.operations.iter().find(|one| {
                    *one.channel == *channel
                        && matches!(one.stage, OperationStage::Live(_))
                        && one.position.is_some()
                });
                let position = subscribed.position.or(other_reader.and_then(|one| one.position));
                let one = &mut self.operations[at];
                // The publications read for this operation may begin earlier, as other operations on the channel needed them.
                let since = |offset| position.map(|position| StreamPosition { offset, ..position });
                one.position = one.since.map_or(position, since);
                one.channel = channel.into();
                one.stage = OperationStage::Live(selection);
                if one.since.is_some() && !subscribed.recovered {
                    let gone = self.remove(at);
                    let errors =
                        list(&[GraphQlError::new(UNRECOVERABLE, ErrorCode::UnrecoverablePosition.message())]);
                    self.fail(dialect, &gone.id, &errors, out, &mut lengths);
                }
                self.catch_up(dialect, reply, subscribed, out, &mut lengths);
            }
            // Clients do not retry a failed operation, but they reconnect after a lost connection. If other operations
            // are live, only this one fails.
            (OperationStage::Asked(_), Err(refusal))
                if refusal.is_outage() && !dialect.is_streamed() && !self.has_live() =>
            {
                return Encoded::Close(refusal.disconnect());
            }
            (OperationStage::Asked(_), Err(refusal)) => {
                let gone = self.remove(at);
                self.fail(dialect, &gone.id, &refused(refusal), out, &mut lengths);
            }
            // No other command has an operation's number.
            (OperationStage::Asked(_) | OperationStage::Live(_), _) => {}
        }
        texts(lengths)
    }

    /// Sends the missed publications to all operations that read the channel and have not received them.
    fn catch_up(
        &mut self,
        dialect: Dialect,
        reply: &Reply,
        subscribed: &Subscribed,
        out: &mut BytesMut,
        lengths: &mut Vec<usize>,
    ) {
        let Some(channel) = &reply.channel else { return };
        for publication in &subscribed.publications {
            let mut shared = BytesMut::new();
            record::put(channel, publication, &mut shared);
            if let Some((_, record)) = PayloadRecord::take(&mut shared.freeze()) {
                lengths
                    .extend(self.deliver(dialect, &record, out, |selection| selection.apply(&record.json)));
            }
        }
    }

    /// Handles the reply to an operation that the client has ended meanwhile.
    fn answer_nobody(&mut self, reply: &Reply) -> Encoded {
        if let (Some(channel), Ok(Answer::Subscribe(_))) = (&reply.channel, &reply.outcome) {
            self.leave(channel.as_str().into());
        }
        Encoded::Nothing
    }
}

/// Writes a publication for an operation. `result` holds the members of its result.
pub(super) fn next(
    dialect: Dialect,
    id: &str,
    result: &[u8],
    position: Option<StreamPosition>,
    out: &mut BytesMut,
) {
    out.reserve(result.len() + id.len() + 64);
    begin(dialect, "next", id, out);
    out.put_u8(b'{');
    out.put_slice(result);
    if let Some(position) = position {
        out.put_slice(br#","extensions":{"tidegate":{"position":{"epoch":"#);
        json::string(position.epoch.as_str(), out);
        out.put_slice(br#","offset":"#);
        json::number(position.offset, out);
        out.put_slice(b"}}}");
    }
    out.put_u8(b'}');
    end(dialect, out);
}

/// Writes the error that ends an operation. `errors` is a JSON list.
pub(super) fn error(dialect: Dialect, id: &str, errors: &[u8], out: &mut BytesMut) {
    match dialect {
        Dialect::TransportWs => {
            begin(dialect, "error", id, out);
            out.put_slice(errors);
        }
        Dialect::SubscriptionsTransport => {
            begin(dialect, "error", id, out);
            first_error(errors, out);
        }
        // There is no event for errors, so that they are sent as a result without data.
        Dialect::OneStream | Dialect::StreamEach => {
            begin(dialect, "next", id, out);
            out.put_slice(br#"{"errors":"#);
            out.put_slice(errors);
            out.put_u8(b'}');
        }
    }
    end(dialect, out);
}

/// Tells the client that an operation is complete, while its stream goes on.
pub(super) fn complete(dialect: Dialect, id: &str, out: &mut BytesMut) {
    if dialect.is_streamed() {
        out.put_slice(b"event: complete\ndata: ");
    }
    out.put_slice(br#"{"id":"#);
    json::string(id, out);
    match dialect.is_streamed() {
        true => out.put_slice(b"}\n\n"),
        false => out.put_slice(br#","type":"complete"}"#),
    }
}

fn begin(dialect: Dialect, kind: &str, id: &str, out: &mut BytesMut) {
    if dialect.is_streamed() {
        out.put_slice(b"event: next\ndata: ");
    }
    if dialect == Dialect::StreamEach {
        return;
    }
    out.put_slice(br#"{"id":"#);
    json::string(id, out);
    if !dialect.is_streamed() {
        out.put_slice(br#","type":""#);
        let kind = if kind == "next" && dialect == Dialect::SubscriptionsTransport { "data" } else { kind };
        out.put_slice(kind.as_bytes());
        out.put_u8(b'"');
    }
    out.put_slice(br#","payload":"#);
}

fn end(dialect: Dialect, out: &mut BytesMut) {
    if dialect != Dialect::StreamEach {
        out.put_u8(b'}');
    }
    if dialect.is_streamed() {
        out.put_slice(b"\n\n");
    }
}

/// Writes the first error of a JSON list, for the dialect that expects a single one.
fn first_error(errors: &[u8], out: &mut BytesMut) {
    let first: Option<Vec<&serde_json::value::RawValue>> = serde_json::from_slice(errors).ok();
    match first.as_deref() {
        Some([first, ..]) => out.put_slice(first.get().as_bytes()),
        _ => out.put_slice(b"{}"),
    }
}

/// Returns the errors as a JSON list.
pub(super) fn list(errors: &[GraphQlError]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(b'[');
    for (index, error) in errors.iter().enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        out.put_slice(br#"{"message":"#);
        json::string(&error.message, &mut out);
        if let Some((line, column)) = error.location {
            out.put_slice(br#","locations":[{"line":"#);
            json::number(line as u64, &mut out);
            out.put_slice(br#","column":"#);
            json::number(column as u64, &mut out);
            out.put_slice(b"}]");
        }
        out.put_slice(br#","extensions":{"code":"#);
        json::string(error.code, &mut out);
        out.put_slice(b"}}");
    }
    out.put_u8(b']');
    out.freeze()
}

/// Returns the errors for a subscription that the server has ended.
pub(super) fn ended(code: UnsubscribeCode) -> Bytes {
    let name = match code {
        UnsubscribeCode::Server => "UNSUBSCRIBED",
        UnsubscribeCode::InsufficientState => "INSUFFICIENT_STATE",
        UnsubscribeCode::Expired => "SUBSCRIPTION_EXPIRED",
        UnsubscribeCode::StateInvalidated => "STATE_INVALIDATED",
    };
    list(&[GraphQlError::new(name, code.reason())])
}

/// Returns the errors for an operation that the session refuses.
fn refused(refusal: &Refusal) -> Bytes {
    let name = match refusal.error_code() {
        None => "REFUSED",
        Some(ErrorCode::Internal) => "INTERNAL_SERVER_ERROR",
        Some(ErrorCode::Unauthorized | ErrorCode::TokenExpired | ErrorCode::Expired) => "UNAUTHENTICATED",
        Some(ErrorCode::PermissionDenied) => "FORBIDDEN",
        Some(ErrorCode::LimitExceeded) => LIMIT_EXCEEDED,
        Some(ErrorCode::TooManyRequests | ErrorCode::ConcurrentPagination) => "TOO_MANY_REQUESTS",
        Some(ErrorCode::UnrecoverablePosition) => UNRECOVERABLE,
        Some(ErrorCode::UnknownChannel) => "UNKNOWN_CHANNEL",
        Some(
            ErrorCode::BadRequest
            | ErrorCode::MethodNotFound
            | ErrorCode::AlreadySubscribed
            | ErrorCode::NotAvailable,
        ) => "BAD_USER_INPUT",
    };
    let mut out = BytesMut::new();
    out.put_slice(br#"[{"message":"#);
    json::string(&refusal.message, &mut out);
    out.put_slice(br#","extensions":{"code":"#);
    json::string(name, &mut out);
    if refusal.error_code().is_none() {
        // The application's own error code.
        out.put_slice(br#","number":"#);
        json::number(refusal.code.into(), &mut out);
    }
    out.put_slice(b"}}]");
    out.freeze()
}
