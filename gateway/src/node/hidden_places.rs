//! Numbers that tell this node, and nobody else, where a client is: found without a table.

use std::hash::{BuildHasher, RandomState};

/// The bits of a number that say where its client is: the worker's number and the place in its table.
const PLACE_BITS: u32 = 40;
const PLACE: u64 = (1 << PLACE_BITS) - 1;

/// The place lies in the lowest bits, mixed with a secret hash of all the others, so that the number looks as random as
/// those are. One of another node, of an earlier client, or made up, tells some place, and whoever is there has another.
#[derive(Debug, Default)]
pub(super) struct HiddenPlaces(RandomState);

impl HiddenPlaces {
    /// The number with the lowest bits of `random` in favour of a place.
    pub(super) fn hide(&self, random: u128, worker: usize, index: u32) -> u128 {
        let bits = random >> PLACE_BITS;
        let place = (worker as u64) << 32 | u64::from(index);
        bits << PLACE_BITS | u128::from((place ^ self.mask(bits)) & PLACE)
    }

    /// The worker and the place of the client with this number, if it is here.
    pub(super) fn find(&self, number: u128) -> (usize, u32) {
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
        let (here, elsewhere) = (HiddenPlaces::default(), HiddenPlaces::default());
        let mut told = 0;
        for index in 0..1_000_u32 {
            let random = u128::from(index).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834);
            let number = here.hide(random, 63, index);
            assert_eq!(here.find(number), (63, index));
            assert_eq!(number >> PLACE_BITS, random >> PLACE_BITS, "what is random stays");
            told += u32::from(elsewhere.find(number) == (63, index));
        }
        assert_eq!(told, 0);
    }
}
