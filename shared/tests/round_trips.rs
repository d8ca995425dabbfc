//! Encoding and decoding are inverse, and decoding never panics, for generated values of every kind.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};
use serde_json::Value;
use shared::channel::Channel;
use shared::command::{
    Command, Connect, FilterNode, History, Phase, Request, Since, StateRequest, Subscribe, SubscriptionKind,
    TrackBatch,
};
use shared::framing::{Message, MessageKind};
use shared::id::{ClientId, UserId};
use shared::position::{Epoch, StreamPosition};
use shared::protocol::centrifuge::json::CentrifugeJson;
use shared::protocol::centrifuge::json::client::{Received, decode_frame, encode_command};
use shared::protocol::centrifuge::protobuf::{self, CentrifugeProtobuf};
use shared::protocol::centrifuge::uni::{CentrifugeUniJson, CentrifugeUniProtobuf};
use shared::protocol::{Encoded, Protocol};
use shared::publication::{ClientInfo, Keyed, Payload, PayloadKind, Publication, Tags, is_json};
use shared::push::{Event, Form, OwnedEvent, Push};
use shared::record::{
    decode_event, decode_event_message, decode_message, decode_record, encode_event, encode_position,
    encode_record, split_position,
};

/// Uses the same generated values in every run.
fn config() -> Config {
    Config { cases: 500, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..Config::default() }
}

fn text() -> impl Strategy<Value = Box<str>> {
    prop_oneof!["[ -~]{0,20}", any::<String>()].prop_map(String::into_boxed_str)
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text().prop_map(|text| Value::from(&*text)),
    ];
    leaf.prop_recursive(3, 20, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            btree_map("[a-z\"\n]{0,3}", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn json() -> impl Strategy<Value = Bytes> {
    (json_value(), any::<bool>()).prop_map(|(value, is_pretty)| {
        if is_pretty { format!("{value:#}").into() } else { value.to_string().into() }
    })
}

fn json_payload() -> impl Strategy<Value = Payload> {
    json_line().prop_map(Payload::json)
}

/// Generates JSON without line breaks, as it is after transport in one line.
fn json_line() -> impl Strategy<Value = Bytes> {
    json_value().prop_map(|value| value.to_string().into())
}

fn subscribe() -> impl Strategy<Value = Subscribe> {
    let flags = any::<(bool, bool, bool, bool, bool)>();
    let texts = (text(), text(), text(), text());
    let rest = (option::of(json_payload()), option::of(filter().prop_map(Box::new)), kind(), page());
    (texts, any::<u64>(), flags, rest).prop_map(
        |((channel, token, epoch, delta), offset, flags, (data, filter, kind, page))| Subscribe {
            channel,
            token,
            recover: flags.0,
            epoch,
            offset,
            positioned: flags.1,
            recoverable: flags.2,
            join_leave: flags.3,
            reject_unrecovered: flags.4,
            delta,
            data: data.map(Box::new),
            filter,
            kind,
            page: (page != StateRequest::default()).then(|| Box::new(page)),
            members: false,
            after: None,
            topics: Box::default(),
            additional_reader: false,
            ask: None,
            delivery: None,
        },
    )
}

fn filter() -> impl Strategy<Value = FilterNode> {
    let texts = || (text(), text(), text(), text(), vec(text(), 0..3));
    let leaf = texts().prop_map(|(op, key, cmp, val, vals)| FilterNode {
        op,
        key,
        cmp,
        val,
        vals,
        nodes: Vec::new(),
    });
    leaf.prop_recursive(3, 8, 3, |node| {
        (text(), vec(node, 0..3)).prop_map(|(op, nodes)| FilterNode { op, nodes, ..FilterNode::default() })
    })
}

fn kind() -> impl Strategy<Value = SubscriptionKind> {
    (0..5).prop_map(|number| SubscriptionKind::of(number).expect("one of the five"))
}

fn page() -> impl Strategy<Value = StateRequest> {
    (0..3, text(), 0..=i32::MAX as u32, any::<bool>()).prop_map(|(phase, cursor, limit, ascending)| {
        StateRequest { phase: Phase::of(phase).expect("one of the three"), cursor, limit, ascending }
    })
}

fn track_batch() -> impl Strategy<Value = TrackBatch> {
    (text(), vec((text(), any::<u64>()), 0..3)).prop_map(|(signature, items)| TrackBatch { signature, items })
}

fn connect() -> impl Strategy<Value = Connect> {
    let subs = btree_map(text(), subscribe(), 0..3).prop_map(|subs| {
        let with_channel = |(channel, subscribe): (Box<str>, Subscribe)| {
            (channel.clone(), Subscribe { channel, ..subscribe })
        };
        subs.into_iter().map(with_channel).collect::<BTreeMap<_, _>>()
    });
    let headers = btree_map(text(), text(), 0..3);
    (text(), option::of(json_payload()), subs, text(), text(), headers).prop_map(
        |(token, data, subs, name, version, headers)| Connect {
            token,
            data,
            subs,
            exact: false,
            name,
            version,
            headers,
        },
    )
}

fn request() -> impl Strategy<Value = Request> {
    let since =
        proptest::option::of((any::<u64>(), text()).prop_map(|(offset, epoch)| Since { offset, epoch }));
    prop_oneof![
        connect().prop_map(|connect| Request::Connect(Box::new(connect))),
        subscribe().prop_map(Request::Subscribe),
        text().prop_map(|channel| Request::Unsubscribe { channel }),
        (text(), json_line())
            .prop_map(|(channel, data)| Request::Publish { channel, data: Payload::json(data) }),
        (text(), any::<i32>(), since, any::<bool>()).prop_map(|(channel, limit, since, reverse)| {
            Request::History(History { channel, limit, since, reverse })
        }),
        text().prop_map(|channel| Request::Presence { channel }),
        text().prop_map(|channel| Request::PresenceStats { channel }),
        text().prop_map(|token| Request::Refresh { token }),
        (text(), text()).prop_map(|(channel, token)| Request::SubRefresh { channel, token }),
        (text(), text(), json_payload(), any::<bool>()).prop_map(|(channel, key, data, removed)| {
            Request::PublishKey { channel, key, data, removed }
        }),
        (text(), vec(track_batch(), 0..3), vec(text(), 0..3))
            .prop_map(|(channel, batches, untrack)| Request::Track { channel, batches, untrack }),
        (text(), vec(text(), 0..3)).prop_map(|(channel, keys)| Request::Untrack { channel, keys }),
        json_payload().prop_map(|data| Request::Send { data }),
        (text(), json_payload()).prop_map(|(method, data)| Request::Rpc { method, data }),
    ]
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        json().prop_map(Payload::json),
        any::<String>().prop_map(Payload::text),
        vec(any::<u8>(), 0..40).prop_map(Payload::binary),
    ]
}

fn client_info() -> impl Strategy<Value = ClientInfo> {
    let json = || proptest::option::of(json());
    (any::<u128>(), text(), json(), json()).prop_map(|(client, user, conn_info, chan_info)| ClientInfo {
        client: ClientId::from_bits(client),
        user: UserId::new(&user),
        conn_info,
        chan_info,
    })
}

fn position() -> impl Strategy<Value = Option<StreamPosition>> {
    let position = (1..=u64::MAX, any::<u64>())
        .prop_map(|(offset, bits)| StreamPosition { offset, epoch: Epoch::from_random(bits) });
    proptest::option::of(position)
}

fn publication() -> impl Strategy<Value = Publication> {
    let tags = btree_map(text(), text(), 0..4).prop_map(Tags::from_iter);
    let keyed =
        (text(), any::<bool>(), any::<i64>(), any::<u64>()).prop_map(|(key, removed, score, version)| {
            Box::new(Keyed { key, removed, score, version, before: None })
        });
    let except = option::of(any::<u128>().prop_map(ClientId::from_bits));
    let newer = (prop_oneof![Just(0), any::<u64>()], any::<bool>(), option::of(keyed), except);
    (payload(), position(), proptest::option::of(client_info()), tags, newer).prop_map(
        |(data, position, info, tags, (time_ms, delta, keyed, except))| Publication {
            position,
            info,
            tags,
            time_ms,
            delta,
            keyed,
            except: except.map(Box::new),
            ..Publication::new(data)
        },
    )
}

/// Returns the JSON value that any reader must see in a payload.
fn carried(payload: &Payload) -> Value {
    match payload.kind {
        PayloadKind::Json => serde_json::from_slice(&payload.bytes).expect("made of a value"),
        PayloadKind::Text => Value::from(std::str::from_utf8(&payload.bytes).expect("made of a text")),
        PayloadKind::Binary => {
            use base64::Engine;
            Value::from(base64::engine::general_purpose::STANDARD.encode(&payload.bytes))
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn commands_in_json_read_back(requests in vec((1..=u32::MAX, request()), 1..5)) {
        let sent: Vec<Command> = requests
            .into_iter()
            .map(|(id, request)| Command { id: if matches!(request, Request::Send { .. }) { 0 } else { id }, request })
            .collect();
        let mut frame = BytesMut::new();
        for (index, command) in sent.iter().enumerate() {
            if index > 0 {
                frame.extend_from_slice(b"\n");
            }
            encode_command(command, &mut frame);
        }
        let mut received = Vec::new();
        let message = Message { kind: MessageKind::Text, data: &frame };
        prop_assert_eq!(CentrifugeJson::default().decode(message, &mut received), Ok(()));
        prop_assert_eq!(received, sent);
    }

    #[test]
    fn commands_in_protobuf_read_back(requests in vec((1..=u32::MAX, request()), 1..5)) {
        let sent: Vec<Command> = requests
            .into_iter()
            .map(|(id, request)| Command { id: if matches!(request, Request::Send { .. }) { 0 } else { id }, request })
            .collect();
        let mut frame = BytesMut::new();
        for command in &sent {
            protobuf::client::encode_command(command, &mut frame);
        }
        let mut received = Vec::new();
        let message = Message { kind: MessageKind::Binary, data: &frame };
        prop_assert_eq!(CentrifugeProtobuf::default().decode(message, &mut received), Ok(()));
        prop_assert_eq!(received, sent);
    }

    #[test]
    fn pushes_in_protobuf_say_what_was_published(
        publication in publication(),
        name in "[!-~]{1,30}",
        time_ms in any::<u32>(),
        patch in option::of(vec(any::<u8>(), 1..40)),
    ) {
        let channel = Channel::parse(&name, 255).unwrap();
        let publication = Publication { time_ms: time_ms.into(), ..publication };
        let form = patch.as_deref().map_or(Form::Plain, Form::Patch);
        let push = Push::to(&channel, Event::Publication(&publication, form));
        let mut out = BytesMut::new();
        let encoded = CentrifugeProtobuf::default().encode_push(push, &mut out);
        prop_assert_eq!(encoded, Encoded::Message(MessageKind::Binary));

        let mut replies = protobuf::client::decode_frame(&out).unwrap();
        prop_assert_eq!(replies.len(), 1);
        let read = replies.remove(0).push.unwrap();
        prop_assert_eq!(&read.channel, &name);
        let read = read.publication.unwrap();
        prop_assert_eq!(&read.data[..], patch.as_deref().unwrap_or(&publication.data.bytes));
        prop_assert_eq!((read.delta, read.offset), (patch.is_some(), publication.offset()));
        prop_assert_eq!(read.time, i64::from(time_ms));
        let keyed = publication.keyed.as_deref().cloned().unwrap_or_default();
        prop_assert_eq!(&read.key, &*keyed.key);
        prop_assert_eq!((read.removed, read.score, read.version), (keyed.removed, keyed.score, keyed.version));
        prop_assert_eq!(read.tags.len(), publication.tags.len());
        for (key, value) in &publication.tags {
            prop_assert_eq!(read.tags.get(&**key).map(String::as_str), Some(&**value));
        }
        prop_assert_eq!(read.info.is_some(), publication.info.is_some());
        if let (Some(read), Some(info)) = (read.info, &publication.info) {
            prop_assert_eq!(&read.client, &info.client.to_string());
            prop_assert_eq!(&read.user, info.user.as_str());
            prop_assert_eq!(&read.conn_info[..], info.conn_info.as_deref().unwrap_or_default());
            prop_assert_eq!(&read.chan_info[..], info.chan_info.as_deref().unwrap_or_default());
        }
    }

    #[test]
    fn pushes_in_json_say_what_was_published(publication in publication(), name in "[!-~]{1,30}") {
        let channel = Channel::parse(&name, 255).unwrap();
        let push = Push::to(&channel, Event::plain(&publication));
        let mut out = BytesMut::new();
        prop_assert_eq!(CentrifugeJson::default().encode_push(push, &mut out), Encoded::Message(MessageKind::Text));
        let line = std::str::from_utf8(&out).unwrap();
        prop_assert!(!line.contains('\n'));

        let read: Value = serde_json::from_str(line).unwrap();
        prop_assert_eq!(&read["push"]["channel"], &name);
        let read = &read["push"]["pub"];
        prop_assert_eq!(&read["data"], &carried(&publication.data));
        prop_assert_eq!(read["offset"].as_u64().unwrap_or(0), publication.offset());
        for (key, value) in &publication.tags {
            prop_assert_eq!(&read["tags"][&**key], &**value);
        }
        match &publication.info {
            None => prop_assert!(read.get("info").is_none()),
            Some(info) => {
                prop_assert_eq!(&read["info"]["client"], &info.client.to_string());
                prop_assert_eq!(read["info"]["user"].as_str().unwrap_or(""), info.user.as_str());
                for (name, json) in [("conn_info", &info.conn_info), ("chan_info", &info.chan_info)] {
                    let expected = json.as_ref().map(|json| serde_json::from_slice::<Value>(json).unwrap());
                    prop_assert_eq!(read["info"].get(name), expected.as_ref());
                }
            }
        }

        let mut items = decode_frame(line);
        let Some(Ok(Received::Publication { channel, publication: received })) = items.next() else {
            return Err(TestCaseError::fail("not read as a publication"));
        };
        prop_assert_eq!(&*channel, name.as_str());
        prop_assert_eq!(received.offset, publication.offset());
        prop_assert_eq!(serde_json::from_str::<Value>(received.data).unwrap(), carried(&publication.data));
    }

    #[test]
    fn records_read_back(publication in publication()) {
        let mut message = BytesMut::new();
        encode_position(publication.position, &mut message);
        encode_record(&publication, &mut message);
        let message = message.freeze();
        prop_assert_eq!(decode_message(message.clone()), Ok(publication.clone()));
        let (position, record) = split_position(message).unwrap();
        prop_assert_eq!(position, publication.position);
        prop_assert_eq!(decode_record(record), Ok(Publication { position: None, ..publication }));
    }

    #[test]
    fn joins_and_leaves_read_back(info in client_info(), joined in any::<bool>()) {
        let event = if joined { OwnedEvent::Joined(info) } else { OwnedEvent::Left(info) };
        let mut record = BytesMut::new();
        encode_event(&event, &mut record);
        let record = record.freeze();
        prop_assert_eq!(decode_event(record.clone()), Ok(event));
        prop_assert!(decode_event(record.slice(..record.len() - 1)).is_err());
    }

    #[test]
    fn a_damaged_record_is_refused_or_is_another_record(
        publication in publication(),
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = BytesMut::new();
        encode_record(&publication, &mut bytes);
        for (at, mask) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= mask;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        let bytes = bytes.freeze();
        if let Ok(read) = decode_record(bytes.clone()) {
            let mut again = BytesMut::new();
            encode_record(&read, &mut again);
            prop_assert_eq!(decode_record(again.freeze()), Ok(read));
        }
    }

    #[test]
    fn no_bytes_make_a_reader_panic(bytes in vec(any::<u8>(), 0..60), fragments in vec(fragment(), 0..12)) {
        let _ = decode_record(Bytes::from(bytes.clone()));
        let _ = decode_message(Bytes::from(bytes.clone()));
        let _ = decode_event_message(Bytes::from(bytes.clone()));
        let _ = is_json(&bytes);
        let frame = fragments.concat();
        for kind in [MessageKind::Text, MessageKind::Binary] {
            for data in [&bytes[..], frame.as_bytes()] {
                let message = Message { kind, data };
                let _ = CentrifugeJson::default().decode(message, &mut Vec::new());
                let _ = CentrifugeProtobuf::default().decode(message, &mut Vec::new());
                let _ = CentrifugeUniJson::default().decode(message, &mut Vec::new());
                let _ = CentrifugeUniProtobuf::default().decode(message, &mut Vec::new());
                let _ = protobuf::client::decode_frame(data);
            }
        }
        for _ in decode_frame(&frame) {}
    }
}

/// Generates fragments of frames, so that random input gets far into a reader.
fn fragment() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\n",
        " ",
        "\\",
        "\\u",
        "d800",
        "0",
        "1",
        "-",
        "e9",
        ".",
        "null",
        "true",
        "é",
        "{}",
        "\"id\":1",
        "\"id\":",
        "\"connect\":{",
        "\"subscribe\":{",
        "\"publish\":{",
        "\"history\":{",
        "\"since\":{",
        "\"channel\":\"a\"",
        "\"data\":",
        "\"subs\":{\"a\":{",
        "\"offset\":7",
        "\"flag\":2",
        "}}",
        "{\"push\":{\"channel\":\"a\",\"pub\":{\"data\":",
        ",\"offset\":",
        "}}}",
        "{\"push\":{",
        "\"pub\":{",
        "\"error\":{",
        "\"code\":",
    ])
}
