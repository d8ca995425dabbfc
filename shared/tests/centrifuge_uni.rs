//! The unidirectional Centrifuge protocol: the client's one message, and the server's messages after it.

use bytes::BytesMut;
use shared::command::{Command, Connect, Request};
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::framing::{Message, MessageKind};
use shared::protocol::centrifuge::json::CentrifugeJson;
use shared::protocol::centrifuge::protobuf::CentrifugeProtobuf;
use shared::protocol::centrifuge::protobuf::client::{
    ConnectResult, decode_frame, decode_pushes, encode_connect,
};
use shared::protocol::centrifuge::uni::{CentrifugeUniJson, CentrifugeUniProtobuf};
use shared::protocol::{DecodeError, Encoded, Heartbeat, Protocol};
use shared::refusal::Refusal;
use shared::reply::{Answer, Reply};

#[path = "support/words.rs"]
mod words;

use words::{Pushed, connected_with_all, replies};

const JSON: CentrifugeUniJson = CentrifugeUniJson { joins: false, transport_pings: false };
const PROTOBUF: CentrifugeUniProtobuf = CentrifugeUniProtobuf { joins: false, transport_pings: false };

fn decode(protocol: &dyn Protocol, data: &[u8]) -> Result<Vec<Command>, DecodeError> {
    let mut commands = Vec::new();
    let message = Message { kind: MessageKind::Binary, data };
    protocol.decode(message, &mut commands).map(|()| commands)
}

fn answered(protocol: &dyn Protocol, reply: &Reply) -> (Encoded, BytesMut) {
    let mut out = BytesMut::new();
    (protocol.encode_reply(reply, &mut out), out)
}

#[test]
fn the_first_message_is_a_connect_request_alone() {
    let connect = Connect { token: "t".into(), name: "n".into(), ..Connect::default() };
    let expected = Ok(vec![Command { id: 1, request: Request::Connect(Box::new(connect.clone())) }]);
    assert_eq!(decode(&JSON, b"{\"token\":\"t\",\"name\":\"n\",\"other\":1}\n"), expected);
    assert_eq!(decode(&PROTOBUF, &encode_connect(&connect)), expected);

    let nobody = Ok(vec![Command { id: 1, request: Request::Connect(Box::default()) }]);
    assert_eq!(decode(&JSON, b"{}"), nobody);
    assert_eq!(decode(&PROTOBUF, b""), nobody, "a message without fields has no bytes");

    assert_eq!(decode(&JSON, b""), Err(DecodeError::Empty));
    for bad in [&b"zzz"[..], b"[]", b"{}{}", b"{\"token\":1}", b"\xff"] {
        assert_eq!(decode(&JSON, bad), Err(DecodeError::Malformed));
    }
    assert_eq!(decode(&PROTOBUF, b"{}"), Err(DecodeError::Malformed));
}

#[test]
fn that_it_has_connected_is_told_as_a_push() {
    let reply = Reply::new(1, Ok(Answer::Connect(Box::new(connected_with_all()))));
    let (encoded, told) = answered(&JSON, &reply);
    assert_eq!(encoded, Encoded::Message(MessageKind::Text));
    let (_, wrapped) = answered(&CentrifugeJson::default(), &reply);
    let wrapped = std::str::from_utf8(&wrapped).expect("JSON is text");
    assert_eq!(std::str::from_utf8(&told), Ok(&*wrapped.replacen("\"id\":1,", "", 1)));

    let (encoded, told) = answered(&PROTOBUF, &reply);
    assert_eq!(encoded, Encoded::Message(MessageKind::Binary));
    let told = decode_pushes(&told).expect("it reads").remove(0).connect.expect("a connect push");
    let (_, wrapped) = answered(&CentrifugeProtobuf::default(), &reply);
    let result = decode_frame(&wrapped).expect("it reads").remove(0).connect.expect("a connect result");
    let told = ConnectResult {
        client: told.client,
        version: told.version,
        expires: told.expires,
        ttl: told.ttl,
        data: told.data,
        subs: told.subs,
        ping: told.ping,
        pong: told.pong,
        session: told.session,
        node: told.node,
        time: told.time,
    };
    assert_eq!(told, result);
}

#[test]
fn every_other_push_is_told_without_a_reply_around_it() {
    let pushed = Pushed::new();
    for (name, push) in pushed.pushes() {
        let (mut told, mut wrapped) = (BytesMut::new(), BytesMut::new());
        assert_eq!(JSON.encode_push(push, &mut told), Encoded::Message(MessageKind::Text));
        CentrifugeJson::default().encode_push(push, &mut wrapped);
        assert_eq!([b"{\"push\":", &told[..], b"}"].concat(), wrapped, "{name}");

        let (mut told, mut wrapped) = (BytesMut::new(), BytesMut::new());
        assert_eq!(PROTOBUF.encode_push(push, &mut told), Encoded::Message(MessageKind::Binary));
        CentrifugeProtobuf::default().encode_push(push, &mut wrapped);
        let told = decode_pushes(&told).expect("it reads").remove(0);
        assert_eq!(decode_frame(&wrapped).expect("it reads").remove(0).push, Some(told), "{name}");
    }
}

#[test]
fn it_is_answered_nothing_else_and_a_no_is_a_close() {
    for (name, reply) in replies() {
        let expected = match &reply.outcome {
            Ok(Answer::Connect(_)) => continue,
            Ok(_) => Encoded::Nothing,
            Err(refusal) => Encoded::Close(refusal.disconnect()),
        };
        for protocol in [&JSON as &dyn Protocol, &PROTOBUF] {
            assert_eq!(answered(protocol, &reply), (expected.clone(), BytesMut::new()), "{name}");
        }
    }
    for error in [ErrorCode::TokenExpired, ErrorCode::Expired] {
        let reply = Reply::new(1, Err(Refusal::of(error)));
        assert_eq!(answered(&JSON, &reply).0, Encoded::Close(Disconnect::EXPIRED), "it may come again");
    }
}

#[test]
fn its_pings_are_messages_or_the_transports() {
    assert_eq!(JSON.heartbeat(), Heartbeat::Message(MessageKind::Text, b"{}"));
    assert_eq!(PROTOBUF.heartbeat(), Heartbeat::Message(MessageKind::Binary, &[0]));
    for protocol in [
        &CentrifugeUniJson { transport_pings: true, ..JSON } as &dyn Protocol,
        &CentrifugeUniProtobuf { transport_pings: true, ..PROTOBUF },
    ] {
        assert_eq!(protocol.heartbeat(), Heartbeat::Transport);
    }
}

#[test]
fn pushes_share_a_message_only_where_that_is_set() {
    assert_eq!((JSON.delimiter(), PROTOBUF.delimiter()), (None, None));
    assert_eq!(CentrifugeUniJson { joins: true, ..JSON }.delimiter(), Some(&b"\n"[..]));
    assert_eq!(CentrifugeUniProtobuf { joins: true, ..PROTOBUF }.delimiter(), Some(&b""[..]));
}
