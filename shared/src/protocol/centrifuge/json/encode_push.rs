//! Encodes pushes.

use bytes::{BufMut, BytesMut};

use super::encode_reply::expiry;
use super::write::{self, Object};
use crate::publication::Publication;
use crate::push::{Event, Form, Push};
use crate::reply::Subscribed;

/// Space to reserve for a push that is not a publication. For publications the caller reserves it, as it knows their length.
const PUSH_BYTES_GUESS: usize = 128;

pub(super) fn encode(push: Push<'_>, out: &mut BytesMut) {
    if !matches!(push.event, Event::Publication(..)) {
        out.reserve(PUSH_BYTES_GUESS);
    }
    out.put_slice(b"{\"push\":");
    write_push(push, out);
    out.put_u8(b'}');
}

/// Writes the push itself, which is the whole message in the unidirectional protocol.
#[inline(always)]
pub(in crate::protocol::centrifuge) fn write_push(push: Push<'_>, out: &mut BytesMut) {
    let mut object = Object::begin(out);
    if let Some(channel) = push.channel {
        write::string(channel.as_str(), object.field("channel"));
    }
    match push.event {
        Event::Publication(publication, form) => put_publication(publication, form, &mut object),
        event => put_rarer(event, &mut object),
    }
    object.end();
}

#[inline]
fn put_publication(publication: &Publication, form: Form<'_>, object: &mut Object<'_>) {
    // The first publication of a new stream tells its epoch to subscribers that have none yet.
    write::publication(publication, form, publication.offset() == 1, object.field("pub"));
}

/// Writes the rarer pushes. Kept out of line, so that publications are encoded fast.
#[inline(never)]
fn put_rarer(event: Event<'_>, object: &mut Object<'_>) {
    match event {
        Event::Publication(publication, form) => put_publication(publication, form, object),
        Event::Joined(info) | Event::Left(info) => {
            let name = if matches!(event, Event::Joined(_)) { "join" } else { "leave" };
            let mut event = Object::begin(object.field(name));
            write::client_info(info, event.field("info"));
            event.end();
        }
        // Never written: see `Event::is_of_members`.
        Event::MemberAdded(_) | Event::MemberRemoved(_) | Event::Counted(_) => {}
        Event::Subscribed(subscribed) => put_subscribed(subscribed, object.field("subscribe")),
        Event::Unsubscribed(code) => {
            let mut event = Object::begin(object.field("unsubscribe"));
            event.count("code", u64::from(code.code()));
            write::string(code.reason(), event.field("reason"));
            event.end();
        }
        Event::Message(data) => {
            let mut event = Object::begin(object.field("message"));
            event.payload("data", Some(data));
            event.end();
        }
        Event::Refreshed(expires) => {
            let mut event = Object::begin(object.field("refresh"));
            expiry(expires, &mut event);
            event.end();
        }
        Event::Disconnected(disconnect) => {
            let mut event = Object::begin(object.field("disconnect"));
            event.number("code", u64::from(disconnect.code));
            event.string("reason", &disconnect.reason);
            event.end();
        }
    }
}

/// Writes fewer fields than a subscribe reply has: the client did not ask, so it has nothing to recover.
fn put_subscribed(subscribed: &Subscribed, out: &mut BytesMut) {
    let mut event = Object::begin(out);
    event.flag("recoverable", subscribed.recoverable);
    if let Some(position) = subscribed.position {
        event.string("epoch", position.epoch.as_str());
        event.number("offset", position.offset);
    }
    event.flag("positioned", subscribed.positioned);
    event.payload("data", subscribed.data.as_deref());
    event.end();
}
