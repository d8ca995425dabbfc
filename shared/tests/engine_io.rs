//! Engine.IO's payloads, checked against vectors: bodies of requests that libraries sent.

use shared::framing::engine_io::{EnginePacket, PacketError, PollingPayload};
use shared::framing::{Message, MessageKind};

#[path = "support/vectors.rs"]
mod vectors;

/// Formats a packet as the vectors do.
fn shown(packet: Result<EnginePacket<'_>, PacketError>) -> String {
    let text = |data: &[u8]| String::from_utf8(data.to_vec()).expect("text");
    let line = match packet {
        Ok(EnginePacket::Message(Message { kind: MessageKind::Text, data })) => {
            format!("text {}", text(data))
        }
        Ok(EnginePacket::Message(Message { kind: MessageKind::Binary, data })) => {
            data.iter().fold("bytes ".to_owned(), |all, byte| format!("{all}{byte:02x}"))
        }
        Ok(EnginePacket::Close) => "close".to_owned(),
        Ok(EnginePacket::Pong(data)) => format!("pong {}", text(data)),
        Ok(other) => panic!("{other:?}"),
        Err(error) => format!("! {error:?}"),
    };
    line.trim_end().to_owned()
}

#[test]
fn bodies_of_libraries_are_understood() {
    for case in vectors::cases(include_str!("vectors/engine_io/from_clients.txt")) {
        let body = case.frame.replace('␞', "\u{1e}").replace('␤', "\n");
        let is_sound = case.expected.iter().all(|line| !line.starts_with('!'));
        assert_eq!(PollingPayload::check(body.as_bytes()).is_ok(), is_sound, "{}", case.name);
        let mut body = body.into_bytes();
        let found: Vec<String> = PollingPayload::read(&mut body).map(shown).collect();
        assert_eq!(found, case.expected, "{}", case.name);
    }
}
