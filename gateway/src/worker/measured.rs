//! When this worker began with publications that are measured.

use std::sync::Arc;

use gateway_core::hub::Prepared;

/// The most that are measured at once on a worker. Further ones are measured less.
const MEASURED_MAX: usize = 16;

/// Those that are being written to sockets: what each is, and when the first of them was, on the node's clock in microseconds.
#[derive(Debug, Default)]
pub(super) struct Measured {
    begun: [Option<(Arc<Prepared>, u64)>; MEASURED_MAX],
    next: usize,
}

impl Measured {
    /// Takes the place of the oldest. Those without a subscriber here are never over.
    pub(super) fn begin(&mut self, prepared: &Arc<Prepared>, micros: u64) {
        self.begun[self.next] = Some((prepared.clone(), micros));
        self.next = (self.next + 1) % MEASURED_MAX;
    }

    /// When it was begun, if that is known.
    pub(super) fn end(&mut self, prepared: &Arc<Prepared>) -> Option<u64> {
        let is_it = |place: &&mut Option<(Arc<Prepared>, u64)>| {
            place.as_ref().is_some_and(|(begun, _)| Arc::ptr_eq(begun, prepared))
        };
        self.begun.iter_mut().find(is_it)?.take().map(|(_, micros)| micros)
    }
}

#[cfg(test)]
mod tests {
    use shared::channel::Channel;
    use shared::publication::{Payload, Publication};

    use super::*;

    #[test]
    fn what_was_begun_ends_once_and_the_oldest_gives_way() {
        let prepared: Vec<Arc<Prepared>> = (0..MEASURED_MAX as u64 + 1)
            .map(|at| {
                let channel = Channel::parse("a", 255).unwrap();
                Prepared::new(channel, Publication::new(Payload::text("x")), at, &Arc::default())
            })
            .collect();
        let mut measured = Measured::default();
        for one in &prepared {
            measured.begin(one, one.received_micros() + 100);
        }
        assert_eq!(measured.end(&prepared[0]), None);
        assert_eq!(measured.end(&prepared[1]), Some(101));
        assert_eq!(measured.end(&prepared[1]), None);
    }
}
