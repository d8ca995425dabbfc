//! Preparing the frame that all subscribers of a publication share.

use std::hint::black_box;
use std::sync::Arc;

use benches::counted;
use benches::samples::{CHANNEL, channel, prepared, publication, variants};
use gateway_core::hub::{Prepared, Variant, Variants, Writable};
use gateway_core::namespace_id::NamespaceId;
use gungraun::{library_benchmark, library_benchmark_group};
use shared::channel::Channel;
use shared::publication::Publication;

type Sample = (Channel, Publication, Arc<Variants>, Variant);

fn plain(bytes: usize) -> Sample {
    let (variants, [centrifuge, _]) = variants();
    (channel(CHANNEL), publication(bytes, 1), variants, Variant::plain(centrifuge))
}

fn raw(bytes: usize) -> Sample {
    let (variants, [_, raw]) = variants();
    (channel(CHANNEL), publication(bytes, 1), variants, Variant::plain(raw))
}

/// The deflater has been used before, as in nearly all cases.
fn deflated(bytes: usize) -> Sample {
    let (variants, [centrifuge, _]) = variants();
    let variant = Variant::deflated(centrifuge, 15);
    let before = Prepared::new(channel(CHANNEL), NamespaceId::DEFAULT, publication(bytes, 1), 0, &variants);
    assert!(matches!(before.writable(variant), Writable::Frame(_)));
    (channel(CHANNEL), publication(bytes, 2), variants, variant)
}

#[library_benchmark]
#[bench::plain_128(args = (128), setup = plain, config = counted(2_435))]
#[bench::plain_4096(args = (4096), setup = plain, config = counted(3_159))]
#[bench::raw_128(args = (128), setup = raw, config = counted(1_155))]
#[bench::deflated_1024(args = (1024), setup = deflated, config = counted(372_980))]
#[bench::deflated_4096(args = (4096), setup = deflated, config = counted(560_278))]
fn frame((channel, publication, variants, variant): Sample) -> (Arc<Prepared>, usize) {
    let prepared = Prepared::new(channel, NamespaceId::DEFAULT, publication, 0, &variants);
    let bytes = match prepared.writable(black_box(variant)) {
        Writable::Frame(frame) => frame.len(),
        Writable::Nothing | Writable::Close(_) | Writable::Broken => 0,
    };
    (prepared, bytes)
}

fn made(bytes: usize) -> (Arc<Prepared>, Variant) {
    let (channel, publication, variants, variant) = deflated(bytes);
    let prepared = Prepared::new(channel, NamespaceId::DEFAULT, publication, 0, &variants);
    prepared.writable(variant);
    (prepared, variant)
}

// The cost for each subscriber of a variant after the first.
#[library_benchmark]
#[bench::deflated(args = (1024), setup = made, config = counted(70))]
fn frame_again((prepared, variant): (Arc<Prepared>, Variant)) -> (Arc<Prepared>, usize) {
    let bytes = match prepared.writable(black_box(variant)) {
        Writable::Frame(frame) => frame.len(),
        Writable::Nothing | Writable::Close(_) | Writable::Broken => 0,
    };
    (prepared, bytes)
}

type Backlog = (Vec<Arc<Prepared>>, Variant);

fn backlog(count: u64) -> Backlog {
    let (variants, [centrifuge, _]) = variants();
    (prepared(count, &variants), Variant::plain(centrifuge))
}

fn deflated_backlog(count: u64) -> Backlog {
    let (variants, [centrifuge, _]) = variants();
    let variant = Variant::deflated(centrifuge, 15);
    let publications = prepared(count, &variants);
    gateway_core::hub::Bundles::new(&publications).get(variant);
    (prepared(count, &variants), variant)
}

// Bundles several waiting publications into one frame.
#[library_benchmark]
#[bench::plain_8(args = (8), setup = backlog, config = counted(15_259))]
#[bench::deflated_8(args = (8), setup = deflated_backlog, config = counted(326_054))]
fn bundle((publications, variant): Backlog) -> (Vec<Arc<Prepared>>, usize) {
    let mut bundles = gateway_core::hub::Bundles::new(&publications);
    let writes = bundles.get(black_box(variant)).writes.len();
    drop(bundles);
    (publications, writes)
}

library_benchmark_group!(name = preparing, benchmarks = [frame, frame_again, bundle]);
