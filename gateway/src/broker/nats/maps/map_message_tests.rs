//! Messages of a map's log decode to what was encoded, and all other bytes are refused.

use proptest::prelude::*;

use super::*;

fn position(offset: u64) -> StreamPosition {
    StreamPosition { offset, epoch: Epoch::from_random(7) }
}

fn some_rows() -> Vec<MapRow> {
    let version = Some(Version { number: u64::MAX, epoch: "day".into() });
    let record = Bytes::from_static(b"record");
    vec![
        MapRow::Gone("a.b".into()),
        MapRow::Held { entry: 1, expires: Some(9_000), version: version.clone() },
        MapRow::Held { entry: 0, expires: None, version: None },
        MapRow::Lives("k".into(), Some(7)),
        MapRow::Once { digest: [3; KEY_BYTES], position: position(4), until: 8 },
        MapRow::Begins { position: position(2), version: version.clone(), until: 7 },
        MapRow::Past(record.clone()),
        MapRow::Key { offset: 3, expires: Some(9), version, record: record.clone() },
        MapRow::Done(12, record),
    ]
}

fn some_changes() -> ChangesMessage {
    ChangesMessage {
        head: MapHead { top: position(9), next_expiry: 1_234 },
        at: 77,
        retention: Retention::new(100, Duration::from_secs(60)),
        version: Some(Version { number: 5, epoch: "".into() }),
        entries: vec![
            ChangeEntry { record: Bytes::from_static(b"one"), before: None },
            ChangeEntry { record: Bytes::from_static(b"two"), before: Some(Bytes::from_static(b"b")) },
        ],
        rows: some_rows(),
    }
}

fn some_base() -> BaseMessage {
    let mut rows = BytesMut::new();
    some_rows().iter().for_each(|row| row.encode(&mut rows));
    let head = MapHead { top: position(9), next_expiry: 0 };
    let part = "at-7-x".into();
    BaseMessage { head, covers: 7, time: 5, part, parts: 2, bytes: 99, rows: rows.freeze() }
}

#[test]
fn what_is_written_down_reads_back_as_it_was() {
    let (changes, base) = (some_changes(), some_base());
    assert_eq!(MapMessage::decode(changes.encode()).unwrap(), MapMessage::Changes(changes.clone()));
    assert_eq!(MapMessage::decode(base.encode()).unwrap(), MapMessage::Base(base.clone()));
    assert_eq!(MapHead::of(changes.encode()).unwrap(), changes.head);
    assert_eq!(MapHead::of(base.encode()).unwrap(), base.head);
    assert_eq!(changes.before(), 7);
    let mut rows = base.rows;
    for row in some_rows() {
        assert_eq!(MapRow::next(&mut rows).unwrap(), Some(row));
    }
    assert_eq!(MapRow::next(&mut rows).unwrap(), None);
}

#[test]
fn what_is_cut_off_is_no_message_of_changes_with_fewer_entries() {
    let whole = ChangesMessage { rows: Vec::new(), ..some_changes() }.encode();
    for length in 0..whole.len() {
        assert!(MapMessage::decode(whole.slice(..length)).is_err(), "{length}");
    }
    assert!(MapMessage::decode([&whole[..], b"\xff"].concat().into()).is_err());
}

proptest! {
    #[test]
    fn no_bytes_are_too_odd_to_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for what in [CHANGES, BASE] {
            let message = Bytes::from([&[what][..], &bytes[..]].concat());
            if let Ok(MapMessage::Changes(changes)) = MapMessage::decode(message) {
                changes.publications().for_each(drop);
            }
        }
        let mut rows = Bytes::from(bytes);
        while let Ok(Some(_)) = MapRow::next(&mut rows) {}
    }
}
