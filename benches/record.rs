//! Encoding and decoding the record in which a broker carries a publication.

use std::hint::black_box;

use benches::counted;
use benches::samples::{info, position, publication};
use bytes::{Bytes, BytesMut};
use gungraun::{library_benchmark, library_benchmark_group};
use shared::publication::Publication;
use shared::record::{decode_message, encode_position, encode_record};

fn plain(bytes: usize) -> Publication {
    publication(bytes, 123_456)
}

fn from_a_client(bytes: usize) -> Publication {
    Publication { info: Some(info()), ..publication(bytes, 123_456) }
}

#[library_benchmark]
#[bench::plain_128(args = (128), setup = plain, config = counted(494))]
#[bench::plain_4096(args = (4096), setup = plain, config = counted(869))]
#[bench::from_a_client_128(args = (128), setup = from_a_client, config = counted(871))]
fn write(publication: Publication) -> (Publication, BytesMut) {
    let mut out = BytesMut::new();
    encode_record(black_box(&publication), &mut out);
    (publication, out)
}

fn message(publication: &Publication) -> Bytes {
    let mut out = BytesMut::new();
    encode_position(Some(position(123_456)), &mut out);
    encode_record(publication, &mut out);
    out.freeze()
}

#[library_benchmark]
#[bench::plain_128(args = (&plain(128)), setup = message, config = counted(1_299))]
#[bench::plain_4096(args = (&plain(4096)), setup = message, config = counted(1_857))]
#[bench::from_a_client_128(args = (&from_a_client(128)), setup = message, config = counted(1_789))]
fn read(message: Bytes) -> (Bytes, Publication) {
    match decode_message(black_box(message.clone())) {
        Ok(publication) => (message, publication),
        Err(error) => panic!("{error}"),
    }
}

library_benchmark_group!(name = records, benchmarks = [write, read]);
