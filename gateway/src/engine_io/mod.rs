//! Engine.IO on this node: what sessions begin with.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::{Bytes, BytesMut};
use shared::framing::MessageKind;
use shared::framing::engine_io::Handshake;
use shared::framing::websocket::encode_message;

use crate::socketio::Config;

/// How sessions of Engine.IO begin on this node.
#[derive(Debug)]
pub(crate) struct EngineIo {
    settings: Config,
    node: Box<str>,
}

impl EngineIo {
    pub(crate) fn new(settings: &Config, node: &str) -> Self {
        Self { settings: settings.clone(), node: node.into() }
    }

    /// What a client over a WebSocket is told first, as a frame.
    pub(crate) fn greeting(&self) -> Bytes {
        let mut packet = BytesMut::new();
        self.handshake(&self.sid(rand::random()), false).put(&mut packet);
        let mut frame = BytesMut::new();
        encode_message(MessageKind::Text, &packet, false, &mut frame);
        frame.freeze()
    }

    fn handshake<'a>(&self, sid: &'a str, upgrades: bool) -> Handshake<'a> {
        let Config { ping_interval_ms, ping_timeout_ms, payload_bytes_max, .. } = self.settings;
        Handshake { sid, upgrades, ping_interval_ms, ping_timeout_ms, payload_bytes_max }
    }

    /// A session's name, which says on which node it is.
    fn sid(&self, secret: u128) -> String {
        format!("{}.{}", BASE64_URL_SAFE_NO_PAD.encode(secret.to_be_bytes()), self.node)
    }
}
