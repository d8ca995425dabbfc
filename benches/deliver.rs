//! Delivering publications through the hub to all subscribers of a channel, into a sink that only counts them.

use std::hint::black_box;
use std::sync::Arc;

use benches::counted;
use benches::samples::{
    CHANNEL, Counter, channel, hub, hub_before_its_first, prepared, publication, variants,
};
use gateway_core::hub::{Hub, Prepared, Subscriber, Variant};
use gateway_core::namespace_id::NamespaceId;
use gungraun::{library_benchmark, library_benchmark_group};
use shared::publication::Publication;

type Sample = (Hub, Vec<Arc<Prepared>>, Counter);

fn one_variant(subscribers: u32, publications: u64) -> Sample {
    let (variants, [centrifuge, _]) = variants();
    let hub = hub(subscribers, &[Variant::plain(centrifuge)]);
    (hub, prepared(publications, &variants), Counter::default())
}

/// The channel's first publication, before which the hub does not know the stream's position.
fn the_first(subscribers: u32) -> Sample {
    let (variants, [centrifuge, _]) = variants();
    let hub = hub_before_its_first(subscribers, &[Variant::plain(centrifuge)]);
    let first = Prepared::new(channel(CHANNEL), NamespaceId::DEFAULT, publication(128, 1), 0, &variants);
    (hub, vec![first], Counter::default())
}

/// Every subscriber is in a second channel too, which has just had a publication.
fn two_channels(subscribers: u32) -> Sample {
    let (variants, [centrifuge, _]) = variants();
    let mut hub = hub(subscribers, &[Variant::plain(centrifuge)]);
    let second = channel("prices:MSFT");
    for key in 0..subscribers {
        hub.join(&second, Subscriber::new(key, Variant::plain(centrifuge)), None);
        hub.go_live(second.as_str(), key, None, &mut Counter::default());
    }
    let before = Prepared::new(
        second.clone(),
        NamespaceId::DEFAULT,
        Publication { position: None, ..publication(128, 1) },
        0,
        &variants,
    );
    hub.deliver(second.as_str(), &[before], &mut Counter::default());
    (hub, prepared(1, &variants), Counter::default())
}

/// Neighbours in the list have different variants, which is the worst order.
fn four_variants(subscribers: u32, publications: u64) -> Sample {
    let (variants, [centrifuge, raw]) = variants();
    let each = [
        Variant::plain(centrifuge),
        Variant::deflated(centrifuge, 15),
        Variant::plain(raw),
        Variant::deflated(centrifuge, 12),
    ];
    (hub(subscribers, &each), prepared(publications, &variants), Counter::default())
}

#[library_benchmark]
#[bench::to_1_000(args = (1_000, 1), setup = one_variant, config = counted(51_530))]
#[bench::to_10_000(args = (10_000, 1), setup = one_variant, config = counted(484_448))]
#[bench::backlog_of_8_to_1_000(args = (1_000, 8), setup = one_variant, config = counted(65_771))]
#[bench::backlog_of_8_to_10_000(args = (10_000, 8), setup = one_variant, config = counted(498_689))]
#[bench::in_four_variants_to_10_000(args = (10_000, 1), setup = four_variants, config = counted(1_006_480))]
#[bench::backlog_of_8_in_four_variants_to_10_000(args = (10_000, 8), setup = four_variants, config = counted(2_107_979))]
#[bench::the_first_to_1_000(args = (1_000), setup = the_first, config = counted(52_462))]
#[bench::in_two_channels_to_10_000(args = (10_000), setup = two_channels, config = counted(4_775_795))]
fn publications((mut hub, publications, mut counter): Sample) -> Sample {
    hub.deliver(black_box(CHANNEL), &publications, &mut counter);
    while hub.is_sweeping() {
        hub.sweep_on(&mut counter);
    }
    assert!(counter.bytes > 0);
    (hub, publications, counter)
}

library_benchmark_group!(name = delivering, benchmarks = [publications]);
