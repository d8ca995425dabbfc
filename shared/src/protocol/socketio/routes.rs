//! What becomes of an event that a client sends: by its name, as the configuration says.

use std::collections::BTreeMap;

/// Who may come into a namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NamespaceAccess {
    /// Only clients with a user.
    pub users_only: bool,
    /// The application is asked.
    pub asks: bool,
    /// But not about who comes back to a session that it had.
    pub recovery_skips_hook: bool,
}

/// The events of one namespace. What no rule is for is refused.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Routes {
    exact: BTreeMap<Box<str>, Route>,
    /// By what their names begin with, the longest first.
    beginnings: Vec<(Box<str>, Route)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    /// It goes to other clients.
    Publish(ForwardRule),
    /// The client comes into a room.
    Join(RoomRule),
    /// The client goes out of a room.
    Leave(RoomRule),
    /// The application is asked.
    Backend,
    /// Its sender is told no.
    Refuse,
}

/// Where an event goes, and as what.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForwardRule {
    pub to: Destination,
    /// What it is called there; `None`: the same.
    pub event: Option<Box<str>>,
    /// Its sender gets it too.
    pub to_sender: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destination {
    /// All who are in the namespace.
    Namespace,
    /// Those who are in a room in which the sender is.
    Room(RoomName),
    /// The client whose id the argument at this place is, which goes no further then.
    Client(usize),
}

/// Which room a client comes into or goes out of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoomRule {
    pub room: RoomName,
    /// What rooms may be called: names, or beginnings of names with a `*` behind them. Empty: anything.
    pub rooms: Vec<Box<str>>,
    /// The event that tells those who are in it, if they are told.
    pub tell: Option<Box<str>>,
}

/// How the room of an event is known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RoomName {
    /// It is always this one.
    Always(Box<str>),
    /// The argument at this place names it, which goes no further then. The first is at 0.
    Argument(usize),
}

impl Routes {
    /// What becomes of events of this name, or of names that begin so if it ends in `*`.
    pub fn add(&mut self, name: &str, route: Route) {
        match name.strip_suffix('*') {
            Some(beginning) => {
                let at = self.beginnings.partition_point(|(other, _)| other.len() >= beginning.len());
                self.beginnings.insert(at, (beginning.into(), route));
            }
            None => {
                self.exact.insert(name.into(), route);
            }
        }
    }

    /// `None`: it is refused.
    pub fn find(&self, event: &str) -> Option<&Route> {
        let by_beginning = || self.beginnings.iter().find(|(beginning, _)| event.starts_with(&**beginning));
        self.exact.get(event).or_else(|| by_beginning().map(|(_, route)| route))
    }
}

impl RoomRule {
    pub(super) fn admits(&self, room: &str) -> bool {
        let fits = |pattern: &str| match pattern.strip_suffix('*') {
            Some(beginning) => room.starts_with(beginning),
            None => room == pattern,
        };
        self.rooms.is_empty() || self.rooms.iter().any(|pattern| fits(pattern))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_name_counts() {
        let publish =
            |to_sender| Route::Publish(ForwardRule { to: Destination::Namespace, event: None, to_sender });
        let mut routes = Routes::default();
        routes.add("*", Route::Backend);
        routes.add("chat:*", publish(true));
        routes.add("chat:room:*", publish(false));
        routes.add("chat:room:main", Route::Backend);
        for (event, route) in [
            ("x", Route::Backend),
            ("chat:x", publish(true)),
            ("chat:room:x", publish(false)),
            ("chat:room:main", Route::Backend),
        ] {
            assert_eq!(routes.find(event), Some(&route), "{event}");
        }
        assert_eq!(Routes::default().find("x"), None);
    }

    #[test]
    fn a_room_is_admitted_by_its_name_or_its_beginning() {
        let entry = |rooms: &[&str]| RoomRule {
            room: RoomName::Argument(0),
            rooms: rooms.iter().map(|&room| room.into()).collect(),
            tell: None,
        };
        assert!(entry(&[]).admits("anything"));
        assert!(entry(&["lobby", "game:*"]).admits("game:1") && entry(&["lobby"]).admits("lobby"));
        assert!(!entry(&["lobby", "game:*"]).admits("lobby2"));
    }
}
