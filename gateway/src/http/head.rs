//! The head of a request, read by hyper, or here from the first bytes of a connection.
//!
//! Nearly every connection begins with a request for a WebSocket that arrives in one piece. For such requests, hyper's
//! buffers, header map, body and timers cost more than all the work of the gateway itself (decision 7). So the first bytes
//! are parsed here, and every connection that does not plainly begin with such a request is left to hyper.

use hyper::ext::Protocol;
use hyper::{Method, Request, Version};
use shared::framing::websocket::{self, HandshakeError, Upgrade};
use smallvec::SmallVec;

/// The most headers of a head that is read here.
const HEADERS_MAX: usize = 32;

/// The part of a request that decides whether it may connect.
#[derive(Debug)]
pub(crate) struct ConnectHead<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
    /// Whether the version is exactly HTTP/1.1.
    is_1_1: bool,
    /// Whether it asks for a WebSocket as in HTTP/2 (RFC 8441 §4).
    asks_in_http2: bool,
    headers: SmallVec<[(&'a str, &'a [u8]); HEADERS_MAX]>,
}

impl<'a> ConnectHead<'a> {
    pub(super) fn of<B>(request: &'a Request<B>) -> Self {
        let headers = request.headers().iter();
        Self {
            method: request.method().as_str(),
            path: request.uri().path(),
            query: request.uri().query(),
            is_1_1: request.version() == Version::HTTP_11,
            asks_in_http2: request.method() == Method::CONNECT
                && request.extensions().get::<Protocol>().is_some_and(|name| name.as_str() == "websocket"),
            headers: headers.map(|(name, value)| (name.as_str(), value.as_bytes())).collect(),
        }
    }

    /// Reads the head at the beginning of these bytes and returns it with its length, if it is complete and plain: a GET of
    /// HTTP/1.1 without a body.
    pub(super) fn read(bytes: &'a [u8]) -> Option<(Self, usize)> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut headers);
        let Ok(httparse::Status::Complete(length)) = request.parse(bytes) else { return None };
        let (method, target) = (request.method?, request.path?);
        let is_plain = method == "GET"
            && request.version == Some(1)
            && target.starts_with('/')
            && target.bytes().all(is_target_byte)
            && !request.headers.iter().any(|header| speaks_of_a_body(header.name));
        if !is_plain {
            return None;
        }
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        let headers = request.headers.iter().map(|header| (header.name, header.value)).collect();
        Some((Self { method, path, query, is_1_1: true, asks_in_http2: false, headers }, length))
    }

    pub(super) fn asks_in_http2(&self) -> bool {
        self.asks_in_http2
    }

    pub(super) fn headers(&self) -> impl DoubleEndedIterator<Item = (&'a str, &'a [u8])> {
        self.headers.iter().copied()
    }

    /// Returns the first header of this name, which is given in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// Returns all headers of this name, in the order sent.
    pub(super) fn all(&self, name: &str) -> impl DoubleEndedIterator<Item = &'a [u8]> {
        self.headers().filter(move |(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Returns the token of the `Authorization` header, if there is one. The error says what is wrong with it.
    pub(super) fn bearer(&self) -> Result<Option<&'a str>, &'static str> {
        let Some(value) = self.header("authorization") else { return Ok(None) };
        let value = std::str::from_utf8(value).ok().filter(|value| value.is_ascii());
        match value.ok_or("the Authorization header is not text")?.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
            _ => Err("the Authorization header must be: Bearer, a space, the token"),
        }
    }

    /// Returns the cookie of this name, if it is text.
    pub(super) fn cookie(&self, name: &str) -> Option<&'a str> {
        let pairs = self.all("cookie").filter_map(|cookies| std::str::from_utf8(cookies).ok());
        let mut pairs = pairs.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.split_once('='));
        pairs.find(|(found, _)| found.trim() == name).map(|(_, value)| value.trim().trim_matches('"'))
    }

    /// Returns why the request's origin or target is ambiguous: a proxy in front may have used another header than this node
    /// would.
    pub(super) fn ambiguity(&self) -> Option<&'static str> {
        if self.all("origin").nth(1).is_some() {
            return Some("there is more than one Origin header");
        }
        match self.all("host").count() {
            0 => Some("there is no Host header"),
            1 => None,
            _ => Some("there is more than one Host header"),
        }
    }

    /// Returns why no WebSocket can be opened with this version and method.
    pub(super) fn version_fault(&self) -> Option<&'static str> {
        let is_sound = self.is_1_1 || self.asks_in_http2;
        (!is_sound).then_some("a WebSocket is opened with HTTP/1.1, or by CONNECT in HTTP/2")
    }

    /// Whether the request asks to leave HTTP, validly or not.
    pub(super) fn asks_to_upgrade(&self) -> bool {
        self.asks_in_http2 || self.header("upgrade").is_some()
    }

    /// Reads the request's WebSocket handshake.
    pub(super) fn upgrade(&self) -> Result<Upgrade<'a>, HandshakeError> {
        match self.asks_in_http2 {
            true => websocket::read_connect(self.headers()),
            false => websocket::read_upgrade(self.method, self.headers()),
        }
    }

    /// Returns the first value of a query parameter, decoded as in forms: a plus stands for a space.
    pub(super) fn form_query(&self, name: &str) -> Option<String> {
        let value = self.raw_query(name)?.replace('+', " ");
        Some(percent_encoding::percent_decode_str(&value).decode_utf8_lossy().into_owned())
    }

    /// Returns the first value of a query parameter, decoded.
    pub(super) fn query(&self, name: &str) -> Option<String> {
        let value = self.raw_query(name)?;
        Some(percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned())
    }

    fn raw_query(&self, name: &str) -> Option<&'a str> {
        let pairs = self.query?.split('&');
        Some(pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?.1)
    }

    /// Returns the length of the path and query, in bytes.
    pub(super) fn url_bytes(&self) -> usize {
        self.path.len() + self.query.map_or(0, |query| query.len() + 1)
    }
}

/// Whether a byte stands for itself in a path or query. All others are left to hyper.
fn is_target_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"\"#<>\\^`{|}".contains(&byte)
}

fn speaks_of_a_body(name: &str) -> bool {
    ["content-length", "transfer-encoding", "expect"].iter().any(|known| name.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "GET /raw/news?offset=7&epoch=a%20b HTTP/1.1\r\nHost: x\r\nX-Two: 1\r\nx-two: 2\r\n\r\n";

    #[test]
    fn a_plain_head_is_read_and_what_follows_it_is_not() {
        let bytes = format!("{HEAD}\u{1}\u{0}");
        let (head, length) = ConnectHead::read(bytes.as_bytes()).unwrap();
        assert_eq!(length, HEAD.len());
        assert_eq!((head.method, head.path), ("GET", "/raw/news"));
        assert_eq!(head.query("offset").as_deref(), Some("7"));
        assert_eq!(head.query("epoch").as_deref(), Some("a b"));
        assert_eq!(head.url_bytes(), "/raw/news?offset=7&epoch=a%20b".len());
        assert_eq!(head.header("host"), Some(&b"x"[..]));
        assert_eq!(head.all("x-two").collect::<Vec<_>>(), [b"1", b"2"]);
    }

    #[test]
    fn a_head_reads_the_same_through_hyper() {
        let request = Request::get("/raw/news?offset=7&epoch=a%20b").header("Host", "x").body(()).unwrap();
        let head = ConnectHead::of(&request);
        let (read, _) = ConnectHead::read(HEAD.as_bytes()).unwrap();
        assert_eq!((head.method, head.path, head.query), (read.method, read.path, read.query));
        assert_eq!(head.header("host"), read.header("host"));
    }

    #[test]
    fn a_head_says_once_who_asks_whom() {
        let ambiguity = |head: &str| ConnectHead::read(head.as_bytes()).unwrap().0.ambiguity();
        assert_eq!(ambiguity(HEAD), None);
        assert_eq!(ambiguity(&HEAD.replace("X-Two: 1", "Origin: http://x")), None);
        assert_eq!(ambiguity(&HEAD.replace("Host", "Hosts")), Some("there is no Host header"));
        assert_eq!(
            ambiguity(&HEAD.replace("X-Two: 1", "HOST: x")),
            Some("there is more than one Host header")
        );
        let twice = HEAD.replace("X-Two", "Origin").replace("x-two", "oRIGIN");
        assert_eq!(ambiguity(&twice), Some("there is more than one Origin header"));
        let old = Request::get("/raw/news").version(Version::HTTP_10).header("Host", "x").body(()).unwrap();
        assert_eq!(
            ConnectHead::of(&old).version_fault(),
            Some("a WebSocket is opened with HTTP/1.1, or by CONNECT in HTTP/2")
        );
    }

    #[test]
    fn whatever_is_not_plain_is_left_to_hyper() {
        assert!(ConnectHead::read(HEAD.as_bytes()).is_some());
        for end in 0..HEAD.len() {
            assert!(ConnectHead::read(&HEAD.as_bytes()[..end]).is_none(), "{end} bytes of it");
        }
        for other in [
            HEAD.replace("GET", "POST"),
            HEAD.replace("HTTP/1.1", "HTTP/1.0"),
            HEAD.replace("/raw", "http://x/raw"),
            HEAD.replace("/raw", "/raw#"),
            HEAD.replace("/raw", "/räw"),
            HEAD.replace("X-Two", "Content-Length"),
            HEAD.replace("X-Two", "transfer-encoding"),
            HEAD.replace("X-Two", "Expect"),
            HEAD.replace("X-Two: 1\r\n", &"X: y\r\n".repeat(HEADERS_MAX)),
            HEAD.replace("Host: x", "Host x"),
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
            "\x16\x03\x01 no HTTP at all".to_owned(),
        ] {
            assert!(ConnectHead::read(other.as_bytes()).is_none(), "{other}");
        }
    }
}
