//! How messages lie in what a client is reached through, and what is said there that is no message.

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
    /// Each message is a packet of Engine.IO.
    EngineWebSocket(WebSocket),
    /// Requests bring packets of Engine.IO and fetch them.
    EnginePolling(PartialPacket),
    /// A response that never ends: what the client says comes another way.
    Response {
        frames: StreamFrames,
        unanswered: Option<Box<PendingResponse>>,
    },
}

/// The last that a client is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum CloseMessage<'a> {
    /// The server ends it.
    Closed(&'a Disconnect),
    /// The client has said goodbye, with this code.
    Answered(Option<u16>),
}

impl Framing {
    pub(super) fn new(wire: ClientWire, deflates: bool, unanswered: Option<Box<PendingResponse>>) -> Self {
        match wire {
            ClientWire::WebSocket => Self::WebSocket(WebSocket::new(deflates)),
            ClientWire::EngineWebSocket => Self::EngineWebSocket(WebSocket::new(deflates)),
            ClientWire::EnginePolling => Self::EnginePolling(PartialPacket::default()),
            ClientWire::Response(frames) => Self::Response { frames, unanswered },
            // Of a client's own row, never of its link.
            ClientWire::Bare => Self::WebSocket(WebSocket::new(deflates)),
        }
    }

    /// How packets of Engine.IO lie in it.
    pub(super) fn engine_io_wire(&self) -> ClientWire {
        if matches!(self, Self::EnginePolling(_)) {
            ClientWire::EnginePolling
        } else {
            ClientWire::EngineWebSocket
        }
    }

    /// A ping of the transport's own, where it has one.
    pub(super) fn ping(&self, scratch: &mut BytesMut) -> Option<Bytes> {
        match self {
            Self::WebSocket(_) => Some(websocket::ping(scratch)),
            Self::EngineWebSocket(_) => Some(packets::PING_IN_WEBSOCKET),
            Self::EnginePolling(_) => Some(polling::PING),
            Self::Response { frames, .. } => frames.keep_alive(),
        }
    }

    /// The last bytes that are written.
    pub(super) fn goodbye(
        &mut self,
        goodbye: CloseMessage<'_>,
        variant: Variant,
        encodings: &Encodings,
        scratch: &mut BytesMut,
    ) -> Bytes {
        match self {
            Self::WebSocket(_) => {
                // Some protocols say so in a message too, as on the wires that have no close.
                if let CloseMessage::Closed(disconnect) = goodbye
                    && encodings.tells_of_close(variant)
                {
                    scratch.extend_from_slice(&encodings.disconnect_push(variant, disconnect));
                }
                websocket::goodbye(goodbye, scratch)
            }
            Self::EngineWebSocket(_) => match goodbye {
                // Engine.IO has no reasons: its clients know an end of their stream, and no more. Some wait for that
                // behind a close frame too, and do not answer it: on Android that is a ping's time and more.
                CloseMessage::Closed(_) => Bytes::new(),
                answered @ CloseMessage::Answered(_) => websocket::goodbye(answered, scratch),
            },
            Self::EnginePolling(_) => polling::goodbye(goodbye),
            Self::Response { frames, unanswered } => {
                if let CloseMessage::Closed(disconnect) = goodbye {
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

    /// Whether the client answers a goodbye with its own. Others end their stream.
    pub(super) fn answers_goodbye(&self) -> bool {
        matches!(self, Self::WebSocket(_))
    }

    /// Whether anybody reads it. Who polls and has not answered a ping does not come back for it, and its session is over.
    pub(super) fn reads_goodbye(&self, disconnect: &Disconnect) -> bool {
        !matches!(self, Self::EnginePolling(_)) || disconnect.code != Disconnect::NO_PONG.code
    }

    fn is_of_engine_io(&self) -> bool {
        matches!(self, Self::EngineWebSocket(_) | Self::EnginePolling(_))
    }

    fn transport(&self, only_tells: bool) -> &'static str {
        match (self, only_tells) {
            (Self::WebSocket(_), false) => "websocket",
            (Self::WebSocket(_), true) => "uni_websocket",
            (Self::EngineWebSocket(_), _) => "websocket",
            (Self::EnginePolling(_), _) => "polling",
            (Self::Response { frames, .. }, only_tells) => match (frames.layout, only_tells) {
                (Layout::EventStream | Layout::Events, false) => "sse",
                (Layout::EventStream | Layout::Events, true) => "uni_sse",
                (_, false) => "http_stream",
                (_, true) => "uni_http_stream",
            },
        }
    }

    /// A message for one client alone, as it goes out here.
    pub(super) fn enclose_message(&self, message: &[u8]) -> Bytes {
        match self {
            Self::WebSocket(_) => websocket::text(message),
            _ => self.enclose(message.len(), |out| out.extend_from_slice(message)),
        }
    }

    /// What is made for one client alone, about so many bytes, as it goes out here.
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

    /// Of what kind messages are that come another way.
    pub(super) fn kind(&self) -> MessageKind {
        match self {
            Self::Response { frames: StreamFrames { layout: Layout::Delimited, .. }, .. } => {
                MessageKind::Binary
            }
            _ => MessageKind::Text,
        }
    }

    /// What is kept of a message that is arriving, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        match self {
            Self::WebSocket(websocket) | Self::EngineWebSocket(websocket) => websocket.held_bytes(),
            Self::EnginePolling(polling) => polling.held_bytes(),
            Self::Response { .. } => 0,
        }
    }

    /// Lets go of the message that is arriving. Nothing that follows can be understood after that.
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
    /// Begins the answer to the client's request, where that has waited for its session to say so.
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
            self.tell_begun();
        }
    }

    /// How the client is reached, in the words that Centrifuge has for it.
    pub(crate) fn transport(&self) -> &'static str {
        self.link.framing.transport(self.protocol.only_tells())
    }

    /// Whether it is reached over Engine.IO.
    pub(crate) fn is_over_engine_io(&self) -> bool {
        self.link.framing.is_of_engine_io()
    }

    /// Handles bytes of the client's.
    pub(crate) fn handle_bytes(&mut self, local: &mut WorkerLocal, bytes: &mut [u8]) {
        match &self.link.framing {
            Framing::WebSocket(_) | Framing::EngineWebSocket(_) => self.handle_frames(local, bytes),
            Framing::EnginePolling(_) => self.handle_payload(local, bytes),
            // Only the end of the stream says something: behind a request in HTTP/1.1 nothing else is heard.
            Framing::Response { .. } => {}
        }
    }

    /// Lets go of the message that is arriving.
    pub(crate) fn drop_incoming(&mut self) {
        if self.incoming == Incoming::Open {
            self.incoming = Incoming::Rubbish;
            self.link.framing.drop_incoming();
        }
    }

    /// The last bytes for this client.
    pub(super) fn goodbye(&mut self, local: &mut WorkerLocal, goodbye: CloseMessage<'_>) -> Bytes {
        let translated = match goodbye {
            // Its codes are those of a WebSocket's close.
            CloseMessage::Closed(disconnect) if self.link.framing.answers_goodbye() => {
                Some(local.encodings.close(self.variant, disconnect))
            }
            CloseMessage::Closed(_) | CloseMessage::Answered(_) => None,
        };
        let goodbye = translated.as_ref().map_or(goodbye, CloseMessage::Closed);
        // Whoever is told to leave closes by itself. Libraries hear of a close before they hear of what stands before it in the
        // same answer, and would take it for a lost connection.
        if matches!(self.link.framing, Framing::EnginePolling(_))
            && matches!(goodbye, CloseMessage::Closed(_))
            && self.socketio().is_some_and(|socketio| socketio.was_told_to_leave())
        {
            return Bytes::new();
        }
        let framing = &mut self.link.framing;
        if let (Framing::Response { unanswered: Some(unanswered), .. }, CloseMessage::Closed(disconnect)) =
            (&*framing, goodbye)
            && unanswered.is_here()
        {
            let is_refused = pending_response::status_of(disconnect).is_some();
            local.metrics.handshake(if is_refused { Handshake::Request } else { Handshake::Accepted });
        }
        framing.goodbye(goodbye, self.variant, &local.encodings, &mut local.scratch)
    }
}
