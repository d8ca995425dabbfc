//! A real NATS server for tests, with JetStream: on a free port, in its own directory, both removed on drop.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A server starts much faster; a busy machine may take long.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// Another process can take a free port before the server does.
const START_ATTEMPTS: u32 = 5;

/// The timeout of every request to a server.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct NatsServer {
    program: PathBuf,
    port: u16,
    directory: TempDir,
    process: Option<Child>,
    settings: String,
    /// The credentials of the tests' own connections, as fields of a `CONNECT`.
    login: String,
}

impl NatsServer {
    pub fn start() -> Self {
        Self::start_with("", "")
    }

    /// Starts a server with further lines of configuration, and credentials for the tests' own connections: fields of a
    /// `CONNECT`, such as `"auth_token":"x",`.
    pub fn start_with(settings: &str, login: &str) -> Self {
        Self::start_from(None, settings, login)
    }

    /// Starts the server of another release.
    pub fn start_of(program: &Path) -> Self {
        Self::start_program(program, None, "", "")
    }

    /// Starts a server with a copy of another server's data.
    pub fn start_from(copy: Option<&Path>, settings: &str, login: &str) -> Self {
        Self::start_program(Path::new("nats-server"), copy, settings, login)
    }

    fn start_program(program: &Path, copy: Option<&Path>, settings: &str, login: &str) -> Self {
        for _ in 0..START_ATTEMPTS {
            let directory = tempfile::tempdir().expect("a directory for NATS");
            if let Some(copy) = copy {
                copy_all(copy, &directory.path().join("store"));
            }
            let mut server = Self {
                program: program.to_owned(),
                port: free_port(),
                directory,
                process: None,
                settings: settings.to_owned(),
                login: login.to_owned(),
            };
            if server.launch() {
                return server;
            }
        }
        panic!("nats-server did not start on any of {START_ATTEMPTS} ports");
    }

    /// Starts a cluster of this many servers, of the release that `scripts/test` installs: the release in Debian 12
    /// does not honour the conditions of replicated writes.
    pub fn start_cluster(count: usize) -> Vec<Self> {
        Self::start_cluster_of(&recent_program(), count)
    }

    pub fn start_cluster_of(program: &Path, count: usize) -> Vec<Self> {
        let routes: Vec<u16> = (0..count).map(|_| free_port()).collect();
        let all: Vec<String> = routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let mut servers: Vec<Self> = (routes.iter().enumerate())
            .map(|(at, port)| Self {
                program: program.to_owned(),
                port: free_port(),
                directory: tempfile::tempdir().expect("a directory for NATS"),
                process: None,
                settings: format!(
                    "server_name: s{at}\ncluster {{ name: c, listen: \"127.0.0.1:{port}\", routes: {all:?} }}"
                ),
                login: String::new(),
            })
            .collect();
        // No server answers before most of them run.
        servers.iter_mut().for_each(Self::spawn);
        assert!(servers.iter_mut().all(Self::answers), "nats-server did not become a cluster");
        servers
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Returns the directory of its streams.
    pub fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    /// Kills the server without a chance to save anything.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts the server again on the same port, with the data in its directory.
    pub fn restart(&mut self) {
        self.kill();
        assert!(self.launch(), "nats-server did not start again on port {}", self.port);
    }

    /// Starts the server again with the data of this copy.
    pub fn restart_from(&mut self, copy: &Path) {
        self.kill();
        std::fs::remove_dir_all(self.store()).expect("its store goes");
        copy_all(copy, &self.store());
        assert!(self.launch(), "nats-server did not start again on port {}", self.port);
    }

    /// Stops the server, copies its data, and starts it again.
    pub fn copy_while_down(&mut self, to: &Path) {
        self.signal(Signal::TERM);
        if let Some(mut process) = self.process.take() {
            let _ = process.wait();
        }
        copy_all(&self.store(), to);
        assert!(self.launch(), "nats-server did not start again on port {}", self.port);
    }

    /// Suspends the process, with its connections open.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("NATS runs");
        kill_process(Pid::from_child(process), signal).expect("NATS takes signals");
    }

    /// Sends a request on a connection of its own, and returns the answer.
    pub fn ask(&self, subject: &str, payload: &str) -> String {
        self.try_ask(subject, payload).unwrap_or_else(|error| panic!("{subject}: {error}"))
    }

    /// Publishes on a connection of its own, with headers if there are any.
    pub fn add(&self, subject: &str, headers: &[(&str, &str)], payload: &[u8]) -> String {
        self.exchange(subject, headers, payload).unwrap_or_else(|error| panic!("{subject}: {error}"))
    }

    /// Publishes messages, in order, and waits until each is stored.
    pub fn add_all(&self, messages: &[(String, Vec<u8>)]) {
        let mut session = self.session().expect("a connection");
        for (subject, payload) in messages {
            session.send(subject, &[], payload).expect("it is sent");
        }
        for (subject, _) in messages {
            let (_, answer) = session.answer().expect("an answer");
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.contains("\"seq\""), "{subject}: {answer}");
        }
    }

    /// Returns all messages of a stream, in order, as heads and bodies. Empty where there is no such stream.
    pub fn all_of(&self, stream: &str) -> Vec<(String, Vec<u8>)> {
        let consumer = "{\"deliver_policy\":\"all\",\"ack_policy\":\"none\"}";
        let request = format!("{{\"stream_name\":\"{stream}\",\"config\":{consumer}}}");
        let made = self.ask(&format!("$JS.API.CONSUMER.CREATE.{stream}"), &request);
        let made: serde_json::Value = serde_json::from_str(&made).expect("JSON");
        let (Some(name), Some(count)) = (made["name"].as_str(), made["num_pending"].as_u64()) else {
            return Vec::new();
        };
        let mut session = self.session().expect("a connection");
        let next = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}");
        session.send(&next, &[], format!("{{\"batch\":{count}}}").as_bytes()).expect("it is sent");
        (0..count).map(|_| session.answer().expect("a message")).collect()
    }

    /// Like [`NatsServer::ask`], but the answer may be missing.
    pub fn try_ask(&self, subject: &str, payload: &str) -> std::io::Result<String> {
        self.exchange(subject, &[], payload.as_bytes())
    }

    fn exchange(&self, subject: &str, headers: &[(&str, &str)], payload: &[u8]) -> std::io::Result<String> {
        let mut session = self.session()?;
        session.send(subject, headers, payload)?;
        let (head, body) = session.answer()?;
        Ok(head + &String::from_utf8_lossy(&body))
    }

    fn session(&self) -> std::io::Result<Session> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
        stream.set_nodelay(true)?;
        let mut session = Session { reader: BufReader::new(stream.try_clone()?), writer: stream };
        session.reader.read_line(&mut String::new())?;
        let connect = format!(
            "CONNECT {{{}\"verbose\":false,\"headers\":true,\"no_responders\":true}}\r\nSUB answer 1\r\n",
            self.login
        );
        session.writer.write_all(connect.as_bytes())?;
        Ok(session)
    }

    fn launch(&mut self) -> bool {
        self.spawn();
        self.answers()
    }

    fn spawn(&mut self) {
        let file = self.directory.path().join("nats.conf");
        let settings = format!(
            "listen: \"127.0.0.1:{}\"\njetstream {{ store_dir: {:?} }}\n{}\n",
            self.port,
            self.store(),
            self.settings
        );
        std::fs::write(&file, settings).expect("a file of settings");
        let process = Command::new(&self.program)
            .arg("--config")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.process = match process {
            Ok(process) => Some(process),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                panic!("{:?} is not there: `scripts/test setup rust` brings it", self.program)
            }
            Err(error) => panic!("nats-server cannot be started: {error}"),
        };
    }

    fn answers(&mut self) -> bool {
        let deadline = Instant::now() + START_DEADLINE;
        while Instant::now() < deadline {
            if self.process.as_mut().is_some_and(|process| process.try_wait().is_ok_and(|end| end.is_some()))
            {
                return false;
            }
            if self.settings.contains("verify") || self.settings.contains("operator:") {
                // The tests' own connections have no certificate, and no key to sign with.
                if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
                    return true;
                }
            } else if self.try_ask("$JS.API.INFO", "").is_ok_and(|answer| !answer.contains("503")) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

/// A connection of the tests.
struct Session {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
}

impl Session {
    fn send(&mut self, subject: &str, headers: &[(&str, &str)], payload: &[u8]) -> std::io::Result<()> {
        let head: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = if head.is_empty() { head } else { format!("NATS/1.0\r\n{head}\r\n") };
        let (verb, sizes) = match head.len() {
            0 => ("PUB", payload.len().to_string()),
            length => ("HPUB", format!("{length} {}", length + payload.len())),
        };
        let line = format!("{verb} {subject} answer {sizes}\r\n{head}");
        self.writer.write_all(&[line.as_bytes(), payload, b"\r\n"].concat())
    }

    /// Returns the head, if there is one, and the body.
    fn answer(&mut self) -> std::io::Result<(String, Vec<u8>)> {
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |text: &str| text.parse::<usize>().map_err(|_| ErrorKind::InvalidData);
            let (head, size) = match words.as_slice() {
                ["MSG", .., size] => (0, number(size)?),
                ["HMSG", .., head, size] => (number(head)?, number(size)?),
                ["PING"] => {
                    self.writer.write_all(b"PONG\r\n")?;
                    continue;
                }
                ["-ERR", ..] => return Err(std::io::Error::other(line.clone())),
                _ => continue,
            };
            let mut answer = vec![0; size + 2];
            self.reader.read_exact(&mut answer)?;
            answer.truncate(size);
            let body = answer.split_off(head);
            return Ok((String::from_utf8_lossy(&answer).into_owned(), body));
        }
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let place = to.join(entry.file_name());
        if entry.file_type().expect("its kind").is_dir() {
            copy_all(&entry.path(), &place);
        } else {
            std::fs::copy(entry.path(), place).expect("a copy");
        }
    }
}

/// Returns the program that `scripts/test` takes from a Python package.
pub fn recent_program() -> PathBuf {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(root).join("target"), PathBuf::from);
    target.join("tools/nats-server")
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}
