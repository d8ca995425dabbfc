//! A node for tests, on free ports: in this process, or as a process of its own.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tidegate::app::App;
use tidegate::auth::{TokenRequest, issue};
use tidegate::config::{Config, Sources};
use tokio::runtime::Runtime;

use crate::http::{self, Answer};

/// The timeout of everything that tests wait for, generous for a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The key of the server API.
pub const KEY: &str = "key-of-the-tests";

/// The base configuration, which allows everything to everyone. A test adds what it forbids.
const BASE: &str = r#"
[server]
listen = "127.0.0.1:0"
[internal]
listen = "127.0.0.1:0"
[workers]
count = 2
[auth]
hmac_secret = "a secret of the tests, thirty-two bytes or more"
allow_anonymous = true
[api]
keys = ["key-of-the-tests"]
[drain]
notice_ms = 0
grace_ms = 20
linger_ms = 500
[channels]
allow_subscribe = true
allow_subscribe_anonymous = true
allow_publish = true
allow_publish_anonymous = true
allow_publish_for_client = true
[namespaces.stream]
history_size = 5000
history_ttl_s = 600
force_recovery = true
presence = true
allow_subscribe = true
allow_subscribe_anonymous = true
allow_publish = true
allow_publish_anonymous = true
allow_publish_for_client = true
allow_history = true
allow_presence = true
"#;

/// The configuration of a node that is not started yet. Begin with [`gateway`].
#[derive(Debug, Default)]
pub struct Description {
    toml: String,
    environment: BTreeMap<String, String>,
}

/// `gateway().with("limits.connections_max", 5).start().await`
pub fn gateway() -> Description {
    Description { toml: BASE.to_owned(), ..Description::default() }
}

impl Description {
    /// Sets one key, with a value as its environment variable takes it.
    pub fn with(mut self, key: &str, value: impl ToString) -> Self {
        let variable = format!("TIDEGATE_{}", key.to_uppercase().replace('.', "__"));
        self.environment.insert(variable, value.to_string());
        self
    }

    /// Adds sections that have no environment variable.
    pub fn and(mut self, toml: &str) -> Self {
        self.toml.push_str(toml);
        self
    }

    /// Uses this Redis as the broker, which other nodes may share.
    pub fn over(self, redis_url: &str) -> Self {
        self.with("broker.kind", "redis").with("redis.url", redis_url)
    }

    /// Uses this NATS as the broker.
    pub fn over_nats(self, url: &str) -> Self {
        self.with("broker.kind", "nats").with("nats.url", url)
    }

    /// Uses the Redis that Sentinels at these ports name as the master `watched`.
    pub fn over_sentinels(self, ports: impl IntoIterator<Item = u16>) -> Self {
        let addresses: Vec<String> = ports.into_iter().map(|port| format!("127.0.0.1:{port}")).collect();
        self.with("broker.kind", "redis")
            .with("redis.mode", "sentinel")
            .with("redis.addresses", addresses.join(","))
            .with("redis.sentinel_master", "watched")
    }

    /// Uses several Redis servers that do not know of each other, at these ports.
    pub fn over_shards(self, ports: impl IntoIterator<Item = u16>) -> Self {
        let addresses: Vec<String> = ports.into_iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let described = self.with("broker.kind", "redis").with("redis.mode", "shards");
        described.with("redis.addresses", addresses.join(","))
    }

    /// Uses a Redis Cluster that has nodes at these addresses.
    pub fn over_cluster(self, addresses: &[String]) -> Self {
        let described = self.with("broker.kind", "redis").with("redis.mode", "cluster");
        described.with("redis.addresses", addresses.join(","))
    }

    fn load(&self, directory: &TempDir) -> Config {
        let file = directory.path().join("gateway.toml");
        std::fs::write(&file, &self.toml).expect("a file of settings");
        let environment = self.environment.clone();
        let sources = Sources { file: Some(&file), environment, ..Sources::default() };
        Config::load(&sources).unwrap_or_else(|mistakes| panic!("{mistakes}"))
    }

    /// Starts the node in this process.
    pub async fn start(self) -> Gateway {
        let directory = tempfile::tempdir().expect("a directory");
        let config = self.load(&directory);
        let auth = config.auth.clone();
        let started = tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime");
            let app = App::start(config, None, runtime.handle().clone()).expect("the node starts");
            (app, runtime)
        });
        let (app, runtime) = started.await.expect("the node starts");
        Gateway {
            address: app.client_address(),
            api: app.api_address(),
            internal: app.internal_address(),
            auth,
            run: Run::Here(Box::new(Some(app)), Some(runtime)),
            _directory: directory,
        }
    }

    /// Starts the program as a process, and waits until it serves.
    pub async fn run(self) -> Gateway {
        let directory = tempfile::tempdir().expect("a directory");
        let auth = self.load(&directory).auth;
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .arg("serve")
            .arg("--config")
            .arg(directory.path().join("gateway.toml"))
            .env_clear()
            .envs(&self.environment)
            .env("TIDEGATE_TELEMETRY__LOG_FORMAT", "json")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let stderr = child.stderr.take().expect("it was asked for");
        let written = log.clone();
        std::thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(Result::ok).for_each(|line| written.lock().push(line));
        });
        let started = Instant::now();
        let (address, api, internal) = loop {
            if let Some(addresses) = log.lock().iter().find_map(|line| serving(line)) {
                break addresses;
            }
            let ended = child.try_wait().expect("it can be asked");
            assert!(ended.is_none() && started.elapsed() < PATIENCE, "it does not serve: {:?}", log.lock());
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        Gateway { address, api, internal, auth, run: Run::There(child, log), _directory: directory }
    }
}

/// A running node, which ends when this is dropped.
#[derive(Debug)]
pub struct Gateway {
    pub address: SocketAddr,
    pub api: SocketAddr,
    pub internal: SocketAddr,
    auth: tidegate::auth::AuthConfig,
    run: Run,
    _directory: TempDir,
}

#[derive(Debug)]
enum Run {
    Here(Box<Option<App>>, Option<Runtime>),
    There(Child, Arc<Mutex<Vec<String>>>),
}

impl Gateway {
    /// Issues a token for this user.
    pub fn token(&self, user: &str) -> String {
        let request = TokenRequest { user: user.to_owned(), ..TokenRequest::default() };
        issue(&self.auth, 1_700_000_000, &request).expect("a token")
    }

    /// Returns the node, if it runs in this process.
    pub fn node(&self) -> Arc<tidegate::node::Node> {
        match &self.run {
            Run::Here(app, _) => app.as_ref().as_ref().expect("it runs").node().clone(),
            Run::There(..) => panic!("it runs in another process"),
        }
    }

    /// Calls a method of the server API, which must succeed.
    pub async fn api(&self, method: &str, body: Value) -> Value {
        let answer = self.try_api(method, &body).await;
        assert_eq!(answer.status, 200, "{method} {body}: {answer:?}");
        let answer: Value = serde_json::from_slice(&answer.body).expect("JSON");
        assert!(answer.get("error").is_none(), "{method} {body}: {answer}");
        answer["result"].clone()
    }

    /// Calls a method of the server API, which may be refused.
    pub async fn try_api(&self, method: &str, body: &Value) -> Answer {
        let headers = format!("X-API-Key: {KEY}\r\nContent-Type: application/json\r\n");
        http::request(self.api, "POST", &format!("/api/{method}"), &headers, &body.to_string()).await
    }

    /// Publishes over the server API. Returns the offset.
    pub async fn publish(&self, channel: &str, data: Value) -> u64 {
        let result = self.api("publish", serde_json::json!({ "channel": channel, "data": data })).await;
        result["offset"].as_u64().unwrap_or(0)
    }

    /// Requests a path of the internal listener.
    pub async fn internal(&self, path: &str) -> Answer {
        http::request(self.internal, "GET", path, "", "").await
    }

    /// Returns the sum of a metric over all its labels, or the value of one line: `tidegate_closes_total{reason="slow"}`.
    pub async fn metric(&self, name: &str) -> f64 {
        let answer = self.internal("/metrics").await;
        let text = String::from_utf8(answer.body).expect("text");
        let values = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let matches = series == name || series.split_once('{').is_some_and(|(bare, _)| bare == name);
            matches.then(|| value.parse::<f64>().expect("a number"))
        });
        let values: Vec<f64> = values.collect();
        assert!(!values.is_empty(), "there is no metric {name}");
        values.iter().sum()
    }

    /// Waits until a metric has this value.
    pub async fn metric_becomes(&self, name: &str, value: f64) {
        let mut last = f64::NAN;
        let start = Instant::now();
        while last != value {
            assert!(start.elapsed() < PATIENCE, "{name} is {last}, not {value}");
            last = self.metric(name).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn is_ready(&self) -> bool {
        self.internal("/readyz").await.status == 200
    }

    /// Drains the node in this process to its end.
    pub async fn drain(mut self) {
        self.end().await;
    }

    async fn end(&mut self) {
        let Run::Here(app, runtime) = &mut self.run else { panic!("a program is signalled") };
        let (app, runtime) = (app.take(), runtime.take());
        let end = move || {
            app.into_iter().for_each(App::drain);
            runtime.into_iter().for_each(Runtime::shutdown_background);
        };
        tokio::task::spawn_blocking(end).await.expect("the node stops");
    }

    pub fn signal(&self, signal: Signal) {
        let Run::There(child, _) = &self.run else { panic!("the node runs in this process") };
        kill_process(Pid::from_child(child), signal).expect("the program takes signals");
    }

    /// Waits until the process ends. Returns its status, and its log.
    pub async fn ended(mut self) -> (ExitStatus, Vec<String>) {
        let Run::There(child, log) = &mut self.run else { panic!("the node runs in this process") };
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("it can be asked") {
                return (status, log.lock().clone());
            }
            assert!(start.elapsed() < PATIENCE, "it does not end: {:?}", log.lock());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Returns the process of the node, which is this one where the node runs here.
    pub fn process(&self) -> u32 {
        match &self.run {
            Run::Here(..) => std::process::id(),
            Run::There(child, _) => child.id(),
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        match &mut self.run {
            Run::Here(app, runtime) => {
                let (app, runtime) = (app.take(), runtime.take());
                // Draining blocks, and a test may be dropping this in the middle of its own runtime.
                std::thread::spawn(move || {
                    app.into_iter().for_each(App::drain);
                    runtime.into_iter().for_each(Runtime::shutdown_background);
                });
            }
            Run::There(child, _) => {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

fn serving(line: &str) -> Option<(SocketAddr, SocketAddr, SocketAddr)> {
    let line: Value = serde_json::from_str(line).ok()?;
    let address = |name: &str| line.get(name)?.as_str()?.parse().ok();
    (line["message"] == "serving").then_some(())?;
    Some((address("client_address")?, address("api_address")?, address("internal_address")?))
}

/// Waits until the condition holds.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !holds().await {
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
