//! A short run of the fuzz targets' checks, on random bytes and on corrupted valid input.

use bytes::BytesMut;
use proptest::prelude::*;
use shared::framing::websocket::{FrameHeader, Opcode, encode_masked};

#[path = "../../fuzz/src/checks.rs"]
#[expect(unreachable_pub, reason = "the file is also a module of the fuzz crate, which exports it")]
mod checks;
#[path = "support/spoiled.rs"]
mod spoil;

use spoil::{config, spoiled};

/// Generates bytes that some reader accepts.
fn good() -> impl Strategy<Value = Vec<u8>> {
    let frame = (any::<(bool, bool)>(), 0usize..6, prop::collection::vec(any::<u8>(), 0..300)).prop_map(
        |((fin, rsv1), opcode, payload)| {
            let opcode = [
                Opcode::Text,
                Opcode::Binary,
                Opcode::Continuation,
                Opcode::Ping,
                Opcode::Pong,
                Opcode::Close,
            ][opcode];
            let mut out = BytesMut::new();
            let header = FrameHeader { fin, rsv1, opcode, mask: None, length: 0 };
            encode_masked(header, &payload, [1, 2, 3, 4], &mut out);
            out.to_vec()
        },
    );
    let frames = (any::<u8>(), prop::collection::vec(frame, 1..8))
        .prop_map(|(choice, frames)| [&[choice & !1][..], &frames.concat()].concat());
    let texts = prop::sample::select(vec![
        r#"{"id":1,"connect":{"token":"t","data":{"a":1},"subs":{"a":{"recover":true,"offset":3}},"name":"js"}}"#,
        "{\"id\":2,\"subscribe\":{\"channel\":\"news\",\"token\":\"\"}}\n{\"id\":3,\"publish\":{\"channel\":\"news\",\"data\":[1]}}",
        r#"{"id":4,"history":{"channel":"news","limit":-1,"since":{"offset":5,"epoch":"x"},"reverse":true}}"#,
        r#"{"push":{"channel":"news","pub":{"data":{"a":"\u00e9"},"offset":7}}}"#,
        r#"{"id":5,"error":{"code":100,"message":"internal","temporary":true}}"#,
        r#"{"event":"pusher:subscribe","data":{"auth":"k:s","channel":"presence-a","channel_data":"{\"user_id\":1}"}}"#,
        r##"{"event":"pusher:unsubscribe","data":{"channel":"#server-to-user-a,b"}}"##,
        "4hello\u{1e}bAQIDBA==\u{1e}2probe\u{1e}3\u{1e}1",
        r#"{"event":"client-a","channel":"private-a","data":{"a":[1]}}"#,
        "\0{\"type\":\"connection_init\"}\n{\"type\":\"subscribe\",\"id\":\"1\",\"payload\":{\"query\":\"news\"}}",
        "\u{1}{\"type\":\"connection_init\"}\n{\"type\":\"start\",\"id\":\"1\",\"payload\":{\"query\":\"?\",\"extensions\":{}}}\n{\"type\":\"stop\",\"id\":\"1\"}",
        "\u{2}{\"type\":\"subscribe\",\"id\":\"1\",\"payload\":{\"query\":\"@\",\"extensions\":{\"tidegate\":{\"recover\":{\"epoch\":\"a\",\"offset\":1}}}}}\n{\"type\":\"complete\",\"id\":\"1\"}",
        r#"27["say",1,{"a":[true, null]}]"#,
        "52-7[\"say\",{\"_placeholder\":true,\"num\":1}]\u{1e}ab\u{1e}c",
        "1\u{1e}0{\"token\":\"t\"}\u{1e}2[\"a\"]",
        "Upgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Version: 13",
        "permessage-deflate; client_max_window_bits; server_max_window_bits=\"12\", permessage-deflate",
    ])
    .prop_map(|text| text.as_bytes().to_vec());
    let commands = include_str!("vectors/centrifuge_protobuf/from_clients.txt")
        .lines()
        .filter_map(|line| line.strip_prefix("> "))
        .map(|digits| digits.bytes().map(|digit| char::from(digit).to_digit(16).unwrap_or(0) as u8).collect())
        .map(|digits: Vec<u8>| digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
        .collect::<Vec<Vec<u8>>>();
    let commands = prop::sample::select(commands);
    prop_oneof![frames, texts, commands, prop::collection::vec(any::<u8>(), 0..400)]
}

macro_rules! smoke {
    ($($test:ident: $check:ident;)*) => {
        proptest! {
            #![proptest_config(config())]
            $(
                #[test]
                fn $test(bytes in spoiled(good())) {
                    checks::$check(&bytes);
                }
            )*
        }
    };
}

smoke! {
    any_bytes_can_come_as_frames: websocket_frames;
    any_bytes_can_come_as_a_compressed_message: websocket_inflate;
    any_bytes_can_come_as_a_handshake: websocket_handshake;
    any_bytes_can_come_as_commands_in_json: centrifuge_json;
    any_bytes_can_come_to_a_client_that_speaks_json: centrifuge_json_client;
    any_bytes_can_come_as_commands_in_protobuf: centrifuge_protobuf;
    any_bytes_can_come_from_a_client_that_speaks_once: centrifuge_uni;
    any_bytes_can_come_as_a_bare_message: raw;
    any_bytes_can_come_as_the_address_of_an_event_stream: event_source;
    any_bytes_can_come_in_a_request_of_engine_io: engine_io;
    any_bytes_can_come_from_a_pusher_client: pusher;
    any_bytes_can_come_from_a_graphql_client: graphql;
    any_bytes_can_come_from_a_client_of_socketio: socketio;
    any_bytes_can_come_to_a_hub: mercure;
    any_bytes_can_come_from_a_broker: record;
}
