//! Pusher's protocol, checked against vectors: messages that libraries sent, and the server's messages.

use bytes::BytesMut;
use shared::channel::Channel;
use shared::command::Request;
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::framing::{Message, MessageKind};
use shared::id::{ClientId, UserId};
use shared::protocol::pusher::{Pusher, PusherNames};
use shared::protocol::{Encoded, Protocol};
use shared::publication::{ClientInfo, EVENT_TAG, Payload, Publication, Tags};
use shared::push::{Event, Push, UnsubscribeCode};
use shared::reply::{Answer, Connected, Reply, Subscribed};

#[path = "support/vectors.rs"]
mod vectors;

use vectors::cases;

/// The protocol's ids for commands.
const CONNECT: u32 = 1;
const SUBSCRIBE: u32 = 2;
const EMIT: u32 = 4;
const SIGN_IN: u32 = 5;

fn pusher() -> Pusher {
    Pusher { names: PusherNames::new("shop", ":", "#"), activity_timeout_s: 120, event_data_bytes_max: 1_000 }
}

fn text(payload: &Payload) -> String {
    String::from_utf8(payload.bytes.to_vec()).expect("text")
}

/// Formats a request as the vector files do.
fn shown(request: &Request) -> String {
    let line = match request {
        Request::Subscribe(subscribe) => {
            let data = subscribe.data.as_deref().map(text).unwrap_or_default();
            let members = if subscribe.members { "members" } else { "" };
            format!("subscribe {} {} {data} {members}", subscribe.channel, subscribe.token)
        }
        Request::Unsubscribe { channel } => format!("unsubscribe {channel}"),
        Request::SignIn { token, data } => format!("sign in {token} {}", text(data)),
        Request::Emit { channel, event, data } => {
            format!("emit {event} {channel} {:?} {}", data.kind, text(data))
        }
        Request::Ping => "ping".to_owned(),
        Request::Refused(error) => format!("refused {error:?}"),
        other => panic!("{other:?}"),
    };
    line.trim_end().to_owned()
}

#[test]
fn messages_of_libraries_are_understood() {
    for case in cases(include_str!("vectors/pusher/from_clients.txt")) {
        let mut commands = Vec::new();
        let message = Message { kind: MessageKind::Text, data: case.frame.as_bytes() };
        let outcome = pusher().decode(message, &mut commands);
        let mut found: Vec<String> = commands.iter().map(|command| shown(&command.request)).collect();
        found.extend(outcome.err().map(|error| format!("! {error:?}")));
        assert_eq!(found, case.expected, "{}", case.name);
    }
}

fn channel(name: &str) -> Channel {
    Channel::parse(&pusher().names.channel(name), 255).expect("a channel")
}

fn ann() -> ClientInfo {
    ClientInfo {
        client: ClientId::from_bits(1 << 64 | 2),
        user: UserId::new("7"),
        conn_info: None,
        chan_info: Some(r#"{"name":"Ann"}"#.into()),
    }
}

fn price(data: Payload) -> Publication {
    let tags = Tags::from([(EVENT_TAG.into(), "price".into())]);
    Publication { tags, ..Publication::new(data) }
}

/// Returns all messages of an encoding.
fn messages(encode: impl FnOnce(&Pusher, &mut BytesMut) -> Encoded) -> Vec<String> {
    let mut out = BytesMut::new();
    let lengths = match encode(&pusher(), &mut out) {
        Encoded::Message(MessageKind::Text) => vec![out.len()],
        Encoded::Messages(messages) => messages.into_iter().map(|(_, length)| length).collect(),
        other => panic!("{other:?}"),
    };
    let messages = lengths.into_iter().map(|length| out.split_to(length).to_vec());
    let messages: Vec<String> = messages.map(|bytes| String::from_utf8(bytes).expect("text")).collect();
    assert!(out.is_empty(), "all of it was told of");
    messages
}

fn reply(id: u32, of: &str, outcome: Result<Answer, ErrorCode>) -> Vec<String> {
    let channel = (!of.is_empty()).then(|| channel(of));
    let reply = Reply { id, channel, outcome: outcome.map_err(Into::into) };
    messages(|pusher, out| pusher.encode_reply(&reply, out))
}

fn subscribed(of: &str, answer: Subscribed) -> Vec<String> {
    reply(SUBSCRIBE, of, Ok(Answer::Subscribe(answer)))
}

fn push(of: &Channel, event: Event<'_>) -> Vec<String> {
    messages(|pusher, out| pusher.encode_push(Push::to(of, event), out))
}

fn event(of: &str, publication: &Publication) -> Vec<String> {
    push(&channel(of), Event::plain(publication))
}

#[test]
fn clients_are_sent_what_the_protocol_says() {
    let one = || price(Payload::json("1"));
    let by_ann = Publication { info: Some(ann()), ..one() };
    let eve = ClientInfo { user: UserId::new("8"), chan_info: None, ..ann() };
    let online = Channel::parse(&pusher().names.online("7"), 255).expect("a channel");
    let told = [
        reply(CONNECT, "", Ok(Answer::Connect(Box::new(Connected::new(ann().client, "0", "a".into()))))),
        subscribed("news", Subscribed::default()),
        subscribed("presence-room", Subscribed { members: Some(vec![ann(), eve]), ..Subscribed::default() }),
        subscribed("cache-a", Subscribed::default()),
        subscribed(
            "cache-a",
            Subscribed { publications: vec![price(Payload::json(r#"{"a":1}"#))], ..Subscribed::default() },
        ),
        reply(SUBSCRIBE, "private-a", Err(ErrorCode::Unauthorized)),
        reply(EMIT, "", Err(ErrorCode::TooManyRequests)),
        reply(SIGN_IN, "", Ok(Answer::SignedIn { data: Payload::text(r#"{"id":"7"}"#) })),
        event("news", &price(Payload::json(r#"{"a":1}"#))),
        event("news", &price(Payload::text("a \"text\"\n"))),
        event("news", &price(Payload::binary(&b"\x00\xff"[..]))),
        event("news", &Publication::new(Payload::json("1"))),
        event("presence-room", &by_ann),
        event("private-a", &by_ann),
        event("#server-to-user-7", &one()),
        push(&channel("presence-room"), Event::MemberAdded(&ann())),
        push(&channel("presence-room"), Event::MemberRemoved(&ann().user)),
        push(&online, Event::MemberAdded(&ann())),
        push(&online, Event::MemberRemoved(&ann().user)),
        push(&channel("news"), Event::Counted(3)),
        push(&channel("news"), Event::Unsubscribed(UnsubscribeCode::Server)),
        messages(|pusher, out| {
            let closed = pusher.close(&Disconnect::SHUTDOWN);
            pusher.encode_push(Push::alone(Event::Disconnected(&closed)), out)
        }),
    ];
    let expected = cases(include_str!("vectors/pusher/to_clients.txt"));
    assert_eq!(told.len(), expected.len());
    for (told, case) in told.into_iter().zip(expected) {
        assert_eq!(told, case.expected, "{}", case.name);
    }
}

#[test]
fn what_is_for_clients_of_other_protocols_is_not_sent() {
    for event in [Event::Joined(&ann()), Event::Left(&ann()), Event::Refreshed(None)] {
        let mut out = BytesMut::new();
        assert_eq!(pusher().encode_push(Push::to(&channel("news"), event), &mut out), Encoded::Nothing);
        assert!(out.is_empty());
    }
}
