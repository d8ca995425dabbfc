//! Tests clients that use the Protobuf encoding.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use serde_json::json;
use shared::command::{Command, Connect, History, Request, Subscribe};
use shared::protocol::centrifuge::protobuf::PING;
use shared::protocol::centrifuge::protobuf::client::{
    PublicationMessage, ReplyMessage, decode_frame, encode_command,
};
use shared::publication::Payload;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::client::{Ending, Socket};
use crate::gateway::{Gateway, gateway};
use crate::response::Response;

const PATH: &str = "/connection/websocket?cf_protocol=protobuf";

/// A client whose decoder shares no code with the gateway's encoder.
struct Client {
    socket: Socket,
    unread: VecDeque<ReplyMessage>,
    next_id: u32,
}

impl Client {
    fn new(socket: Socket) -> Self {
        Self { socket, unread: VecDeque::new(), next_id: 1 }
    }

    async fn connect(gateway: &Gateway) -> Self {
        let mut client = Self::new(gateway.open(PATH, &[]).await);
        let reply = client.command(Request::Connect(Box::default())).await;
        assert!(reply.connect.is_some_and(|connect| connect.ping == 25 && connect.pong));
        client
    }

    async fn command(&mut self, request: Request) -> ReplyMessage {
        let id = self.next_id;
        self.next_id += 1;
        let mut frame = BytesMut::new();
        encode_command(&Command { id, request }, &mut frame);
        self.socket.send(frame.freeze()).await;
        loop {
            let reply = self.reply().await;
            if reply.id == id {
                return reply;
            }
            assert!(reply.push.is_some(), "{reply:?}");
        }
    }

    async fn subscribe(&mut self, subscribe: Subscribe) -> ReplyMessage {
        self.command(Request::Subscribe(subscribe)).await
    }

    async fn publish(&mut self, channel: &str, data: &[u8]) -> ReplyMessage {
        let data = Payload::of_unknown(Bytes::copy_from_slice(data));
        self.command(Request::Publish { channel: channel.into(), data }).await
    }

    async fn reply(&mut self) -> ReplyMessage {
        while self.unread.is_empty() {
            match self.socket.data().await {
                Message::Binary(frame) => self.unread.extend(decode_frame(&frame).expect("it reads")),
                other => panic!("not binary: {other:?}"),
            }
        }
        self.unread.pop_front().expect("there is one")
    }

    async fn publication(&mut self) -> PublicationMessage {
        loop {
            let push = self.reply().await.push;
            if let Some(publication) = push.and_then(|push| push.publication) {
                return publication;
            }
        }
    }
}

fn to(channel: &str) -> Subscribe {
    Subscribe { channel: channel.into(), ..Subscribe::default() }
}

#[tokio::test]
async fn protobuf_is_chosen_by_the_address_or_as_a_subprotocol() {
    let gateway = gateway().start().await;
    for path in [PATH, "/connection/websocket?format=protobuf"] {
        let mut client = Client::new(gateway.open(path, &[]).await);
        assert!(client.command(Request::Connect(Box::default())).await.connect.is_some());
    }
    let offer = [("sec-websocket-protocol", "centrifuge-protobuf")];
    let mut client = Client::new(gateway.open("/connection/websocket", &offer).await);
    assert!(client.command(Request::Connect(Box::default())).await.connect.is_some());
    let answer = crate::http::refused_upgrade(
        gateway.address,
        PATH,
        "Sec-WebSocket-Protocol: centrifuge-protobuf\r\n",
    )
    .await;
    assert_eq!((answer.status, answer.header("sec-websocket-protocol")), (101, Some("centrifuge-protobuf")));
    gateway.metric_becomes("tidegate_connections_total{protocol=\"centrifuge_protobuf\"}", 4.0).await;
}

#[tokio::test]
async fn both_encodings_hear_each_other_in_kind() {
    let gateway = gateway().start().await;
    let (mut client, mut json) = (Client::connect(&gateway).await, gateway.connect().await);
    assert!(client.subscribe(to("stream:chat")).await.subscribe.is_some());
    json.subscribe("stream:chat").await;

    for (bytes, seen) in
        [(&b"{\"a\":\n1}"[..], json!({ "a": 1 })), (b"plain", json!("plain")), (b"\x00\xff", json!("AP8="))]
    {
        assert!(client.publish("stream:chat", bytes).await.publish.is_some());
        assert_eq!(json.publication().await.data, seen);
    }
    json.publish("stream:chat", json!({ "from": "json" })).await;
    loop {
        let publication = client.publication().await;
        if publication.offset == 4 {
            assert_eq!(&publication.data[..], b"{\"from\":\"json\"}");
            break;
        }
    }
    let history = History { channel: "stream:chat".into(), limit: -1, ..History::default() };
    let history = client.command(Request::History(history)).await.history.expect("a history");
    let seen: Vec<&[u8]> = history.publications.iter().map(|one| &one.data[..]).collect();
    let expected: [&[u8]; 4] = [b"{\"a\":\n1}", b"plain", b"\x00\xff", b"{\"from\":\"json\"}"];
    assert_eq!(seen, expected, "bytes are kept as they came");
    assert!(history.publications.iter().take(3).all(|one| one.info.is_some()));
}

#[tokio::test]
async fn what_was_missed_is_recovered_in_order() {
    let gateway = gateway().start().await;
    let mut client = Client::connect(&gateway).await;
    let first = client.subscribe(to("stream:s")).await.subscribe.expect("subscribed");
    for number in 1..=300 {
        gateway.publish("stream:s", json!(number)).await;
    }
    let mut late = Client::connect(&gateway).await;
    let recover = Subscribe {
        recover: true,
        recoverable: true,
        offset: 250,
        epoch: first.epoch.into(),
        ..to("stream:s")
    };
    let result = late.subscribe(recover).await.subscribe.expect("subscribed");
    assert!(result.recovered && result.was_recovering);
    let offsets: Vec<u64> = result.publications.iter().map(|one| one.offset).collect();
    assert_eq!(offsets, (251..=300).collect::<Vec<_>>());
    for expected in 1..=300 {
        assert_eq!(client.publication().await.offset, expected, "however many share a message");
    }
}

#[tokio::test]
async fn bytes_that_are_no_command_close() {
    let gateway = gateway().start().await;
    for bytes in [&b""[..], b"{}", b"\x05", b"\x02\x08\x01", b"\x00"] {
        let mut socket = gateway.open(PATH, &[]).await;
        socket.send(Bytes::copy_from_slice(bytes)).await;
        assert_eq!(socket.closed().await.0, 3501, "{bytes:?}");
    }
}

#[tokio::test]
async fn a_ping_is_one_byte_and_so_is_its_pong() {
    let gateway =
        gateway().with("session.ping_interval_ms", 1_000).with("session.pong_timeout_ms", 500).start().await;
    let mut client = Client::new(gateway.open(PATH, &[]).await);
    client.command(Request::Connect(Box::default())).await;
    for _ in 0..2 {
        assert_eq!(client.socket.data().await, Message::binary(PING));
        client.socket.send(Bytes::from_static(PING)).await;
    }
    assert_eq!(client.socket.data().await, Message::binary(PING));
    assert_eq!(client.socket.closed().await.0, 3012, "unanswered");
}

#[tokio::test]
async fn a_client_may_ask_for_the_pings_of_websocket() {
    let gateway =
        gateway().with("session.ping_interval_ms", 1_000).with("session.pong_timeout_ms", 500).start().await;
    // The client's library answers each ping.
    let mut client = Client::new(gateway.open(&format!("{PATH}&cf_ws_frame_ping_pong=true"), &[]).await);
    let connect = client.command(Request::Connect(Box::default())).await.connect.expect("connected");
    assert_eq!((connect.ping, connect.pong), (0, false));
    for _ in 0..3 {
        assert!(matches!(client.socket.next().await, Ok(Message::Ping(_))));
    }
    let mut json = gateway.open("/connection/websocket?cf_ws_frame_ping_pong=true", &[]).await;
    json.send("{\"id\":1,\"connect\":{}}").await;
    assert!(!json.text().await.contains("ping"));
    for _ in 0..3 {
        assert!(matches!(json.next().await, Ok(Message::Ping(_))));
    }
}

/// Sends bytes as a Protobuf body, and reads the head of the response.
async fn post(gateway: &Gateway, path: &str, body: &[u8]) -> Response<TcpStream> {
    let mut stream = TcpStream::connect(gateway.address).await.expect("the node listens");
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body].concat()).await.expect("taken");
    Response::read(stream).await
}

#[tokio::test]
async fn a_stream_of_http_is_protobuf_if_its_request_is_and_so_are_commands_apart() {
    let gateway = gateway().start().await;
    let mut frame = BytesMut::new();
    encode_command(&Command { id: 1, request: Request::Connect(Box::default()) }, &mut frame);
    let mut stream = post(&gateway, "/connection/http_stream", &frame).await;
    assert_eq!((stream.status, stream.header("content-type")), (200, Some("application/octet-stream")));
    let connected = decode_frame(&stream.bytes().await).expect("it reads").remove(0);
    let connected = connected.connect.expect("connected");

    frame.clear();
    encode_command(&Command { id: 2, request: Request::Subscribe(to("stream:s")) }, &mut frame);
    let apart = |field: u8, value: &[u8]| [&[field << 3 | 2, value.len() as u8], value].concat();
    let body =
        [apart(1, connected.node.as_bytes()), apart(2, connected.session.as_bytes()), apart(3, &frame)];
    assert_eq!(post(&gateway, "/emulation", &body.concat()).await.status, 204);
    assert_eq!(decode_frame(&stream.bytes().await).expect("it reads").remove(0).id, 2);
    gateway.publish("stream:s", json!({ "n": 1 })).await;
    let push = decode_frame(&stream.bytes().await).expect("it reads").remove(0).push.expect("a push");
    assert_eq!(&push.publication.expect("a publication").data[..], b"{\"n\":1}");
    assert_eq!(post(&gateway, "/emulation", b"{}").await.status, 400);
}

#[tokio::test]
async fn a_bad_token_closes() {
    let gateway = gateway().start().await;
    let mut client = Client::new(gateway.open(PATH, &[]).await);
    let connect = Connect { token: "no token".into(), ..Connect::default() };
    let mut frame = BytesMut::new();
    encode_command(&Command { id: 1, request: Request::Connect(Box::new(connect)) }, &mut frame);
    client.socket.send(frame.freeze()).await;
    assert!(matches!(client.socket.next().await, Err(Ending::Reported(3500, _))));
}
