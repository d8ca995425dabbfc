//! Framing of pushes as Engine.IO packets: each in a WebSocket message, or several in the body of a polling response.

use bytes::{BufMut, Bytes, BytesMut};
use shared::framing::engine_io::{MESSAGE, SEPARATOR, put_message};
use shared::framing::websocket::frame::HEADER_BYTES_MAX;
use shared::framing::{Message, MessageKind};

use super::variants::PushFraming;
use super::websocket_frames::{DeflateOptions, WebSocketFrames, put_header};

/// Bytes of a packet's type.
const MARK_BYTES: usize = 1;

/// Frames each packet as a WebSocket message, deflated if that was negotiated and makes it smaller.
#[derive(Debug, Default)]
pub struct EngineWebSocketFrames(WebSocketFrames);

impl EngineWebSocketFrames {
    pub fn new(options: DeflateOptions) -> Self {
        Self(WebSocketFrames::new(options))
    }
}

impl PushFraming for EngineWebSocketFrames {
    fn headroom(&self) -> usize {
        HEADER_BYTES_MAX + MARK_BYTES
    }

    fn seal(&self, kind: MessageKind, buffer: &mut BytesMut) -> usize {
        let at = match kind {
            MessageKind::Binary => HEADER_BYTES_MAX + MARK_BYTES,
            MessageKind::Text => {
                if let Some(mark) = buffer.get_mut(HEADER_BYTES_MAX) {
                    *mark = MESSAGE;
                }
                HEADER_BYTES_MAX
            }
        };
        put_header(kind, at, buffer)
    }

    fn deflate(&self, kind: MessageKind, message: &[u8]) -> Option<Bytes> {
        if kind == MessageKind::Binary {
            return self.0.deflate(kind, message);
        }
        let mut packet = Vec::with_capacity(MARK_BYTES + message.len());
        packet.push(MESSAGE);
        packet.extend_from_slice(message);
        self.0.deflate(kind, &packet)
    }
}

/// Frames packets with a separator after each, so that another packet can always follow.
#[derive(Clone, Copy, Debug, Default)]
pub struct EnginePollingFrames;

impl PushFraming for EnginePollingFrames {
    fn headroom(&self) -> usize {
        MARK_BYTES
    }

    fn seal(&self, kind: MessageKind, buffer: &mut BytesMut) -> usize {
        let message = buffer.split_off(MARK_BYTES.min(buffer.len()));
        if kind == MessageKind::Text && !message.contains(&SEPARATOR) {
            buffer.unsplit(message);
            if let Some(mark) = buffer.first_mut() {
                *mark = MESSAGE;
            }
        } else {
            buffer.clear();
            put_message(Message { kind, data: &message }, buffer);
        }
        buffer.put_u8(SEPARATOR);
        0
    }

    /// Returns `None`: the body of a response is deflated as a whole or not at all.
    fn deflate(&self, _kind: MessageKind, _message: &[u8]) -> Option<Bytes> {
        None
    }
}

#[cfg(test)]
mod tests {
    use shared::framing::websocket::{Inflater, encode_message};

    use super::*;

    fn sealed(framing: &impl PushFraming, kind: MessageKind, message: &[u8]) -> Bytes {
        let mut buffer = BytesMut::zeroed(framing.headroom());
        buffer.extend_from_slice(message);
        let start = framing.seal(kind, &mut buffer);
        buffer.freeze().slice(start..)
    }

    #[test]
    fn a_packet_is_a_websocket_message_with_a_digit_before_text_and_nothing_before_data() {
        let framing = EngineWebSocketFrames::default();
        for length in [0, 124, 125, 126, 65_534, 65_535, 65_536] {
            let message = vec![b'x'; length];
            let mut expected = BytesMut::new();
            let packet = [&b"4"[..], &message].concat();
            encode_message(MessageKind::Text, &packet, false, &mut expected);
            assert_eq!(sealed(&framing, MessageKind::Text, &message), expected);
            expected.clear();
            encode_message(MessageKind::Binary, &message, false, &mut expected);
            assert_eq!(sealed(&framing, MessageKind::Binary, &message), expected);
        }
    }

    #[test]
    fn a_deflated_packet_inflates_to_itself() {
        let framing = EngineWebSocketFrames::default();
        let message = "{\"price\":1}".repeat(40);
        for (kind, packet) in
            [(MessageKind::Text, format!("4{message}")), (MessageKind::Binary, message.clone())]
        {
            let frame = framing.deflate(kind, message.as_bytes()).unwrap();
            assert!(frame.len() < 100);
            assert_eq!(Inflater::new().inflate(&frame[2..], 1 << 20), Ok(packet.as_bytes()));
        }
    }

    #[test]
    fn packets_to_be_fetched_end_with_a_separator_and_hold_none() {
        let framing = EnginePollingFrames;
        assert_eq!(sealed(&framing, MessageKind::Text, b"hello"), "4hello\x1e");
        assert_eq!(sealed(&framing, MessageKind::Text, b""), "4\x1e");
        assert_eq!(sealed(&framing, MessageKind::Binary, &[1, 2, 3, 4]), "bAQIDBA==\x1e");
        assert_eq!(sealed(&framing, MessageKind::Text, b"a\x1eb"), "bYR5i\x1e");
    }
}
