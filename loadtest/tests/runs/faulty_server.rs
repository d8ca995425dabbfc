//! A small server of the tests' own, whose mistakes are known to the last publication.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_tungstenite::accept_hdr_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{self, ErrorResponse};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

/// What is done with one publication, on the way to every subscriber.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    Deliver,
    Lose,
    Twice,
    /// After the one that follows.
    Late,
    /// Every subscriber is closed instead of getting it.
    CloseAll(u16),
    /// The publisher is answered with an error, and nobody gets it.
    Refuse,
}

/// What goes wrong, and how. Publications are numbered from 1 per channel.
#[derive(Clone)]
pub(crate) struct Behaviour {
    pub(crate) fate: fn(u64) -> Fate,
    /// Whether an upgrade, numbered from 1, is let in.
    pub(crate) admit: fn(u64) -> bool,
    /// Whether what was published before a recovery can be had.
    pub(crate) remembers: bool,
    /// The token that connections must show.
    pub(crate) token: Option<&'static str>,
    pub(crate) api_key: Option<&'static str>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { fate: |_| Fate::Deliver, admit: |_| true, remembers: true, token: None, api_key: None }
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    hall: Arc<Hall>,
}

#[derive(Default)]
struct Channel {
    published: Vec<String>,
    held: Option<String>,
    subscribers: HashMap<u64, UnboundedSender<Message>>,
}

struct Hall {
    behaviour: Behaviour,
    channels: Mutex<HashMap<String, Channel>>,
    upgrades: AtomicU64,
    peers: Mutex<Vec<SocketAddr>>,
}

impl Server {
    pub(crate) async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let hall = Arc::new(Hall {
            behaviour,
            channels: Mutex::default(),
            upgrades: AtomicU64::new(0),
            peers: Mutex::default(),
        });
        let server = Self { address, hall: hall.clone() };
        tokio::spawn(async move {
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                hall.peers.lock().unwrap().push(peer);
                stream.set_nodelay(true).unwrap();
                tokio::spawn(serve(hall.clone(), stream));
            }
        });
        server
    }

    /// Who has connected.
    pub(crate) fn peers(&self) -> Vec<SocketAddr> {
        self.hall.peers.lock().unwrap().clone()
    }

    pub(crate) fn upgrades(&self) -> u64 {
        self.hall.upgrades.load(Ordering::SeqCst)
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}", self.address)
    }
}

async fn serve(hall: Arc<Hall>, stream: TcpStream) {
    let mut start = [0; 5];
    while stream.peek(&mut start).await.is_ok_and(|length| length > 0 && length < start.len()) {}
    if start == *b"POST " { serve_api(hall, stream).await } else { serve_client(hall, stream).await }
}

async fn serve_api(hall: Arc<Hall>, stream: TcpStream) {
    let service = service_fn(|request| answer(&hall, request));
    // Whoever publishes may go at any time.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(hall: &Hall, request: Request<Incoming>) -> hyper::Result<Response<Full<Bytes>>> {
    let key = request.headers().get("x-api-key").map(|key| key.to_str().unwrap().to_owned());
    let body: Value = serde_json::from_slice(&request.into_body().collect().await?.to_bytes()).unwrap();
    let mut response = Response::new(Full::default());
    if hall.behaviour.api_key.is_some_and(|expected| key.as_deref() != Some(expected)) {
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        return Ok(response);
    }
    let answer = match hall.publish(body["channel"].as_str().unwrap(), &body["data"]) {
        true => json!({"result": {}}),
        false => json!({"error": {"code": 100, "message": "internal server error"}}),
    };
    *response.body_mut() = Full::from(answer.to_string());
    Ok(response)
}

#[expect(clippy::result_large_err, reason = "the callback's type is given")]
async fn serve_client(hall: Arc<Hall>, stream: TcpStream) {
    let number = hall.upgrades.fetch_add(1, Ordering::SeqCst) + 1;
    let (mut path, mut bearer) = (String::new(), None);
    let accepted = accept_hdr_async(stream, |request: &server::Request, response: server::Response| {
        path = request.uri().path().to_owned();
        bearer = request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        if (hall.behaviour.admit)(number) {
            return Ok(response);
        }
        let mut refusal = ErrorResponse::new(None);
        *refusal.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        Err(refusal)
    });
    let Ok(socket) = accepted.await else { return };
    let (mut sink, mut source) = socket.split();
    let (sender, mut receiver) = unbounded_channel::<Message>();
    tokio::spawn(async move {
        while let Some(message) = receiver.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
    });
    let raw = path.strip_prefix("/raw/").map(str::to_owned);
    if let Some(channel) = &raw {
        let wanted = hall.behaviour.token.map(|token| format!("Bearer {token}"));
        assert!(wanted.is_none() || bearer == wanted, "{bearer:?}");
        hall.subscribe(number, channel, None, &sender);
    }
    while let Some(Ok(message)) = source.next().await {
        let Message::Text(text) = message else { continue };
        match &raw {
            Some(channel) => {
                hall.publish(channel, &serde_json::from_str(&text).unwrap());
            }
            None => text.lines().for_each(|line| hall.obey(number, line, &sender)),
        }
    }
    for channel in hall.channels.lock().unwrap().values_mut() {
        channel.subscribers.remove(&number);
    }
}

impl Hall {
    /// One command of the Centrifuge protocol.
    fn obey(&self, connection: u64, line: &str, sender: &UnboundedSender<Message>) {
        let command: Value = serde_json::from_str(line).unwrap();
        let mut reply = json!({"id": command["id"]});
        if let Some(connect) = command.get("connect") {
            let shown = connect["token"].as_str();
            if self.behaviour.token.is_some_and(|token| shown != Some(token)) {
                reply["error"] = json!({"code": 109, "message": "token expired"});
            } else {
                reply["connect"] =
                    json!({"client": connection.to_string(), "version": "0", "ping": 25, "pong": true});
                // A ping at once, so that every run has one to answer.
                sender.send(Message::text(format!("{reply}\n{{}}"))).unwrap();
                return;
            }
        } else if let Some(subscribe) = command.get("subscribe") {
            let channel = subscribe["channel"].as_str().unwrap();
            let since = subscribe["recover"].as_bool().filter(|recover| *recover);
            let since = since.map(|_| subscribe["offset"].as_u64().unwrap_or(0));
            reply["subscribe"] = self.subscribe(connection, channel, since, sender);
        } else if let Some(publish) = command.get("publish") {
            if self.publish(publish["channel"].as_str().unwrap(), &publish["data"]) {
                reply["publish"] = json!({});
            } else {
                reply["error"] = json!({"code": 103, "message": "permission denied"});
            }
        } else {
            assert_eq!(command, json!({}), "a pong is all that may come without an id");
            return;
        }
        sender.send(Message::text(reply.to_string())).unwrap();
    }

    fn subscribe(
        &self,
        connection: u64,
        name: &str,
        since: Option<u64>,
        sender: &UnboundedSender<Message>,
    ) -> Value {
        let channels = &mut *self.channels.lock().unwrap();
        let channel = channels.entry(name.to_owned()).or_default();
        channel.subscribers.insert(connection, sender.clone());
        let top = channel.published.len() as u64;
        let mut result = json!({"recoverable": true, "positioned": true, "epoch": "one", "offset": top});
        if let Some(since) = since {
            result["was_recovering"] = json!(true);
            if self.behaviour.remembers {
                result["recovered"] = json!(true);
                result["publications"] = channel.published[since as usize..]
                    .iter()
                    .zip(since + 1..)
                    .map(|(data, offset)| json!({"data": serde_json::from_str::<Value>(data).unwrap(), "offset": offset}))
                    .collect();
            }
        }
        result
    }

    /// Whether the publisher is told that it worked.
    fn publish(&self, name: &str, data: &Value) -> bool {
        let channels = &mut *self.channels.lock().unwrap();
        let channel = channels.entry(name.to_owned()).or_default();
        let number = channel.published.len() as u64 + 1;
        let fate = (self.behaviour.fate)(number);
        channel.published.push(data.to_string());
        let raw = data.to_string();
        let push = json!({"push": {"channel": name, "pub": {"data": data, "offset": number}}}).to_string();
        // A bare connection knows nothing of pushes; tests of one protocol keep to it.
        let text = if name.starts_with("bare") { raw } else { push };
        let held = channel.held.take();
        match fate {
            Fate::Deliver => channel.tell(&text),
            Fate::Lose => {}
            Fate::Twice => {
                channel.tell(&text);
                channel.tell(&text);
            }
            Fate::Late => channel.held = Some(text),
            Fate::CloseAll(code) => {
                let close = CloseFrame { code: CloseCode::from(code), reason: "as planned".into() };
                for (_, subscriber) in channel.subscribers.drain() {
                    let _ = subscriber.send(Message::Close(Some(close.clone())));
                }
            }
            Fate::Refuse => {}
        }
        if let Some(held) = held {
            channel.tell(&held);
        }
        fate != Fate::Refuse
    }
}

impl Channel {
    fn tell(&self, text: &str) {
        for subscriber in self.subscribers.values() {
            // A subscriber that is just going needs not be told.
            let _ = subscriber.send(Message::text(text));
        }
    }
}
