//! The outgoing side of one connection: encodes whole messages and control frames.

use bytes::{BufMut, BytesMut};

use super::frame::{CONTROL_BYTES_MAX, FrameHeader, Opcode};
use super::mask::apply_mask;
use crate::disconnect::Disconnect;
use crate::framing::MessageKind;

/// Appends a message as one unmasked frame.
pub fn encode_message(kind: MessageKind, payload: &[u8], compressed: bool, out: &mut BytesMut) {
    out.reserve(ROOM_BYTES + payload.len());
    message_header(kind, payload.len(), compressed).encode(out);
    out.put_slice(payload);
}

/// Appends a message as one unmasked frame whose payload `write` appends. `write` returns the kind, or `None` to cancel
/// the frame, which leaves `out` as before. Returns whether a frame was appended.
pub fn encode_message_with(
    out: &mut BytesMut,
    write: impl FnOnce(&mut BytesMut) -> Option<MessageKind>,
) -> bool {
    // Most payloads have between 126 and 65,535 bytes, and then they need not move after they are written. Moving a
    // shorter one is cheap, and longer ones are rare.
    const GUESS_BYTES: usize = 4;
    let start = out.len();
    out.put_bytes(0, GUESS_BYTES);
    let Some(kind) = write(out) else {
        out.truncate(start);
        return false;
    };
    let payload_start = start + GUESS_BYTES;
    let payload_end = out.len();
    let (header, length) = message_header(kind, payload_end - payload_start, false).to_bytes();
    if length > GUESS_BYTES {
        out.put_bytes(0, length - GUESS_BYTES);
    }
    if length != GUESS_BYTES {
        out.copy_within(payload_start..payload_end, start + length);
    }
    out.truncate(start + length + (payload_end - payload_start));
    out[start..start + length].copy_from_slice(&header[..length]);
    true
}

/// Appends a ping. Data beyond 125 bytes is cut off.
pub fn encode_ping(data: &[u8], out: &mut BytesMut) {
    encode_control(Opcode::Ping, data, out);
}

/// Appends the answer to a ping with the same data.
pub fn encode_pong(data: &[u8], out: &mut BytesMut) {
    encode_control(Opcode::Pong, data, out);
}

/// Appends a close frame, without a code for `None`. A reason over 123 bytes is truncated at a character boundary.
pub fn encode_close(close: Option<(u16, &str)>, out: &mut BytesMut) {
    let Some((code, reason)) = close else { return encode_control(Opcode::Close, &[], out) };
    let mut end = reason.len().min(CONTROL_BYTES_MAX - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let reason = &reason[..end];
    control_header(Opcode::Close, 2 + reason.len()).encode(out);
    out.put_u16(code);
    out.put_slice(reason.as_bytes());
}

/// Appends the close frame with the gateway's code and reason.
pub fn encode_disconnect(disconnect: &Disconnect, out: &mut BytesMut) {
    encode_close(Some((disconnect.code, &disconnect.reason)), out);
}

/// Appends a frame as a client sends it. `key` comes from a random source.
pub fn encode_masked(header: FrameHeader, payload: &[u8], key: [u8; 4], out: &mut BytesMut) {
    FrameHeader { mask: Some(key), length: payload.len() as u64, ..header }.encode(out);
    let start = out.len();
    out.put_slice(payload);
    apply_mask(&mut out[start..], key, 0);
}

/// The longest header of an unmasked frame.
const ROOM_BYTES: usize = 10;

fn message_header(kind: MessageKind, payload_bytes: usize, compressed: bool) -> FrameHeader {
    let opcode = match kind {
        MessageKind::Text => Opcode::Text,
        MessageKind::Binary => Opcode::Binary,
    };
    FrameHeader { fin: true, rsv1: compressed, opcode, mask: None, length: payload_bytes as u64 }
}

fn control_header(opcode: Opcode, payload_bytes: usize) -> FrameHeader {
    FrameHeader { fin: true, rsv1: false, opcode, mask: None, length: payload_bytes as u64 }
}

fn encode_control(opcode: Opcode, data: &[u8], out: &mut BytesMut) {
    let data = &data[..data.len().min(CONTROL_BYTES_MAX)];
    control_header(opcode, data.len()).encode(out);
    out.put_slice(data);
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};

    use super::*;

    #[test]
    fn the_rfc_examples_encode_to_their_bytes() {
        let mut out = BytesMut::new();
        encode_message(MessageKind::Text, b"Hello", false, &mut out);
        assert_eq!(&out[..], [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        out.clear();
        encode_ping(b"Hello", &mut out);
        assert_eq!(&out[..], [0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        out.clear();
        let header = FrameHeader { fin: true, rsv1: false, opcode: Opcode::Text, mask: None, length: 0 };
        encode_masked(header, b"Hello", [0x37, 0xfa, 0x21, 0x3d], &mut out);
        assert_eq!(&out[..], [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
    }

    #[test]
    fn every_way_of_encoding_a_message_makes_the_same_bytes() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536, 1 << 20] {
            let payload = vec![7; length];
            let mut appended = BytesMut::from(&b"before"[..]);
            encode_message(MessageKind::Binary, &payload, false, &mut appended);

            let mut written = BytesMut::from(&b"before"[..]);
            assert!(encode_message_with(&mut written, |out| {
                out.put_slice(&payload);
                Some(MessageKind::Binary)
            }));
            assert_eq!(appended, written);
        }
    }

    #[test]
    fn a_message_taken_back_leaves_nothing() {
        let mut out = BytesMut::from(&b"before"[..]);
        let appended = encode_message_with(&mut out, |out| {
            out.put_slice(b"half a message");
            None
        });
        assert!(!appended);
        assert_eq!(&out[..], b"before");
    }

    #[test]
    fn a_long_close_reason_is_cut_at_a_character() {
        let mut out = BytesMut::new();
        encode_close(Some((3000, &"é".repeat(100))), &mut out);
        assert_eq!(out.len(), 2 + 2 + 122, "61 characters of two bytes fit in 123");
        assert!(std::str::from_utf8(&out[4..]).is_ok());
        out.clear();
        encode_close(None, &mut out);
        assert_eq!(&out[..], [0x88, 0]);
    }
}
