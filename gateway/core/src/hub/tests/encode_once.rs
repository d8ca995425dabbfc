//! Tests that each encoding of a publication is made at most once, whichever subscribers need it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use shared::command::Command;
use shared::disconnect::Disconnect;
use shared::framing::{Message, MessageKind};
use shared::protocol::{DecodeError, Encoded, Heartbeat, Protocol, ProtocolId};
use shared::publication::{Payload, Publication};
use shared::push::{Event, Push};
use shared::reply::Reply;

use super::channel;
use crate::hub::*;
use crate::namespace_id::NamespaceId;

/// A protocol that writes payloads unchanged, except for `nothing`, `close`, `broken` (an error) and `two` (two messages).
#[derive(Debug, Default)]
pub(super) struct Counting {
    encoded: AtomicUsize,
    delimiter: Option<&'static [u8]>,
}

impl Protocol for Counting {
    fn id(&self) -> ProtocolId {
        ProtocolId::RAW
    }

    fn decode(&self, _: Message<'_>, _: &mut Vec<Command>) -> Result<(), DecodeError> {
        Err(DecodeError::Malformed)
    }

    fn encode_reply(&self, _: &Reply, _: &mut BytesMut) -> Encoded {
        Encoded::Nothing
    }

    fn encode_push(&self, push: Push<'_>, out: &mut BytesMut) -> Encoded {
        self.encoded.fetch_add(1, Ordering::Relaxed);
        let Event::Publication(publication, _) = push.event else { return Encoded::Nothing };
        match &publication.data.bytes[..] {
            b"nothing" => Encoded::Nothing,
            b"close" => Encoded::Close(Disconnect::INAPPROPRIATE_PROTOCOL),
            b"broken" => panic!("a fault of the protocol"),
            b"two" => {
                out.put_slice(b"two");
                Encoded::Messages(vec![(MessageKind::Text, 1), (MessageKind::Text, 2)])
            }
            bytes => {
                out.put_slice(bytes);
                Encoded::Message(MessageKind::Text)
            }
        }
    }

    fn heartbeat(&self) -> Heartbeat {
        Heartbeat::Transport
    }

    fn delimiter(&self) -> Option<&'static [u8]> {
        self.delimiter
    }
}

/// A framing that writes `<message>`, and `{first letter}` for a deflated message of more than four bytes.
#[derive(Debug, Default)]
pub(super) struct Brackets {
    deflated: AtomicUsize,
}

impl PushFraming for Brackets {
    fn headroom(&self) -> usize {
        5
    }

    fn seal(&self, _: MessageKind, buffer: &mut BytesMut) -> usize {
        buffer[4] = b'<';
        buffer.put_u8(b'>');
        4
    }

    fn deflate(&self, _: MessageKind, message: &[u8]) -> Option<Bytes> {
        self.deflated.fetch_add(1, Ordering::Relaxed);
        (message.len() > 4).then(|| vec![b'{', message[0], b'}'].into())
    }
}

pub(super) struct Bench {
    protocol: Arc<Counting>,
    framing: Arc<Brackets>,
    pub(super) variants: Arc<Variants>,
    pub(super) encoding: EncodingId,
}

fn bench() -> Bench {
    bench_with(None)
}

pub(super) fn bench_with(delimiter: Option<&'static [u8]>) -> Bench {
    let protocol = Arc::new(Counting { delimiter, ..Counting::default() });
    let framing = Arc::new(Brackets::default());
    let mut variants = Variants::default();
    let encoding = variants.add(Encoding { protocol: protocol.clone(), framing: framing.clone() }).unwrap();
    Bench { protocol, framing, variants: Arc::new(variants), encoding }
}

pub(super) fn prepare(bench: &Bench, text: impl Into<Bytes>) -> Arc<Prepared> {
    Prepared::new(
        channel("news"),
        NamespaceId::DEFAULT,
        Publication::new(Payload::text(text)),
        0,
        &bench.variants,
    )
}

fn frame(prepared: &Prepared, variant: Variant) -> &[u8] {
    match prepared.writable(variant) {
        Writable::Frame(frame) => frame,
        other => panic!("{other:?} where a frame was expected"),
    }
}

#[test]
fn an_encoding_and_its_deflated_twin_are_made_once_by_whichever_thread_asks_first() {
    let bench = bench();
    let prepared = prepare(&bench, "hello");
    assert_eq!(bench.protocol.encoded.load(Ordering::Relaxed), 0, "not before anyone takes it");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    assert_eq!(frame(&prepared, Variant::plain(bench.encoding)), b"<hello>");
                    assert_eq!(frame(&prepared, Variant::deflated(bench.encoding, 15)), b"{h}");
                    assert_eq!(frame(&prepared, Variant::deflated(bench.encoding, 9)), b"{h}");
                }
            });
        }
    });
    assert_eq!(bench.protocol.encoded.load(Ordering::Relaxed), 1);
    assert_eq!(bench.framing.deflated.load(Ordering::Relaxed), 1);
}

#[test]
fn a_message_that_deflating_does_not_help_goes_out_plain_and_is_not_tried_again() {
    let bench = bench();
    let prepared = prepare(&bench, "tiny");
    for _ in 0..3 {
        assert_eq!(frame(&prepared, Variant::deflated(bench.encoding, 15)), b"<tiny>");
    }
    assert_eq!(bench.framing.deflated.load(Ordering::Relaxed), 1);
}

#[test]
fn a_peer_with_a_small_window_gets_only_short_messages_deflated() {
    let bench = bench();
    let long = Bytes::from("x".repeat(513));
    let prepared = prepare(&bench, long.clone());
    assert_eq!(frame(&prepared, Variant::deflated(bench.encoding, 9)), [b"<", &long[..], b">"].concat());
    assert_eq!(bench.framing.deflated.load(Ordering::Relaxed), 0, "nobody wants it yet");
    assert_eq!(frame(&prepared, Variant::deflated(bench.encoding, 10)), b"{x}");
    assert_eq!(frame(&prepare(&bench, long.slice(1..)), Variant::deflated(bench.encoding, 9)), b"{x}");
}

#[test]
fn a_protocol_can_say_nothing_or_close_or_write_several_messages() {
    let bench = bench();
    let variant = Variant::deflated(bench.encoding, 15);
    assert_eq!(prepare(&bench, "nothing").writable(variant), Writable::Nothing);
    let close = Disconnect::INAPPROPRIATE_PROTOCOL;
    assert_eq!(prepare(&bench, "close").writable(variant), Writable::Close(&close));
    assert_eq!(frame(&prepare(&bench, "two"), variant), b"<t><wo>");
}

#[test]
fn the_table_of_encodings_is_bounded() {
    let mut variants = Variants::default();
    let encoding = Encoding { protocol: Arc::<Counting>::default(), framing: Arc::<Brackets>::default() };
    for _ in 0..ENCODINGS_MAX {
        let id = variants.add(encoding.clone()).unwrap();
        assert_eq!(Variant::deflated(id, 15).encoding(), variants.len() - 1);
        let small = Variant::deflated(id, 8);
        assert!(small.takes_deflated(256) && !small.takes_deflated(257));
        assert!(Variant::deflated(id, 15).takes_deflated(1 << 20));
        for bits in [0, 7, 16, 255] {
            assert_eq!(Variant::deflated(id, bits), Variant::plain(id));
        }
    }
    assert_eq!(variants.add(encoding), None);
}

#[test]
fn a_publication_whose_encoding_panics_is_broken_for_all_and_tried_once() {
    let bench = bench();
    let broken = prepare(&bench, "broken");
    let variant = Variant::plain(bench.encoding);
    for _ in 0..3 {
        assert_eq!(broken.writable(variant), Writable::Broken);
    }
    assert_eq!(bench.protocol.encoded.load(Ordering::Relaxed), 1);
    let publications = [prepare(&bench, "first"), broken, prepare(&bench, "last")];
    let mut bundles = Bundles::new(&publications);
    let bundle = bundles.get(variant);
    assert_eq!((&bundle.writes[..], bundle.publications), (&[Bytes::from("<first>")][..], 1));
    let Some(BundleEnd::Broken(rest)) = &bundle.end else { panic!("{bundle:?}") };
    assert_eq!(
        (&rest.writes[..], &rest.end),
        (&[Bytes::from("<last>")][..], &None),
        "for who follows no stream"
    );
}
