//! A request whose response waits for the session's decision: a stream, or a refusal with a status.
//!
//! A browser returns to a stream that ends, endlessly. Only a status can stop it, and the status stands at the beginning of
//! a response.

use bytes::{BufMut, Bytes, BytesMut};
use shared::disconnect::Disconnect;
use shared::protocol::Header;
use tokio::sync::oneshot;

/// Who writes the response.
#[derive(Debug)]
pub(crate) enum PendingResponse {
    /// The worker writes it. Each holds all of the head but the lines that depend on the decision.
    Here { stream: Bytes, refusal: Bytes },
    /// A task writes it, and is told how to begin.
    Elsewhere(oneshot::Sender<ResponseBeginning>),
}

/// The beginning of a response that a task writes.
#[derive(Debug)]
pub(crate) enum ResponseBeginning {
    /// A stream, with this additional header.
    Stream(Option<Header>),
    /// A refusal instead of a stream.
    Refusal { status: u16, why: String },
}

/// What the worker writes.
pub(super) enum ResponseHead {
    /// The head of a stream.
    Begun(Bytes),
    /// A complete refusal.
    Refused(Bytes),
}

impl PendingResponse {
    /// Whether the worker writes the response.
    pub(super) fn is_here(&self) -> bool {
        matches!(self, Self::Here { .. })
    }

    /// Begins a stream. Returns the bytes to write before it.
    pub(super) fn begin(self, header: Option<Header>) -> Bytes {
        match self {
            Self::Here { stream, .. } => {
                let mut head = BytesMut::with_capacity(stream.len() + 64);
                head.put_slice(&stream);
                if let Some(Header { name, value }) = header {
                    head.put_slice(name.as_bytes());
                    head.put_slice(b": ");
                    head.put_slice(value.as_bytes());
                    head.put_slice(b"\r\n");
                }
                head.put_slice(b"\r\n");
                head.freeze()
            }
            Self::Elsewhere(beginning) => {
                // The peer may have gone.
                let _ = beginning.send(ResponseBeginning::Stream(header));
                Bytes::new()
            }
        }
    }

    /// Handles a session that ends before it has begun.
    pub(super) fn refuse_or_begin(self, disconnect: &Disconnect) -> ResponseHead {
        let Some(status) = status_of(disconnect) else { return ResponseHead::Begun(self.begin(None)) };
        let why = format!("{}\n", disconnect.reason);
        match self {
            Self::Here { refusal, .. } => {
                let length = why.len();
                let phrase = phrase(status);
                let mut whole =
                    format!("HTTP/1.1 {status} {phrase}\r\ncontent-length: {length}\r\n").into_bytes();
                if status == 401 {
                    whole.extend_from_slice(b"www-authenticate: Bearer\r\n");
                }
                whole.extend_from_slice(&refusal);
                whole.extend_from_slice(b"\r\n");
                whole.extend_from_slice(why.as_bytes());
                ResponseHead::Refused(whole.into())
            }
            Self::Elsewhere(beginning) => {
                let why = why.trim_end().to_owned();
                let _ = beginning.send(ResponseBeginning::Refusal { status, why });
                ResponseHead::Refused(Bytes::new())
            }
        }
    }
}

/// Returns the status of a refusal for a session that ends this way. `None` if the client may come back unchanged: it is
/// then given a stream that ends, because clients do not come back after any other status.
pub(super) fn status_of(disconnect: &Disconnect) -> Option<u16> {
    match disconnect.code {
        code if code == Disconnect::INVALID_TOKEN.code || code == Disconnect::EXPIRED.code => Some(401),
        code if code == Disconnect::BAD_REQUEST.code
            || code == Disconnect::CHANNEL_LIMIT.code
            || code == Disconnect::NOT_AVAILABLE.code =>
        {
            Some(400)
        }
        code if code == Disconnect::CONNECTION_LIMIT.code => Some(429),
        // The delay was not the client's.
        code if code == Disconnect::STALE.code => None,
        _ if disconnect.invites_reconnect() => None,
        _ => Some(403),
    }
}

fn phrase(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        401 => "Unauthorized",
        429 => "Too Many Requests",
        _ => "Forbidden",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> PendingResponse {
        PendingResponse::Here {
            stream: Bytes::from_static(b"HTTP/1.1 200 OK\r\na: b\r\n"),
            refusal: Bytes::from_static(b"c: d\r\n"),
        }
    }

    #[test]
    fn a_head_has_the_line_that_was_found_out_last() {
        assert_eq!(here().begin(None), "HTTP/1.1 200 OK\r\na: b\r\n\r\n");
        let header = Header { name: "last-event-id", value: "earliest".into() };
        assert_eq!(here().begin(Some(header)), "HTTP/1.1 200 OK\r\na: b\r\nlast-event-id: earliest\r\n\r\n");
    }

    #[test]
    fn only_who_cannot_come_back_is_refused_by_a_status() {
        let status = |disconnect: Disconnect| match here().refuse_or_begin(&disconnect) {
            ResponseHead::Refused(whole) => {
                String::from_utf8(whole.to_vec()).unwrap()[9..12].parse().unwrap()
            }
            ResponseHead::Begun(_) => 200,
        };
        for (disconnect, expected) in [
            (Disconnect::INVALID_TOKEN, 401),
            (Disconnect::EXPIRED, 401),
            (Disconnect::PERMISSION_DENIED, 403),
            (Disconnect::FORCE_DISCONNECT, 403),
            (Disconnect::BAD_REQUEST, 400),
            (Disconnect::CHANNEL_LIMIT, 400),
            (Disconnect::CONNECTION_LIMIT, 429),
            (Disconnect::SHUTDOWN, 200),
            (Disconnect::INTERNAL, 200),
            (Disconnect::STALE, 200),
        ] {
            assert_eq!(status(disconnect.clone()), expected, "{disconnect:?}");
        }
    }

    #[test]
    fn a_refusal_is_a_whole_answer() {
        let ResponseHead::Refused(whole) = here().refuse_or_begin(&Disconnect::PERMISSION_DENIED) else {
            panic!()
        };
        assert_eq!(whole, "HTTP/1.1 403 Forbidden\r\ncontent-length: 18\r\nc: d\r\n\r\npermission denied\n");
    }
}
