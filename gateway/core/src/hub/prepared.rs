//! A publication or another event of a channel, ready for any number of subscribers on any number of workers: each
//! encoding is made at most once, by the first worker with a subscriber that takes it.

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

/// Bytes that a message is expected to add to its payload: names, quotes, an offset. Only used to guess buffer sizes.
const ENVELOPE_BYTES_GUESS: usize = 96;

/// The publication before another one in a channel's stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PreviousPublication {
    pub position: StreamPosition,
    pub data: Payload,
}

/// The encoded form of an event for subscribers of one [`Variant`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Writable<'a> {
    /// These bytes, as they are.
    Frame(&'a Bytes),
    /// The protocol cannot express the event, and nothing is sent.
    Nothing,
    /// The protocol can only express the event by closing.
    Close(&'a Disconnect),
    /// Encoding panicked. Other encodings are not affected.
    Broken,
}

/// An event of a channel, shared by all workers.
#[derive(Debug)]
pub struct Prepared {
    channel: Channel,
    event: OwnedEvent,
    /// The event's stream position, whether or not subscribers see it.
    position: Option<StreamPosition>,
    previous: Option<Box<Patch>>,
    received_micros: u64,
    /// The number of older values of its key that it supersedes.
    superseded: u32,
    /// The namespace in which its deliveries are counted.
    namespace: NamespaceId,
    variants: Arc<Variants>,
    first: OnceLock<EncodingSlot>,
}

impl Prepared {
    /// Prepares a publication without a patch. Its deliveries are counted in `namespace`. `received_micros` is when
    /// this node received it, on the owner's clock, for measuring its latency from there.
    pub fn new(
        channel: Channel,
        namespace: NamespaceId,
        publication: Publication,
        received_micros: u64,
        variants: &Arc<Variants>,
    ) -> Arc<Self> {
        Self::of(channel, namespace, OwnedEvent::Publication(publication), None, received_micros, variants)
    }

    /// Prepares any event. A publication that allows it can be sent as a patch of the `previous` one to subscribers
    /// that were given that.
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

    /// Returns the namespace in which deliveries are counted.
    #[inline]
    pub fn namespace(&self) -> NamespaceId {
        self.namespace
    }

    /// Returns this publication for subscribers that were not sent `superseded` older values of its key, and are told
    /// that number.
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

    /// Prepares a change of a key whose position is for nodes only: subscribers do not see it.
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
        // There is no other reference to it yet.
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

    /// Returns the publication, if the event is one.
    pub fn publication(&self) -> Option<&Publication> {
        match &self.event {
            OwnedEvent::Publication(publication) => Some(publication),
            _ => None,
        }
    }

    /// Returns the one client that does not get the event.
    #[inline]
    pub fn except(&self) -> Option<ClientId> {
        match &self.event {
            OwnedEvent::Publication(publication) => publication.except.as_deref().copied(),
            // The reply to its subscription tells the client who is there.
            OwnedEvent::MemberAdded { info, .. } => Some(info.client),
            _ => None,
        }
    }

    /// Returns which subscribers get the publication, if not all of them do.
    #[inline]
    pub fn only(&self) -> Option<&Selection> {
        self.publication()?.only.as_deref()
    }

    /// Returns the number of changes of the channel's members that the node had seen with this one, if the event is
    /// such a change.
    pub fn members_version(&self) -> Option<u64> {
        match &self.event {
            OwnedEvent::MemberAdded { version, .. } | OwnedEvent::MemberRemoved { version, .. } => {
                Some(*version)
            }
            _ => None,
        }
    }

    /// Returns the event's stream position, if it has one.
    #[inline]
    pub fn position(&self) -> Option<StreamPosition> {
        self.position
    }

    /// Returns how many bytes the event holds, beside those that every event does.
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

    /// Returns the stamp by which latency is measured, if this publication is measured. Publications that came by no
    /// broker are not.
    #[inline]
    pub fn stamp(&self) -> Option<&Stamp> {
        let stamp = self.publication()?.stamp.as_deref()?;
        (stamp.is_measured() && stamp.arrived_micros > 0).then_some(stamp)
    }

    /// Returns what to write to subscribers of a variant. The first call for an encoding makes it; its deflated form is
    /// made by the first call that wants it.
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

    /// Returns the unframed message, if the event is exactly one in this variant's protocol.
    pub(super) fn message(&self, variant: Variant) -> Option<(MessageKind, &[u8])> {
        match &self.slot(variant).plain {
            PlainEncoding::Frames { frames, message: Some((kind, range)) } => {
                Some((*kind, frames.get(range.clone())?))
            }
            _ => None,
        }
    }

    /// Returns the form of this variant for subscribers that were last given the publication at `given`: a patch, if
    /// there is one for them.
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

    /// Returns the patch from the previous publication to this one, made once for all subscribers.
    fn patch(&self) -> Option<&Bytes> {
        let patch = self.previous.as_ref()?;
        let make = || {
            let publication = self.publication()?;
            // A publication without a patch can still be sent whole.
            catch_unwind(AssertUnwindSafe(|| delta::between(&patch.previous.data, &publication.data)))
                .unwrap_or(None)
        };
        patch.made.get_or_init(make).as_ref()
    }

    /// Returns the table of encodings: protocols and framings.
    pub(super) fn variants(&self) -> &Variants {
        &self.variants
    }

    /// Returns an encoding, made if it is not there. Encodings are a linked list that begins with the one that was
    /// asked for first. There are few: nearly always only one, two or three are asked for.
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

    /// Encodes the event. A panic costs only this event, and only the subscribers that take this encoding.
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
        // A message that is not deflated can still be sent as it is.
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
    /// Whether the previous publication is the key's previous value: then every subscriber that takes patches has it,
    /// because it has the whole state.
    of_key: bool,
    /// `None` inside if the patch would not be shorter than the payload.
    made: OnceLock<Option<Bytes>>,
}

/// One encoding of the event.
#[derive(Debug)]
struct EncodingSlot {
    /// The variant without the deflate window.
    variant: Variant,
    plain: PlainEncoding,
    /// `None` inside if deflating does not pay.
    deflated: OnceLock<Option<Bytes>>,
    next: OnceLock<Box<EncodingSlot>>,
}

#[derive(Debug)]
enum PlainEncoding {
    Frames {
        frames: Bytes,
        /// If the frames hold exactly one message, its kind and range: then it can be deflated.
        message: Option<(MessageKind, Range<usize>)>,
    },
    Nothing,
    Close(Disconnect),
    Broken,
}
