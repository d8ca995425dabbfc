//! Conversion between the arguments of an event and the payload of a publication.
//!
//! A single argument is the payload itself, so that other protocols and servers receive the value as it was sent. No
//! argument or several are a JSON array, and a tag says so. A single argument of bytes is a binary payload; bytes in
//! other places are base64 in the JSON, and a tag lists the places.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use serde_json::value::RawValue;

use super::attachments::{embed, extract, has_placeholders, whole, write_placeholder};
use crate::protocol::json;
use crate::publication::{Payload, PayloadKind, Tagged, Tags};

/// The tag of a payload that is a JSON array of the event's arguments: their number.
pub const ARGUMENTS_TAG: &str = "args";
/// The tag of a payload with bytes in its JSON: a JSON array of pointers (RFC 6901) to the strings that hold them in base64.
pub const BINARY_TAG: &str = "binary";

/// The arguments name attachments that do not exist, or one of them twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ArgumentsError;

/// Converts the arguments of an event into a payload for other clients.
pub(super) fn shared(values: &[&RawValue], attachments: &[Bytes]) -> Result<Tagged, ArgumentsError> {
    let [only] = values else { return listed(values, attachments) };
    if let Some(bytes) = whole(only.get()) {
        let bytes = attachments.get(bytes).ok_or(ArgumentsError)?;
        return Ok(Tagged { data: Payload::binary(bytes.clone()), tags: Tags::new() });
    }
    let (mut json, mut pointers) = (BytesMut::with_capacity(only.get().len()), Vec::new());
    embed(only.get(), &mut unused(attachments), "", &mut json, &mut pointers).map_err(|_| ArgumentsError)?;
    Ok(Tagged { data: Payload::json(json.freeze()), tags: tags(None, &pointers) })
}

/// The same for recipients that treat any number of arguments alike: the payload is always a JSON array.
pub(super) fn listed(values: &[&RawValue], attachments: &[Bytes]) -> Result<Tagged, ArgumentsError> {
    let guess = values.iter().map(|value| value.get().len() + 1).sum::<usize>() + 2;
    let (mut json, mut pointers) = (BytesMut::with_capacity(guess), Vec::new());
    let mut unused = unused(attachments);
    json.put_u8(b'[');
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            json.put_u8(b',');
        }
        embed(value.get(), &mut unused, &format!("/{index}"), &mut json, &mut pointers)
            .map_err(|_| ArgumentsError)?;
    }
    json.put_u8(b']');
    Ok(Tagged { data: Payload::json(json.freeze()), tags: tags(Some(values.len()), &pointers) })
}

/// Converts the arguments of a packet, with placeholders for these attachments. `None` if they name attachments that do
/// not exist, or one of them twice.
pub fn arguments_with_attachments(values: &[&RawValue], attachments: &[Bytes]) -> Option<Tagged> {
    shared(values, attachments).ok()
}

fn unused(attachments: &[Bytes]) -> Vec<Option<Bytes>> {
    attachments.iter().cloned().map(Some).collect()
}

/// Converts the arguments of an event from a server, with base64 at these pointers into their array.
pub fn arguments_of_server(values: &[&RawValue], pointers: &[String]) -> Tagged {
    let [only] = values else { return listed_by_server(values, pointers) };
    let own: Vec<String> =
        pointers.iter().filter_map(|pointer| pointer.strip_prefix("/0").map(str::to_owned)).collect();
    let is_whole = own.iter().any(String::is_empty);
    let bytes = || STANDARD.decode(serde_json::from_str::<String>(only.get()).ok()?).ok();
    if let Some(bytes) = is_whole.then(bytes).flatten() {
        return Tagged { data: Payload::binary(bytes), tags: Tags::new() };
    }
    let data = Payload::json(Bytes::copy_from_slice(only.get().as_bytes()));
    Tagged { data, tags: tags(None, &own) }
}

/// The same, but the payload is always a JSON array.
pub fn listed_by_server(values: &[&RawValue], pointers: &[String]) -> Tagged {
    let mut json = BytesMut::new();
    json::list(values, &mut json, |value, out| out.put_slice(value.get().as_bytes()));
    Tagged { data: Payload::json(json.freeze()), tags: tags(Some(values.len()), pointers) }
}

/// The most characters of a pointer that an error message shows.
const POINTER_SHOWN_MAX: usize = 100;

/// Returns the error in a server's arguments with bytes at these pointers, if there is one. Each pointer must lead to a
/// string in base64, and no argument may contain an object that looks like a placeholder.
pub fn binary_fault(values: &[&RawValue], pointers: &[String]) -> Option<String> {
    use serde_json::Value;
    if pointers.is_empty() {
        return None;
    }
    let read: Result<_, _> = values.iter().map(|value| serde_json::from_str(value.get())).collect();
    let Ok(list) = read.map(Value::Array) else {
        return Some("the arguments are nested too deeply".to_owned());
    };
    for pointer in pointers {
        let fault = match list.pointer(pointer) {
            None => "leads nowhere",
            Some(Value::String(text)) if STANDARD.decode(text).is_ok() => continue,
            Some(_) => "leads to no text in base64",
        };
        let shown: String = pointer.chars().take(POINTER_SHOWN_MAX).collect();
        return Some(format!("the pointer {shown:?} to binary data {fault}"));
    }
    let is_one = values.iter().any(|value| has_placeholders(value.get()));
    is_one.then(|| "with binary data, no argument may have a key _placeholder".to_owned())
}

fn tags(count: Option<usize>, pointers: &[String]) -> Tags {
    let mut tags = Tags::new();
    if let Some(count) = count {
        tags.insert(ARGUMENTS_TAG.into(), count.to_string().into());
    }
    if !pointers.is_empty() {
        let mut list = BytesMut::new();
        json::list(pointers, &mut list, |pointer, out| json::string(pointer, out));
        tags.insert(BINARY_TAG.into(), String::from_utf8_lossy(&list).into());
    }
    tags
}

/// Appends the arguments, without the brackets of their array, and their bytes to `attachments`.
pub(super) fn write(data: &Payload, tags: &Tags, out: &mut BytesMut, attachments: &mut Vec<Bytes>) {
    if data.kind != PayloadKind::Json {
        return match data.kind {
            PayloadKind::Binary => {
                write_placeholder(attachments.len(), out);
                attachments.push(data.bytes.clone());
            }
            _ => json::payload(data, out),
        };
    }
    let Some(pointers) = tags.get(BINARY_TAG) else { return write_json(&data.bytes, tags, out) };
    // A publisher may set the tag to anything.
    let pointers: Vec<String> = serde_json::from_str(pointers).unwrap_or_default();
    let Ok(json) = std::str::from_utf8(&data.bytes) else { return write_json(&data.bytes, tags, out) };
    if has_placeholders(json) {
        // A client would expect attachments that do not exist, and close its connection. The base64 is harmless as text.
        return write_json(&data.bytes, tags, out);
    }
    let mut replaced = BytesMut::with_capacity(json.len());
    extract(json, &pointers, &mut replaced, attachments);
    write_json(&replaced, tags, out);
}

/// Writes JSON as a list of arguments, if the tags say that it is one and it is an array, and as a single argument otherwise.
fn write_json(json: &[u8], tags: &Tags, out: &mut BytesMut) {
    let json = json.trim_ascii();
    let listed = || json.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
    match tags.get(ARGUMENTS_TAG).and_then(|_| listed()) {
        Some(inner) => json::raw(inner.trim_ascii(), out),
        None => json::raw(json, out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(json: &str) -> Vec<&RawValue> {
        serde_json::from_str(json).unwrap()
    }

    fn read(json: &str, attachments: &[Bytes]) -> Tagged {
        shared(&values(json), attachments).unwrap()
    }

    fn written(arguments: &Tagged) -> (String, Vec<Bytes>) {
        let (mut out, mut attachments) = (BytesMut::new(), Vec::new());
        write(&arguments.data, &arguments.tags, &mut out, &mut attachments);
        (String::from_utf8(out.to_vec()).unwrap(), attachments)
    }

    #[test]
    fn what_looks_like_an_attachment_already_travels_beside_none() {
        for json in
            [r#"[{"_placeholder":true,"num":9},"AQID"]"#, r#"[{"a":[{"\u005fplaceholder":true}]},"AQID"]"#]
        {
            let foreign = Tagged { data: Payload::json(json), tags: tags(Some(2), &["/1".to_owned()]) };
            let inner = json.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            assert_eq!(written(&foreign), (inner.unwrap().to_owned(), Vec::new()));
        }
        let plain = r#"[{"text":"\u00e9 _placeholder"},"AQID"]"#;
        let own = Tagged { data: Payload::json(plain), tags: tags(Some(2), &["/1".to_owned()]) };
        assert_eq!(written(&own).1, [Bytes::from_static(&[1, 2, 3])]);
    }

    #[test]
    fn one_argument_is_the_payload_and_others_are_a_list() {
        for (json, data, count) in [
            ("[{\"a\": 1}]", "{\"a\": 1}", None),
            ("[[1,2]]", "[1,2]", None),
            ("[]", "[]", Some("0")),
            ("[1, \"2\"]", "[1,\"2\"]", Some("2")),
        ] {
            let arguments = read(json, &[]);
            assert_eq!(arguments.data, Payload::json(data.to_owned()));
            assert_eq!(arguments.tags.get(ARGUMENTS_TAG).map(|count| &**count), count);
            let (written, attachments) = written(&arguments);
            let unspaced = |text: &str| text.replace(' ', "");
            assert_eq!((unspaced(&format!("[{written}]")), attachments.len()), (unspaced(json), 0));
        }
    }

    #[test]
    fn bytes_alone_are_a_binary_payload_and_others_stand_in_json() {
        let bytes = [Bytes::from_static(b"\x01\x02"), Bytes::from_static(b"\xff")];
        let alone = read(r#"[{"_placeholder":true,"num":1}]"#, &bytes);
        assert_eq!(alone, Tagged { data: Payload::binary(&b"\xff"[..]), tags: Tags::new() });
        assert_eq!(written(&alone), (r#"{"_placeholder":true,"num":0}"#.to_owned(), vec![bytes[1].clone()]));
        let packet = r#"[{"photo":{"_placeholder":true,"num":0}},{"_placeholder":true,"num":1}]"#;
        let mixed = read(packet, &bytes);
        assert_eq!(mixed.data, Payload::json(r#"[{"photo":"AQI="},"/w=="]"#));
        assert_eq!(mixed.tags.get(BINARY_TAG).map(|tag| &**tag), Some(r#"["/0/photo","/1"]"#));
        assert_eq!(written(&mixed), (packet[1..packet.len() - 1].to_owned(), bytes.to_vec()));
        let inside = read(r#"[{"photo":{"_placeholder":true,"num":0}}]"#, &bytes);
        assert_eq!(inside.tags.get(BINARY_TAG).map(|tag| &**tag), Some(r#"["/photo"]"#));
        assert_eq!(written(&inside).1, [bytes[0].clone()]);
        assert!(shared(&values(r#"[{"_placeholder":true,"num":2}]"#), &bytes).is_err());
        assert!(listed(&values(r#"[{"_placeholder":true,"num":2}]"#), &bytes).is_err());
    }

    #[test]
    fn bytes_of_a_server_stand_where_it_says_or_it_is_told_what_is_wrong() {
        let fault = |json, pointers: &[&str]| {
            binary_fault(&values(json), &pointers.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(fault(r#"["AQI=",{"a/b":["/w=="]}]"#, &["/0", "/1/a~1b/0"]), None);
        assert_eq!(fault(r#"[{"_placeholder":true}]"#, &[]), None);
        for (json, pointers, told) in [
            (r#"["!!not base64"]"#, &["/0"][..], "\"/0\" to binary data leads to no text in base64"),
            ("[1]", &["/0"], "no text in base64"),
            (r#"["AQI="]"#, &[""], "no text in base64"),
            (r#"["AQI="]"#, &["/0", "/9"], "\"/9\" to binary data leads nowhere"),
            (r#"["AQI="]"#, &["nonsense"], "\"nonsense\" to binary data leads nowhere"),
            (r#"[{"_placeholder":true,"num":0},"AQI="]"#, &["/1"], "_placeholder"),
        ] {
            let fault = fault(json, pointers).unwrap_or_else(|| panic!("{json} {pointers:?}"));
            assert!(fault.contains(told), "{fault}");
        }
    }

    #[test]
    fn what_other_wires_publish_is_one_argument() {
        let plain = |data| Tagged { data, tags: Tags::new() };
        assert_eq!(written(&plain(Payload::json(" [1, 2]\n"))).0, "[1, 2]");
        assert_eq!(written(&plain(Payload::text("a \"b\""))).0, r#""a \"b\"""#);
        // Tags that a publisher has made up.
        let odd = Tags::from([(ARGUMENTS_TAG.into(), "2".into()), (BINARY_TAG.into(), "nonsense".into())]);
        assert_eq!(written(&Tagged { data: Payload::json("{}"), tags: odd }).0, "{}");
    }
}
