//! Writing JSON piece by piece, without an intermediate tree of values, for all protocols that use it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, BytesMut};

use crate::id::ClientId;
use crate::publication::{Payload, PayloadKind};

/// How each byte is written inside a JSON string: 0 for unchanged, `u` for a `\u00..` escape, else the letter after the
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

pub(in crate::protocol) fn number(value: u64, out: &mut BytesMut) {
    out.put_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Appends the text as a JSON string, quotes included.
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

/// Appends JSON unchanged, except for line breaks, which separate messages. A JSON string cannot contain one, so each
/// is white space, and a space replaces it.
pub(in crate::protocol) fn raw(json: &[u8], out: &mut BytesMut) {
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

/// Appends a payload as clients receive it: JSON unchanged, other kinds as a string.
#[inline]
pub fn payload(payload: &Payload, out: &mut BytesMut) {
    match payload.kind {
        PayloadKind::Json => raw(&payload.bytes, out),
        PayloadKind::Text | PayloadKind::Binary => embedded(payload, out),
    }
}

/// Appends any payload as a string. Text and JSON become the string's content, other bytes are encoded.
pub(in crate::protocol) fn text(payload: &Payload, out: &mut BytesMut) {
    match (payload.kind, simdutf8::basic::from_utf8(&payload.bytes)) {
        (PayloadKind::Json | PayloadKind::Text, Ok(text)) => string(text, out),
        _ => embedded(payload, out),
    }
}

/// Appends a payload that is not JSON as a string: text as it is, binary data in base64.
#[inline(never)]
pub(in crate::protocol) fn embedded(payload: &Payload, out: &mut BytesMut) {
    if payload.kind == PayloadKind::Binary {
        out.put_u8(b'"');
        let start = out.len();
        // Base64 takes four characters for each group of up to three bytes.
        out.resize(start + payload.bytes.len().div_ceil(3) * 4, 0);
        let length = STANDARD.encode_slice(&payload.bytes, &mut out[start..]).unwrap_or(0);
        out.truncate(start + length);
        return out.put_u8(b'"');
    }
    match simdutf8::basic::from_utf8(&payload.bytes) {
        Ok(text) => string(text, out),
        // A text payload is UTF-8, so this should not occur. A replacement character is still better than a message
        // that makes every client close its connection.
        Err(_) => string(&String::from_utf8_lossy(&payload.bytes), out),
    }
}

pub(in crate::protocol) fn list<T>(
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

/// Appends a client id as a JSON string. Its text needs no escapes.
pub(in crate::protocol) fn client_id(id: ClientId, out: &mut BytesMut) {
    out.put_u8(b'"');
    out.put_slice(&id.hyphenated());
    out.put_u8(b'"');
}

/// An object being written. It places the commas and leaves out empty fields.
pub(in crate::protocol) struct Object<'a> {
    out: &'a mut BytesMut,
    is_empty: bool,
}

impl<'a> Object<'a> {
    pub(in crate::protocol) fn begin(out: &'a mut BytesMut) -> Self {
        out.put_u8(b'{');
        Self { out, is_empty: true }
    }

    pub(in crate::protocol) fn end(self) {
        self.out.put_u8(b'}');
    }

    /// Begins a field, whose value the caller writes. The name must need no escapes.
    pub(in crate::protocol) fn field(&mut self, name: &str) -> &mut BytesMut {
        self.out.put_slice(if self.is_empty { b"\"" } else { b",\"" });
        self.is_empty = false;
        self.out.put_slice(name.as_bytes());
        self.out.put_slice(b"\":");
        self.out
    }

    pub(in crate::protocol) fn number(&mut self, name: &str, value: u64) {
        if value != 0 {
            self.count(name, value);
        }
    }

    /// Appends a number even if it is zero.
    pub(in crate::protocol) fn count(&mut self, name: &str, value: u64) {
        number(value, self.field(name));
    }

    pub(in crate::protocol) fn string(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            string(value, self.field(name));
        }
    }

    pub(in crate::protocol) fn flag(&mut self, name: &str, value: bool) {
        if value {
            self.field(name).put_slice(b"true");
        }
    }

    /// Appends a key that may need escapes, and its value, which may be empty.
    pub(in crate::protocol) fn pair(&mut self, key: &str, value: &str) {
        string(value, self.key(key));
    }

    /// Begins a field whose name may need escapes.
    pub(in crate::protocol) fn key(&mut self, key: &str) -> &mut BytesMut {
        if !self.is_empty {
            self.out.put_u8(b',');
        }
        self.is_empty = false;
        string(key, self.out);
        self.out.put_u8(b':');
        self.out
    }

    pub(in crate::protocol) fn payload(&mut self, name: &str, value: Option<&Payload>) {
        if let Some(value) = value.filter(|value| value.kind != PayloadKind::Json || !value.bytes.is_empty())
        {
            payload(value, self.field(name));
        }
    }

    /// Appends embedded JSON. Empty bytes are not JSON, so that the field is left out.
    pub(in crate::protocol) fn raw(&mut self, name: &str, json: Option<&[u8]>) {
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
