//! What one node says to another before a client's WebSocket follows: a line of JSON.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use shared::framing::websocket::offer::negotiate;
use shared::framing::websocket::{DeflateParams, DeflatePolicy};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Raised whenever an older node would misread it.
const VERSION: u32 = 1;

/// The longest line, in bytes.
const BYTES_MAX: usize = 512;

/// For which session a WebSocket is, and what its handshake has agreed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Opening {
    /// The secret of its name.
    pub(super) session: Box<str>,
    pub(super) deflate: Option<DeflateParams>,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum OpeningError {
    #[error("it is longer than {BYTES_MAX} bytes")]
    TooLong,
    #[error("it cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("it is of version {0}, and this node knows {VERSION}")]
    UnknownVersion(u32),
    #[error(transparent)]
    Lost(#[from] io::Error),
}

/// These mean the same in every version.
#[derive(Serialize, Deserialize)]
struct Line {
    v: u32,
    #[serde(default)]
    session: Box<str>,
    /// As the handshake's answer says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deflate: Option<String>,
}

impl Opening {
    fn encode(&self) -> io::Result<Vec<u8>> {
        let deflate = self.deflate.as_ref().map(DeflateParams::response);
        let mut line = serde_json::to_vec(&Line { v: VERSION, session: self.session.clone(), deflate })?;
        line.push(b'\n');
        Ok(line)
    }

    pub(super) async fn write(&self, stream: &mut TcpStream) -> io::Result<()> {
        stream.write_all(&self.encode()?).await
    }

    /// Reads it. Answers what has come behind it already, too.
    pub(super) async fn read(mut stream: impl AsyncRead + Unpin) -> Result<(Self, Bytes), OpeningError> {
        let mut come = BytesMut::with_capacity(BYTES_MAX);
        loop {
            if let Some(end) = memchr::memchr(b'\n', &come) {
                let line = come.split_to(end + 1);
                return Ok((Self::decode(&line[..end])?, come.freeze()));
            }
            if come.len() >= BYTES_MAX {
                return Err(OpeningError::TooLong);
            }
            if stream.read_buf(&mut (&mut come).limit(BYTES_MAX)).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }

    fn decode(line: &[u8]) -> Result<Self, OpeningError> {
        let Line { v, session, deflate } = serde_json::from_slice(line)?;
        if v != VERSION {
            return Err(OpeningError::UnknownVersion(v));
        }
        // What was agreed reads as an offer of the same.
        let deflate = deflate.and_then(|agreed| negotiate([&*agreed], DeflatePolicy::default()));
        Ok(Self { session, deflate })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> Result<(Opening, Bytes), OpeningError> {
        Opening::read(bytes).await
    }

    #[tokio::test]
    async fn what_is_written_is_read_with_what_follows_it() {
        for offer in [None, Some("permessage-deflate"), Some("permessage-deflate; server_max_window_bits=10")]
        {
            let deflate = offer.and_then(|offer| negotiate([offer], DeflatePolicy::default()));
            assert_eq!(deflate.is_some(), offer.is_some());
            let opening = Opening { session: "AAAA".into(), deflate };
            let mut bytes = opening.encode().unwrap();
            bytes.extend_from_slice(b"what\nfollows");
            let (read, rest) = read(&bytes).await.unwrap();
            assert_eq!((&*read.session, &rest[..]), ("AAAA", &b"what\nfollows"[..]));
            let bits = |params: Option<DeflateParams>| params.map(|params| params.server_max_window_bits);
            assert_eq!(bits(read.deflate), bits(deflate));
        }
    }

    #[tokio::test]
    async fn what_no_node_says_is_refused() {
        let long = [b'x'; 2 * BYTES_MAX];
        assert!(matches!(read(&long).await, Err(OpeningError::TooLong)));
        assert!(matches!(read(b"{\"v\":2,\"more\":1}\n").await, Err(OpeningError::UnknownVersion(2))));
        for broken in ["\n", "{}\n", "GET / HTTP/1.1\r\n", "\u{0}\n"] {
            assert!(matches!(read(broken.as_bytes()).await, Err(OpeningError::Malformed(_))), "{broken:?}");
        }
        assert!(matches!(read(b"{\"v\":1").await, Err(OpeningError::Lost(_))));
    }

    #[test]
    fn the_wire_stays_what_other_nodes_of_this_version_read() {
        let line = Opening { session: "AAAA".into(), deflate: None }.encode().unwrap();
        assert_eq!(line, b"{\"v\":1,\"session\":\"AAAA\"}\n");
    }
}
