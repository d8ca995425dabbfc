//! Tests the parsers with messages recorded from many kinds of emitters.

use proptest::prelude::*;
use serde_json::json;
use shared::publication::{Payload, PayloadKind, Tagged};

use super::emitter_message::{EmitterCommand, EmitterMessageError, EmitterTarget};
use super::{read_packet, read_python, read_request};

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// An event's name, its arguments, its target, and whether it is volatile.
fn emitted(what: EmitterCommand) -> (String, Tagged, EmitterTarget, bool) {
    match what {
        EmitterCommand::Emit { event, arguments, of, volatile } => (event, arguments, of, volatile),
        other => panic!("no event: {other:?}"),
    }
}

fn packet(text: &str) -> (String, Tagged, EmitterTarget, bool) {
    emitted(read_packet::read(&hex(text), "/").unwrap())
}

fn json_of(arguments: &Tagged) -> serde_json::Value {
    serde_json::from_slice(&arguments.data.bytes).unwrap()
}

fn of(rooms: &[&str], except: &[&str]) -> EmitterTarget {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    EmitterTarget { rooms: names(rooms), except: names(except) }
}

/// As sent by `@socket.io/redis-emitter` 5.1.0.
#[test]
fn events_of_the_emitter_for_node_are_read() {
    // io.emit('hello', 'world', 1, 2.5, null, undefined, true)
    let (event, arguments, whom, volatile) = packet(
        "93a7656d697474657283a47479706502a46461746197a568656c6c6fa5776f726c6401cb4004000000000000c0c0c3a36e7370a12f\
         83a5726f6f6d7390a5666c61677380a665786365707490",
    );
    assert_eq!((&*event, json_of(&arguments)), ("hello", json!(["world", 1, 2.5, null, null, true])));
    assert_eq!((&*arguments.tags["args"], whom, volatile), ("6", EmitterTarget::default(), false));

    // io.to('room 1').emit('one', { a: [1, { b: 'é' }], u: undefined })
    let (event, arguments, whom, _) = packet(
        "93a7656d697474657283a47479706502a46461746192a36f6e6581a161920181a162a2c3a9a36e7370a12f83a5726f6f6d7391a6726f\
         6f6d2031a5666c61677380a665786365707490",
    );
    assert_eq!((&*event, json_of(&arguments)), ("one", json!({ "a": [1, { "b": "é" }] })));
    assert_eq!((arguments.tags.len(), whom), (0, of(&["room 1"], &[])));

    // io.to('r1').to('r2').except('r3').volatile.emit('two', Buffer.from([1, 2, 255]), { bytes: new Uint8Array([9]) })
    let (_, arguments, whom, volatile) = packet(
        "93a7656d697474657283a47479706502a46461746193a374776fc4030102ff81a56279746573c40109a36e7370a12f83a5726f6f6d7392\
         a27231a27232a5666c61677381a8766f6c6174696c65c3a665786365707491a27233",
    );
    assert_eq!(json_of(&arguments), json!(["AQL/", { "bytes": "CQ==" }]));
    assert_eq!((&*arguments.tags["binary"], &*arguments.tags["args"]), (r#"["/0","/1/bytes"]"#, "2"));
    assert_eq!((whom, volatile), (of(&["r1", "r2"], &["r3"]), true));

    // io.emit('none'); io.to(5).emit('num', …)
    let (event, arguments, ..) = packet(
        "93a7656d697474657283a47479706502a46461746191a46e6f6e65a36e7370a12f83a5726f6f6d7390a5666c61677380a665786365707490",
    );
    assert_eq!((&*event, json_of(&arguments), &*arguments.tags["args"]), ("none", json!([]), "0"));
    let (_, arguments, whom, _) = packet(
        "93a7656d697474657283a47479706502a46461746192a36e756da178a36e7370a12f83a5726f6f6d739105a5666c61677380a6657863657074\
         90",
    );
    assert_eq!((arguments.data, whom), (Payload::json(r#""x""#), of(&["5"], &[])));
}

#[test]
fn dates_and_numbers_are_what_javascript_makes_of_them_in_json() {
    // io.of('/admin').compress(false).emit('date', new Date(…123), new Date(…), -1, 300, 70000, 5e9, -5e9, 1e300, NaN, Infinity)
    let bytes = hex(
        "93a7656d697474657283a47479706502a4646174619ba464617465d7ff1d5353005e0be100d6ff5e0be100ffcd012cce00011170cf00000001\
         2a05f200d3fffffffed5fa0e00cb7e37e43c8800759ccb7ff8000000000000cb7ff0000000000000a36e7370a62f61646d696e83a5726f6f\
         6d7390a5666c61677381a8636f6d7072657373c2a665786365707490",
    );
    assert!(
        matches!(read_packet::read(&bytes, "/"), Err(EmitterMessageError::Malformed(_))),
        "it is for another namespace"
    );
    let (_, arguments, ..) = emitted(read_packet::read(&bytes, "/admin").unwrap());
    let expected = json!([
        "2020-01-01T00:00:00.123Z",
        "2020-01-01T00:00:00.000Z",
        -1,
        300,
        70_000,
        5_000_000_000_u64,
        -5_000_000_000_i64,
        1e300,
        null,
        null
    ]);
    assert_eq!(json_of(&arguments), expected);
}

#[test]
fn what_emitters_of_other_kinds_send_is_read_too() {
    // socket.io-emitter 3.2.0: no `except`, and bytes alone are a binary payload.
    let (event, arguments, whom, _) = packet(
        "93a7656d697474657283a47479706502a46461746193a36f6c6481a16101c4020102a36e7370a12f82a5726f6f6d7391a4726f6f6da5666c6167\
         7380",
    );
    assert_eq!(
        (&*event, json_of(&arguments), whom),
        ("old", json!([{ "a": 1 }, "AQI="]), of(&["room"], &[]))
    );
    // Before version 3 of notepack, `undefined`, dates and ArrayBuffers are extensions of type 0.
    let (_, arguments, ..) = packet(
        "93a7656d697474657283a47479706502a46461746195a165d40000d7000000016f5e66e87bc7020001ff82a161d40000a16201a36e7370a12f80",
    );
    let told = json!([null, "2020-01-01T00:00:00.123Z", "Af8=", { "b": 1 }]);
    assert_eq!((json_of(&arguments), &*arguments.tags["binary"]), (told, r#"["/2"]"#));
    // Python's socket.io-emitter sends an empty text in place of an empty object.
    let (_, arguments, whom, _) = packet(
        "93a7656d697474657283a46461746192a165c40101a47479706505a36e7370a12f82a5666c616773a0a5726f6f6d73a0",
    );
    assert_eq!((arguments.data.kind, whom), (PayloadKind::Binary, EmitterTarget::default()));
    // An emitter that sends JSON.
    let message =
        br#"["emitter",{"type":2,"data":["e",{"a":1}],"nsp":"/"},{"rooms":["r"],"flags":{},"except":[]}]"#;
    let (event, arguments, whom, _) = emitted(read_packet::read(message, "/").unwrap());
    assert_eq!((&*event, arguments.data, whom), ("e", Payload::json(r#"{"a":1}"#), of(&["r"], &[])));
    // Go emitters leave out empty values.
    let (_, _, whom, volatile) = packet(
        "93a7656d697474657282a47479706502a46461746191a165 81a5666c61677381a8766f6c6174696c65c3"
            .replace(' ', "")
            .as_str(),
    );
    assert_eq!((whom, volatile), (EmitterTarget::default(), true));
}

#[test]
fn beside_bytes_nothing_may_look_like_the_place_of_other_bytes() {
    let with = |argument: &str| {
        let bytes = hex(&format!("93a16582a47479706502a46461746193a165c40109{argument}80"));
        read_packet::read(&bytes, "/")
    };
    let (_, arguments, ..) = emitted(with("81a16ec3").unwrap());
    assert_eq!(json_of(&arguments), json!(["CQ==", { "n": true }]));
    let refused = with("81ac5f706c616365686f6c646572c3");
    assert!(
        matches!(&refused, Err(EmitterMessageError::Malformed(why)) if why.contains("_placeholder")),
        "{refused:?}"
    );
}

#[test]
fn packets_that_are_no_events_of_this_namespace_are_told_apart() {
    let read = |json: &str| read_packet::read(json.as_bytes(), "/");
    assert!(matches!(read(r#"["e",{"type":3,"data":["e"]},{}]"#), Err(EmitterMessageError::Unsupported(_))));
    for malformed in [
        r#"["e",{"type":2},{}]"#,
        r#"["e",{"type":2,"data":[]},{}]"#,
        r#"["e",{"type":2,"data":[{}]},{}]"#,
        r#"["e",{"type":2,"data":{}},{}]"#,
        r#"["e",{"type":2,"data":["e"],"nsp":"/b"},{}]"#,
        r#"["e",{"type":2,"data":["e"]},{"rooms":[{}]}]"#,
        r#"["e"]"#,
        "[",
        "",
        "\u{93}",
    ] {
        assert!(matches!(read(malformed), Err(EmitterMessageError::Malformed(_))), "{malformed}");
    }
}

#[test]
fn what_grows_without_bound_is_refused() {
    let packed = |arguments: &[u8]| {
        let mut message = hex("93a165 82a47479706502a464617461".replace(' ', "").as_str());
        message.extend_from_slice(arguments);
        message.push(0x80);
        read_packet::read(&message, "/")
    };
    assert!(packed(&hex("92a165c0")).is_ok());
    // Lists that claim to be long, and nested lists.
    assert!(packed(&hex("ddffffffffa165c0")).is_err());
    assert!(packed(&hex("92a165dfffffffff")).is_err());
    assert!(packed(&hex("92a165c6ffffffff00")).is_err());
    let mut deep = hex("92a165");
    deep.extend([0x91; 100_000]);
    assert!(packed(&deep).is_err());
    let mut within = hex("92a165");
    within.extend([0x91; 126]);
    within.push(0xc0);
    assert!(packed(&within).is_ok());
    // Too many arguments, binary values and rooms.
    let mut many = hex("dc0102a165");
    many.extend([0xc0; 257]);
    assert!(packed(&many).is_err());
    let mut binary = hex("92a165dc0101");
    (0..257).for_each(|_| binary.extend([0xc4, 0x00]));
    assert!(packed(&binary).is_err());
    let rooms = vec!["r"; 257];
    let message = json!(["e", { "type": 2, "data": ["e"] }, { "rooms": rooms }]).to_string();
    assert!(read_packet::read(message.as_bytes(), "/").is_err());
}

#[test]
fn commands_are_read() {
    let read = |json: &str| read_request::read(json.as_bytes());
    let join = read(r#"{"type":2,"opts":{"rooms":["r1"],"except":["r2"]},"rooms":["a","b"]}"#).unwrap();
    assert!(
        matches!(&join, EmitterCommand::Join { of: whom, rooms } if *whom == of(&["r1"], &["r2"]) && *rooms == ["a", "b"]),
        "{join:?}"
    );
    let leave = read(r#"{"type":3,"opts":{"rooms":["r1"],"except":[]},"rooms":["a"]}"#).unwrap();
    assert!(matches!(&leave, EmitterCommand::Leave { rooms, .. } if *rooms == ["a"]), "{leave:?}");
    let disconnect = read(r#"{"type":4,"opts":{"rooms":[],"except":[]},"close":true}"#).unwrap();
    assert!(
        matches!(&disconnect, EmitterCommand::Disconnect { of: whom, close: true } if *whom == EmitterTarget::default()),
        "{disconnect:?}"
    );
    // With the types of emitters in Go, and in the form of servers for one client.
    assert!(matches!(read(r#"{"type":50,"opts":{},"rooms":["a"]}"#), Ok(EmitterCommand::Join { .. })));
    let one = read(r#"{"requestId":"x","type":3,"sid":"s","room":"a"}"#).unwrap();
    assert!(
        matches!(&one, EmitterCommand::Leave { of: whom, rooms } if *whom == of(&["s"], &[]) && *rooms == ["a"]),
        "{one:?}"
    );
    for unsupported in [
        r#"{"uid":"emitter","type":6,"data":["hello","world",2]}"#,
        r#"{"type":0,"requestId":"x"}"#,
        r#"{"type":9}"#,
        "\u{84}",
    ] {
        assert!(matches!(read(unsupported), Err(EmitterMessageError::Unsupported(_))), "{unsupported}");
    }
    for malformed in
        [r#"{"type":2,"rooms":["a"]}"#, r#"{"rooms":[]}"#, "{", r#"{"type":4,"opts":{"rooms":{}}}"#]
    {
        assert!(matches!(read(malformed), Err(EmitterMessageError::Malformed(_))), "{malformed}");
    }
}

/// As sent by python-socketio 5.14 and 5.18.1.
#[test]
fn what_managers_of_python_send_is_read() {
    let read = |json: &str| read_python::read(json.as_bytes());
    let event = |json: &str| emitted(read(json).unwrap().what);
    let (name, arguments, whom, _) = event(
        r#"{"method": "emit", "event": "two", "data": ["x", 2], "binary": false, "namespace": "/", "room": "r", "skip_sid": ["a"], "callback": null, "host_id": "30c9"}"#,
    );
    assert_eq!((&*name, json_of(&arguments), &*arguments.tags["args"]), ("two", json!(["x", 2]), "2"));
    assert_eq!(whom, of(&["r"], &["a"]));
    let of_data = |data: &str, binary: &str| {
        event(&format!(r#"{{"method":"emit","event":"e","data":{data}{binary},"namespace":"/"}}"#)).1
    };
    let none = of_data("[null]", r#","binary":false"#);
    assert_eq!((json_of(&none), &*none.tags["args"]), (json!([]), "0"));
    assert_eq!(of_data("[[1, 2]]", r#","binary":false"#).data, Payload::json("[1, 2]"));
    // Before 5.16 the data was sent as it was given.
    assert_eq!(of_data("[1, 2]", "").data, Payload::json("[1, 2]"));
    assert_eq!(json_of(&of_data("null", "")), json!([]));
    let inside = of_data(r#"[[{"p": {"_placeholder": true, "num": 0}}], "Af8="]"#, r#","binary":true"#);
    assert_eq!((json_of(&inside), &*inside.tags["binary"]), (json!({ "p": "Af8=" }), r#"["/p"]"#));
    let whole = of_data(r#"[[{"_placeholder": true, "num": 0}], "AQ=="]"#, r#","binary":true"#);
    assert_eq!(whole.data, Payload::binary(&[1][..]));
    let arguments = read(r#"{"method":"close_room","room":"r","namespace":"/admin","host_id":"x"}"#).unwrap();
    assert_eq!(arguments.namespace, "/admin");
    assert!(
        matches!(&arguments.what, EmitterCommand::Leave { of: whom, rooms } if *whom == of(&["r"], &[]) && *rooms == ["r"])
    );
    for (method, expected) in [("enter_room", "Join"), ("leave_room", "Leave"), ("disconnect", "Disconnect")]
    {
        let json = format!(r#"{{"method":"{method}","sid":"SID","room":"r","namespace":"/","host_id":"x"}}"#);
        let what = format!("{:?}", read(&json).unwrap().what);
        assert!(what.starts_with(expected) && what.contains("SID"), "{what}");
    }
}

#[test]
fn a_pickle_is_never_read() {
    // As sent by python-socketio 5.13.0.
    let pickle = b"\x80\x04\x95\x92\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x06method\x94\x8c\x04emit\x94\x8c\x05event\x94u.";
    assert!(matches!(read_python::read(pickle), Err(EmitterMessageError::Pickle)));
    let read = |json: &str| read_python::read(json.as_bytes());
    for malformed in [
        "{}",
        "(dp0",
        r#"{"method":"emit","data":[1],"binary":false}"#,
        r#"{"method":"emit","event":"e","data":{},"binary":true}"#,
        r#"{"method":"emit","event":"e","data":[[{"_placeholder":true,"num":3}],"AQ=="],"binary":true}"#,
        r#"{"method":"emit","event":"e","data":[[],"?"],"binary":true}"#,
        r#"{"method":"disconnect"}"#,
        r#"{"method":"close_room"}"#,
    ] {
        assert!(matches!(read(malformed), Err(EmitterMessageError::Malformed(_))), "{malformed}");
    }
    assert!(matches!(
        read(r#"{"method":"callback","host_id":"x"}"#),
        Err(EmitterMessageError::Unsupported(_))
    ));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = super::describe(&bytes);
    }

    /// A recorded message with a few bytes changed, or cut short.
    #[test]
    fn a_spoiled_message_is_read_or_refused(changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..6), cut in any::<usize>()) {
        let mut message = hex(
            "93a7656d697474657283a47479706502a46461746193a374776fc4030102ff81a56279746573c40109a36e7370a12f83a5726f6f6d7392\
             a27231a27232a5666c61677381a8766f6c6174696c65c3a665786365707491a27233",
        );
        for (at, byte) in changes {
            let at = at % message.len();
            message[at] = byte;
        }
        message.truncate(cut % (message.len() + 1));
        if let Ok(EmitterCommand::Emit { arguments, .. }) = read_packet::read(&message, "/")
            && arguments.data.kind == PayloadKind::Json
        {
            prop_assert!(serde_json::from_slice::<serde_json::Value>(&arguments.data.bytes).is_ok());
        }
    }
}
