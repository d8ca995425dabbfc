//! Writing JSON piece by piece, without a tree of values in between.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};

use crate::id::ClientId;
use crate::publication::{ClientInfo, Payload, PayloadKind, Publication};
use crate::push::Form;

/// What stands for a byte inside a JSON string: 0 for itself, `u` for a `\u00..` escape, else the letter after the
/// backslash.
const ESCAPES: [u8; 256] = {
    let mut escapes = [0; 256];
    let mut control = 0;
    while control < 0x20 {
        escapes[control] = b'u';
        control += 1;
    }
    escapes[0x08] = b'b';
    escapes[b'\t' as usize] = b't';
    escapes[b'\n' as usize] = b'n';
    escapes[0x0c] = b'f';
    escapes[b'\r' as usize] = b'r';
    escapes[b'"' as usize] = b'"';
    escapes[b'\\' as usize] = b'\\';
    escapes
};

pub(super) fn number(value: u64, out: &mut BytesMut) {
    out.put_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// A JSON string of this text, quotes included.
pub fn string(text: &str, out: &mut BytesMut) {
    out.reserve(text.len() + 2);
    out.put_u8(b'"');
    let bytes = text.as_bytes();
    let mut written = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let escape = ESCAPES[usize::from(byte)];
        if escape == 0 {
            continue;
        }
        out.put_slice(&bytes[written..at]);
        written = at + 1;
        out.put_slice(&[b'\\', escape]);
        if escape == b'u' {
            let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
            out.put_slice(&[b'0', b'0', digit(byte >> 4), digit(byte & 0xf)]);
        }
    }
    out.put_slice(&bytes[written..]);
    out.put_u8(b'"');
}

/// JSON as it is, except for line breaks, which stand between messages. Inside a JSON string there can be none, so
/// each is white space and a space serves as well.
pub(super) fn raw(json: &[u8], out: &mut BytesMut) {
    let start = out.len();
    out.put_slice(json);
    if let Some(first) = memchr::memchr(b'\n', json) {
        for byte in &mut out[start + first..] {
            if *byte == b'\n' {
                *byte = b' ';
            }
        }
    }
}

/// A payload as clients get it: what is no JSON as a string.
#[inline]
pub fn payload(payload: &Payload, out: &mut BytesMut) {
    match payload.kind {
        PayloadKind::Json => raw(&payload.bytes, out),
        PayloadKind::Text | PayloadKind::Binary => embedded(payload, out),
    }
}

/// What is no JSON, as a string.
#[inline(never)]
fn embedded(payload: &Payload, out: &mut BytesMut) {
    if payload.kind == PayloadKind::Binary {
        out.put_u8(b'"');
        let start = out.len();
        // Four characters for each three bytes begun.
        out.resize(start + payload.bytes.len().div_ceil(3) * 4, 0);
        let length = STANDARD.encode_slice(&payload.bytes, &mut out[start..]).unwrap_or(0);
        out.truncate(start + length);
        return out.put_u8(b'"');
    }
    match simdutf8::basic::from_utf8(&payload.bytes) {
        Ok(text) => string(text, out),
        // Nobody makes such a payload. One bad character is still better than a message that every client must close
        // its connection for.
        Err(_) => string(&String::from_utf8_lossy(&payload.bytes), out),
    }
}

/// What a subscriber that has agreed to patches gets is always a string: a payload's own text, or a patch. Text is what
/// the string stands for, so a patch that is none cannot be one. Answers whether it is a patch.
#[inline(never)]
fn text_of(payload: &Payload, out: &mut BytesMut, patch: Option<&str>) -> bool {
    match (patch, payload.kind) {
        (Some(patch), _) => string(patch, out),
        (None, PayloadKind::Binary) => embedded(payload, out),
        (None, PayloadKind::Json | PayloadKind::Text) => match simdutf8::basic::from_utf8(&payload.bytes) {
            Ok(text) => string(text, out),
            Err(_) => self::payload(payload, out),
        },
    }
    patch.is_some()
}

pub(super) fn publication(publication: &Publication, form: Form<'_>, with_epoch: bool, out: &mut BytesMut) {
    let mut object = Object::begin(out);
    let is_patch = match form {
        // A key that is there no more has no content, and no JSON value is empty.
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
        Form::Patch(patch) => {
            text_of(&publication.data, object.field("data"), simdutf8::basic::from_utf8(patch).ok())
        }
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

/// The same for a subscriber that has agreed to patches: an empty one is none.
pub(super) fn patched_publications(list: &[Publication], patches: &[Bytes], out: &mut BytesMut) {
    let none = Bytes::new();
    let patches = patches.iter().chain(std::iter::repeat(&none));
    self::list(list.iter().zip(patches), out, |(one, patch), out| {
        let form = if patch.is_empty() { Form::Whole } else { Form::Patch(patch) };
        publication(one, form, false, out);
    });
}

pub(super) fn list<T>(
    items: impl IntoIterator<Item = T>,
    out: &mut BytesMut,
    mut write: impl FnMut(T, &mut BytesMut),
) {
    out.put_u8(b'[');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        write(item, out);
    }
    out.put_u8(b']');
}

pub fn client_info(info: &ClientInfo, out: &mut BytesMut) {
    let mut object = Object::begin(out);
    // Also that of nobody in particular: libraries hand it on as it is.
    string(info.user.as_str(), object.field("user"));
    client_id(info.client, object.field("client"));
    object.raw("conn_info", info.conn_info.as_deref());
    object.raw("chan_info", info.chan_info.as_deref());
    object.end();
}

/// A JSON string of a client id, whose text needs no escapes.
pub(super) fn client_id(id: ClientId, out: &mut BytesMut) {
    out.put_u8(b'"');
    out.put_slice(&id.hyphenated());
    out.put_u8(b'"');
}

/// An object being written: knows where commas go and leaves out what is empty.
pub(super) struct Object<'a> {
    out: &'a mut BytesMut,
    is_empty: bool,
}

impl<'a> Object<'a> {
    pub(super) fn begin(out: &'a mut BytesMut) -> Self {
        out.put_u8(b'{');
        Self { out, is_empty: true }
    }

    pub(super) fn end(self) {
        self.out.put_u8(b'}');
    }

    /// Begins a field of this name, whose value the caller writes. Names need no escapes.
    pub(super) fn field(&mut self, name: &str) -> &mut BytesMut {
        self.out.put_slice(if self.is_empty { b"\"" } else { b",\"" });
        self.is_empty = false;
        self.out.put_slice(name.as_bytes());
        self.out.put_slice(b"\":");
        self.out
    }

    pub(super) fn number(&mut self, name: &str, value: u64) {
        if value != 0 {
            self.count(name, value);
        }
    }

    /// A number that is written even if it is zero.
    pub(super) fn count(&mut self, name: &str, value: u64) {
        number(value, self.field(name));
    }

    pub(super) fn string(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            string(value, self.field(name));
        }
    }

    pub(super) fn flag(&mut self, name: &str, value: bool) {
        if value {
            self.field(name).put_slice(b"true");
        }
    }

    /// A key that may need escapes, and its value, which may be empty.
    pub(super) fn pair(&mut self, key: &str, value: &str) {
        string(value, self.key(key));
    }

    /// Begins a field whose name may need escapes.
    pub(super) fn key(&mut self, key: &str) -> &mut BytesMut {
        if !self.is_empty {
            self.out.put_u8(b',');
        }
        self.is_empty = false;
        string(key, self.out);
        self.out.put_u8(b':');
        self.out
    }

    pub(super) fn payload(&mut self, name: &str, value: Option<&Payload>) {
        if let Some(value) = value.filter(|value| value.kind != PayloadKind::Json || !value.bytes.is_empty())
        {
            payload(value, self.field(name));
        }
    }

    /// Embedded JSON. No bytes at all are no JSON, so they count as empty too.
    pub(super) fn raw(&mut self, name: &str, json: Option<&[u8]>) {
        if let Some(json) = json.filter(|json| !json.is_empty()) {
            raw(json, self.field(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut BytesMut)) -> String {
        let mut out = BytesMut::new();
        write(&mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn every_character_of_a_string_reads_back() {
        let all: String = (0..0x11_0000).filter_map(char::from_u32).collect();
        let json = written(|out| string(&all, out));
        assert!(!json.bytes().any(|byte| byte < 0x20));
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), all);
    }

    #[test]
    fn line_breaks_between_json_tokens_become_spaces() {
        let json = "{\n \"a\":\n\"x\\ny\"\r\n}";
        assert_eq!(written(|out| raw(json.as_bytes(), out)), "{  \"a\": \"x\\ny\"\r }");
    }

    #[test]
    fn bytes_become_a_string_of_base64() {
        for (bytes, expected) in
            [(&b""[..], "\"\""), (b"\xff", "\"/w==\""), (b"\xff\x00\x3e\x3f", "\"/wA+Pw==\"")]
        {
            assert_eq!(written(|out| payload(&Payload::binary(bytes), out)), expected);
        }
    }

    #[test]
    fn text_becomes_a_string_even_if_it_is_none() {
        assert_eq!(written(|out| payload(&Payload::text("a \"b\"\n"), out)), r#""a \"b\"\n""#);
        assert_eq!(written(|out| payload(&Payload::text(&b"a\xff"[..]), out)), "\"a\u{fffd}\"");
    }
}
