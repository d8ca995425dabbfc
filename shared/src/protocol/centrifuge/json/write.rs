//! Writing publications and clients in JSON.

use bytes::{BufMut, Bytes, BytesMut};
use simdutf8::basic::from_utf8;

use crate::publication::{ClientInfo, Payload, Publication};
use crate::push::Form;

pub(super) use crate::protocol::json::{Object, client_id, list, number};
pub use crate::protocol::json::{payload, string};

use crate::protocol::json::text;

/// Appends a payload or a patch for a subscriber that has negotiated deltas, always as a string that stands for the
/// text. A patch that is not UTF-8 has no such string, so the whole payload replaces it. Returns whether a patch was written.
#[inline(never)]
fn text_of(payload: &Payload, out: &mut BytesMut, patch: Option<&str>) -> bool {
    match patch {
        Some(patch) => string(patch, out),
        None => text(payload, out),
    }
    patch.is_some()
}

pub(super) fn publication(publication: &Publication, form: Form<'_>, with_epoch: bool, out: &mut BytesMut) {
    let mut object = Object::begin(out);
    let is_patch = match form {
        // A removed key has no content, and empty bytes are not a JSON value.
        Form::Plain if publication.data.is_missing() => false,
        Form::Plain => {
            payload(&publication.data, object.field("data"));
            false
        }
        Form::Whole if publication.data.is_missing() => {
            string("null", object.field("data"));
            false
        }
        Form::Whole => text_of(&publication.data, object.field("data"), None),
        Form::Patch(patch) => text_of(&publication.data, object.field("data"), from_utf8(patch).ok()),
    };
    if let Some(info) = &publication.info {
        client_info(info, object.field("info"));
    }
    if let Some(position) = publication.position {
        object.number("offset", position.offset);
        if with_epoch {
            object.string("epoch", position.epoch.as_str());
        }
    }
    if !publication.tags.is_empty() {
        let mut tags = Object::begin(object.field("tags"));
        for (key, value) in &publication.tags {
            tags.pair(key, value);
        }
        tags.end();
    }
    object.flag("delta", is_patch);
    object.number("time", publication.time_ms);
    if let Some(keyed) = &publication.keyed {
        object.string("key", &keyed.key);
        object.flag("removed", keyed.removed);
        if keyed.score != 0 {
            object.field("score").put_slice(itoa::Buffer::new().format(keyed.score).as_bytes());
        }
        object.number("version", keyed.version);
    }
    object.end();
}

pub fn publications(list: &[Publication], out: &mut BytesMut) {
    self::list(list, out, |one, out| publication(one, Form::Plain, false, out));
}

/// The same for a subscriber that has negotiated deltas. An empty patch means that the payload comes whole.
pub(super) fn patched_publications(list: &[Publication], patches: &[Bytes], out: &mut BytesMut) {
    let none = Bytes::new();
    let patches = patches.iter().chain(std::iter::repeat(&none));
    self::list(list.iter().zip(patches), out, |(one, patch), out| {
        let form = if patch.is_empty() { Form::Whole } else { Form::Patch(patch) };
        publication(one, form, false, out);
    });
}

pub fn client_info(info: &ClientInfo, out: &mut BytesMut) {
    let mut object = Object::begin(out);
    // Written even if it is empty, as libraries pass it on to the application.
    string(info.user.as_str(), object.field("user"));
    client_id(info.client, object.field("client"));
    object.raw("conn_info", info.conn_info.as_deref());
    object.raw("chan_info", info.chan_info.as_deref());
    object.end();
}
