//! One publication, or another event of a channel, ready for any number of subscribers on any number of workers: each
//! encoding of it is made at most once, by the first worker that meets a subscriber who takes it.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use shared::channel::Channel;
use shared::disconnect::Disconnect;
use shared::framing::MessageKind;
use shared::id::ClientId;
use shared::position::StreamPosition;
use shared::protocol::Encoded;
use shared::publication::{Payload, Publication, Selection};
use shared::push::{Form, OwnedEvent, Push};
use shared::stamp::Stamp;

use super::variants::{Variant, Variants};
use crate::delta;
use crate::namespace_id::NamespaceId;
use crate::newest::{NewestValue, SUPERSEDED_TAG};

/// What a message is expected to add to its payload: names, quotes, an offset. Only a guess at a buffer's size.
const ENVELOPE_BYTES_GUESS: usize = 96;

/// The publication before another one in a channel's stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PreviousPublication {
    pub position: StreamPosition,
    pub data: Payload,
}

/// What the event is for subscribers of one [`Variant`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writable<'a> {
    /// These bytes, as they are.
    Frame(&'a Bytes),
    /// The protocol has no word for it.
    Nothing,
    /// The protocol can only say it by closing.
    Close(&'a Disconnect),
    /// Encoding it panicked. For everybody else it is as it was.
    Broken,
}

/// An event of a channel, shared by all workers.
#[derive(Debug)]
pub struct Prepared {
    channel: Channel,
    event: OwnedEvent,
    /// Where it stands in its channel, whether or not subscribers are told.
    position: Option<StreamPosition>,
    previous: Option<Box<Patch>>,
    received_micros: u64,
    /// How many values of its key it stands for beside itself.
    superseded: u32,
    /// What becomes of it is counted there.
    namespace: NamespaceId,
    variants: Arc<Variants>,
    first: OnceLock<EncodingSlot>,
}

impl Prepared {
    /// A publication that no patch is made for. What becomes of it is counted in `namespace`. `received_micros` is when this
    /// node got hold of it, on the owner's clock, for measuring how long it takes from there.
    pub fn new(
        channel: Channel,
        namespace: NamespaceId,
        publication: Publication,
        received_micros: u64,
        variants: &Arc<Variants>,
    ) -> Arc<Self> {
        Self::of(channel, namespace, OwnedEvent::Publication(publication), None, received_micros, variants)
    }

    /// Any event. A publication that says so can go out as a patch of the `previous` one to those who were given that.
    pub fn of(
        channel: Channel,
        namespace: NamespaceId,
        event: OwnedEvent,
        previous: Option<PreviousPublication>,
        received_micros: u64,
        variants: &Arc<Variants>,
    ) -> Arc<Self> {
        let is_patched = matches!(&event, OwnedEvent::Publication(publication) if publication.delta);
        let of_key = matches!(&event, OwnedEvent::Publication(publication) if publication.keyed.is_some());
        let previous = previous
            .filter(|_| is_patched)
            .map(|previous| Box::new(Patch { previous, of_key, made: OnceLock::new() }));
        let position = match &event {
            OwnedEvent::Publication(publication) => publication.position,
            _ => None,
        };
        let variants = variants.clone();
        Arc::new(Self {
            channel,
            event,
            position,
            previous,
            received_micros,
            superseded: 0,
            namespace,
            variants,
            first: OnceLock::new(),
        })
    }

    /// The namespace in which it is counted.
    #[inline]
    pub fn namespace(&self) -> NamespaceId {
        self.namespace
    }

    /// The same for those who were not sent so many values of its key before it, and are told of that.
    pub fn superseding(self: &Arc<Self>, superseded: u32) -> Arc<Self> {
        let OwnedEvent::Publication(publication) = &self.event else { return self.clone() };
        if superseded == self.superseded {
            return self.clone();
        }
        let mut publication = publication.clone();
        publication.tags.insert(SUPERSEDED_TAG.into(), superseded.to_string().into());
        Arc::new(Self {
            channel: self.channel.clone(),
            event: OwnedEvent::Publication(publication),
            position: self.position,
            previous: None,
            received_micros: self.received_micros,
            superseded,
            namespace: self.namespace,
            variants: self.variants.clone(),
            first: OnceLock::new(),
        })
    }

    /// A change of a key that has a number for nodes alone: subscribers are not shown it.
    pub fn unnumbered(
        channel: Channel,
        namespace: NamespaceId,
        mut publication: Publication,
        previous: Option<PreviousPublication>,
        received_micros: u64,
        variants: &Arc<Variants>,
    ) -> Arc<Self> {
        let position = publication.position.take();
        let event = OwnedEvent::Publication(publication);
        let mut prepared = Self::of(channel, namespace, event, previous, received_micros, variants);
        // Nobody else has it yet.
        if let Some(prepared) = Arc::get_mut(&mut prepared) {
            prepared.position = position;
        }
        prepared
    }

    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    pub fn event(&self) -> &OwnedEvent {
        &self.event
    }

    /// The publication, if it is one.
    pub fn publication(&self) -> Option<&Publication> {
        match &self.event {
            OwnedEvent::Publication(publication) => Some(publication),
            _ => None,
        }
    }

    /// The one client that is not to have it, wherever it is.
    #[inline]
    pub fn except(&self) -> Option<ClientId> {
        match &self.event {
            OwnedEvent::Publication(publication) => publication.except.as_deref().copied(),
            // It is told with its subscription who is there.
            OwnedEvent::MemberAdded { info, .. } => Some(info.client),
            _ => None,
        }
    }

    /// Which of the subscribers get it, if not all of them.
    #[inline]
    pub fn only(&self) -> Option<&Selection> {
        self.publication()?.only.as_deref()
    }

    /// How many changes of who is in the channel the node had seen with this one, if it is one.
    pub fn members_version(&self) -> Option<u64> {
        match &self.event {
            OwnedEvent::MemberAdded { version, .. } | OwnedEvent::MemberRemoved { version, .. } => {
                Some(*version)
            }
            _ => None,
        }
    }

    /// Where it stands in its channel's stream, if it stands there.
    #[inline]
    pub fn position(&self) -> Option<StreamPosition> {
        self.position
    }

    /// How many bytes it holds, beside what every event does.
    pub fn bytes(&self) -> usize {
        match &self.event {
            OwnedEvent::Publication(publication) => publication.data.bytes.len(),
            OwnedEvent::Joined(info) | OwnedEvent::Left(info) | OwnedEvent::MemberAdded { info, .. } => {
                let json = [&info.conn_info, &info.chan_info];
                let json: usize = json.into_iter().flatten().map(Bytes::len).sum();
                json + info.user.as_str().len()
            }
            OwnedEvent::MemberRemoved { user, .. } => user.as_str().len(),
            OwnedEvent::Counted { .. } => 0,
        }
    }

    pub fn received_micros(&self) -> u64 {
        self.received_micros
    }

    /// What is measured of it, if it is one of those that are. What no broker has brought is none.
    #[inline]
    pub fn stamp(&self) -> Option<&Stamp> {
        let stamp = self.publication()?.stamp.as_deref()?;
        (stamp.is_measured() && stamp.arrived_micros > 0).then_some(stamp)
    }

    /// What to write to subscribers of this variant. The first call for an encoding makes it, and its deflated
    /// twin is made by the first call that wants it.
    pub fn writable(&self, variant: Variant) -> Writable<'_> {
        let slot = self.slot(variant);
        match &slot.plain {
            PlainEncoding::Nothing => Writable::Nothing,
            PlainEncoding::Broken => Writable::Broken,
            PlainEncoding::Close(disconnect) => Writable::Close(disconnect),
            PlainEncoding::Frames { frames, message } => {
                if let Some((kind, range)) = message
                    && variant.takes_deflated(range.len())
                    && let Some(deflated) = slot.deflated.get_or_init(|| {
                        self.deflate(variant.encoding(), *kind, frames.get(range.clone()).unwrap_or_default())
                    })
                {
                    return Writable::Frame(deflated);
                }
                Writable::Frame(frames)
            }
        }
    }

    /// The message itself, if it is one in this variant's protocol.
    pub(super) fn message(&self, variant: Variant) -> Option<(MessageKind, &[u8])> {
        match &self.slot(variant).plain {
            PlainEncoding::Frames { frames, message: Some((kind, range)) } => {
                Some((*kind, frames.get(range.clone())?))
            }
            _ => None,
        }
    }

    /// The form of this variant in which it goes to those whom the publication at `given` was the last they were given.
    #[inline]
    pub(super) fn form_after(&self, given: Option<StreamPosition>, variant: Variant) -> Variant {
        match &self.previous {
            Some(patch)
                if variant.takes_patches()
                    && (patch.of_key || given == Some(patch.previous.position))
                    && self.patch().is_some() =>
            {
                variant.patched()
            }
            _ => variant,
        }
    }

    /// The patch that makes it of the previous publication, made once for all.
    fn patch(&self) -> Option<&Bytes> {
        let patch = self.previous.as_ref()?;
        let make = || {
            let publication = self.publication()?;
            // What cannot be patched can still be sent whole.
            catch_unwind(AssertUnwindSafe(|| delta::between(&patch.previous.data, &publication.data)))
                .unwrap_or(None)
        };
        patch.made.get_or_init(make).as_ref()
    }

    /// The encodings of all variants, such as a protocol's row and how messages are put into frames.
    pub(super) fn variants(&self) -> &Variants {
        &self.variants
    }

    /// An encoding, made if it is not there. They stand in a row that begins with the one that was asked for first. There
    /// are few: nearly always all that is asked for is the same, or one of two or three.
    fn slot(&self, variant: Variant) -> &EncodingSlot {
        let variant = variant.undeflated();
        let mut slot = self.first.get_or_init(|| self.make(variant));
        while slot.variant != variant {
            slot = slot.next.get_or_init(|| Box::new(self.make(variant)));
        }
        slot
    }

    fn make(&self, variant: Variant) -> EncodingSlot {
        let plain = self.encode_or_break(variant);
        EncodingSlot { variant, plain, deflated: OnceLock::new(), next: OnceLock::new() }
    }

    /// A panic while one event is encoded costs that event, and only those who take this encoding.
    fn encode_or_break(&self, variant: Variant) -> PlainEncoding {
        catch_unwind(AssertUnwindSafe(|| self.encode(variant))).unwrap_or(PlainEncoding::Broken)
    }

    fn encode(&self, variant: Variant) -> PlainEncoding {
        let Some(encoding) = self.variants.get(variant.encoding()) else { return PlainEncoding::Nothing };
        let headroom = encoding.framing.headroom();
        let patch = if variant.is_patched() { self.patch() } else { None };
        let (form, payload) = match patch {
            Some(patch) => (Form::Patch(patch), patch.len()),
            None if variant.takes_patches() => (Form::Whole, self.bytes()),
            None => (Form::Plain, self.bytes()),
        };
        let guess = headroom + ENVELOPE_BYTES_GUESS + self.channel.as_str().len() + payload;
        let mut buffer = BytesMut::with_capacity(guess);
        buffer.resize(headroom, 0);
        let push = Push::to(&self.channel, self.event.as_event(form));
        match encoding.protocol.encode_push(push, &mut buffer) {
            Encoded::Nothing | Encoded::Begin(_) => PlainEncoding::Nothing,
            Encoded::Close(disconnect) => PlainEncoding::Close(disconnect),
            Encoded::Message(kind) => {
                let end = buffer.len();
                let start = encoding.framing.seal(kind, &mut buffer);
                let message = Some((kind, headroom - start..end - start));
                PlainEncoding::Frames { frames: buffer.freeze().slice(start..), message }
            }
            Encoded::Messages(messages) => {
                let mut encoded = buffer.split_off(headroom);
                let mut frames = BytesMut::with_capacity(encoded.len() + messages.len() * headroom);
                for (kind, bytes) in messages {
                    buffer.clear();
                    buffer.resize(headroom, 0);
                    buffer.extend_from_slice(&encoded.split_to(bytes.min(encoded.len())));
                    let start = encoding.framing.seal(kind, &mut buffer);
                    frames.extend_from_slice(buffer.get(start..).unwrap_or_default());
                }
                PlainEncoding::Frames { frames: frames.freeze(), message: None }
            }
        }
    }

    fn deflate(&self, encoding: usize, kind: MessageKind, message: &[u8]) -> Option<Bytes> {
        let framing = &self.variants.get(encoding)?.framing;
        // What cannot be deflated can still be sent as it is.
        catch_unwind(AssertUnwindSafe(|| framing.deflate(kind, message))).unwrap_or(None)
    }
}

impl NewestValue for Arc<Prepared> {
    fn key(&self) -> &str {
        self.publication().and_then(|publication| publication.keyed.as_ref()).map_or("", |keyed| &keyed.key)
    }

    fn bytes(&self) -> usize {
        Prepared::bytes(self)
    }

    fn superseded(&self) -> u32 {
        self.superseded
    }

    fn came_micros(&self) -> u64 {
        self.received_micros
    }
}

#[derive(Debug)]
struct Patch {
    previous: PreviousPublication,
    /// It is what the key held before: everyone who takes patches has that, for they have the whole state.
    of_key: bool,
    /// `None` inside: it would not be shorter than the payload.
    made: OnceLock<Option<Bytes>>,
}

/// One encoding, in one form.
#[derive(Debug)]
struct EncodingSlot {
    /// Without what deflating depends on.
    variant: Variant,
    plain: PlainEncoding,
    /// `None` inside: deflating does not pay.
    deflated: OnceLock<Option<Bytes>>,
    next: OnceLock<Box<EncodingSlot>>,
}

#[derive(Debug)]
enum PlainEncoding {
    Frames {
        frames: Bytes,
        /// If it is one message, its kind and where it lies in its frame: then it can be deflated.
        message: Option<(MessageKind, Range<usize>)>,
    },
    Nothing,
    Close(Disconnect),
    Broken,
}
