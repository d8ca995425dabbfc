//! Ids of clients that tell this node, and nobody else, where the client is.

use shared::id::ClientId;

use super::hidden_places::HiddenPlaces;

/// 82 of an id's bits are random.
#[derive(Debug, Default)]
pub(crate) struct ClientIds(HiddenPlaces);

impl ClientIds {
    pub(crate) fn make(&self, random: u128, worker: usize, index: u32) -> ClientId {
        ClientId::from_bits(self.0.hide(ClientId::from_random(random).bits(), worker, index))
    }

    /// The worker and the place of this client, if it is here.
    pub(crate) fn place(&self, client: ClientId) -> (usize, u32) {
        self.0.find(client.bits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_a_uuid_for_all_who_cannot_read_it() {
        let ids = ClientIds::default();
        for number in 0..1_000_u32 {
            let random = u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834);
            let id = ids.make(random, 63, number);
            assert_eq!(ids.place(id), (63, number));
            assert_eq!(id, ClientId::from_random(id.bits()), "it keeps the bits of a version 4 UUID");
        }
    }
}
