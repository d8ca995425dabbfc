//! Moves a polling client to a WebSocket.

use bytes::{BufMut, BytesMut};
use gateway_core::hub::{EnginePollingFrames, PushFraming};
use shared::framing::engine_io::{EnginePacket, MESSAGE, OPEN, PING, PollingPayload};
use shared::framing::websocket::{encode_message, encode_message_with};
use shared::framing::{Message, MessageKind};

use crate::client::framing::Framing;
use crate::client::{Client, ClientLink};
use crate::transport::encodings::ClientWire;
use crate::transport::task_pipe::Attached;
use crate::worker::WorkerLocal;

impl Client {
    /// Switches the client to the WebSocket. Packets waiting to be fetched are converted for it, in order.
    pub(crate) fn attach(&mut self, local: &mut WorkerLocal, attached: Attached) {
        let Attached { socket, deflate, .. } = attached;
        let mut waiting = self.link.stream.take_back();
        self.outbox.take_all().for_each(|frame| waiting.extend_from_slice(frame.bytes()));
        let frames = into_frames(&mut waiting);
        if !frames.is_empty() {
            self.outbox.push_last(frames.freeze());
        }
        let framing = Framing::new(ClientWire::EngineWebSocket, deflate.is_some(), None);
        self.link = ClientLink { stream: socket.into(), framing };
        // The frames of a client whose sessions are kept are laid out when they are made for it: it keeps its variant.
        if self.keeper().is_none() {
            self.variant =
                local.encodings.variant(self.protocol, ClientWire::EngineWebSocket, deflate.as_ref());
            local.hub.change_wire(self.key.index, self.variant);
        }
        self.keep_little_unsent();
        self.stalled_since = None;
        local.mark_unwritten(self.key.index);
    }
}

/// Converts packets that were waiting to be fetched into WebSocket messages.
fn into_frames(waiting: &mut BytesMut) -> BytesMut {
    let mut frames = BytesMut::with_capacity(waiting.len() + waiting.len() / 8);
    // Nothing follows the last separator.
    waiting.truncate(waiting.len().saturating_sub(1));
    if waiting.is_empty() {
        return frames;
    }
    for packet in PollingPayload::read(waiting) {
        match packet {
            Ok(EnginePacket::Message(Message { kind: MessageKind::Text, data })) => {
                put_text(MESSAGE, data, &mut frames)
            }
            Ok(EnginePacket::Ping(data)) => put_text(PING, data, &mut frames),
            Ok(EnginePacket::Open(data)) => put_text(OPEN, data, &mut frames),
            Ok(EnginePacket::Message(Message { kind: MessageKind::Binary, data })) => {
                encode_message(MessageKind::Binary, data, false, &mut frames);
            }
            // These packets have a meaning for polling requests only, and this node has written no others.
            Ok(EnginePacket::Close | EnginePacket::Noop | EnginePacket::Pong(_) | EnginePacket::Upgrade)
            | Err(_) => {}
        }
    }
    frames
}

impl Framing {
    /// Appends a message as a packet.
    pub(super) fn put_packet(&self, kind: MessageKind, message: &[u8], out: &mut BytesMut) {
        match (self, kind) {
            (Self::EnginePolling(_), _) => {
                let mut packet = BytesMut::zeroed(EnginePollingFrames.headroom());
                packet.extend_from_slice(message);
                let start = EnginePollingFrames.seal(kind, &mut packet);
                out.extend_from_slice(packet.get(start..).unwrap_or_default());
            }
            (_, MessageKind::Text) => put_text(MESSAGE, message, out),
            (_, MessageKind::Binary) => encode_message(kind, message, false, out),
        }
    }
}

fn put_text(kind: u8, data: &[u8], frames: &mut BytesMut) {
    encode_message_with(frames, |out| {
        out.put_u8(kind);
        out.put_slice(data);
        Some(MessageKind::Text)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(waiting: &[u8]) -> Vec<u8> {
        into_frames(&mut BytesMut::from(waiting)).to_vec()
    }

    #[test]
    fn packets_that_wait_keep_their_order_and_their_kind() {
        assert_eq!(frames(b"2\x1e4a\x1ebAQI=\x1e4\x1e"), b"\x81\x012\x81\x024a\x82\x02\x01\x02\x81\x014");
        assert_eq!(frames(b""), b"");
    }

    #[test]
    fn what_is_for_requests_alone_is_left_out() {
        assert_eq!(frames(b"4a\x1e1\x1e"), b"\x81\x024a");
        assert_eq!(frames(b"6\x1e"), b"");
    }
}
