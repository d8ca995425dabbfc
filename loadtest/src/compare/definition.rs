//! The file that describes one server: how it is started or where it is, and how it is spoken to.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::dialect::{Template, TemplateError};

/// What stands in a file's texts for the port that was chosen for the server.
const PORT: &str = "{port}";
/// For a directory of this turn's own, the one that the file is in, the one that this program is in, and the one that
/// other programs are fetched into: `compare` beside the directory of this program.
const SCRATCH: &str = "{scratch}";
const HERE: &str = "{here}";
const BIN: &str = "{bin}";
const FETCHED: &str = "{fetched}";

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Definition {
    pub name: String,
    /// Options of the load that belong to this server.
    pub arguments: Vec<String>,
    pub source: Source,
    url: String,
    path: PathBuf,
    is_template: bool,
    publishes_by_itself: bool,
}

/// Where the server comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// It is started for each turn, and ended after it.
    Fresh(Start),
    /// It is there already.
    Running { pid: u32 },
}

#[derive(Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Start {
    /// The program and its arguments.
    pub command: Vec<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Files beside this one that are copied to the turn's own directory, with everything filled in.
    #[serde(default)]
    pub render: Vec<String>,
}

/// The places of one turn.
#[derive(Clone, Debug)]
pub(super) struct Places {
    pub port: u16,
    pub scratch: PathBuf,
    pub here: PathBuf,
    pub bin: PathBuf,
    pub fetched: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum DefinitionError {
    #[error("{path} cannot be read: {error}")]
    Unreadable { path: String, error: io::Error },
    #[error("{path} does not describe a server: {error}")]
    Unintelligible { path: String, error: Box<toml::de::Error> },
    #[error("{path} must have either [start] with a command, or the pid of a server that runs")]
    Source { path: String },
    #[error(transparent)]
    Template(#[from] TemplateError),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    url: String,
    #[serde(default)]
    arguments: Vec<String>,
    pid: Option<u32>,
    start: Option<Start>,
    subscribe: Option<toml::Table>,
    publish: Option<toml::Table>,
}

impl Definition {
    pub fn read(path: &Path) -> Result<Self, DefinitionError> {
        let name = || path.display().to_string();
        let text =
            fs::read_to_string(path).map_err(|error| DefinitionError::Unreadable { path: name(), error })?;
        let file: File = toml::from_str(&text)
            .map_err(|error| DefinitionError::Unintelligible { path: name(), error: Box::new(error) })?;
        let source = match (file.start, file.pid) {
            (Some(start), None) if !start.command.is_empty() => Source::Fresh(start),
            (None, Some(pid)) => Source::Running { pid },
            _ => return Err(DefinitionError::Source { path: name() }),
        };
        let is_template = file.subscribe.is_some() || file.publish.is_some();
        if is_template {
            Template::read(path)?;
        }
        let publishes_by_itself = file.publish.is_some();
        let (name, arguments, url) = (file.name, file.arguments, file.url);
        Ok(Self { name, arguments, source, url, path: path.to_owned(), is_template, publishes_by_itself })
    }

    pub fn url_at(&self, port: u16) -> String {
        self.url.replace(PORT, &port.to_string())
    }

    /// The file, if it also says how to speak to the server.
    pub fn template(&self) -> Option<PathBuf> {
        self.is_template.then(|| self.path.clone())
    }

    /// For a server of which it is described how to publish, the URL's host; otherwise whatever the load takes by itself.
    pub fn api_urls(&self, url: &str) -> Vec<String> {
        let host = url.split("://").nth(1).and_then(|rest| rest.split('/').next());
        host.filter(|_| self.publishes_by_itself).map(|host| format!("http://{host}")).into_iter().collect()
    }

    /// The directory that the file is in.
    pub fn directory(&self) -> &Path {
        self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
    }
}

impl Places {
    pub(super) fn fill(&self, text: &str) -> String {
        let of = |path: &Path| path.display().to_string();
        text.replace(PORT, &self.port.to_string())
            .replace(SCRATCH, &of(&self.scratch))
            .replace(HERE, &of(&self.here))
            .replace(BIN, &of(&self.bin))
            .replace(FETCHED, &of(&self.fetched))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<Definition, DefinitionError> {
        let path =
            std::env::temp_dir().join(format!("tidegate-definition-{name}-{}.toml", std::process::id()));
        fs::write(&path, text).unwrap();
        let definition = Definition::read(&path);
        fs::remove_file(&path).unwrap();
        definition
    }

    #[test]
    fn the_descriptions_that_come_with_the_load_tester_can_be_read() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("compare");
        let mut names = Vec::new();
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "toml") {
                names.push(Definition::read(&path).unwrap().name);
            }
        }
        names.sort();
        for name in ["floor", "tidegate", "nchan", "ws", "socket.io", "uWebSockets", "centrifugo"] {
            assert!(names.iter().any(|one| one == name), "{names:?}");
        }
    }

    #[test]
    fn a_server_is_started_or_there_already_and_not_both() {
        let start = "name='a'\nurl='ws://127.0.0.1:{port}'\n[start]\ncommand=['x','{port}']\n";
        let definition = read("fresh", start).unwrap();
        assert_eq!(definition.url_at(7), "ws://127.0.0.1:7");
        assert_eq!((definition.template(), definition.api_urls("ws://h:1/a")), (None, Vec::new()));
        assert!(matches!(definition.source, Source::Fresh(_)));
        let running = read("running", "name='a'\nurl='ws://127.0.0.1:9'\npid=7\n").unwrap();
        assert_eq!(running.source, Source::Running { pid: 7 });
        for (name, text) in [("both", format!("pid=1\n{start}")), ("none", "name='a'\nurl='b'".to_owned())] {
            assert!(matches!(read(name, &text), Err(DefinitionError::Source { .. })), "{name}");
        }
        let described = format!("{start}[subscribe]\npath='/'\n[publish]\npath='/p'\nbody='{{payload}}'\n");
        let described = read("described", &described).unwrap();
        assert!(described.template().is_some());
        assert_eq!(described.api_urls("ws://h:1/a"), ["http://h:1"]);
        assert!(read("a wire", &format!("{start}[subscribe]\npath='/'\n")).unwrap().template().is_some());
        assert!(matches!(
            read("half", &format!("{start}[publish]\npath='/'\nbody='x'\n")),
            Err(DefinitionError::Template(_))
        ));
    }
}
