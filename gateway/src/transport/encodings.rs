//! The encodings that clients of this node can take.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use gateway_core::hub::{
    BareMessages, DeflateOptions, Encoding, EncodingId, EnginePollingFrames, EngineWebSocketFrames, Layout,
    PushFraming, StreamFrames, Variant, Variants, WebSocketFrames,
};
use shared::disconnect::Disconnect;
use shared::framing::OwnedMessage;
use shared::framing::websocket::{DeflateParams, DeflatePolicy};
use shared::protocol::centrifuge::COMMANDS_PER_MESSAGE_MAX;
use shared::protocol::centrifuge::json::CentrifugeJson;
use shared::protocol::centrifuge::protobuf::CentrifugeProtobuf;
use shared::protocol::centrifuge::uni::{CentrifugeUniJson, CentrifugeUniProtobuf};
use shared::protocol::event_source::{EventSource, Types};
use shared::protocol::graphql;
use shared::protocol::mercure::Mercure;
use shared::protocol::raw::Raw;
use shared::protocol::socketio::{EventRecords, SocketIo, SocketIoShared};
use shared::protocol::{Encoded, Protocol, ProtocolId};
use shared::push::{Event, Push};

/// The bytes that a framing is expected to append to a message. Only a guess for a buffer's size.
const TAIL_BYTES_GUESS: usize = 4;

#[derive(Debug)]
pub(crate) struct Encodings {
    pub(crate) variants: Arc<Variants>,
    /// With the protocol's own pings, and with the transport's.
    centrifuge_json: [Arc<dyn Protocol>; 2],
    centrifuge_protobuf: [Arc<dyn Protocol>; 2],
    /// By what the event types say.
    event_source: [Arc<dyn Protocol>; 3],
    mercure: Arc<dyn Protocol>,
    socketio: Arc<SocketIoShared>,
    /// The ids of encodings, by protocol and wire.
    ids: [[EncodingId; ClientWire::COUNT]; ProtocolId::COUNT],
    /// The encodings, by id.
    rows: Vec<Encoding>,
    /// Whether pushes to unidirectional clients share WebSocket messages.
    joins: bool,
    deflates: bool,
}

/// The layout of messages to a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ClientWire {
    WebSocket,
    /// A packet of Engine.IO in each WebSocket message.
    EngineWebSocket,
    /// Packets of Engine.IO that requests fetch.
    EnginePolling,
    /// An endless response.
    Response(StreamFrames),
    /// No layout: for clients whose messages are made from shared bytes, and laid out afterwards.
    Bare,
}

impl ClientWire {
    /// All wires that are not responses.
    const OTHERS: [Self; 4] = [Self::WebSocket, Self::EngineWebSocket, Self::EnginePolling, Self::Bare];
    const COUNT: usize = Self::OTHERS.len() + StreamFrames::COUNT;

    /// Returns the same wire without chunked transfer coding.
    pub(crate) fn whole(self) -> Self {
        match self {
            Self::WebSocket | Self::EngineWebSocket | Self::EnginePolling | Self::Bare => self,
            Self::Response(frames) => Self::Response(StreamFrames { chunked: false, ..frames }),
        }
    }

    /// Returns all wires in the order of their indices.
    fn all() -> impl Iterator<Item = Self> {
        Self::OTHERS.into_iter().chain(StreamFrames::ALL.map(Self::Response))
    }

    fn index(self) -> usize {
        match self {
            Self::WebSocket => 0,
            Self::EngineWebSocket => 1,
            Self::EnginePolling => 2,
            Self::Bare => 3,
            Self::Response(frames) => Self::OTHERS.len() + frames.index(),
        }
    }

    pub(crate) fn is_of_engine_io(self) -> bool {
        matches!(self, Self::EngineWebSocket | Self::EnginePolling)
    }
}

impl Encodings {
    /// `commands_max` bounds the commands that wait for each other, and so those in one message: a library subscribes to all
    /// its channels at once, and has to be told channel by channel which are too many. `joins` is whether pushes to
    /// unidirectional clients share WebSocket messages. `sse_retry_ms` tells clients of `/sse` when to reconnect. `pusher`
    /// is the protocol for clients of any app, and `socketio` has the namespaces.
    pub(crate) fn new(
        deflates: bool,
        options: DeflateOptions,
        commands_max: u32,
        joins: bool,
        sse_retry_ms: u32,
        pusher: Arc<dyn Protocol>,
        socketio: Arc<SocketIoShared>,
    ) -> Self {
        let websocket: Arc<dyn PushFraming> = Arc::new(WebSocketFrames::new(options));
        let engine_websocket: Arc<dyn PushFraming> = Arc::new(EngineWebSocketFrames::new(options));
        let engine_polling: Arc<dyn PushFraming> = Arc::new(EnginePollingFrames);
        // One more, for the connect command.
        let commands_max = COMMANDS_PER_MESSAGE_MAX.max(commands_max as usize + 1);
        let both = |of: fn(usize, bool) -> Arc<dyn Protocol>| {
            [false, true].map(|transport_pings| with_faults(of(commands_max, transport_pings)))
        };
        let centrifuge_json =
            both(|commands_max, transport_pings| Arc::new(CentrifugeJson { commands_max, transport_pings }));
        let centrifuge_protobuf = both(|commands_max, transport_pings| {
            Arc::new(CentrifugeProtobuf { commands_max, transport_pings })
        });
        let event_source = [Types::Nothing, Types::Channel, Types::Name]
            .map(|types| with_faults(Arc::new(EventSource { types, retry_ms: sse_retry_ms })));
        let mercure = with_faults(Arc::new(Mercure));
        // What a protocol sends to all clients depends neither on the connection of its value nor on whose pings are used.
        let on = |protocol: ProtocolId, wire| -> Arc<dyn Protocol> {
            let joins = may_join(wire, joins);
            match protocol {
                ProtocolId::CENTRIFUGE_PROTOBUF => centrifuge_protobuf[0].clone(),
                ProtocolId::CENTRIFUGE_UNI_JSON => {
                    Arc::new(CentrifugeUniJson { joins, transport_pings: false })
                }
                ProtocolId::CENTRIFUGE_UNI_PROTOBUF => {
                    Arc::new(CentrifugeUniProtobuf { joins, transport_pings: false })
                }
                ProtocolId::PUSHER => pusher.clone(),
                ProtocolId::SOCKET_IO if wire == ClientWire::Bare => {
                    Arc::new(EventRecords::new(socketio.clone()))
                }
                ProtocolId::SOCKET_IO => Arc::new(SocketIo::new(socketio.clone())),
                ProtocolId::RAW => Arc::new(Raw::new("".into(), "".into(), None)),
                ProtocolId::SSE => event_source[0].clone(),
                ProtocolId::SSE_CHANNELS => event_source[1].clone(),
                ProtocolId::SSE_NAMES => event_source[2].clone(),
                ProtocolId::MERCURE => mercure.clone(),
                ProtocolId::GRAPHQL => Arc::new(graphql::GraphQlRecords),
                _ => centrifuge_json[0].clone(),
            }
        };
        let (mut variants, mut rows) = (Variants::default(), Vec::new());
        let mut ids = [[EncodingId::default(); ClientWire::COUNT]; ProtocolId::COUNT];
        for (protocol, ids) in ids.iter_mut().enumerate() {
            for (wire, id) in ClientWire::all().zip(ids) {
                let framing = match wire {
                    ClientWire::WebSocket => websocket.clone(),
                    ClientWire::EngineWebSocket => engine_websocket.clone(),
                    ClientWire::EnginePolling => engine_polling.clone(),
                    ClientWire::Response(frames) => Arc::new(frames),
                    ClientWire::Bare => Arc::new(BareMessages),
                };
                let encoding = Encoding { protocol: on(ProtocolId(protocol as u8), wire), framing };
                debug_assert_eq!(usize::from(encoding.protocol.id().0), protocol, "each has its own rows");
                rows.push(encoding.clone());
                *id =
                    variants.add(encoding).expect("there are fewer encodings than a variant can tell apart");
            }
        }
        Self {
            variants: Arc::new(variants),
            centrifuge_json,
            centrifuge_protobuf,
            event_source,
            mercure,
            socketio,
            ids,
            rows,
            joins,
            deflates,
        }
    }

    /// Returns the unidirectional Centrifuge protocol on this wire.
    pub(crate) fn centrifuge_uni(
        &self,
        in_protobuf: bool,
        wire: ClientWire,
        with_transport_pings: bool,
    ) -> Arc<dyn Protocol> {
        let (joins, transport_pings) = (may_join(wire, self.joins), with_transport_pings);
        match in_protobuf {
            true => with_faults(Arc::new(CentrifugeUniProtobuf { joins, transport_pings })),
            false => with_faults(Arc::new(CentrifugeUniJson { joins, transport_pings })),
        }
    }

    /// Returns the protocol that sends channels as server-sent events.
    pub(crate) fn event_source(&self, types: Types) -> Arc<dyn Protocol> {
        let of = match types {
            Types::Nothing => 0,
            Types::Channel => 1,
            Types::Name => 2,
        };
        self.event_source[of].clone()
    }

    /// Returns the protocol of Mercure, which sends the updates of topics.
    pub(crate) fn mercure(&self) -> Arc<dyn Protocol> {
        self.mercure.clone()
    }

    /// Returns Socket.IO for one connection.
    pub(crate) fn socketio(&self) -> Arc<dyn Protocol> {
        with_faults(Arc::new(SocketIo::new(self.socketio.clone())))
    }

    /// Returns Socket.IO for one connection, also as its concrete type.
    pub(crate) fn own_socketio(&self) -> (Arc<dyn Protocol>, Arc<SocketIo>) {
        let own = Arc::new(SocketIo::new(self.socketio.clone()));
        (with_faults(own.clone()), own)
    }

    /// Returns the state that clients of Socket.IO share.
    pub(crate) fn socketio_common(&self) -> &Arc<SocketIoShared> {
        &self.socketio
    }

    /// Returns the Centrifuge protocol in the encoding that a client has asked for.
    pub(crate) fn centrifuge(&self, in_protobuf: bool, with_transport_pings: bool) -> Arc<dyn Protocol> {
        let both = if in_protobuf { &self.centrifuge_protobuf } else { &self.centrifuge_json };
        both[usize::from(with_transport_pings)].clone()
    }

    /// Returns the variant for a protocol on a wire, with the compression that was negotiated.
    pub(crate) fn variant(
        &self,
        protocol: ProtocolId,
        wire: ClientWire,
        deflate: Option<&DeflateParams>,
    ) -> Variant {
        let id = self.ids[usize::from(protocol.0)][wire.index()];
        match deflate {
            Some(deflate) => Variant::deflated(id, deflate.server_max_window_bits),
            None => Variant::plain(id),
        }
    }

    /// Returns the variant of the same protocol on another wire, without compression.
    pub(crate) fn on_wire(&self, variant: Variant, wire: ClientWire) -> Variant {
        self.variant(self.rows[variant.encoding()].protocol.id(), wire, None)
    }

    /// Returns which compression to negotiate.
    pub(crate) fn deflate_policy(&self) -> DeflatePolicy {
        DeflatePolicy { enabled: self.deflates, ..DeflatePolicy::default() }
    }

    /// Returns the frame of a message for one client.
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

    /// Whether the protocol sends a message when it closes.
    pub(crate) fn sends_close_message(&self, variant: Variant) -> bool {
        self.rows[variant.encoding()].protocol.id().sends_close_message()
    }

    /// Translates a disconnect to the close that the client's protocol has for it.
    pub(crate) fn close(&self, variant: Variant, disconnect: &Disconnect) -> Disconnect {
        self.rows[variant.encoding()].protocol.close(disconnect)
    }

    /// Returns a frame that says that the client is closed and why. Empty if the protocol has no such message.
    pub(crate) fn disconnect_push(&self, variant: Variant, disconnect: &Disconnect) -> Bytes {
        let mut data = BytesMut::new();
        let push = Push::alone(Event::Disconnected(disconnect));
        match self.rows[variant.encoding()].protocol.encode_push(push, &mut data) {
            Encoded::Message(kind) => self.frame(variant, &OwnedMessage { kind, data: data.freeze() }),
            _ => Bytes::new(),
        }
    }
}

/// Whether pushes to unidirectional clients share messages on this wire. A server-sent event holds one push, so that its
/// reader need not look for line breaks.
fn may_join(wire: ClientWire, in_websocket: bool) -> bool {
    match wire {
        ClientWire::WebSocket => in_websocket,
        ClientWire::EngineWebSocket | ClientWire::EnginePolling => false,
        ClientWire::Response(frames) => !matches!(frames.layout, Layout::EventStream | Layout::Events),
        ClientWire::Bare => false,
    }
}

/// Returns the protocol; in test builds, with faults that tests can cause.
fn with_faults(protocol: Arc<dyn Protocol>) -> Arc<dyn Protocol> {
    #[cfg(debug_assertions)]
    let protocol = crate::faults::with_faults(protocol);
    protocol
}
