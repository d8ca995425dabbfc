//! Addresses events and commands: turns rooms and ids of clients into a channel and a selection of its subscribers.

use shared::channel::{CHANNEL_BYTES_MAX, Channel};
use shared::protocol::socketio::{EVENT_BYTES_MAX, Namespace, RESERVED, parse_sid};
use shared::publication::{EVENT_TAG, Publication, Selection, Tagged};

/// The most rooms and ids of clients that one event or command may name as targets, and as exceptions.
pub const PARTS_MAX: usize = 256;

/// Why an address is invalid.
pub type AddressError = String;

/// An event with its target.
#[derive(Debug)]
pub struct AddressedEvent<'a, T> {
    pub event: &'a str,
    /// Its arguments.
    pub arguments: Tagged,
    /// Rooms and ids of clients. Empty: all clients in the namespace.
    pub rooms: &'a [T],
    pub except: &'a [T],
    /// Whether the event is left out for clients that have not taken all earlier messages yet.
    pub volatile: bool,
}

impl<T: AsRef<str>> AddressedEvent<'_, T> {
    /// Returns the publication of the event, and its channel.
    pub fn publication(self, namespace: &Namespace) -> Result<(Channel, Publication), AddressError> {
        let Self { event, arguments: Tagged { data, mut tags }, rooms, except, volatile } = self;
        if event.is_empty() || event.len() > EVENT_BYTES_MAX || RESERVED.contains(&event) {
            let problem = format!(
                "event must be a name of 1 to {EVENT_BYTES_MAX} bytes that Socket.IO does not reserve"
            );
            return Err(problem);
        }
        tags.insert(EVENT_TAG.into(), event.into());
        let (channel, only) = channel_and_selection(namespace, rooms, except, volatile)?;
        Ok((channel, Publication { tags, only, ..Publication::new(data) }))
    }
}

/// Selects the clients of a namespace that are in one of these rooms or have one of these ids, or all of them if none
/// is given, without the clients in `except`.
pub fn selection<T: AsRef<str>>(
    namespace: &Namespace,
    rooms: &[T],
    except: &[T],
) -> Result<Selection, AddressError> {
    if rooms.len() + except.len() > PARTS_MAX {
        return Err(format!("there are more than {PARTS_MAX} rooms"));
    }
    let mut only = Selection::default();
    for name in rooms {
        match parse_sid(name.as_ref(), namespace.name()) {
            Some(client) => only.clients.push(client),
            None => only.channels.push(room(namespace, name.as_ref())?),
        }
    }
    for name in except {
        match parse_sid(name.as_ref(), namespace.name()) {
            Some(client) => only.except_clients.push(client),
            None => only.except_channels.push(room(namespace, name.as_ref())?),
        }
    }
    Ok(only)
}

fn channel_and_selection<T: AsRef<str>>(
    namespace: &Namespace,
    rooms: &[T],
    except: &[T],
    volatile: bool,
) -> Result<(Channel, Option<Box<Selection>>), AddressError> {
    let mut only = Selection { volatile, ..selection(namespace, rooms, except)? };
    // Most events are for one room, and go through the room's own channel.
    let channel = match (&only.channels[..], only.clients.is_empty()) {
        ([_], true) => only.channels.remove(0),
        _ => all(namespace)?,
    };
    Ok((channel, (only != Selection::default()).then(|| Box::new(only))))
}

/// Returns the channel of all clients in a namespace.
pub fn all(namespace: &Namespace) -> Result<Channel, AddressError> {
    channel(&namespace.channel())
}

/// Returns the channel of a room.
pub fn room(namespace: &Namespace, name: &str) -> Result<Channel, AddressError> {
    if name.is_empty() {
        return Err("a room must have a name".to_owned());
    }
    channel(&namespace.room(name))
}

/// Returns the channels of rooms to be joined or left.
pub fn rooms<T: AsRef<str>>(namespace: &Namespace, names: &[T]) -> Result<Vec<Channel>, AddressError> {
    match names.len() > PARTS_MAX {
        true => Err(format!("there are more than {PARTS_MAX} rooms")),
        false => names.iter().map(|name| room(namespace, name.as_ref())).collect(),
    }
}

fn channel(name: &str) -> Result<Channel, AddressError> {
    Channel::parse(name, CHANNEL_BYTES_MAX).map_err(|error| format!("the name of a room is invalid: {error}"))
}

#[cfg(test)]
mod tests {
    use shared::id::ClientId;
    use shared::protocol::socketio::{Namespaces, sid};
    use shared::publication::{Payload, Tags};

    use super::*;

    fn namespaces() -> Namespaces {
        let mut namespaces = Namespaces::new(":");
        namespaces.add("/", "socketio", Default::default(), Default::default());
        namespaces
    }

    fn sent(rooms: &[&str], except: &[&str], volatile: bool) -> (String, Option<Selection>) {
        let arguments = Tagged { data: Payload::json("1"), tags: Tags::new() };
        let addressed = AddressedEvent { event: "e", arguments, rooms, except, volatile };
        let namespaces = namespaces();
        let (channel, publication) = addressed.publication(namespaces.named("/").unwrap()).unwrap();
        assert_eq!(publication.event(), Some("e"));
        (channel.to_string(), publication.only.map(|only| *only))
    }

    #[test]
    fn one_room_is_its_channel_and_anything_else_a_selection_of_all() {
        let one = ClientId::from_random(1);
        let id = sid(one, "/");
        assert_eq!(sent(&[], &[], false), ("socketio:*".to_owned(), None));
        assert_eq!(sent(&["a b"], &[], false), ("socketio:a%20b".to_owned(), None));
        let (channel, only) = sent(&["a", "b", &id], &["c", &id], false);
        let only = only.unwrap();
        assert_eq!((&*channel, only.channels.len(), &only.clients[..]), ("socketio:*", 2, &[one][..]));
        assert_eq!((only.except_channels.len(), &only.except_clients[..]), (1, &[one][..]));
        let (channel, only) = sent(&["a"], &["c"], true);
        let only = only.unwrap();
        assert_eq!((&*channel, only.channels.len(), only.volatile), ("socketio:a", 0, true));
    }

    #[test]
    fn what_cannot_be_sent_is_told() {
        let namespaces = namespaces();
        let main = namespaces.named("/").unwrap();
        let many = vec!["a"; PARTS_MAX + 1];
        assert!(selection(main, &many, &[]).is_err());
        assert!(rooms(main, &many).is_err());
        assert!(rooms(main, &[""]).is_err());
        assert!(rooms(main, &["x".repeat(300)]).is_err());
        for event in ["", "connect", &"x".repeat(EVENT_BYTES_MAX + 1)] {
            let arguments = Tagged { data: Payload::json("1"), tags: Tags::new() };
            let addressed =
                AddressedEvent::<&str> { event, arguments, rooms: &[], except: &[], volatile: false };
            assert!(addressed.publication(main).is_err(), "{event}");
        }
    }
}
