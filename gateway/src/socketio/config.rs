//! The section `socketio`.

use gateway_core::session::Settings;
use serde::{Deserialize, Serialize};

use crate::setting::Faults;

/// Engine.IO, version 4: the transport of Socket.IO. It also serves bare endpoints that ask for it, such as
/// `[raw.paths."/engine.io/"]` with `transport = "engine_io"`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Milliseconds between the server's pings. The first comes after a random part of it, at least half. In place of
    /// `session.ping_interval_ms`.
    pub ping_interval_ms: u64,
    /// Milliseconds a client has to answer a ping. In place of `session.pong_timeout_ms`.
    pub ping_timeout_ms: u64,
    /// Milliseconds from the opening of a connection to its successful connect command. In place of
    /// `session.connect_timeout_ms`.
    pub connect_timeout_ms: u64,
    /// Longest message and longest body of a request that a client may send, in bytes, after it is inflated. In place of
    /// `websocket.message_bytes_max`.
    pub payload_bytes_max: usize,
    /// Clients may begin by polling: with requests that fetch messages and others that bring them.
    pub polling: bool,
    /// Clients that poll may change over to a WebSocket, and are told so.
    pub upgrades: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ping_interval_ms: 25_000,
            ping_timeout_ms: 20_000,
            connect_timeout_ms: 45_000,
            payload_bytes_max: 1_000_000,
            polling: true,
            upgrades: true,
        }
    }
}

impl Config {
    pub fn check(&self, faults: &mut Faults) {
        faults.outside("ping_interval_ms", self.ping_interval_ms, 100..=3_600_000);
        faults.outside("ping_timeout_ms", self.ping_timeout_ms, 10..=3_600_000);
        faults.outside("connect_timeout_ms", self.connect_timeout_ms, 10..=3_600_000);
        faults.outside("payload_bytes_max", self.payload_bytes_max, 1024..=64 << 20);
    }

    /// What sessions over Engine.IO go by where others go by `settings`.
    pub(crate) fn session_settings(&self, settings: &Settings) -> Settings {
        // Once half of it waits, a connection is not read from: the other half is for the message just read.
        let queued = u32::try_from(self.payload_bytes_max * 2).unwrap_or(u32::MAX);
        Settings {
            ping_interval_ms: self.ping_interval_ms,
            pong_timeout_ms: self.ping_timeout_ms,
            connect_timeout_ms: self.connect_timeout_ms,
            queued_bytes_max: settings.queued_bytes_max.max(queued),
            ..settings.clone()
        }
    }
}
