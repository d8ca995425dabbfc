//! Ids of clients whose commands arrive apart from their stream. An id is a secret, because anyone who has it can speak for
//! the client. From an id this node, and no other, can tell where the client is.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;

use super::place_codec::PlaceCodec;

/// 40 bits of a hidden place, and 88 random ones.
#[derive(Clone, Copy)]
pub struct SessionId(u128);

impl SessionId {
    /// Returns the id as its client receives it.
    pub(crate) fn reveal(self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.0.to_be_bytes())
    }

    /// Parses an id as its client sends it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        Some(Self(u128::from_be_bytes(bytes.try_into().ok()?)))
    }

    /// Compares in constant time.
    pub(crate) fn is(self, other: Self) -> bool {
        self.0.to_ne_bytes().ct_eq(&other.0.to_ne_bytes()).into()
    }
}

impl PartialEq for SessionId {
    fn eq(&self, other: &Self) -> bool {
        self.is(*other)
    }
}

impl Eq for SessionId {}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionId(..)")
    }
}

/// Makes and resolves the ids of one run of a node.
#[derive(Debug, Default)]
pub(crate) struct SessionIds(PlaceCodec);

impl SessionIds {
    pub(crate) fn make(&self, random: u128, worker: usize, index: u32) -> SessionId {
        SessionId(self.0.encode(random, worker, index))
    }

    /// Returns the worker and the place of this client, if it is here.
    pub(crate) fn place(&self, session: SessionId) -> (usize, u32) {
        self.0.decode(session.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_as_it_was_told() {
        let (ids, random) = (SessionIds::default(), u128::MAX / 7);
        let name = ids.make(random, 63, 1_000);
        let read = SessionId::parse(&name.reveal()).unwrap();
        assert!(read.is(name));
        assert_eq!(ids.place(read), (63, 1_000));
        assert!(!ids.make(random ^ 1 << 100, 63, 1_000).is(name));
    }

    #[test]
    fn what_is_no_name_is_none_and_no_name_is_shown() {
        for text in ["", "AAAA", "not base64!", &"A".repeat(23), &"A".repeat(4_000)] {
            assert!(SessionId::parse(text).is_none(), "{text}");
        }
        let name = SessionIds::default().make(7, 0, 0);
        assert_eq!(format!("{name:?}"), "SessionId(..)");
    }
}
