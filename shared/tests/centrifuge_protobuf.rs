//! The Centrifuge protocol in Protobuf, checked against vectors: frames of the official libraries, malformed frames,
//! and the server's messages.

use bytes::{Bytes, BytesMut};
use shared::command::{Command, Connect, Request, Subscribe};
use shared::error::ErrorCode;
use shared::framing::{Message, MessageKind};
use shared::protocol::centrifuge::COMMANDS_PER_MESSAGE_MAX;
use shared::protocol::centrifuge::json;
use shared::protocol::centrifuge::protobuf::client::{self, decode_frame, encode_command};
use shared::protocol::centrifuge::protobuf::{CentrifugeProtobuf, PING};
use shared::protocol::{DecodeError, Encoded, Protocol};
use shared::publication::{Payload, Publication};
use shared::push::{Event, Push};

#[path = "support/vectors.rs"]
mod vectors;
#[path = "support/words.rs"]
mod words;

use vectors::cases;
use words::{Pushed, replies};

fn decode(frame: &[u8]) -> (Vec<Command>, Result<(), DecodeError>) {
    let mut commands = Vec::new();
    let outcome = CentrifugeProtobuf::default()
        .decode(Message { kind: MessageKind::Binary, data: frame }, &mut commands);
    (commands, outcome)
}

/// Decodes hexadecimal digits, ignoring white space.
fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.chars().filter_map(|char| char.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Formats a command as the vector files do, in the protocol's JSON encoding.
fn shown(command: &Command) -> String {
    match &command.request {
        Request::Refused(_) | Request::Unknown => format!("{} {:?}", command.id, command.request),
        _ => {
            let mut out = BytesMut::new();
            json::client::encode_command(command, &mut out);
            String::from_utf8(out.to_vec()).expect("commands are written as text")
        }
    }
}

fn check_decoding(file: &str) {
    for case in cases(file) {
        let (commands, outcome) = decode(&bytes(&case.frame));
        let mut found: Vec<String> = commands.iter().map(shown).collect();
        found.extend(outcome.err().map(|error| format!("! {error:?}")));
        assert_eq!(found, case.expected, "{}", case.name);
    }
}

#[test]
fn frames_of_the_official_libraries_are_understood() {
    check_decoding(include_str!("vectors/centrifuge_protobuf/from_clients.txt"));
}

#[test]
fn frames_of_strangers_are_understood_or_refused() {
    check_decoding(include_str!("vectors/centrifuge_protobuf/from_strangers.txt"));
}

#[test]
fn every_word_has_its_golden_bytes() {
    let mut written = Vec::new();
    for (name, reply) in replies() {
        let mut out = BytesMut::new();
        let encoded = CentrifugeProtobuf::default().encode_reply(&reply, &mut out);
        assert_eq!(encoded, Encoded::Message(MessageKind::Binary));
        written.push((name, out));
    }
    let pushed = Pushed::new();
    for (name, push) in pushed.pushes() {
        let mut out = BytesMut::new();
        let encoded = CentrifugeProtobuf::default().encode_push(push, &mut out);
        assert_eq!(encoded, Encoded::Message(MessageKind::Binary));
        written.push((name, out));
    }
    let cases = cases(include_str!("vectors/centrifuge_protobuf/to_clients.txt"));
    assert_eq!(written.len(), cases.len());
    for ((name, bytes), case) in written.iter().zip(&cases) {
        assert_eq!(*name, case.name);
        assert_eq!([hex(bytes)], case.expected[..], "{name}");
        assert_eq!(decode_frame(bytes).map(|replies| replies.len()), Ok(1), "{name}");
    }
}

#[test]
fn what_is_written_one_after_the_other_is_one_message() {
    let (mut joined, mut alone) = (BytesMut::new(), Vec::new());
    for (_, reply) in replies() {
        let mut out = BytesMut::new();
        CentrifugeProtobuf::default().encode_reply(&reply, &mut out);
        alone.extend(decode_frame(&out).expect("one that reads"));
        CentrifugeProtobuf::default().encode_reply(&reply, &mut joined);
    }
    assert_eq!(CentrifugeProtobuf::default().delimiter(), Some(&b""[..]));
    assert_eq!(decode_frame(&joined), Ok(alone));
}

#[test]
fn a_ping_is_a_reply_of_nothing_and_a_pong_a_command_of_nothing() {
    assert_eq!(decode_frame(PING), Ok(vec![client::ReplyMessage::default()]));
    assert_eq!(decode(PING), (vec![Command { id: 0, request: Request::Pong }], Ok(())));
}

#[test]
fn a_payload_arrives_as_the_bytes_that_were_published_whatever_their_kind() {
    let channel = shared::channel::Channel::parse("news", 255).expect("a name");
    for payload in [
        Payload::json("{\n \"a\": 1 }"),
        Payload::text("say \"hi\"\n"),
        Payload::binary(vec![0, 0xff]),
        Payload::binary(Vec::new()),
    ] {
        let publication = Publication::new(payload.clone());
        let mut out = BytesMut::new();
        let push = Push::to(&channel, Event::plain(&publication));
        CentrifugeProtobuf::default().encode_push(push, &mut out);
        let push = decode_frame(&out).expect("it reads").remove(0).push.expect("a push");
        assert_eq!(push.publication.expect("a publication").data, payload.bytes);
    }
}

#[test]
fn a_payload_is_kept_as_it_came_and_is_json_or_text_if_it_reads_as_such() {
    let published = |bytes: &[u8]| {
        let data = Payload::binary(Bytes::copy_from_slice(bytes));
        let command = Command { id: 1, request: Request::Publish { channel: "a".into(), data } };
        let mut frame = BytesMut::new();
        encode_command(&command, &mut frame);
        match decode(&frame).0.remove(0).request {
            Request::Publish { data, .. } => Some(data),
            Request::Refused(ErrorCode::BadRequest) => None,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(published(b"{\n\"a\": 1}"), Some(Payload::json("{\n\"a\": 1}")));
    assert_eq!(published(b"hello"), Some(Payload::text("hello")));
    assert_eq!(published(b"\x00\xff"), Some(Payload::binary(&b"\x00\xff"[..])));
    let deep = "[".repeat(200) + &"]".repeat(200);
    assert_eq!(published(deep.as_bytes()), Some(Payload::text(deep)), "what others cannot nest is no JSON");
    assert_eq!(published(b""), None, "nothing is no payload");
}

#[test]
fn commands_of_a_frame_are_bounded() {
    let full = vec![0; COMMANDS_PER_MESSAGE_MAX];
    assert_eq!(decode(&full).1, Ok(()));
    let (commands, outcome) = decode(&[&full[..], &[0]].concat());
    assert_eq!((commands.len(), outcome), (COMMANDS_PER_MESSAGE_MAX, Err(DecodeError::TooManyCommands)));
    let patient = CentrifugeProtobuf { commands_max: full.len() + 1, ..CentrifugeProtobuf::default() };
    let message = Message { kind: MessageKind::Binary, data: &[&full[..], &[0]].concat() };
    assert_eq!(patient.decode(message, &mut Vec::new()), Ok(()));
}

#[test]
fn a_filter_that_is_nested_too_deep_ends_the_reading_and_not_the_program() {
    // Filters of one node each, nested in one another: each level is a tag and the length of its content.
    let mut filter = Vec::new();
    for _ in 0..10_000 {
        filter = field(6, &filter);
    }
    let command = [&[8, 1][..], &field(5, &field(13, &filter))].concat();
    let frame = [&varint(command.len())[..], &command].concat();
    assert_eq!(decode(&frame), (vec![], Err(DecodeError::Malformed)));
}

#[test]
fn server_side_subscriptions_are_known_by_their_keys() {
    let subscribe = |channel: &str| Subscribe { channel: channel.into(), offset: 3, ..Subscribe::default() };
    let subs = ["a", ""].map(|channel| (Box::from(channel), subscribe(channel)));
    let request = Request::Connect(Box::new(Connect { subs: subs.into(), ..Connect::default() }));
    let command = Command { id: 1, request };
    let mut frame = BytesMut::new();
    encode_command(&command, &mut frame);
    assert_eq!(decode(&frame), (vec![command], Ok(())));
}

fn field(number: u8, value: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2][..], &varint(value.len()), value].concat()
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}
