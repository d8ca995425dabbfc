//! A real PostgreSQL for tests: on a socket in its own directory, both removed on drop.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

/// A server starts within a second; a busy machine may take long, and a killed server recovers its data first.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// The user that runs the server if the tests run as root, which PostgreSQL refuses: `nobody` on Debian and similar systems.
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

    /// Starts a server with settings, such as `port=5433`, and with copies of these files.
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

    /// Returns the URL of its socket.
    pub fn url(&self) -> String {
        let folder = self.directory.path().to_string_lossy().replace('/', "%2F");
        let port = self.options.iter().find_map(|option| option.strip_prefix("port=")).unwrap_or("5432");
        format!("postgres://postgres@{folder}:{port}/postgres")
    }

    /// Opens a session for the test.
    pub async fn session(&self) -> Client {
        self.try_session().await.expect("a session")
    }

    async fn try_session(&self) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&self.url(), NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Ends the server and all its sessions without a chance to finish anything.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // SIGQUIT is PostgreSQL's immediate shutdown: SIGKILL would leave its child processes running.
            let _ = kill_process(Pid::from_child(&process), Signal::QUIT);
            let _ = process.wait();
        }
    }

    /// Starts the server again with its old data.
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

/// Returns a command of PostgreSQL, run as a user that the server accepts.
fn command(programs: &Path, name: &str) -> Command {
    let mut command = Command::new(programs.join(name));
    if geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    // The working directory must exist for that user.
    command.current_dir("/").env_remove("PGPORT").env_remove("PGDATA");
    command
}

/// Returns the directory of the programs: Debian keeps those of each version in a folder that is not on the path.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().filter_map(Result::ok);
    let mut found: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    found.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    found.retain(|folder| folder.join("initdb").exists() && folder.join("postgres").exists());
    found.into_iter().next().expect("postgres is not there: `scripts/test setup rust` brings it")
}
