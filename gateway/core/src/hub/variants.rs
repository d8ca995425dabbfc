//! The encodings of pushes: a protocol in a framing, with or without compression.

use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use shared::framing::MessageKind;
use shared::protocol::Protocol;

/// Encodings that a [`Variant`] can distinguish.
pub const ENCODINGS_MAX: usize = 256;

/// The smallest and the largest deflate window, as powers of two (RFC 7692 §7.1.2).
pub const WINDOW_BITS: std::ops::RangeInclusive<u8> = 8..=15;

/// One encoding in two bytes: a row in the table of [`Variants`], the form of payloads, and the peer's deflate window.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Variant(u16);

const WINDOW: u16 = 0xf;
/// The subscriber has agreed to patches. The payload is sent whole, in the form for such subscribers.
const WHOLE: u16 = 1 << 4;
/// The payload is sent as a patch.
const PATCH: u16 = 1 << 5;

impl Variant {
    /// Returns the variant of this encoding without compression.
    pub fn plain(encoding: EncodingId) -> Self {
        Self(u16::from(encoding.0) << 8)
    }

    /// Returns the variant whose messages are deflated where that makes them smaller, for a peer with a window of
    /// `2^window_bits` bytes. Without compression if `window_bits` is out of range.
    pub fn deflated(encoding: EncodingId, window_bits: u8) -> Self {
        let window_bits = if WINDOW_BITS.contains(&window_bits) { window_bits } else { 0 };
        Self(u16::from(encoding.0) << 8 | u16::from(window_bits))
    }

    /// Returns this variant for a subscriber that has agreed to patches of payloads.
    #[must_use]
    pub fn with_patches(self) -> Self {
        Self(self.0 | WHOLE)
    }

    pub fn takes_patches(self) -> bool {
        self.0 & WHOLE != 0
    }

    /// Returns this variant for a publication that is sent as a patch.
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

    /// Returns the part of the variant on which the messages depend before they are deflated.
    pub(super) fn undeflated(self) -> Self {
        Self(self.0 & !WINDOW)
    }

    /// Returns whether the peer can inflate a message of this length, whatever the deflater refers back to. References
    /// never reach further back than the largest window, so a peer with that window takes every message (RFC 1951
    /// §3.2.5).
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

/// The index of a row of [`Variants`], the first by default.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct EncodingId(u8);

/// Lays out whole messages for a transport. Without side effects.
pub trait PushFraming: Send + Sync + fmt::Debug {
    /// Returns how many bytes [`PushFraming::seal`] may need before a message.
    fn headroom(&self) -> usize;

    /// Makes `buffer` a frame. It holds [`PushFraming::headroom`] free bytes, followed by the message. May append.
    /// Returns where the frame begins, which is not after the start of the message.
    fn seal(&self, kind: MessageKind, buffer: &mut BytesMut) -> usize;

    /// Returns a whole frame with the message deflated from a fresh context. `None` if that does not make it smaller or
    /// the framing does not deflate.
    fn deflate(&self, kind: MessageKind, message: &[u8]) -> Option<Bytes>;
}

/// Messages without framing, for clients that assemble their output themselves.
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

/// A protocol in a framing.
#[derive(Clone, Debug)]
pub struct Encoding {
    pub protocol: Arc<dyn Protocol>,
    pub framing: Arc<dyn PushFraming>,
}

/// All encodings, set up at start. The hub knows them by index only.
#[derive(Clone, Debug, Default)]
pub struct Variants {
    encodings: Vec<Encoding>,
}

impl Variants {
    /// Adds a row and returns its index. `None` if there are [`ENCODINGS_MAX`] already.
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
