//! The open packet of an Engine.IO session, which tells the client its id and the session's parameters.

use bytes::{BufMut, BytesMut};

use super::OPEN;

/// The version of the protocol, as clients ask for it in the `EIO` parameter.
pub const PROTOCOL: &str = "4";

/// The contents of the open packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EngineHandshake<'a> {
    /// The session's id, with which the client's further requests name it: letters, digits and `-._~`.
    pub sid: &'a str,
    /// Whether the client may upgrade to a WebSocket.
    pub upgrades: bool,
    /// Interval between pings, in milliseconds.
    pub ping_interval_ms: u64,
    /// Timeout for the answer to a ping, in milliseconds.
    pub ping_timeout_ms: u64,
    /// Longest body of a request, in bytes.
    pub payload_bytes_max: usize,
}

impl EngineHandshake<'_> {
    /// Appends the packet.
    pub fn put(&self, out: &mut BytesMut) {
        let upgrades = if self.upgrades { "\"websocket\"" } else { "" };
        let Self { sid, ping_interval_ms, ping_timeout_ms, payload_bytes_max, .. } = self;
        out.put_u8(OPEN);
        out.put_slice(
            format!(
                "{{\"sid\":\"{sid}\",\"upgrades\":[{upgrades}],\"pingInterval\":{ping_interval_ms},\
                 \"pingTimeout\":{ping_timeout_ms},\"maxPayload\":{payload_bytes_max}}}"
            )
            .as_bytes(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_begins_with_all_that_clients_go_by() {
        let mut handshake = EngineHandshake {
            sid: "a-b.c",
            upgrades: true,
            ping_interval_ms: 25_000,
            ping_timeout_ms: 20_000,
            payload_bytes_max: 1_000_000,
        };
        let mut out = BytesMut::new();
        handshake.put(&mut out);
        assert_eq!(
            out,
            r#"0{"sid":"a-b.c","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}"#
        );
        handshake.upgrades = false;
        let mut out = BytesMut::new();
        handshake.put(&mut out);
        assert!(std::str::from_utf8(&out).unwrap().contains(r#""upgrades":[],"#));
    }
}
