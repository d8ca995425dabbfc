//! Decoding a client's WebSocket frames into messages: header, limits, unmasking, UTF-8.

use std::hint::black_box;

use benches::counted;
use benches::samples::json;
use bytes::BytesMut;
use gungraun::{library_benchmark, library_benchmark_group};
use shared::framing::websocket::{
    Assembler, FrameEvent, FrameHeader, Inflater, Limits, Opcode, Role, encode_masked,
};

struct Sample {
    bytes: Vec<u8>,
    assembler: Assembler,
    inflater: Inflater,
}

fn frames(count: usize, bytes: usize) -> Sample {
    let message = &json(bytes.max(64))[..bytes];
    let mut out = BytesMut::new();
    let header =
        FrameHeader { fin: true, rsv1: false, opcode: Opcode::Text, mask: None, length: bytes as u64 };
    for _ in 0..count {
        encode_masked(header, message.as_bytes(), [0x12, 0x34, 0x56, 0x78], &mut out);
    }
    Sample { bytes: out.to_vec(), assembler: Assembler::new(Role::Server, false), inflater: Inflater::new() }
}

#[library_benchmark]
#[bench::bytes_16(args = (1, 16), setup = frames, config = counted(708))]
#[bench::bytes_128(args = (1, 128), setup = frames, config = counted(995))]
#[bench::bytes_4096(args = (1, 4096), setup = frames, config = counted(2_669))]
#[bench::sixteen_of_128(args = (16, 128), setup = frames, config = counted(8_030))]
fn read(mut sample: Sample) -> (Sample, usize) {
    let limits = Limits::default();
    let mut unread = black_box(&mut sample.bytes[..]);
    let mut bytes = 0;
    while let Ok(Some(FrameEvent::Message(message))) =
        sample.assembler.next(&mut unread, &limits, &mut sample.inflater)
    {
        bytes += black_box(message).data.len();
    }
    assert!(bytes > 0);
    (sample, bytes)
}

library_benchmark_group!(name = framing, benchmarks = [read]);
