//! Properties that must hold for any input. Each function takes bytes that a peer may send, and panics if its property fails.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use shared::channel::Channel;
use shared::command::{Command, Request};
use shared::error::ErrorCode;
use shared::framing::engine_io::{self, EnginePacket, put_message};
use shared::framing::websocket::{
    Assembler, DeflatePolicy, Deflater, FrameError, FrameEvent, Inflater, Limits, Role, offer, read_upgrade,
};
use shared::framing::{Message, MessageKind};
use shared::id::ClientId;
use shared::protocol::centrifuge::json::CentrifugeJson;
use shared::protocol::centrifuge::json::client::{decode_frame, encode_command};
use shared::protocol::centrifuge::protobuf::{self, CentrifugeProtobuf};
use shared::protocol::centrifuge::uni::{CentrifugeUniJson, CentrifugeUniProtobuf};
use shared::protocol::event_source::{EventSourceRequest, Positions, Types};
use shared::protocol::graphql::{
    Dialect, FieldSelection, GraphQl, GraphQlError, GraphQlRecords, Plan, PlannedSubscription, Planner,
    RequestedOperation, Selected, ValueRule, ValueType,
};
use shared::protocol::mercure;
use shared::protocol::pusher::{Pusher, PusherChannelKind, PusherNames, parse_socket_id, socket_id};
use shared::protocol::raw::Raw;
use shared::protocol::socketio::{
    BINARY_TAG, Destination, ForwardRule, NamespaceAccess, Namespaces, Route, Routes, SocketIo,
    SocketIoShared, parse_sid, sid,
};
use shared::protocol::{Encoded, Protocol};
use shared::publication::{EVENT_TAG, Payload, Publication};
use shared::push::{Event as PushEvent, Push};
use shared::record::{decode_message, decode_record, encode_record, split_position};
use shared::reply::{Answer, Connected, Reply, Subscribed};
use shared::topic_selector::Selector;

/// The framing reads the same events however the bytes are split, holds no more than its limits, and only returns text
/// that is UTF-8. The first byte chooses the role, compression and the size of the pieces.
pub fn websocket_frames(data: &[u8]) {
    let Some((&choice, stream)) = data.split_first() else { return };
    let role = if choice & 1 == 0 { Role::Server } else { Role::Client };
    let piece_bytes = usize::from(choice >> 2) + 1;
    let whole = heard(role, choice & 2 != 0, stream, stream.len().max(1));
    assert_eq!(whole, heard(role, choice & 2 != 0, stream, piece_bytes));
}

/// Inflating any bytes ends within the limit and gives the same result twice, and deflated bytes inflate to the original.
pub fn websocket_inflate(data: &[u8]) {
    let mut inflater = Inflater::new();
    let first = inflater.inflate(data, LIMITS.message_bytes_max).map(<[u8]>::to_vec);
    assert!(first.as_ref().is_ok_and(|message| message.len() <= LIMITS.message_bytes_max) || first.is_err());
    assert_eq!(inflater.inflate(data, LIMITS.message_bytes_max), first.as_deref().map_err(|error| *error));

    let window_bits = data.first().map_or(0, |byte| byte % 16);
    let mut compressed = BytesMut::new();
    assert!(Deflater::new(window_bits).deflate_for_window(data, window_bits, &mut compressed));
    assert_eq!(inflater.inflate(&compressed, data.len()), Ok(data));
}

/// Any headers are accepted or refused, and the answer to an offer is itself a valid offer. Each line is a header, and
/// the whole input is also tried as an offer.
pub fn websocket_handshake(data: &[u8]) {
    let headers = data.split(|byte| *byte == b'\n').filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        Some((std::str::from_utf8(&line[..colon]).ok()?, &line[colon + 1..]))
    });
    match read_upgrade("GET", headers) {
        Ok(upgrade) => assert_eq!(upgrade.accept.len(), 28),
        Err(error) => assert!(matches!(error.status(), 400 | 405 | 426)),
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some(params) = offer::negotiate([text], DeflatePolicy::default()) {
        assert!(offer::negotiate([&*params.response()], DeflatePolicy::default()).is_some());
    }
}

/// A command that decodes is the same after it is encoded and decoded again.
pub fn centrifuge_json(data: &[u8]) {
    for kind in [MessageKind::Text, MessageKind::Binary] {
        let mut commands = Vec::new();
        let _ = CentrifugeJson::default().decode(Message { kind, data }, &mut commands);
        for command in commands {
            if let Request::Subscribe(subscribe) = &command.request {
                let _ = subscribe.delivery();
            }
            // These stand for input that is not served, and have no encoding.
            if !matches!(command.request, Request::Refused(_) | Request::Unknown) {
                assert_eq!(rewritten(&command), [command]);
            }
        }
    }
}

/// Reading and checking a request's body agree, and a message that was read from one body reads back from another one.
pub fn engine_io(data: &[u8]) {
    let mut body = data.to_vec();
    let read: Result<Vec<_>, _> = engine_io::PollingPayload::read(&mut body).collect();
    assert_eq!(read.as_ref().err(), engine_io::PollingPayload::check(data).err().as_ref());
    for packet in read.into_iter().flatten() {
        let EnginePacket::Message(message) = packet else { continue };
        let mut put = BytesMut::new();
        put_message(message, &mut put);
        assert_eq!(
            engine_io::PollingPayload::read(&mut put).collect::<Vec<_>>(),
            [Ok(EnginePacket::Message(message))]
        );
    }
    for kind in [MessageKind::Text, MessageKind::Binary] {
        let _ = EnginePacket::read(Message { kind, data });
    }
}

/// Any message of a Pusher client is at most one command, whose channel, if it has one, belongs to the client's app. An
/// event is within the size limit, and its channel accepts client events.
pub fn pusher(data: &[u8]) {
    let names = PusherNames::new("app", ":", "#");
    let pusher = Pusher { names: names.clone(), activity_timeout_s: 120, event_data_bytes_max: 100 };
    let mut commands = Vec::new();
    let _ = pusher.decode(Message { kind: MessageKind::Text, data }, &mut commands);
    assert!(commands.len() <= 1);
    for command in commands {
        let channel = match &command.request {
            Request::Subscribe(subscribe) => &subscribe.channel,
            Request::Unsubscribe { channel } => channel,
            Request::Emit { channel, data, .. } => {
                assert!(data.bytes.len() <= 100);
                assert!(
                    PusherChannelKind::of(&names.name_of(channel).expect("of the app")).takes_client_events()
                );
                channel
            }
            _ => continue,
        };
        let name = names.name_of(channel).expect("a channel of the app");
        assert_eq!(names.channel(&name), **channel);
    }
    if let Some(client) = std::str::from_utf8(data).ok().and_then(parse_socket_id) {
        assert_eq!(parse_socket_id(&socket_id(client)), Some(client));
    }
}

/// A document is a channel's name. A leading `?` is a query, `@` a question for the application, and `!` an error.
#[derive(Debug)]
struct ByFirstLetter;

impl Planner for ByFirstLetter {
    fn plan(&self, request: &RequestedOperation<'_>) -> Result<Plan, Vec<GraphQlError>> {
        let selection =
            || FieldSelection { key: "m".into(), value: ValueRule { non_null: false, of: ValueType::Any } };
        let planned = |channel: &str, ask| PlannedSubscription {
            channel: channel.into(),
            ask,
            selection: selection().into(),
        };
        Ok(match request.query.chars().next() {
            Some('!') => return Err(vec![GraphQlError::new("BAD", &*request.query)]),
            Some('?') => Plan::Answer(Bytes::from_static(b"\"data\":{}")),
            Some('@') => Plan::Subscribe(planned("", Some(Payload::text(request.query.to_string())))),
            _ => Plan::Subscribe(planned("news", None)),
        })
    }
}

/// A GraphQL client receives valid messages, at most one for each operation in flight. The first byte chooses the
/// dialect and the session's answers; each line is a message.
pub fn graphql(data: &[u8]) {
    let Some((&choice, messages)) = data.split_first() else { return };
    let dialects =
        [Dialect::TransportWs, Dialect::SubscriptionsTransport, Dialect::OneStream, Dialect::StreamEach];
    let dialect = dialects[usize::from(choice) % 4];
    let client = GraphQl::new(dialect, Arc::new(ByFirstLetter), 8);
    let channel = Channel::parse("news", 255).expect("a name");
    let mut out = BytesMut::new();
    for message in messages.split(|byte| *byte == b'\n') {
        let mut commands = Vec::new();
        if client.decode(Message { kind: MessageKind::Text, data: message }, &mut commands).is_err() {
            return;
        }
        let mut rest = std::collections::VecDeque::from(commands);
        while let Some(command) = rest.pop_front() {
            let outcome = match command.request {
                Request::Connect(_) => {
                    Ok(Answer::Connect(Box::new(Connected::new(ClientId::from_random(1), "1", "n".into()))))
                }
                Request::Subscribe(subscribe) if choice & 4 == 0 => {
                    let recovered = subscribe.recover && choice & 8 == 0;
                    Ok(Answer::Subscribe(Subscribed { recovered, ..Subscribed::default() }))
                }
                Request::Unsubscribe { .. } => Ok(Answer::Unsubscribe),
                Request::Ping => Ok(Answer::Pong),
                _ => Err(ErrorCode::BadRequest.into()),
            };
            let reply = Reply { id: command.id, channel: Some(channel.clone()), outcome };
            let start = out.len();
            let encoded = client.encode_reply(&reply, &mut out);
            if let Encoded::Messages(parts) = encoded {
                assert_eq!(out.len() - start, parts.iter().map(|(_, length)| length).sum::<usize>());
            }
            rest.extend(client.take_actions().map(|actions| actions.commands).unwrap_or_default());
        }
    }
    let publication = Publication::new(Payload::json("{\n}"));
    let mut record = BytesMut::new();
    GraphQlRecords.encode_push(Push::to(&channel, PushEvent::plain(&publication)), &mut record);
    let mut out = BytesMut::new();
    let lengths = client.deliver(&record.freeze(), &mut Selected::default(), &mut out);
    assert!(lengths.len() <= 8);
    for length in lengths {
        let message = out.split_to(length);
        let text = std::str::from_utf8(&message).expect("text");
        let json = match dialect {
            Dialect::TransportWs | Dialect::SubscriptionsTransport => text,
            _ => text
                .strip_prefix("event: next\ndata: ")
                .and_then(|rest| rest.strip_suffix("\n\n"))
                .expect("an event"),
        };
        assert!(!json.contains('\n'));
        serde_json::from_str::<serde_json::Value>(json).expect("JSON");
    }
}

/// Messages of a Socket.IO client only reach its own namespaces, and an event that is forwarded decodes to the same
/// event. 0x1e separates messages; those that are not UTF-8 are attachments.
pub fn socketio(data: &[u8]) {
    let (one, other) = (socketio_connection(4), socketio_connection(1_000));
    let enter = Message { kind: MessageKind::Text, data: b"0" };
    let _ = (one.decode(enter, &mut Vec::new()), other.decode(enter, &mut Vec::new()));
    for data in data.split(|byte| *byte == 0x1e) {
        let kind = if std::str::from_utf8(data).is_ok() { MessageKind::Text } else { MessageKind::Binary };
        let mut commands = Vec::new();
        if one.decode(Message { kind, data }, &mut commands).is_err() {
            break;
        }
        assert!(commands.len() <= 1 && one.held_bytes() <= 4_096);
        for Command { request, .. } in commands {
            let forward = match request {
                Request::Enter(enter) => {
                    assert_eq!(&*enter.channel, "io:*");
                    continue;
                }
                Request::Unsubscribe { channel } => {
                    assert_eq!(&*channel, "io:*");
                    continue;
                }
                Request::Forward(forward) => *forward,
                Request::Refused(_) => continue,
                other => panic!("{other:?}"),
            };
            if forward.arguments.tags.contains_key(BINARY_TAG) {
                // A duplicate key has only one pointer.
                continue;
            }
            let mut publication = Publication::new(forward.arguments.data.clone());
            publication.tags = forward.arguments.tags.clone();
            publication.tags.insert(EVENT_TAG.into(), forward.event.clone());
            let events = encoded_events(&one, &publication);
            let mut again = Vec::new();
            for (kind, bytes) in &events {
                other
                    .decode(Message { kind: *kind, data: bytes }, &mut again)
                    .expect("what the server says is a packet");
            }
            let [Command { request: Request::Forward(heard), .. }] = &again[..] else { panic!("{again:?}") };
            assert_eq!((&heard.event, &heard.arguments.tags), (&forward.event, &forward.arguments.tags));
            let unbroken = |bytes: &[u8]| {
                bytes.iter().map(|byte| if *byte == b'\n' { b' ' } else { *byte }).collect::<Vec<_>>()
            };
            assert_eq!(unbroken(&heard.arguments.data.bytes), unbroken(&forward.arguments.data.bytes));
        }
    }
    if let Some(client) = std::str::from_utf8(data).ok().and_then(|text| parse_sid(text, "/")) {
        assert_eq!(parse_sid(&sid(client, "/"), "/"), Some(client));
    }
}

fn socketio_connection(attachments_max: u32) -> SocketIo {
    let mut routes = Routes::default();
    routes.add("*", Route::Publish(ForwardRule { to: Destination::Namespace, event: None, to_sender: true }));
    let mut namespaces = Namespaces::new(":");
    namespaces.add("/", "io", NamespaceAccess::default(), routes);
    SocketIo::new(Arc::new(SocketIoShared {
        token_key: "token".into(),
        namespaces,
        attachments_max,
        packet_bytes_max: 4_000 + attachments_max as usize * 1_000,
    }))
}

/// Returns the messages in which a publication is sent.
fn encoded_events(protocol: &SocketIo, publication: &Publication) -> Vec<(MessageKind, BytesMut)> {
    let (channel, mut out) = (Channel::parse("io:*", 255).expect("a name"), BytesMut::new());
    let push = Push::to(&channel, PushEvent::plain(publication));
    match protocol.encode_push(push, &mut out) {
        Encoded::Message(kind) => vec![(kind, out)],
        Encoded::Messages(parts) => {
            parts.into_iter().map(|(kind, length)| (kind, out.split_to(length))).collect()
        }
        other => panic!("{other:?}"),
    }
}

/// The property of [`centrifuge_json`] in Protobuf, where a payload is any bytes.
pub fn centrifuge_protobuf(data: &[u8]) {
    let mut commands = Vec::new();
    let message = Message { kind: MessageKind::Binary, data };
    let _ = CentrifugeProtobuf::default().decode(message, &mut commands);
    for command in commands {
        if !matches!(command.request, Request::Refused(_) | Request::Unknown) {
            let (mut bytes, mut again) = (BytesMut::new(), Vec::new());
            protobuf::client::encode_command(&command, &mut bytes);
            let message = Message { kind: MessageKind::Binary, data: &bytes };
            assert_eq!(CentrifugeProtobuf::default().decode(message, &mut again), Ok(()));
            assert_eq!(again, [command]);
        }
    }
    let _ = protobuf::client::decode_frame(data);
}

/// Any first message of a unidirectional client is a connect request or an error.
pub fn centrifuge_uni(data: &[u8]) {
    let message = Message { kind: MessageKind::Binary, data };
    for protocol in [&CentrifugeUniJson::default() as &dyn Protocol, &CentrifugeUniProtobuf::default()] {
        let mut commands = Vec::new();
        let decoded = protocol.decode(message, &mut commands);
        assert_eq!(commands.len(), usize::from(decoded.is_ok()));
        assert!(commands.iter().all(|command| matches!(command.request, Request::Connect(_))));
    }
}

/// The client side reads any frame without panicking.
pub fn centrifuge_json_client(data: &[u8]) {
    if let Ok(frame) = std::str::from_utf8(data) {
        decode_frame(frame).for_each(drop);
    }
}

/// Every message of the raw protocol is one publication.
pub fn raw(data: &[u8]) {
    for kind in [MessageKind::Text, MessageKind::Binary] {
        if kind == MessageKind::Text && std::str::from_utf8(data).is_err() {
            continue;
        }
        let mut commands = Vec::new();
        let decoded =
            Raw::new("channel".into(), "".into(), None).decode(Message { kind, data }, &mut commands);
        assert_eq!((decoded, commands.len()), (Ok(()), 1));
        let Request::Publish { data: payload, .. } = &commands[0].request else { panic!("{commands:?}") };
        assert_eq!(payload.bytes, data);
    }
}

/// Any address is refused or asks for valid channels, and amending a stream changes nothing but its ids. The first line
/// is the query, the second the last id, the rest the stream.
pub fn event_source(data: &[u8]) {
    let mut parts = data.splitn(3, |byte| *byte == b'\n');
    let (query, last_id) = (parts.next().unwrap_or_default(), parts.next());
    let events = parts.next().unwrap_or_default();
    if let Ok(query) = std::str::from_utf8(query)
        && let Ok(request) = EventSourceRequest::read(query, last_id)
    {
        let is_of_several = request.types() == Types::Channel;
        let connect = request.connect();
        assert!(is_of_several || connect.exact && connect.subs.len() == 1);
        assert!(
            connect.subs.iter().all(|(name, sub)| !name.is_empty() && sub.channel == *name || !connect.exact)
        );
    }
    let mut positions = Positions::default();
    let mut amended = BytesMut::new();
    positions.amend(events, &mut amended);
    let without_ids = |events: &[u8]| -> Vec<Vec<u8>> {
        let lines = events.split(|byte| *byte == b'\n');
        lines.filter(|line| !line.starts_with(b"id: ")).map(<[u8]>::to_vec).collect()
    };
    assert_eq!(without_ids(&amended), without_ids(events));
}

/// Any address and any form are refused or valid, and an update is always exactly one event. The first line is the
/// address, the rest the form. The two are also tried as a template and a topic.
pub fn mercure(data: &[u8]) {
    let split = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (query, form) = (&data[..split], data.get(split + 1..).unwrap_or_default());
    if let Ok(query) = std::str::from_utf8(query)
        && let Ok(request) = mercure::MercureRequest::read(query, Some(form))
    {
        let connect = request.connect("", |topic| format!("m:{}", topic.unwrap_or("*")));
        assert!(connect.exact && connect.subs.len() == 1);
    }
    if let Ok(update) = mercure::Update::read(form) {
        let channel = Channel::parse("m:*", 255).expect("a name");
        let mut out = BytesMut::new();
        let publication = update.publication("urn:uuid:1");
        mercure::Mercure.encode_push(Push::to(&channel, PushEvent::plain(&publication)), &mut out);
        assert!(out.ends_with(b"\n\n") && memchr_of(&out) == Some(out.len() - 2), "one event");
    }
    let (Ok(template), Ok(topic)) = (std::str::from_utf8(query), std::str::from_utf8(form)) else { return };
    let selector = Selector::new(template);
    assert!(selector.matches(template));
    let _ = selector.matches(topic);
}

/// Returns the position of the first empty line.
fn memchr_of(events: &[u8]) -> Option<usize> {
    events.windows(2).position(|pair| pair == b"\n\n")
}

/// A record is refused, or reads back after it is encoded again.
pub fn record(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    let _ = (decode_message(bytes.clone()), split_position(bytes.clone()));
    if let Ok(publication) = decode_record(bytes) {
        let mut again = BytesMut::new();
        encode_record(&publication, &mut again);
        assert_eq!(decode_record(again.freeze()), Ok(publication));
    }
}

const LIMITS: Limits = Limits { message_bytes_max: 4096, frame_bytes_max: 2048, fragments_max: 20 };
/// The most that one connection may hold: a message, with capacity to grow, and the current frame.
const HELD_BYTES_MAX: usize = 3 * LIMITS.message_bytes_max;

#[derive(PartialEq, Debug)]
enum Heard {
    Message(MessageKind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    Error(FrameError),
}

fn heard(role: Role, deflate: bool, stream: &[u8], piece_bytes: usize) -> Vec<Heard> {
    let (mut assembler, mut inflater, mut all) = (Assembler::new(role, deflate), Inflater::new(), Vec::new());
    for piece in stream.chunks(piece_bytes) {
        let mut piece = piece.to_vec();
        let mut unread = &mut piece[..];
        loop {
            all.push(match assembler.next(&mut unread, &LIMITS, &mut inflater) {
                Ok(None) => break,
                Ok(Some(FrameEvent::Message(message))) => {
                    assert!(message.data.len() <= LIMITS.message_bytes_max);
                    assert!(message.kind == MessageKind::Binary || std::str::from_utf8(message.data).is_ok());
                    Heard::Message(message.kind, message.data.to_vec())
                }
                Ok(Some(FrameEvent::Ping(data))) => Heard::Ping(data.to_vec()),
                Ok(Some(FrameEvent::Pong(data))) => Heard::Pong(data.to_vec()),
                Ok(Some(FrameEvent::Close(close))) => Heard::Close(close.code, close.reason.to_owned()),
                Err(error) => Heard::Error(error),
            });
        }
        assert!(assembler.held_bytes() <= HELD_BYTES_MAX, "{} bytes", assembler.held_bytes());
    }
    all
}

fn rewritten(command: &Command) -> Vec<Command> {
    let (mut bytes, mut commands) = (BytesMut::new(), Vec::new());
    encode_command(command, &mut bytes);
    let message = Message { kind: MessageKind::Text, data: &bytes };
    assert_eq!(CentrifugeJson::default().decode(message, &mut commands), Ok(()));
    commands
}
