//! Tests clients that are moved to other nodes, because theirs has too many or stops: nothing is lost, and nobody leaves.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use crate::client::{Client, Ending, Socket};
use crate::gateway::{Description, Gateway, eventually, gateway};
use crate::pusher::{APP, Pusher};
use crate::redis_server::RedisServer;

const CHANNEL: &str = "stream:audit";

/// A load balancer that sends each client to the node with the fewest clients.
#[derive(Clone, Debug, Default)]
struct Balancer(Arc<Mutex<HashMap<SocketAddr, usize>>>);

impl Balancer {
    fn add(&self, node: &Gateway) {
        self.0.lock().insert(node.address, 0);
    }

    fn remove(&self, node: &Gateway) {
        self.0.lock().remove(&node.address);
    }

    fn let_go(&self, address: SocketAddr) {
        if let Some(clients) = self.0.lock().get_mut(&address) {
            *clients -= 1;
        }
    }

    async fn connect(&self, path: &str) -> (SocketAddr, Socket) {
        loop {
            let address = {
                let mut nodes = self.0.lock();
                let (address, clients) =
                    nodes.iter_mut().min_by_key(|(address, clients)| (**clients, **address)).expect("a node");
                *clients += 1;
                *address
            };
            if let Ok(stream) = TcpStream::connect(address).await
                && let Ok(socket) = Socket::upgrade(stream, path, &[]).await
            {
                return (address, socket);
            }
            self.let_go(address);
            tokio::task::yield_now().await;
        }
    }
}

/// Follows a stream to its end, and reconnects whenever the connection is closed. Returns how often it was closed, and the
/// socket, which keeps the client connected.
async fn follow(balancer: Balancer, token: String) -> (usize, Socket) {
    let (mut closed, mut position) = (0, None);
    loop {
        let (address, mut socket) = balancer.connect("/connection/websocket").await;
        if follow_on(&mut socket, &token, &mut position).await {
            return (closed, socket);
        }
        balancer.let_go(address);
        closed += 1;
    }
}

/// Returns true at the end of the stream, and false if only the connection was closed.
async fn follow_on(socket: &mut Socket, token: &str, position: &mut Option<(u64, String)>) -> bool {
    let mut subscribe = json!({ "channel": CHANNEL });
    if let Some((offset, epoch)) = &position {
        subscribe = json!({ "channel": CHANNEL, "recover": true, "offset": offset, "epoch": epoch });
    }
    let connect = json!({ "id": 1, "connect": { "token": token } });
    let subscribe = json!({ "id": 2, "subscribe": subscribe });
    if socket.try_send(format!("{connect}\n{subscribe}")).await.is_err() {
        return false;
    }
    loop {
        let text = match socket.next().await {
            Ok(Message::Text(text)) => text,
            Ok(_) => continue,
            Err(ending) => {
                assert_eq!(ending, Ending::Reported(3001, "shutdown".to_owned()));
                return false;
            }
        };
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).expect("JSON");
            if line == json!({}) {
                let _ = socket.try_send("{}").await;
                continue;
            }
            assert!(line.get("error").is_none(), "{line}");
            let mut publications = Vec::new();
            if line["id"] == 2 {
                let subscribed = &line["subscribe"];
                let epoch = subscribed["epoch"].as_str().expect("an epoch").to_owned();
                match position {
                    Some(_) => assert_eq!(subscribed["recovered"], true, "{line}"),
                    None => *position = Some((subscribed["offset"].as_u64().unwrap_or(0), epoch)),
                }
                publications.extend(subscribed["publications"].as_array().into_iter().flatten().cloned());
            }
            publications.extend(line["push"].get("pub").cloned());
            for publication in publications {
                let (last, _) = position.as_mut().expect("it has subscribed");
                assert_eq!(publication["offset"], *last + 1, "each of them, once, in order");
                *last += 1;
                if publication["data"] == "end" {
                    return true;
                }
            }
        }
    }
}

fn node(redis: &RedisServer, name: &str) -> Description {
    gateway().over(&redis.url()).with("node.name", name)
}

/// Calls `shed` and returns each node's state and numbers, by name.
async fn shed(asked: &Gateway, request: Value) -> HashMap<String, Value> {
    let answer = asked.api("shed", request).await;
    let nodes = answer["nodes"].as_array().expect("nodes").iter();
    nodes.map(|node| (node["name"].as_str().expect("a name").to_owned(), node.clone())).collect()
}

/// Waits until a node knows the number of clients at each node, in the order of their names.
async fn knows(asked: &Gateway, clients: &[u64]) {
    eventually("all numbers are known", async || {
        let info = asked.api("info", json!({})).await;
        let nodes = info["nodes"].as_array().expect("nodes").iter();
        nodes.map(|node| node["num_clients"].as_u64()).eq(clients.iter().map(|count| Some(*count)))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_above_the_mean_close_what_is_above_it_and_a_new_node_has_its_share() {
    let redis = RedisServer::start();
    let (a, b) = (node(&redis, "a").start().await, node(&redis, "b").start().await);
    let balancer = Balancer::default();
    balancer.add(&a);
    balancer.add(&b);
    let mut followers = JoinSet::new();
    for number in 0..60 {
        followers.spawn(follow(balancer.clone(), a.token(&format!("user-{number}"))));
    }
    knows(&a, &[30, 30]).await;
    let c = node(&redis, "c").start().await;
    balancer.add(&c);
    for node in [&a, &b, &c] {
        knows(node, &[30, 30, 0]).await;
    }
    let nodes = shed(&c, json!({ "over_s": 4 })).await;
    for name in ["a", "b"] {
        let told = &nodes[name];
        assert_eq!(told["state"], "started", "{told}");
        assert_eq!((&told["before"], &told["mean"], &told["to_close"]), (&json!(30), &json!(20), &json!(10)));
        assert_eq!(told["over_ms"], 4000);
    }
    assert_eq!(nodes["c"]["state"], "balanced", "{nodes:?}");
    let again = shed(&c, json!({ "node": "a", "over_s": 1 })).await;
    assert_eq!(
        (again.len(), &again["a"]["state"], &again["a"]["over_ms"]),
        (1, &json!("running"), &json!(4000))
    );
    for number in 0..50 {
        a.publish(CHANNEL, json!(number)).await;
    }
    for node in [&a, &b, &c] {
        node.metric_becomes("tidegate_connections", 20.0).await;
    }
    for node in [&a, &b] {
        assert_eq!(node.metric("tidegate_balance_closes_total").await, 10.0);
        node.metric_becomes("tidegate_balance_closes_pending", 0.0).await;
    }
    assert_eq!(c.metric("tidegate_balance_closes_total").await, 0.0);
    knows(&a, &[20, 20, 20]).await;
    assert!(shed(&a, json!({})).await.values().all(|node| node["state"] == "balanced"));
    a.publish(CHANNEL, json!("end")).await;
    let moved: usize = followers.join_all().await.into_iter().map(|(closed, _)| closed).sum();
    assert_eq!(moved, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letting_go_can_be_stopped_and_ends_when_the_others_cannot_be_asked() {
    let redis = RedisServer::start();
    let (a, b) = (node(&redis, "a").start().await, node(&redis, "b").start().await);
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(a.connect().await);
    }
    for asked in [&a, &b] {
        knows(asked, &[10, 0]).await;
    }
    assert_eq!(shed(&b, json!({ "tolerance_percent": 200 })).await["a"]["state"], "balanced");
    assert_eq!(shed(&b, json!({ "over_s": 600 })).await["a"]["to_close"], 5);
    a.metric_becomes("tidegate_balance_closes_total", 1.0).await;
    let stopped = shed(&b, json!({ "stop": true })).await;
    assert_eq!((&stopped["a"]["state"], &stopped["a"]["closed"]), (&json!("stopped"), &json!(1)));
    assert_eq!(shed(&b, json!({ "stop": true })).await["a"]["state"], "idle", "there is nothing to stop");
    let no_such = b.try_api("shed", &json!({ "node": "nobody" })).await;
    assert!(String::from_utf8_lossy(&no_such.body).contains("no node has this name or uid"), "{no_such:?}");
    a.metric_becomes("tidegate_connections", 9.0).await;
    assert_eq!(shed(&a, json!({ "node": "a", "over_s": 600 })).await["a"]["state"], "started");
    redis.freeze();
    a.metric_becomes("tidegate_balance_closes_pending", 0.0).await;
    redis.thaw();
    assert!(a.metric("tidegate_balance_closes_total").await <= 2.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_may_lets_clients_go_by_itself_and_stays_quiet_after_that() {
    let redis = RedisServer::start();
    let by_itself = |name| {
        let node = node(&redis, name).with("balance.auto", true);
        node.with("balance.auto_after_s", 1).with("balance.over_s", 1)
    };
    let a = by_itself("a").start().await;
    let balancer = Balancer::default();
    balancer.add(&a);
    let mut followers = JoinSet::new();
    for number in 0..20 {
        followers.spawn(follow(balancer.clone(), a.token(&format!("user-{number}"))));
    }
    a.metric_becomes("tidegate_connections", 20.0).await;
    let b = by_itself("b").start().await;
    balancer.add(&b);
    for node in [&a, &b] {
        node.metric_becomes("tidegate_connections", 10.0).await;
    }
    knows(&a, &[10, 10]).await;
    knows(&b, &[10, 10]).await;
    a.publish(CHANNEL, json!("end")).await;
    assert_eq!(followers.join_all().await.into_iter().map(|(closed, _)| closed).sum::<usize>(), 10);
    assert_eq!(b.metric("tidegate_balance_closes_total").await, 0.0);
}

/// Keeps a member in a Pusher presence channel: reconnects whenever the connection is closed, without end.
async fn be_member(balancer: Balancer, user: String) {
    loop {
        let path = "/app/key?protocol=7&client=js&version=8.4.0&flash=false";
        let (address, mut socket) = balancer.connect(path).await;
        let established: Value = serde_json::from_str(&socket.text().await).expect("JSON");
        let data: Value = serde_json::from_str(established["data"].as_str().expect("a text")).expect("JSON");
        let mut client = Pusher { socket, id: data["socket_id"].as_str().expect("an id").to_owned() };
        client.ask("presence-room", Some(json!({ "user_id": user, "user_info": {} }))).await;
        let ending = loop {
            match client.socket.next().await {
                Ok(Message::Text(text)) if text.contains("pusher:ping") => {
                    let _ = client.socket.try_send(r#"{"event":"pusher:pong","data":{}}"#).await;
                }
                Ok(_) => {}
                Err(ending) => break ending,
            }
        };
        assert!(matches!(ending, Ending::Reported(4100, _)), "it is to come back: {ending:?}");
        balancer.let_go(address);
    }
}

/// Follows joins and leaves until the test is over, and counts the leaves of clients.
async fn watch_users(mut observer: Client, gone: Arc<AtomicUsize>) {
    let mut users: HashMap<String, HashSet<String>> = HashMap::new();
    loop {
        let push = observer.push().await["push"].take();
        if push["pub"]["data"] == "over" {
            return;
        }
        let of = |told: &Value| {
            let text = |field: &str| told["info"][field].as_str().expect("a text").to_owned();
            (text("user"), text("client"))
        };
        if let Some(joined) = push.get("join") {
            let (user, client) = of(joined);
            users.entry(user).or_default().insert(client);
        }
        if let Some(left) = push.get("leave") {
            let (user, client) = of(left);
            let clients = users.get_mut(&user).expect("it has come");
            assert!(clients.remove(&client), "it was there");
            assert!(!clients.is_empty(), "{user} was away");
            gone.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_restart_in_turn_lose_nothing_and_nobody_was_away_for_others() {
    const FOLLOWERS: usize = 30;
    const MEMBERS: usize = 9;
    let redis = RedisServer::start();
    let node = |name: &str| {
        node(&redis, name)
            .and(APP)
            .with("drain.notice_ms", 200)
            .with("drain.grace_ms", 1500)
            .with("drain.linger_ms", 3000)
            .with("drain.presence_hold_ms", 3000)
            .with("namespaces.stream.join_leave", true)
            .with("namespaces.stream.allow_join_leave", true)
    };
    // The balancer sends no clients to the observers' node.
    let stays = Arc::new(node("stays").start().await);
    let mut observer = stays.connect_as("observer").await;
    observer.command("subscribe", json!({ "channel": CHANNEL, "join_leave": true })).await;
    let gone = Arc::new(AtomicUsize::new(0));
    let watching = tokio::spawn(watch_users(observer, gone.clone()));
    let mut member = stays.pusher().await;
    member.enter("presence-room", "observer").await;

    let balancer = Balancer::default();
    let mut nodes = Vec::new();
    for name in ["one", "two", "three"] {
        nodes.push(node(name).start().await);
        balancer.add(&nodes[nodes.len() - 1]);
    }
    let (mut followers, mut members) = (JoinSet::new(), JoinSet::new());
    for number in 0..FOLLOWERS {
        followers.spawn(follow(balancer.clone(), stays.token(&format!("user-{number}"))));
    }
    for number in 0..MEMBERS {
        members.spawn(be_member(balancer.clone(), format!("member-{number}")));
    }
    let mut there = HashSet::new();
    while there.len() < MEMBERS {
        let added = member.hears("pusher_internal:member_added", "presence-room").await;
        there.insert(added["user_id"].as_str().expect("a user").to_owned());
    }
    let all_are_there = async |nodes: &[Gateway]| {
        eventually("all are connected", async || {
            let mut connected = 0.0;
            for node in nodes {
                connected += node.metric("tidegate_connections").await;
            }
            let presence = stays.api("presence_stats", json!({ "channel": CHANNEL })).await;
            connected == (FOLLOWERS + MEMBERS) as f64 && presence["num_users"] == FOLLOWERS + 1
        })
        .await;
    };
    all_are_there(&nodes).await;

    let (end, mut ended) = watch::channel(false);
    let publisher = stays.clone();
    let publishing = tokio::spawn(async move {
        let mut published = 0;
        while !*ended.borrow_and_update() {
            publisher.publish(CHANNEL, json!(published)).await;
            published += 1;
            let _ = tokio::time::timeout(Duration::from_millis(20), ended.changed()).await;
        }
        published
    });
    for name in ["four", "five", "six"] {
        let old = nodes.remove(0);
        balancer.remove(&old);
        old.drain().await;
        all_are_there(&nodes).await;
        nodes.push(node(name).start().await);
        balancer.add(&nodes[2]);
    }
    assert_eq!(nodes[2].metric("tidegate_connections").await, 0.0, "the last one has nobody");
    let counts = async |asked: &Gateway| {
        let info = asked.api("info", json!({})).await;
        let nodes = info["nodes"].as_array().expect("nodes").clone();
        let named = nodes.into_iter().map(|node| (node["name"].clone(), node["num_clients"].as_u64()));
        named.collect::<Vec<_>>()
    };
    eventually("the numbers are known", async || {
        let known = counts(&stays).await;
        known.len() == 4 && known.iter().filter_map(|(_, clients)| *clients).sum::<u64>() == 41
    })
    .await;
    // 41 clients are at 4 nodes; the observers' node has 2.
    let told = shed(&stays, json!({ "over_s": 1 })).await;
    let to_close: u64 = told.values().filter_map(|node| node["to_close"].as_u64()).sum();
    assert!(to_close >= 10, "{told:?}");
    eventually("the last one has its share", async || nodes[2].metric("tidegate_connections").await >= 10.0)
        .await;
    all_are_there(&nodes).await;
    eventually("nobody is shown twice", async || {
        let presence = stays.api("presence_stats", json!({ "channel": CHANNEL })).await;
        presence["num_clients"] == FOLLOWERS + 1
    })
    .await;

    end.send(true).expect("somebody publishes");
    let published = publishing.await.expect("it publishes");
    stays.publish(CHANNEL, json!("end")).await;
    // The followers stay connected until the observers are done.
    let (moves, still_there): (Vec<usize>, Vec<Socket>) = followers.join_all().await.into_iter().unzip();
    let moved: usize = moves.into_iter().sum();
    assert!(moved >= FOLLOWERS, "{moved} moves: each was at a node that restarted");
    assert!(published > 50, "{published} publications meanwhile");
    eventually("each move is told once the client has come back", async || {
        assert!(!watching.is_finished(), "somebody was away");
        gone.load(Ordering::Relaxed) == moved
    })
    .await;
    stays.publish(CHANNEL, json!("over")).await;
    watching.await.expect("nobody was away");
    drop(still_there);
    stays
        .api("publish", json!({ "channel": "shop:presence-room", "data": 1, "tags": { "event": "end" } }))
        .await;
    member.hears("end", "presence-room").await;
    members.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_takes_as_long_as_the_others_need_to_accept_its_clients() {
    let redis = RedisServer::start();
    let leaves =
        node(&redis, "leaves").with("drain.grace_ms", 50).with("drain.grace_max_ms", 20_000).start().await;
    let stays = node(&redis, "stays").with("limits.accepts_per_s", 5).start().await;
    let mut closings = JoinSet::new();
    for _ in 0..10 {
        let mut client = leaves.connect().await;
        closings.spawn(async move {
            assert_eq!(client.closed().await.0, 3001);
            std::time::Instant::now()
        });
    }
    knows(&leaves, &[10, 0]).await;
    knows(&stays, &[10, 0]).await;
    leaves.drain().await;
    let mut closed = closings.join_all().await;
    closed.sort();
    // Ten clients at five per second; the configured grace period alone would close them in a twentieth of a second.
    let spread = closed[9] - closed[0];
    assert!(spread > Duration::from_millis(1_000), "all of them within {spread:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_hold_a_client_that_is_moved_has_left_at_once() {
    let redis = RedisServer::start();
    let described = |name| {
        let node = node(&redis, name).with("drain.presence_hold_ms", 0);
        node.with("namespaces.stream.join_leave", true).with("namespaces.stream.allow_join_leave", true)
    };
    let (a, b) = (described("a").start().await, described("b").start().await);
    let mut observer = b.connect_as("observer").await;
    observer.command("subscribe", json!({ "channel": CHANNEL, "join_leave": true })).await;
    let mut clients = Vec::new();
    for number in 0..4 {
        let mut client = a.connect_as(&format!("user-{number}")).await;
        client.subscribe(CHANNEL).await;
        clients.push(client);
    }
    for asked in [&a, &b] {
        knows(asked, &[4, 1]).await;
    }
    assert_eq!(shed(&b, json!({ "node": "a", "over_s": 1 })).await["a"]["to_close"], 1);
    a.metric_becomes("tidegate_connections", 3.0).await;
    // Without a hold, the node that closed the client announces its leave at once.
    let left = loop {
        let push = observer.push().await["push"].take();
        if push.get("leave").is_some() {
            break push;
        }
    };
    assert_eq!(left["leave"]["info"]["user"], "user-0", "who was there for longest");
    for metric in ["tidegate_presence_held", "tidegate_presence_held_bytes"] {
        assert_eq!(a.metric(metric).await, 0.0);
    }
    drop(clients);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_that_does_not_answer_has_said_is_in_the_error() {
    let redis = RedisServer::start();
    let asked = node(&redis, "asked").start().await;
    let killed = node(&redis, "killed").run().await;
    knows(&asked, &[0, 0]).await;
    killed.signal(rustix::process::Signal::KILL);
    let (status, _) = killed.ended().await;
    assert!(!status.success());
    // The killed node is listed for as long as its lease lasts.
    eventually("the node says why there is no answer", async || {
        let refused = asked.try_api("shed", &json!({ "node": "killed" })).await;
        let said = String::from_utf8_lossy(&refused.body).into_owned();
        said.contains("killed: the node does not receive requests")
    })
    .await;
    let nodes = shed(&asked, json!({})).await;
    assert_eq!(nodes["asked"]["state"], "balanced", "the others' answers are there: {nodes:?}");
}
