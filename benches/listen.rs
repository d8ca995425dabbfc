//! Joining and leaving a channel in the hub.

use std::hint::black_box;

use benches::counted;
use benches::samples::{CHANNEL, Counter, channel, hub, position, variants};
use gateway_core::hub::{Hub, Subscriber, Variant};
use gungraun::{library_benchmark, library_benchmark_group};
use shared::channel::Channel;

type Sample = (Hub, Channel, Subscriber);

fn with_key(key: u32, mut subscriber: Subscriber) -> Subscriber {
    subscriber.key = key;
    subscriber
}

fn subscriber(key: u32) -> Subscriber {
    let (_, [centrifuge, _]) = variants();
    Subscriber::new(key, Variant::plain(centrifuge)).positioned(true)
}

/// One channel with a thousand other subscribers.
fn one_channel() -> Sample {
    let someone = subscriber(1_000);
    (hub(1_000, &[someone.variant]), channel(CHANNEL), someone)
}

/// A hundred thousand channels with one subscriber each, before a subscriber joins a new one.
fn many_channels() -> Sample {
    let someone = subscriber(100_000);
    let mut hub = Hub::default();
    for key in 0..100_000 {
        let channel = channel(&format!("prices:{key}"));
        benches::samples::listen(&mut hub, &channel, key, someone.variant);
    }
    (hub, channel("prices:new"), someone)
}

#[library_benchmark]
#[bench::in_one_channel(args = (), setup = one_channel, config = counted(1_572))]
#[bench::beside_100_000_channels(args = (), setup = many_channels, config = counted(1_815))]
fn subscribe((mut hub, channel, subscriber): Sample) -> Sample {
    let joined = hub.join(black_box(&channel), subscriber, None);
    black_box(joined);
    hub.go_live(channel.as_str(), subscriber.key, Some(position(1)), &mut Counter::default());
    (hub, channel, subscriber)
}

fn of_one_channel() -> Sample {
    let (hub, channel, someone) = one_channel();
    (hub, channel, with_key(500, someone))
}

fn of_many_channels() -> Sample {
    let (hub, _, someone) = many_channels();
    (hub, channel("prices:50000"), with_key(50_000, someone))
}

#[library_benchmark]
#[bench::in_one_channel(args = (), setup = of_one_channel, config = counted(568))]
#[bench::beside_100_000_channels(args = (), setup = of_many_channels, config = counted(1_018))]
fn unsubscribe((mut hub, channel, subscriber): Sample) -> Sample {
    let left = hub.leave(black_box(channel.as_str()), subscriber.key);
    assert!(left.is_some());
    (hub, channel, subscriber)
}

/// A connection in sixteen channels, each of which has another subscriber.
fn in_sixteen() -> (Hub, u32) {
    let variant = subscriber(0).variant;
    let mut hub = Hub::default();
    for number in 0..16 {
        for key in 0..2 {
            benches::samples::listen(&mut hub, &channel(&format!("prices:{number}")), key, variant);
        }
    }
    (hub, 1)
}

#[library_benchmark]
#[bench::of_sixteen_channels(args = (), setup = in_sixteen, config = counted(2_300))]
fn disconnect((mut hub, key): (Hub, u32)) -> (Hub, u32) {
    let mut last = 0;
    hub.remove_all(black_box(key), |_, left| last += u32::from(left.last));
    (hub, last)
}

library_benchmark_group!(name = listening, benchmarks = [subscribe, unsubscribe, disconnect]);
