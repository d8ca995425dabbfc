//! Tests configuration reloads with open connections, on SIGHUP and through the server API.

use std::path::PathBuf;

use futures_util::{SinkExt, StreamExt};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::task::AbortOnDropHandle;

use crate::program::{PATIENCE, Serving, program};

/// A configuration file that the test rewrites.
struct File {
    directory: tempfile::TempDir,
}

impl File {
    fn new(text: &str) -> Self {
        let file = Self { directory: tempfile::tempdir().unwrap() };
        file.write(text);
        file
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("gateway.toml")
    }

    fn write(&self, text: &str) {
        std::fs::write(self.path(), text).unwrap();
    }

    async fn serve(&self) -> Serving {
        program().env("TIDEGATE_CONFIG", self.path().to_str().unwrap()).serve().await
    }
}

struct Client {
    socket: WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>,
    id: u32,
}

impl Client {
    async fn connect(gateway: &Serving) -> Self {
        let url = format!("ws://{}/connection/websocket", gateway.address);
        let mut client = Self { socket: connect_async(url).await.unwrap().0, id: 0 };
        assert!(client.ask("connect", json!({})).await["connect"].is_object());
        client
    }

    /// Sends a command and returns the reply.
    async fn ask(&mut self, command: &str, body: Value) -> Value {
        self.id += 1;
        let command = json!({ "id": self.id, command: body }).to_string();
        self.socket.send(Message::text(command)).await.unwrap();
        let answered = async {
            loop {
                let message = self.socket.next().await.unwrap().unwrap();
                for line in message.to_text().unwrap().lines() {
                    let reply: Value = serde_json::from_str(line).unwrap();
                    if reply["id"] == self.id {
                        return reply;
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE, answered).await.unwrap()
    }

    /// Subscribes, and returns the error code or 0.
    async fn subscribe(&mut self, channel: &str) -> u64 {
        let reply = self.ask("subscribe", json!({ "channel": channel })).await;
        reply["error"]["code"].as_u64().unwrap_or_default()
    }

    async fn publish(&mut self, channel: &str) -> u64 {
        let reply = self.ask("publish", json!({ "channel": channel, "data": 1 })).await;
        reply["error"]["code"].as_u64().unwrap_or_default()
    }
}

/// Returns the body of the response to `POST /api/reload`.
async fn reload(gateway: &Serving, key: &str) -> Value {
    let asking = async {
        let mut socket = tokio::net::TcpStream::connect(&gateway.address).await.unwrap();
        let request = format!(
            "POST /api/reload HTTP/1.1\r\nHost: gateway\r\nX-API-Key: {key}\r\nContent-Length: 2\r\nConnection: \
             close\r\n\r\n{{}}"
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap()
}

const OPEN: &str = "
[namespaces.news]
allow_subscribe_anonymous = true
allow_publish_anonymous = true
";

#[tokio::test]
async fn a_hangup_swaps_the_rules_under_open_connections_and_tells_what_has_changed() {
    let file = File::new(OPEN);
    let gateway = file.serve().await;
    let mut client = Client::connect(&gateway).await;
    assert_eq!((client.subscribe("news:a").await, client.subscribe("later:a").await), (0, 102));
    assert_eq!(client.publish("news:a").await, 0);

    file.write(
        "[namespaces.news]\nallow_subscribe_anonymous = false\nallow_publish_anonymous = true\n\
         [namespaces.later]\nallow_subscribe_anonymous = true\n[server]\nbacklog = 77\n",
    );
    gateway.signal(Signal::HUP);
    let told = gateway.logs("the configuration was reloaded").await;
    assert_eq!((told["changed"].as_u64(), told["needs_restart"].as_u64()), (Some(2), Some(1)));
    let restart = gateway.logs("a changed setting takes effect only after a restart").await;
    assert_eq!((restart["key"].as_str(), restart["new"].as_str()), (Some("server.backlog"), Some("77")));

    // The client's worker may still be in a turn that began before the reload, so this command may be served by the old rules.
    assert_eq!(client.publish("news:a").await, 0, "a subscription that there is stays");
    assert_eq!((client.subscribe("later:a").await, client.subscribe("news:b").await), (0, 103));
    let mut late = Client::connect(&gateway).await;
    assert_eq!((late.subscribe("later:a").await, late.subscribe("news:a").await), (0, 103));
    gateway.terminate().await;
}

/// Returns the values of a metric by namespace.
async fn by_namespace(gateway: &Serving, metric: &str) -> Vec<(String, f64)> {
    let asking = async {
        let mut socket = tokio::net::TcpStream::connect(&gateway.internal).await.unwrap();
        let request = "GET /metrics HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n";
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::time::timeout(PATIENCE, asking).await.unwrap();
    let of = format!("tidegate_namespace_{metric}{{namespace=\"");
    let read = |line: &str| {
        let (name, value) = line.strip_prefix(&of)?.split_once("\"} ")?;
        Some((name.to_owned(), value.trim().parse::<f64>().unwrap())).filter(|(_, value)| *value != 0.0)
    };
    answer.lines().filter_map(read).collect()
}

#[tokio::test]
async fn channels_that_are_in_another_namespace_since_a_reload_are_counted_there() {
    let open = "[channels]\nallow_subscribe_anonymous = true\n";
    let file = File::new(open);
    let gateway = file.serve().await;
    let mut clients = [Client::connect(&gateway).await, Client::connect(&gateway).await];
    for client in &mut clients {
        assert_eq!(client.subscribe("/rooms/1").await, 0);
    }
    assert_eq!(clients[0].subscribe("other").await, 0);
    let becomes = async |metric: &str, expected: &[(&str, f64)]| {
        let began = std::time::Instant::now();
        loop {
            let found = by_namespace(&gateway, metric).await;
            if found.iter().map(|(name, value)| (&**name, *value)).eq(expected.iter().copied()) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "{metric}: {found:?}, not {expected:?}");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    becomes("subscriptions", &[("(default)", 3.0)]).await;
    becomes("channels", &[("(default)", 2.0)]).await;
    file.write(&format!(
        "{open}[namespaces.rooms]\npattern = \"/rooms/:id\"\nallow_subscribe_anonymous = true\n"
    ));
    assert!(reload(&gateway, "demo").await["result"]["changed"].is_array());
    becomes("subscriptions", &[("(default)", 1.0), ("rooms", 2.0)]).await;
    becomes("channels", &[("(default)", 1.0), ("rooms", 1.0)]).await;
    for client in clients {
        drop(client);
    }
    becomes("subscriptions", &[]).await;
    becomes("channels", &[]).await;
    gateway.terminate().await;
}

#[tokio::test]
async fn bare_endpoints_come_and_go_and_whoever_is_connected_stays() {
    let file = File::new("[raw.paths.\"/old\"]\nchannel = \"chat:room\"\n");
    let gateway = file.serve().await;
    let open = |path: &str| connect_async(format!("ws://{}{path}", gateway.address));
    let (mut connected, _) = open("/old").await.unwrap();
    assert!(open("/new").await.is_err());
    file.write("[raw.paths.\"/new\"]\nchannel = \"chat:room\"\nmessages = \"none\"\n");
    let answer = reload(&gateway, "demo").await;
    let keys: Vec<&str> = answer["result"]["changed"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| change["key"].as_str().unwrap())
        .collect();
    let all = [
        "raw.paths./new.channel",
        "raw.paths./new.messages",
        "raw.paths./new.transport",
        "raw.paths./old.channel",
        "raw.paths./old.messages",
        "raw.paths./old.transport",
    ];
    assert_eq!(keys, all, "{answer}");
    assert!(open("/old").await.is_err());
    open("/new").await.unwrap();
    connected.send(Message::Ping("still here".into())).await.unwrap();
    let ponged = tokio::time::timeout(PATIENCE, connected.next()).await.unwrap().unwrap().unwrap();
    assert_eq!(ponged, Message::Pong("still here".into()));
    gateway.terminate().await;
}

/// Sends a Socket.IO packet and returns the next packet.
async fn socketio_answers(
    socket: &mut WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>,
    packet: &str,
) -> String {
    socket.send(Message::text(packet)).await.unwrap();
    loop {
        let next = tokio::time::timeout(PATIENCE, socket.next()).await.unwrap().unwrap().unwrap();
        match next.to_text().unwrap() {
            "2" => socket.send(Message::text("3")).await.unwrap(),
            text if text.starts_with('0') => {}
            text => return text.to_owned(),
        }
    }
}

#[tokio::test]
async fn rules_of_socketio_change_under_open_connections_and_its_namespaces_with_a_restart() {
    let rules = |rules: &str| format!("[socketio]\nenabled = true\n[socketio.namespaces.\"/\"]\n{rules}");
    let file = File::new(&rules(""));
    let gateway = file.serve().await;
    let open = || connect_async(format!("ws://{}/socket.io/?EIO=4&transport=websocket", gateway.address));
    let (mut socket, _) = open().await.unwrap();
    assert!(socketio_answers(&mut socket, "40").await.starts_with("40"));
    let refused = r#"431[{"status":"error","code":103,"message":"permission denied"}]"#;
    assert_eq!(socketio_answers(&mut socket, r#"421["say",1]"#).await, refused);

    let say = "users_only = true\n[socketio.namespaces.\"/\".events.say]\naction = \"publish\"\nto_sender = false\n";
    file.write(&format!("{}[socketio.namespaces.\"/new\"]\n", rules(say)));
    let answer = reload(&gateway, "demo").await;
    let keys = |of: &str| answer["result"][of].to_string();
    assert!(keys("changed").contains("socketio.namespaces./.events.say"), "{answer}");
    assert!(keys("needs_restart").contains("socketio.namespaces./new"), "{answer}");
    assert!(!keys("needs_restart").contains("events.say"), "{answer}");
    assert_eq!(socketio_answers(&mut socket, r#"421["say",1]"#).await, r#"431[{"status":"ok"}]"#);
    // Present clients stay; new ones are checked by the new rules.
    let (mut late, _) = open().await.unwrap();
    assert!(socketio_answers(&mut late, "40").await.starts_with("44"), "it is for users alone");
    let told = socketio_answers(&mut socket, "40/new,").await;
    assert_eq!(told, r#"44/new,{"message":"Invalid namespace"}"#);
    gateway.terminate().await;
}

#[tokio::test]
async fn clients_of_graphql_that_come_after_a_reload_have_its_fields() {
    let field = |name: &str| {
        format!("[graphql]\nenabled = true\n[graphql.subscriptions.{name}]\nchannel = \"news:{{topic}}\"\n")
    };
    let file = File::new(&format!("{OPEN}{}", field("first")));
    let gateway = file.serve().await;
    let asked = async |field: &str| {
        let mut socket = tokio::net::TcpStream::connect(&gateway.address).await.unwrap();
        let body = json!({ "query": format!("subscription {{ {field}(topic: \"a\") }}") }).to_string();
        let request = format!(
            "POST /graphql HTTP/1.1\r\nHost: gateway\r\nAccept: text/event-stream\r\nContent-Type: \
             application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(socket).lines();
        let first = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
        let mut said = first;
        // A refused client receives the reason at once; an accepted one receives nothing yet.
        while let Ok(Ok(Some(line))) =
            tokio::time::timeout(std::time::Duration::from_millis(300), lines.next_line()).await
        {
            said.push_str(&line);
        }
        said.contains("errors")
    };
    assert_eq!((asked("first").await, asked("second").await), (false, true));
    file.write(&format!("{OPEN}{}", field("second")));
    let answer = reload(&gateway, "demo").await;
    assert!(answer["result"]["changed"].to_string().contains("graphql.subscriptions"), "{answer}");
    assert_eq!((asked("first").await, asked("second").await), (true, false));
    gateway.terminate().await;
}

#[tokio::test]
async fn a_file_with_a_mistake_changes_nothing_and_every_mistake_is_answered() {
    let file = File::new(OPEN);
    let gateway = file.serve().await;
    let mut client = Client::connect(&gateway).await;
    assert_eq!(client.subscribe("news:a").await, 0);
    file.write(
        "[namespaces.later]\nallow_subscribe_anonymous = true\nhistory_size = 1\n[server]\nbacklgo = 1\n",
    );
    gateway.signal(Signal::HUP);
    let told = gateway.logs("the configuration could not be reloaded; the old one stays in use").await;
    assert_eq!(told["level"], "ERROR");
    let answer = reload(&gateway, "demo").await;
    let message = answer["error"]["message"].as_str().unwrap();
    for mistake in ["2 mistakes", "server.backlgo: unknown key", "namespaces.later.history_ttl_s"] {
        assert!(message.contains(mistake), "{answer}");
        assert!(told["error"].as_str().unwrap().contains(mistake), "{told}");
    }
    assert_eq!((client.subscribe("news:b").await, client.subscribe("later:a").await), (0, 102));
    gateway.terminate().await;
}

#[tokio::test]
async fn a_reload_by_the_api_answers_what_has_changed_and_shows_no_secret() {
    let file = File::new(OPEN);
    let gateway = file.serve().await;
    assert_eq!(reload(&gateway, "demo").await, json!({ "result": { "changed": [], "needs_restart": [] } }));
    assert_eq!(reload(&gateway, "wrong").await["error"]["code"], 101);
    file.write(
        "[namespaces.news]\nallow_subscribe_anonymous = true\n[api]\nkeys = [\"another-key\"]\n\
         [http]\nallowed_origins = [\"https://app.example\"]\n[workers]\ncount = 9\n",
    );
    let answer = reload(&gateway, "demo").await;
    let keys = |list: &str| -> Vec<String> {
        let changes = answer["result"][list].as_array().unwrap();
        changes.iter().map(|change| change["key"].as_str().unwrap().to_owned()).collect()
    };
    let changed = ["api.keys", "http.allowed_origins", "namespaces.news.allow_publish_anonymous"];
    assert_eq!(
        (keys("changed"), keys("needs_restart")),
        (changed.map(str::to_owned).into(), vec!["workers.count".into()])
    );
    assert!(!answer.to_string().contains("another-key"), "{answer}");
    assert_eq!(reload(&gateway, "demo").await["error"]["code"], 101, "the old key opens nothing more");
    let again = reload(&gateway, "another-key").await;
    assert_eq!(again["result"]["changed"], json!([]));
    assert_eq!(again["result"]["needs_restart"][0]["key"], "workers.count", "it still waits for a restart");
    let mut client = Client::connect(&gateway).await;
    assert_eq!((client.subscribe("news:a").await, client.publish("news:a").await), (0, 103));
    gateway.terminate().await;
}

/// Returns the configuration of Pusher apps with these keys, secrets and previous secrets.
fn apps(apps: &[(&str, &str, &str)]) -> String {
    let head =
        "[session]\nping_interval_ms = 1000\npong_timeout_ms = 500\n[pusher]\nenabled = true\n".to_owned();
    apps.iter().fold(head, |text, (key, secret, previous)| {
        let section =
            format!("[pusher.apps.{key}]\nid = \"{key}\"\nkey = \"{key}\"\nsecret = \"{secret}\"\n");
        text + &section + &format!("previous_secret = \"{previous}\"\n")
    })
}

/// A client of an app. It answers pings in the background, so that it stays connected while the test does something else.
struct Pusher {
    sending: mpsc::UnboundedSender<Message>,
    heard: mpsc::UnboundedReceiver<Message>,
    _task: AbortOnDropHandle<()>,
    key: &'static str,
    id: String,
}

impl Pusher {
    async fn connect(gateway: &Serving, key: &'static str) -> Self {
        let url = format!("ws://{}/app/{key}?protocol=7", gateway.address);
        let mut socket = connect_async(url).await.unwrap().0;
        let (sending, mut to_send) = mpsc::unbounded_channel();
        let (hears, heard) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            loop {
                let (said, message) = tokio::select! {
                    Some(message) = to_send.recv() => (Some(message), None),
                    Some(Ok(message)) = socket.next() => {
                        let is_ping = message.to_text().is_ok_and(|text| text.contains("\"pusher:ping\""));
                        match is_ping {
                            true => (Some(Message::text(r#"{"event":"pusher:pong"}"#)), None),
                            false => (None, Some(message)),
                        }
                    }
                    else => return,
                };
                // The other end of either channel may be gone.
                if let Some(said) = said {
                    let _ = socket.send(said).await;
                }
                if let Some(message) = message {
                    let _ = hears.send(message);
                }
            }
        });
        let _task = AbortOnDropHandle::new(task);
        let mut client = Self { sending, heard, _task, key, id: String::new() };
        let (event, data) = client.hear().await;
        assert_eq!(event, "pusher:connection_established");
        client.id = data["socket_id"].as_str().unwrap().to_owned();
        client
    }

    async fn next(&mut self) -> Message {
        tokio::time::timeout(PATIENCE, self.heard.recv()).await.unwrap().unwrap()
    }

    /// Returns the next message's event and its decoded data.
    async fn hear(&mut self) -> (String, Value) {
        let message: Value = serde_json::from_str(self.next().await.to_text().unwrap()).unwrap();
        let event = message["event"].as_str().unwrap().to_owned();
        let data = message["data"].as_str().map(|data| serde_json::from_str(data).unwrap());
        (event, data.unwrap_or_else(|| message["data"].clone()))
    }

    /// Returns whether the client may subscribe to a channel with a signature made with this secret.
    async fn enters(&mut self, channel: &str, secret: &str) -> bool {
        let signature = sign(secret, &format!("{}:{channel}", self.id));
        let data = json!({ "channel": channel, "auth": format!("{}:{signature}", self.key) });
        let message = json!({ "event": "pusher:subscribe", "data": data });
        self.sending.send(Message::text(message.to_string())).unwrap();
        let (event, data) = self.hear().await;
        match event.as_str() {
            "pusher_internal:subscription_succeeded" => true,
            "pusher:subscription_error" => false,
            _ => panic!("{event}: {data}"),
        }
    }
}

#[tokio::test]
async fn apps_of_pusher_come_and_go_and_their_secrets_change_over() {
    let file = File::new(&apps(&[("one", "first", ""), ("other", "x", "")]));
    let gateway = file.serve().await;
    let (mut client, mut doomed) =
        (Pusher::connect(&gateway, "one").await, Pusher::connect(&gateway, "other").await);
    assert!(client.enters("private-a", "first").await && !client.enters("private-b", "second").await);
    file.write(&apps(&[("one", "second", "first"), ("other", "x", ""), ("new", "y", "")]));
    let answer = reload(&gateway, "demo").await;
    assert_eq!(answer["result"]["needs_restart"], json!([]), "{answer}");
    assert!(!answer.to_string().contains("second"), "{answer}");
    assert!(client.enters("private-b", "second").await && client.enters("private-c", "first").await);
    assert!(Pusher::connect(&gateway, "new").await.enters("private-a", "y").await);
    assert!(doomed.enters("private-a", "x").await);

    file.write(&apps(&[("one", "second", "")]));
    reload(&gateway, "demo").await;
    let (event, data) = doomed.hear().await;
    assert_eq!((event.as_str(), &data["code"]), ("pusher:error", &json!(4001)));
    let Message::Close(Some(frame)) = doomed.next().await else { panic!("it is closed") };
    assert_eq!(u16::from(frame.code), 4001);
    assert!(client.enters("private-d", "second").await && !client.enters("private-e", "first").await);
    let mut late = connect_async(format!("ws://{}/app/new?protocol=7", gateway.address)).await.unwrap().0;
    let told: Value = serde_json::from_str(late.next().await.unwrap().unwrap().to_text().unwrap()).unwrap();
    assert_eq!(told["data"]["code"], 4001);
    gateway.terminate().await;
}

fn sign(secret: &str, text: &str) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    ring::hmac::sign(&key, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Accepts one request, and returns its signature and its body.
async fn posted(listener: &TcpListener) -> (String, String) {
    let taking = async {
        let mut stream = BufReader::new(listener.accept().await.unwrap().0);
        let (mut signature, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.unwrap();
            match line.trim().split_once(": ").map(|(name, value)| (name.to_lowercase(), value)) {
                Some((name, value)) if name == "x-pusher-signature" => value.clone_into(&mut signature),
                Some((name, value)) if name == "content-length" => length = value.parse().unwrap(),
                None if line.trim().is_empty() => break,
                _ => {}
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        let answer = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
        stream.get_mut().write_all(answer).await.unwrap();
        (signature, String::from_utf8(body).unwrap())
    };
    tokio::time::timeout(PATIENCE, taking).await.unwrap()
}

#[tokio::test]
async fn webhooks_are_signed_with_the_secret_of_the_moment_and_change_with_a_restart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let webhook = |path: &str| {
        let address = listener.local_addr().unwrap();
        format!(
            "[pusher.apps.one.webhooks.main]\nurl = \"http://{address}{path}\"\ntypes = [\"channel_occupied\"]\n"
        )
    };
    let file = File::new(&(apps(&[("one", "first", "")]) + &webhook("/")));
    let gateway = file.serve().await;
    let mut client = Pusher::connect(&gateway, "one").await;
    assert!(client.enters("private-a", "first").await);
    let (signature, body) = posted(&listener).await;
    assert_eq!(signature, sign("first", &body));
    file.write(&(apps(&[("one", "second", "first")]) + &webhook("/other")));
    let answer = reload(&gateway, "demo").await;
    let waits = &answer["result"]["needs_restart"];
    assert_eq!(waits.as_array().unwrap().len(), 1, "{answer}");
    assert_eq!(waits[0]["key"], "pusher.apps.one.webhooks.main.url", "{answer}");
    assert!(client.enters("private-b", "first").await);
    let (signature, body) = posted(&listener).await;
    assert_eq!(signature, sign("second", &body));
    assert!(body.contains(r#""events":[{"name":"channel_occupied","channel":"private-b"}]"#), "{body}");
    gateway.terminate().await;
}

#[tokio::test]
async fn an_app_that_has_another_namespace_keeps_its_webhooks() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let webhook = format!(
        "[pusher.apps.one.webhooks.main]\nurl = \"http://{address}/\"\ntypes = [\"channel_occupied\"]\n"
    );
    let file = File::new(&(apps(&[("one", "first", "")]) + &webhook));
    let gateway = file.serve().await;
    let mut client = Pusher::connect(&gateway, "one").await;
    assert!(client.enters("private-a", "first").await);
    assert!(posted(&listener).await.1.contains("private-a"));
    file.write(&(apps(&[("one", "first", "")]) + "namespace = \"elsewhere\"\n" + &webhook));
    let answer = reload(&gateway, "demo").await;
    assert_eq!(answer["result"]["needs_restart"], json!([]), "{answer}");
    let mut client = Pusher::connect(&gateway, "one").await;
    assert!(client.enters("private-b", "first").await);
    let (signature, body) = posted(&listener).await;
    assert_eq!(signature, sign("first", &body));
    assert!(body.contains(r#""events":[{"name":"channel_occupied","channel":"private-b"}]"#), "{body}");
    gateway.terminate().await;
}
