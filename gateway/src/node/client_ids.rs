//! Makes client ids from which this node, and no other, can tell where the client is.

use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use shared::id::ClientId;

use super::place_codec::PlaceCodec;

/// The ids of this node's clients. 82 bits of each id are random.
#[derive(Debug, Default)]
pub(crate) struct ClientIds {
    made_here: PlaceCodec,
    /// Clients that returned with the id they had before, on this node or another, and their places here.
    adopted: RwLock<FxHashMap<ClientId, (usize, u32)>>,
    /// The size of `adopted`. It is mostly 0, which spares the look-up.
    adoptions: AtomicUsize,
}

impl ClientIds {
    pub(crate) fn make(&self, random: u128, worker: usize, index: u32) -> ClientId {
        ClientId::from_bits(self.made_here.encode(ClientId::from_random(random).bits(), worker, index))
    }

    /// Gives the client at this place an id that it had before.
    pub(crate) fn adopt(&self, client: ClientId, worker: usize, index: u32) {
        let mut adopted = self.adopted.write();
        adopted.insert(client, (worker, index));
        self.adoptions.store(adopted.len(), Ordering::Release);
    }

    /// Forgets the adopted id of the client that was at this place.
    pub(crate) fn release(&self, client: ClientId, worker: usize, index: u32) {
        if self.adoptions.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut adopted = self.adopted.write();
        if adopted.get(&client) == Some(&(worker, index)) {
            adopted.remove(&client);
            self.adoptions.store(adopted.len(), Ordering::Release);
        }
    }

    /// Returns the worker and the place of this client, if it is here.
    pub(crate) fn place(&self, client: ClientId) -> (usize, u32) {
        if self.adoptions.load(Ordering::Acquire) > 0
            && let Some(place) = self.adopted.read().get(&client)
        {
            return *place;
        }
        self.made_here.decode(client.bits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_comes_back_has_its_id_at_its_new_place_until_it_is_gone() {
        let ids = ClientIds::default();
        let id = ids.make(7, 3, 5);
        ids.adopt(id, 1, 9);
        assert_eq!(ids.place(id), (1, 9));
        ids.release(id, 3, 5);
        assert_eq!(ids.place(id), (1, 9), "who was displaced takes nothing with it");
        ids.release(id, 1, 9);
        assert_eq!(ids.place(id), (3, 5));
    }

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
