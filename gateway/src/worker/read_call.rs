//! Parses the requests of application servers in place, and writes the answers.
//!
//! Only the plain case is read here: a publication in one piece, over HTTP/1.1, on a kept connection. Everything else is
//! left to the HTTP server.

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Full};

/// The path of publications.
const PATH: &str = "/api/publish";

/// The first bytes of a publication request.
const BEGINS: &[u8] = b"POST /api/publish";

/// The most bytes of a request that is read here, including its head.
pub(super) const CALL_BYTES_MAX: usize = 64 << 10;

/// The most bytes of the head: the largest that any configuration allows.
const HEAD_BYTES_MAX: usize = 8 << 10;

/// The most headers in a head.
const HEADERS_MAX: usize = 32;

/// The result of parsing the bytes read.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a request is moved once, which is cheaper than a box")]
pub(super) enum ParsedCall {
    /// A request, and the number of bytes it takes.
    Whole(Request<Full<Bytes>>, usize),
    /// The beginning of a request.
    Partial,
    /// Not a plain request.
    Other,
}

/// Whether these first bytes of a connection are a plain request with a complete head.
pub(crate) fn is_call(bytes: &[u8]) -> bool {
    memchr::memmem::find(bytes, b"\r\n\r\n").is_some() && !matches!(read_call(bytes), ParsedCall::Other)
}

pub(super) fn read_call(bytes: &[u8]) -> ParsedCall {
    let may_be = BEGINS.starts_with(&bytes[..bytes.len().min(BEGINS.len())]);
    if !may_be {
        return ParsedCall::Other;
    }
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut headers);
    let head_bytes = match head.parse(bytes) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return ParsedCall::Partial,
        _ => return ParsedCall::Other,
    };
    let fits =
        |length: &usize| head_bytes <= HEAD_BYTES_MAX && length.saturating_add(head_bytes) <= CALL_BYTES_MAX;
    let Some(body_bytes) = body_bytes(&head).filter(fits) else { return ParsedCall::Other };
    let whole = head_bytes + body_bytes;
    let Some(body) = bytes.get(head_bytes..whole) else { return ParsedCall::Partial };
    match request(&head, Bytes::copy_from_slice(body)) {
        Some(request) => ParsedCall::Whole(request, whole),
        None => ParsedCall::Other,
    }
}

/// Returns the length of the body if the head is of a plain request. A request without a length is not plain.
fn body_bytes(head: &httparse::Request<'_, '_>) -> Option<usize> {
    let path = head.path?;
    let is_plain = head.version == Some(1) && path == PATH;
    let mut length = None;
    for header in head.headers.iter().filter(|_| is_plain) {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            if length.is_some() || !header.value.iter().all(u8::is_ascii_digit) {
                return None;
            }
            length = Some(std::str::from_utf8(header.value).ok()?.parse().ok()?);
            continue;
        }
        let ends = is("connection") && !header.value.eq_ignore_ascii_case(b"keep-alive");
        if ends || ["transfer-encoding", "expect", "upgrade", "te", "trailer"].into_iter().any(is) {
            return None;
        }
    }
    length
}

fn request(head: &httparse::Request<'_, '_>, body: Bytes) -> Option<Request<Full<Bytes>>> {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = head.path?.parse().ok()?;
    let headers = request.headers_mut();
    for header in head.headers.iter() {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        headers.append(name, HeaderValue::from_bytes(header.value).ok()?);
    }
    Some(request)
}

/// Writes an answer as the HTTP server would. `date` is the current date as HTTP formats it.
pub(super) fn write_answer(answer: Response<Full<Bytes>>, date: &str, out: &mut Vec<u8>) {
    let (head, body) = answer.into_parts();
    // The body is complete, so its future is ready at once.
    let body = body.collect().now_or_never().and_then(Result::ok).unwrap_or_default().to_bytes();
    let mut put = |parts: [&[u8]; 4]| parts.iter().for_each(|part| out.extend_from_slice(part));
    let reason = head.status.canonical_reason().unwrap_or_default();
    put([b"HTTP/1.1 ", head.status.as_str().as_bytes(), b" ", reason.as_bytes()]);
    for (name, value) in &head.headers {
        put([b"\r\n", name.as_str().as_bytes(), b": ", value.as_bytes()]);
    }
    put([
        b"\r\ncontent-length: ",
        itoa::Buffer::new().format(body.len()).as_bytes(),
        b"\r\ndate: ",
        date.as_bytes(),
    ]);
    put([b"\r\n\r\n", &body, b"", b""]);
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    const PLAIN: &str =
        "POST /api/publish HTTP/1.1\r\nHost: x\r\nX-API-Key: k\r\nContent-Length: 2\r\n\r\n{}";

    fn read(text: &str) -> ParsedCall {
        read_call(text.as_bytes())
    }

    #[test]
    fn a_plain_request_is_read_whole_and_what_follows_it_is_not() {
        let ParsedCall::Whole(request, bytes) = read(&format!("{PLAIN}POST /")) else {
            panic!("it is whole")
        };
        assert_eq!((bytes, request.uri().path()), (PLAIN.len(), "/api/publish"));
        assert_eq!(request.method(), Method::POST);
        assert_eq!(request.headers()["x-api-key"], "k");
        let body = request.into_body().collect().now_or_never().unwrap().unwrap().to_bytes();
        assert_eq!(body, "{}");
    }

    #[test]
    fn however_much_follows_it_a_plain_request_is_one() {
        let many = PLAIN.repeat(2 * CALL_BYTES_MAX / PLAIN.len());
        assert!(matches!(read(&many), ParsedCall::Whole(_, bytes) if bytes == PLAIN.len()));
    }

    #[test]
    fn of_a_beginning_the_rest_is_waited_for() {
        for end in 0..PLAIN.len() {
            assert!(matches!(read(&PLAIN[..end]), ParsedCall::Partial), "{end} bytes of it");
        }
    }

    #[test]
    fn whatever_is_not_plain_is_left_to_others() {
        assert!(is_call(PLAIN.as_bytes()) && !is_call(b"GET /api/publish"));
        for other in [
            PLAIN.replace("POST", "GET"),
            PLAIN.replace("publish", "publisher"),
            PLAIN.replace("publish", "publish?api_key=k"),
            PLAIN.replace("publish", "history"),
            PLAIN.replace("HTTP/1.1", "HTTP/1.0"),
            PLAIN.replace("Content-Length: 2\r\n", ""),
            PLAIN.replace("Content-Length: 2", "Content-Length: +2"),
            PLAIN.replace("Content-Length: 2", "Content-Length: 2, 2"),
            PLAIN.replace("Content-Length: 2", "Content-Length: 2\r\nContent-Length: 2"),
            PLAIN.replace("Content-Length: 2", "Content-Length: 99999999999999999999999"),
            PLAIN.replace("Content-Length: 2", "Content-Length: 65536"),
            PLAIN.replace("Content-Length: 2", "Content-Length: 2\r\nTransfer-Encoding: chunked"),
            PLAIN.replace("Host: x", "Expect: 100-continue"),
            PLAIN.replace("Host: x", "Connection: close"),
            PLAIN.replace("Host: x", "Connection: Upgrade\r\nUpgrade: h2c"),
            PLAIN.replace("Host: x", "Host x"),
            PLAIN.replace("Host: x\r\n", &"X: y\r\n".repeat(HEADERS_MAX)),
            format!("POST /api/publish HTTP/1.1\r\nX: {}", "x".repeat(HEAD_BYTES_MAX)),
        ] {
            assert!(matches!(read(&other), ParsedCall::Other), "{}", &other[..other.len().min(200)]);
        }
    }

    #[test]
    fn an_answer_is_written_with_its_length() {
        let mut answer = Response::new(Full::new(Bytes::from_static(b"{}")));
        *answer.status_mut() = StatusCode::UNAUTHORIZED;
        answer.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
        let mut out = Vec::new();
        write_answer(answer, "Sun, 06 Nov 1994 08:49:37 GMT", &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\
            date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n{}"
        );
    }
}
