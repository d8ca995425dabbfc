//! Hides a client's place in a number, so that this node, and no other, finds the client without a table.

use std::hash::{BuildHasher, RandomState};

/// The bits of a number that hold the place: the worker's number and the index in the worker's table.
const PLACE_BITS: u32 = 40;
const PLACE: u64 = (1 << PLACE_BITS) - 1;

/// The place is in the lowest bits, XORed with a keyed hash of the other bits, so that the number looks random. A number of
/// another node, of an earlier client or of an attacker decodes to some place, where the client has another number.
#[derive(Debug, Default)]
pub(super) struct PlaceCodec(RandomState);

impl PlaceCodec {
    /// Returns `random` with its lowest bits replaced by the hidden place.
    pub(super) fn encode(&self, random: u128, worker: usize, index: u32) -> u128 {
        let bits = random >> PLACE_BITS;
        let place = (worker as u64) << 32 | u64::from(index);
        bits << PLACE_BITS | u128::from((place ^ self.mask(bits)) & PLACE)
    }

    /// Returns the worker and the place of the client with this number, if the client is here.
    pub(super) fn decode(&self, number: u128) -> (usize, u32) {
        let place = (number as u64 ^ self.mask(number >> PLACE_BITS)) & PLACE;
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
    fn a_number_tells_its_node_where_the_client_is_and_nobody_else() {
        let (here, elsewhere) = (PlaceCodec::default(), PlaceCodec::default());
        let mut told = 0;
        for index in 0..1_000_u32 {
            let random = u128::from(index).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834);
            let number = here.encode(random, 63, index);
            assert_eq!(here.decode(number), (63, index));
            assert_eq!(number >> PLACE_BITS, random >> PLACE_BITS, "what is random stays");
            told += u32::from(elsewhere.decode(number) == (63, index));
        }
        assert_eq!(told, 0);
    }
}
