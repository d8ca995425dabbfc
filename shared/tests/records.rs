//! Records as brokers carry them, through the public API.

use bytes::{BufMut, BytesMut};
use shared::publication::{Keyed, Payload, Publication};
use shared::push::OwnedEvent;
use shared::record::{decode_event_message, encode_record};

#[test]
fn what_a_key_held_before_stands_in_front_of_what_it_holds() {
    let keyed = || Some(Box::new(Keyed { key: "k".into(), ..Keyed::default() }));
    let publication =
        |data: &'static str| Publication { keyed: keyed(), ..Publication::new(Payload::json(data)) };
    let (mut before, mut now) = (BytesMut::new(), BytesMut::new());
    encode_record(&publication("1"), &mut before);
    encode_record(&publication("2"), &mut now);
    let message = |length: usize| {
        let mut message = BytesMut::from(&b"7:life:\x03"[..]);
        message.put_slice(format!("{length}:").as_bytes());
        message.put_slice(&before);
        message.put_slice(&now);
        message.freeze()
    };
    let Ok(OwnedEvent::Publication(read)) = decode_event_message(message(before.len())) else {
        panic!("it is a publication")
    };
    assert_eq!((read.offset(), &read.data), (7, &Payload::json("2")));
    assert_eq!(read.keyed.unwrap().before, Some(Payload::json("1")));
    for length in [0, before.len() - 1, before.len() + now.len() + 1, usize::MAX] {
        assert!(decode_event_message(message(length)).is_err(), "{length}");
    }
}
