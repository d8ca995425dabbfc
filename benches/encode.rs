//! Encoding replies and pushes.

use std::hint::black_box;

use benches::counted;
use benches::samples::{CHANNEL, channel, info, position, publication};
use bytes::BytesMut;
use gungraun::{library_benchmark, library_benchmark_group};
use shared::channel::Channel;
use shared::error::ErrorCode;
use shared::protocol::Protocol;
use shared::protocol::centrifuge::json::CentrifugeJson;
use shared::publication::Publication;
use shared::push::{Event, Push, UnsubscribeCode};
use shared::reply::{Answer, Connected, Reply, Subscribed};

fn answer(answer: Answer) -> (Reply, BytesMut) {
    (Reply::new(7, Ok(answer)), BytesMut::new())
}

fn connected() -> (Reply, BytesMut) {
    let client = info().client;
    let node = "node-1".into();
    answer(Answer::Connect(Box::new(Connected {
        ping_seconds: 25,
        pong: true,
        ..Connected::new(client, "0.1.0", node)
    })))
}

fn subscribed(recovered: u64) -> (Reply, BytesMut) {
    answer(Answer::Subscribe(Subscribed {
        recoverable: true,
        positioned: true,
        position: Some(position(123_456)),
        publications: (1..=recovered).map(|offset| publication(128, offset)).collect(),
        recovered: recovered > 0,
        was_recovering: recovered > 0,
        ..Subscribed::default()
    }))
}

fn published() -> (Reply, BytesMut) {
    answer(Answer::Publish)
}

fn refused() -> (Reply, BytesMut) {
    (Reply::new(7, Err(ErrorCode::PermissionDenied.into())), BytesMut::new())
}

#[library_benchmark]
#[bench::connected(args = (), setup = connected, config = counted(1_505))]
#[bench::subscribed(args = (0), setup = subscribed, config = counted(1_228))]
#[bench::subscribed_and_recovered_10(args = (10), setup = subscribed, config = counted(6_315))]
#[bench::published(args = (), setup = published, config = counted(520))]
#[bench::refused(args = (), setup = refused, config = counted(901))]
fn reply((reply, mut out): (Reply, BytesMut)) -> (Reply, BytesMut) {
    CentrifugeJson::default().encode_reply(black_box(&reply), &mut out);
    (reply, out)
}

fn plain(bytes: usize) -> (Channel, Publication, BytesMut) {
    (channel(CHANNEL), publication(bytes, 123_456), BytesMut::with_capacity(bytes + 128))
}

fn from_a_client(bytes: usize) -> (Channel, Publication, BytesMut) {
    let (channel, publication, out) = plain(bytes);
    (channel, Publication { info: Some(info()), ..publication }, out)
}

#[library_benchmark]
#[bench::bytes_128(args = (128), setup = plain, config = counted(1_141))]
#[bench::bytes_4096(args = (4096), setup = plain, config = counted(2_004))]
#[bench::from_a_client_128(args = (128), setup = from_a_client, config = counted(2_257))]
fn push(
    (channel, publication, mut out): (Channel, Publication, BytesMut),
) -> (Channel, Publication, BytesMut) {
    let push = Push::to(&channel, Event::plain(&publication));
    CentrifugeJson::default().encode_push(black_box(push), &mut out);
    (channel, publication, out)
}

#[library_benchmark]
#[bench::unsubscribed(args = (CHANNEL), setup = channel, config = counted(1_159))]
fn end(channel: Channel) -> BytesMut {
    let mut out = BytesMut::new();
    let event = Event::Unsubscribed(UnsubscribeCode::Expired);
    CentrifugeJson::default().encode_push(black_box(Push::to(&channel, event)), &mut out);
    out
}

library_benchmark_group!(name = encoding, benchmarks = [reply, push, end]);
