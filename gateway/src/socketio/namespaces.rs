//! The sections `socketio.namespaces.NAME`: where the channels of each are, and what becomes of clients' events there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared::channel::CHANNEL_BYTES_MAX;
use shared::protocol::socketio::{
    ARGUMENTS_MAX, Destination, EVENT_BYTES_MAX, ForwardRule, NAMESPACES_MAX, NamespaceAccess, Namespaces,
    RESERVED, RoomName, RoomRule, Route, Routes,
};

use crate::setting::Faults;

/// The namespace of clients that name none.
const MAIN: &str = "/";
/// The default namespace of its channels.
const CHANNELS_OF_MAIN: &str = "socketio";
/// The longest name of a namespace, in bytes.
const NAME_BYTES_MAX: usize = 128;
/// The bounds of the time that a session is kept, in milliseconds.
const RECOVERY_MS_MIN: u64 = 1_000;
const RECOVERY_MS_MAX: u64 = 24 * 60 * 60 * 1_000;
/// The most events with rules in one namespace.
const EVENTS_MAX: usize = 1_000;

/// One Socket.IO namespace that clients may connect to. Without any such section there is one namespace, `/`, in
/// which clients receive what servers send.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Namespace {
    /// The gateway namespace that holds the channels: `CHANNELS:*` for all clients of the Socket.IO namespace,
    /// `CHANNELS:ROOM` for a room. It needs no section in `namespaces`; add one to give the channels history or to
    /// open them to other clients. Empty: the name without the leading `/`, and `socketio` for `/`.
    pub channels: String,
    /// Refuses clients without a user.
    pub users_only: bool,
    /// Asks `[backend.socketio]` about each client that connects to the namespace. Client libraries wait for its
    /// answer; the Python library waits one second.
    pub connect_hook: bool,
    /// Time for which a disconnected client can recover its session, in milliseconds: it keeps its id and rooms, and
    /// receives the events it missed. After a node fails, its sessions are kept for up to half as long again, or a
    /// minute. Needs history in the namespace of the channels: `history_size`, and a `history_ttl_s` of at least this
    /// time. Events then carry one more argument, an offset, as client libraries expect. 0: no recovery.
    pub recovery_ms: u64,
    /// Does not ask the `connect_hook` about clients that recover their session.
    pub recovery_skips_hook: bool,
    /// What becomes of events that clients send, by their names, such as `[socketio.namespaces."/".events."chat message"]`.
    /// A name that ends in `*` stands for all that begin so. Others are refused.
    pub events: BTreeMap<String, EventRule>,
}

/// The rule for one event of clients.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct EventRule {
    /// `publish`: sends the event to all clients of the namespace, or to a room that the sender is in, if the rule
    /// names one. `join`, `leave`: the sender joins or leaves a room. `hook`: asks `[backend.socketio]`. `refuse`:
    /// does nothing and answers with an error.
    pub action: Action,
    /// The room. Empty: `room_argument` names it, or there is none.
    pub room: String,
    /// Index of the argument that names the room, from 0. The argument is text or a number, and recipients do not get
    /// it.
    pub room_argument: Option<u32>,
    /// Index of the argument that holds the id of the only recipient, from 0. The recipient does not get it. Only for
    /// `publish`.
    pub client_argument: Option<u32>,
    /// The rooms that may be joined: names, or prefixes followed by `*`. Empty: any. Only for `join`.
    pub rooms: Vec<String>,
    /// The name of the event for recipients. Empty: for `publish`, the same name; for `join` and `leave`, nobody is
    /// notified. For `join` and `leave`, the other clients in the room get the event with the remaining arguments, or
    /// with the sender's id if there are none.
    pub event: String,
    /// Sends the event to its sender, too. Only for `publish`.
    pub to_sender: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    #[default]
    Refuse,
    Publish,
    Join,
    Leave,
    Hook,
}

impl Default for EventRule {
    fn default() -> Self {
        Self {
            action: Action::default(),
            room: String::new(),
            room_argument: None,
            client_argument: None,
            rooms: Vec::new(),
            event: String::new(),
            to_sender: true,
        }
    }
}

impl Namespace {
    /// Returns the namespace of its channels. `name`: the name of its section.
    pub fn channels_or<'a>(&'a self, name: &'a str) -> &'a str {
        match (&*self.channels, name) {
            ("", MAIN) => CHANNELS_OF_MAIN,
            ("", name) => name.strip_prefix('/').unwrap_or(name),
            (channels, _) => channels,
        }
    }

    pub(super) fn access(&self) -> NamespaceAccess {
        let Self { users_only, connect_hook: asks, recovery_skips_hook, .. } = *self;
        NamespaceAccess { users_only, asks, recovery_skips_hook }
    }

    pub(super) fn routes(&self) -> Routes {
        let mut routes = Routes::default();
        for (event, rule) in &self.events {
            routes.add(event, rule.route());
        }
        routes
    }

    /// Returns these settings with those of `new` that can change while the node runs.
    fn with_live_of(&self, new: &Self) -> Self {
        Self {
            users_only: new.users_only,
            connect_hook: new.connect_hook,
            recovery_skips_hook: new.recovery_skips_hook,
            events: new.events.clone(),
            ..self.clone()
        }
    }

    fn check(&self, name: &str, faults: &mut Faults) {
        let key = |key: &str| format!("namespaces.{name}.{key}");
        let is_name = name.starts_with('/')
            && name.len() <= NAME_BYTES_MAX
            && !name.contains(|letter: char| letter.is_control() || letter.is_whitespace() || letter == ',');
        if !is_name {
            let problem = format!(
                "must begin with / and be at most {NAME_BYTES_MAX} bytes long, without commas and spaces"
            );
            faults.add(format!("namespaces.{name}"), problem);
        }
        let channels = self.channels_or(name);
        let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if !(2..CHANNEL_BYTES_MAX / 2).contains(&channels.len()) || !channels.bytes().all(is_of_name) {
            let problem = "must be the name of a namespace: at least 2 letters, digits, - and _";
            faults.add(key("channels"), problem);
        }
        if self.recovery_ms > RECOVERY_MS_MAX || (1..RECOVERY_MS_MIN).contains(&self.recovery_ms) {
            let problem = format!("must be 0, or from {RECOVERY_MS_MIN} to {RECOVERY_MS_MAX}");
            faults.add(key("recovery_ms"), problem);
        }
        if self.recovery_skips_hook && !(self.connect_hook && self.recovery_ms > 0) {
            faults.add(key("recovery_skips_hook"), "needs connect_hook and recovery_ms");
        }
        if self.events.len() > EVENTS_MAX {
            faults.add(key("events"), format!("must be at most {EVENTS_MAX}"));
        }
        for (event, rule) in &self.events {
            rule.check(
                event,
                &|faults, field, problem| faults.add(key(&format!("events.{event}{field}")), problem),
                faults,
            );
        }
    }
}

impl EventRule {
    fn check(&self, event: &str, add: &dyn Fn(&mut Faults, &str, String), faults: &mut Faults) {
        if event.is_empty() || event.len() > EVENT_BYTES_MAX || RESERVED.contains(&event) {
            let problem = format!(
                "is not an event that clients can send: use 1 to {EVENT_BYTES_MAX} bytes, and no reserved name"
            );
            add(faults, "", problem);
        }
        if self.event.len() > EVENT_BYTES_MAX || RESERVED.contains(&&*self.event) {
            add(faults, ".event", format!("must be at most {EVENT_BYTES_MAX} bytes, and no reserved name"));
        }
        let names_room = !self.room.is_empty() || self.room_argument.is_some();
        let enters = matches!(self.action, Action::Join | Action::Leave);
        if enters && !names_room {
            add(faults, "", "needs room or room_argument".to_owned());
        }
        if !self.room.is_empty() && self.room_argument.is_some() {
            add(faults, ".room_argument", "must not be set together with room".to_owned());
        }
        for (key, at) in [(".room_argument", self.room_argument), (".client_argument", self.client_argument)]
        {
            if at.is_some_and(|at| at as usize >= ARGUMENTS_MAX) {
                add(faults, key, format!("must be less than {ARGUMENTS_MAX}"));
            }
        }
        if self.client_argument.is_some() && (names_room || self.action != Action::Publish) {
            add(faults, ".client_argument", "is only for action = \"publish\" without a room".to_owned());
        }
        if !self.rooms.is_empty() && self.action != Action::Join {
            add(faults, ".rooms", "is only for action = \"join\"".to_owned());
        }
        if !self.to_sender && self.action != Action::Publish {
            add(faults, ".to_sender", "is only for action = \"publish\"".to_owned());
        }
        if (names_room || !self.event.is_empty()) && !enters && self.action != Action::Publish {
            add(faults, "", "has a room or an event, which its action does not use".to_owned());
        }
    }

    fn route(&self) -> Route {
        let event = Some(&*self.event).filter(|event| !event.is_empty()).map(Into::into);
        let named = match (self.room_argument, &*self.room) {
            (Some(at), _) => Some(RoomName::Argument(at as usize)),
            (None, "") => None,
            (None, room) => Some(RoomName::Always(room.into())),
        };
        let entry = |room| RoomRule {
            room,
            rooms: self.rooms.iter().map(|room| (**room).into()).collect(),
            tell: event.clone(),
        };
        match (self.action, named) {
            (Action::Publish, named) => {
                let to_client = self.client_argument.map(|at| Destination::Client(at as usize));
                let to = to_client.or(named.map(Destination::Room)).unwrap_or(Destination::Namespace);
                Route::Publish(ForwardRule { to, event, to_sender: self.to_sender })
            }
            (Action::Join, Some(room)) => Route::Join(entry(room)),
            (Action::Leave, Some(room)) => Route::Leave(entry(room)),
            (Action::Hook, _) => Route::Backend,
            (Action::Refuse | Action::Join | Action::Leave, _) => Route::Refuse,
        }
    }
}

/// Whether the Socket.IO hook is called for anything.
pub(super) fn asks(sections: &BTreeMap<String, Namespace>) -> bool {
    let hooks = |section: &Namespace| section.events.values().any(|rule| rule.action == Action::Hook);
    sections.values().any(|section| section.connect_hook || hooks(section))
}

/// Returns the configured sections, or the default one if there is none.
pub(super) fn or_main(sections: &BTreeMap<String, Namespace>) -> BTreeMap<String, Namespace> {
    if sections.is_empty() { [(MAIN.to_owned(), Namespace::default())].into() } else { sections.clone() }
}

pub(super) fn check(sections: &BTreeMap<String, Namespace>, faults: &mut Faults) {
    if sections.len() > NAMESPACES_MAX {
        faults.add("namespaces", format!("are {}, must be at most {NAMESPACES_MAX}", sections.len()));
    }
    let mut seen = BTreeMap::new();
    for (name, section) in sections {
        section.check(name, faults);
        if let Some(other) = seen.insert(section.channels_or(name), name) {
            faults
                .add(format!("namespaces.{name}.channels"), format!("is also used by the namespace {other}"));
        }
    }
}

/// Returns the present sections, each with those settings of the new section of its name that can change while the node runs.
pub(super) fn with_live_of(
    present: &BTreeMap<String, Namespace>,
    new: &BTreeMap<String, Namespace>,
) -> BTreeMap<String, Namespace> {
    let merged = present.iter().map(|(name, section)| {
        let live = new.get(name).map_or_else(|| section.clone(), |new| section.with_live_of(new));
        (name.clone(), live)
    });
    merged.collect()
}

/// Builds the namespaces that clients are served by. The sections have been checked.
pub(super) fn namespaces(sections: &BTreeMap<String, Namespace>, boundary: &str) -> Namespaces {
    let mut namespaces = Namespaces::new(boundary);
    for (name, section) in sections {
        namespaces.add(name, section.channels_or(name), section.access(), section.routes());
        namespaces.keep_sessions(name, section.recovery_ms);
    }
    namespaces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faulty(toml: &str) -> Vec<String> {
        let sections: BTreeMap<String, Namespace> = toml::from_str(toml).unwrap();
        let mut faults = Faults::default();
        check(&sections, &mut faults);
        faults.into_inner().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn a_namespace_has_channels_of_its_own() {
        let namespace = Namespace::default();
        assert_eq!((namespace.channels_or("/"), namespace.channels_or("/chat")), ("socketio", "chat"));
        assert_eq!(faulty("[\"/\"]\n[\"/chat\"]\n"), [""; 0]);
        assert_eq!(faulty("[\"/a.b\"]\n"), ["namespaces./a.b.channels"]);
        assert_eq!(faulty("[\"/\"]\nchannels = \"chat\"\n[\"/chat\"]\n"), ["namespaces./chat.channels"]);
        assert_eq!(
            faulty("[\"chat\"]\n[\"/a,b\"]\nchannels = \"ab\"\n"),
            ["namespaces./a,b", "namespaces.chat"]
        );
    }

    #[test]
    fn a_rule_says_what_its_action_needs_and_nothing_else() {
        let of = |rule: &str| faulty(&format!("[\"/\".events.x]\n{rule}"));
        for good in [
            "action = \"publish\"",
            "action = \"publish\"\nroom_argument = 0\nto_sender = false\nevent = \"y\"",
            "action = \"join\"\nroom_argument = 0\nrooms = [\"game:*\"]\nevent = \"joined\"",
            "action = \"leave\"\nroom = \"lobby\"",
            "action = \"refuse\"",
            "action = \"hook\"",
            "action = \"publish\"\nclient_argument = 0",
        ] {
            assert_eq!(of(good), [""; 0], "{good}");
        }
        let own = |field: &str| vec![format!("namespaces./.events.x{field}")];
        assert_eq!(of("action = \"join\""), own(""));
        assert_eq!(of("action = \"publish\"\nroom = \"a\"\nroom_argument = 0"), own(".room_argument"));
        assert_eq!(of("action = \"publish\"\nrooms = [\"a\"]"), own(".rooms"));
        assert_eq!(of("action = \"leave\"\nroom = \"a\"\nto_sender = false"), own(".to_sender"));
        assert_eq!(of("action = \"publish\"\nroom_argument = 256"), own(".room_argument"));
        assert_eq!(of("action = \"hook\"\nclient_argument = 0"), own(".client_argument"));
        assert_eq!(of("event = \"y\""), own(""));
        assert_eq!(of("action = \"publish\"\nevent = \"disconnect\""), own(".event"));
        assert_eq!(faulty("[\"/\".events.connect]\naction = \"publish\""), ["namespaces./.events.connect"]);
    }

    #[test]
    fn a_rule_is_the_route_of_its_events() {
        let sections: BTreeMap<String, Namespace> = toml::from_str(
            "[\"/\".events.\"game:*\"]\naction = \"publish\"\nroom_argument = 1\n[\"/\".events.\"game:end\"]\n",
        )
        .unwrap();
        let namespaces = namespaces(&sections, ":");
        let routes = namespaces.named("/").unwrap().routes.get();
        let to = Destination::Room(RoomName::Argument(1));
        assert_eq!(
            routes.find("game:move"),
            Some(&Route::Publish(ForwardRule { to, event: None, to_sender: true }))
        );
        assert_eq!(routes.find("game:end"), Some(&Route::Refuse));
        assert_eq!(routes.find("other"), None);
    }
}
