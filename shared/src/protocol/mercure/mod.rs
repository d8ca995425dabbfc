//! Mercure (draft-dunglas-mercure-07, as hubs 0.x speak it): updates of topics as an event stream, published by a form.
//!
//! A topic is a channel. What an update says beside its data travels as tags of the publication, so that a broker keeps it and
//! other wires pass over it.

use bytes::{BufMut, BytesMut};

use crate::command::Command;
use crate::framing::{Message, MessageKind};
use crate::protocol::event_source::put_data;
use crate::protocol::{DecodeError, Encoded, Header, Heartbeat, Protocol, ProtocolId};
use crate::publication::Publication;
use crate::push::{Event, Push};
use crate::reply::{Answer, Reply};

mod request;
mod update;

pub use request::{Asked, Unreadable};
pub use update::{Invalid, Update};

/// Set to anything: only those who show that they may are given the publication.
pub const PRIVATE: &str = "mercure.private";
/// The topics, the canonical one first, a line each.
pub const TOPICS: &str = "mercure.topics";
const ID: &str = "mercure.id";
const TYPE: &str = "mercure.type";
const RETRY: &str = "mercure.retry";

/// The id that stands before the first update that there is.
pub const EARLIEST: &str = "earliest";

/// The header that says after which update a stream begins.
const LAST_EVENT_ID: &str = "last-event-id";

#[derive(Clone, Copy, Debug, Default)]
pub struct Mercure;

impl Protocol for Mercure {
    fn id(&self) -> ProtocolId {
        ProtocolId::MERCURE
    }

    /// There is no way to send anything.
    fn decode(&self, _message: Message<'_>, _commands: &mut Vec<Command>) -> Result<(), DecodeError> {
        Err(DecodeError::Malformed)
    }

    fn encode_reply(&self, reply: &Reply, out: &mut BytesMut) -> Encoded {
        let connected = match &reply.outcome {
            Ok(Answer::Connect(connected)) => connected,
            Ok(_) => return Encoded::Nothing,
            Err(refusal) => return Encoded::Close(refusal.disconnect()),
        };
        // Some proxies pass nothing on before there is a line.
        out.put_slice(b":\n");
        let mut header = None;
        for subscribed in connected.subs.values() {
            if subscribed.was_recovering {
                let value = subscribed.after.clone().unwrap_or_else(|| EARLIEST.into());
                header = Some(Header { name: LAST_EVENT_ID, value });
            }
            subscribed.publications.iter().for_each(|publication| put_update(publication, out));
        }
        Encoded::Begin(header)
    }

    fn encode_push(&self, push: Push<'_>, out: &mut BytesMut) -> Encoded {
        match push.event {
            Event::Publication(publication, _) => {
                put_update(publication, out);
                Encoded::Message(MessageKind::Text)
            }
            Event::Unsubscribed(code) => Encoded::Close(code.disconnect()),
            // The protocol has no words but updates: the stream ends.
            Event::Disconnected(_)
            | Event::Joined(_)
            | Event::Left(_)
            | Event::MemberAdded(_)
            | Event::MemberRemoved(_)
            | Event::Counted(_)
            | Event::Subscribed(_)
            | Event::Message(_)
            | Event::Refreshed(_) => Encoded::Nothing,
        }
    }

    fn heartbeat(&self) -> Heartbeat {
        Heartbeat::Unanswered
    }

    /// An event ends itself.
    fn delimiter(&self) -> Option<&'static [u8]> {
        Some(b"")
    }
}

fn put_update(publication: &Publication, out: &mut BytesMut) {
    let tag = |name: &str| publication.tags.get(name).map(|value| value.as_bytes());
    let mut put = |name: &[u8], value: &[u8]| {
        out.put_slice(name);
        out.put_slice(value);
        out.put_u8(b'\n');
    };
    if let Some(kind) = tag(TYPE) {
        put(b"event: ", kind);
    }
    if let Some(retry) = tag(RETRY) {
        put(b"retry: ", retry);
    }
    match tag(ID) {
        Some(id) => put(b"id: ", id),
        None => {
            if let Some(id) = place(publication) {
                put(b"id: ", id.as_bytes());
            }
        }
    }
    put_data(&publication.data, out);
    out.put_u8(b'\n');
}

/// The id of what was published without one, as things are that came another way.
fn place(publication: &Publication) -> Option<String> {
    publication.position.map(|position| format!("#{}:{}", position.epoch.as_str(), position.offset))
}

/// The id by which an update is told.
pub fn id_of(publication: &Publication) -> Option<String> {
    publication.tags.get(ID).map(|id| id.to_string()).or_else(|| place(publication))
}

/// Whether this is the update's id.
pub fn has_id(publication: &Publication, id: &str) -> bool {
    match publication.tags.get(ID) {
        Some(own) => **own == *id,
        None => place(publication).is_some_and(|place| place == id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Channel;
    use crate::id::ClientId;
    use crate::position::{Epoch, StreamPosition};
    use crate::publication::Payload;
    use crate::reply::{Connected, Subscribed};

    fn pushed(publication: &Publication) -> String {
        let (channel, mut out) = (Channel::parse("mercure:a", 255).unwrap(), BytesMut::new());
        let push = Push::to(&channel, Event::plain(publication));
        assert_eq!(Mercure.encode_push(push, &mut out), Encoded::Message(MessageKind::Text));
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn an_update_is_an_event_with_all_that_it_says() {
        let form = b"topic=a&topic=b&data=one%0Atwo&id=x&type=t&retry=5&private=";
        let update = Update::read(form).unwrap().publication("made up");
        assert_eq!(pushed(&update), "event: t\nretry: 5\nid: x\ndata: one\ndata: two\n\n");
        assert!(update.tags.contains_key(PRIVATE) && &*update.tags[TOPICS] == "a\nb");
        let bare = Update::read(b"topic=a").unwrap().publication("urn:uuid:1");
        assert_eq!(pushed(&bare), "id: urn:uuid:1\ndata: \n\n");
        assert!(has_id(&bare, "urn:uuid:1") && !has_id(&bare, "x"));
    }

    #[test]
    fn what_came_another_way_is_named_by_its_place() {
        let mut other = Publication::new(Payload::json("{}"));
        assert_eq!(pushed(&other), "data: {}\n\n");
        other.position = Some(StreamPosition { offset: 7, epoch: Epoch::parse("life").unwrap() });
        assert_eq!(pushed(&other), "id: #life:7\ndata: {}\n\n");
        assert!(has_id(&other, "#life:7"));
    }

    #[test]
    fn the_answer_says_after_which_update_it_begins() {
        let answered = |subscribed: Subscribed| {
            let mut connected = Connected::new(ClientId::from_bits(1), "1", "node".into());
            connected.subs.insert(Channel::parse("mercure:a", 255).unwrap(), subscribed);
            let reply = Reply { id: 1, channel: None, outcome: Ok(Answer::Connect(Box::new(connected))) };
            Mercure.encode_reply(&reply, &mut BytesMut::new())
        };
        let header = |value: &str| Encoded::Begin(Some(Header { name: LAST_EVENT_ID, value: value.into() }));
        assert_eq!(answered(Subscribed::default()), Encoded::Begin(None));
        let lost = Subscribed { was_recovering: true, ..Subscribed::default() };
        assert_eq!(answered(lost.clone()), header("earliest"));
        assert_eq!(answered(Subscribed { after: Some("x".into()), ..lost }), header("x"));
    }
}
