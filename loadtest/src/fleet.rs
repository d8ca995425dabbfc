//! The processes that a scenario starts itself: nodes of the gateway, Redis between them, and whatever else must end.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::{sleep, timeout};

/// How long a process may take to be there, and to be gone after it was asked to.
const START: Duration = Duration::from_secs(30);
const END: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// A node of the gateway. It ends with this value.
#[derive(Debug)]
pub struct Node {
    pub process: Child,
    pub client: SocketAddr,
    pub internal: SocketAddr,
}

/// A Redis without a file, on a port that was free. It ends with this value.
#[derive(Debug)]
pub struct RedisServer {
    pub process: Child,
    pub address: SocketAddr,
}

/// The program given, or the one beside this.
pub fn gateway_program(given: Option<&Path>) -> io::Result<PathBuf> {
    let path = match given {
        Some(path) => path.to_path_buf(),
        None => std::env::current_exe()?.with_file_name("tidegate"),
    };
    if path.is_file() {
        return Ok(path);
    }
    let problem = format!("there is no gateway at {}: name it with --tidegate", path.display());
    Err(io::Error::new(io::ErrorKind::NotFound, problem))
}

impl Node {
    /// Starts one on free ports of this machine, open to everyone on it. Settings are variables of its environment.
    pub async fn start(program: &Path, settings: &[(&str, String)]) -> io::Result<Self> {
        let mut process = Command::new(program)
            .args(["serve", "--listen", "127.0.0.1:0", "--internal-listen", "127.0.0.1:0"])
            .env("TIDEGATE_AUTH__INSECURE", "true")
            .env("TIDEGATE_API__INSECURE", "true")
            .env("TIDEGATE_TELEMETRY__LOG_LEVEL", "info")
            .env("TIDEGATE_TELEMETRY__LOG_FORMAT", "text")
            .env("TIDEGATE_DRAIN__NOTICE_MS", "0")
            .env("TIDEGATE_DRAIN__GRACE_MS", "0")
            .env("TIDEGATE_DRAIN__LINGER_MS", "0")
            .envs(settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let lines = lines_of(process.stderr.take())?;
        let (client, internal) = match timeout(START, addresses(lines)).await {
            Ok(found) => found?,
            Err(_) => return Err(io::Error::other("a node did not say in time where it listens")),
        };
        Ok(Self { process, client, internal })
    }
}

impl RedisServer {
    /// `options` are further words of its command line.
    pub async fn start(options: &[&str]) -> io::Result<Self> {
        // Between finding the port free and taking it, somebody else may; then Redis ends and this says so.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut process = Command::new("redis-server")
            .args([
                "--port",
                &address.port().to_string(),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .args(options)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("redis-server: {error}")))?;
        let connected = timeout(START, async {
            while TcpStream::connect(address).await.is_err() {
                if let Some(status) = process.try_wait()? {
                    return Err(io::Error::other(format!("redis-server ended at once: {status}")));
                }
                sleep(POLL).await;
            }
            Ok(())
        });
        connected.await.map_err(|_| io::Error::other("redis-server does not answer"))??;
        Ok(Self { process, address })
    }
}

/// Asks all of them to end, and kills those that do not.
pub async fn stop_all(processes: impl Iterator<Item = &mut Child>) {
    let mut asked: Vec<&mut Child> = processes.collect();
    for process in &mut asked {
        if let Some(pid) = process.id().and_then(|id| Pid::from_raw(id as i32)) {
            // One that has ended by itself needs no asking.
            let _ = kill_process(pid, Signal::TERM);
        }
    }
    let ends = async {
        for process in &mut asked {
            // An error means that it is gone.
            let _ = process.wait().await;
        }
    };
    if timeout(END, ends).await.is_err() {
        for process in asked {
            let _ = process.kill().await;
        }
    }
}

pub fn lines_of<R: AsyncRead + Unpin>(pipe: Option<R>) -> io::Result<Lines<BufReader<R>>> {
    pipe.map(|pipe| BufReader::new(pipe).lines()).ok_or_else(|| io::Error::other("a process has no pipe"))
}

/// Where the node says that it listens. Its log is read to the end afterwards, or it would one day wait for us.
async fn addresses(mut lines: Lines<BufReader<ChildStderr>>) -> io::Result<(SocketAddr, SocketAddr)> {
    let mut last = String::new();
    while let Some(line) = lines.next_line().await? {
        if let Some(found) = after(&line, "client_address=").zip(after(&line, "internal_address=")) {
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok(found);
        }
        last = line;
    }
    Err(io::Error::other(format!("a node ended at once: {last}")))
}

fn after(line: &str, key: &str) -> Option<SocketAddr> {
    line.split_once(key)?.1.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_found_by_what_it_logs() {
        let line = "INFO tidegate: started client_address=127.0.0.1:8000 internal_address=127.0.0.1:8001 x=1";
        assert_eq!(after(line, "client_address="), Some(([127, 0, 0, 1], 8000).into()));
        assert_eq!(after(line, "internal_address="), Some(([127, 0, 0, 1], 8001).into()));
        assert_eq!(after("nothing of it", "client_address="), None);
    }

    #[test]
    fn a_gateway_that_is_not_there_is_told_with_its_path() {
        let error = gateway_program(Some(Path::new("/nowhere/tidegate"))).unwrap_err();
        assert!(error.to_string().contains("/nowhere/tidegate"));
    }
}
