//! Packets of Engine.IO that requests bring and fetch: passed through a pipe, each with a separator behind it.

use bytes::Bytes;
use shared::framing::engine_io::{PollingPayload, SEPARATOR};

use super::packets;
use super::{CloseMessage, Framing};
use crate::client::{Client, Incoming};
use crate::worker::WorkerLocal;

pub(super) const PING: Bytes = Bytes::from_static(b"2\x1e");
const CLOSE: Bytes = Bytes::from_static(b"1\x1e");
const NOOP: Bytes = Bytes::from_static(b"6\x1e");

/// The received part of an incomplete packet. Empty between two requests, because each brings whole packets.
#[derive(Debug, Default)]
pub(crate) struct PartialPacket(Vec<u8>);

impl PartialPacket {
    pub(super) fn held_bytes(&self) -> usize {
        self.0.capacity()
    }
}

pub(super) fn close_message(close_message: CloseMessage<'_>) -> Bytes {
    match close_message {
        // The Python library does not come back after a close packet. The end of the session tells it that it may.
        CloseMessage::Closed(disconnect) if disconnect.invites_reconnect() => Bytes::new(),
        CloseMessage::Closed(_) => CLOSE,
        // A client that has closed needs no answer, except for a request that may still wait.
        CloseMessage::Answered(_) => NOOP,
    }
}

impl Client {
    /// Handles packets that requests have brought. Their size was checked when the requests were read.
    pub(super) fn handle_payload(&mut self, local: &mut WorkerLocal, bytes: &mut [u8]) {
        self.session.handle_sign_of_life();
        for piece in bytes.split_inclusive_mut(|byte| *byte == SEPARATOR) {
            let Framing::EnginePolling(PartialPacket(held)) = &mut self.link.framing else { return };
            if self.incoming != Incoming::Open {
                return;
            }
            let Some((&mut SEPARATOR, packet)) = piece.split_last_mut() else {
                held.extend_from_slice(piece);
                return;
            };
            let mut whole = std::mem::take(held);
            let packet = match whole.is_empty() {
                true => packet,
                false => {
                    whole.extend_from_slice(packet);
                    &mut whole[..]
                }
            };
            let closing = self.is_closing();
            for packet in PollingPayload::read(packet) {
                local.tally.messages_in[usize::from(self.protocol.0)] += 1;
                if closing {
                    continue;
                }
                let action = packets::handle_packet(&mut self.session, local.now, packet);
                self.perform_packet_action(local, action);
            }
        }
    }
}
