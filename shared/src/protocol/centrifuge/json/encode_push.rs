//! Writing what every subscriber is told.

use bytes::{BufMut, BytesMut};

use super::write;
use crate::push::{Event, Push};

pub(super) fn encode(push: Push<'_>, out: &mut BytesMut) {
    out.put_slice(b"{\"push\":{\"channel\":");
    write::string(push.channel.as_str(), out);
    match push.event {
        Event::Publication(publication) => {
            out.put_slice(b",\"pub\":");
            // With the first publication of a new stream, a subscriber that had no epoch yet learns it.
            write::publication(publication, publication.offset() == 1, out);
        }
        Event::Unsubscribed(code) => {
            out.put_slice(b",\"unsubscribe\":{\"code\":");
            write::number(u64::from(code.code()), out);
            out.put_slice(b",\"reason\":");
            write::string(code.reason(), out);
            out.put_u8(b'}');
        }
    }
    out.put_slice(b"}}");
}
