//! Every encoding a client of this node can take.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use gateway_core::hub::{
    DeflateOptions, Encoding, EncodingId, PushFraming, Variant, Variants, WebSocketFrames,
};
use shared::framing::OwnedMessage;
use shared::framing::websocket::{self, DeflateParams, DeflatePolicy};
use shared::protocol::centrifuge::COMMANDS_PER_MESSAGE_MAX;
use shared::protocol::centrifuge::json::CentrifugeJson;
use shared::protocol::raw::Raw;
use shared::protocol::{Protocol, ProtocolId};

#[derive(Debug)]
pub(crate) struct Encodings {
    pub(crate) variants: Arc<Variants>,
    pub(crate) centrifuge_json: Arc<dyn Protocol>,
    /// By protocol.
    ids: [EncodingId; ProtocolId::COUNT],
    frames: Arc<WebSocketFrames>,
    deflates: bool,
}

impl Encodings {
    /// `commands_max` may wait for each other, so that many come in one message: a library subscribes to all it has at
    /// once, and to more than it may have it is to be told channel by channel.
    pub(crate) fn new(deflates: bool, options: DeflateOptions, commands_max: u32) -> Self {
        let frames = Arc::new(WebSocketFrames::new(options));
        let centrifuge_json: Arc<dyn Protocol> = Arc::new(CentrifugeJson {
            // Beside the connect command.
            commands_max: COMMANDS_PER_MESSAGE_MAX.max(commands_max as usize + 1),
        });
        #[cfg(debug_assertions)]
        let centrifuge_json = crate::faults::with_faults(centrifuge_json);
        // What the bare protocol says to all does not depend on which channel its value is for.
        let protocols = [centrifuge_json.clone(), Arc::new(Raw::new("".into(), "".into(), None)) as _];
        let mut variants = Variants::default();
        let ids = protocols.map(|protocol: Arc<dyn Protocol>| {
            debug_assert_eq!(
                usize::from(protocol.id().0),
                variants.len(),
                "protocols stand in the order of their ids"
            );
            let encoding = Encoding { protocol, framing: frames.clone() };
            variants.add(encoding).expect("there are fewer protocols than a variant can tell apart")
        });
        Self { variants: Arc::new(variants), centrifuge_json, ids, frames, deflates }
    }

    /// What a client takes that speaks this protocol and has agreed to this compression.
    pub(crate) fn variant(&self, protocol: ProtocolId, deflate: Option<&DeflateParams>) -> Variant {
        let id = self.ids[usize::from(protocol.0)];
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
        if variant.takes_deflated(message.data.len())
            && let Some(frame) = self.frames.deflate(message.kind, &message.data)
        {
            return frame;
        }
        let mut frame = BytesMut::new();
        websocket::encode_message(message.kind, &message.data, false, &mut frame);
        frame.freeze()
    }
}
