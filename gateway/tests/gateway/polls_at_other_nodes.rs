//! Tests Engine.IO requests and WebSockets that arrive at a node without their session.

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;

use crate::client::Socket;
use crate::compresses::Deflating;
use crate::gateway::{Description, Gateway, PATIENCE, eventually, gateway};
use crate::polling::{ENDPOINT, Poller};
use crate::redis_server::RedisServer;
use crate::tls::Certificate;

fn over_engine_io() -> Description {
    gateway().and(ENDPOINT)
}

/// Describes a node that also accepts WebSockets from other nodes.
fn taking_in() -> Description {
    over_engine_io().with("cluster.listen", "127.0.0.1:0")
}

async fn all_listen(nodes: &[&Gateway]) {
    for node in nodes {
        eventually("it listens", async || node.is_ready().await).await;
    }
}

async fn subscribed(gateway: &Gateway, count: u32) {
    gateway.metric_becomes("tidegate_subscriptions", f64::from(count)).await;
}

/// Opens the client's WebSocket at a node, and probes it.
async fn probed(gateway: &Gateway, poller: &Poller) -> Socket {
    let mut socket = gateway.open(&poller.websocket(), &[]).await;
    socket.send("2probe").await;
    assert_eq!(socket.text().await, "3probe");
    socket
}

/// Opens and probes the client's WebSocket, and upgrades to it.
async fn changed(gateway: &Gateway, poller: &Poller) -> Socket {
    let mut socket = probed(gateway, poller).await;
    socket.send("5").await;
    socket
}

async fn tried(gateway: &Gateway, result: &str) {
    gateway.metric_becomes(&format!("tidegate_engine_io_upgrades_total{{result=\"{result}\"}}"), 1.0).await;
}

async fn is_closed(socket: &mut Socket) {
    assert!(socket.next().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_polls_may_ask_any_node() {
    let redis = RedisServer::start();
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(over_engine_io().over(&redis.url()).start().await);
    }
    let [here, there, third] = &nodes[..] else { panic!() };
    all_listen(&[here, there, third]).await;
    let poller = here.poller().await;
    subscribed(here, 1).await;
    poller.at(there).bring("4from there").await;
    assert_eq!(poller.at(third).fetch().await, "4from there");
    let waiting = poller.at(there).fetching();
    there.metric_becomes("tidegate_engine_io_waiting", 1.0).await;
    third.publish("chat", json!(1)).await;
    assert_eq!(waiting.await.unwrap(), "41");

    let long = format!("4{}", "x".repeat(900_000));
    poller.at(there).bring(&long).await;
    assert_eq!(poller.at(third).fetch().await, long);

    let mut elsewhere = there.open(&poller.websocket(), &[]).await;
    elsewhere.send("2probe").await;
    assert!(elsewhere.is_cut_off().await, "there it goes on polling");
    let mut socket = probed(here, &poller).await;
    socket.send("5").await;
    socket.send("4changed over").await;
    assert_eq!(socket.text().await, "4changed over");
    assert_eq!(poller.at(there).status().await, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_wrong_with_requests_between_nodes_ends_the_session_and_is_told() {
    let redis = RedisServer::start();
    let [here, there] = [
        over_engine_io().over(&redis.url()).start().await,
        over_engine_io().over(&redis.url()).start().await,
    ];
    all_listen(&[&here, &there]).await;
    let poller = here.poller().await;
    assert_eq!(poller.at(&there).request("POST", "", "abc").await.status, 400);
    here.metric_becomes("tidegate_closes_total{reason=\"lost\"}", 1.0).await;
    assert_eq!(poller.at(&there).status().await, 400);

    let poller = here.poller().await;
    let mut stream = TcpStream::connect(there.address).await.unwrap();
    let path = format!("/engine.io/?EIO=4&transport=polling&sid={}", poller.sid);
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    there.metric_becomes("tidegate_engine_io_waiting", 1.0).await;
    drop(stream);
    here.metric_becomes("tidegate_connections", 0.0).await;

    let nobodys = Poller { sid: format!("{}{}", &poller.sid[..23], "0".repeat(36)), ..poller };
    assert_eq!(nobodys.at(&there).status().await, 400);
    let other = Poller { sid: format!("{}node", &nobodys.sid[..23]), ..nobodys };
    assert_eq!(other.at(&there).status().await, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_lets_those_go_whose_sessions_are_elsewhere() {
    let redis = RedisServer::start();
    let [here, there] = [
        over_engine_io().over(&redis.url()).start().await,
        over_engine_io().over(&redis.url()).with("drain.linger_ms", 10_000).start().await,
    ];
    all_listen(&[&here, &there]).await;
    let poller = here.poller().await;
    let waiting = poller.at(&there).fetching();
    there.metric_becomes("tidegate_engine_io_waiting", 1.0).await;
    there.drain().await;
    assert_eq!(waiting.await.unwrap(), "6");
    poller.bring("4still there").await;
    assert_eq!(poller.fetch().await, "4still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_websocket_at_another_node_is_carried_and_nothing_is_missed_or_told_twice() {
    let redis = RedisServer::start();
    let [here, there, third] = [
        taking_in().over(&redis.url()).start().await,
        over_engine_io().over(&redis.url()).start().await,
        taking_in().over(&redis.url()).start().await,
    ];
    all_listen(&[&here, &there, &third]).await;
    let poller = here.poller().await;
    subscribed(&here, 1).await;
    let publishing = async {
        // More than the pipe and the sockets hold at once, so that it lasts until after the upgrade.
        for number in 0..200 {
            third.publish("chat", json!(format!("{number} {}", "x".repeat(number * 40)))).await;
        }
    };
    let following = async {
        let mut come = Vec::new();
        let mut fetch = async |node: &Gateway| {
            let packets = poller.at(node).fetch().await;
            come.extend(packets.split('\u{1e}').filter(|packet| *packet != "6").map(str::to_owned));
            come.len()
        };
        while fetch(&third).await < 20 {}
        let mut socket = probed(&there, &poller).await;
        // A poll may still be on its way when the client confirms the upgrade.
        fetch(&there).await;
        poller.at(&third).bring("4brought").await;
        socket.send("5").await;
        socket.send("4behind it").await;
        while come.len() < 202 {
            come.push(socket.text().await);
        }
        (come, socket)
    };
    let ((), (come, mut socket)) = tokio::join!(publishing, following);
    let (said, told): (Vec<_>, Vec<_>) =
        come.into_iter().partition(|packet| !packet.contains('x') && packet.len() > 6);
    assert_eq!(said, ["4brought", "4behind it"]);
    let expected: Vec<_> =
        (0..200).map(|number| format!("4\"{number} {}\"", "x".repeat(number * 40))).collect();
    assert_eq!(told, expected);

    tried(&here, "changed").await;
    tried(&there, "carried").await;
    assert_eq!(there.metric("tidegate_engine_io_carried").await, 1.0);
    assert_eq!(there.metric("tidegate_connections").await, 0.0, "it is a client of the other node");
    assert_eq!(here.metric("tidegate_connections").await, 1.0);
    let bytes = Message::binary(vec![7; 100_000]);
    socket.send(bytes.clone()).await;
    assert_eq!(socket.data().await, bytes);
    for to in ["session", "client"] {
        let carried = there.metric(&format!("tidegate_engine_io_carried_bytes_total{{to=\"{to}\"}}")).await;
        assert!(carried > 100_000.0, "{to}: {carried}");
    }
    assert_eq!(poller.at(&third).status().await, 400, "it has changed over");
    socket.close().await;
    here.metric_becomes("tidegate_connections", 0.0).await;
    here.metric_becomes("tidegate_closes_total{reason=\"peer\"}", 1.0).await;
    there.metric_becomes("tidegate_engine_io_carried", 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compression_that_was_agreed_with_one_node_holds_at_the_other() {
    let redis = RedisServer::start();
    let [here, there] =
        [taking_in().over(&redis.url()).start().await, over_engine_io().over(&redis.url()).start().await];
    all_listen(&[&here, &there]).await;
    let poller = here.poller().await;
    let offer = "permessage-deflate; server_max_window_bits=9";
    let mut client = Deflating::open(&there, &poller.websocket(), offer).await;
    client.send("2probe", false).await;
    assert_eq!(client.next().await.text(), "3probe");
    client.send("5", false).await;
    let said = "say it again, ".repeat(30);
    client.send(&format!("4{said}"), true).await;
    let told = client.next().await;
    assert_eq!((told.text(), told.is_compressed()), (&*format!("4{said}"), true));
    let beyond_the_window = "x".repeat(2_000);
    here.publish("chat", json!(beyond_the_window)).await;
    let told = client.next().await;
    assert_eq!((told.text().len(), told.is_compressed()), (2_003, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn websockets_over_tls_change_over_at_any_node() {
    let redis = RedisServer::start();
    let certificate = Certificate::new();
    let [here, there] = [
        certificate.on(taking_in().over(&redis.url())).start().await,
        certificate.on(taking_in().over(&redis.url())).start().await,
    ];
    all_listen(&[&here, &there]).await;
    for node in [&here, &there] {
        let poller = here.poller_over(&certificate).await;
        let stream = certificate.connect(node).await;
        let mut socket = Socket::upgrade(stream, &poller.websocket(), &[]).await.unwrap();
        socket.send("2probe").await;
        assert_eq!(socket.text().await, "3probe");
        socket.send("5").await;
        for number in 0..20 {
            let long = format!("4{number} {}", "x".repeat(20_000));
            socket.send(&*long).await;
            assert_eq!(socket.text().await, long);
        }
        socket.close().await;
        here.metric_becomes("tidegate_connections", 0.0).await;
    }
    here.metric_becomes("tidegate_engine_io_upgrades_total{result=\"changed\"}", 2.0).await;
    tried(&there, "carried").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_lets_go_of_what_it_carries_and_what_was_said_counts() {
    let redis = RedisServer::start();
    let [here, there] =
        [taking_in().over(&redis.url()).start().await, over_engine_io().over(&redis.url()).start().await];
    all_listen(&[&here, &there]).await;
    let (poller, mut bare) = (here.poller().await, here.raw("chat").await);
    let mut socket = changed(&there, &poller).await;
    socket.send("4said").await;
    let draining = tokio::spawn(there.drain());
    is_closed_after(&mut socket, "4said").await;
    assert_eq!(bare.text().await, "said");
    draining.await.unwrap();
    here.metric_becomes("tidegate_closes_total{reason=\"lost\"}", 1.0).await;
}

/// Checks that the socket is closed after at most this message.
async fn is_closed_after(socket: &mut Socket, last: &str) {
    while let Ok(message) = socket.next().await {
        assert_eq!(message, Message::text(last));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_of_the_session_stops_and_its_client_is_told_through_the_other() {
    let redis = RedisServer::start();
    let [here, there] =
        [taking_in().over(&redis.url()).start().await, over_engine_io().over(&redis.url()).start().await];
    all_listen(&[&here, &there]).await;
    let poller = here.poller().await;
    let mut socket = changed(&there, &poller).await;
    socket.send("4said").await;
    assert_eq!(socket.text().await, "4said");
    let draining = tokio::spawn(here.drain());
    assert!(socket.is_cut_off().await);
    draining.await.unwrap();
    there.metric_becomes("tidegate_engine_io_carried", 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn either_node_that_dies_ends_the_connection_at_the_other() {
    let redis = RedisServer::start();
    let [here, there] =
        [taking_in().over(&redis.url()).run().await, over_engine_io().over(&redis.url()).start().await];
    all_listen(&[&here, &there]).await;
    let poller = here.poller().await;
    let mut socket = changed(&there, &poller).await;
    there.metric_becomes("tidegate_engine_io_carried", 1.0).await;
    drop(here);
    is_closed(&mut socket).await;
    there.metric_becomes("tidegate_engine_io_carried", 0.0).await;

    let [here, there] =
        [taking_in().over(&redis.url()).start().await, over_engine_io().over(&redis.url()).run().await];
    all_listen(&[&here, &there]).await;
    let poller = here.poller().await;
    let mut socket = changed(&there, &poller).await;
    tried(&here, "changed").await;
    drop(there);
    is_closed(&mut socket).await;
    here.metric_becomes("tidegate_connections", 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_whose_node_cannot_be_reached_goes_on_polling() {
    let redis = RedisServer::start();
    // A port at which nothing listens any more.
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let [here, there] = [
        taking_in().with("cluster.advertise", closed).over(&redis.url()).start().await,
        over_engine_io().over(&redis.url()).start().await,
    ];
    all_listen(&[&here, &there]).await;
    let poller = here.poller().await;
    let mut socket = there.open(&poller.websocket(), &[]).await;
    assert!(socket.is_cut_off().await);
    tried(&there, "unreachable").await;
    poller.bring("4still there").await;
    assert_eq!(poller.fetch().await, "4still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_no_node_is_let_go_at_the_listener_for_nodes() {
    let redis = RedisServer::start();
    let here = taking_in().over(&redis.url()).start().await;
    all_listen(&[&here]).await;
    let nodes = here.node().nodes().await.unwrap();
    let address = nodes[0].takes_in_at.clone().unwrap();
    let unknown = "{\"v\":1,\"session\":\"AAAAAAAAAAAAAAAAAAAAAQ\"}\n";
    for (said, told) in [("GET / HTTP/1.1\r\n\r\n", ""), ("{\"v\":7}\n", ""), (unknown, "")] {
        let mut stream = TcpStream::connect(&*address).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        let mut come = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut come)).await.unwrap().unwrap();
        assert_eq!(come, told.as_bytes(), "{said}");
    }
}
