//! The bounds of a connection's messages, in both directions.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::setting::Faults;

/// WebSocket messages, their compression, and output to slow clients.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebSocketConfig {
    /// The longest message of a client, in bytes after decompression.
    pub message_bytes_max: usize,
    /// The most frames of one message.
    pub fragments_max: usize,
    /// Accepts permessage-deflate from clients that offer it.
    pub compression: bool,
    /// The compression level, from 1 (fast) to 9 (small).
    pub compression_level: u32,
    /// Messages shorter than this are not compressed, in bytes.
    pub compression_bytes_min: usize,
    /// The most unsent bytes kept for a slow client. When the outbox is full, the connection is closed with 3008; the
    /// client recovers when it reconnects.
    pub outbox_bytes_max: usize,
    /// The longest time that a client may accept no bytes before its connection is closed, in milliseconds.
    pub write_timeout_ms: u64,
    /// Time limit for completing the commands that a client sent before it closed its connection, in milliseconds.
    /// The client's close is answered after that. Commands that are not completed in time are given up and counted.
    pub finish_timeout_ms: u64,
    /// Time limit for the client to answer a close, in milliseconds.
    pub close_timeout_ms: u64,
    /// Sends several pushes to a client of `/connection/uni_websocket` in one message, one per line. If false, each
    /// push has a message of its own.
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
