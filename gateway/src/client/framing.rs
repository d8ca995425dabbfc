//! How messages lie in what a client is reached through, and what is said there that is no message.

use bytes::{Bytes, BytesMut};
use gateway_core::hub::{Layout, StreamFrames, Variant};
use shared::disconnect::Disconnect;
use shared::framing::MessageKind;

use crate::client::{Client, Incoming};
use crate::transport::encodings::{Encodings, Wire};
use crate::worker::Local;

mod websocket;

use websocket::WebSocket;

#[derive(Debug)]
pub(super) enum Framing {
    WebSocket(WebSocket),
    /// A response that never ends: what the client says comes another way.
    Response(StreamFrames),
}

/// The last that a client is told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Goodbye<'a> {
    /// The server ends it.
    Closed(&'a Disconnect),
    /// The client has said goodbye, with this code.
    Answered(Option<u16>),
}

impl Framing {
    pub(super) fn new(wire: Wire, deflates: bool) -> Self {
        match wire {
            Wire::WebSocket => Self::WebSocket(WebSocket::new(deflates)),
            Wire::Response(frames) => Self::Response(frames),
        }
    }

    /// A ping of the transport's own, where it has one.
    pub(super) fn ping(&self, scratch: &mut BytesMut) -> Option<Bytes> {
        match self {
            Self::WebSocket(_) => Some(websocket::ping(scratch)),
            Self::Response(frames) => frames.keep_alive(),
        }
    }

    /// The last bytes that are written.
    pub(super) fn goodbye(
        &self,
        goodbye: Goodbye<'_>,
        variant: Variant,
        encodings: &Encodings,
        scratch: &mut BytesMut,
    ) -> Bytes {
        match self {
            Self::WebSocket(_) => {
                // Who is only told is told this too, as on the wires that have no close.
                if let Goodbye::Closed(disconnect) = goodbye
                    && encodings.only_tells(variant)
                {
                    scratch.extend_from_slice(&encodings.disconnect_push(variant, disconnect));
                }
                websocket::goodbye(goodbye, scratch)
            }
            Self::Response(frames) => {
                if let Goodbye::Closed(disconnect) = goodbye {
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

    fn transport(&self, only_tells: bool) -> &'static str {
        match (self, only_tells) {
            (Self::WebSocket(_), false) => "websocket",
            (Self::WebSocket(_), true) => "uni_websocket",
            (Self::Response(StreamFrames { layout: Layout::EventStream, .. }), false) => "sse",
            (Self::Response(StreamFrames { layout: Layout::EventStream, .. }), true) => "uni_sse",
            (Self::Response(_), false) => "http_stream",
            (Self::Response(_), true) => "uni_http_stream",
        }
    }

    /// Of what kind messages are that come another way.
    pub(super) fn kind(&self) -> MessageKind {
        match self {
            Self::Response(StreamFrames { layout: Layout::Delimited, .. }) => MessageKind::Binary,
            _ => MessageKind::Text,
        }
    }

    /// What is kept of a message that is arriving, in bytes.
    pub(super) fn held_bytes(&self) -> usize {
        match self {
            Self::WebSocket(websocket) => websocket.held_bytes(),
            Self::Response(_) => 0,
        }
    }

    /// Lets go of the message that is arriving. Nothing that follows can be understood after that.
    pub(super) fn drop_incoming(&mut self) {
        if let Self::WebSocket(websocket) = self {
            *websocket = WebSocket::new(false);
        }
    }
}

impl Client {
    /// How the client is reached, in the words that Centrifuge has for it.
    pub(crate) fn transport(&self) -> &'static str {
        self.link.framing.transport(self.protocol.only_tells())
    }

    /// Handles bytes of the client's.
    pub(crate) fn handle_bytes(&mut self, local: &mut Local, bytes: &mut [u8]) {
        match &self.link.framing {
            Framing::WebSocket(_) => self.handle_frames(local, bytes),
            // Only the end of the stream says something: behind a request in HTTP/1.1 nothing else is heard.
            Framing::Response(_) => {}
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
    pub(super) fn goodbye(&self, local: &mut Local, goodbye: Goodbye<'_>) -> Bytes {
        self.link.framing.goodbye(goodbye, self.variant, &local.encodings, &mut local.scratch)
    }
}
