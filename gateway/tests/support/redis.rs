//! A real Redis for tests: on a free port, in its own directory, both removed on drop.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use redis::{FromRedisValue, RedisResult};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A server starts much faster; a busy machine may take long.
const START_DEADLINE: Duration = Duration::from_secs(20);

const SENTINEL_FILE: &str = "sentinel.conf";

/// Another process can take a free port before Redis does.
const START_ATTEMPTS: u32 = 5;

#[derive(Debug)]
pub struct RedisServer {
    program: PathBuf,
    port: u16,
    directory: TempDir,
    process: Option<Child>,
    options: Vec<String>,
    is_sentinel: bool,
    /// The password of the default user.
    password: Option<String>,
}

impl RedisServer {
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a server with options as on the command line of `redis-server`.
    pub fn start_with(options: &[&str]) -> Self {
        Self::start_program(&program(), options)
    }

    /// Starts another implementation that takes the same options.
    pub fn start_program(program: &Path, options: &[&str]) -> Self {
        Self::start_in(program, options, || tempfile::tempdir().expect("a directory for Redis"))
    }

    /// Starts a server with a copy of another server's data.
    pub fn start_from(backup: &Path, program: &Path, options: &[&str]) -> Self {
        Self::start_in(program, options, || {
            let directory = tempfile::tempdir().expect("a directory for Redis");
            std::fs::copy(backup, directory.path().join("dump.rdb")).expect("a backup");
            directory
        })
    }

    /// Starts a Sentinel that knows a server as `watched`, with further settings, and that decides alone.
    pub fn start_sentinel(watched: &Self, settings: &str) -> Self {
        let monitor = format!("sentinel monitor watched 127.0.0.1 {} 1\n{settings}", watched.port);
        Self::start_sentinel_with(&watched.program, &monitor)
    }

    /// Starts a Sentinel with these settings.
    pub fn start_sentinel_with(program: &Path, settings: &str) -> Self {
        for _ in 0..START_ATTEMPTS {
            let directory = tempfile::tempdir().expect("a directory for Sentinel");
            std::fs::write(directory.path().join(SENTINEL_FILE), format!("{settings}\n"))
                .expect("a file of settings");
            let password = settings.lines().find_map(|line| line.strip_prefix("requirepass "));
            let mut server = Self {
                program: program.to_owned(),
                port: free_port(),
                directory,
                process: None,
                options: Vec::new(),
                is_sentinel: true,
                password: password.map(str::to_owned),
            };
            if server.launch() {
                return server;
            }
        }
        panic!("{program:?} did not start as Sentinel on any of {START_ATTEMPTS} ports");
    }

    fn start_in(program: &Path, options: &[&str], directory: impl Fn() -> TempDir) -> Self {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        for _ in 0..START_ATTEMPTS {
            let mut server = Self {
                program: program.to_owned(),
                port: free_port(),
                directory: directory(),
                process: None,
                options: options.clone(),
                is_sentinel: false,
                password: options.iter().skip_while(|option| *option != "--requirepass").nth(1).cloned(),
            };
            if server.launch() {
                return server;
            }
        }
        panic!("{program:?} did not start on any of {START_ATTEMPTS} ports");
    }

    /// Starts a server on this port, which must be free.
    pub fn start_at(port: u16, options: &[&str]) -> Self {
        let mut server = Self {
            program: program(),
            port,
            directory: tempfile::tempdir().expect("a directory for Redis"),
            process: None,
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            is_sentinel: false,
            password: None,
        };
        assert!(server.launch(), "redis-server did not start on port {port}");
        server
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        match &self.password {
            Some(password) => format!("redis://:{password}@127.0.0.1:{}", self.port),
            None => format!("redis://127.0.0.1:{}", self.port),
        }
    }

    pub fn program(&self) -> &Path {
        &self.program
    }

    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// Runs a command on a connection of its own.
    pub fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_ask(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Kills the server without a chance to save anything.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Starts the server again on the same port, with the data in its directory.
    pub fn restart(&mut self) {
        self.kill();
        assert!(self.launch(), "redis-server did not start again on port {}", self.port);
    }

    /// Starts the server again with its data and further options. Does not wait until the data is loaded.
    pub fn restart_with(&mut self, options: &[&str]) {
        self.kill();
        self.options.extend(options.iter().map(|option| (*option).to_owned()));
        assert!(self.launch(), "redis-server did not start again on port {}", self.port);
    }

    /// Suspends the process, with its connections open.
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

    fn loads_slowly(&self) -> bool {
        self.options.iter().any(|option| option == "--key-load-delay")
    }

    fn launch(&mut self) -> bool {
        let mut command = Command::new(&self.program);
        if self.is_sentinel {
            command.arg(self.directory.path().join(SENTINEL_FILE)).arg("--sentinel");
        } else {
            command.args(["--save", "", "--appendonly", "no"]);
        }
        let process = command
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--daemonize", "no", "--loglevel", "warning"])
            .arg("--dir")
            .arg(self.directory.path())
            .args(&self.options)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.process = match process {
            Ok(process) => Some(process),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                panic!("{:?} is not there: `scripts/test setup rust` brings it", self.program)
            }
            Err(error) => panic!("{:?} cannot be started: {error}", self.program),
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

    /// Like [`RedisServer::ask`], but the command may fail.
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

/// The program that tests run by default: `scripts/servers` substitutes other implementations.
pub fn program() -> PathBuf {
    std::env::var_os("TIDEGATE_TEST_REDIS").map_or_else(|| "redis-server".into(), PathBuf::from)
}

/// Returns a port that nobody listens on at the moment.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}
