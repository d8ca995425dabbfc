//! Tests every refusal before the 101, with its status and its metric.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error;

use crate::client::Socket;
use crate::gateway::{Gateway, PATIENCE, eventually, gateway};
use crate::http::{self, Answer};

const PATH: &str = "/connection/websocket";

async fn refused(gateway: &Gateway, headers: &str) -> Answer {
    http::refused_upgrade(gateway.address, PATH, headers).await
}

async fn counted(gateway: &Gateway, result: &str, times: f64) {
    gateway.metric_becomes(&format!("tidegate_handshakes_total{{result=\"{result}\"}}"), times).await;
}

/// Returns the HTTP status with which an attempt to connect was refused.
fn status(attempt: Result<Socket, Error>) -> u16 {
    match attempt {
        Err(Error::Http(response)) => response.status().as_u16(),
        other => panic!("not refused: {other:?}"),
    }
}

/// Waits until the node ends a stream, and returns the number of bytes that it sent before.
async fn said_before_the_end(stream: &mut TcpStream) -> usize {
    let mut said = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("it ends in time");
    // A reset is an end too.
    read.unwrap_or(said.len())
}

#[tokio::test]
async fn pages_of_other_origins_are_refused_before_the_upgrade() {
    let gateway = gateway().with("http.allowed_origins", "https://app.example, same-origin").start().await;
    for stranger in ["https://evil.example", "https://app.example.evil.example", "null", "garbage"] {
        assert_eq!(status(gateway.try_open(PATH, &[("origin", stranger)]).await), 403, "{stranger}");
    }
    counted(&gateway, "origin", 4.0).await;
    gateway.open(PATH, &[("origin", "https://app.example")]).await;
    gateway.open("/raw/chat", &[("origin", "http://localhost")]).await;
    gateway.open(PATH, &[]).await;
    counted(&gateway, "accepted", 3.0).await;
}

#[tokio::test]
async fn clients_without_an_origin_are_refused_where_only_browsers_belong() {
    let gateway = gateway().with("http.allow_missing_origin", false).start().await;
    assert_eq!(status(gateway.try_open(PATH, &[]).await), 403);
    gateway.open(PATH, &[("origin", "http://localhost")]).await;
}

#[tokio::test]
async fn heads_and_addresses_have_their_longest() {
    let gateway = gateway().start().await;
    let long = http::refused_upgrade(gateway.address, &format!("/raw/{}", "x".repeat(5000)), "").await;
    assert_eq!(long.status, 414);
    let wide = refused(&gateway, &format!("X-Wide: {}\r\n", "x".repeat(20_000))).await;
    assert_eq!(wide.status, 431);
    let many: String = (0..100).map(|number| format!("X-{number}: y\r\n")).collect();
    assert_eq!(refused(&gateway, &many).await.status, 431);
    counted(&gateway, "request", 3.0).await;
    let nowhere = http::request(gateway.address, "GET", "/nowhere", "", "").await;
    assert_eq!(nowhere.status, 404);
    counted(&gateway, "path", 1.0).await;
}

#[tokio::test]
async fn what_is_no_upgrade_is_told_why() {
    let gateway = gateway().start().await;
    let plain = http::request(gateway.address, "GET", PATH, "", "").await;
    assert_eq!(plain.status, 400);
    let post = http::request(gateway.address, "POST", PATH, "", "").await;
    assert_eq!((post.status, post.header("allow")), (405, Some("GET")));
    let old = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 8\r\n";
    let old = http::request(gateway.address, "GET", PATH, old, "").await;
    assert_eq!((old.status, old.header("sec-websocket-version")), (426, Some("13")));
    counted(&gateway, "upgrade", 3.0).await;
}

#[tokio::test]
async fn who_asks_whom_must_be_clear_before_an_upgrade() {
    let gateway = gateway().start().await;
    for (version, headers, why) in [
        ("1.0", "Host: x\r\n", "HTTP/1.1"),
        ("1.1", "", "no Host header"),
        ("1.1", "Host: x\r\nHost: x\r\n", "more than one Host header"),
        ("1.1", "Host: x\r\nOrigin: http://x\r\nOrigin: http://x\r\n", "more than one Origin header"),
    ] {
        let mut stream = TcpStream::connect(gateway.address).await.expect("connected");
        let head = format!(
            "GET {PATH} HTTP/{version}\r\n{headers}Connection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("sent");
        let answer = http::answer(&mut stream).await.expect("an answer");
        let said = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.status, 400, "{version} {headers}");
        assert!(said.contains(why), "{why} is not in {said}");
    }
    counted(&gateway, "upgrade", 4.0).await;
}

#[tokio::test]
async fn pages_on_any_port_and_in_files_connect_where_they_are_named() {
    let origins = "http://localhost:*, https://*.example.com:*, file://, null";
    let gateway = gateway().with("http.allowed_origins", origins).start().await;
    for page in ["http://localhost:3000", "http://localhost", "https://a.example.com:8443", "file://", "null"]
    {
        gateway.open(PATH, &[("origin", page)]).await;
    }
    for stranger in ["https://localhost:3000", "http://127.0.0.1:3000", "https://example.com"] {
        let answer = refused(&gateway, &format!("Origin: {stranger}\r\n")).await;
        let said = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, 403, "{stranger}");
        assert!(said.contains(stranger) && said.contains("http.allowed_origins"), "{said}");
    }
}

#[tokio::test]
async fn a_head_that_does_not_come_ends_the_connection() {
    let gateway = gateway().with("http.head_timeout_ms", 100).with("http.keep_alive_ms", 100).start().await;
    let mut silent = TcpStream::connect(gateway.address).await.expect("connected");
    said_before_the_end(&mut silent).await;
    let mut slow = TcpStream::connect(gateway.address).await.expect("connected");
    slow.write_all(b"GET /connection/websocket HTTP/1.1\r\nHost: x\r\n").await.expect("sent");
    said_before_the_end(&mut slow).await;
    let mut idle = TcpStream::connect(gateway.address).await.expect("connected");
    idle.write_all(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    assert!(
        said_before_the_end(&mut idle).await > 0,
        "it is answered, and closed when no other request comes"
    );
    eventually("both are counted", async || {
        gateway.metric("tidegate_handshakes_total{result=\"request\"}").await == 2.0
    })
    .await;
    gateway.metric_becomes("tidegate_handshakes_pending", 0.0).await;
}

#[tokio::test]
async fn an_address_connects_no_faster_than_it_may() {
    let gateway = gateway()
        .with("limits.connects_per_address_per_s", 1)
        .with("limits.connects_per_address_burst", 2)
        .start()
        .await;
    let _two = (gateway.open(PATH, &[]).await, gateway.open(PATH, &[]).await);
    let third = refused(&gateway, "").await;
    assert_eq!((third.status, third.header("retry-after")), (429, Some("1")));
    counted(&gateway, "address_rate", 1.0).await;
    eventually("it may again after that", async || gateway.try_open(PATH, &[]).await.is_ok()).await;
}

#[tokio::test]
async fn an_address_has_no_more_connections_than_it_may() {
    let gateway = gateway().with("limits.connections_per_address_max", 2).start().await;
    let first = gateway.open(PATH, &[]).await;
    let _second = gateway.raw("chat").await;
    let third = refused(&gateway, "").await;
    assert_eq!(third.status, 429);
    assert!(third.header("retry-after").is_some());
    counted(&gateway, "address_full", 1.0).await;
    first.close().await;
    eventually("there is room again", async || gateway.try_open(PATH, &[]).await.is_ok()).await;
}

#[tokio::test]
async fn a_user_has_no_more_connections_than_one_may() {
    let gateway = gateway().with("limits.connections_per_user_max", 2).start().await;
    let first = gateway.connect_as("ann").await;
    let _second = gateway.connect_as("ann").await;
    let mut third = gateway.stranger().await;
    third.ask("connect", serde_json::json!({ "token": gateway.token("ann") })).await;
    assert_eq!(third.closed().await.0, 3504);
    let _bob = gateway.connect_as("bob").await;
    let _anonymous = [gateway.connect().await, gateway.connect().await, gateway.connect().await];
    gateway.metric_becomes("tidegate_closes_total{reason=\"connection limit\"}", 1.0).await;
    first.socket.close().await;
    eventually("ann may come again", async || {
        let mut again = gateway.stranger().await;
        again.ask("connect", serde_json::json!({ "token": gateway.token("ann") })).await;
        again.try_push().await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_user_may_come_again_while_an_old_connection_is_still_to_say_goodbye() {
    let gateway = gateway()
        .with("limits.connections_per_user_max", 1)
        .with("websocket.close_timeout_ms", 60_000)
        .start()
        .await;
    // The client is asked to leave, and does not answer.
    let _old = gateway.connect_as("ann").await;
    gateway.api("disconnect", serde_json::json!({ "user": "ann" })).await;
    gateway.metric_becomes("tidegate_connections", 1.0).await;
    eventually("ann may come again", async || {
        let mut again = gateway.stranger().await;
        again.ask("connect", serde_json::json!({ "token": gateway.token("ann") })).await;
        again.try_push().await.is_ok()
    })
    .await;
    eventually("nobody is counted who is gone", async || {
        gateway.api("info", serde_json::json!({})).await["nodes"][0]["num_users"] == 0
    })
    .await;
}

#[tokio::test]
async fn a_full_node_takes_nobody_and_says_so_in_its_metrics() {
    let gateway = gateway().with("limits.connections_max", 2).start().await;
    assert_eq!(gateway.metric("tidegate_connections_max").await, 2.0);
    let first = gateway.connect().await;
    let second = gateway.connect().await;
    let third = refused(&gateway, "").await;
    assert_eq!(third.status, 503);
    assert!(third.header("retry-after").is_some());
    counted(&gateway, "node_full", 1.0).await;
    drop(first);
    eventually("there is room again", async || gateway.try_open(PATH, &[]).await.is_ok()).await;
    drop(second);
}

#[tokio::test]
async fn clients_that_fill_a_node_do_not_lock_the_api_out() {
    let gateway = gateway().with("limits.connections_max", 2).with("api.connections_max", 2).start().await;
    let mut clients = [gateway.connect().await, gateway.connect().await];
    clients[0].subscribe("news").await;
    // Further connections send nothing.
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(TcpStream::connect(gateway.address).await.expect("the kernel takes it"));
    }
    let mut one_too_many = TcpStream::connect(gateway.address).await.expect("the kernel takes it");
    assert_eq!(said_before_the_end(&mut one_too_many).await, 0);
    // They are closed after a while, long before the deadline of a request's head.
    for mut silent in silent {
        assert_eq!(said_before_the_end(&mut silent).await, 0);
    }
    for number in 0..20 {
        let told = refused(&gateway, "").await;
        assert_eq!(told.status, 503, "a spare place is not for clients");
        assert_eq!(told.header("connection"), Some("close"), "nor is it theirs to stay in");
        gateway.publish("news", serde_json::json!(number)).await;
        assert_eq!(clients[0].publication().await.data, number);
    }
    let [first, _second] = clients;
    gateway.api("disconnect", serde_json::json!({ "client": first.id })).await;
    eventually("there is room again", async || gateway.try_open(PATH, &[]).await.is_ok()).await;
}

#[tokio::test]
async fn the_api_can_have_an_address_of_its_own() {
    let gateway = gateway().with("api.listen", "127.0.0.1:0").with("limits.connections_max", 2).start().await;
    assert_ne!(gateway.api, gateway.address);
    let mut client = gateway.connect().await;
    client.subscribe("news").await;
    gateway.publish("news", serde_json::json!(1)).await;
    assert_eq!(client.publication().await.data, 1);
    let here = http::refused_upgrade(gateway.api, PATH, "").await;
    assert_eq!(here.status, 404, "clients do not connect there");
    let headers = format!("X-API-Key: {}\r\n", crate::gateway::KEY);
    let answer = http::request(gateway.address, "POST", "/api/info", &headers, "{}").await;
    assert_eq!(answer.status, 404, "the API is not served where clients connect");
    let _second = gateway.try_open(PATH, &[]).await;
    gateway.publish("news", serde_json::json!(2)).await;
    assert_eq!(client.publication().await.data, 2, "clients that fill the node are nothing to the API");
}

#[tokio::test]
async fn a_kept_connection_waits_longer_for_its_next_request_than_a_new_one_for_its_first() {
    let gateway = gateway().with("http.head_timeout_ms", 200).with("http.keep_alive_ms", 1500).start().await;
    let asked = std::time::Instant::now();
    let mut silent = TcpStream::connect(gateway.address).await.expect("it listens");
    let mut kept = TcpStream::connect(gateway.address).await.expect("it listens");
    kept.write_all(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    assert_eq!(http::answer(&mut kept).await.expect("an answer").status, 404);
    let mut slow = TcpStream::connect(gateway.address).await.expect("it listens");
    slow.write_all(b"GET /nowhere HTTP/1.1\r\nHost: ").await.expect("sent");
    assert_eq!(said_before_the_end(&mut silent).await, 0);
    assert_eq!(said_before_the_end(&mut slow).await, 0);
    kept.write_all(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("still open");
    assert_eq!(http::answer(&mut kept).await.expect("an answer").status, 404);
    assert_eq!(said_before_the_end(&mut kept).await, 0, "but not for ever");
    assert!(asked.elapsed() >= std::time::Duration::from_millis(1500));
}

#[tokio::test]
async fn only_proxies_of_ours_say_where_a_client_is() {
    let gateway = gateway()
        .with("http.trusted_proxies", "127.0.0.1/32")
        .with("limits.connections_per_address_max", 1)
        .start()
        .await;
    let _one = gateway.open(PATH, &[("x-forwarded-for", "198.51.100.1")]).await;
    let _other = gateway.open(PATH, &[("x-forwarded-for", "198.51.100.2")]).await;
    let again = gateway.try_open(PATH, &[("x-forwarded-for", "203.0.113.9, 198.51.100.1")]).await;
    assert_eq!(status(again), 429, "what the client itself wrote before the proxy's word counts for nothing");

    let strict = crate::gateway::gateway().with("limits.connections_per_address_max", 1).start().await;
    let _one = strict.open(PATH, &[("x-forwarded-for", "198.51.100.1")]).await;
    let liar = strict.try_open(PATH, &[("x-forwarded-for", "198.51.100.2")]).await;
    assert_eq!(status(liar), 429, "a stranger is not believed");
}

#[tokio::test]
async fn a_proxy_header_says_where_a_client_is_and_a_missing_one_is_refused() {
    let gateway = gateway()
        .with("proxy_protocol.enabled", true)
        .with("proxy_protocol.trusted", "127.0.0.1/32")
        .with("proxy_protocol.timeout_ms", 200)
        .with("limits.connections_per_address_max", 1)
        .start()
        .await;
    let from = async |address: &str| {
        let mut stream = TcpStream::connect(gateway.address).await.expect("connected");
        let header = format!("PROXY TCP4 {address} 192.0.2.1 5000 443\r\n");
        stream.write_all(header.as_bytes()).await.expect("sent");
        Socket::upgrade(stream, PATH, &[]).await
    };
    let _one = from("198.51.100.1").await.expect("let in");
    let _other = from("198.51.100.2").await.expect("let in");
    assert_eq!(status(from("198.51.100.1").await), 429);
    let mut bare = http::open_upgrade(gateway.address, PATH, "").await;
    assert_eq!(said_before_the_end(&mut bare).await, 0);
    let mut silent = TcpStream::connect(gateway.address).await.expect("connected");
    assert_eq!(said_before_the_end(&mut silent).await, 0);
    counted(&gateway, "proxy_header", 2.0).await;
}

#[tokio::test]
async fn a_flood_of_handshakes_waits_and_hurts_no_connected_client() {
    let gateway = gateway()
        .with("limits.handshakes_max", 50)
        .with("limits.handshakes_per_address_max", 0)
        .with("http.head_timeout_ms", 300)
        .start()
        .await;
    let mut client = gateway.connect().await;
    client.subscribe("news").await;
    let mut flood = Vec::new();
    for _ in 0..200 {
        flood.push(TcpStream::connect(gateway.address).await.expect("the kernel takes it"));
    }
    assert!(gateway.metric("tidegate_handshakes_pending").await <= 50.0);
    client.publish("news", serde_json::json!("still here")).await;
    assert_eq!(client.publication().await.data, "still here");
    // Connections that send nothing give way to those that do.
    let late = tokio::time::timeout(Duration::from_secs(20), gateway.connect()).await;
    assert!(late.is_ok(), "a client waits behind the flood, not for ever");
    drop(flood);
    gateway.metric_becomes("tidegate_handshakes_pending", 0.0).await;
}

#[tokio::test]
async fn a_request_may_come_in_pieces_or_with_more_behind_it() {
    let gateway = gateway().start().await;
    let head = "GET /raw/pieces HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut answers = Vec::new();
    // The head at once, in two pieces, and followed by the first frame, a ping, in the same piece.
    for (first, pings) in [(head.len(), false), (20, false), (head.len(), true)] {
        let mut stream = TcpStream::connect(gateway.address).await.expect("connected");
        stream.set_nodelay(true).expect("set");
        let mut bytes = head.as_bytes()[..first].to_vec();
        if pings {
            bytes.extend_from_slice(b"\x89\x80\x00\x00\x00\x00");
        }
        stream.write_all(&bytes).await.expect("sent");
        if first < head.len() {
            tokio::task::yield_now().await;
            gateway.metric_becomes("tidegate_handshakes_pending", 1.0).await;
            stream.write_all(&head.as_bytes()[first..]).await.expect("sent");
        }
        let wanted: &[u8] = if pings { b"\x8a\x00" } else { b"\r\n\r\n" };
        let mut said = Vec::new();
        while !said.windows(wanted.len()).any(|part| part == wanted) {
            let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut said)).await.expect("in time");
            assert_ne!(read.expect("read"), 0, "{}", String::from_utf8_lossy(&said));
        }
        let said = String::from_utf8_lossy(&said);
        assert!(said.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{said}");
        // The headers have their usual spelling, whichever code has answered.
        for header in [
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
        ] {
            assert!(said.contains(&format!("\r\n{header}\r\n")), "{header} is not in {said}");
        }
        answers.push(stream);
    }
    counted(&gateway, "accepted", 3.0).await;
    gateway.metric_becomes("tidegate_handshakes_pending", 0.0).await;
}

#[tokio::test]
async fn thousands_may_knock_from_one_address_before_any_of_them_speaks() {
    let gateway = gateway().start().await;
    let mut silent = Vec::new();
    for _ in 0..1500 {
        silent.push(TcpStream::connect(gateway.address).await.expect("connected"));
    }
    gateway.metric_becomes("tidegate_handshakes_pending", 1500.0).await;
    let mut last = silent.pop().expect("many");
    last.write_all(b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.expect("sent");
    assert!(said_before_the_end(&mut last).await > 0);
    assert_eq!(gateway.metric("tidegate_handshakes_total{result=\"handshakes_full\"}").await, 0.0);
}
