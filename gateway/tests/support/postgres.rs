//! A real PostgreSQL of a test's own: on a socket in a folder of its own, gone when the test is.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

/// It takes a second to start; a loaded machine may take long, and one that was killed mends its data first.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// Who runs it where a test is run by root, whom PostgreSQL refuses: the number of `nobody` on Debian and its like.
const NOBODY: u32 = 65_534;

#[derive(Debug)]
pub struct PostgresServer {
    programs: PathBuf,
    directory: TempDir,
    options: Vec<String>,
    process: Option<Child>,
}

impl PostgresServer {
    pub async fn start() -> Self {
        Self::start_with(&[], &[]).await
    }

    /// With settings, such as `port=5433`, and files that it is to have as its own.
    pub async fn start_with(settings: &[&str], files: &[(&str, &Path)]) -> Self {
        let programs = programs();
        let directory = tempfile::tempdir().expect("a directory for PostgreSQL");
        if geteuid().is_root() {
            chown(directory.path(), Some(NOBODY), Some(NOBODY)).expect("a directory of its own");
        }
        let made = command(&programs, "initdb")
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"])
            .args(["--no-sync", "--pgdata"])
            .arg(directory.path().join("data"))
            .output()
            .expect("initdb runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        for (name, file) in files {
            let own = directory.path().join(name);
            std::fs::copy(file, &own).expect("a file for PostgreSQL");
            std::fs::set_permissions(&own, std::os::unix::fs::PermissionsExt::from_mode(0o600))
                .expect("for it alone");
            if geteuid().is_root() {
                chown(&own, Some(NOBODY), Some(NOBODY)).expect("a file of its own");
            }
        }
        let mut options = Vec::new();
        for setting in settings {
            options.push("-c".to_owned());
            options.push(setting.replace("$DIRECTORY", &directory.path().to_string_lossy()));
        }
        let mut server = Self { programs, directory, options, process: None };
        server.launch().await;
        server
    }

    /// Where it is, by its socket.
    pub fn url(&self) -> String {
        let folder = self.directory.path().to_string_lossy().replace('/', "%2F");
        let port = self.options.iter().find_map(|option| option.strip_prefix("port=")).unwrap_or("5432");
        format!("postgres://postgres@{folder}:{port}/postgres")
    }

    /// A session of the test's own.
    pub async fn session(&self) -> Client {
        self.try_session().await.expect("a session")
    }

    async fn try_session(&self) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&self.url(), NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Ends it without a chance to finish anything, with all of its sessions.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Its own way to end at once: killed, it would leave what it has started.
            let _ = kill_process(Pid::from_child(&process), Signal::QUIT);
            let _ = process.wait();
        }
    }

    /// Starts it again with what it had.
    pub async fn restart(&mut self) {
        self.kill();
        self.launch().await;
    }

    async fn launch(&mut self) {
        let folder = self.directory.path();
        let process = command(&self.programs, "postgres")
            .arg("-D")
            .arg(folder.join("data"))
            .arg("-k")
            .arg(folder)
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=30"])
            .args(&self.options)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.process = Some(process.expect("postgres starts"));
        let start = Instant::now();
        loop {
            let error = match self.try_session().await {
                Ok(_) => return,
                Err(error) => error,
            };
            let ended = self.process.as_mut().and_then(|process| process.try_wait().ok().flatten());
            assert!(ended.is_none() && start.elapsed() < START_DEADLINE, "{ended:?}: {error:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A program of it, run by somebody whom it lets do so.
fn command(programs: &Path, name: &str) -> Command {
    let mut command = Command::new(programs.join(name));
    if geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    // Where it stands has to be there for whoever runs it.
    command.current_dir("/").env_remove("PGPORT").env_remove("PGDATA");
    command
}

/// Where its programs are: Debian keeps those of each version in a folder that is not on the path.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    let mut found: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    found.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    found.retain(|folder| folder.join("initdb").exists() && folder.join("postgres").exists());
    found.into_iter().next().expect("postgres is not there: `scripts/test setup rust` brings it")
}
