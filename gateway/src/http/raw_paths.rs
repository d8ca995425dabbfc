//! Configured paths of raw endpoints: the channel each stands for, and how its clients' messages are handled.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use shared::protocol::raw;

use crate::setting::{Faults, check_path};

/// Most paths.
const PATHS_MAX: usize = 64;

/// Raw endpoints at paths of your own, in addition to `/raw/{channel}`. Each path has a section; at most 64.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawPathsConfig {
    /// Each path with its section, such as `[raw.paths."/ws"]`.
    pub paths: BTreeMap<String, RawPath>,
}

/// One path at which clients connect without a protocol.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RawPath {
    /// The channel that clients are subscribed to when they connect, if they are allowed to subscribe. Empty: none.
    pub channel: String,
    /// What happens to messages of clients. `publish`: they are published to the channel, if the client is allowed to
    /// publish. `hook`: `[backend.message]` receives them, and its answer goes back to the sender. `none`: a client
    /// that sends a message is closed with 3507.
    pub messages: Messages,
    /// The transport: `websocket`, or `engine_io` for Engine.IO 4 libraries, whose pings follow `[socketio]`.
    pub transport: RawTransport,
}

/// What messages come in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
pub enum RawTransport {
    #[default]
    #[serde(rename = "websocket")]
    WebSocket,
    #[serde(rename = "engine_io")]
    EngineIo,
}

/// What becomes of messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Messages {
    #[default]
    Publish,
    Hook,
    None,
}

impl From<Messages> for raw::MessageHandling {
    fn from(messages: Messages) -> Self {
        match messages {
            Messages::Publish => Self::Publish,
            Messages::Hook => Self::Ask,
            Messages::None => Self::Refuse,
        }
    }
}

impl RawPathsConfig {
    /// Whether any path uses Engine.IO.
    pub fn has_engine_io(&self) -> bool {
        self.paths.values().any(|path| path.transport == RawTransport::EngineIo)
    }

    /// Checks the paths themselves.
    pub fn check(&self, faults: &mut Faults) {
        for (at, (path, bound)) in self.paths.iter().enumerate() {
            if let Err(problem) = check_path(path) {
                faults.add(format!("paths.{path}"), problem);
            }
            if at == PATHS_MAX {
                faults.add(
                    format!("paths.{path}"),
                    format!("is one too many: at most {PATHS_MAX} paths are allowed"),
                );
            }
            if bound.channel.is_empty() {
                match bound.messages {
                    Messages::Publish => {
                        let problem =
                            "must be set, unless messages = \"hook\": there is no channel to publish to";
                        faults.add(format!("paths.{path}.channel"), problem);
                    }
                    Messages::None => {
                        let problem = "must be set if messages = \"none\": otherwise the path has no effect";
                        faults.add(format!("paths.{path}.channel"), problem);
                    }
                    Messages::Hook => {}
                }
            }
        }
    }
}

/// The paths of a running node. They may be replaced; connected clients are not affected.
#[derive(Debug)]
pub(crate) struct RawPaths(RwLock<BTreeMap<String, Arc<RawPath>>>);

impl RawPaths {
    pub(crate) fn new(config: &RawPathsConfig) -> Self {
        Self(RwLock::new(shared_by_all(config)))
    }

    pub(crate) fn set(&self, config: &RawPathsConfig) {
        *self.0.write() = shared_by_all(config);
    }

    pub(crate) fn find(&self, path: &str) -> Option<Arc<RawPath>> {
        self.0.read().get(path).cloned()
    }
}

fn shared_by_all(config: &RawPathsConfig) -> BTreeMap<String, Arc<RawPath>> {
    config.paths.iter().map(|(path, bound)| (path.clone(), Arc::new(bound.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faulty(config: &RawPathsConfig) -> Vec<String> {
        let mut faults = Faults::default();
        config.check(&mut faults);
        faults.into_inner().into_iter().map(|(key, _)| key).collect()
    }

    fn bound(paths: impl IntoIterator<Item = String>, channel: &str, messages: Messages) -> RawPathsConfig {
        let bound = RawPath { channel: channel.to_owned(), messages, ..RawPath::default() };
        RawPathsConfig { paths: paths.into_iter().map(|path| (path, bound.clone())).collect() }
    }

    #[test]
    fn only_paths_that_requests_can_have_and_nothing_else_answers_are_taken() {
        for good in ["/", "/ws", "/chat/room-1", "/v1/api", "/rawest", "/a.b/~c:d@e"] {
            assert_eq!(faulty(&bound([good.to_owned()], "news", Messages::Publish)), [""; 0], "{good}");
        }
        let long = format!("/{}", "x".repeat(255));
        for bad in [
            "",
            "ws",
            "/a b",
            "/a?b",
            "/a#b",
            "/a%20b",
            "/é",
            "/a/../b",
            "/.",
            "/raw",
            "/raw/x",
            "/api",
            "/app/x",
            "/apps",
            "/connection/x",
            "/emulation",
            &long,
        ] {
            let told = faulty(&bound([bad.to_owned()], "news", Messages::Publish));
            assert_eq!(told, [format!("paths.{bad}")]);
        }
        let many = bound((0..=PATHS_MAX).map(|number| format!("/{number:02}")), "news", Messages::None);
        assert_eq!(faulty(&many), ["paths./64"]);
    }

    #[test]
    fn without_a_channel_messages_go_to_the_backend_or_nowhere() {
        for (messages, sound) in [(Messages::Hook, true), (Messages::Publish, false), (Messages::None, false)]
        {
            let told = faulty(&bound(["/ws".to_owned()], "", messages));
            assert_eq!(told.is_empty(), sound, "{messages:?} {told:?}");
        }
    }

    #[test]
    fn paths_are_found_as_they_are_set_last() {
        let paths = RawPaths::new(&bound(["/a".to_owned()], "one", Messages::Publish));
        assert_eq!(paths.find("/a").unwrap().channel, "one");
        assert!(paths.find("/a/").is_none() && paths.find("/b").is_none());
        paths.set(&bound(["/b".to_owned()], "two", Messages::None));
        assert!(paths.find("/a").is_none());
        assert_eq!(paths.find("/b").unwrap().channel, "two");
    }
}
