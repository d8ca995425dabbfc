//! Names of namespaces and rooms: their channels in the gateway, and the routes of clients' events.

use std::collections::BTreeMap;

use crate::channel::Channel;
use crate::protocol::name_part;

use super::live::Live;
use super::routes::{NamespaceAccess, Routes};

/// The most namespaces. A connection keeps a bit for each.
pub const NAMESPACES_MAX: usize = 64;

/// Follows the prefix of a namespace in the name of the channel of all its clients. No room has this name, as the
/// character is encoded in names of rooms.
const ALL: &str = "*";

/// All namespaces that clients may connect to. Shared encodings depend on it and on nothing else.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Namespaces {
    all: Vec<Namespace>,
    by_name: BTreeMap<Box<str>, usize>,
    /// The index of each namespace by the prefix of its channels' names.
    by_prefix: BTreeMap<Box<str>, usize>,
    /// Separates the prefix from the rest of a channel's name.
    boundary: Box<str>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Namespace {
    name: Box<str>,
    prefix: Box<str>,
    /// May be replaced at run time, with effect on the clients that connect and the events that are sent after it.
    pub access: Live<NamespaceAccess>,
    pub routes: Live<Routes>,
    /// Longest absence after which clients recover the events that they missed, in milliseconds. 0: there is no recovery.
    pub recovery_ms: u64,
}

/// A channel in terms of this protocol.
#[derive(Clone, Copy, Debug)]
pub struct SeenRoom<'a> {
    pub namespace: &'a Namespace,
    pub(super) index: usize,
    /// The room, as encoded in the channel's name; `None` for the channel of all clients in the namespace.
    room: Option<&'a str>,
}

impl Namespaces {
    /// Makes an empty set. `boundary` ends the gateway's namespace in a channel's name.
    pub fn new(boundary: &str) -> Self {
        Self { boundary: boundary.into(), ..Self::default() }
    }

    /// Adds the namespace that clients call `name`, with channels in the gateway's namespace `channels`. Returns
    /// whether there was room for it. The caller ensures that names are unique.
    pub fn add(&mut self, name: &str, channels: &str, access: NamespaceAccess, routes: Routes) -> bool {
        if self.all.len() >= NAMESPACES_MAX {
            return false;
        }
        let index = self.all.len();
        let prefix = format!("{channels}{}", self.boundary).into();
        let (access, routes) = (Live::new(access), Live::new(routes));
        self.all.push(Namespace { name: name.into(), prefix, access, routes, recovery_ms: 0 });
        self.by_name.insert(name.into(), index);
        self.by_prefix.insert(channels.into(), index);
        true
    }

    /// Lets clients of a namespace recover missed events after an absence of at most `recovery_ms` milliseconds.
    pub fn keep_sessions(&mut self, name: &str, recovery_ms: u64) {
        if let Some(namespace) = self.find(name).and_then(|index| self.all.get_mut(index)) {
            namespace.recovery_ms = recovery_ms;
        }
    }

    /// Whether clients of any namespace can recover missed events.
    pub fn keep_any(&self) -> bool {
        self.all.iter().any(Namespace::keeps_sessions)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Namespace> {
        self.all.iter()
    }

    /// Returns the namespace and room of a channel. `None` if it belongs to no namespace.
    pub fn seen<'a>(&'a self, channel: &'a str) -> Option<SeenRoom<'a>> {
        let (prefix, rest) = channel.split_once(&*self.boundary)?;
        let index = *self.by_prefix.get(prefix)?;
        let namespace = self.all.get(index)?;
        Some(SeenRoom { namespace, index, room: (rest != ALL).then_some(rest) })
    }

    pub(super) fn of<'a>(&'a self, channel: Option<&'a Channel>) -> Option<SeenRoom<'a>> {
        self.seen(channel?.as_str())
    }

    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    pub(super) fn get(&self, index: usize) -> Option<&Namespace> {
        self.all.get(index)
    }

    pub fn named(&self, name: &str) -> Option<&Namespace> {
        self.get(self.find(name)?)
    }
}

impl Namespace {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether clients can recover missed events.
    pub fn keeps_sessions(&self) -> bool {
        self.recovery_ms > 0
    }

    /// Returns the channel of all clients in the namespace.
    pub fn channel(&self) -> String {
        format!("{}{ALL}", self.prefix)
    }

    /// Returns the channel of a room, whose name may be any text.
    pub fn room(&self, room: &str) -> String {
        format!("{}{}", self.prefix, name_part::encode(room))
    }
}

impl SeenRoom<'_> {
    /// Returns the name of the room. `None` for the channel of all clients in the namespace.
    pub fn room(&self) -> Option<String> {
        self.room.map(name_part::decode)
    }

    pub fn is_of_all(&self) -> bool {
        self.room.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespaces() -> Namespaces {
        let mut namespaces = Namespaces::new(":");
        assert!(namespaces.add("/", "socketio", NamespaceAccess::default(), Routes::default()));
        assert!(namespaces.add("/admin", "admin", NamespaceAccess::default(), Routes::default()));
        namespaces
    }

    #[test]
    fn rooms_are_channels_of_their_namespace_and_read_back() {
        let namespaces = namespaces();
        let main = namespaces.named("/").unwrap();
        assert_eq!(main.channel(), "socketio:*");
        for (room, channel) in [
            ("news", "socketio:news"),
            ("a b", "socketio:a%20b"),
            ("*", "socketio:%2A"),
            ("game:42#ann", "socketio:game%3A42%23ann"),
            ("é", "socketio:%C3%A9"),
            ("", "socketio:"),
        ] {
            assert_eq!(main.room(room), channel);
            assert_eq!(namespaces.seen(channel).and_then(|seen| seen.room()).as_deref(), Some(room));
        }
        let admin = namespaces.seen("admin:*").unwrap();
        assert!(admin.is_of_all());
        assert_eq!(admin.namespace.name(), "/admin");
        for channel in ["news", "other:news", "socketio", ":news"] {
            assert!(namespaces.seen(channel).is_none(), "{channel}");
        }
    }

    #[test]
    fn there_are_no_more_namespaces_than_a_connection_can_tell_apart() {
        let mut namespaces = Namespaces::new(":");
        for number in 0..NAMESPACES_MAX {
            assert!(namespaces.add(
                &format!("/{number}"),
                &format!("n{number}"),
                NamespaceAccess::default(),
                Routes::default()
            ));
        }
        assert!(!namespaces.add("/more", "more", NamespaceAccess::default(), Routes::default()));
    }
}
