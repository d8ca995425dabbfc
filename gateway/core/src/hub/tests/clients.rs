//! Clients that decode what they are sent: full payloads, deltas, joins and leaves.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use bytes::{BufMut, Bytes, BytesMut};
use shared::command::{Command, FilterNode};
use shared::framing::{Message, MessageKind};
use shared::id::{ClientId, UserId};
use shared::position::StreamPosition;
use shared::protocol::{DecodeError, Encoded, Heartbeat, Protocol, ProtocolId};
use shared::publication::{ClientInfo, Payload, Publication};
use shared::push::{Event, Form, OwnedEvent, Push};
use shared::reply::Reply;

use super::channel;
use crate::delta;
use crate::hub::*;
use crate::namespace_id::NamespaceId;
use crate::tag_filter::TagFilter;

/// A protocol whose messages consist of a length, a letter and a payload.
#[derive(Debug)]
struct Lettered;

impl Protocol for Lettered {
    fn id(&self) -> ProtocolId {
        ProtocolId::RAW
    }

    fn decode(&self, _: Message<'_>, _: &mut Vec<Command>) -> Result<(), DecodeError> {
        Err(DecodeError::Malformed)
    }

    fn encode_reply(&self, _: &Reply, _: &mut BytesMut) -> Encoded {
        Encoded::Nothing
    }

    fn encode_push(&self, push: Push<'_>, out: &mut BytesMut) -> Encoded {
        let (letter, payload) = match push.event {
            Event::Publication(publication, Form::Plain) => (b'n', &publication.data.bytes[..]),
            Event::Publication(publication, Form::Whole) => (b'w', &publication.data.bytes[..]),
            Event::Publication(_, Form::Patch(patch)) => (b'p', patch),
            Event::Joined(_) => (b'j', &b""[..]),
            Event::Left(_) => (b'l', &b""[..]),
            _ => return Encoded::Nothing,
        };
        out.put_u32(payload.len() as u32);
        out.put_u8(letter);
        out.put_slice(payload);
        Encoded::Message(MessageKind::Binary)
    }

    fn heartbeat(&self) -> Heartbeat {
        Heartbeat::Transport
    }

    fn delimiter(&self) -> Option<&'static [u8]> {
        Some(b"")
    }
}

/// A framing that adds nothing to messages.
#[derive(Debug)]
struct Bare;

impl PushFraming for Bare {
    fn headroom(&self) -> usize {
        0
    }

    fn seal(&self, _: MessageKind, _: &mut BytesMut) -> usize {
        0
    }

    fn deflate(&self, _: MessageKind, _: &[u8]) -> Option<Bytes> {
        None
    }
}

static VARIANTS: LazyLock<Arc<Variants>> = LazyLock::new(|| {
    let mut variants = Variants::default();
    let _ = variants.add(Encoding { protocol: Arc::new(Lettered), framing: Arc::new(Bare) });
    Arc::new(variants)
});

/// The options of a subscriber in these tests.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(super) struct Kind {
    /// Filters for publications with odd offsets, or with even ones.
    pub(super) odd: Option<bool>,
    pub(super) joins: bool,
    pub(super) patches: bool,
}

impl Kind {
    pub(super) fn subscriber(self, key: u32, positioned: bool) -> Subscriber {
        let plain = Variant::plain(EncodingId::default());
        let variant = if self.patches { plain.with_patches() } else { plain };
        Subscriber::new(key, variant).positioned(positioned).joins_and_leaves(self.joins)
    }

    pub(super) fn filter(self) -> Option<Arc<TagFilter>> {
        let val = if self.odd? { "1" } else { "0" };
        let leaf =
            FilterNode { key: "odd".into(), cmp: "eq".into(), val: val.into(), ..FilterNode::default() };
        Some(Arc::new(TagFilter::new(&leaf).unwrap()))
    }

    pub(super) fn lets_through(self, position: StreamPosition) -> bool {
        self.odd.is_none_or(|odd| odd == (position.offset % 2 == 1))
    }
}

/// Returns a payload that is long enough for deltas to pay off, and that differs only in the position.
fn payload(position: StreamPosition) -> Payload {
    let (epoch, offset) = (position.epoch.as_str(), position.offset);
    Payload::json(format!(r#"{{"what":"something that stays as it is","at":["{epoch}",{offset}]}}"#))
}

fn read(payload: &[u8]) -> StreamPosition {
    let value: serde_json::Value = serde_json::from_slice(payload).unwrap();
    super::in_epoch(value["at"][0].as_str().unwrap(), value["at"][1].as_u64().unwrap())
}

/// Prepares the publication at this position, with the one before it, against which a delta can be made.
pub(super) fn published(position: StreamPosition) -> Arc<Prepared> {
    let mut publication =
        Publication { position: Some(position), delta: true, ..Publication::new(payload(position)) };
    publication.tags.insert("odd".into(), (position.offset % 2).to_string().into());
    let before = StreamPosition { offset: position.offset - 1, ..position };
    let previous =
        (before.offset > 0).then(|| PreviousPublication { position: before, data: payload(before) });
    Prepared::of(
        channel("news"),
        NamespaceId::DEFAULT,
        OwnedEvent::Publication(publication),
        previous,
        0,
        &VARIANTS,
    )
}

pub(super) fn somebody() -> ClientInfo {
    let (client, user) = (ClientId::from_random(7), UserId::new("ann"));
    ClientInfo { client, user, conn_info: None, chan_info: None }
}

pub(super) fn joined() -> Arc<Prepared> {
    Prepared::of(channel("news"), NamespaceId::DEFAULT, OwnedEvent::Joined(somebody()), None, 0, &VARIANTS)
}

pub(super) fn left() -> Arc<Prepared> {
    Prepared::of(channel("news"), NamespaceId::DEFAULT, OwnedEvent::Left(somebody()), None, 0, &VARIANTS)
}

/// A decoder for each client.
#[derive(Debug, Default)]
pub(super) struct Clients {
    /// What each client received: the positions of publications, and `None` for a join or a leave.
    pub(super) got: BTreeMap<u32, Vec<Option<StreamPosition>>>,
    /// The letters of the messages that each client received.
    pub(super) letters: BTreeMap<u32, String>,
    pub(super) told: Vec<u32>,
    /// The number of subscribers served by each call.
    pub(super) calls: Vec<usize>,
    has: BTreeMap<u32, Bytes>,
}

impl Clients {
    /// Forgets the client's last payload, except for one that it got in its reply.
    pub(super) fn answered(&mut self, key: u32, last: Option<StreamPosition>) {
        self.has.remove(&key);
        if let Some(last) = last {
            self.has.insert(key, payload(last).bytes);
        }
    }

    fn take(&mut self, key: u32, mut bytes: &[u8]) {
        while let [a, b, c, d, letter, rest @ ..] = bytes {
            let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            let (message, behind) = rest.split_at(length);
            bytes = behind;
            self.letters.entry(key).or_default().push(char::from(*letter));
            let payload = match letter {
                b'n' | b'w' => Some(Bytes::copy_from_slice(message)),
                b'p' => {
                    let has = self.has.get(&key).expect("a patch of something that was given");
                    Some(delta::apply(has, message, 1 << 20).expect("a patch of what was given last").into())
                }
                _ => None,
            };
            self.got.entry(key).or_default().push(payload.as_deref().map(read));
            if let Some(payload) = payload {
                self.has.insert(key, payload);
            }
        }
    }
}

impl Sink for Clients {
    fn deliver(&mut self, subscribers: &[Subscriber], bundles: &mut Bundles) {
        assert!(
            !subscribers.is_empty() && !bundles.publications().is_empty(),
            "an empty call is a wasted one"
        );
        self.calls.push(subscribers.len());
        for subscriber in subscribers {
            for write in bundles.get(subscriber.variant).writes.clone() {
                self.take(subscriber.key, &write);
            }
        }
    }

    fn insufficient(&mut self, key: u32, channel: &Channel) {
        assert_eq!(channel.as_str(), "news");
        self.told.push(key);
    }
}
