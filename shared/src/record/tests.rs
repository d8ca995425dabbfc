//! The contents of records, byte by byte.

use super::*;
use crate::stamp::TraceContext;

fn record_of(publication: &Publication) -> Bytes {
    let mut out = BytesMut::new();
    encode_record(publication, &mut out);
    out.freeze()
}

#[test]
fn a_plain_record_is_two_bytes_and_the_payload() {
    assert_eq!(record_of(&Publication::new(Payload::json("{}"))), &b"\x01\x00{}"[..]);
    assert_eq!(record_of(&Publication::new(Payload::binary(&b"\xff"[..]))), &b"\x01\x02\xff"[..]);
}

fn ann() -> ClientInfo {
    ClientInfo {
        client: ClientId::from_bits(7),
        user: UserId::new("ann"),
        conn_info: Some("{}".into()),
        chan_info: None,
    }
}

#[test]
fn what_version_1_can_say_is_said_in_version_1() {
    let tags = Tags::from([("k".into(), "v".into())]);
    let publication = Publication { info: Some(ann()), tags, ..Publication::new(Payload::json("[1]")) };
    let mut expected = b"\x01\x2c".to_vec();
    expected.extend_from_slice(&7_u128.to_be_bytes());
    expected.extend_from_slice(b"\x03ann\x02{}\x01\x01k\x01v[1]");
    assert_eq!(record_of(&publication), expected);
}

#[test]
fn what_is_newer_is_said_in_version_2() {
    let data = Payload::json("1");
    let timed = Publication { time_ms: 300, ..Publication::new(data.clone()) };
    assert_eq!(record_of(&timed), &b"\x02\x00\x00\x01\xac\x021"[..]);
    let patched = Publication { delta: true, ..Publication::new(data.clone()) };
    assert_eq!(record_of(&patched), &b"\x02\x00\x00\x021"[..]);
    let keyed = Keyed { key: "k".into(), removed: true, score: -1, version: 5, before: None };
    let keyed = Publication { keyed: Some(Box::new(keyed)), ..Publication::new(data) };
    assert_eq!(record_of(&keyed), &b"\x02\x00\x00\x3c\x01k\x01\x051"[..]);
    let except = Some(Box::new(ClientId::from_bits(7)));
    let not_for_all = Publication { except, ..Publication::new(Payload::json("1")) };
    let mut expected = b"\x02\x00\x00\x40".to_vec();
    expected.extend_from_slice(&7_u128.to_be_bytes());
    expected.push(b'1');
    assert_eq!(record_of(&not_for_all), expected);
    let channel = |name: &str| Channel::parse(name, 255).unwrap();
    let selection = Selection {
        channels: vec![channel("a"), channel("b")],
        except_clients: vec![ClientId::from_bits(7)],
        volatile: true,
        ..Selection::default()
    };
    let selected = Publication { only: Some(Box::new(selection)), ..Publication::new(Payload::json("1")) };
    let mut expected = b"\x02\x00\x00\x80\x01\x02\x01a\x01b\x00\x00\x01".to_vec();
    expected.extend_from_slice(&7_u128.to_be_bytes());
    expected.push(b'1');
    assert_eq!(record_of(&selected), expected);
    for publication in [timed, patched, keyed, not_for_all, selected] {
        assert_eq!(decode_record(record_of(&publication)), Ok(publication));
    }
}

#[test]
fn a_stamp_is_a_tag_to_earlier_releases_and_none_to_this_one() {
    let trace = Some(TraceContext { trace: 5, span: 6 });
    let stamp = Stamp { came_micros: 7, ingress_micros: 8, trace, arrived_micros: 9 };
    for tags in [&[][..], &[("a", "b"), ("z", "y")]] {
        let tags: Tags = tags.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let plain = Publication { tags: tags.clone(), ..Publication::new(Payload::text("x")) };
        let stamped = Publication { stamp: Some(Box::new(stamp)), ..plain.clone() };
        let mut as_tag = plain.clone();
        as_tag.tags.insert(STAMP_TAG.into(), stamp.to_string().into());
        assert_eq!(record_of(&stamped), record_of(&as_tag));
        let carried = Some(Box::new(Stamp { arrived_micros: 0, ..stamp }));
        assert_eq!(decode_record(record_of(&stamped)), Ok(Publication { stamp: carried, ..plain.clone() }));
        // A stamp of a later release, with a further field.
        as_tag.tags.insert(STAMP_TAG.into(), "7,8,9,10".into());
        assert_eq!(decode_record(record_of(&as_tag)), Ok(plain));
    }
}

#[test]
fn joins_and_leaves_are_records_that_hold_no_publication() {
    for (event, what) in [(OwnedEvent::Joined(ann()), 1), (OwnedEvent::Left(ann()), 2)] {
        let mut out = BytesMut::from(&b":"[..]);
        encode_event(&event, &mut out);
        let message = out.freeze();
        assert_eq!(message[1..4], [2, what, HAS_INFO | HAS_CONN_INFO]);
        assert_eq!(decode_event_message(message.clone()), Ok(event));
        assert_eq!(decode_message(message), Err(RecordError::NoPublication));
    }
}

#[test]
fn a_count_of_subscribers_is_a_record_of_one_number() {
    let mut out = BytesMut::from(&b":"[..]);
    encode_event(&OwnedEvent::Counted { subscribers: 300 }, &mut out);
    assert_eq!(out[1..], [2, 3, 0, 0xac, 2]);
    let message = out.freeze();
    assert_eq!(decode_event_message(message.clone()), Ok(OwnedEvent::Counted { subscribers: 300 }));
    assert_eq!(decode_message(message), Err(RecordError::What));
    let more = decode_event(Bytes::from_static(b"\x02\x03\x00\x01x"));
    assert_eq!(more, Err(RecordError::Length));
}

#[test]
fn what_stays_on_its_node_has_no_record() {
    let mut out = BytesMut::new();
    encode_event(&OwnedEvent::MemberAdded { info: ann(), version: 1 }, &mut out);
    encode_event(&OwnedEvent::MemberRemoved { user: UserId::new("ann"), version: 2 }, &mut out);
    assert!(out.is_empty());
}

#[test]
fn the_payload_is_read_without_a_copy() {
    let record = record_of(&Publication::new(Payload::text("hello")));
    let publication = decode_record(record.clone()).unwrap();
    assert_eq!(publication.data.bytes.as_ptr(), record[2..].as_ptr());
}

#[test]
fn a_message_is_a_position_and_a_record() {
    let read = |message: &'static [u8]| decode_message(Bytes::from_static(message)).map(|read| read.position);
    let epoch = Epoch::parse("abcdefgh").unwrap();
    assert_eq!(read(b":\x01\x00{}"), Ok(None));
    assert_eq!(read(b"7:abcdefgh:\x01\x00{}"), Ok(Some(StreamPosition { offset: 7, epoch })));
    assert_eq!(
        read(b"18446744073709551615::\x01\x00{}"),
        Ok(Some(StreamPosition { offset: u64::MAX, epoch: Epoch::EMPTY }))
    );
    for bad in [
        &b""[..],
        b"7",
        b"7:abc",
        b"+7:abc:\x01\x00{}",
        b"-7:abc:\x01\x00{}",
        b"18446744073709551616:abc:\x01\x00{}",
        b"7:sixteen-bytes-ok:\x01\x00{}",
        b"7:\xff:\x01\x00{}",
        b"000000000000000000007:abc:\x01\x00{}",
    ] {
        assert_eq!(read(bad), Err(RecordError::Position), "{bad:?}");
    }
}

#[test]
fn what_is_no_record_is_told_apart() {
    let read = |record: &'static [u8]| decode_record(Bytes::from_static(record)).unwrap_err();
    assert_eq!(read(b""), RecordError::Truncated);
    assert_eq!(read(b"\x01"), RecordError::Truncated);
    assert_eq!(read(b"\x03\x00{}"), RecordError::Version(3));
    assert_eq!(read(b"\x02"), RecordError::Truncated);
    assert_eq!(read(b"\x02\x00\x00"), RecordError::Truncated);
    assert_eq!(read(b"\x02\x03\x00{}"), RecordError::What);
    assert_eq!(read(b"\x02\x00\x00\x80{}"), RecordError::Flags);
    assert_eq!(read(b"\x02\x00\x00\x40{}"), RecordError::Truncated);
    assert_eq!(read(b"\x02\x00\x00\x08{}"), RecordError::Flags);
    assert_eq!(read(b"\x02\x01\x00{}"), RecordError::Flags);
    assert_eq!(read(b"\x02\x00\x00\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02{}"), RecordError::Length);
    assert_eq!(read(b"\x01\x03{}"), RecordError::Flags);
    assert_eq!(read(b"\x01\x40{}"), RecordError::Flags);
    assert_eq!(read(b"\x01\x08{}"), RecordError::Flags);
    assert_eq!(read(b"\x01\x04short"), RecordError::Truncated);
    assert_eq!(read(b"\x01\x00\xff"), RecordError::Text);
    assert_eq!(read(b"\x01\x20\x00{}"), RecordError::Tags);
    assert_eq!(read(b"\x01\x20\x02\x01b\x00\x01a\x00{}"), RecordError::Tags);
    assert_eq!(read(b"\x01\x20\x02\x01a\x00\x01a\x00{}"), RecordError::Tags);
    assert_eq!(read(b"\x01\x20\xff\xff\xff\xff\x0f\x01a\x00"), RecordError::Truncated);
    assert_eq!(read(b"\x01\x20\xff\xff\xff\xff\xff\xff"), RecordError::Length);
}
