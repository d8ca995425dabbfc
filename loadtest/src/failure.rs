//! Why a connection or a request failed. The same cause has the same words, since failures are counted by them.

use std::io;

const BROKEN: &str = "the connection broke";

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

impl Failure {
    /// The server violated the protocol.
    pub fn protocol(problem: impl std::fmt::Display) -> Self {
        Self(format!("the server broke the protocol: {problem}"))
    }

    /// The connection ended without a close frame.
    pub fn broken() -> Self {
        BROKEN.into()
    }
}

impl From<&str> for Failure {
    fn from(reason: &str) -> Self {
        Self(reason.to_owned())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        use io::ErrorKind::{
            AddrNotAvailable, BrokenPipe, ConnectionRefused, ConnectionReset, UnexpectedEof,
        };
        match error.kind() {
            ConnectionRefused => "connection refused".into(),
            ConnectionReset | BrokenPipe | UnexpectedEof => Self::broken(),
            AddrNotAvailable => "no free port on the source address (more --sources)".into(),
            _ if error.raw_os_error() == Some(libc::EMFILE) => "out of file descriptors".into(),
            _ => Self(error.to_string()),
        }
    }
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        if error.is_parse() || error.is_user() { Self::protocol(error) } else { Self::broken() }
    }
}

impl From<hyper::http::Error> for Failure {
    fn from(error: hyper::http::Error) -> Self {
        Self(error.to_string())
    }
}
