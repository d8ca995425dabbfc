//! Socket.IO, packet by packet: the client's packets, the server's replies and pushes.

use std::sync::Arc;

use bytes::BytesMut;
use shared::channel::Channel;
use shared::command::{Command, Forward, Request};
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::framing::{Message, MessageKind};
use shared::id::ClientId;
use shared::protocol::socketio::{
    Destination, ForwardRule, NamespaceAccess, Namespaces, RoomName, RoomRule, Route, Routes, SocketIo,
    SocketIoShared, sid,
};
use shared::protocol::{DecodeError, Encoded, Protocol};
use shared::publication::{Payload, Publication, Tagged, Tags};
use shared::push::{Event, Push, UnsubscribeCode};
use shared::reply::{Answer, Connected, Reply, Subscribed};

#[path = "support/vectors.rs"]
mod vectors;

const CLIENT: u128 = 7;

fn routes() -> Routes {
    let argument = |tell: Option<&str>, rooms: &[&str]| RoomRule {
        room: RoomName::Argument(0),
        rooms: rooms.iter().map(|&room| room.into()).collect(),
        tell: tell.map(Into::into),
    };
    let mut routes = Routes::default();
    let all = ForwardRule { to: Destination::Namespace, event: Some("said".into()), to_sender: true };
    routes.add("say", Route::Publish(all));
    let room = ForwardRule { to: Destination::Room(RoomName::Argument(0)), event: None, to_sender: false };
    routes.add("whisper", Route::Publish(room));
    routes.add("join", Route::Join(argument(Some("joined"), &["game:*"])));
    routes.add("leave", Route::Leave(argument(None, &[])));
    routes.add("ask*", Route::Backend);
    routes
}

fn common() -> Arc<SocketIoShared> {
    let mut namespaces = Namespaces::new(":");
    namespaces.add("/", "socketio", NamespaceAccess::default(), routes());
    namespaces.add("/admin", "admin", NamespaceAccess::default(), Routes::default());
    Arc::new(SocketIoShared {
        namespaces,
        token_key: "token".into(),
        attachments_max: 2,
        packet_bytes_max: 1_000,
    })
}

struct Connection(SocketIo);

impl Connection {
    fn new() -> Self {
        Self(SocketIo::new(common()))
    }

    /// Makes a client in the main namespace.
    fn connected() -> Self {
        let connection = Self::new();
        let id = connection.sent("0").expect("it can be read")[0].id;
        connection.enter(id);
        connection
    }

    fn send(&self, kind: MessageKind, data: &[u8]) -> Result<Vec<Command>, DecodeError> {
        let mut commands = Vec::new();
        self.0.decode(Message { kind, data }, &mut commands)?;
        Ok(commands)
    }

    fn sent(&self, text: &str) -> Result<Vec<Command>, DecodeError> {
        self.send(MessageKind::Text, text.as_bytes())
    }

    fn requests(&self, text: &str) -> Vec<Request> {
        self.sent(text).expect("it can be read").into_iter().map(|command| command.request).collect()
    }

    fn answered(&self, id: u32, answer: Answer) -> Vec<String> {
        let mut out = BytesMut::new();
        let encoded = self.0.encode_reply(&Reply::new(id, Ok(answer)), &mut out);
        told(encoded, out)
    }

    fn refused(&self, id: u32, error: ErrorCode) -> Vec<String> {
        let mut out = BytesMut::new();
        let encoded = self.0.encode_reply(&Reply::new(id, Err(error.into())), &mut out);
        told(encoded, out)
    }

    /// Lets the client in as the session would.
    fn enter(&self, id: u32) -> Vec<String> {
        let connected = Connected::new(ClientId::from_random(CLIENT), "0", "node".into());
        assert_eq!(self.answered(id, Answer::Connect(Box::new(connected))), [""; 0]);
        self.answered(id, Answer::Subscribe(Subscribed::default()))
    }

    fn pushed(&self, channel: &str, event: Event<'_>) -> Vec<String> {
        let (channel, mut out) = (Channel::parse(channel, 255).expect("a name"), BytesMut::new());
        let encoded = self.0.encode_push(Push::to(&channel, event), &mut out);
        told(encoded, out)
    }
}

/// Returns the messages, binary ones in brackets.
fn told(encoded: Encoded, mut out: BytesMut) -> Vec<String> {
    let parts = match encoded {
        Encoded::Message(kind) => vec![(kind, out.len())],
        Encoded::Messages(parts) => parts,
        Encoded::Nothing => Vec::new(),
        Encoded::Close(disconnect) => return vec![format!("close {}", disconnect.code)],
        Encoded::Begin(_) => panic!("no answer begins so"),
    };
    let all = parts.into_iter().map(|(kind, length)| {
        let bytes = out.split_to(length);
        match kind {
            MessageKind::Text => String::from_utf8(bytes.to_vec()).expect("text"),
            MessageKind::Binary => format!("{:?}", &bytes[..]),
        }
    });
    let all = all.collect();
    assert!(out.is_empty(), "every byte is of a message");
    all
}

fn said(data: &str, args: Option<&str>) -> Tagged {
    let tags: Tags = args.map(|count| ("args".into(), count.into())).into_iter().collect();
    Tagged { data: Payload::json(data.to_owned()), tags }
}

#[test]
fn a_client_enters_a_namespace_and_is_told_its_id_there() {
    let connection = Connection::new();
    let [Command { id, request: Request::Enter(enter) }] =
        &connection.sent(r#"0{"token":"t","a":1}"#).unwrap()[..]
    else {
        panic!("it enters")
    };
    assert_eq!((&*enter.channel, &*enter.connect.token), ("socketio:*", "t"));
    assert_eq!(enter.connect.data, Some(Payload::json(r#"{"token":"t","a":1}"#)));
    let own = sid(ClientId::from_random(CLIENT), "/");
    assert_eq!(connection.enter(*id), [format!("0{{\"sid\":\"{own}\"}}")]);
    let [Command { id, request: Request::Enter(enter) }] = &connection.sent("0/admin,{}").unwrap()[..] else {
        panic!("it enters another")
    };
    assert_eq!((&*enter.channel, &*enter.connect.token), ("admin:*", ""));
    let there = sid(ClientId::from_random(CLIENT), "/admin");
    let welcomed = connection.answered(*id, Answer::Subscribe(Subscribed::default()));
    assert_eq!(welcomed, [format!("0/admin,{{\"sid\":\"{there}\"}}")]);
}

#[test]
fn a_token_that_is_no_text_is_none() {
    for auth in [r#"{"token":7}"#, r#"{"token":null}"#, "{}"] {
        let requests = Connection::new().requests(&format!("0{auth}"));
        let [Request::Enter(enter)] = &requests[..] else { panic!("{requests:?}") };
        assert_eq!(&*enter.connect.token, "", "{auth}");
    }
}

#[test]
fn who_is_not_let_in_is_told_so_and_may_try_again() {
    let connection = Connection::new();
    let id = connection.sent("0").unwrap()[0].id;
    let expected = r#"4{"message":"unauthorized","data":{"code":101}}"#;
    assert_eq!(connection.refused(id, ErrorCode::Unauthorized), [expected]);
    let id = connection.sent("0").unwrap()[0].id;
    assert_eq!(connection.enter(id).len(), 1);
    let command = &connection.sent("0/random").unwrap()[0];
    assert_eq!(command.request, Request::Refused(ErrorCode::UnknownChannel));
    let told = connection.refused(command.id, ErrorCode::UnknownChannel);
    assert_eq!(told, [r#"4/random,{"message":"Invalid namespace"}"#]);
}

#[test]
fn who_leaves_before_it_has_come_hears_nothing() {
    let connection = Connection::new();
    let id = connection.sent("0").unwrap()[0].id;
    let left = connection.requests("1");
    assert_eq!(left, [Request::Unsubscribe { channel: "socketio:*".into() }]);
    assert_eq!(connection.enter(id), [""; 0]);
}

#[test]
fn what_breaks_the_protocol_ends_the_connection() {
    for broken in [
        "abc",
        "2{}",
        "2[]",
        "2[null]",
        "2[\"connect\"]",
        "2abc[\"x\"]",
        "2[\"x\",",
        "0[]",
        "0\"x\"",
        "0",
        "4{\"message\":\"x\"}",
        "3[1]",
        "2/admin,[\"x\"]",
        "2/random,[\"x\"]",
        "1/random,",
        "51-{}",
        &format!("2[\"say\",{}{}]", "[".repeat(200), "]".repeat(200)),
    ] {
        let connection = Connection::connected();
        let mut result = connection.sent(broken);
        if broken.starts_with('5') && result.is_ok() {
            result = connection.send(MessageKind::Binary, b"x");
        }
        assert_eq!(result, Err(DecodeError::Malformed), "{broken}");
    }
    assert_eq!(Connection::new().sent("2[\"say\",1]"), Err(DecodeError::Malformed), "connect comes first");
    assert_eq!(Connection::new().sent(""), Err(DecodeError::Empty));
    assert_eq!(Connection::connected().send(MessageKind::Binary, b"x"), Err(DecodeError::Malformed));
}

#[test]
fn an_event_goes_where_its_rule_says() {
    let connection = Connection::connected();
    let forward = |channel: &str, event: &str, arguments, to_sender| {
        let (channel, event) = (channel.into(), event.into());
        Request::Forward(Box::new(Forward { channel, event, arguments, to_sender, only: None }))
    };
    for (packet, request) in [
        (r#"2["say","hi"]"#, forward("socketio:*", "said", said(r#""hi""#, None), true)),
        (r#"2["say"]"#, forward("socketio:*", "said", said("[]", Some("0")), true)),
        (r#"2["whisper","a b",1,2]"#, forward("socketio:a%20b", "whisper", said("[1,2]", Some("2")), false)),
        (r#"2["whisper",7,1]"#, forward("socketio:7", "whisper", said("1", None), false)),
        (r#"2["leave","x"]"#, Request::Unsubscribe { channel: "socketio:x".into() }),
        (r#"2["unheard",1]"#, Request::Refused(ErrorCode::PermissionDenied)),
        (r#"2["whisper"]"#, Request::Refused(ErrorCode::BadRequest)),
        (r#"2["whisper",{}]"#, Request::Refused(ErrorCode::BadRequest)),
        (r#"2["join","lobby"]"#, Request::Refused(ErrorCode::PermissionDenied)),
    ] {
        assert_eq!(connection.requests(packet), [request], "{packet}");
    }
    let [Request::Event(event)] = &connection.requests(r#"2["ask-me",1,[2]]"#)[..] else { panic!("it asks") };
    assert_eq!((&*event.channel, &*event.event), ("socketio:*", "ask-me"));
    assert_eq!(event.arguments, said("[1,[2]]", Some("2")));
}

#[test]
fn who_joins_a_room_is_told_of_there_by_what_it_says_or_by_its_id() {
    let own = format!("\"{}\"", sid(ClientId::from_random(CLIENT), "/"));
    for (packet, told) in [(r#"2["join","game:1"]"#, &*own), (r#"2["join","game:1","ann"]"#, r#""ann""#)] {
        let requests = Connection::connected().requests(packet);
        let [Request::Subscribe(subscribe), Request::Forward(forward)] = &requests[..] else {
            panic!("{requests:?}")
        };
        assert_eq!(&*subscribe.channel, "socketio:game%3A1");
        assert_eq!((&*forward.channel, &*forward.event), ("socketio:game%3A1", "joined"));
        assert_eq!((&forward.arguments, forward.to_sender), (&said(told, None), false));
    }
}

#[test]
fn an_event_that_asks_for_an_acknowledgement_gets_one_whatever_comes_of_it() {
    let connection = Connection::connected();
    let id = |packet: &str| connection.sent(packet).unwrap().last().unwrap().id;
    let (first, second) = (id(r#"20["say",1]"#), id(r#"2456["ask",1]"#));
    assert_ne!(first, second);
    let list = Some(Box::new(said(r#"["a",{"b":1}]"#, Some("2"))));
    assert_eq!(connection.answered(second, Answer::Acknowledged(list)), [r#"3456["a",{"b":1}]"#]);
    assert_eq!(connection.answered(first, Answer::Publish), [r#"30[{"status":"ok"}]"#]);
    assert_eq!(connection.answered(first, Answer::Publish), [""; 0], "once");
    assert_eq!(connection.answered(id(r#"29["ask"]"#), Answer::Acknowledged(None)), ["39[]"]);
    let refused = connection.refused(id(r#"21["nothing"]"#), ErrorCode::PermissionDenied);
    assert_eq!(refused, [r#"31[{"status":"error","code":103,"message":"permission denied"}]"#]);
    let binary = Some(Box::new(Tagged { data: Payload::binary(&b"\x01"[..]), tags: Tags::new() }));
    let answered = connection.answered(id(r#"22["ask"]"#), Answer::Acknowledged(binary));
    assert_eq!(answered, [r#"61-2[{"_placeholder":true,"num":0}]"#, "[1]"]);
}

#[test]
fn an_event_without_one_is_answered_only_if_it_is_refused() {
    let connection = Connection::connected();
    let id = connection.sent(r#"2["say",1]"#).unwrap()[0].id;
    assert_eq!(connection.answered(id, Answer::Publish), [""; 0]);
    let told = r#"2["error",{"code":103,"message":"permission denied"}]"#;
    assert_eq!(connection.refused(id, ErrorCode::PermissionDenied), [told]);
}

#[test]
fn attachments_follow_their_packet_and_are_bounded() {
    let connection = Connection::connected();
    assert_eq!(
        connection.sent(r#"52-["say",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#),
        Ok(vec![])
    );
    assert_eq!(connection.send(MessageKind::Binary, &[1, 2, 3]), Ok(vec![]));
    assert!(connection.0.held_bytes() > 60);
    let commands = connection.send(MessageKind::Binary, &[255]).unwrap();
    assert_eq!(connection.0.held_bytes(), 0);
    let [Command { request: Request::Forward(forward), .. }] = &commands[..] else { panic!("{commands:?}") };
    assert_eq!(forward.arguments.data, Payload::json(r#"["AQID","/w=="]"#));
    assert_eq!(forward.arguments.tags["binary"].as_ref(), r#"["/0","/1"]"#);

    assert_eq!(connection.sent(r#"53-["say"]"#), Err(DecodeError::TooLarge));
    connection.sent(r#"51-["say",{"_placeholder":true,"num":0}]"#).unwrap();
    assert_eq!(connection.sent(r#"2["say",1]"#), Err(DecodeError::Malformed), "an attachment is awaited");
    assert_eq!(connection.send(MessageKind::Binary, &[0; 1_000]), Err(DecodeError::TooLarge));
}

#[test]
fn a_publication_of_any_wire_is_an_event() {
    let shared = Connection::new();
    let pushed = |channel: &str, data: Payload, tags: &[(&str, &str)]| {
        let tags = tags.iter().map(|&(key, value)| (key.into(), value.into())).collect();
        let publication = Publication { tags, ..Publication::new(data) };
        shared.pushed(channel, Event::plain(&publication))
    };
    let name = [("event", "news")];
    assert_eq!(pushed("socketio:*", Payload::json("{\"a\":1}"), &name), [r#"2["news",{"a":1}]"#]);
    assert_eq!(pushed("admin:room", Payload::text("hi"), &[]), [r#"2/admin,["message","hi"]"#]);
    assert_eq!(pushed("socketio:*", Payload::json("[]"), &[("args", "0"), name[0]]), [r#"2["news"]"#]);
    assert_eq!(
        pushed("socketio:*", Payload::json("[1, 2]"), &[("args", "2"), name[0]]),
        [r#"2["news",1, 2]"#]
    );
    let binary = pushed("admin:*", Payload::binary(&[1, 2][..]), &name);
    assert_eq!(binary, [r#"51-/admin,["news",{"_placeholder":true,"num":0}]"#, "[1, 2]"]);
    let mixed = [("args", "2"), ("binary", r#"["/1/x"]"#), name[0]];
    let mixed = pushed("socketio:*", Payload::json(r#"[1,{"x":"AQI="}]"#), &mixed);
    assert_eq!(mixed, [r#"51-["news",1,{"x":{"_placeholder":true,"num":0}}]"#, "[1, 2]"]);
    assert_eq!(pushed("other:room", Payload::json("1"), &name), [""; 0]);
}

#[test]
fn who_is_put_out_of_a_namespace_is_told_and_may_come_back_to_it() {
    let connection = Connection::connected();
    let out = |channel: &str, code| connection.pushed(channel, Event::Unsubscribed(code));
    assert_eq!(out("socketio:room", UnsubscribeCode::Server), [""; 0], "rooms are the server's");
    assert_eq!(out("socketio:*", UnsubscribeCode::Server), ["1"]);
    assert_eq!(out("socketio:*", UnsubscribeCode::Server), [""; 0]);
    let late = connection.requests(r#"2["say",1]"#);
    assert_eq!(late, [Request::Refused(ErrorCode::PermissionDenied)], "it was on its way");
    assert!(matches!(&connection.requests("0")[..], [Request::Enter(_)]));
    assert_eq!(out("socketio:*", UnsubscribeCode::InsufficientState), ["close 3010"]);
}

#[test]
fn who_is_not_to_come_back_is_told_to_leave_each_namespace() {
    let connection = Connection::connected();
    let id = connection.sent("0/admin,").unwrap()[0].id;
    connection.answered(id, Answer::Subscribe(Subscribed::default()));
    let words = |connection: &Connection, disconnect: &Disconnect| {
        let mut out = BytesMut::new();
        let encoded = connection.0.encode_close_message(disconnect, &mut out);
        told(encoded, out)
    };
    assert_eq!(words(&connection, &Disconnect::FORCE_DISCONNECT), ["1", "1/admin,"]);
    assert_eq!(words(&connection, &Disconnect::FORCE_DISCONNECT), [""; 0]);
    assert_eq!(words(&Connection::connected(), &Disconnect::SHUTDOWN), [""; 0]);
}

/// A connection to both namespaces of the vectors, which forward all events.
fn open_to_all() -> Connection {
    let mut namespaces = Namespaces::new(":");
    for (name, channels) in [("/", "socketio"), ("/custom", "custom")] {
        let mut routes = Routes::default();
        let all = ForwardRule { to: Destination::Namespace, event: None, to_sender: true };
        routes.add("*", Route::Publish(all));
        namespaces.add(name, channels, NamespaceAccess::default(), routes);
    }
    let common =
        SocketIoShared { namespaces, token_key: "token".into(), attachments_max: 2, packet_bytes_max: 1_000 };
    Connection(SocketIo::new(Arc::new(common)))
}

/// Formats a request as the vectors do.
fn shown(request: &Request) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    match request {
        Request::Enter(enter) => {
            let said = enter.connect.data.as_ref().map(|data| text(&data.bytes)).unwrap_or_default();
            format!("enter {} {said}", enter.channel).trim_end().to_owned()
        }
        Request::Unsubscribe { channel } => format!("leave {channel}"),
        Request::Forward(forward) => {
            let Tagged { data, tags } = &forward.arguments;
            let data = match std::str::from_utf8(&data.bytes) {
                Ok(text) if data.kind == shared::publication::PayloadKind::Json => text.to_owned(),
                _ => data.bytes.iter().fold("0x".to_owned(), |all, byte| format!("{all}{byte:02x}")),
            };
            let tags: String = tags.iter().map(|(key, value)| format!(" {key}={value}")).collect();
            format!("{} in {}: {data}{tags}", forward.event, forward.channel)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn packets_of_libraries_are_understood() {
    for case in vectors::cases(include_str!("vectors/socketio/from_clients.txt")) {
        let connection = open_to_all();
        for namespace in ["0", "0/custom"].into_iter().filter(|_| !case.frame.starts_with('0')) {
            let id = connection.sent(namespace).expect("it can be read")[0].id;
            connection.enter(id);
        }
        let mut found = Vec::new();
        for frame in case.frame.lines() {
            let commands = match frame.strip_prefix("0x") {
                Some(hex) => {
                    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
                    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
                    connection.send(MessageKind::Binary, &bytes)
                }
                None => connection.sent(frame),
            };
            let commands = commands.unwrap_or_else(|error| panic!("{}: {error:?}", case.name));
            found.extend(commands.iter().map(|command| shown(&command.request)));
        }
        assert_eq!(found, case.expected, "{}", case.name);
    }
}
