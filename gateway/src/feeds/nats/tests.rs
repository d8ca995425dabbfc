//! Tests answers of a server at moments that a real server does not allow to choose.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use parking_lot::Mutex;
use prost::encoding::encode_varint;

use super::*;
use crate::broker::nats::NatsUrl;
use crate::broker::nats::fake::{FakeReply, serve_as};

fn stream(url: String, replicas: u8) -> NatsStream {
    let nats = NatsConfig { url: NatsUrl::new(url), replicas, ..NatsConfig::default() };
    let mut feed = FeedConfig::default();
    feed.nats.stream = "orders".to_owned();
    NatsStream::new("orders", &feed, &nats, "this").expect("valid settings")
}

fn received(number: u64) -> ReceivedMessage {
    let reply = format!("$JS.ACK.orders.c.1.{number}.{number}.1700000000000000000.0");
    let message = async_nats::Message {
        subject: "orders.new".into(),
        reply: Some(reply.into()),
        payload: Bytes::from_static(b"x"),
        headers: None,
        status: None,
        description: None,
        length: 1,
    };
    ReceivedMessage::read(message).expect("it says where it stands")
}

/// The lease of another node, as the server returns it.
fn turn_of_another() -> String {
    let mut turn = Vec::new();
    encode_varint(60_000, &mut turn);
    encode_varint(5, &mut turn);
    turn.extend_from_slice(b"other");
    let data = BASE64_STANDARD.encode(turn);
    format!("{{\"message\":{{\"seq\":7,\"data\":\"{data}\",\"time\":\"2999-01-01T00:00:00Z\"}}}}")
}

#[tokio::test]
async fn whoever_loses_the_turn_keeps_nothing_that_was_handed_out_to_it() {
    let says = |subject: &str| match subject {
        subject if subject.starts_with("$JS.API.STREAM.INFO.") => vec![FakeReply::Answer("{}".to_owned())],
        subject if subject.starts_with("$JS.API.STREAM.MSG.GET.") => {
            vec![FakeReply::Answer(turn_of_another())]
        }
        _ => Vec::new(),
    };
    let (url, _server) = serve_as("2.11.0", says).await;
    let mut stream = stream(url, 1);
    stream.open().await.expect("it is reached");
    for looks in [true, false] {
        let open = stream.open.as_mut().expect("it is open");
        open.reads = true;
        open.fetched = vec![received(3)];
        open.held = HashMap::from([(received(2).position(), received(2))]);
        if looks {
            assert!(matches!(stream.look().await, Ok(SourceCheck::NotOurs)));
        } else {
            assert!(matches!(stream.take().await, Ok(SourceItem::NotOurs)));
        }
        let open = stream.open.as_ref().expect("it is open");
        // The node that has the lease receives the same messages: published here as well, they would be published twice.
        assert!(!open.reads && open.fetched.is_empty() && open.held.is_empty(), "looks: {looks}");
    }
}

#[tokio::test]
async fn with_replicas_servers_are_refused_that_take_two_messages_on_one_condition() {
    for (version, is_refused) in [("2.10.29", true), ("2.11.0", false)] {
        let requests: Arc<Mutex<Vec<String>>> = Arc::default();
        let noted = requests.clone();
        let says = move |subject: &str| {
            noted.lock().push(subject.to_owned());
            vec![FakeReply::Answer("{\"error\":{\"err_code\":10000,\"description\":\"enough\"}}".to_owned())]
        };
        let (url, _server) = serve_as(version, says).await;
        let refused = stream(url, 3).take().await.expect_err("it cannot be read");
        assert_eq!(refused.to_string().contains("before 2.11"), is_refused, "{version}: {refused}");
        assert_eq!(requests.lock().is_empty(), is_refused, "{version}: {:?}", requests.lock());
    }
}
