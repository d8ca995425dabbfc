//! The line of JSON that one node sends to another before the bytes that it carries for a client.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use shared::framing::websocket::offer::negotiate;
use shared::framing::websocket::{DeflateParams, DeflatePolicy};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Raised whenever an older node would misread the line.
const VERSION: u32 = 1;

/// The version of a line that asks for a stream, which nodes of version 1 do not support.
const VERSION_OF_STREAMS: u32 = 2;

/// The longest line, in bytes.
const BYTES_MAX: usize = 512;

/// The session that a connection between nodes is for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NodeOpening {
    /// The part of the session's name by which its node knows it.
    pub(crate) session: Box<str>,
    pub(crate) purpose: OpeningPurpose,
}

/// The purpose of a connection from another node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum OpeningPurpose {
    /// A client's WebSocket follows, with the compression that its handshake has negotiated.
    WebSocket { deflate: Option<DeflateParams> },
    /// The node answers with the stream that is reserved for the session's client.
    Stream,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum OpeningError {
    #[error("it is longer than {BYTES_MAX} bytes")]
    TooLong,
    #[error("it cannot be read: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("its version is {0}; this node supports versions up to {VERSION_OF_STREAMS}")]
    UnknownVersion(u32),
    #[error(transparent)]
    Lost(#[from] io::Error),
}

/// These fields mean the same in every version.
#[derive(Serialize, Deserialize)]
struct OpeningHeader {
    v: u32,
    #[serde(default)]
    session: Box<str>,
    /// As in the response of the handshake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deflate: Option<String>,
}

impl NodeOpening {
    fn encode(&self) -> io::Result<Vec<u8>> {
        let (v, deflate) = match &self.purpose {
            OpeningPurpose::WebSocket { deflate } => (VERSION, deflate.as_ref().map(DeflateParams::response)),
            OpeningPurpose::Stream => (VERSION_OF_STREAMS, None),
        };
        let mut line = serde_json::to_vec(&OpeningHeader { v, session: self.session.clone(), deflate })?;
        line.push(b'\n');
        Ok(line)
    }

    pub(crate) async fn write(&self, stream: &mut TcpStream) -> io::Result<()> {
        stream.write_all(&self.encode()?).await
    }

    /// Reads the line. Also returns the bytes that have been received behind it.
    pub(crate) async fn read(mut stream: impl AsyncRead + Unpin) -> Result<(Self, Bytes), OpeningError> {
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
        let OpeningHeader { v, session, deflate } = serde_json::from_slice(line)?;
        let purpose = match v {
            VERSION => {
                // The negotiated parameters are parsed as an offer of the same.
                let deflate = deflate.and_then(|agreed| negotiate([&*agreed], DeflatePolicy::default()));
                OpeningPurpose::WebSocket { deflate }
            }
            VERSION_OF_STREAMS => OpeningPurpose::Stream,
            other => return Err(OpeningError::UnknownVersion(other)),
        };
        Ok(Self { session, purpose })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(bytes: &[u8]) -> Result<(NodeOpening, Bytes), OpeningError> {
        NodeOpening::read(bytes).await
    }

    #[tokio::test]
    async fn what_is_written_is_read_with_what_follows_it() {
        for offer in [None, Some("permessage-deflate"), Some("permessage-deflate; server_max_window_bits=10")]
        {
            let deflate = offer.and_then(|offer| negotiate([offer], DeflatePolicy::default()));
            assert_eq!(deflate.is_some(), offer.is_some());
            let opening =
                NodeOpening { session: "AAAA".into(), purpose: OpeningPurpose::WebSocket { deflate } };
            let mut bytes = opening.encode().unwrap();
            bytes.extend_from_slice(b"what\nfollows");
            let (read, rest) = read(&bytes).await.unwrap();
            assert_eq!((&*read.session, &rest[..]), ("AAAA", &b"what\nfollows"[..]));
            let bits = |params: Option<DeflateParams>| params.map(|params| params.server_max_window_bits);
            let OpeningPurpose::WebSocket { deflate: agreed } = read.purpose else {
                panic!("{:?}", read.purpose)
            };
            assert_eq!(bits(agreed), bits(deflate));
        }
        let stream = NodeOpening { session: "s".into(), purpose: OpeningPurpose::Stream };
        assert_eq!(read(&stream.encode().unwrap()).await.unwrap(), (stream, Bytes::new()));
    }

    #[tokio::test]
    async fn what_no_node_says_is_refused() {
        let long = [b'x'; 2 * BYTES_MAX];
        assert!(matches!(read(&long).await, Err(OpeningError::TooLong)));
        assert!(matches!(read(b"{\"v\":3,\"more\":1}\n").await, Err(OpeningError::UnknownVersion(3))));
        for broken in ["\n", "{}\n", "GET / HTTP/1.1\r\n", "\u{0}\n"] {
            assert!(matches!(read(broken.as_bytes()).await, Err(OpeningError::Malformed(_))), "{broken:?}");
        }
        assert!(matches!(read(b"{\"v\":1").await, Err(OpeningError::Lost(_))));
    }

    #[test]
    fn the_wire_stays_what_other_nodes_of_this_version_read() {
        for (purpose, expected) in [
            (OpeningPurpose::WebSocket { deflate: None }, &b"{\"v\":1,\"session\":\"AAAA\"}\n"[..]),
            (OpeningPurpose::Stream, b"{\"v\":2,\"session\":\"AAAA\"}\n"),
        ] {
            assert_eq!(NodeOpening { session: "AAAA".into(), purpose }.encode().unwrap(), expected);
        }
    }
}
