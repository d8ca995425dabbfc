//! The refusals of a broker's server, classified by what an operator must do.

/// The kind of a refusal. The set is bounded, because the kinds are values of a metric label.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum BrokerRefusal {
    /// The server is a replica now, and takes no writes.
    ReadOnly,
    /// The server's memory is full, and nothing may be evicted.
    OutOfMemory,
    /// The server cannot save to its disk, and is configured to refuse writes then.
    CannotSave,
    /// Fewer replicas follow the server than it is configured to require.
    TooFewReplicas,
    /// The user lacks a right.
    Rights,
    /// The server is still reading its data from the disk.
    Loading,
    /// Another node of the cluster has the key.
    Moved,
    /// Some of the cluster's slots are served by no node.
    ClusterDown,
    /// The server is a replica that has lost its master.
    MasterDown,
    /// The server does not have a script, and the script could not be loaded.
    NoScript,
    /// Somebody's script has been running for too long.
    Busy,
    /// The server does not know the command, or has it under another name.
    UnknownCommand,
    Other,
}

impl BrokerRefusal {
    pub const ALL: [Self; 13] = [
        Self::ReadOnly,
        Self::OutOfMemory,
        Self::CannotSave,
        Self::TooFewReplicas,
        Self::Rights,
        Self::Loading,
        Self::Moved,
        Self::ClusterDown,
        Self::MasterDown,
        Self::NoScript,
        Self::Busy,
        Self::UnknownCommand,
        Self::Other,
    ];

    /// Returns the value for metric labels.
    pub fn label(self) -> &'static str {
        match self {
            Self::ReadOnly => "readonly",
            Self::OutOfMemory => "oom",
            Self::CannotSave => "misconf",
            Self::TooFewReplicas => "noreplicas",
            Self::Rights => "noperm",
            Self::Loading => "loading",
            Self::Moved => "moved",
            Self::ClusterDown => "clusterdown",
            Self::MasterDown => "masterdown",
            Self::NoScript => "noscript",
            Self::Busy => "busy",
            Self::UnknownCommand => "unknown_command",
            Self::Other => "other",
        }
    }

    /// Whether another connection may reach a server that does not refuse.
    pub fn passes_with_the_server(self) -> bool {
        matches!(self, Self::ReadOnly | Self::Loading | Self::Moved | Self::ClusterDown | Self::MasterDown)
    }

    /// Classifies an error of Redis, which begins with a code. If a command of a script failed, the code may stand in the
    /// middle.
    pub fn read(text: &str) -> Self {
        const CODES: [(&str, BrokerRefusal); 14] = [
            ("READONLY", BrokerRefusal::ReadOnly),
            ("OOM", BrokerRefusal::OutOfMemory),
            ("MISCONF", BrokerRefusal::CannotSave),
            ("NOREPLICAS", BrokerRefusal::TooFewReplicas),
            ("NOPERM", BrokerRefusal::Rights),
            ("LOADING", BrokerRefusal::Loading),
            ("MOVED", BrokerRefusal::Moved),
            ("ASK", BrokerRefusal::Moved),
            ("TRYAGAIN", BrokerRefusal::Moved),
            ("CROSSSLOT", BrokerRefusal::Moved),
            ("CLUSTERDOWN", BrokerRefusal::ClusterDown),
            ("MASTERDOWN", BrokerRefusal::MasterDown),
            ("NOSCRIPT", BrokerRefusal::NoScript),
            ("BUSY", BrokerRefusal::Busy),
        ];
        let first = text.split([' ', ':']).next().unwrap_or_default();
        if let Some((_, known)) = CODES.iter().find(|(code, _)| *code == first) {
            return *known;
        }
        // Redis 6 wraps the error of a script's command in words of its own.
        if let Some((_, known)) = CODES.iter().find(|(code, _)| text.contains(&format!("-{code} "))) {
            return *known;
        }
        let text = text.to_ascii_lowercase();
        if text.contains("the user executing the script can't") || text.contains("acl failure in script") {
            Self::Rights
        } else if text.contains("unknown command") || text.contains("unknown redis command") {
            Self::UnknownCommand
        } else {
            Self::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_apart_in_the_words_of_every_version() {
        for (text, expected) in [
            ("READONLY You can't write against a read only replica.", BrokerRefusal::ReadOnly),
            (
                "READONLY You can't write against a read only replica. script: 4c5f, on @user_script:41.",
                BrokerRefusal::ReadOnly,
            ),
            (
                "ERR Error running script (call to f_4c5f): @user_script:1: @user_script: 1: -OOM command not \
                 allowed when used memory > 'maxmemory'.",
                BrokerRefusal::OutOfMemory,
            ),
            (
                "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to",
                BrokerRefusal::CannotSave,
            ),
            ("NOREPLICAS Not enough good replicas to write.", BrokerRefusal::TooFewReplicas),
            ("NOPERM User gate has no permissions to run the 'evalsha' command", BrokerRefusal::Rights),
            (
                "ERR The user executing the script can't run this command or subcommand script: 4c5f, on",
                BrokerRefusal::Rights,
            ),
            (
                "NOPERM ACL failure in script: User gate has no permissions to run the 'time' command",
                BrokerRefusal::Rights,
            ),
            ("LOADING Redis is loading the dataset in memory", BrokerRefusal::Loading),
            ("MOVED 866 127.0.0.1:7001", BrokerRefusal::Moved),
            ("CLUSTERDOWN Hash slot not served", BrokerRefusal::ClusterDown),
            (
                "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
                BrokerRefusal::MasterDown,
            ),
            ("NOSCRIPT No matching script. Please use EVAL.", BrokerRefusal::NoScript),
            ("BUSY Redis is busy running a script.", BrokerRefusal::Busy),
            (
                "ERR unknown command 'EVALSHA', with args beginning with: '4c5f'",
                BrokerRefusal::UnknownCommand,
            ),
            ("ERR value is not an integer or out of range", BrokerRefusal::Other),
            ("", BrokerRefusal::Other),
        ] {
            assert_eq!(BrokerRefusal::read(text), expected, "{text}");
        }
    }

    #[test]
    fn every_refusal_has_a_label_of_its_own() {
        let labels: std::collections::HashSet<_> =
            BrokerRefusal::ALL.iter().map(|refusal| refusal.label()).collect();
        assert_eq!(labels.len(), BrokerRefusal::ALL.len());
    }
}
