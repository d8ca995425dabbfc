//! Properties that must hold for any input of the gateway's own readers. The readers of `shared` are checked in
//! [`checks`](crate::checks).

use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Uri};
use shared::protocol::graphql::{Plan, Planner, RequestedOperation};
use tidegate::admission::client_ip::TrustedProxies;
use tidegate::auth::{AuthConfig, Authenticator, TokenVerdict};
use tidegate::clock::Clock;
use tidegate::graphql::graphql_config::Subscription;
use tidegate::graphql::{Catalog, GraphqlConfig};
use tidegate::http::http_config::HttpConfig;
use tidegate::http::origin::OriginPolicy;
use tidegate::node::control::{CONTROL_BYTES_MAX, ControlCommand, NodeInfo};
use tidegate::node::node_message::{NODE_MESSAGE_BYTES_MAX, NodeMessage};
use tidegate::readers;
use tidegate::secret::Secret;

/// Redis replies are read alike however the bytes are split, and a pushed message has the content that was published,
/// whatever it is. The first byte chooses the size of the pieces and where a name ends.
pub fn redis(data: &[u8]) {
    let Some((&choice, stream)) = data.split_first() else { return };
    let whole = replies(stream, stream.len().max(1));
    assert_eq!(whole, replies(stream, usize::from(choice) % 32 + 1));

    let (name, message) = stream.split_at(usize::from(choice).min(stream.len()));
    let mut pushed = BytesMut::new();
    for part in [b"message", name, message] {
        pushed.extend_from_slice(if pushed.is_empty() { b">3\r\n$" } else { b"$" });
        pushed.extend_from_slice(format!("{}\r\n", part.len()).as_bytes());
        pushed.extend_from_slice(part);
        pushed.extend_from_slice(b"\r\n");
    }
    let expected = format!("{:?} {:?}", Bytes::copy_from_slice(name), Bytes::copy_from_slice(message));
    assert_eq!((readers::redis(&mut pushed), pushed.len()), (Ok(Some(expected)), 0));
}

/// A block that is read says the same after it is written and read again.
pub fn nats_block(data: &[u8]) {
    let Ok((block, written, can_be_read)) = readers::nats_block(Bytes::copy_from_slice(data)) else { return };
    let (again, rewritten, can_be_read_again) = readers::nats_block(written.clone()).expect("it was read");
    assert_eq!((block, written, can_be_read), (again, rewritten, can_be_read_again));
}

/// A ledger's log that is read says the same after it is written and read again, and gives the same table.
pub fn nats_ledger(data: &[u8]) {
    let Some((said, written, table)) = readers::nats_ledger(Bytes::copy_from_slice(data)) else { return };
    let (again, rewritten, table_again) = readers::nats_ledger(written.clone()).expect("it was read");
    assert_eq!((said, written, table), (again, rewritten, table_again));
}

/// A message of a map's log that was decoded and encoded again decodes to the same. The state that it holds is the same after it was
/// written down as rows and read back.
pub fn nats_map(data: &[u8]) {
    let Ok((said, written, holds)) = readers::nats_map(Bytes::copy_from_slice(data)) else { return };
    let (again, rewritten, holds_again) = readers::nats_map(written.clone()).expect("it was read");
    assert_eq!((said, written, &holds), (again, rewritten, &holds_again));
    assert_eq!(holds[0], holds[1]);
}

/// A header is read alike however the bytes are split, and no bytes after the header are consumed. The first byte
/// chooses the size of the pieces.
pub fn proxy_header(data: &[u8]) {
    let Some((&choice, stream)) = data.split_first() else { return };
    let pieces: Vec<&[u8]> = stream.chunks(usize::from(choice) % 32 + 1).collect();
    let (read, taken) = readers::proxy_header(&[stream]);
    let (in_pieces, taken_in_pieces) = readers::proxy_header(&pieces);
    assert_eq!(read, in_pieces);
    if read.is_err() {
        return;
    }
    assert_eq!(taken, taken_in_pieces);
    let header = &stream[..taken];
    if header.starts_with(b"PROXY ") {
        assert!(taken <= 107 && header.ends_with(b"\r\n"), "{header:?}");
        assert_eq!(header.iter().filter(|byte| **byte == b'\n').count(), 1);
    } else {
        assert_eq!(taken, 16 + usize::from(u16::from_be_bytes([header[14], header[15]])));
    }
    assert_eq!(readers::proxy_header(&[header]), (read, taken));
}

/// A document that is planned can be applied to any payload, with JSON as the result. Any other document has an error message.
pub fn graphql_document(data: &[u8]) {
    const SDL: &str = "type Subscription { order(shop: ID! = 1, filter: Filter, kind: Kind): Order pet: Pet! any: Any } \
        type Order { id: ID! lines: [Line!] by: Order } type Line { name: String! price: Float } scalar Any \
        input Filter { over: Float = 0, tags: [String!], inner: Filter } enum Kind { NEW PAID } \
        union Pet = Cat | Dog type Cat { name: String } type Dog { name: String! barks: Boolean }";
    const PAYLOADS: [&str; 3] = [
        r#"{"id":1,"lines":[{"name":"x"},null],"by":{"id":"2"},"__typename":"Dog","name":"y"}"#,
        "[1,{}]",
        "null",
    ];
    static CATALOG: std::sync::OnceLock<Catalog> = std::sync::OnceLock::new();
    let catalog = CATALOG.get_or_init(|| {
        let field = |channel: &str| Subscription { channel: channel.to_owned(), ..Subscription::default() };
        let fields = [("order", "orders:{shop}"), ("pet", "pets"), ("any", "any")];
        let subscriptions = fields.map(|(name, channel)| (name.to_owned(), field(channel))).into();
        Catalog::new(&GraphqlConfig { subscriptions, ..GraphqlConfig::default() }, Some(SDL))
            .expect("a schema")
    });
    let Ok(document) = std::str::from_utf8(data) else { return };
    match catalog.plan(&RequestedOperation::of(document)) {
        Err(errors) => assert!(!errors.is_empty() && errors.iter().all(|error| !error.message.is_empty())),
        Ok(Plan::Answer(result)) => assert!(is_members(&result)),
        Ok(Plan::Subscribe(planned)) => {
            assert!(!planned.channel.is_empty());
            for payload in PAYLOADS {
                assert!(is_members(&planned.selection.apply(payload.as_bytes())));
            }
        }
    }
}

fn is_members(result: &[u8]) -> bool {
    let whole = [b"{", result, b"}"].concat();
    serde_json::from_slice::<serde_json::Value>(&whole).is_ok_and(|value| value.is_object())
}

/// A body that is read says the same after it is written and read again. The first byte chooses the format.
pub fn emulation(data: &[u8]) {
    let Some((&choice, body)) = data.split_first() else { return };
    let Ok(read) = readers::emulation(body, choice % 2 == 1) else { return };
    let (node, session, commands) = &read;
    let mut written = Vec::new();
    for (tag, field) in [(0x0a, node.as_bytes()), (0x12, session.as_bytes()), (0x1a, commands)] {
        written.push(tag);
        let mut length = field.len();
        while length > 0x7f {
            written.push(length as u8 | 0x80);
            length >>= 7;
        }
        written.push(length as u8);
        written.extend_from_slice(field);
    }
    assert_eq!(readers::emulation(&written, true).as_ref(), Ok(&read));
}

/// A head is read once it is complete, whatever follows it, and as hyper would read it. The checks of the client's
/// origin and address accept any headers. The first byte chooses where the head is cut.
pub fn http_head(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else { return };
    let Some(head) = readers::http_head(bytes) else { return };
    let whole = &bytes[..head.bytes];
    assert_eq!(readers::http_head(whole).as_ref(), Some(&head));
    assert_eq!(readers::http_head(&whole[..usize::from(choice) * whole.len() / 256]), None);

    let target = head.query.map_or_else(|| head.path.to_owned(), |query| format!("{}?{query}", head.path));
    let uri: Uri = target.parse().expect("a target is one of hyper's too");
    assert_eq!((uri.path(), uri.query()), (head.path, head.query));
    for (name, value) in &head.headers {
        assert!(HeaderName::from_bytes(name.as_bytes()).is_ok() && HeaderValue::from_bytes(value).is_ok());
    }
    judge(&head);
}

/// A command is read alike by itself and in a batch.
pub fn api_body(data: &[u8]) {
    // The server API refuses any other body, as it is not a JSON object.
    let is_object = data.trim_ascii_start().starts_with(b"{");
    let _ = readers::api_batch(data);
    for method in METHODS {
        let Some(Ok(alone)) = readers::api_command(method, data).filter(|_| is_object) else { continue };
        let batch = [format!("{{\"commands\":[{{\"{method}\":").as_bytes(), data, b"}]}"].concat();
        assert_eq!(readers::api_batch(&batch), Ok(vec![(Some(method), alone)]));
    }
    assert!(readers::api_command("batch", data).is_none());
}

/// A message of another node is refused, or reads back after it is encoded again.
pub fn control(data: &[u8]) {
    if let Ok(command) = ControlCommand::decode(data) {
        // A list of fields is shorter than the fields with their names, so that the encoding may exceed the limit.
        match command.encode() {
            Ok(again) => assert_eq!(ControlCommand::decode(&again).ok(), Some(command)),
            Err(error) => assert!(data.len() > CONTROL_BYTES_MAX - 1_000, "{error}"),
        }
    }
    if let Ok(info) = NodeInfo::decode(data) {
        let again = info.encode().expect("what was read can be written");
        assert_eq!(NodeInfo::decode(&again).ok(), Some(info));
    }
}

/// A message between nodes is refused, or reads back after it is encoded again. A question of an unknown kind is
/// answered and never encoded, so it is exempt.
pub fn node_message(data: &[u8]) {
    let Ok(message) = NodeMessage::decode(&Bytes::copy_from_slice(data)) else { return };
    if let NodeMessage::Question { question: None, .. } = message {
        return;
    }
    match message.encode() {
        Ok(again) => assert_eq!(NodeMessage::decode(&again).ok(), Some(message)),
        Err(error) => assert!(data.len() > NODE_MESSAGE_BYTES_MAX / 2, "{error}"),
    }
}

/// The opening line of a connection between nodes names the session, and no bytes after the line are consumed.
pub fn opening(data: &[u8]) {
    let Ok((session, is_stream, deflate, rest)) = readers::opening(data) else { return };
    let line = data.len() - rest;
    assert!(line <= 513 && data[line - 1] == b'\n');
    let version = if is_stream { 2 } else { 1 };
    let again =
        serde_json::json!({ "v": version, "session": session, "deflate": deflate }).to_string() + "\n";
    if again.len() <= 512 {
        assert_eq!(readers::opening(again.as_bytes()), Ok((session, is_stream, deflate, 0)));
    }
}

/// No text passes as a signed token, and claims are read alike twice. Claims that are granted have not expired, and
/// their info is JSON. The first byte chooses the time.
pub fn token(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else { return };
    let config = AuthConfig {
        hmac_secret: Secret::new("not in the corpus, and 32 bytes long"),
        ..AuthConfig::default()
    };
    let authenticator = Authenticator::new(&config, Clock::start()).expect("no file is read");
    let now = i64::from(choice) * 10_000_000;
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert!(matches!(authenticator.authenticate(now, text), TokenVerdict::Now(Err(_))));
    }
    let Ok(claims) = readers::token_claims(now, bytes) else { return };
    assert_eq!(readers::token_claims(now, bytes).as_ref(), Ok(&claims));
    assert!(claims.expires_at.is_none_or(|end| end > now), "{claims:?}");
    let is_json = |info: &Bytes| serde_json::from_slice::<serde_json::Value>(info).is_ok();
    assert!(claims.info.as_ref().is_none_or(is_json), "{claims:?}");
}

/// At most 128 keys of an issuer's key set are used, each with a name, or 16 of a PEM file. A key set is read alike twice.
pub fn key_set(data: &[u8]) {
    if let Ok(names) = readers::key_set(data) {
        assert!(names.len() <= 128 && names.is_sorted());
        assert_eq!(readers::key_set(data), Ok(names));
    }
    let pem =
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", String::from_utf8_lossy(data));
    for text in [String::from_utf8_lossy(data).into_owned(), pem] {
        assert!(
            readers::public_keys(&text).is_ok_and(|keys| keys <= 16) || readers::public_keys(&text).is_err()
        );
    }
}

/// A message of a Socket.IO emitter that reads as an event reads as neither a command nor a message from Python. A pickle is
/// never read.
pub fn emitted(data: &[u8]) {
    let [packet, request, python] = readers::emitted(data);
    assert!(packet.is_err() || request.is_err() && python.is_err(), "{packet:?} {request:?} {python:?}");
    assert!(data.first() != Some(&0x80) || python.is_err(), "{python:?}");
    assert_eq!(readers::emitted(data)[0], packet, "it is read alike each time");
    // Only white space may follow the JSON of a message.
    for (words, read) in [(&request, 1), (&python, 2)] {
        if words.is_ok() {
            assert_eq!(&readers::emitted(&[data, b" \n"].concat())[read], words);
            assert!(readers::emitted(&[data, b"x"].concat())[read].is_err());
        }
    }
}

/// A backend's answer means the same with white space around it, and is not understood unless it is text that may be JSON.
pub fn backend_answer(data: &[u8]) {
    let words = readers::backend_answer(data);
    // Expiries are relative to the current time.
    if !words.iter().any(|words| words.contains("expires: Some")) {
        let padded = readers::backend_answer(&[b" ", data, b"\r\n"].concat());
        let denied = |words: &String| words.contains("cannot be understood");
        // Errors in JSON are reported with their position, which white space shifts.
        assert!(
            padded.iter().zip(&words).all(|(padded, words)| padded == words || denied(words)),
            "{padded:?}"
        );
    }
    let denied = |words: &String| words.contains("cannot be understood");
    let is_object = std::str::from_utf8(data).is_ok_and(|text| text.trim_ascii().starts_with(['{', '[']));
    assert!(is_object || words.iter().all(denied), "{words:?}");
}

const METHODS: [&str; 9] = [
    "publish",
    "broadcast",
    "history",
    "history_remove",
    "presence",
    "presence_stats",
    "info",
    "disconnect",
    "unsubscribe",
];

/// Returns the replies that were read, and the rest of the stream or the error that ended it.
fn replies(stream: &[u8], piece_bytes: usize) -> (Vec<String>, Result<Bytes, String>) {
    let (mut buffer, mut all) = (BytesMut::new(), Vec::new());
    for piece in stream.chunks(piece_bytes) {
        buffer.extend_from_slice(piece);
        loop {
            match readers::redis(&mut buffer) {
                Ok(Some(reply)) => all.push(reply),
                Ok(None) => break,
                Err(error) => return (all, Err(error)),
            }
        }
    }
    (all, Ok(buffer.freeze()))
}

fn judge(head: &readers::ReadHead<'_>) {
    let all = |wanted: &'static str| {
        head.headers
            .iter()
            .filter(move |(name, _)| name.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| *value)
    };
    let first = |name| all(name).next().and_then(|value| std::str::from_utf8(value).ok());
    let (origin, host) = (first("origin"), first("host"));
    let allowed = "https://app.example";
    let config = HttpConfig { allowed_origins: vec![allowed.to_owned()], ..HttpConfig::default() };
    let policy = OriginPolicy::new(&config).expect("it is an origin");
    if let Some(origin) = origin.filter(|_| policy.allows(origin, host)) {
        let origin = origin.to_ascii_lowercase();
        let port = origin.strip_prefix(allowed).expect("it begins like the one that is allowed");
        assert!(port.is_empty() || port[1..].parse() == Ok(443_u16), "{origin}");
    }
    let proxy = [10, 0, 0, 1].into();
    let proxies = TrustedProxies::new(&["10.0.0.0/8".parse().expect("it is a network")]);
    let client = proxies.client_ip(proxy, all("x-forwarded-for"));
    assert!(client == proxy || all("x-forwarded-for").next().is_some());
    let stranger = [192, 0, 2, 1].into();
    assert_eq!(proxies.client_ip(stranger, all("x-forwarded-for")), stranger);
}
