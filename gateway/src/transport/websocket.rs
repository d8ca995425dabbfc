//! The WebSocket framing as the hub's table of encodings uses it, and as single messages do.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use gateway_core::hub::{Encoding, EncodingId, PushFraming, Variant, Variants};
use parking_lot::Mutex;
use shared::framing::websocket::{self, DeflateParams, DeflatePolicy, Deflater, FrameHeader, Opcode};
use shared::framing::{MessageKind, OwnedMessage};
use shared::protocol::centrifuge::json::CentrifugeJson;
use shared::protocol::raw::Raw;
use shared::protocol::{Protocol, ProtocolId};

use crate::connection::config::WebSocketConfig;

/// Every encoding a client of this node can take.
#[derive(Debug)]
pub(crate) struct Encodings {
    pub(crate) variants: Arc<Variants>,
    /// By protocol.
    ids: Vec<EncodingId>,
    pub(crate) centrifuge_json: Arc<dyn Protocol>,
    framing: Arc<WebSocketFraming>,
}

impl Encodings {
    pub(crate) fn new(config: &WebSocketConfig) -> Self {
        let framing = Arc::new(WebSocketFraming::new(config));
        let centrifuge_json: Arc<dyn Protocol> = Arc::new(CentrifugeJson);
        // What the bare protocol says does not depend on which channel its value is for.
        let raw: Arc<dyn Protocol> = Arc::new(Raw::new("".into(), "".into(), None));
        let mut variants = Variants::default();
        let mut ids = Vec::new();
        for protocol in [&centrifuge_json, &raw] {
            debug_assert_eq!(usize::from(protocol.id().0), ids.len(), "protocols are listed in the order of their ids");
            let encoding = Encoding { protocol: protocol.clone(), framing: framing.clone() };
            ids.push(variants.add(encoding).expect("there are fewer protocols than a variant can tell apart"));
        }
        Self { variants: Arc::new(variants), ids, centrifuge_json, framing }
    }

    /// What a client takes that speaks this protocol and has agreed to this compression.
    pub(crate) fn variant(&self, protocol: ProtocolId, deflate: Option<&DeflateParams>) -> Variant {
        let id = self.ids[usize::from(protocol.0)];
        match deflate {
            Some(deflate) => Variant::deflated(id, deflate.server_max_window_bits),
            None => Variant::plain(id),
        }
    }

    /// What compression to agree to with a client.
    pub(crate) fn deflate_policy(&self) -> DeflatePolicy {
        DeflatePolicy { enabled: self.framing.deflate.is_some(), ..DeflatePolicy::default() }
    }

    /// The frame of a message for one client alone.
    pub(crate) fn frame(&self, variant: Variant, message: &OwnedMessage) -> Bytes {
        if variant.deflate_bytes_max().is_some_and(|max| message.data.len() <= max)
            && let Some(frame) = self.framing.deflate(message.kind, &message.data)
        {
            return frame;
        }
        let mut frame = BytesMut::new();
        websocket::encode_message(message.kind, &message.data, false, &mut frame);
        frame.freeze()
    }
}

/// Frames sealed in place, and deflated from a fresh context so that every peer can read the same bytes.
#[derive(Debug)]
struct WebSocketFraming {
    deflate: Option<Deflate>,
}

#[derive(Debug)]
struct Deflate {
    /// Shorter messages gain nothing.
    bytes_min: usize,
    /// Taken once for each publication, not once for each subscriber.
    deflater: Mutex<Deflater>,
}

impl WebSocketFraming {
    fn new(config: &WebSocketConfig) -> Self {
        let deflate = config.compression.then(|| Deflate {
            bytes_min: config.compression_bytes_min,
            deflater: Mutex::new(Deflater::new(config.compression_level as u8)),
        });
        Self { deflate }
    }
}

impl PushFraming for WebSocketFraming {
    fn headroom(&self) -> usize {
        websocket::frame::HEADER_BYTES_MAX
    }

    fn seal(&self, kind: MessageKind, buffer: &mut BytesMut) -> usize {
        let length = buffer.len() - self.headroom();
        let (header, header_bytes) = header(kind, length, false).to_bytes();
        let start = self.headroom() - header_bytes;
        buffer[start..start + header_bytes].copy_from_slice(&header[..header_bytes]);
        start
    }

    fn deflate(&self, kind: MessageKind, message: &[u8]) -> Option<Bytes> {
        let deflate = self.deflate.as_ref()?;
        if message.len() < deflate.bytes_min {
            return None;
        }
        let headroom = self.headroom();
        let mut buffer = BytesMut::zeroed(headroom);
        if !deflate.deflater.lock().deflate(message, &mut buffer) {
            return None;
        }
        let (header, header_bytes) = header(kind, buffer.len() - headroom, true).to_bytes();
        let start = headroom - header_bytes;
        buffer[start..headroom].copy_from_slice(&header[..header_bytes]);
        Some(buffer.freeze().slice(start..))
    }
}

fn header(kind: MessageKind, length: usize, compressed: bool) -> FrameHeader {
    let opcode = match kind {
        MessageKind::Text => Opcode::Text,
        MessageKind::Binary => Opcode::Binary,
    };
    FrameHeader { fin: true, rsv1: compressed, opcode, mask: None, length: length as u64 }
}
