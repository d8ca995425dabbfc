//! The subcommand that asks a node whether it is well, for containers without another HTTP client.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use http::Uri;

/// The most bytes that are read of an answer: it is a line or two.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Check whether a running node is ready: exit code 0 if it is, 1 if it is not.
#[derive(Clone, Debug, Args)]
pub struct HealthArgs {
    /// URL of `/readyz` or `/livez` on the internal listener.
    #[arg(long, default_value = "http://127.0.0.1:8001/readyz")]
    pub url: Uri,
    /// Time limit for the answer, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub timeout_ms: u64,
}

/// Why a node does not count as healthy.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    #[error("{0} is not a URL such as http://127.0.0.1:8001/readyz")]
    Url(Uri),
    #[error("{url} cannot be reached: {error}")]
    Unreachable { url: Uri, error: io::Error },
    #[error("{url} did not answer within {} ms", .after.as_millis())]
    Late { url: Uri, after: Duration },
    #[error("the answer of {0} is not HTTP")]
    Unreadable(Uri),
    #[error("{url} answered {status}: {body}")]
    Unwell { url: Uri, status: u16, body: String },
}

/// Asks the node, and prints what is wrong on standard error.
pub fn command(args: &HealthArgs) -> ExitCode {
    match ask(&args.url, Duration::from_millis(args.timeout_ms)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidegate health: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Checks that the answer is a success. Uses plain sockets: a probe that runs every few seconds should cost next to nothing.
pub fn ask(url: &Uri, within: Duration) -> Result<(), HealthError> {
    let (Some("http"), Some(host)) = (url.scheme_str(), url.host()) else {
        return Err(HealthError::Url(url.clone()));
    };
    let deadline = Instant::now() + within;
    let answer = exchange(url, host, deadline).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            HealthError::Late { url: url.clone(), after: within }
        }
        _ => HealthError::Unreachable { url: url.clone(), error },
    })?;
    let (status, body) = read(&answer).ok_or_else(|| HealthError::Unreadable(url.clone()))?;
    match status {
        200..300 => Ok(()),
        _ => Err(HealthError::Unwell { url: url.clone(), status, body }),
    }
}

fn exchange(url: &Uri, host: &str, deadline: Instant) -> io::Result<Vec<u8>> {
    let name = host.trim_matches(['[', ']']);
    let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{name} has no address"));
    for address in (name, url.port_u16().unwrap_or(80)).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, left(deadline)?) {
            Ok(mut stream) => {
                stream.set_write_timeout(Some(left(deadline)?))?;
                let path = url.path_and_query().map_or("/", |path| path.as_str());
                let authority = url.authority().map_or(host, |authority| authority.as_str());
                let head = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n");
                stream.write_all(head.as_bytes())?;
                return receive(&mut stream, deadline);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn receive(stream: &mut TcpStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    while answer.len() < ANSWER_BYTES_MAX {
        stream.set_read_timeout(Some(left(deadline)?))?;
        match stream.read(&mut part)? {
            0 => break,
            read => answer.extend_from_slice(&part[..read]),
        }
    }
    Ok(answer)
}

fn left(deadline: Instant) -> io::Result<Duration> {
    match deadline.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left),
    }
}

/// Returns the status and the body of an answer.
fn read(answer: &[u8]) -> Option<(u16, String)> {
    let answer = String::from_utf8_lossy(answer);
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Answers one request with this text, and returns the request.
    fn node(answer: &'static str) -> (Uri, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/readyz?why", listener.local_addr().unwrap()).parse().unwrap();
        let served = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                asked.push(byte[0]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(asked).unwrap()
        });
        (url, served)
    }

    #[test]
    fn a_node_that_says_yes_is_healthy() {
        let (url, served) = node("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
        ask(&url, PATIENCE).unwrap();
        let asked = served.join().unwrap();
        assert!(asked.starts_with("GET /readyz?why HTTP/1.1\r\nHost: 127.0.0.1:"), "{asked}");
    }

    #[test]
    fn a_node_that_says_no_is_quoted() {
        let (url, served) = node("HTTP/1.1 503 Service Unavailable\r\n\r\nthe node is draining\n");
        let error = ask(&url, PATIENCE).unwrap_err().to_string();
        assert!(error.ends_with("answered 503: the node is draining"), "{error}");
        served.join().unwrap();
    }

    #[test]
    fn what_is_no_node_is_told_apart() {
        let (url, served) = node("220 mail.example.com\r\n");
        assert!(matches!(ask(&url, PATIENCE), Err(HealthError::Unreadable(_))));
        served.join().unwrap();

        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let url = format!("http://{closed}/readyz").parse().unwrap();
        assert!(matches!(ask(&url, PATIENCE), Err(HealthError::Unreachable { .. })));
        assert!(matches!(ask(&"/readyz".parse().unwrap(), PATIENCE), Err(HealthError::Url(_))));
        assert!(matches!(ask(&"https://localhost/".parse().unwrap(), PATIENCE), Err(HealthError::Url(_))));
    }

    #[test]
    fn a_node_that_does_not_answer_is_not_waited_for() {
        // The kernel accepts connections for a listener that nothing serves.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/readyz", silent.local_addr().unwrap()).parse().unwrap();
        assert!(matches!(ask(&url, Duration::from_millis(50)), Err(HealthError::Late { .. })));
    }
}
