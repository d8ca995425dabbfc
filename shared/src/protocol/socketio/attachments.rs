//! Bytes inside JSON: attachments in this protocol, base64 in publications.
//!
//! A packet has `{"_placeholder":true,"num":0}` in place of an attachment. A publication has the bytes there in base64,
//! and a tag that lists these places as JSON pointers (RFC 6901) in a JSON array.

use std::borrow::Cow;
use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;

use crate::protocol::json;
use crate::publication::Payload;

/// Longest placeholder with any white space, in bytes.
const PLACEHOLDER_BYTES_MAX: usize = 96;

/// The key by which libraries recognize a placeholder.
const PLACEHOLDER_KEY: &str = "_placeholder";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Placeholder {
    #[serde(rename = "_placeholder")]
    is_placeholder: bool,
    num: u32,
}

/// A value that may stand for bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Value {
    Text,
    Placeholder(u32),
    /// An object that libraries treat as a placeholder but cannot read.
    Unreadable,
}

/// A placeholder names an attachment that does not exist or that another placeholder has used, or cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NoSuchAttachment;

/// Appends valid JSON with base64 in place of its placeholders, and appends their pointers to `pointers`, each prefixed
/// with `at`. Each attachment is taken out of `unused`: libraries send one for each place, and without this rule many
/// places could share one, so that the result would have no bound.
pub(super) fn embed(
    json: &str,
    unused: &mut [Option<Bytes>],
    at: &str,
    out: &mut BytesMut,
    pointers: &mut Vec<String>,
) -> Result<(), NoSuchAttachment> {
    let (mut copied, has_attachments) = (0, !unused.is_empty());
    let mut result = Ok(());
    walk(json, at, &mut |pointer, range, value| {
        let number = match value {
            Value::Text => return,
            Value::Placeholder(number) => number,
            // In a packet with attachments it would close the connection of every client that receives it.
            Value::Unreadable => {
                result = result.and(if has_attachments { Err(NoSuchAttachment) } else { Ok(()) });
                return;
            }
        };
        let Some(bytes) = unused.get_mut(number as usize).and_then(Option::take) else {
            result = Err(NoSuchAttachment);
            return;
        };
        out.put_slice(&json.as_bytes()[copied..range.start]);
        json::payload(&Payload::binary(bytes), out);
        copied = range.end;
        pointers.push(pointer.to_owned());
    });
    out.put_slice(&json.as_bytes()[copied..]);
    result
}

/// Returns the number of the attachment, if the value is a placeholder and nothing else.
pub(super) fn whole(json: &str) -> Option<usize> {
    let json = json.trim();
    let (number, end) = placeholder(json, 0)?;
    (end == json.len()).then_some(number as usize)
}

/// Appends valid JSON with placeholders in place of the base64 at these pointers, and the decoded bytes to
/// `attachments`. Strings that are not base64 stay unchanged.
pub(super) fn extract(json: &str, pointers: &[String], out: &mut BytesMut, attachments: &mut Vec<Bytes>) {
    let mut copied = 0;
    walk(json, "", &mut |pointer, range, value| {
        if value != Value::Text || !pointers.iter().any(|named| named == pointer) {
            return;
        }
        let Some(bytes) = text(&json[range.clone()]).and_then(|text| STANDARD.decode(&*text).ok()) else {
            return;
        };
        out.put_slice(&json.as_bytes()[copied..range.start]);
        write_placeholder(attachments.len(), out);
        copied = range.end;
        attachments.push(bytes.into());
    });
    out.put_slice(&json.as_bytes()[copied..]);
}

/// Whether a reader of a packet with attachments would mistake an object in this valid JSON for a placeholder.
pub(super) fn has_placeholders(json: &str) -> bool {
    fn is_one(value: &serde_json::Value) -> bool {
        match value {
            serde_json::Value::Object(fields) => {
                fields.iter().any(|(key, value)| key == PLACEHOLDER_KEY || is_one(value))
            }
            serde_json::Value::Array(values) => values.iter().any(is_one),
            _ => false,
        }
    }
    let has = |text: &str| memchr::memmem::find(json.as_bytes(), text.as_bytes()).is_some();
    // A key may be written with escapes.
    (has(PLACEHOLDER_KEY) || has("\\u")) && serde_json::from_str(json).is_ok_and(|value| is_one(&value))
}

pub(super) fn write_placeholder(number: usize, out: &mut BytesMut) {
    out.put_slice(br#"{"_placeholder":true,"num":"#);
    json::number(number as u64, out);
    out.put_u8(b'}');
}

/// Reads the placeholder at this position. Returns its number and its end.
fn placeholder(json: &str, at: usize) -> Option<(u32, usize)> {
    let bytes = json.as_bytes().get(at..)?;
    if bytes.first() != Some(&b'{') {
        return None;
    }
    let window = &bytes[..bytes.len().min(PLACEHOLDER_BYTES_MAX)];
    let length = memchr::memchr(b'}', window)? + 1;
    let found: Placeholder = serde_json::from_slice(&window[..length]).ok()?;
    found.is_placeholder.then_some((found.num, at + length))
}

/// Returns the content of a JSON string.
fn text(json: &str) -> Option<Cow<'_, str>> {
    // Base64 contains nothing to escape.
    match json.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(plain) if !plain.contains('\\') => Some(plain.into()),
        _ => serde_json::from_str::<String>(json).ok().map(Into::into),
    }
}

/// Visits each string and each placeholder in valid JSON of bounded depth, with its pointer and range.
fn walk(json: &str, at: &str, visit: &mut dyn FnMut(&str, Range<usize>, Value)) {
    Walk { json, at: 0, pointer: at.to_owned(), visit }.value();
}

struct Walk<'a, 'v> {
    json: &'a str,
    at: usize,
    pointer: String,
    visit: &'v mut dyn FnMut(&str, Range<usize>, Value),
}

impl Walk<'_, '_> {
    fn value(&mut self) {
        self.skip_space();
        let start = self.at;
        match self.peek() {
            Some(b'"') => {
                self.skip_text();
                (self.visit)(&self.pointer, start..self.at, Value::Text);
            }
            Some(b'{') => match placeholder(self.json, self.at) {
                Some((number, end)) => {
                    self.at = end;
                    (self.visit)(&self.pointer, start..end, Value::Placeholder(number));
                }
                None => self.object(),
            },
            Some(b'[') => self.array(),
            _ => {
                let ends = |byte: u8| matches!(byte, b',' | b']' | b'}') || byte.is_ascii_whitespace();
                while self.peek().is_some_and(|byte| !ends(byte)) {
                    self.at += 1;
                }
            }
        }
        self.skip_space();
    }

    fn object(&mut self) {
        let length = self.pointer.len();
        self.at += 1;
        self.skip_space();
        while self.peek() == Some(b'"') {
            let start = self.at;
            self.skip_text();
            let key = text(&self.json[start..self.at]).unwrap_or_default();
            self.pointer.push('/');
            for letter in key.chars() {
                match letter {
                    '~' => self.pointer.push_str("~0"),
                    '/' => self.pointer.push_str("~1"),
                    _ => self.pointer.push(letter),
                }
            }
            let is_mark = key == PLACEHOLDER_KEY;
            self.skip_space();
            self.take(b':');
            self.skip_space();
            if is_mark && self.json[self.at..].starts_with("true") {
                (self.visit)(&self.pointer[..length], self.at..self.at, Value::Unreadable);
            }
            self.value();
            self.pointer.truncate(length);
            self.take(b',');
            self.skip_space();
        }
        self.take(b'}');
    }

    fn array(&mut self) {
        let length = self.pointer.len();
        self.at += 1;
        self.skip_space();
        let mut index = 0_u64;
        while self.peek().is_some_and(|byte| byte != b']') {
            self.pointer.push('/');
            self.pointer.push_str(itoa::Buffer::new().format(index));
            self.value();
            self.pointer.truncate(length);
            index += 1;
            self.take(b',');
        }
        self.take(b']');
    }

    fn peek(&self) -> Option<u8> {
        self.json.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) {
        self.at += usize::from(self.peek() == Some(byte));
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn skip_text(&mut self) {
        self.at += 1;
        while let Some(byte) = self.peek() {
            self.at += 1;
            match byte {
                b'"' => return,
                b'\\' => self.at = (self.at + 1).min(self.json.len()),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn embedded(
        json: &str,
        attachments: &[&'static [u8]],
    ) -> Result<(String, Vec<String>), NoSuchAttachment> {
        let mut unused: Vec<_> = attachments.iter().map(|bytes| Some(Bytes::from_static(bytes))).collect();
        let (mut out, mut pointers) = (BytesMut::new(), Vec::new());
        embed(json, &mut unused, "", &mut out, &mut pointers)?;
        Ok((String::from_utf8(out.to_vec()).unwrap(), pointers))
    }

    #[test]
    fn attachments_become_base64_whose_places_are_listed_and_back() {
        let packet =
            r#"[1,{"_placeholder":true,"num":1},{"a/b":{"c~":{"num":0, "_placeholder":true}},"s":"x"}]"#;
        let (json, pointers) = embedded(packet, &[b"\xff", b"\0\x01"]).unwrap();
        assert_eq!(json, r#"[1,"AAE=",{"a/b":{"c~":"/w=="},"s":"x"}]"#);
        assert_eq!(pointers, ["/1", "/2/a~1b/c~0"]);
        let (mut out, mut attachments) = (BytesMut::new(), Vec::new());
        extract(&json, &pointers, &mut out, &mut attachments);
        let expected =
            r#"[1,{"_placeholder":true,"num":0},{"a/b":{"c~":{"_placeholder":true,"num":1}},"s":"x"}]"#;
        assert_eq!(out, expected);
        assert_eq!(attachments, [Bytes::from_static(b"\0\x01"), Bytes::from_static(b"\xff")]);
    }

    #[test]
    fn only_placeholders_are_taken_for_some() {
        for json in [
            r#"{"_placeholder":false,"num":0}"#,
            r#"{"_placeholder":true,"num":0,"x":1}"#,
            r#"{"_placeholder":true}"#,
            r#""{\"_placeholder\":true,\"num\":0}""#,
            r#" [ "a\"]" , { "k\n" : [ ] } , { } , -1.5e3 , null ] "#,
        ] {
            assert_eq!(embedded(json, &[]), Ok((json.to_owned(), Vec::new())), "{json}");
            assert_eq!(whole(json), None);
        }
        assert_eq!(whole(" { \"num\" : 3, \"_placeholder\" : true } "), Some(3));
        assert_eq!(embedded(r#"{"_placeholder":true,"num":1}"#, &[b"x"]), Err(NoSuchAttachment));
    }

    #[test]
    fn what_ends_the_connections_of_others_is_refused_beside_attachments() {
        for broken in [
            r#"{"_placeholder":true,"num":-1}"#,
            r#"{"_placeholder":true,"num":"0"}"#,
            r#"{"_placeholder":true,"num":0,"x":1}"#,
            r#"[{"num":0, "\u005fplaceholder" : true, "x":[]}]"#,
            r#"{"_placeholder":true}"#,
        ] {
            let packet = format!(r#"[{{"_placeholder":true,"num":0}},{broken}]"#);
            assert_eq!(embedded(&packet, &[b"x"]), Err(NoSuchAttachment), "{broken}");
            assert_eq!(embedded(broken, &[]), Ok((broken.to_owned(), Vec::new())), "{broken}");
        }
        assert!(embedded(r#"[{"_placeholder":"true"},{"_placeholder":false}]"#, &[b"x"]).is_ok());
    }

    #[test]
    fn an_attachment_stands_in_one_place() {
        let twice = r#"[{"_placeholder":true,"num":0},{"_placeholder":true,"num":0}]"#;
        assert_eq!(embedded(twice, &[b"x", b"y"]), Err(NoSuchAttachment));
    }

    #[test]
    fn what_a_tag_lists_and_is_no_base64_stays() {
        let json = r#"{"a":"é","b":7,"c":"AA==","d":"\u0041A=="}"#;
        let (mut out, mut attachments) = (BytesMut::new(), Vec::new());
        let pointers = ["/a", "/b", "/d", "/nothing"].map(str::to_owned);
        extract(json, &pointers, &mut out, &mut attachments);
        assert_eq!(out, r#"{"a":"é","b":7,"c":"AA==","d":{"_placeholder":true,"num":0}}"#);
        assert_eq!(attachments, [Bytes::from_static(b"\0")]);
    }

    #[test]
    fn json_that_ends_too_soon_ends_the_walk() {
        for json in ["", "[", "{", "\"", "\"\\", "[1", "{\"a\"", "{\"a\":", "[[[", "{\"a\":\"\\"] {
            walk(json, "", &mut |_, range, _| assert!(range.end <= json.len()));
        }
    }
}
