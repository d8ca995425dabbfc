//! Every encoding a client of this node can take.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use gateway_core::hub::{
    DeflateOptions, Encoding, EncodingId, PushFraming, StreamFrames, Variant, Variants, WebSocketFrames,
};
use shared::disconnect::Disconnect;
use shared::framing::OwnedMessage;
use shared::framing::websocket::{DeflateParams, DeflatePolicy};
use shared::protocol::centrifuge::COMMANDS_PER_MESSAGE_MAX;
use shared::protocol::centrifuge::json::CentrifugeJson;
use shared::protocol::centrifuge::protobuf::CentrifugeProtobuf;
use shared::protocol::centrifuge::uni::{CentrifugeUniJson, CentrifugeUniProtobuf};
use shared::protocol::raw::Raw;
use shared::protocol::{Encoded, Protocol, ProtocolId};
use shared::push::{Event, Push};

/// What a framing is expected to put behind a message. Only a guess at a buffer's size.
const TAIL_BYTES_GUESS: usize = 4;

#[derive(Debug)]
pub(crate) struct Encodings {
    pub(crate) variants: Arc<Variants>,
    /// With the protocol's own pings, and with the transport's.
    centrifuge_json: [Arc<dyn Protocol>; 2],
    centrifuge_protobuf: [Arc<dyn Protocol>; 2],
    /// By protocol and wire.
    ids: [[EncodingId; Wire::COUNT]; ProtocolId::COUNT],
    /// By their ids.
    rows: Vec<Encoding>,
    deflates: bool,
}

/// How messages to a client are laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wire {
    WebSocket,
    /// A response that never ends.
    Response(StreamFrames),
}

impl Wire {
    const COUNT: usize = 1 + StreamFrames::COUNT;

    fn index(self) -> usize {
        match self {
            Self::WebSocket => 0,
            Self::Response(frames) => 1 + frames.index(),
        }
    }
}

impl Encodings {
    /// `commands_max` may wait for each other, so that many come in one message: a library subscribes to all it has at
    /// once, and to more than it may have it is to be told channel by channel.
    pub(crate) fn new(deflates: bool, options: DeflateOptions, commands_max: u32) -> Self {
        let responses = StreamFrames::ALL.map(|frames| Arc::new(frames) as Arc<dyn PushFraming>);
        let framings: Vec<_> =
            std::iter::once(Arc::new(WebSocketFrames::new(options)) as _).chain(responses).collect();
        // Beside the connect command.
        let commands_max = COMMANDS_PER_MESSAGE_MAX.max(commands_max as usize + 1);
        let both = |of: fn(usize, bool) -> Arc<dyn Protocol>| {
            [false, true].map(|transport_pings| with_faults(of(commands_max, transport_pings)))
        };
        let centrifuge_json =
            both(|commands_max, transport_pings| Arc::new(CentrifugeJson { commands_max, transport_pings }));
        let centrifuge_protobuf = both(|commands_max, transport_pings| {
            Arc::new(CentrifugeProtobuf { commands_max, transport_pings })
        });
        // What a protocol says to all does not depend on which channel the bare one's value is for, nor on who pings.
        let protocols: [Arc<dyn Protocol>; ProtocolId::COUNT] = [
            centrifuge_json[0].clone(),
            Arc::new(Raw::new("".into(), "".into(), None)),
            centrifuge_protobuf[0].clone(),
            Arc::new(CentrifugeUniJson::default()),
            Arc::new(CentrifugeUniProtobuf::default()),
        ];
        let (mut variants, mut rows) = (Variants::default(), Vec::new());
        let ids = protocols.map(|protocol| {
            debug_assert_eq!(
                usize::from(protocol.id().0) * Wire::COUNT,
                variants.len(),
                "protocols stand in the order of their ids"
            );
            let mut ids = [EncodingId::default(); Wire::COUNT];
            for (id, framing) in ids.iter_mut().zip(&framings) {
                let encoding = Encoding { protocol: protocol.clone(), framing: framing.clone() };
                rows.push(encoding.clone());
                *id =
                    variants.add(encoding).expect("there are fewer encodings than a variant can tell apart");
            }
            ids
        });
        Self { variants: Arc::new(variants), centrifuge_json, centrifuge_protobuf, ids, rows, deflates }
    }

    /// The Centrifuge protocol as a client has asked for it.
    pub(crate) fn centrifuge(&self, in_protobuf: bool, with_transport_pings: bool) -> Arc<dyn Protocol> {
        let both = if in_protobuf { &self.centrifuge_protobuf } else { &self.centrifuge_json };
        both[usize::from(with_transport_pings)].clone()
    }

    /// What a client takes that speaks this protocol on this wire and has agreed to this compression.
    pub(crate) fn variant(
        &self,
        protocol: ProtocolId,
        wire: Wire,
        deflate: Option<&DeflateParams>,
    ) -> Variant {
        let id = self.ids[usize::from(protocol.0)][wire.index()];
        match deflate {
            Some(deflate) => Variant::deflated(id, deflate.server_max_window_bits),
            None => Variant::plain(id),
        }
    }

    /// What compression to agree to.
    pub(crate) fn deflate_policy(&self) -> DeflatePolicy {
        DeflatePolicy { enabled: self.deflates, ..DeflatePolicy::default() }
    }

    /// The frame of a message for one client alone.
    pub(crate) fn frame(&self, variant: Variant, message: &OwnedMessage) -> Bytes {
        let framing = &self.rows[variant.encoding()].framing;
        if variant.takes_deflated(message.data.len())
            && let Some(frame) = framing.deflate(message.kind, &message.data)
        {
            return frame;
        }
        let headroom = framing.headroom();
        let mut frame = BytesMut::with_capacity(headroom + message.data.len() + TAIL_BYTES_GUESS);
        frame.resize(headroom, 0);
        frame.extend_from_slice(&message.data);
        let start = framing.seal(message.kind, &mut frame);
        frame.freeze().slice(start..)
    }

    /// That the client is closed and why, as a frame of its own; empty if its protocol has no word for that.
    pub(crate) fn disconnect_push(&self, variant: Variant, disconnect: &Disconnect) -> Bytes {
        let mut data = BytesMut::new();
        let push = Push::alone(Event::Disconnected(disconnect));
        match self.rows[variant.encoding()].protocol.encode_push(push, &mut data) {
            Encoded::Message(kind) => self.frame(variant, &OwnedMessage { kind, data: data.freeze() }),
            _ => Bytes::new(),
        }
    }
}

/// The same protocol; in a program for tests, with faults that they can cause.
fn with_faults(protocol: Arc<dyn Protocol>) -> Arc<dyn Protocol> {
    #[cfg(debug_assertions)]
    let protocol = crate::faults::with_faults(protocol);
    protocol
}
