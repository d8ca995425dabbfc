//! Frames messages for a client's transport, and handles its control frames.

use bytes::{Bytes, BytesMut};
use gateway_core::hub::{Layout, StreamFrames, Variant};
use shared::disconnect::Disconnect;
use shared::framing::MessageKind;
use shared::protocol::Header;

use crate::client::{Client, Incoming};
use crate::telemetry::labels::Handshake;
use crate::transport::encodings::{ClientWire, Encodings};
use crate::worker::WorkerLocal;

mod packets;
mod pending_response;
mod polling;
mod websocket;

pub(crate) use pending_response::{PendingResponse, ResponseBeginning};

use pending_response::ResponseHead;
use polling::PartialPacket;
use websocket::WebSocket;

#[derive(Debug)]
pub(super) enum Framing {
    WebSocket(WebSocket),
    /// Each WebSocket message is a packet of Engine.IO.
    EngineWebSocket(WebSocket),
    /// Requests bring packets of Engine.IO and fetch them.
    EnginePolling(PartialPacket),
    /// An endless response: the client's commands arrive by other requests.
    Response {
        frames: StreamFrames,
        unanswered: Option<Box<PendingResponse>>,
    },
}

/// The last message to a client.
#[derive(Clone, Copy, Debug)]
pub(super) enum CloseMessage<'a> {
    /// The server closes the connection.
    Closed(&'a Disconnect),
    /// The client has sent a close frame with this code.
    Answered(Option<u16>),
}

impl Framing {
    pub(super) fn new(wire: ClientWire, deflates: bool, unanswered: Option<Box<PendingResponse>>) -> Self {
        match wire {
            ClientWire::WebSocket => Self::WebSocket(WebSocket::new(deflates)),
            ClientWire::EngineWebSocket => Self::EngineWebSocket(WebSocket::new(deflates)),
            ClientWire::EnginePolling => Self::EnginePolling(PartialPacket::default()),
            ClientWire::Response(frames) => Self::Response { frames, unanswered },
            // Clients have this wire only for their own row of encodings, never for their link.
            ClientWire::Bare => Self::WebSocket(WebSocket::new(deflates)),
        }
    }

    /// Returns the wire on which packets of Engine.IO are laid out.
    pub(super) fn engine_io_wire(&self) -> ClientWire {
        if matches!(self, Self::EnginePolling(_)) {
            ClientWire::EnginePolling
        } else {
            ClientWire::EngineWebSocket
        }
    }

    /// Returns a ping of the transport, if it has one.
    pub(super) fn ping(&self, scratch: &mut BytesMut) -> Option<Bytes> {
        match self {
            Self::WebSocket(_) => Some(websocket::ping(scratch)),
            Self::EngineWebSocket(_) => Some(packets::PING_IN_WEBSOCKET),
            Self::EnginePolling(_) => Some(polling::PING),
            Self::Response { frames, .. } => frames.keep_alive(),
        }
    }

    /// Returns the last bytes to write.
    pub(super) fn close_message(
        &mut self,
        close_message: CloseMessage<'_>,
        variant: Variant,
        encodings: &Encodings,
        scratch: &mut BytesMut,
    ) -> Bytes {
        match self {
            Self::WebSocket(_) => {
                // Some protocols send a message as well, as on transports without close frames.
                if let CloseMessage::Closed(disconnect) = close_message
                    && encodings.sends_close_message(variant)
                {
                    scratch.extend_from_slice(&encodings.disconnect_push(variant, disconnect));
                }
                websocket::close_message(close_message, scratch)
            }
            Self::EngineWebSocket(_) => match close_message {
                // Engine.IO has no close reasons: its clients only see the end of their stream. Some wait for that even
                // after a close frame, which they do not answer: on Android for longer than a ping interval.
                CloseMessage::Closed(_) => Bytes::new(),
                answered @ CloseMessage::Answered(_) => websocket::close_message(answered, scratch),
            },
            Self::EnginePolling(_) => polling::close_message(close_message),
            Self::Response { frames, unanswered } => {
                if let CloseMessage::Closed(disconnect) = close_message {
                    if let Some(unanswered) = unanswered.take() {
                        match unanswered.refuse_or_begin(disconnect) {
                            ResponseHead::Begun(head) => scratch.extend_from_slice(&head),
                            ResponseHead::Refused(whole) => return whole,
                        }
                    }
                    let variant = encodings.on_wire(variant, ClientWire::Response(*frames));
                    scratch.extend_from_slice(&encodings.disconnect_push(variant, disconnect));
                }
                scratch.extend_from_slice(frames.end());
                scratch.split().freeze()
            }
        }
    }

    /// Whether the client answers a close frame with its own. Other clients end their stream.
    pub(super) fn answers_close_frame(&self) -> bool {
        matches!(self, Self::WebSocket(_))
    }

    /// Whether the client reads its last message. A polling client that has not answered a ping sends no request to fetch
    /// it.
    pub(super) fn reads_close_message(&self, disconnect: &Disconnect) -> bool {
        !matches!(self, Self::EnginePolling(_)) || disconnect.code != Disconnect::NO_PONG.code
    }

    fn is_of_engine_io(&self) -> bool {
        matches!(self, Self::EngineWebSocket(_) | Self::EnginePolling(_))
    }

    fn transport(&self, is_unidirectional: bool) -> &'static str {
        match (self, is_unidirectional) {
            (Self::WebSocket(_), false) => "websocket",
            (Self::WebSocket(_), true) => "uni_websocket",
            (Self::EngineWebSocket(_), _) => "websocket",
            (Self::EnginePolling(_), _) => "polling",
            (Self::Response { frames, .. }, is_unidirectional) => match (frames.layout, is_unidirectional) {
                (Layout::EventStream | Layout::Events, false) => "sse",
                (Layout::EventStream | Layout::Events, true) => "uni_sse",
                (_, false) => "http_stream",
                (_, true) => "uni_http_stream",
            },
        }
    }

    /// Frames a message for one client.
    pub(super) fn enclose_message(&self, message: &[u8]) -> Bytes {
        match self {
            Self::WebSocket(_) => websocket::text(message),
            _ => self.enclose(message.len(), |out| out.extend_from_slice(message)),
        }
    }

    /// Frames bytes made for one client. `bytes` is their approximate number.
    pub(super) fn enclose(&self, bytes: usize, append: impl FnOnce(&mut BytesMut)) -> Bytes {
        match self {
            Self::Response { frames, .. } => frames.piece_of(bytes, append),
            _ => {
                let mut buffer = BytesMut::with_capacity(bytes);
                append(&mut buffer);
                buffer.freeze()
            }
        }
    }

    /// Returns the kind of messages that arrive by other requests.
    pub(super) fn kind(&self) -> MessageKind {
        match self {
            Self::Response { frames: StreamFrames { layout: Layout::Delimited, .. }, .. } => {
                MessageKind::Binary
            }
            _ => MessageKind::Text,
        }
    }

    /// Returns how many bytes of an incomplete message are held.
    pub(super) fn held_bytes(&self) -> usize {
        match self {
            Self::WebSocket(websocket) | Self::EngineWebSocket(websocket) => websocket.held_bytes(),
            Self::EnginePolling(polling) => polling.held_bytes(),
            Self::Response { .. } => 0,
        }
    }

    /// Drops an incomplete message. The bytes that follow can no longer be parsed.
    pub(super) fn drop_incoming(&mut self) {
        match self {
            Self::WebSocket(websocket) | Self::EngineWebSocket(websocket) => {
                *websocket = WebSocket::new(false);
            }
            Self::EnginePolling(polling) => *polling = PartialPacket::default(),
            Self::Response { .. } => {}
        }
    }
}

impl Client {
    /// Begins the response to the client's request, if it has waited for the session's decision.
    pub(super) fn begin_answer(&mut self, local: &mut WorkerLocal, header: Option<Header>) {
        if let Framing::Response { unanswered, .. } = &mut self.link.framing
            && let Some(unanswered) = unanswered.take()
        {
            if unanswered.is_here() {
                local.metrics.handshake(Handshake::Accepted);
            }
            let head = unanswered.begin(header);
            if !head.is_empty() {
                self.outbox.push_last(head);
                local.mark_unwritten(self.key.index);
            }
            self.report_begun();
        }
    }

    /// Returns Centrifuge's name for the client's transport.
    pub(crate) fn transport(&self) -> &'static str {
        self.link.framing.transport(self.protocol.is_unidirectional())
    }

    /// Whether the client uses Engine.IO.
    pub(crate) fn is_over_engine_io(&self) -> bool {
        self.link.framing.is_of_engine_io()
    }

    /// Handles bytes from the client.
    pub(crate) fn handle_bytes(&mut self, local: &mut WorkerLocal, bytes: &mut [u8]) {
        match &self.link.framing {
            Framing::WebSocket(_) | Framing::EngineWebSocket(_) => self.handle_frames(local, bytes),
            Framing::EnginePolling(_) => self.handle_payload(local, bytes),
            // Only the end of the stream matters: nothing is read behind a request in HTTP/1.1.
            Framing::Response { .. } => {}
        }
    }

    /// Drops an incomplete message.
    pub(crate) fn drop_incoming(&mut self) {
        if self.incoming == Incoming::Open {
            self.incoming = Incoming::Discarded;
            self.link.framing.drop_incoming();
        }
    }

    /// Returns the last bytes for this client.
    pub(super) fn close_message(
        &mut self,
        local: &mut WorkerLocal,
        close_message: CloseMessage<'_>,
    ) -> Bytes {
        let translated = match close_message {
            // The protocol's codes apply to close frames of a WebSocket.
            CloseMessage::Closed(disconnect) if self.link.framing.answers_close_frame() => {
                Some(local.encodings.close(self.variant, disconnect))
            }
            CloseMessage::Closed(_) | CloseMessage::Answered(_) => None,
        };
        let close_message = translated.as_ref().map_or(close_message, CloseMessage::Closed);
        // A client that was told to leave closes by itself. Libraries handle a close before the packets ahead of it in the
        // same response, and would take it for a lost connection.
        if matches!(self.link.framing, Framing::EnginePolling(_))
            && matches!(close_message, CloseMessage::Closed(_))
            && self.socketio().is_some_and(|socketio| socketio.was_told_to_leave())
        {
            return Bytes::new();
        }
        let framing = &mut self.link.framing;
        if let (Framing::Response { unanswered: Some(unanswered), .. }, CloseMessage::Closed(disconnect)) =
            (&*framing, close_message)
            && unanswered.is_here()
        {
            let is_refused = pending_response::status_of(disconnect).is_some();
            local.metrics.handshake(if is_refused { Handshake::Request } else { Handshake::Accepted });
        }
        framing.close_message(close_message, self.variant, &local.encodings, &mut local.scratch)
    }
}
