//! Compressed messages.

use super::*;

#[test]
fn compressed_frames_are_refused_if_compression_was_not_agreed_on() {
    let mut buffer = frame(true, true, Opcode::Text, &[0x00]);
    let mut unread = &mut buffer[..];
    let refused =
        Assembler::new(Role::Server, false).next(&mut unread, &LIMITS, &mut Inflater::new()).unwrap_err();
    assert_eq!(refused, FrameError::ReservedBit);
}

fn deflated(payload: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    assert!(Deflater::new(6).deflate(payload, &mut out));
    out
}

#[test]
fn compressed_messages_arrive_inflated() {
    let message = "to be or not to be, ".repeat(50);
    let compressed = deflated(message.as_bytes());
    assert_eq!(seen(&frame(true, true, Opcode::Text, &compressed)), [text(&message)]);
    for cut in [0, 1, compressed.len() / 2, compressed.len()] {
        let (head, tail) = compressed.split_at(cut);
        let bytes = all([
            frame(false, true, Opcode::Text, head),
            whole(Opcode::Ping, b""),
            whole(Opcode::Continuation, tail),
            whole(Opcode::Text, b"not compressed"),
        ]);
        assert_eq!(seen(&bytes), [Seen::Ping(vec![]), text(&message), text("not compressed")]);
    }
}

#[test]
fn compressed_messages_are_checked_like_others() {
    let bad_text = deflated(&[0xff; 100]);
    assert_eq!(seen(&frame(true, true, Opcode::Text, &bad_text)), [Seen::Error(FrameError::NotUtf8)]);
    let cut_short = &deflated(&[b'a'; 1000])[..3];
    assert_eq!(seen(&frame(true, true, Opcode::Text, cut_short)), [Seen::Error(FrameError::NotDeflate)]);
    let bomb = deflated(&vec![0; LIMITS.message_bytes_max + 1]);
    assert!(bomb.len() < 10_000);
    assert_eq!(seen(&frame(true, true, Opcode::Binary, &bomb)), [Seen::Error(FrameError::MessageTooBig)]);
}

#[test]
fn a_message_of_the_largest_size_may_be_compressed_even_if_that_makes_it_longer() {
    // A compressor turns noise into stored blocks, each five bytes longer than its content.
    let limits = Limits { message_bytes_max: 65_536, frame_bytes_max: 65_536, fragments_max: 1 };
    let mut stored = Vec::new();
    for chunk in [7; 65_536].chunks(16_383) {
        let length = chunk.len() as u16;
        stored.push(0);
        stored.extend(length.to_le_bytes());
        stored.extend((!length).to_le_bytes());
        stored.extend(chunk);
    }
    stored.push(0);
    assert!(stored.len() > 65_536);
    let mut peer = Peer::new(limits);
    peer.says(&frame(true, true, Opcode::Binary, &stored));
    assert_eq!(peer.seen, [Seen::Message(MessageKind::Binary, vec![7; 65_536])]);
}
