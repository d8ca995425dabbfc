//! A client for tests, on a WebSocket implementation other than the gateway's.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::gateway::{Gateway, PATIENCE};

/// A bare WebSocket.
#[derive(Debug)]
pub struct Socket<S = TcpStream> {
    stream: WebSocketStream<S>,
}

impl Gateway {
    /// Opens a WebSocket at a path, with further headers.
    pub async fn open(&self, path: &str, headers: &[(&'static str, &str)]) -> Socket {
        self.try_open(path, headers).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub async fn try_open(&self, path: &str, headers: &[(&'static str, &str)]) -> Result<Socket, Error> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        Socket::upgrade(stream, path, headers).await
    }

    /// Opens a raw client of a channel.
    pub async fn raw(&self, channel: &str) -> Socket {
        self.open(&format!("/raw/{channel}"), &[]).await
    }

    /// Connects an anonymous client.
    pub async fn connect(&self) -> Client {
        self.connect_with(json!({})).await
    }

    /// Connects a client of this user.
    pub async fn connect_as(&self, user: &str) -> Client {
        self.connect_with(json!({ "token": self.token(user) })).await
    }

    /// Connects a client with these parameters.
    pub async fn connect_with(&self, connect: Value) -> Client {
        let mut client = self.stranger().await;
        client.id = client.command("connect", connect).await["client"].as_str().expect("an id").to_owned();
        client
    }

    /// Opens a client that has not sent its connect command.
    pub async fn stranger(&self) -> Client {
        Client::new(self.open("/connection/websocket", &[]).await)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// Speaks WebSocket over a stream of any kind.
    pub async fn upgrade(stream: S, path: &str, headers: &[(&'static str, &str)]) -> Result<Self, Error> {
        let mut request = format!("ws://localhost{path}").into_client_request()?;
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().expect("a header's value"));
        }
        let upgrading = tokio::time::timeout(PATIENCE, client_async(request, stream));
        Ok(Self { stream: upgrading.await.expect("an answer in time")?.0 })
    }

    pub async fn send(&mut self, message: impl Into<Message>) {
        self.try_send(message).await.expect("sent");
    }

    pub async fn try_send(&mut self, message: impl Into<Message>) -> Result<(), Error> {
        self.stream.send(message.into()).await
    }

    /// Returns the next message, or how the connection ended.
    pub async fn next(&mut self) -> Result<Message, Ending> {
        let next = tokio::time::timeout(PATIENCE, self.stream.next()).await.expect("a message in time");
        match next {
            Some(Ok(Message::Close(frame))) => Err(frame.map_or(Ending::Silent, Ending::from)),
            Some(Ok(message)) => Ok(message),
            Some(Err(error)) => Err(Ending::Broken(error.to_string())),
            None => Err(Ending::Silent),
        }
    }

    /// Returns the next message with data.
    pub async fn data(&mut self) -> Message {
        loop {
            match self.next().await.unwrap_or_else(|ending| panic!("ended: {ending:?}")) {
                Message::Ping(_) | Message::Pong(_) => {}
                message => return message,
            }
        }
    }

    pub async fn text(&mut self) -> String {
        match self.data().await {
            Message::Text(text) => text.to_string(),
            other => panic!("not text: {other:?}"),
        }
    }

    /// Whether the stream ends next, without a close frame.
    pub async fn is_cut_off(&mut self) -> bool {
        matches!(self.next().await, Err(Ending::Broken(_)))
    }

    /// Reads to the end. Returns the code and reason of the close frame.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            match self.next().await {
                Ok(_) => {}
                Err(Ending::Reported(code, reason)) => return (code, reason),
                Err(other) => panic!("not closed: {other:?}"),
            }
        }
    }

    /// Sends a close frame and waits until the node has closed the socket.
    pub async fn close(mut self) {
        self.stream.close(None).await.expect("a goodbye is sent");
        let end = async { while self.stream.next().await.is_some_and(|next| next.is_ok()) {} };
        tokio::time::timeout(PATIENCE, end).await.expect("the node closes in time");
    }

    /// Splits the socket, to send and receive concurrently.
    pub fn split(self) -> (SplitSink<WebSocketStream<S>, Message>, SplitStream<WebSocketStream<S>>) {
        self.stream.split()
    }

    pub fn into_inner(self) -> S {
        self.stream.into_inner()
    }
}

/// How a connection ended.
#[derive(PartialEq, Eq, Debug)]
pub enum Ending {
    Reported(u16, String),
    /// The stream ended without a close frame, or with an empty one.
    Silent,
    Broken(String),
}

impl From<CloseFrame> for Ending {
    fn from(frame: CloseFrame) -> Self {
        Self::Reported(frame.code.into(), frame.reason.to_string())
    }
}

/// A publication that a client received.
#[derive(Clone, PartialEq, Debug)]
pub struct Received {
    pub channel: String,
    pub offset: u64,
    pub data: Value,
}

/// A client of the Centrifuge protocol in JSON.
#[derive(Debug)]
pub struct Client<S = TcpStream> {
    pub socket: Socket<S>,
    pub id: String,
    last_command: u64,
    /// Messages that came while a reply was awaited.
    pushes: VecDeque<Value>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub fn new(socket: Socket<S>) -> Self {
        Self { socket, id: String::new(), last_command: 0, pushes: VecDeque::new() }
    }

    /// Sends a command. Returns its id.
    pub async fn ask(&mut self, method: &str, parameters: Value) -> u64 {
        self.last_command += 1;
        let command = json!({ "id": self.last_command, method: parameters });
        self.socket.send(command.to_string()).await;
        self.last_command
    }

    /// Sends a command and waits for its result.
    pub async fn command(&mut self, method: &str, parameters: Value) -> Value {
        let reply = self.reply_to(method, parameters.clone()).await;
        assert!(reply.get("error").is_none(), "{method} {parameters}: {reply}");
        reply[method].clone()
    }

    /// Sends a command and waits for its error. Returns the code.
    pub async fn refused(&mut self, method: &str, parameters: Value) -> u64 {
        let reply = self.reply_to(method, parameters.clone()).await;
        reply["error"]["code"].as_u64().unwrap_or_else(|| panic!("{method} {parameters}: {reply}"))
    }

    async fn reply_to(&mut self, method: &str, parameters: Value) -> Value {
        let id = self.ask(method, parameters).await;
        self.reply(id).await
    }

    /// Waits for the reply to a command.
    pub async fn reply(&mut self, id: u64) -> Value {
        loop {
            if let Some(at) = self.pushes.iter().position(|message| message["id"] == id) {
                return self.pushes.remove(at).unwrap_or_default();
            }
            let frame = self.frame().await.unwrap_or_else(|ending| panic!("no reply to {id}: {ending:?}"));
            self.pushes.extend(frame);
        }
    }

    pub async fn subscribe(&mut self, channel: &str) -> Value {
        self.command("subscribe", json!({ "channel": channel })).await
    }

    pub async fn publish(&mut self, channel: &str, data: Value) {
        self.command("publish", json!({ "channel": channel, "data": data })).await;
    }

    /// Returns the messages of the next frame. Pings are answered.
    async fn frame(&mut self) -> Result<Vec<Value>, Ending> {
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < PATIENCE, "nothing but pings for {PATIENCE:?}");
            let text = match self.socket.next().await? {
                Message::Text(text) => text,
                Message::Ping(_) | Message::Pong(_) => continue,
                other => panic!("not JSON: {other:?}"),
            };
            let messages: Vec<Value> =
                text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
            if messages == [json!({})] {
                self.socket.send("{}").await;
                continue;
            }
            return Ok(messages);
        }
    }

    /// Returns the next push, or the next reply that nobody waited for.
    pub async fn push(&mut self) -> Value {
        self.try_push().await.unwrap_or_else(|ending| panic!("no push: {ending:?}"))
    }

    pub async fn try_push(&mut self) -> Result<Value, Ending> {
        while self.pushes.is_empty() {
            let frame = self.frame().await?;
            self.pushes.extend(frame);
        }
        Ok(self.pushes.pop_front().unwrap_or_default())
    }

    /// Returns the next publication.
    pub async fn publication(&mut self) -> Received {
        let push = self.push().await;
        received(&push).unwrap_or_else(|| panic!("no publication: {push}"))
    }

    /// Waits for an unsubscribe push. Returns its channel and code.
    pub async fn unsubscribed(&mut self) -> (String, u64) {
        loop {
            let push = self.push().await["push"].take();
            if let (Some(channel), Some(code)) =
                (push["channel"].as_str(), push["unsubscribe"]["code"].as_u64())
            {
                return (channel.to_owned(), code);
            }
        }
    }

    pub async fn closed(&mut self) -> (u16, String) {
        self.socket.closed().await
    }
}

/// Returns the publication in a push.
pub fn received(push: &Value) -> Option<Received> {
    let push = push.get("push")?;
    let publication = push.get("pub")?;
    Some(Received {
        channel: push["channel"].as_str()?.to_owned(),
        offset: publication["offset"].as_u64().unwrap_or(0),
        data: publication["data"].clone(),
    })
}

/// Reads and drops the messages of a socket, for this time.
pub async fn drain_for<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut Socket<S>, time: Duration) {
    let read = async { while socket.next().await.is_ok() {} };
    let _ = tokio::time::timeout(time, read).await;
}
