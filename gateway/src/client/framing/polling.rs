//! Packets of Engine.IO that requests bring and fetch: one behind another through a pipe, each with a separator behind it.

use bytes::Bytes;
use shared::framing::engine_io::{PollingPayload, SEPARATOR};

use super::packets;
use super::{CloseMessage, Framing};
use crate::client::{Client, Incoming};
use crate::worker::WorkerLocal;

pub(super) const PING: Bytes = Bytes::from_static(b"2\x1e");
const CLOSE: Bytes = Bytes::from_static(b"1\x1e");
const NOOP: Bytes = Bytes::from_static(b"6\x1e");

/// What has come of a packet whose end has not. Empty between two requests: each brings whole packets.
#[derive(Debug, Default)]
pub(crate) struct PartialPacket(Vec<u8>);

impl PartialPacket {
    pub(super) fn held_bytes(&self) -> usize {
        self.0.capacity()
    }
}

pub(super) fn goodbye(goodbye: CloseMessage<'_>) -> Bytes {
    match goodbye {
        // Who is told so stays away in the library of Python: the end of a session says that it can be begun again.
        CloseMessage::Closed(disconnect) if disconnect.invites_reconnect() => Bytes::new(),
        CloseMessage::Closed(_) => CLOSE,
        // Whoever has said goodbye needs no answer, but for a request that may still wait.
        CloseMessage::Answered(_) => NOOP,
    }
}

impl Client {
    /// Handles packets that requests have brought. The requests were bounded when they were read.
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
                let heard = packets::hear(&mut self.session, local.now, packet);
                self.heed(local, heard);
            }
        }
    }
}
