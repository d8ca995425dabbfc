//! Starts a server for one turn, and ends it again, with whatever it has started.

use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::sleep;

use super::definition::{Definition, Places, Source, Start};
use crate::process::descendants;

/// Longest wait until it listens, and until it has ended when it was asked to.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// So long after its last process came, a server is complete.
const QUIET: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(20);
/// What a server has to say about a start that failed.
const LOG_BYTES_MAX: usize = 2_000;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{program} cannot be started: {error}")]
    Spawn { program: String, error: io::Error },
    #[error("{path} cannot be prepared: {error}")]
    Prepare { path: String, error: io::Error },
    #[error("it ended before it listened: {log}")]
    Ended { log: String },
    #[error("it did not listen within {} s: {log}", START_TIMEOUT.as_secs())]
    Late { log: String },
    #[error("no port is free: {0}")]
    Port(io::Error),
}

/// A server that listens. Dropped, it is killed.
#[derive(Debug)]
pub struct Started {
    pub url: String,
    process: Process,
}

#[derive(Debug)]
enum Process {
    Own(Own),
    Other(u32),
}

#[derive(Debug)]
struct Own {
    child: Child,
    scratch: PathBuf,
}

impl Started {
    pub async fn start(definition: &Definition, cpus: Option<&str>) -> Result<Self, StartError> {
        let start = match &definition.source {
            Source::Running { pid } => {
                return Ok(Self { url: definition.url_at(0), process: Process::Other(*pid) });
            }
            Source::Fresh(start) => start,
        };
        let places = places(definition)?;
        render(start, &places)?;
        let (program, words) = command_of(start, &places, cpus);
        let log = places.scratch.join("log");
        let output = fs::File::create(&log)
            .and_then(|output| Ok((output.try_clone()?, output)))
            .map_err(|error| prepare(&log, error))?;
        let child = Command::new(&program)
            .args(words)
            .envs(start.env.iter().map(|(name, value)| (name, places.fill(value))))
            .stdin(Stdio::null())
            .stdout(output.0)
            .stderr(output.1)
            .spawn()
            .map_err(|error| StartError::Spawn { program, error })?;
        let mut own = Own { child, scratch: places.scratch.clone() };
        let begun = Instant::now();
        loop {
            if let Ok(Some(_)) = own.child.try_wait() {
                return Err(StartError::Ended { log: own.last_words() });
            }
            if TcpStream::connect(("127.0.0.1", places.port)).is_ok() {
                break;
            }
            if begun.elapsed() > START_TIMEOUT {
                return Err(StartError::Late { log: own.last_words() });
            }
            sleep(POLL).await;
        }
        let started = Self { url: definition.url_at(places.port), process: Process::Own(own) };
        started.settle().await;
        Ok(started)
    }

    /// A master may listen before its workers are there: waits until no more processes come.
    async fn settle(&self) {
        let begun = Instant::now();
        let (mut pids, mut since) = (self.pids(), begun);
        while since.elapsed() < QUIET && begun.elapsed() < START_TIMEOUT {
            sleep(POLL).await;
            let now = self.pids();
            if now != pids {
                (pids, since) = (now, Instant::now());
            }
        }
    }

    /// Everything whose CPU and memory are the server's.
    pub fn pids(&self) -> Vec<u32> {
        let first = match &self.process {
            Process::Own(own) => own.child.id(),
            Process::Other(pid) => *pid,
        };
        std::iter::once(first).chain(descendants(first)).collect()
    }

    /// Asks it to end, and ends it if it does not.
    pub async fn stop(mut self) {
        let Process::Own(own) = &mut self.process else { return };
        let Some(pid) = Pid::from_raw(own.child.id() as i32) else { return };
        // It may have ended by itself.
        let _ = kill_process(pid, Signal::TERM);
        let begun = Instant::now();
        while begun.elapsed() < STOP_TIMEOUT && matches!(own.child.try_wait(), Ok(None)) {
            sleep(POLL).await;
        }
    }
}

impl Own {
    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.scratch.join("log")).unwrap_or_default();
        let from = log.len().saturating_sub(LOG_BYTES_MAX);
        let from = (from..=log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(log.len());
        log[from..].trim().to_owned()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            for pid in descendants(self.child.id()) {
                if let Some(pid) = Pid::from_raw(pid as i32) {
                    // It may have ended with its parent.
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            // Both fail only for a process that is gone.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        // What cannot be removed is a temporary file.
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

fn places(definition: &Definition) -> Result<Places, StartError> {
    // Free a moment ago, and the kernel hands out others meanwhile.
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map_err(StartError::Port)?
        .port();
    let scratch = std::env::temp_dir().join(format!("tidegate-compare-{}-{port}", std::process::id()));
    fs::create_dir_all(&scratch).map_err(|error| prepare(&scratch, error))?;
    let program = std::env::current_exe().unwrap_or_default();
    let bin = program.parent().unwrap_or(Path::new(".")).to_owned();
    let fetched = bin.parent().unwrap_or(Path::new(".")).join("compare");
    let here = definition.directory();
    let here = here.canonicalize().map_err(|error| prepare(here, error))?;
    Ok(Places { port, scratch, here, bin, fetched })
}

fn render(start: &Start, places: &Places) -> Result<(), StartError> {
    for name in &start.render {
        let from = places.here.join(name);
        fs::read_to_string(&from)
            .and_then(|text| fs::write(places.scratch.join(name), places.fill(&text)))
            .map_err(|error| prepare(&from, error))?;
    }
    Ok(())
}

fn command_of(start: &Start, places: &Places, cpus: Option<&str>) -> (String, Vec<String>) {
    let own = start.command.iter().map(|word| places.fill(word));
    let taskset = cpus.map(|cpus| ["taskset".to_owned(), "--cpu-list".to_owned(), cpus.to_owned()]);
    let mut words = taskset.into_iter().flatten().chain(own);
    (words.next().unwrap_or_default(), words.collect())
}

fn prepare(path: &Path, error: io::Error) -> StartError {
    StartError::Prepare { path: path.display().to_string(), error }
}
