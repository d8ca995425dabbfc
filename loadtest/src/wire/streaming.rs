//! A response without an end, with messages as server-sent events or as lines. A client's first commands go in the body of
//! its request, and further ones in requests of their own. On an event stream of a template a client sends no commands.

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming as Body;
use hyper::header::CONTENT_TYPE;
use hyper::http::request::Builder;
use hyper::{Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use shared::framing::MessageKind;
use tokio_util::codec::{Decoder, LinesCodec};

use super::{Incoming, MESSAGE_BYTES_MAX};
use crate::arguments::Transport;
use crate::connect::{Dialer, Entry};
use crate::failure::Failure;
use crate::http::HttpConnection;

/// The path for every further command.
const EMULATION: &str = "/emulation";

#[derive(Debug)]
pub struct StreamingWire {
    dialer: Dialer,
    path: Box<str>,
    bearer: Option<Box<str>>,
    connection: Option<HttpConnection>,
    /// Present once the first commands are sent.
    body: Option<Body>,
    reader: MessageReader,
    /// Present once the server has named it.
    session: Option<Session>,
    /// The server's last message, if it announced that the server closes.
    goodbye: Option<Goodbye>,
}

/// What a command beside the stream must name.
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
    /// Connects. The request is sent later, with the first commands.
    pub async fn open(dialer: Dialer, transport: Transport, entry: Entry<'_>) -> Result<Self, Failure> {
        Ok(Self {
            connection: Some(dialer.open().await?),
            dialer,
            path: entry.path.into(),
            bearer: entry.bearer.map(Into::into),
            body: None,
            reader: MessageReader::new(transport),
            session: None,
            goodbye: None,
        })
    }

    /// Returns the next message. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Incoming, Failure> {
        loop {
            if let Some(message) = self.reader.take()? {
                self.note(&message);
                return Ok(Incoming::Message(MessageKind::Text, message));
            }
            let Some(body) = &mut self.body else {
                return Err("nothing has been asked for".into());
            };
            match body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.reader.text.extend_from_slice(&data);
                    }
                }
                Some(Err(_)) => return Err(Failure::broken()),
                None => {
                    let Goodbye { code, reason } = self.goodbye.take().ok_or_else(Failure::broken)?;
                    return Ok(Incoming::Close { code, reason });
                }
            }
        }
    }

    pub(super) async fn send(&mut self, messages: &[String]) -> Result<(), Failure> {
        let commands = messages.join("\n");
        if self.body.is_none() {
            let request = self.request(&self.path);
            let connection = self.connection.as_mut().ok_or_else(Failure::broken)?;
            let response = ask(connection, request, commands, StatusCode::OK).await?;
            self.body = Some(response.into_body());
            return Ok(());
        }
        let Some(Session { session, node }) = &self.session else {
            return Err(Failure::protocol("it has not named the session"));
        };
        let body = json!({ "session": session, "node": node, "data": commands }).to_string();
        // The response takes its whole connection.
        let mut apart = self.dialer.open().await?;
        ask(&mut apart, self.request(EMULATION), body, StatusCode::NO_CONTENT).await.map(drop)
    }

    /// Closes the connection, by which the server sees that the client is gone.
    pub(super) fn close(&mut self) {
        self.connection = None;
        self.body = None;
    }

    fn request(&self, path: &str) -> Builder {
        // The address of a template's event stream says everything, so there is no body.
        let method = if self.reader.transport == Transport::Events { "GET" } else { "POST" };
        let entry = Entry { path, bearer: self.bearer.as_deref() };
        self.dialer.client_request(method, entry).header(CONTENT_TYPE, "application/json")
    }

    /// Notes the session's name and the server's goodbye, which the wire itself needs.
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
        // Most messages are publications, which need not be decoded here.
        let has = |words: &str| memchr::memmem::find(message, words.as_bytes()).is_some();
        if (self.session.is_none() && has("\"session\"") || has("\"disconnect\""))
            && let Ok(StreamReply { connect, push }) = serde_json::from_slice(message)
        {
            self.session = self.session.take().or(connect);
            self.goodbye = push.and_then(|push| push.disconnect).or(self.goodbye.take());
        }
    }
}

async fn ask(
    connection: &mut HttpConnection,
    request: Builder,
    body: String,
    expected: StatusCode,
) -> Result<Response<Body>, Failure> {
    let response = connection.send(request, body).await?;
    if response.status() == expected {
        Ok(response)
    } else {
        Err(Failure(format!("HTTP {}", response.status().as_u16())))
    }
}

/// Finds messages in the bytes of a response. A message is a line, and in an event stream a line of data.
#[derive(Debug)]
struct MessageReader {
    transport: Transport,
    lines: LinesCodec,
    /// Bytes that were not taken yet.
    text: BytesMut,
}

impl MessageReader {
    fn new(transport: Transport) -> Self {
        let lines = LinesCodec::new_with_max_length(MESSAGE_BYTES_MAX);
        Self { transport, lines, text: BytesMut::new() }
    }

    fn take(&mut self) -> Result<Option<Bytes>, Failure> {
        let is_event = matches!(self.transport, Transport::Sse | Transport::Events);
        while let Some(line) = self.lines.decode(&mut self.text).map_err(Failure::protocol)? {
            let data = if is_event { line.strip_prefix("data:") } else { Some(line.as_str()) };
            let data = data.map_or("", str::trim_start);
            if !data.is_empty() {
                let skipped = line.len() - data.len();
                return Ok(Some(Bytes::from(line).slice(skipped..)));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found in a text that comes in pieces of so many bytes.
    fn found(transport: Transport, text: &str, piece: usize) -> Vec<Bytes> {
        let mut reader = MessageReader::new(transport);
        let mut messages = Vec::new();
        for piece in text.as_bytes().chunks(piece) {
            reader.text.extend_from_slice(piece);
            messages.extend(std::iter::from_fn(|| reader.take().unwrap()));
        }
        messages
    }

    #[test]
    fn messages_are_whole_however_the_stream_is_cut() {
        for piece in 1..40 {
            let events =
                "\r\ndata: {\"id\":1}\n\ndata: {}\r\n\n:a comment\n\ndata:{\"push\":1}\n\ndata: {\"half";
            assert_eq!(found(Transport::Sse, events, piece), ["{\"id\":1}", "{}", "{\"push\":1}"], "{piece}");
            let lines = "{\"id\":1}\n{}\n{\"push\":1}\n{\"half";
            assert_eq!(
                found(Transport::HttpStream, lines, piece),
                ["{\"id\":1}", "{}", "{\"push\":1}"],
                "{piece}"
            );
        }
    }

    #[test]
    fn a_message_without_an_end_is_refused() {
        let mut reader = MessageReader::new(Transport::HttpStream);
        reader.text.resize(MESSAGE_BYTES_MAX, b'x');
        assert!(reader.take().unwrap().is_none());
        reader.text.extend_from_slice(b"x");
        assert!(reader.take().is_err());
    }
}
