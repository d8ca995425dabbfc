//! What a Redis tells about itself: its process, its data set, and whether this project can use it.

use std::sync::Arc;

use redis::Value;

use super::script;

/// The identity of a server, as far as it is told and this user may ask.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Server {
    /// The id of this run of the process. Empty if it is unknown.
    pub(crate) run: Arc<str>,
    /// The id of the history of the data set (`master_replid`), which changes with each promotion and each start. Empty
    /// if it is unknown.
    pub(crate) data_set: Arc<str>,
    /// Whether this user, and scripts that run as this user, may call INFO.
    pub(crate) has_identity: bool,
    is_replica: bool,
    mode: ServerMode,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum ServerMode {
    #[default]
    Alone,
    Cluster,
    Sentinel,
}

impl ServerMode {
    fn read(word: &str) -> Self {
        match word {
            "cluster" => Self::Cluster,
            "sentinel" => Self::Sentinel,
            _ => Self::Alone,
        }
    }
}

impl Server {
    /// Reads the sections `server` and `replication` of INFO.
    pub(super) fn from_info(server: &str, replication: &str) -> Self {
        Self {
            run: field(server, "run_id").into(),
            data_set: field(replication, "master_replid").into(),
            has_identity: true,
            is_replica: field(replication, "role") == "slave",
            // Valkey uses the first name.
            mode: [field(server, "server_mode"), field(server, "redis_mode")]
                .into_iter()
                .find(|mode| !mode.is_empty())
                .map(ServerMode::read)
                .unwrap_or_default(),
        }
    }

    /// Reads the answer to HELLO, which every user may call: its words in order, each name before its value.
    pub(super) fn from_hello<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut server = Self::default();
        let mut words = words.into_iter();
        while let Some(name) = words.next() {
            match name {
                "role" => server.is_replica = matches!(words.next(), Some("replica" | "slave")),
                "mode" => server.mode = ServerMode::read(words.next().unwrap_or_default()),
                _ => {}
            }
        }
        server
    }

    /// Reads the answer to HELLO as the client library decodes it.
    pub(super) fn from_hello_value(answer: &Value) -> Self {
        let Value::Map(fields) = answer else { return Self::default() };
        let text = |value: &Value| match value {
            Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Value::SimpleString(text) => text.clone(),
            _ => String::new(),
        };
        let words: Vec<String> = fields.iter().flat_map(|(name, value)| [text(name), text(value)]).collect();
        Self::from_hello(words.iter().map(String::as_str))
    }

    /// Whether scripts can find out in which life of the data set they run.
    pub(crate) fn names_lives(&self) -> bool {
        self.has_identity && self.run.len() == script::RUN_BYTES && !self.data_set.is_empty()
    }

    pub(super) fn is_sentinel(&self) -> bool {
        self.mode == ServerMode::Sentinel
    }

    pub(super) fn is_of_cluster(&self) -> bool {
        self.mode == ServerMode::Cluster
    }

    /// Returns why this server cannot be used, in words for whoever must change the address. `in_cluster`: the server
    /// must be a node of a cluster.
    pub(super) fn unusable(&self, in_cluster: bool) -> Option<&'static str> {
        match (self.mode, in_cluster) {
            (ServerMode::Sentinel, _) => Some(
                "this server is a Sentinel: set redis.mode = \"sentinel\" and list its address in redis.addresses",
            ),
            (ServerMode::Cluster, false) => Some(
                "this server is a node of a Redis Cluster: set redis.mode = \"cluster\" and list its address \
                 in redis.addresses",
            ),
            (ServerMode::Alone, true) => Some(
                "this Redis is not part of a cluster (its cluster-enabled is no), but redis.mode is \"cluster\"",
            ),
            _ if self.is_replica => Some("this Redis is a read-only replica: connect to the master"),
            (ServerMode::Cluster, true) if !self.names_lives() => Some(
                "the Redis user may not call INFO, without which the gateway cannot notice that a master has \
                 lost data: grant it with `ACL SETUSER … +info`",
            ),
            _ => None,
        }
    }

    /// Whether two connections certainly end at different servers. Unknown ids prove nothing.
    pub(super) fn is_surely_another(&self, other: &Self) -> bool {
        !self.run.is_empty() && !other.run.is_empty() && self.run != other.run
    }
}

fn field<'a>(info: &'a str, name: &str) -> &'a str {
    let value = |line: &'a str| line.strip_prefix(name)?.strip_prefix(':');
    info.lines().find_map(value).unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_its_run_and_its_data() {
        let server = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\nrun_id:abc\r\nport:1\r\n";
        let master = "# Replication\r\nrole:master\r\nmaster_replid:def\r\nmaster_replid2:000\r\n";
        let known = Server::from_info(server, master);
        assert_eq!((&*known.run, &*known.data_set, known.has_identity), ("abc", "def", true));
        assert_eq!(known.unusable(false), None);
        for mode in ["redis_mode:cluster\r\n", "server_mode:cluster\r\n"] {
            let node = Server::from_info(mode, master);
            assert!(node.unusable(false).is_some_and(|why| why.contains("Redis Cluster")), "{mode}");
        }
        assert!(!known.names_lives(), "no id is as short");
        let full = Server::from_info(&format!("run_id:{}\r\n", "f".repeat(40)), master);
        assert!(full.names_lives());
        let replica = Server::from_info(server, "role:slave\r\nmaster_replid:def\r\n");
        assert!(replica.unusable(false).is_some_and(|why| why.contains("replica")));
        assert!(!known.is_surely_another(&replica));
        assert!(known.is_surely_another(&Server { run: "xyz".into(), ..Server::default() }));
        assert!(!known.is_surely_another(&Server::from_info("# Server\r\n", "")));
    }

    #[test]
    fn a_cluster_needs_masters_of_one_that_tell_their_lives() {
        let info = |mode: &str, role: &str| {
            let server = format!("redis_mode:{mode}\r\nrun_id:{}\r\n", "f".repeat(40));
            Server::from_info(&server, &format!("role:{role}\r\nmaster_replid:def\r\n"))
        };
        assert_eq!(info("cluster", "master").unusable(true), None);
        assert!(
            info("standalone", "master")
                .unusable(true)
                .is_some_and(|why| why.contains("not part of a cluster"))
        );
        assert!(info("cluster", "slave").unusable(true).is_some_and(|why| why.contains("replica")));
        let silent = Server::from_hello(["mode", "cluster", "role", "master"]);
        assert!(silent.unusable(true).is_some_and(|why| why.contains("INFO")));
    }

    #[test]
    fn what_a_server_is_for_is_told_without_info_too() {
        let hello =
            |mode, role| Server::from_hello(["server", "redis", "mode", mode, "role", role, "modules"]);
        assert_eq!(hello("standalone", "master").unusable(false), None);
        assert!(hello("standalone", "replica").unusable(false).is_some_and(|why| why.contains("replica")));
        assert!(hello("cluster", "master").unusable(false).is_some_and(|why| why.contains("Redis Cluster")));
        let sentinel = Server::from_hello(["server", "redis", "mode", "sentinel", "modules"]);
        assert!(
            sentinel.unusable(false).is_some_and(|why| why.contains("Sentinel")) && sentinel.is_sentinel()
        );
        assert!(!hello("standalone", "master").has_identity);
    }
}
