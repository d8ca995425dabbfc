//! The bare protocol: a connection is one channel, a message is a publication.
//!
//! There is nothing to learn and nothing to parse: any WebSocket client speaks it. What it cannot say (an answer, an
//! offset, a reason other than that of a close) it does not say.

use bytes::{BufMut, Bytes, BytesMut};

use super::{DecodeError, Encoded, Heartbeat, Protocol, ProtocolId};
use crate::command::{Command, Connect, Request, Since, Subscribe};
use crate::disconnect::Disconnect;
use crate::error::ErrorCode;
use crate::framing::{Message, MessageKind};
use crate::publication::{Payload, PayloadKind};
use crate::push::{Event, Push, UnsubscribeCode};
use crate::reply::{Answer, Reply};

const CONNECT_ID: u32 = 1;
const SUBSCRIBE_ID: u32 = 2;
/// Of every publication: nobody waits for one in particular.
const PUBLISH_ID: u32 = 3;

/// One connection of the bare protocol. Unlike other protocols it has a value per connection, since what to subscribe
/// to stands in the address. What it encodes is the same for all.
#[derive(Clone, Debug)]
pub struct Raw {
    channel: Box<str>,
    token: Box<str>,
    recover: Option<Since>,
}

impl Raw {
    /// With `recover`, the connection begins with the publications after that position, or is closed with
    /// [`Disconnect::INSUFFICIENT_STATE`] if they are no longer there: a gap must not go unseen.
    pub fn new(channel: Box<str>, token: Box<str>, recover: Option<Since>) -> Self {
        Self { channel, token, recover }
    }
}

impl Protocol for Raw {
    fn id(&self) -> ProtocolId {
        ProtocolId::RAW
    }

    fn open(&self, commands: &mut Vec<Command>) {
        let connect = Connect { token: self.token.clone(), name: "raw".into(), ..Connect::default() };
        commands.push(Command { id: CONNECT_ID, request: Request::Connect(connect) });
        let since = self.recover.clone().unwrap_or_default();
        let subscribe = Subscribe {
            channel: self.channel.clone(),
            recover: self.recover.is_some(),
            recoverable: self.recover.is_some(),
            reject_unrecovered: self.recover.is_some(),
            epoch: since.epoch,
            offset: since.offset,
            ..Subscribe::default()
        };
        commands.push(Command { id: SUBSCRIBE_ID, request: Request::Subscribe(subscribe) });
    }

    fn decode(&self, message: Message<'_>, commands: &mut Vec<Command>) -> Result<(), DecodeError> {
        let bytes = Bytes::copy_from_slice(message.data);
        let data = match message.kind {
            MessageKind::Text => Payload::json_or_text(bytes),
            MessageKind::Binary => Payload::binary(bytes),
        };
        let request = Request::Publish { channel: self.channel.clone(), data };
        commands.push(Command { id: PUBLISH_ID, request });
        Ok(())
    }

    fn encode_reply(&self, reply: &Reply, out: &mut BytesMut) -> Encoded {
        match &reply.outcome {
            Ok(Answer::Subscribe(subscribed)) if !subscribed.publications.is_empty() => {
                let missed = subscribed.publications.iter();
                Encoded::Messages(missed.map(|one| (put(&one.data, out), one.data.bytes.len())).collect())
            }
            Ok(_) => Encoded::Nothing,
            Err(error) => Encoded::Close(disconnect(*error)),
        }
    }

    fn encode_push(&self, push: Push<'_>, out: &mut BytesMut) -> Encoded {
        match push.event {
            Event::Publication(publication) => Encoded::Message(put(&publication.data, out)),
            Event::Unsubscribed(code) => Encoded::Close(match code {
                UnsubscribeCode::Server => Disconnect::FORCE_DISCONNECT,
                UnsubscribeCode::InsufficientState => Disconnect::INSUFFICIENT_STATE,
                UnsubscribeCode::Expired => Disconnect::SUBSCRIPTION_EXPIRED,
            }),
        }
    }

    fn heartbeat(&self) -> Heartbeat {
        Heartbeat::Transport
    }

    fn delimiter(&self) -> Option<&'static [u8]> {
        None
    }
}

fn put(payload: &Payload, out: &mut BytesMut) -> MessageKind {
    out.put_slice(&payload.bytes);
    match payload.kind {
        PayloadKind::Json | PayloadKind::Text => MessageKind::Text,
        PayloadKind::Binary => MessageKind::Binary,
    }
}

/// The close that says what the error would. Only what may go well next time invites the client back.
fn disconnect(error: ErrorCode) -> Disconnect {
    match error {
        ErrorCode::Internal => Disconnect::INTERNAL,
        ErrorCode::TooManyRequests => Disconnect::TOO_MANY_REQUESTS,
        ErrorCode::UnrecoverablePosition => Disconnect::INSUFFICIENT_STATE,
        ErrorCode::Unauthorized | ErrorCode::TokenExpired | ErrorCode::Expired => Disconnect::INVALID_TOKEN,
        ErrorCode::PermissionDenied => Disconnect::PERMISSION_DENIED,
        ErrorCode::LimitExceeded => Disconnect::CHANNEL_LIMIT,
        ErrorCode::NotAvailable => Disconnect::NOT_AVAILABLE,
        ErrorCode::UnknownChannel
        | ErrorCode::MethodNotFound
        | ErrorCode::AlreadySubscribed
        | ErrorCode::BadRequest => Disconnect::BAD_REQUEST,
    }
}
