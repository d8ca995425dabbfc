//! Routes of clients' events, by name, as configured.

use std::collections::BTreeMap;

/// Which clients may enter a namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NamespaceAccess {
    /// Whether only clients with a user may enter.
    pub users_only: bool,
    /// Whether the application is asked.
    pub asks: bool,
    /// Whether clients that resume a session enter without asking the application.
    pub recovery_skips_hook: bool,
}

/// The routes of one namespace's events. Events without a route are refused.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Routes {
    exact: BTreeMap<Box<str>, Route>,
    /// Routes by the beginning of the name, the longest first.
    beginnings: Vec<(Box<str>, Route)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Route {
    /// The event goes to other clients.
    Publish(ForwardRule),
    /// The client joins a room.
    Join(RoomRule),
    /// The client leaves a room.
    Leave(RoomRule),
    /// The event goes to the application.
    Backend,
    /// The event is refused.
    Refuse,
}

/// The destination of an event and its name there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForwardRule {
    pub to: Destination,
    /// The event's name at the destination; `None` to keep its name.
    pub event: Option<Box<str>>,
    /// Whether the sender receives the event too.
    pub to_sender: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destination {
    /// All clients in the namespace.
    Namespace,
    /// The clients in a room that the sender is in.
    Room(RoomName),
    /// The client whose id is the argument at this index. The argument is removed.
    Client(usize),
}

/// The room that a client joins or leaves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RoomRule {
    pub room: RoomName,
    /// Permitted names of rooms, or beginnings of names followed by a `*`. Empty: any name.
    pub rooms: Vec<Box<str>>,
    /// The event that tells the other clients in the room, if they are told.
    pub tell: Option<Box<str>>,
}

/// How an event names its room.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RoomName {
    /// Always this room.
    Always(Box<str>),
    /// The argument at this index names the room. The argument is removed. The first is at 0.
    Argument(usize),
}

impl Routes {
    /// Adds a route for events of this name or, if it ends in `*`, for all names that begin so.
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

    /// Returns the route of an event. `None` if it is refused.
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
