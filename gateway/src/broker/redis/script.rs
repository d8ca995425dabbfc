//! The Lua scripts. Each is called by its hash, and loaded where a Redis lacks it.

use std::borrow::Cow;
use std::sync::OnceLock;

use redis::Cmd;

use super::redis_link::OpenLink;

/// A script that assigns positions, behind the part that finds out the present life of the data set. It has one text for
/// a single server, and one for the masters of a cluster.
macro_rules! in_a_life {
    ($($file:literal),*) => {
        Script::of_both(
            concat!(
                include_str!("scripts/life.lua"),
                include_str!("scripts/position.lua"),
                $(include_str!($file)),*
            ),
            concat!(
                include_str!("scripts/life_of_cluster.lua"),
                include_str!("scripts/position.lua"),
                $(include_str!($file)),*
            ),
        )
    };
}

/// A script of that kind for channels that keep state by key.
macro_rules! of_keys {
    ($file:literal) => {
        in_a_life!("scripts/keys.lua", $file)
    };
}

pub(crate) static PUBLISH: Script = in_a_life!("scripts/publish.lua");
pub(crate) static HISTORY: Script = in_a_life!("scripts/history.lua");
pub(crate) static POSITIONS: Script = in_a_life!("scripts/positions.lua");
pub(super) static CHANGE_KEY: Script = of_keys!("scripts/change_key.lua");
pub(super) static READ_STATE: Script = of_keys!("scripts/read_state.lua");
pub(crate) static LEAVE_EPOCH: Script = Script::new(include_str!("scripts/leave_epoch.lua"));
pub(crate) static ANNOUNCE: Script = Script::new(include_str!("scripts/announce.lua"));
pub(super) static TURN: Script = Script::new(include_str!("scripts/turn.lua"));
pub(super) static RIGHTS: Script = Script::new(include_str!("scripts/rights.lua"));

/// The length of the id of a Redis process. A text of another length is no id.
pub(super) const RUN_BYTES: usize = 40;
/// Stands in for an id where the script cannot find out the life of the data set.
const UNNAMED_RUN: &str = "----------------------------------------";
const _: () = assert!(UNNAMED_RUN.len() == RUN_BYTES, "scripts cut it off by its length");

/// Returns the argument that tells scripts the process that runs them, and in a cluster the other masters.
pub(super) fn run_of(up: &OpenLink) -> Cow<'_, str> {
    let run = if up.server.names_lives() { &*up.server.run } else { UNNAMED_RUN };
    match &up.of_cluster {
        None => run.into(),
        Some(of_cluster) => format!("{run}\n{}", of_cluster.written()).into(),
    }
}

#[derive(Debug)]
pub(crate) struct Script {
    alone: ScriptText,
    in_cluster: Option<ScriptText>,
}

#[derive(Debug)]
struct ScriptText {
    text: &'static str,
    hash: OnceLock<String>,
}

impl ScriptText {
    const fn new(text: &'static str) -> Self {
        Self { text, hash: OnceLock::new() }
    }
}

impl Script {
    pub(crate) const fn new(text: &'static str) -> Self {
        Self { alone: ScriptText::new(text), in_cluster: None }
    }

    const fn of_both(alone: &'static str, in_cluster: &'static str) -> Self {
        Self { alone: ScriptText::new(alone), in_cluster: Some(ScriptText::new(in_cluster)) }
    }

    fn text(&self, up: &OpenLink) -> &ScriptText {
        self.in_cluster.as_ref().filter(|_| up.of_cluster.is_some()).unwrap_or(&self.alone)
    }

    /// Returns the command for a Redis that has the script. The number of keys, the keys and the arguments must follow.
    pub(super) fn by_hash(&self, up: &OpenLink) -> Cmd {
        let ScriptText { text, hash } = self.text(up);
        let hash = hash.get_or_init(|| redis::Script::new(text).get_hash().to_owned());
        let mut command = redis::cmd("EVALSHA");
        command.arg(hash);
        command
    }

    /// Returns the command that loads the script. No other command is used for that, so that one right is enough.
    pub(super) fn load(&self, up: &OpenLink) -> Cmd {
        let mut command = redis::cmd("SCRIPT");
        command.arg("LOAD").arg(self.text(up).text);
        command
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// Quoted words in capitals in scripts that are not commands.
    const NO_COMMANDS: [&str; 11] = [
        "COUNT",
        "LIMIT",
        "WITHSCORES",
        "MAXLEN",
        "MISCONF",
        "NOMKSTREAM",
        "NOPERM",
        "NOREPLICAS",
        "OOM",
        "PX",
        "WRONGTYPE",
    ];

    /// Returns the commands in a script.
    fn commands(text: &str) -> BTreeSet<String> {
        let code = text.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n");
        let quoted = code.split('\'').skip(1).step_by(2).map(str::to_owned);
        let capitals = |word: &String| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_uppercase());
        quoted.filter(capitals).filter(|word| !NO_COMMANDS.contains(&&**word)).collect()
    }

    #[test]
    fn every_command_of_a_script_is_among_the_rights_that_are_tried_and_documented() {
        let page = include_str!("../../../../docs/deployment.md");
        let line = page.lines().find(|line| line.trim().starts_with("ACL SETUSER tidegate ")).unwrap();
        let of_cluster = include_str!("../../../../docs/redis-cluster.md");
        let more = of_cluster.lines().find(|line| line.trim().starts_with("ACL SETUSER tidegate ")).unwrap();
        let line = format!("{line} {more}");
        let tried = commands(include_str!("scripts/rights.lua"));
        let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        for folder in ["broker/redis/scripts", "presence/redis/scripts", "ledger/redis/scripts"] {
            for file in std::fs::read_dir(format!("{scripts}/{folder}")).unwrap() {
                let file = file.unwrap().path();
                for command in commands(&std::fs::read_to_string(&file).unwrap()) {
                    let right = format!("+{}", command.to_lowercase());
                    assert!(
                        line.split(' ').any(|word| word == right),
                        "{right} of {file:?} is not documented"
                    );
                    // A node works without INFO.
                    assert!(
                        command == "INFO" || tried.contains(&command),
                        "{command} of {file:?} is not tried"
                    );
                }
            }
        }
    }
}
