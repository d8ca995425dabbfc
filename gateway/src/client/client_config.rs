//! The bounds of a connection's messages, in both directions.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::setting::Faults;

/// WebSocket messages and their compression.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebSocketConfig {
    /// Longest message a client may send, in bytes, after it is inflated.
    pub message_bytes_max: usize,
    /// Most frames that one message may be cut into.
    pub fragments_max: usize,
    /// Offer permessage-deflate to clients that ask for it.
    pub compression: bool,
    /// 1: fast, to 9: small.
    pub compression_level: u32,
    /// Messages shorter than this are sent as they are, in bytes.
    pub compression_bytes_min: usize,
    /// Unsent bytes that are kept for a client that reads slowly. When it is full the connection is closed with
    /// 3008 and the client recovers when it returns.
    pub outbox_bytes_max: usize,
    /// How long a client may take none of the bytes sent to it before the connection is closed, in milliseconds.
    pub write_timeout_ms: u64,
    /// How long what a client had sent before it left may take to be carried out, in milliseconds. Its goodbye is
    /// answered after that; what is not done by then is given up and counted.
    pub finish_timeout_ms: u64,
    /// How long the other side may take to answer a close, in milliseconds.
    pub close_timeout_ms: u64,
    /// Several pushes to a client of `/connection/uni_websocket` may share a message, one a line. Without this each has
    /// its own.
    pub uni_join_pushes: bool,
}

impl Default for WebSocketConfig {
    fn default() -> Self {
        Self {
            message_bytes_max: 65_536,
            fragments_max: 1024,
            compression: true,
            compression_level: 2,
            compression_bytes_min: 200,
            outbox_bytes_max: 1_048_576,
            write_timeout_ms: 10_000,
            finish_timeout_ms: 5000,
            close_timeout_ms: 2000,
            uni_join_pushes: false,
        }
    }
}

impl WebSocketConfig {
    pub fn write_timeout(&self) -> Duration {
        Duration::from_millis(self.write_timeout_ms)
    }

    pub fn finish_timeout(&self) -> Duration {
        Duration::from_millis(self.finish_timeout_ms)
    }

    pub fn close_timeout(&self) -> Duration {
        Duration::from_millis(self.close_timeout_ms)
    }

    pub fn check(&self, faults: &mut Faults) {
        faults.outside("message_bytes_max", self.message_bytes_max, 128..=64 << 20);
        faults.outside("fragments_max", self.fragments_max, 1..=1_000_000);
        faults.outside("compression_level", self.compression_level, 1..=9);
        faults.outside("outbox_bytes_max", self.outbox_bytes_max, 4096..=1 << 30);
        faults.outside("write_timeout_ms", self.write_timeout_ms, 10..=600_000);
        faults.outside("finish_timeout_ms", self.finish_timeout_ms, 10..=600_000);
        faults.outside("close_timeout_ms", self.close_timeout_ms, 10..=60_000);
    }
}
