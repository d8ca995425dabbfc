//! The Centrifuge protocol in JSON, checked against vectors: frames of the official libraries, malformed frames, and
//! the server's messages.

use bytes::BytesMut;
use shared::command::{Command, Request};
use shared::error::ErrorCode;
use shared::framing::{Message, MessageKind};
use shared::protocol::centrifuge::COMMANDS_PER_MESSAGE_MAX;
use shared::protocol::centrifuge::json::CentrifugeJson;
use shared::protocol::centrifuge::json::client::{self, Received, decode_frame, encode_command};
use shared::protocol::{DecodeError, Encoded, Protocol};

#[path = "support/vectors.rs"]
mod vectors;
#[path = "support/words.rs"]
mod words;

use vectors::cases;
use words::{Pushed, replies};

fn decode(frame: &str) -> (Vec<Command>, Result<(), DecodeError>) {
    let mut commands = Vec::new();
    let outcome = CentrifugeJson::default()
        .decode(Message { kind: MessageKind::Text, data: frame.as_bytes() }, &mut commands);
    (commands, outcome)
}

/// Formats a command as the vector files do.
fn shown(command: &Command) -> String {
    match &command.request {
        Request::Refused(_) | Request::Unknown => format!("{} {:?}", command.id, command.request),
        _ => {
            let mut out = BytesMut::new();
            encode_command(command, &mut out);
            String::from_utf8(out.to_vec()).expect("commands are written as text")
        }
    }
}

fn check_decoding(file: &str) {
    for case in cases(file) {
        let (commands, outcome) = decode(&case.frame);
        let mut found: Vec<String> = commands.iter().map(shown).collect();
        found.extend(outcome.err().map(|error| format!("! {error:?}")));
        assert_eq!(found, case.expected, "{}", case.name);
    }
}

#[test]
fn frames_of_the_official_libraries_are_understood() {
    check_decoding(include_str!("vectors/centrifuge_json/from_clients.txt"));
}

#[test]
fn frames_of_strangers_are_understood_or_refused() {
    check_decoding(include_str!("vectors/centrifuge_json/from_strangers.txt"));
}

#[test]
fn one_line_break_may_end_a_frame() {
    assert_eq!(decode("{}\n").0.len(), 1);
    assert_eq!(decode("{}\n{}\r\n").0.len(), 2);
    assert_eq!(decode("{}\n\n"), (decode("{}").0, Err(DecodeError::Malformed)));
    assert_eq!(decode("").1, Err(DecodeError::Empty));
    assert_eq!(decode("\n").1, Err(DecodeError::Empty));
}

#[test]
fn commands_of_a_frame_are_bounded() {
    let full = vec!["{}"; COMMANDS_PER_MESSAGE_MAX].join("\n");
    assert_eq!(decode(&full).1, Ok(()));
    let (commands, outcome) = decode(&format!("{full}\n{{}}"));
    assert_eq!((commands.len(), outcome), (COMMANDS_PER_MESSAGE_MAX, Err(DecodeError::TooManyCommands)));
}

#[test]
fn their_bound_is_for_the_server_to_set() {
    let mut commands = Vec::new();
    let data = vec!["{}"; COMMANDS_PER_MESSAGE_MAX + 1].join("\n");
    let message = Message { kind: MessageKind::Text, data: data.as_bytes() };
    let patient = CentrifugeJson { commands_max: COMMANDS_PER_MESSAGE_MAX + 1, ..CentrifugeJson::default() };
    assert_eq!(patient.decode(message, &mut commands), Ok(()));
    assert_eq!(commands.len(), COMMANDS_PER_MESSAGE_MAX + 1);
}

#[test]
fn json_in_a_binary_message_is_json() {
    let mut commands = Vec::new();
    let message = Message { kind: MessageKind::Binary, data: b"{}" };
    assert_eq!(CentrifugeJson::default().decode(message, &mut commands), Ok(()));
    assert_eq!(commands, decode("{}").0);
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    let mut commands = Vec::new();
    let data = b"{\"id\":1,\"publish\":{\"channel\":\"a\",\"data\":\"\xff\"}}";
    let outcome = CentrifugeJson::default().decode(Message { kind: MessageKind::Text, data }, &mut commands);
    assert_eq!((commands, outcome), (vec![], Err(DecodeError::Malformed)));
}

#[test]
fn a_payload_that_others_cannot_nest_is_refused() {
    let publish = |depth: usize| {
        let data = "[".repeat(depth) + &"]".repeat(depth);
        decode(&format!(r#"{{"id":1,"publish":{{"channel":"a","data":{data}}}}}"#))
    };
    assert!(matches!(publish(100).0[0].request, Request::Publish { .. }));
    let too_deep = Command { id: 1, request: Request::Refused(ErrorCode::BadRequest) };
    assert_eq!(publish(30_000), (vec![too_deep], Ok(())));
}

#[test]
fn every_word_has_its_golden_bytes() {
    let file = include_str!("vectors/centrifuge_json/to_clients.txt");
    let mut written = Vec::new();
    for (name, reply) in replies() {
        let mut out = BytesMut::new();
        assert_eq!(
            CentrifugeJson::default().encode_reply(&reply, &mut out),
            Encoded::Message(MessageKind::Text)
        );
        written.push((name, out));
    }
    let pushed = Pushed::new();
    for (name, push) in pushed.pushes() {
        let mut out = BytesMut::new();
        let encoded = CentrifugeJson::default().encode_push(push, &mut out);
        assert_eq!(encoded, Encoded::Message(MessageKind::Text));
        written.push((name, out));
    }

    let cases = cases(file);
    assert_eq!(written.len(), cases.len());
    for ((name, bytes), case) in written.iter().zip(&cases) {
        assert_eq!(*name, case.name);
        let text = std::str::from_utf8(bytes).unwrap();
        assert_eq!([text], case.expected[..], "{name}");
        serde_json::from_str::<serde_json::Value>(text).expect(name);
    }
}

#[test]
fn a_client_reads_what_the_server_writes() {
    let frame: Vec<String> = cases(include_str!("vectors/centrifuge_json/to_clients.txt"))
        .into_iter()
        .flat_map(|case| case.expected)
        .chain(["{}".to_owned()])
        .collect();
    let frame = frame.join("\n");
    let received: Vec<Received<'_>> = decode_frame(&frame).map(|item| item.unwrap()).collect();
    let mut seen = Vec::new();
    for item in &received {
        seen.push(match item {
            Received::Ping => "ping".to_owned(),
            Received::Publication { channel, publication } => {
                format!("{channel} {} {}", publication.offset, publication.data)
            }
            Received::Subscribed { channel, result } => format!("{channel} begun at {}", result.offset),
            Received::Joined { channel, client } => format!("{channel} joined by {client}"),
            Received::Left { channel, client } => format!("{channel} left by {client}"),
            Received::Unsubscribed { channel, code } => format!("{channel} ended {code}"),
            Received::Reply { id, outcome: Err(refusal) } => {
                format!("{id} {} {} {}", refusal.code, refusal.message, refusal.temporary)
            }
            Received::Reply { id, outcome: Ok(answer) } => match answer {
                client::ClientResult::Connect(result) => {
                    format!(
                        "{id} {} {} {} {} {}",
                        result.client, result.ping, result.pong, result.ttl, result.node
                    )
                }
                client::ClientResult::Subscribe(result) => {
                    let publications: Vec<_> = result.publications.iter().map(|one| one.data).collect();
                    format!("{id} {}@{} {publications:?} {}", result.offset, result.epoch, result.recovered)
                }
                client::ClientResult::History(result) => {
                    format!("{id} {}@{} {}", result.offset, result.epoch, result.publications.len())
                }
                client::ClientResult::PresenceStats { clients, users } => format!("{id} {clients} {users}"),
                client::ClientResult::Other => format!("{id} other"),
            },
            Received::Other => "other".to_owned(),
        });
    }
    assert_eq!(
        seen,
        [
            "1 c0ffee00-0000-4000-8000-000000000001 25 true 0 a",
            "1 c0ffee00-0000-4000-8000-000000000001 25 true 3600 a",
            "2 0@ [] false",
            "2 7@abcdefgh [] false",
            "2 0@abcdefgh [] false",
            r#"2 5@abcdefgh ["{\"a\": 6}", "7"] true"#,
            "2 7@abcdefgh [] true",
            "2 7@abcdefgh [] false",
            "3 other",
            "4 other",
            "5 9@abcdefgh 1",
            "5 0@abcdefgh 0",
            "6 other",
            "6 other",
            "7 2 1",
            "7 0 0",
            "8 other",
            "9 other",
            "10 103 permission denied false",
            "10 100 internal server error true",
            "10 400 out of stock true",
            "1 c0ffee00-0000-4000-8000-000000000001 25 true 3600 a",
            r#"2 5@abcdefgh ["\"{\\\"a\\\": 6}\"", "\"8\\n8@0,3ZqQX4;\""] true"#,
            "2 7@abcdefgh [] false",
            "9 other",
            "11 other",
            "11 other",
            r#"prices:"A" 6 {"a": 6}"#,
            r#"prices:"A" 1 {"a":1}"#,
            r#"prices:"A" 0 {"a":1}"#,
            r#"prices:"A" 0 {  "a":  "b\nc" }"#,
            r#"prices:"A" 0 "say \"hi\"\n\u0001\u001f/é""#,
            r#"prices:"A" 0 "AP+A""#,
            r#"prices:"A" 7 7"#,
            r#"prices:"A" 6 {"a": 6}"#,
            r#"prices:"A" 6 "{\"a\": 6}""#,
            r#"prices:"A" 6 "8\n8@0,3ZqQX4;""#,
            r#"prices:"A" ended 2500"#,
            r#"prices:"A" joined by c0ffee00-0000-4000-8000-000000000001"#,
            r#"prices:"A" left by c0ffee00-0000-4000-8000-000000000001"#,
            r#"prices:"A" begun at 7"#,
            "other",
            "other",
            "other",
            "other",
            "ping",
        ]
    );
}
