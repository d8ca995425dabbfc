//! Several publications as few writes. The test framing shows a message as `<message>`, a deflated one as `{x}`.

use std::sync::Arc;

use bytes::Bytes;
use shared::channel::Channel;
use shared::disconnect::Disconnect;
use shared::id::ClientId;
use shared::publication::{Payload, Publication};

use super::encode_once::{Bench, bench_with, prepare};
use crate::hub::*;
use crate::namespace_id::NamespaceId;

fn publications(bench: &Bench, texts: &[&'static str]) -> Vec<Arc<Prepared>> {
    texts.iter().map(|&text| prepare(bench, text)).collect()
}

fn bundled(publications: &[Arc<Prepared>], variant: Variant) -> Bundle {
    Bundles::new(publications).get(variant).clone()
}

fn texts(bundle: &Bundle) -> Vec<&str> {
    bundle.writes.iter().map(|write| std::str::from_utf8(write).unwrap()).collect()
}

#[test]
fn one_publication_is_its_own_shared_frame() {
    let bench = bench_with(Some(b"\n"));
    let batch = publications(&bench, &["one"]);
    let variant = Variant::plain(bench.encoding);
    let bundle = bundled(&batch, variant);
    let Writable::Frame(shared) = batch[0].writable(variant) else { panic!("no frame") };
    assert_eq!(bundle.writes[0].as_ptr(), shared.as_ptr(), "not a copy");
}

#[test]
fn messages_travel_as_one_where_the_protocol_has_a_delimiter_and_as_one_write_otherwise() {
    let words = ["a", "b", "c"];
    let joining = bench_with(Some(b"\n"));
    let bundle = bundled(&publications(&joining, &words), Variant::plain(joining.encoding));
    assert_eq!((texts(&bundle), bundle.publications), (vec!["<a\nb\nc>"], 3));

    let separate = bench_with(None);
    let bundle = bundled(&publications(&separate, &words), Variant::plain(separate.encoding));
    assert_eq!((texts(&bundle), bundle.publications), (vec!["<a><b><c>"], 3));
}

#[test]
fn who_is_spared_something_gets_the_rest() {
    let bench = bench_with(Some(b"\n"));
    let variant = Variant::plain(bench.encoding);
    let (one, other) = (ClientId::from_bits(1), ClientId::from_bits(2));
    let for_all_but = |text: &'static str, except: Option<ClientId>| {
        let publication =
            Publication { except: except.map(Box::new), ..Publication::new(Payload::text(text)) };
        Prepared::new(
            Channel::parse("news", 255).unwrap(),
            NamespaceId::DEFAULT,
            publication,
            0,
            &bench.variants,
        )
    };
    let batch = [for_all_but("a", None), for_all_but("b", Some(one)), for_all_but("c", Some(other))];
    let bundles = Bundles::new(&batch);
    assert!(bundles.excludes_anyone() && !Bundles::new(&batch[..1]).excludes_anyone());
    let without = |client| bundles.without(variant, |prepared| prepared.except() == Some(client));
    assert_eq!((texts(&without(one)), without(one).publications), (vec!["<a\nc>"], 2));
    assert_eq!(texts(&without(other)), ["<a\nb>"]);
    let alone = Bundles::new(&batch[1..2]).without(variant, |prepared| prepared.except() == Some(one));
    assert_eq!(alone, Bundle::default(), "nothing at all");
}

#[test]
fn what_is_too_small_to_deflate_alone_is_deflated_together() {
    let bench = bench_with(Some(b"\n"));
    let batch = publications(&bench, &["one", "six"]);
    assert_eq!(texts(&bundled(&batch, Variant::deflated(bench.encoding, 15))), ["{o}"]);
    assert_eq!(texts(&bundled(&batch, Variant::plain(bench.encoding))), ["<one\nsix>"]);
}

#[test]
fn what_has_no_word_is_left_out_and_what_can_only_be_said_by_closing_ends_it() {
    let bench = bench_with(Some(b"\n"));
    let batch = publications(&bench, &["a", "b", "nothing", "two", "c", "d", "close", "e"]);
    let bundle = bundled(&batch, Variant::plain(bench.encoding));
    assert_eq!(texts(&bundle), ["<a\nb><t><wo><c\nd>"]);
    assert_eq!(bundle.publications, 5);
    assert_eq!(bundle.end, Some(BundleEnd::Close(Disconnect::INAPPROPRIATE_PROTOCOL)));
}

#[test]
fn messages_and_writes_are_bounded() {
    let bench = bench_with(Some(b","));
    let batch: Vec<_> = (0..40).map(|_| prepare(&bench, "x")).collect();
    let bundle = bundled(&batch, Variant::plain(bench.encoding));
    let written = texts(&bundle).concat();
    let messages: Vec<_> = written.split_inclusive('>').map(|frame| frame.matches('x').count()).collect();
    assert_eq!(messages, [16, 16, 8]);

    let large = Bytes::from(vec![b'x'; BUNDLED_BYTES_MAX / 4]);
    let batch: Vec<_> = (0..10).map(|_| prepare(&bench, large.clone())).collect();
    let bundle = bundled(&batch, Variant::plain(bench.encoding));
    assert!(bundle.writes.len() >= 3 && bundle.publications == 10);
    assert!(bundle.writes.iter().all(|write| write.len() <= BUNDLED_BYTES_MAX + 16));

    let huge = Bytes::from(vec![b'x'; BUNDLED_BYTES_MAX * 2]);
    let batch = [prepare(&bench, "a"), prepare(&bench, huge.clone()), prepare(&bench, "b")];
    let bundle = bundled(&batch, Variant::plain(bench.encoding));
    assert_eq!(bundle.writes.iter().map(Bytes::len).collect::<Vec<_>>(), [3, huge.len() + 2, 3]);
}

#[test]
fn newest_values_begin_with_short_writes_and_each_says_how_many_of_them_it_deals_with() {
    const TEXT: &str = "0123456789012345678901234567890123456789012345678901234567890123456789";
    for delimiter in [Some(&b"\n"[..]), None] {
        let bench = bench_with(delimiter);
        let variant = Variant::plain(bench.encoding);
        let batch: Vec<_> = (0..500).map(|_| prepare(&bench, TEXT)).collect();
        let bundle = Bundles::newest(batch.clone().into()).get(variant).clone();
        let lengths: Vec<usize> = bundle.writes.iter().map(|write| write.len()).collect();
        assert!(lengths[..8].iter().all(|&length| length <= 512), "{lengths:?}");
        assert!(lengths[8..].iter().any(|&length| length > 8 << 10) && lengths.len() < 16, "{lengths:?}");
        assert_eq!(bundle.reach.len(), bundle.writes.len());
        let mut before = 0;
        for (write, &reach) in bundle.writes.iter().zip(&bundle.reach) {
            let texts = std::str::from_utf8(write).unwrap().matches(TEXT).count();
            assert_eq!(reach as usize - before, texts);
            before = reach as usize;
        }
        assert_eq!((before, bundle.publications), (500, 500));
        assert!(bundled(&batch, variant).reach.is_empty(), "nobody asks there");
    }
}
