//! Mercure (draft-dunglas-mercure-07, as hubs 0.x implement it): updates of topics as an event stream, published by a form.
//!
//! A topic is a channel. The fields of an update other than its data are carried as tags of the publication, so that
//! brokers keep them and other protocols ignore them. Its type is the name of an event, which other protocols use too.

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

/// Set to any value on an update that only authorized subscribers receive.
pub const PRIVATE: &str = "mercure.private";
/// The topics, one per line, the canonical one first.
pub const TOPICS: &str = "mercure.topics";
const ID: &str = "mercure.id";
const RETRY: &str = "mercure.retry";

/// The selector of all topics, and the name of the channel with the updates of all topics.
pub const ALL_TOPICS: &str = "*";

/// The id that precedes the first retained update.
pub const EARLIEST: &str = "earliest";

/// The header with the id after which a stream begins.
const LAST_EVENT_ID: &str = "last-event-id";

#[derive(Clone, Copy, Debug, Default)]
pub struct Mercure;

impl Protocol for Mercure {
    fn id(&self) -> ProtocolId {
        ProtocolId::MERCURE
    }

    /// Clients cannot send anything.
    fn decode(&self, _message: Message<'_>, _commands: &mut Vec<Command>) -> Result<(), DecodeError> {
        Err(DecodeError::Malformed)
    }

    fn encode_reply(&self, reply: &Reply, out: &mut BytesMut) -> Encoded {
        let connected = match &reply.outcome {
            Ok(Answer::Connect(connected)) => connected,
            Ok(_) => return Encoded::Nothing,
            Err(refusal) => return Encoded::Close(refusal.disconnect()),
        };
        // Some proxies do not forward the response before it has a line.
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
            // The protocol has only updates, so that the end of the stream must do.
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

    /// Each event ends with an empty line, so that none needs a delimiter.
    fn delimiter(&self) -> Option<&'static [u8]> {
        Some(b"")
    }
}

fn put_update(publication: &Publication, out: &mut BytesMut) {
    if let Some(kind) = publication.event().filter(|name| can_be_type(name)) {
        put_type(kind, out);
    }
    // Other protocols can set tags too, to any value.
    let is_number = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(retry) = publication.tags.get(RETRY).map(|retry| &**retry).filter(is_number) {
        out.put_slice(b"retry: ");
        out.put_slice(retry.as_bytes());
        out.put_u8(b'\n');
    }
    put_data(&publication.data, out);
    // The id comes last: some readers accept the incomplete event at the end of a broken stream, and would resume after it.
    if let Some(id) = id_of(publication) {
        out.put_slice(b"id: ");
        out.put_slice(id.as_bytes());
        out.put_u8(b'\n');
    }
    out.put_u8(b'\n');
}

/// Returns the id that the publisher gave, if it is valid as an id.
fn own_id(publication: &Publication) -> Option<&str> {
    publication.tags.get(ID).map(|id| &**id).filter(|id| !id.chars().any(char::is_control))
}

/// Returns an id made of the position, for publications without an id of their own, such as those of other protocols.
fn place(publication: &Publication) -> Option<String> {
    publication.position.map(|position| format!("#{}:{}", position.epoch.as_str(), position.offset))
}

/// Turns a publication of another protocol into an update of this topic, with a generated id. Returns false if it has
/// topics, as it is an update already.
pub fn make_update(publication: &mut Publication, topic: &str, id: impl FnOnce() -> String) -> bool {
    if publication.tags.contains_key(TOPICS) {
        return false;
    }
    publication.tags.insert(TOPICS.into(), topic.into());
    publication.tags.entry(ID.into()).or_insert_with(|| id().into());
    true
}

/// Returns the id with which an update is sent.
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
