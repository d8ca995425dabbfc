//! The raw protocol: a connection has at most one channel, and each message is a publication or goes to the application.
//!
//! Any WebSocket client can use it, as there is no format to parse. It cannot express replies, offsets, or reasons
//! other than that of a close.

use bytes::{BufMut, Bytes, BytesMut};

use super::{DecodeError, Encoded, Heartbeat, Protocol, ProtocolId};
use crate::command::{Command, Connect, Request, Since, Subscribe};
use crate::delivery::DeliveryWanted;
use crate::error::ErrorCode;
use crate::framing::{Message, MessageKind};
use crate::publication::{Payload, PayloadKind};
use crate::push::{Event, Push};
use crate::reply::{Answer, Reply};

const CONNECT_ID: u32 = 1;
const SUBSCRIBE_ID: u32 = 2;
/// The id of every message. None of them has a reply to match.
const MESSAGE_ID: u32 = 3;

/// One connection of the raw protocol. Unlike other protocols it has a value per connection, since the address holds
/// the channel to subscribe to. Its encodings are the same for all connections.
#[derive(Clone, Debug)]
pub struct Raw {
    channel: Box<str>,
    token: Box<str>,
    recover: Option<Since>,
    delivery: Option<DeliveryWanted>,
    messages: MessageHandling,
}

/// How the messages of a client of a raw endpoint (`/raw/…`) are handled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MessageHandling {
    /// Each message is published in the connection's channel.
    #[default]
    Publish,
    /// Each message goes to the application, which may answer.
    Ask,
    /// The first message closes the connection.
    Refuse,
}

impl Raw {
    /// Makes a connection. With `recover`, it begins with the publications after that position, or is closed with
    /// [`INSUFFICIENT_STATE`](crate::disconnect::Disconnect::INSUFFICIENT_STATE) if they are no longer retained: a gap
    /// must not go unnoticed.
    pub fn new(channel: Box<str>, token: Box<str>, recover: Option<Since>) -> Self {
        Self { channel, token, recover, delivery: None, messages: MessageHandling::default() }
    }

    /// Returns the same with the client's choice between all publications and the newest values.
    pub fn delivering(self, delivery: Option<DeliveryWanted>) -> Self {
        Self { delivery, ..self }
    }

    /// Returns the same for an endpoint that handles messages differently. If it does not publish them, its channel may
    /// be empty: then the connection has none.
    pub fn taking(self, messages: MessageHandling) -> Self {
        Self { messages, ..self }
    }

    /// Whether there is a channel to subscribe to. `/raw/` without a name is an error of the client, so it counts as one.
    fn subscribes(&self) -> bool {
        !self.channel.is_empty() || self.messages == MessageHandling::Publish
    }
}

impl Protocol for Raw {
    fn id(&self) -> ProtocolId {
        ProtocolId::RAW
    }

    fn open(&self, commands: &mut Vec<Command>) {
        let connect = Connect { token: self.token.clone(), name: "raw".into(), ..Connect::default() };
        commands.push(Command { id: CONNECT_ID, request: Request::Connect(Box::new(connect)) });
        if !self.subscribes() {
            return;
        }
        let since = self.recover.clone().unwrap_or_default();
        let subscribe = Subscribe {
            channel: self.channel.clone(),
            recover: self.recover.is_some(),
            recoverable: self.recover.is_some(),
            reject_unrecovered: self.recover.is_some(),
            epoch: since.epoch,
            offset: since.offset,
            delivery: self.delivery,
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
        let channel = self.channel.clone();
        let request = match self.messages {
            MessageHandling::Publish => Request::Publish { channel, data },
            MessageHandling::Ask => Request::Ask { channel, data },
            MessageHandling::Refuse => Request::Refused(ErrorCode::PermissionDenied),
        };
        commands.push(Command { id: MESSAGE_ID, request });
        Ok(())
    }

    fn encode_reply(&self, reply: &Reply, out: &mut BytesMut) -> Encoded {
        match &reply.outcome {
            Ok(Answer::Subscribe(subscribed)) if !subscribed.publications.is_empty() => {
                let missed = subscribed.publications.iter();
                Encoded::Messages(missed.map(|one| (put(&one.data, out), one.data.bytes.len())).collect())
            }
            Ok(_) => Encoded::Nothing,
            Err(refusal) => Encoded::Close(refusal.disconnect()),
        }
    }

    fn encode_push(&self, push: Push<'_>, out: &mut BytesMut) -> Encoded {
        match push.event {
            Event::Publication(publication, _) => Encoded::Message(put(&publication.data, out)),
            Event::Unsubscribed(code) => Encoded::Close(code.disconnect()),
            Event::Message(data) => Encoded::Message(put(data, out)),
            Event::Disconnected(disconnect) => Encoded::Close(disconnect.clone()),
            Event::Joined(_)
            | Event::Left(_)
            | Event::MemberAdded(_)
            | Event::MemberRemoved(_)
            | Event::Counted(_)
            | Event::Subscribed(_)
            | Event::Refreshed(_) => Encoded::Nothing,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Channel;
    use crate::publication::Publication;
    use crate::reply::Subscribed;

    fn raw(recover: Option<Since>) -> Raw {
        Raw::new("news".into(), "token".into(), recover)
    }

    fn pushed(data: Payload) -> (Encoded, Bytes) {
        let (channel, mut out) = (Channel::parse("news", 255).unwrap(), BytesMut::new());
        let publication = Publication::new(data);
        let push = Push::to(&channel, Event::plain(&publication));
        (raw(None).encode_push(push, &mut out), out.freeze())
    }

    #[test]
    fn opening_connects_and_subscribes() {
        let mut commands = Vec::new();
        raw(None).open(&mut commands);
        let [Request::Connect(connect), Request::Subscribe(subscribe)] =
            [commands[0].request.clone(), commands[1].request.clone()]
        else {
            panic!("{commands:?}")
        };
        assert_eq!(&*connect.token, "token");
        assert_eq!(subscribe, Subscribe { channel: "news".into(), ..Subscribe::default() });
    }

    #[test]
    fn a_position_asks_for_recovery_or_refusal() {
        let mut commands = Vec::new();
        raw(Some(Since { offset: 7, epoch: "abc".into() })).open(&mut commands);
        let Request::Subscribe(subscribe) = &commands[1].request else { panic!("{commands:?}") };
        assert!(subscribe.recover && subscribe.recoverable && subscribe.reject_unrecovered);
        assert_eq!((subscribe.offset, &*subscribe.epoch), (7, "abc"));
    }

    #[test]
    fn each_message_is_a_publication_of_its_kind() {
        let decoded = |kind, data| {
            let mut commands = Vec::new();
            raw(None).decode(Message { kind, data }, &mut commands).unwrap();
            let Request::Publish { channel, data } = commands.remove(0).request else {
                panic!("{commands:?}")
            };
            assert_eq!(&*channel, "news");
            data
        };
        assert_eq!(decoded(MessageKind::Text, b"{\"a\": 1}\n"), Payload::json("{\"a\": 1}\n"));
        assert_eq!(decoded(MessageKind::Text, b"hello"), Payload::text("hello"));
        assert_eq!(decoded(MessageKind::Text, b""), Payload::text(""));
        assert_eq!(decoded(MessageKind::Binary, b"{}"), Payload::binary(&b"{}"[..]));
    }

    #[test]
    fn an_endpoint_that_asks_needs_no_channel_and_one_that_refuses_says_so() {
        let opened = |channel: &str, messages| {
            let raw = Raw::new(channel.into(), "".into(), None).taking(messages);
            let mut commands = Vec::new();
            raw.open(&mut commands);
            let opened = commands.len();
            raw.decode(Message { kind: MessageKind::Text, data: b"hello" }, &mut commands).unwrap();
            (opened, commands.pop().unwrap().request)
        };
        let ask = |channel: &str| Request::Ask { channel: channel.into(), data: Payload::text("hello") };
        assert_eq!(opened("", MessageHandling::Ask), (1, ask("")));
        assert_eq!(opened("news", MessageHandling::Ask), (2, ask("news")));
        let refused = Request::Refused(ErrorCode::PermissionDenied);
        assert_eq!(opened("news", MessageHandling::Refuse), (2, refused));
        assert_eq!(opened("", MessageHandling::Publish).0, 2, "the session says that there is no name");
    }

    #[test]
    fn publications_go_out_as_they_came_in() {
        for (data, kind) in [
            (Payload::json("{\n}"), MessageKind::Text),
            (Payload::text("a\nb"), MessageKind::Text),
            (Payload::binary(&b"\x00\xff"[..]), MessageKind::Binary),
        ] {
            let bytes = data.bytes.clone();
            assert_eq!(pushed(data), (Encoded::Message(kind), bytes));
        }
    }

    #[test]
    fn what_was_recovered_goes_out_as_a_message_each() {
        let publications =
            vec![Publication::new(Payload::text("one")), Publication::new(Payload::binary(&b"\x00\xff"[..]))];
        let answer = Answer::Subscribe(Subscribed { publications, ..Subscribed::default() });
        let mut out = BytesMut::new();
        assert_eq!(
            raw(None).encode_reply(&Reply::new(SUBSCRIBE_ID, Ok(answer)), &mut out),
            Encoded::Messages(vec![(MessageKind::Text, 3), (MessageKind::Binary, 2)])
        );
        assert_eq!(&out[..], b"one\x00\xff");
    }

    #[test]
    fn success_is_silent_and_every_refusal_closes() {
        let mut out = BytesMut::new();
        let publish = Reply::new(MESSAGE_ID, Ok(Answer::Publish));
        assert_eq!(raw(None).encode_reply(&publish, &mut out), Encoded::Nothing);
        for error in ErrorCode::ALL {
            let encoded = raw(None).encode_reply(&Reply::new(MESSAGE_ID, Err(error.into())), &mut out);
            let Encoded::Close(disconnect) = encoded else { panic!("{error:?} does not close") };
            let may_go_well_next_time = error.is_temporary() || error == ErrorCode::UnrecoverablePosition;
            assert_eq!(disconnect.invites_reconnect(), may_go_well_next_time, "{error:?}");
        }
        assert!(out.is_empty());
    }
}
