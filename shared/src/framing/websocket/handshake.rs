//! The server side of the opening handshake (RFC 6455 §4.2).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1_smol::Sha1;

use super::offer::{DeflateParams, DeflatePolicy, negotiate};

/// The most subprotocols that a client may offer: each is compared with all others.
pub const SUBPROTOCOLS_MAX: usize = 64;

/// A valid request to upgrade to WebSocket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upgrade<'h> {
    /// The value of the response's `Sec-WebSocket-Accept`; empty for an HTTP/2 request, which has none.
    pub accept: String,
    /// The subprotocols in `Sec-WebSocket-Protocol`, in the client's order of preference.
    pub subprotocols: Vec<&'h str>,
    extensions: Vec<&'h str>,
}

impl<'h> Upgrade<'h> {
    /// Returns the subprotocol to answer with: the first offered one that the server knows. For `None` the response has
    /// no such header, as a server may only answer with a subprotocol that was offered.
    pub fn select_subprotocol(&self, known: &[&str]) -> Option<&'h str> {
        self.subprotocols.iter().copied().find(|offered| known.contains(offered))
    }

    /// Negotiates the client's offers of compression. If the result is `Some`, the response carries
    /// [`DeflateParams::response`].
    pub fn negotiate_deflate(&self, policy: DeflatePolicy) -> Option<DeflateParams> {
        negotiate(self.extensions.iter().copied(), policy)
    }
}

/// Why a request cannot become a WebSocket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("a WebSocket is opened with GET")]
    Method,
    #[error("the Upgrade header does not ask for websocket")]
    NoUpgrade,
    #[error("the Connection header does not hold upgrade")]
    NoConnectionUpgrade,
    #[error("the WebSocket version is not 13")]
    Version,
    #[error("the Sec-WebSocket-Key is not 16 bytes in base64, once")]
    Key,
    #[error("the header {0} is not text")]
    NotText(&'static str),
    #[error(
        "the Sec-WebSocket-Protocol header has more than {SUBPROTOCOLS_MAX} names, an invalid name or a duplicate"
    )]
    Subprotocol,
}

impl HandshakeError {
    /// Returns the HTTP status to answer with.
    pub fn status(self) -> u16 {
        match self {
            Self::Method => 405,
            Self::Version => 426,
            _ => 400,
        }
    }

    /// Returns a header that the answer must carry.
    pub fn header(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Method => Some(("allow", "GET")),
            Self::Version => Some(("sec-websocket-version", "13")),
            _ => None,
        }
    }
}

/// Checks a request. Headers are pairs of a name, in any case, and a value.
pub fn read_upgrade<'h>(
    method: &str,
    headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
) -> Result<Upgrade<'h>, HandshakeError> {
    if method != "GET" {
        return Err(HandshakeError::Method);
    }
    let requested = RequestedUpgrade::read(headers)?;
    if !requested.upgrade {
        return Err(HandshakeError::NoUpgrade);
    }
    if !requested.connection {
        return Err(HandshakeError::NoConnectionUpgrade);
    }
    requested.check_version()?;
    let [key] = requested.keys[..] else { return Err(HandshakeError::Key) };
    if STANDARD.decode(key).map_or(0, |bytes| bytes.len()) != 16 {
        return Err(HandshakeError::Key);
    }
    requested.accepted(accept_key(key))
}

/// Checks an HTTP/2 request (RFC 8441 §5). The caller has checked its method and protocol, and it has no key to answer.
pub fn read_connect<'h>(
    headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
) -> Result<Upgrade<'h>, HandshakeError> {
    let requested = RequestedUpgrade::read(headers)?;
    requested.check_version()?;
    requested.accepted(String::new())
}

/// The relevant headers of a request.
#[derive(Default)]
struct RequestedUpgrade<'h> {
    upgrade: bool,
    connection: bool,
    versions: Vec<&'h str>,
    keys: Vec<&'h str>,
    subprotocols: Vec<&'h str>,
    extensions: Vec<&'h str>,
}

impl<'h> RequestedUpgrade<'h> {
    fn read(headers: impl IntoIterator<Item = (&'h str, &'h [u8])>) -> Result<Self, HandshakeError> {
        let mut requested = Self::default();
        for (name, value) in headers {
            let Some(name) = KNOWN_HEADERS.into_iter().find(|known| name.eq_ignore_ascii_case(known)) else {
                continue;
            };
            let value = std::str::from_utf8(value).map_err(|_| HandshakeError::NotText(name))?.trim();
            match name {
                UPGRADE => {
                    requested.upgrade |= tokens(value).any(|token| token.eq_ignore_ascii_case("websocket"))
                }
                CONNECTION => {
                    requested.connection |= tokens(value).any(|token| token.eq_ignore_ascii_case("upgrade"));
                }
                VERSION => requested.versions.push(value),
                KEY => requested.keys.push(value),
                PROTOCOL => requested.subprotocols.extend(tokens(value)),
                _ => requested.extensions.push(value),
            }
        }
        Ok(requested)
    }

    fn check_version(&self) -> Result<(), HandshakeError> {
        if self.versions == ["13"] { Ok(()) } else { Err(HandshakeError::Version) }
    }

    fn accepted(self, accept: String) -> Result<Upgrade<'h>, HandshakeError> {
        let Self { subprotocols, extensions, .. } = self;
        if subprotocols.len() > SUBPROTOCOLS_MAX {
            return Err(HandshakeError::Subprotocol);
        }
        for (at, subprotocol) in subprotocols.iter().enumerate() {
            if !subprotocol.bytes().all(is_token_byte) || subprotocols[..at].contains(subprotocol) {
                return Err(HandshakeError::Subprotocol);
            }
        }
        Ok(Upgrade { accept, subprotocols, extensions })
    }
}

/// Returns the `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`.
pub fn accept_key(key: &str) -> String {
    let mut digest = Sha1::new();
    digest.update(key.as_bytes());
    digest.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest.digest().bytes())
}

const UPGRADE: &str = "upgrade";
const CONNECTION: &str = "connection";
const VERSION: &str = "sec-websocket-version";
const KEY: &str = "sec-websocket-key";
const PROTOCOL: &str = "sec-websocket-protocol";
const EXTENSIONS: &str = "sec-websocket-extensions";
const KNOWN_HEADERS: [&str; 6] = [UPGRADE, CONNECTION, VERSION, KEY, PROTOCOL, EXTENSIONS];

/// Returns the members of a list header, without empty ones.
fn tokens(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|token| !token.is_empty())
}

/// Accepts HTTP's token characters and also `/`, `=` and `:`, as clients carry base64 tokens here and browsers send
/// them as they are. Characters that could end the header or the list are excluded.
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !b"\"(),;<>?@[\\]{}".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: [(&str, &str); 5] = [
        ("Host", "example.com"),
        ("Upgrade", "websocket"),
        ("Connection", "keep-alive, Upgrade"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
    ];

    fn read<'h>(headers: &[(&'h str, &'h str)]) -> Result<Upgrade<'h>, HandshakeError> {
        read_upgrade("GET", headers.iter().map(|&(name, value)| (name, value.as_bytes())))
    }

    fn with<'h>(name: &'h str, value: &'h str) -> Result<Upgrade<'h>, HandshakeError> {
        let mut headers: Vec<_> = GOOD.into_iter().filter(|header| header.0 != name).collect();
        headers.push((name, value));
        read(&headers)
    }

    #[test]
    fn the_rfc_example_is_accepted() {
        assert_eq!(read(&GOOD).unwrap().accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_request_of_http2_needs_the_version_and_no_key() {
        let connect = |headers: &[(&'static str, &'static str)]| {
            read_connect(headers.iter().map(|&(name, value)| (name, value.as_bytes())))
        };
        let upgrade =
            connect(&[("sec-websocket-version", "13"), ("sec-websocket-protocol", "a, b")]).unwrap();
        assert_eq!((&*upgrade.accept, &upgrade.subprotocols[..]), ("", &["a", "b"][..]));
        assert_eq!(connect(&[]), Err(HandshakeError::Version));
        let twice = connect(&[("sec-websocket-version", "13"), ("sec-websocket-protocol", "a, a")]);
        assert_eq!(twice, Err(HandshakeError::Subprotocol));
    }

    #[test]
    fn only_so_many_subprotocols_are_looked_at() {
        let offered = |count: usize| (0..count).map(|at| format!("p{at}")).collect::<Vec<_>>().join(",");
        assert!(with("Sec-WebSocket-Protocol", &offered(SUBPROTOCOLS_MAX)).is_ok());
        let too_many = offered(SUBPROTOCOLS_MAX + 1);
        assert_eq!(with("Sec-WebSocket-Protocol", &too_many), Err(HandshakeError::Subprotocol));
    }

    #[test]
    fn each_wrong_header_is_named_with_its_status() {
        for (name, value, error, status) in [
            ("Upgrade", "h2c", HandshakeError::NoUpgrade, 400),
            ("Connection", "keep-alive", HandshakeError::NoConnectionUpgrade, 400),
            ("Connection", "upgraded", HandshakeError::NoConnectionUpgrade, 400),
            ("Sec-WebSocket-Version", "8", HandshakeError::Version, 426),
            ("Sec-WebSocket-Version", "", HandshakeError::Version, 426),
            ("Sec-WebSocket-Version", "13, 8", HandshakeError::Version, 426),
            ("Sec-WebSocket-Key", "", HandshakeError::Key, 400),
            ("Sec-WebSocket-Key", "AAAA", HandshakeError::Key, 400),
            ("Sec-WebSocket-Key", "not base64 at all!!!!!!==", HandshakeError::Key, 400),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZTE3Cg==", HandshakeError::Key, 400),
            ("Sec-WebSocket-Protocol", "a, b, a", HandshakeError::Subprotocol, 400),
            ("Sec-WebSocket-Protocol", "two words", HandshakeError::Subprotocol, 400),
        ] {
            let refused = with(name, value).unwrap_err();
            assert_eq!((refused, refused.status()), (error, status), "{name}: {value}");
        }
        assert_eq!(HandshakeError::Version.header(), Some(("sec-websocket-version", "13")));
    }

    #[test]
    fn each_missing_or_doubled_header_is_refused() {
        for missing in 1..GOOD.len() {
            let mut headers = GOOD.to_vec();
            let removed = headers.remove(missing);
            assert!(read(&headers).is_err(), "without {}", removed.0);
        }
        for doubled in [3, 4] {
            let mut headers = GOOD.to_vec();
            headers.push(GOOD[doubled]);
            assert!(read(&headers).is_err(), "with two of {}", GOOD[doubled].0);
        }
    }

    #[test]
    fn only_get_opens_a_websocket() {
        let headers = GOOD.map(|(name, value)| (name, value.as_bytes()));
        let refused = read_upgrade("POST", headers).unwrap_err();
        assert_eq!((refused.status(), refused.header()), (405, Some(("allow", "GET"))));
    }

    #[test]
    fn bytes_that_are_not_text_are_refused_only_where_they_matter() {
        let headers = GOOD.map(|(name, value)| (name, value.as_bytes()));
        let mut garbled = headers.to_vec();
        garbled.push(("X-Other", b"\xff"));
        assert!(read_upgrade("GET", garbled.clone()).is_ok());
        garbled.push(("Sec-WebSocket-Protocol", b"\xff"));
        assert_eq!(read_upgrade("GET", garbled), Err(HandshakeError::NotText(PROTOCOL)));
    }

    #[test]
    fn header_names_and_words_are_read_in_any_case_and_any_line() {
        let headers = [
            ("upgrade", "WebSocket"),
            ("connection", "close"),
            ("CONNECTION", "UPGRADE"),
            ("sec-websocket-key", " dGhlIHNhbXBsZSBub25jZQ== "),
            ("sec-websocket-version", "13"),
        ];
        assert!(read(&headers).is_ok());
    }

    #[test]
    fn the_clients_order_of_subprotocols_decides() {
        let upgrade = with("Sec-WebSocket-Protocol", "chat.v3, chat.v2 ,chat.v1").unwrap();
        assert_eq!(upgrade.select_subprotocol(&["chat.v1", "chat.v2"]), Some("chat.v2"));
        assert_eq!(upgrade.select_subprotocol(&["other"]), None);
        assert_eq!(upgrade.subprotocols, ["chat.v3", "chat.v2", "chat.v1"]);
    }

    #[test]
    fn compression_is_negotiated_from_all_extension_headers() {
        let mut headers = GOOD.to_vec();
        headers.push(("Sec-WebSocket-Extensions", "x-other"));
        assert_eq!(read(&headers).unwrap().negotiate_deflate(DeflatePolicy::default()), None);
        headers.push(("Sec-WebSocket-Extensions", "permessage-deflate; server_max_window_bits=10"));
        let params = read(&headers).unwrap().negotiate_deflate(DeflatePolicy::default()).unwrap();
        assert_eq!(params.server_max_window_bits, 10);
    }
}
