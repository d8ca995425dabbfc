//! A response without an end: what a client is told comes as server-sent events or as lines, and what it says goes in the
//! body of the request, and in requests of their own after that; or it says nothing, and its address says it all.

use bytes::{Buf, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming as Body;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use shared::framing::MessageKind;

use super::{Incoming, MESSAGE_BYTES_MAX, WireError};
use crate::arguments::Transport;
use crate::connect::{Dialer, Entry};
use crate::http::HttpConnection;
use crate::tls::Stream;

/// Where every further command goes.
const EMULATION: &str = "/emulation";

#[derive(Debug)]
pub struct StreamingWire {
    dialer: Dialer,
    path: Box<str>,
    bearer: Option<Box<str>>,
    connection: Option<HttpConnection>,
    /// Once the first commands are said.
    body: Option<Body>,
    reader: MessageReader,
    /// Once the server has named it.
    session: Option<Session>,
    /// What the server has said last, if that was that it closes.
    goodbye: Option<Goodbye>,
}

/// What commands go with that come apart from the stream.
#[derive(Debug, Deserialize)]
struct Session {
    session: String,
    #[serde(default)]
    node: String,
}

#[derive(Debug, Deserialize)]
struct Goodbye {
    code: u16,
    #[serde(default)]
    reason: String,
}

impl StreamingWire {
    /// Nothing is asked for yet: the request holds what the client says first.
    pub async fn open(
        dialer: Dialer,
        stream: Stream,
        transport: Transport,
        entry: Entry<'_>,
    ) -> Result<Self, hyper::Error> {
        Ok(Self {
            connection: Some(HttpConnection::on(stream).await?),
            dialer,
            path: entry.path.into(),
            bearer: entry.bearer.map(Into::into),
            body: None,
            reader: MessageReader::new(transport),
            session: None,
            goodbye: None,
        })
    }

    /// Loses nothing when it is dropped before it is done.
    pub(super) async fn next(&mut self) -> Result<Incoming, WireError> {
        loop {
            if let Some(message) = self.reader.take() {
                self.note(&message);
                return Ok(Incoming::Message(MessageKind::Text, message));
            }
            let Some(body) = &mut self.body else {
                return Err(WireError::Protocol("nothing has been asked for".to_owned()));
            };
            match body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.reader.push(&data)?;
                    }
                }
                Some(Err(_)) => return Err(WireError::Broken),
                None => {
                    let Goodbye { code, reason } = self.goodbye.take().ok_or(WireError::Broken)?;
                    return Ok(Incoming::Close { code, reason });
                }
            }
        }
    }

    pub(super) async fn send(&mut self, messages: &[String]) -> Result<(), WireError> {
        let commands = messages.join("\n");
        if self.body.is_none() {
            let request = self.request(&self.path, commands)?;
            let connection = self.connection.as_mut().ok_or(WireError::Broken)?;
            let response = ask(connection, request, StatusCode::OK).await?;
            self.body = Some(response.into_body());
            return Ok(());
        }
        let Some(Session { session, node }) = &self.session else {
            return Err(WireError::Protocol("the server has not named the session".to_owned()));
        };
        let body = json!({ "session": session, "node": node, "data": commands }).to_string();
        let request = self.request(EMULATION, body)?;
        // The stream has its connection to itself.
        let mut apart = HttpConnection::on(self.dialer.dial().await?).await.map_err(broken)?;
        ask(&mut apart, request, StatusCode::NO_CONTENT).await.map(drop)
    }

    /// The server sees that nobody listens any more.
    pub(super) fn close(&mut self) {
        self.connection = None;
        self.body = None;
    }

    fn request(&self, path: &str, body: String) -> Result<Request<Full<Bytes>>, WireError> {
        // An event stream of its own stands in its address, and nothing is said to it.
        let method = if self.reader.transport == Transport::Events { Method::GET } else { Method::POST };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.dialer.authority())
            .header(CONTENT_TYPE, "application/json");
        if let Some(token) = &self.bearer {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        request.body(Full::from(body)).map_err(|error| WireError::Protocol(error.to_string()))
    }

    /// What the wire itself must know of what the server says.
    fn note(&mut self, message: &[u8]) {
        #[derive(Deserialize)]
        struct StreamReply {
            connect: Option<Session>,
            push: Option<StreamPush>,
        }
        #[derive(Deserialize)]
        struct StreamPush {
            disconnect: Option<Goodbye>,
        }
        // Publications, of which there are many, are passed over.
        let is_new = |words: &str| memchr::memmem::find(message, words.as_bytes()).is_some();
        if !(self.session.is_none() && is_new("\"session\"") || is_new("\"disconnect\"")) {
            return;
        }
        for line in message.split(|byte| *byte == b'\n') {
            let Ok(StreamReply { connect, push }) = serde_json::from_slice(line) else { continue };
            self.session = self.session.take().or(connect);
            self.goodbye = push.and_then(|push| push.disconnect).or(self.goodbye.take());
        }
    }
}

async fn ask(
    connection: &mut HttpConnection,
    request: Request<Full<Bytes>>,
    expected: StatusCode,
) -> Result<Response<Body>, WireError> {
    let response = connection.send(request).await.map_err(broken)?;
    if response.status() == expected {
        Ok(response)
    } else {
        Err(WireError::Protocol(format!("HTTP {}", response.status().as_u16())))
    }
}

fn broken(error: hyper::Error) -> WireError {
    if error.is_parse() { WireError::Protocol(error.to_string()) } else { WireError::Broken }
}

/// Finds messages in what comes, however it is cut.
#[derive(Debug)]
struct MessageReader {
    transport: Transport,
    /// What has come and was not taken.
    text: BytesMut,
    /// Of it, what is known to hold no end of a message.
    looked_at: usize,
}

impl MessageReader {
    fn new(transport: Transport) -> Self {
        Self { transport, text: BytesMut::new(), looked_at: 0 }
    }

    fn push(&mut self, data: &[u8]) -> Result<(), WireError> {
        if self.text.len() + data.len() > MESSAGE_BYTES_MAX {
            return Err(WireError::Protocol("a message without an end".to_owned()));
        }
        self.text.extend_from_slice(data);
        Ok(())
    }

    /// All whole messages that are there, one a line.
    fn take(&mut self) -> Option<Bytes> {
        let end = memchr::memrchr(b'\n', &self.text[self.looked_at..]).map(|at| self.looked_at + at);
        self.looked_at = self.text.len();
        let lines = self.text.split_to(end? + 1);
        self.looked_at = 0;
        match self.transport {
            Transport::Sse | Transport::Events => data_of(&lines),
            _ => Some(lines.freeze()).map(|mut lines| lines.split_to(lines.len() - 1)),
        }
    }
}

/// What stands in the data lines of an event stream. An event of the protocol has one line; the end of each is the line
/// break behind it, and the empty line after that tells nothing more.
fn data_of(lines: &[u8]) -> Option<Bytes> {
    let mut data = BytesMut::with_capacity(lines.len());
    for line in lines.split(|byte| *byte == b'\n') {
        let Some(mut value) = line.strip_prefix(b"data:") else { continue };
        if value.starts_with(b" ") {
            value.advance(1);
        }
        if !data.is_empty() {
            data.extend_from_slice(b"\n");
        }
        data.extend_from_slice(value.strip_suffix(b"\r").unwrap_or(value));
    }
    (!data.is_empty()).then(|| data.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found in a text that comes in pieces of so many bytes.
    fn found(transport: Transport, text: &str, piece: usize) -> String {
        let mut reader = MessageReader::new(transport);
        let mut messages = Vec::new();
        for piece in text.as_bytes().chunks(piece) {
            reader.push(piece).unwrap();
            messages.extend(reader.take().map(|message| String::from_utf8(message.to_vec()).unwrap()));
        }
        messages.join("\n")
    }

    #[test]
    fn messages_are_whole_however_the_stream_is_cut() {
        for piece in 1..40 {
            let events =
                "\r\ndata: {\"id\":1}\n\ndata: {}\n\n:a comment\n\ndata: {\"push\":1}\n\ndata: {\"half";
            assert_eq!(found(Transport::Sse, events, piece), "{\"id\":1}\n{}\n{\"push\":1}", "{piece}");
            let lines = "{\"id\":1}\n{}\n{\"push\":1}\n{\"half";
            assert_eq!(found(Transport::HttpStream, lines, piece), "{\"id\":1}\n{}\n{\"push\":1}", "{piece}");
        }
    }

    #[test]
    fn a_message_without_an_end_is_refused() {
        let mut reader = MessageReader::new(Transport::HttpStream);
        let piece = vec![b'x'; 1 << 20];
        assert!((0..32).all(|_| reader.push(&piece).is_ok() && reader.take().is_none()));
        assert!(reader.push(&piece).is_err());
    }
}
