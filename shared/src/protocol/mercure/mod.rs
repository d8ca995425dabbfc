//! Mercure (draft-dunglas-mercure-07, as hubs 0.x speak it): updates of topics as an event stream, published by a form.
//!
//! A topic is a channel. What an update says beside its data travels as tags of the publication, so that a broker keeps it and
//! other wires pass over it. Its type is the name of an event, which other wires know too.

use bytes::{BufMut, BytesMut};

use crate::command::Command;
use crate::framing::{Message, MessageKind};
use crate::protocol::event_source::{can_be_type, put_data, put_type};
use crate::protocol::{DecodeError, Encoded, Header, Heartbeat, Protocol, ProtocolId};
use crate::publication::Publication;
use crate::push::{Event, Push};
use crate::reply::{Answer, Reply};

mod request;
mod update;

pub use request::{MercureRequest, MercureRequestError, OWN_TOPICS};
pub use update::{InvalidUpdate, Update};

/// Set to anything: only those who show that they may are given the publication.
pub const PRIVATE: &str = "mercure.private";
/// The topics, the canonical one first, a line each.
pub const TOPICS: &str = "mercure.topics";
const ID: &str = "mercure.id";
const RETRY: &str = "mercure.retry";

/// What stands for all topics, and the name of the channel in which the updates of all are.
pub const ALL_TOPICS: &str = "*";

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
    if let Some(kind) = publication.event().filter(|name| can_be_type(name)) {
        put_type(kind, out);
    }
    // Other wires can set tags too, to anything.
    let is_number = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(retry) = publication.tags.get(RETRY).map(|retry| &**retry).filter(is_number) {
        out.put_slice(b"retry: ");
        out.put_slice(retry.as_bytes());
        out.put_u8(b'\n');
    }
    put_data(&publication.data, out);
    // Last: some readers take the half of an event that a broken stream ends with for a whole one, and would go on behind it.
    if let Some(id) = id_of(publication) {
        out.put_slice(b"id: ");
        out.put_slice(id.as_bytes());
        out.put_u8(b'\n');
    }
    out.put_u8(b'\n');
}

/// What its publisher calls it, if that is an id.
fn own_id(publication: &Publication) -> Option<&str> {
    publication.tags.get(ID).map(|id| &**id).filter(|id| !id.chars().any(char::is_control))
}

/// The id of what was published without one, as things are that came another way.
fn place(publication: &Publication) -> Option<String> {
    publication.position.map(|position| format!("#{}:{}", position.epoch.as_str(), position.offset))
}

/// Makes an update of this topic of what was published another way, under an id that is made for it. Returns whether it has
/// become one: what has topics already is one.
pub fn make_update(publication: &mut Publication, topic: &str, id: impl FnOnce() -> String) -> bool {
    if publication.tags.contains_key(TOPICS) {
        return false;
    }
    publication.tags.insert(TOPICS.into(), topic.into());
    publication.tags.entry(ID.into()).or_insert_with(|| id().into());
    true
}

/// The id by which an update is told.
pub fn id_of(publication: &Publication) -> Option<String> {
    own_id(publication).map(str::to_owned).or_else(|| place(publication))
}

/// Whether this is the update's id.
pub fn has_id(publication: &Publication, id: &str) -> bool {
    match own_id(publication) {
        Some(own) => own == id,
        None => place(publication).is_some_and(|place| place == id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Channel;
    use crate::id::ClientId;
    use crate::position::{Epoch, StreamPosition};
    use crate::publication::{EVENT_TAG, Payload, Tags};
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
        assert_eq!(pushed(&update), "event: t\nretry: 5\ndata: one\ndata: two\nid: x\n\n");
        assert!(update.tags.contains_key(PRIVATE) && &*update.tags[TOPICS] == "a\nb");
        assert_eq!(update.event(), Some("t"));
        let bare = Update::read(b"topic=a").unwrap().publication("urn:uuid:1");
        assert_eq!(pushed(&bare), "data: \nid: urn:uuid:1\n\n");
        assert!(has_id(&bare, "urn:uuid:1") && !has_id(&bare, "x"));
    }

    #[test]
    fn what_came_another_way_is_named_by_its_place() {
        let mut other = Publication::new(Payload::json("{}"));
        assert_eq!(pushed(&other), "data: {}\n\n");
        for (name, line) in [("price", "event: price\n"), ("a\nid: x", ""), ("", "")] {
            other.tags = Tags::from([(EVENT_TAG.into(), name.into())]);
            assert_eq!(pushed(&other), format!("{line}data: {{}}\n\n"));
        }
        other.tags = Tags::from([(ID.into(), "x\ndata: y".into()), (RETRY.into(), "5\nid: z".into())]);
        assert_eq!(pushed(&other), "data: {}\n\n");
        other.tags = Tags::new();
        other.position = Some(StreamPosition { offset: 7, epoch: Epoch::parse("life").unwrap() });
        assert_eq!(pushed(&other), "data: {}\nid: #life:7\n\n");
        assert!(has_id(&other, "#life:7"));
    }

    #[test]
    fn what_has_topics_is_an_update_already() {
        let mut other = Publication::new(Payload::json("{}"));
        assert!(make_update(&mut other, "a", || "x".into()));
        assert!(has_id(&other, "x") && &*other.tags[TOPICS] == "a");
        let mut update = Update::read(b"topic=b").unwrap().publication("y");
        assert!(!make_update(&mut update, "a", || "x".into()));
        assert!(has_id(&update, "y") && &*update.tags[TOPICS] == "b");
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
