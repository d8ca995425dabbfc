//! The section `socketio`.

use std::collections::BTreeMap;

use gateway_core::channel_names::ChannelNames;
use gateway_core::session::SessionSettings;
use serde::{Deserialize, Serialize};
use shared::protocol::socketio::SocketIoShared;

use super::emitters_config::EmittersConfig;
use super::namespaces::{self, Namespace};
use crate::setting::{Faults, check_path};

/// Clients that speak Socket.IO, protocol 5, over Engine.IO 4. The settings of pings, timeouts and lengths also apply
/// to raw endpoints over Engine.IO, such as `[raw.paths."/engine.io/"]` with `transport = "engine_io"`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SocketioConfig {
    /// Serves Socket.IO.
    pub enabled: bool,
    /// The path, which begins and ends with `/`. Clients may omit the `/` at the end.
    pub path: String,
    /// Interval between the server's pings, in milliseconds. The first ping is sent after a random part of it, at
    /// least half. Replaces `session.ping_interval_ms`.
    pub ping_interval_ms: u64,
    /// Time limit for a client to answer a ping, in milliseconds. Replaces `session.pong_timeout_ms`.
    pub ping_timeout_ms: u64,
    /// Time limit from the opening of a connection to its successful connect command, in milliseconds. Replaces
    /// `session.connect_timeout_ms`.
    pub connect_timeout_ms: u64,
    /// The longest message and the longest request body of a client, in bytes after decompression. Replaces
    /// `websocket.message_bytes_max`.
    pub payload_bytes_max: usize,
    /// Allows clients to start with HTTP long polling.
    pub polling: bool,
    /// Offers clients that poll an upgrade to a WebSocket.
    pub upgrades: bool,
    /// The key in the client's `auth` object that holds the connection token. Empty: `auth` holds no token and is
    /// only passed to hooks.
    pub token_key: String,
    /// The most attachments (binary arguments) of one packet. A packet and its attachments together are at most
    /// `payload_bytes_max` long.
    pub attachments_max: u32,
    /// Each namespace with its section, such as `[socketio.namespaces."/"]`, at most 64.
    pub namespaces: BTreeMap<String, Namespace>,
    /// Servers that send events through Redis.
    pub emitters: EmittersConfig,
}

impl Default for SocketioConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            path: "/socket.io/".to_owned(),
            ping_interval_ms: 25_000,
            ping_timeout_ms: 20_000,
            connect_timeout_ms: 45_000,
            payload_bytes_max: 1_000_000,
            polling: true,
            upgrades: true,
            token_key: "token".to_owned(),
            attachments_max: 10,
            namespaces: BTreeMap::new(),
            emitters: EmittersConfig::default(),
        }
    }
}

impl SocketioConfig {
    pub fn check(&self, faults: &mut Faults) {
        faults.outside("ping_interval_ms", self.ping_interval_ms, 100..=3_600_000);
        faults.outside("ping_timeout_ms", self.ping_timeout_ms, 10..=3_600_000);
        faults.outside("connect_timeout_ms", self.connect_timeout_ms, 10..=3_600_000);
        faults.outside("payload_bytes_max", self.payload_bytes_max, 1024..=64 << 20);
        faults.outside("attachments_max", self.attachments_max, 0..=1_000);
        if let Err(problem) = check_path(&self.path) {
            faults.add("path", problem);
        } else if !self.path.ends_with('/') {
            faults.add("path", "must end with /");
        }
        namespaces::check(&self.namespaces, faults);
        self.emitters.check(self.enabled, faults);
    }

    /// Returns each namespace with its section. If none is configured, there is a default one.
    pub fn served(&self) -> BTreeMap<String, Namespace> {
        if self.enabled { namespaces::or_main(&self.namespaces) } else { BTreeMap::new() }
    }

    /// Whether `[backend.socketio]` is called for anything.
    pub fn asks(&self) -> bool {
        self.enabled && namespaces::asks(&self.namespaces)
    }

    /// Returns what all connections share.
    pub(crate) fn common(&self, names: &ChannelNames) -> SocketIoShared {
        SocketIoShared {
            namespaces: namespaces::namespaces(&self.served(), &names.namespace_boundary),
            token_key: (*self.token_key).into(),
            attachments_max: self.attachments_max,
            packet_bytes_max: self.payload_bytes_max,
        }
    }

    /// Returns these settings with those of `new` that can change while the node runs: who may join namespaces, and the
    /// rules of events.
    pub(crate) fn with_live_of(&self, new: &Self) -> Self {
        Self { namespaces: namespaces::with_live_of(&self.namespaces, &new.namespaces), ..self.clone() }
    }

    /// Puts these rules into effect for all clients.
    pub(crate) fn set_rules(&self, common: &SocketIoShared) {
        for (name, section) in self.served() {
            if let Some(namespace) = common.namespaces.named(&name) {
                namespace.access.set(section.access());
                namespace.routes.set(section.routes());
            }
        }
    }

    /// Whether this is the path of Socket.IO.
    pub(crate) fn is_at(&self, path: &str) -> bool {
        self.enabled && (path == self.path || self.path.strip_suffix('/') == Some(path))
    }

    /// Returns the settings of sessions over Engine.IO, from the settings of other sessions.
    pub(crate) fn session_settings(&self, settings: &SessionSettings) -> SessionSettings {
        // A connection is not read from once half of this is queued: the other half has room for the message just read.
        let queued = u32::try_from(self.payload_bytes_max * 2).unwrap_or(u32::MAX);
        SessionSettings {
            ping_interval_ms: self.ping_interval_ms,
            pong_timeout_ms: self.ping_timeout_ms,
            connect_timeout_ms: self.connect_timeout_ms,
            queued_bytes_max: settings.queued_bytes_max.max(queued),
            ..settings.clone()
        }
    }
}
