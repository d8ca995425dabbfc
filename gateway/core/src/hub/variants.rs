//! The encodings that subscribers of one worker can take: which protocol, in which framing, deflated or not.

use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use shared::framing::MessageKind;
use shared::protocol::Protocol;

/// How many encodings can be told apart by a [`Variant`].
pub const ENCODINGS_MAX: usize = 256;

/// Smallest and largest deflate window, as powers of two (RFC 7692 §7.1.2).
pub const WINDOW_BITS: std::ops::RangeInclusive<u8> = 8..=15;

/// One encoding in two bytes: a place in the table of [`Variants`], the form of payloads and the peer's deflate window.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Variant(u16);

const WINDOW: u16 = 0xf;
/// Patches are agreed to. The payload comes whole, as it does for those.
const WHOLE: u16 = 1 << 4;
/// Patches are agreed to, and this is one.
const PATCH: u16 = 1 << 5;

impl Variant {
    /// The messages of this encoding as they are.
    pub fn plain(encoding: EncodingId) -> Self {
        Self(u16::from(encoding.0) << 8)
    }

    /// Messages deflated where that makes them smaller, for a peer that keeps `2^window_bits` bytes.
    /// Window bits that do not exist mean no compression.
    pub fn deflated(encoding: EncodingId, window_bits: u8) -> Self {
        let window_bits = if WINDOW_BITS.contains(&window_bits) { window_bits } else { 0 };
        Self(u16::from(encoding.0) << 8 | u16::from(window_bits))
    }

    /// The same for a subscriber that has agreed to patches of payloads.
    #[must_use]
    pub fn with_patches(self) -> Self {
        Self(self.0 | WHOLE)
    }

    pub fn takes_patches(self) -> bool {
        self.0 & WHOLE != 0
    }

    /// The same for a publication that comes as a patch.
    pub(super) fn patched(self) -> Self {
        Self(self.0 | PATCH)
    }

    pub(super) fn unpatched(self) -> Self {
        Self(self.0 & !PATCH)
    }

    pub(super) fn is_patched(self) -> bool {
        self.0 & PATCH != 0
    }

    pub fn encoding(self) -> usize {
        usize::from(self.0 >> 8)
    }

    /// What the messages before they are deflated depend on.
    pub(super) fn undeflated(self) -> Self {
        Self(self.0 & !WINDOW)
    }

    /// Whether the peer can inflate a message of this length, whatever in it the deflater refers back to. Nothing
    /// refers back further than the largest window, so that one takes everything (RFC 1951 §3.2.5).
    pub fn takes_deflated(self, message_bytes: usize) -> bool {
        match self.0 & WINDOW {
            0 => false,
            bits => bits == u16::from(*WINDOW_BITS.end()) || message_bytes <= 1 << bits,
        }
    }
}

impl fmt::Debug for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let form = match (self.takes_patches(), self.is_patched()) {
            (_, true) => ", patch",
            (true, false) => ", whole",
            (false, false) => "",
        };
        write!(f, "Variant({}, window {}{form})", self.encoding(), self.0 & WINDOW)
    }
}

/// Names one row of [`Variants`], the first by default.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct EncodingId(u8);

/// How whole messages are laid out for a transport. Pure.
pub trait PushFraming: Send + Sync + fmt::Debug {
    /// How many bytes [`PushFraming::seal`] may need in front of a message.
    fn headroom(&self) -> usize;

    /// Makes a frame of `buffer`, which holds [`PushFraming::headroom`] free bytes and then the message. May append.
    /// Returns where the frame begins, at most at the message.
    fn seal(&self, kind: MessageKind, buffer: &mut BytesMut) -> usize;

    /// A whole frame with the message deflated from a fresh context. `None` if that gains nothing or is not done.
    fn deflate(&self, kind: MessageKind, message: &[u8]) -> Option<Bytes>;
}

/// Messages as they are: for clients that put together themselves what goes out to them.
#[derive(Clone, Copy, Debug, Default)]
pub struct BareMessages;

impl PushFraming for BareMessages {
    fn headroom(&self) -> usize {
        0
    }

    fn seal(&self, _kind: MessageKind, _buffer: &mut BytesMut) -> usize {
        0
    }

    fn deflate(&self, _kind: MessageKind, _message: &[u8]) -> Option<Bytes> {
        None
    }
}

/// One row: a protocol in a framing.
#[derive(Clone, Debug)]
pub struct Encoding {
    pub protocol: Arc<dyn Protocol>,
    pub framing: Arc<dyn PushFraming>,
}

/// All encodings, given at start. The hub knows them by number only.
#[derive(Clone, Debug, Default)]
pub struct Variants {
    encodings: Vec<Encoding>,
}

impl Variants {
    /// Adds a row. `None` once there are [`ENCODINGS_MAX`].
    pub fn add(&mut self, encoding: Encoding) -> Option<EncodingId> {
        let id = self.encodings.len();
        if id >= ENCODINGS_MAX {
            return None;
        }
        self.encodings.push(encoding);
        Some(EncodingId(id as u8))
    }

    pub fn len(&self) -> usize {
        self.encodings.len()
    }

    pub fn is_empty(&self) -> bool {
        self.encodings.is_empty()
    }

    pub(super) fn get(&self, id: usize) -> Option<&Encoding> {
        self.encodings.get(id)
    }
}
