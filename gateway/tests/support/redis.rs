//! A real Redis of a test's own: on a free port, in a directory of its own, gone when the test is.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::{FromRedisValue, RedisResult};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A Redis takes far less to start; a loaded machine may take long.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// Another process can take a free port before Redis does.
const START_ATTEMPTS: u32 = 5;

#[derive(Debug)]
pub struct RedisServer {
    port: u16,
    directory: TempDir,
    process: Option<Child>,
    options: Vec<String>,
}

impl RedisServer {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// With options as on the command line of `redis-server`.
    pub fn start_with(options: &[&str]) -> Self {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        for _ in 0..START_ATTEMPTS {
            let directory = tempfile::tempdir().expect("a directory for Redis");
            let mut server = Self { port: free_port(), directory, process: None, options: options.clone() };
            if server.launch() {
                return server;
            }
        }
        panic!("redis-server did not start on any of {START_ATTEMPTS} ports");
    }

    /// A Sentinel that watches another.
    pub fn start_sentinel(watched: &Self) -> Self {
        for _ in 0..START_ATTEMPTS {
            let directory = tempfile::tempdir().expect("a directory for a Sentinel");
            let file = directory.path().join("sentinel.conf");
            let monitor = format!("sentinel monitor watched 127.0.0.1 {} 1\n", watched.port);
            std::fs::write(&file, monitor).expect("a file of settings");
            let file = file.to_str().expect("a text").to_owned();
            let mut server = Self { port: free_port(), directory, process: None, options: Vec::new() };
            let options = [&file, "--sentinel", "--port", &server.port.to_string(), "--bind", "127.0.0.1"];
            if server.launch_with(&options) {
                return server;
            }
        }
        panic!("no Sentinel started on any of {START_ATTEMPTS} ports");
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// Runs a command on a connection of its own.
    pub fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_ask(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Kills it without a chance to save anything.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts it again on the same port, with whatever its directory holds.
    pub fn restart(&mut self) {
        self.kill();
        assert!(self.launch(), "redis-server did not start again on port {}", self.port);
    }

    /// Starts it again with what its directory holds and these options beside its own. Does not wait until it has
    /// read all of it.
    pub fn restart_with(&mut self, options: &[&str]) {
        self.kill();
        self.options.extend(options.iter().map(|option| (*option).to_owned()));
        assert!(self.launch(), "redis-server did not start again on port {}", self.port);
    }

    /// Stops it in the middle of whatever it does, its connections open.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("Redis runs");
        kill_process(Pid::from_child(process), signal).expect("Redis takes signals");
    }

    fn launch(&mut self) -> bool {
        let (port, options) = (self.port.to_string(), self.options.clone());
        let directory = self.directory.path().to_str().expect("a text").to_owned();
        let mut all = vec!["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"];
        all.extend(["--daemonize", "no", "--loglevel", "warning", "--dir", &directory]);
        all.extend(options.iter().map(String::as_str));
        self.launch_with(&all)
    }

    fn loads_slowly(&self) -> bool {
        self.options.iter().any(|option| option == "--key-load-delay")
    }

    fn launch_with(&mut self, options: &[&str]) -> bool {
        let process =
            Command::new("redis-server").args(options).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.process = match process {
            Ok(process) => Some(process),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                panic!("redis-server is not installed: `apt-get install redis-server`")
            }
            Err(error) => panic!("redis-server cannot be started: {error}"),
        };
        let deadline = Instant::now() + START_DEADLINE;
        while Instant::now() < deadline {
            if self.process.as_mut().is_some_and(|process| process.try_wait().is_ok_and(|end| end.is_some()))
            {
                return false;
            }
            match self.try_ask::<String>(&["PING"]) {
                Ok(answer) if answer == "PONG" => return true,
                Err(error) if error.code() == Some("LOADING") && self.loads_slowly() => return true,
                _ => {}
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// As [`RedisServer::ask`], where no may be the answer.
    pub fn try_ask<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(2))?;
        connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        command.query(&mut connection)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody listens on at the moment.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}
