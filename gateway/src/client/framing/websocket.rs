//! WebSocket frames: messages in both directions, pings, and the closing handshake (RFC 6455).

use bytes::{Bytes, BytesMut};
use shared::framing::MessageKind;
use shared::framing::engine_io::EnginePacket;
use shared::framing::websocket::{self, Assembler, FrameEvent, Role};

use super::packets::{self, PacketAction};
use super::{CloseMessage, Framing};
use crate::client::{Client, Incoming};
use crate::worker::WorkerLocal;

/// The longest header of a server's frame, which has no mask (RFC 6455 §5.2).
const FRAME_HEADER_BYTES_MAX: usize = 10;

/// The incomplete frame, and the incomplete message of several frames.
#[derive(Debug)]
pub(crate) struct WebSocket(Assembler);

impl WebSocket {
    pub(super) fn new(deflates: bool) -> Self {
        Self(Assembler::new(Role::Server, deflates))
    }

    pub(super) fn held_bytes(&self) -> usize {
        self.0.held_bytes()
    }
}

pub(super) fn ping(scratch: &mut BytesMut) -> Bytes {
    websocket::encode_ping(b"", scratch);
    scratch.split().freeze()
}

/// Frames a text message.
pub(super) fn text(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.len() + FRAME_HEADER_BYTES_MAX);
    websocket::encode_message(MessageKind::Text, message, false, &mut frame);
    frame.freeze()
}

pub(super) fn close_message(close_message: CloseMessage<'_>, scratch: &mut BytesMut) -> Bytes {
    match close_message {
        CloseMessage::Closed(disconnect) => websocket::encode_disconnect(disconnect, scratch),
        // The same code is sent back (RFC 6455 §5.5.1).
        CloseMessage::Answered(code) => websocket::encode_close(code.map(|code| (code, "")), scratch),
    }
    scratch.split().freeze()
}

impl Client {
    /// Handles bytes from the client, together with the rest of an incomplete frame.
    pub(super) fn handle_frames(&mut self, local: &mut WorkerLocal, bytes: &mut [u8]) {
        self.session.handle_sign_of_life();
        let mut unread = bytes;
        let mut closing = self.is_closing();
        // After a close only the peer's own close frame matters; after an error the framing is lost.
        while self.incoming == Incoming::Open {
            let (assembler, limits, in_packets) = match &mut self.link.framing {
                Framing::WebSocket(WebSocket(assembler)) => (assembler, &local.limits, false),
                Framing::EngineWebSocket(WebSocket(assembler)) => (assembler, &local.packet_limits, true),
                _ => return,
            };
            let event = match assembler.next(&mut unread, limits, &mut local.inflater) {
                Ok(Some(event)) => event,
                Ok(None) => return,
                Err(error) => {
                    self.incoming = Incoming::Discarded;
                    if !self.is_closing() {
                        tracing::debug!(client = %self.session.client(), %error, "a client broke the framing");
                        self.session.handle_disconnect(error.disconnect());
                        self.perform(local);
                    }
                    return;
                }
            };
            match event {
                FrameEvent::Message(message) => {
                    local.tally.messages_in[usize::from(self.protocol.0)] += 1;
                    if !closing {
                        let action = match in_packets {
                            true => packets::handle_packet(
                                &mut self.session,
                                local.now,
                                EnginePacket::read(message),
                            ),
                            false => {
                                self.session.handle_message(local.now, message);
                                PacketAction::Perform
                            }
                        };
                        self.perform_packet_action(local, action);
                    }
                }
                FrameEvent::Ping(data) => {
                    if !closing {
                        websocket::encode_pong(data, &mut local.scratch);
                        let frame = local.scratch.split().freeze();
                        self.session.handle_control_frame(local.now, frame.len());
                        self.perform(local);
                        if !self.is_closing() {
                            self.send_control(local, frame);
                        }
                    }
                }
                FrameEvent::Pong(_) => {
                    if !self.is_closing() {
                        self.session.handle_control_frame(local.now, 0);
                        self.session.handle_transport_pong(local.now);
                        self.perform(local);
                    }
                }
                FrameEvent::Close(close) => {
                    let code = close.code;
                    self.handle_peer_close(local, code);
                }
            }
            closing = self.is_closing();
        }
    }
}
