//! A request whose answer waits for what its client's session says: a stream, or a refusal with its status.
//!
//! A browser comes back to a stream that ends, for ever. Whoever is not let in must be told so by a status, and that stands at
//! the beginning of an answer.

use bytes::{BufMut, Bytes, BytesMut};
use shared::disconnect::Disconnect;
use shared::protocol::Header;
use tokio::sync::oneshot;

/// Who writes the answer.
#[derive(Debug)]
pub(crate) enum PendingResponse {
    /// The worker does. Of the head of a stream, and of a refusal, all but the lines that are found out later.
    Here { stream: Bytes, refusal: Bytes },
    /// A task does, which is told.
    Elsewhere(oneshot::Sender<ResponseBeginning>),
}

/// How an answer begins that somebody else writes.
#[derive(Debug)]
pub(crate) enum ResponseBeginning {
    /// With a stream, and this header among others.
    Stream(Option<Header>),
    /// There is no stream.
    Refusal { status: u16, why: String },
}

/// What the worker is to write.
pub(super) enum ResponseHead {
    /// A stream follows.
    Begun(Bytes),
    /// That is all.
    Refused(Bytes),
}

impl PendingResponse {
    /// Whether the worker writes it.
    pub(super) fn is_here(&self) -> bool {
        matches!(self, Self::Here { .. })
    }

    /// A stream begins. What is to be written before it.
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
                // Whoever asked may have gone.
                let _ = beginning.send(ResponseBeginning::Stream(header));
                Bytes::new()
            }
        }
    }

    /// The client's session ends before it has begun.
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

/// With what status a client is refused whose session ends so. `None` where it may come back as it is: then it is given a
/// stream, and that ends, for clients do not come back after any other status.
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
        // It was not the client that took too long.
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
