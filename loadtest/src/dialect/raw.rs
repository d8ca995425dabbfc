//! The bare endpoint: the address is the subscription, and every message a publication.

use super::{Event, Heard};

pub(super) fn hear(message: &[u8], mut hear: impl FnMut(Event<'_>)) -> u64 {
    hear(Event::Publication(Heard { channel: None, payload: message, offset: 0, recovered: false }));
    0
}
