//! The client of Socket.IO for Rust, by each of its transports and from one to the other.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use rust_socketio::client::Client;
use rust_socketio::{ClientBuilder, Event, Payload, TransportType};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(20);
const TRANSPORTS: [(&str, TransportType); 3] = [
    ("polling", TransportType::Polling),
    ("websocket", TransportType::Websocket),
    ("polling and then a websocket", TransportType::WebsocketUpgrade),
];

struct Connected {
    client: Client,
    said: Receiver<Payload>,
    joined: Receiver<Payload>,
    lost: Receiver<()>,
}

impl Drop for Connected {
    fn drop(&mut self) {
        let _ = self.client.disconnect();
    }
}

fn connected(transport: &TransportType) -> Connected {
    let url = std::env::var("SOCKETIO_URL").expect("SOCKETIO_URL names the gateway");
    let ((to_said, said), (to_joined, joined), (to_open, open), (to_lost, lost)) =
        (channel(), channel(), channel(), channel());
    let client = ClientBuilder::new(url)
        .transport_type(transport.clone())
        .reconnect(false)
        .on("said", move |payload, _| drop(to_said.send(payload)))
        .on("joined", move |payload, _| drop(to_joined.send(payload)))
        .on(Event::Connect, move |_, _| to_open.send(()).unwrap_or_default())
        .on(Event::Close, move |_, _| to_lost.send(()).unwrap_or_default())
        .connect()
        .expect("a connection");
    open.recv_timeout(PATIENCE).expect("an answer to CONNECT");
    Connected { client, said, joined, lost }
}

fn texts(payload: Payload) -> Vec<Value> {
    match payload {
        Payload::Text(values) => values,
        other => panic!("{other:?}"),
    }
}

/// What an event is acknowledged with.
fn ask(client: &Client, event: &str, data: impl Into<Payload>) -> Vec<Value> {
    let (acknowledge, answer) = channel();
    client
        .emit_with_ack(event, data, PATIENCE, move |payload, _| drop(acknowledge.send(payload)))
        .expect("sent");
    texts(answer.recv_timeout(PATIENCE).expect("an acknowledgement"))
}

#[test]
fn events_and_bytes_reach_all_and_are_acknowledged() {
    for (name, transport) in &TRANSPORTS {
        let (one, other) = (connected(transport), connected(transport));
        let answer = ask(&one.client, "said", json!({ "text": "hé", "list": [1, 2] }));
        assert!(json!(answer).to_string().contains(r#""status":"ok""#), "{name}: {answer:?}");
        let heard = texts(other.said.recv_timeout(PATIENCE).expect("an event"));
        assert_eq!(heard, [json!({ "text": "hé", "list": [1, 2] })], "{name}");
        one.client.emit("said", Payload::Binary(vec![1, 255, 0].into())).expect("sent");
        match other.said.recv_timeout(PATIENCE).expect("bytes") {
            Payload::Binary(bytes) => assert_eq!(&bytes[..], [1, 255, 0], "{name}"),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn a_row_of_events_keeps_its_order_and_pings_keep_the_connection() {
    for (name, transport) in &TRANSPORTS {
        let (one, other) = (connected(transport), connected(transport));
        for number in 0..100 {
            one.client.emit("said", json!(number)).expect("sent");
        }
        for number in 0..100 {
            let heard = texts(other.said.recv_timeout(PATIENCE).expect("an event"));
            assert_eq!(heard, [json!(number)], "{name}");
        }
        // Several pings pass.
        assert!(other.lost.recv_timeout(Duration::from_millis(1_500)).is_err(), "{name}: it is lost");
        one.client.emit("said", json!("after that")).expect("sent");
        assert_eq!(texts(other.said.recv_timeout(PATIENCE).expect("an event")), [json!("after that")]);
    }
}

#[test]
fn rooms_are_joined() {
    for (name, transport) in &TRANSPORTS {
        let (one, other) = (connected(transport), connected(transport));
        let room = json!(name);
        ask(&one.client, "join", room.clone());
        ask(&other.client, "join", room);
        let joined = texts(one.joined.recv_timeout(PATIENCE).expect("a member"));
        assert!(joined[0].is_string(), "{name}: {joined:?}");
    }
}
