//! One publication, ready for any number of subscribers on any number of workers: each encoding of it is made at
//! most once, by the first worker that meets a subscriber who takes it.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use shared::channel::Channel;
use shared::disconnect::Disconnect;
use shared::framing::MessageKind;
use shared::position::StreamPosition;
use shared::protocol::Encoded;
use shared::publication::Publication;
use shared::push::{Event, Push};

use super::variants::{Variant, Variants};

/// What a message is expected to add to its payload: names, quotes, an offset. Only a guess at a buffer's size.
const ENVELOPE_BYTES_GUESS: usize = 96;

/// What the publication is for subscribers of one [`Variant`].
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

/// A publication in a channel, shared by all workers.
#[derive(Debug)]
pub struct Prepared {
    channel: Channel,
    publication: Publication,
    received_micros: u64,
    variants: Arc<Variants>,
    slots: Box<[Slot]>,
}

impl Prepared {
    /// `received_micros` is when this node got hold of the publication, on the owner's clock, for measuring how long it takes from there.
    pub fn new(
        channel: Channel,
        publication: Publication,
        received_micros: u64,
        variants: &Arc<Variants>,
    ) -> Arc<Self> {
        let slots = (0..variants.len()).map(|_| Slot::default()).collect();
        Arc::new(Self { channel, publication, received_micros, variants: variants.clone(), slots })
    }

    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    pub fn publication(&self) -> &Publication {
        &self.publication
    }

    pub fn position(&self) -> Option<StreamPosition> {
        self.publication.position
    }

    pub fn received_micros(&self) -> u64 {
        self.received_micros
    }

    /// What to write to subscribers of this variant. The first call for an encoding makes it, and its deflated
    /// twin is made by the first call that wants it.
    pub fn writable(&self, variant: Variant) -> Writable<'_> {
        let Some(slot) = self.slots.get(variant.encoding()) else { return Writable::Nothing };
        match slot.plain.get_or_init(|| self.encode_or_break(variant.encoding())) {
            Plain::Nothing => Writable::Nothing,
            Plain::Broken => Writable::Broken,
            Plain::Close(disconnect) => Writable::Close(disconnect),
            Plain::Frames { frames, message } => {
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
        let slot = self.slots.get(variant.encoding())?;
        match slot.plain.get_or_init(|| self.encode_or_break(variant.encoding())) {
            Plain::Frames { frames, message: Some((kind, range)) } => {
                Some((*kind, frames.get(range.clone())?))
            }
            _ => None,
        }
    }

    /// One frame with the messages of all of these publications, deflated where that helps. `None` if the protocol
    /// has nothing to put between messages.
    pub(super) fn join(&self, publications: &[Arc<Self>], variant: Variant) -> Option<Bytes> {
        let encoding = self.variants.get(variant.encoding())?;
        let delimiter = encoding.protocol.delimiter()?;
        let (kind, _) = self.message(variant)?;
        let headroom = encoding.framing.headroom();
        let messages = || publications.iter().filter_map(|prepared| Some(prepared.message(variant)?.1));
        let bytes = messages().map(|message| message.len() + delimiter.len()).sum::<usize>();
        let mut buffer = BytesMut::with_capacity(headroom + bytes);
        buffer.resize(headroom, 0);
        for (index, message) in messages().enumerate() {
            if index > 0 {
                buffer.extend_from_slice(delimiter);
            }
            buffer.extend_from_slice(message);
        }
        let message = buffer.get(headroom..).unwrap_or_default();
        if variant.takes_deflated(message.len())
            && let Some(deflated) = encoding.framing.deflate(kind, message)
        {
            return Some(deflated);
        }
        let start = encoding.framing.seal(kind, &mut buffer);
        Some(buffer.freeze().slice(start..))
    }

    /// A panic while one publication is encoded costs that publication, and only those who take this encoding.
    fn encode_or_break(&self, encoding: usize) -> Plain {
        catch_unwind(AssertUnwindSafe(|| self.encode(encoding))).unwrap_or(Plain::Broken)
    }

    fn encode(&self, encoding: usize) -> Plain {
        let Some(encoding) = self.variants.get(encoding) else { return Plain::Nothing };
        let headroom = encoding.framing.headroom();
        let guess =
            headroom + ENVELOPE_BYTES_GUESS + self.channel.as_str().len() + self.publication.data.bytes.len();
        let mut buffer = BytesMut::with_capacity(guess);
        buffer.resize(headroom, 0);
        let push = Push::to(&self.channel, Event::plain(&self.publication));
        match encoding.protocol.encode_push(push, &mut buffer) {
            Encoded::Nothing => Plain::Nothing,
            Encoded::Close(disconnect) => Plain::Close(disconnect),
            Encoded::Message(kind) => {
                let end = buffer.len();
                let start = encoding.framing.seal(kind, &mut buffer);
                let message = Some((kind, headroom - start..end - start));
                Plain::Frames { frames: buffer.freeze().slice(start..), message }
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
                Plain::Frames { frames: frames.freeze(), message: None }
            }
        }
    }

    fn deflate(&self, encoding: usize, kind: MessageKind, message: &[u8]) -> Option<Bytes> {
        let framing = &self.variants.get(encoding)?.framing;
        // What cannot be deflated can still be sent as it is.
        catch_unwind(AssertUnwindSafe(|| framing.deflate(kind, message))).unwrap_or(None)
    }
}

#[derive(Debug, Default)]
struct Slot {
    plain: OnceLock<Plain>,
    /// `None` inside: deflating does not pay.
    deflated: OnceLock<Option<Bytes>>,
}

#[derive(Debug)]
enum Plain {
    Frames {
        frames: Bytes,
        /// If it is one message, its kind and where it lies in its frame: then it can be deflated.
        message: Option<(MessageKind, Range<usize>)>,
    },
    Nothing,
    Close(Disconnect),
    Broken,
}
