//! Ids of clients that tell this node, and nobody else, where the client is: found without a table.

use std::hash::{BuildHasher, RandomState};

use shared::id::ClientId;

/// The bits of an id that say where its client is: the worker's number and the place in its table.
const PLACE_BITS: u32 = 40;
const PLACE: u64 = (1 << PLACE_BITS) - 1;

/// The place lies in the lowest bits, mixed with a secret hash of all the others, so that an id looks as random as it is
/// elsewhere: 82 of its bits are. An id of another node, or of an earlier client, tells some place, and whoever is there
/// has another id.
#[derive(Debug, Default)]
pub(crate) struct ClientIds(RandomState);

impl ClientIds {
    pub(crate) fn make(&self, random: u128, worker: usize, index: u32) -> ClientId {
        let bits = ClientId::from_random(random).bits() >> PLACE_BITS;
        let place = (worker as u64) << 32 | u64::from(index);
        ClientId::from_bits(bits << PLACE_BITS | u128::from((place ^ self.mask(bits)) & PLACE))
    }

    /// The worker and the place of this client, if it is here.
    pub(crate) fn place(&self, client: ClientId) -> (usize, u32) {
        let bits = client.bits();
        let place = (bits as u64 ^ self.mask(bits >> PLACE_BITS)) & PLACE;
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
    fn an_id_tells_its_node_where_the_client_is_and_is_a_uuid_for_all_others() {
        let (here, elsewhere) = (ClientIds::default(), ClientIds::default());
        let mut told = 0;
        for number in 0..1_000_u32 {
            let random = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834);
            let id = here.make(random, 63, number);
            assert_eq!(here.place(id), (63, number));
            assert_eq!(id, ClientId::from_random(id.bits()), "it keeps the bits of a version 4 UUID");
            told += u32::from(elsewhere.place(id) == (63, number));
        }
        assert_eq!(told, 0);
    }
}
