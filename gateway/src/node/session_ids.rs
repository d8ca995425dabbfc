//! Names of clients whose commands come apart from the stream they are reached through. Whoever knows a name can speak for
//! its client: it is a secret, and tells this node, and nobody else, where the client is.

use std::fmt;
use std::hash::{BuildHasher, RandomState};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;

/// The bits of a name that say where its client is: the worker's number and the place in its table.
const PLACE_BITS: u32 = 40;
const PLACE: u64 = (1 << PLACE_BITS) - 1;

/// 40 bits of a place, hidden, and 88 random ones.
#[derive(Clone, Copy)]
pub struct SessionId(u128);

impl SessionId {
    /// As its client is told it.
    pub(crate) fn reveal(self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.0.to_be_bytes())
    }

    /// As its client says it.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        Some(Self(u128::from_be_bytes(bytes.try_into().ok()?)))
    }

    /// Takes as long whether they differ early, late or not at all.
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

/// Makes and reads the names of one run of a node. The place lies in the lowest bits, mixed with a secret hash of the
/// others: what a stranger makes up tells some place, and whoever is there has another name.
#[derive(Debug, Default)]
pub(crate) struct SessionIds(RandomState);

impl SessionIds {
    pub(crate) fn make(&self, random: u128, worker: usize, index: u32) -> SessionId {
        let bits = random >> PLACE_BITS;
        let place = (worker as u64) << 32 | u64::from(index);
        SessionId(bits << PLACE_BITS | u128::from((place ^ self.mask(bits)) & PLACE))
    }

    /// The worker and the place of this client, if it is here.
    pub(crate) fn place(&self, session: SessionId) -> (usize, u32) {
        let place = (session.0 as u64 ^ self.mask(session.0 >> PLACE_BITS)) & PLACE;
        ((place >> 32) as usize, place as u32)
    }

    fn mask(&self, bits: u128) -> u64 {
        self.0.hash_one(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_node_where_the_client_is_and_nobody_else() {
        let (here, elsewhere) = (SessionIds::default(), SessionIds::default());
        let mut told = 0;
        for number in 0..1_000_u32 {
            let random = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834);
            let name = here.make(random, 63, number);
            let read = SessionId::parse(&name.reveal()).unwrap();
            assert!(read.is(name));
            assert_eq!(here.place(read), (63, number));
            assert!(!here.make(random ^ 1 << 100, 63, number).is(name));
            told += u32::from(elsewhere.place(name) == (63, number));
        }
        assert_eq!(told, 0);
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
