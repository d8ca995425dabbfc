//! The scripts, each called by its hash, and left at a Redis that does not have it.

use std::sync::OnceLock;

use redis::Cmd;

pub(crate) static PUBLISH: Script = Script::new(include_str!("scripts/publish.lua"));
pub(crate) static HISTORY: Script = Script::new(include_str!("scripts/history.lua"));
pub(crate) static ANNOUNCE: Script = Script::new(include_str!("scripts/announce.lua"));
pub(super) static RIGHTS: Script = Script::new(include_str!("scripts/rights.lua"));

#[derive(Debug)]
pub(crate) struct Script {
    text: &'static str,
    hash: OnceLock<String>,
}

impl Script {
    pub(crate) const fn new(text: &'static str) -> Self {
        Self { text, hash: OnceLock::new() }
    }

    /// For a Redis that has the script. The keys and arguments follow, the number of keys first.
    pub(super) fn by_hash(&self) -> Cmd {
        let hash = self.hash.get_or_init(|| redis::Script::new(self.text).get_hash().to_owned());
        let mut command = redis::cmd("EVALSHA");
        command.arg(hash);
        command
    }

    /// Leaves it at a Redis that does not have it: the one way, so that one right is needed.
    pub(super) fn load(&self) -> Cmd {
        let mut command = redis::cmd("SCRIPT");
        command.arg("LOAD").arg(self.text);
        command
    }
}
