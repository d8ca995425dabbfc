//! Parses the content of a Kafka record: its value, its headers and its key.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use krafka::ConsumerRecord;
use serde_json::value::RawValue;

use super::kafka_config::Value;
use crate::feeds::source::{FieldKey, RecordError, RecordFields};

/// Returns the size of a record in bytes: its key, its value and its headers.
pub(super) fn size(record: &ConsumerRecord) -> usize {
    let long = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + long(value)).sum();
    long(&record.key) + long(&record.value) + headers
}

/// Parses the fields of a record. `names` has the name of each field.
pub(super) fn read(
    record: &ConsumerRecord,
    value: Value,
    names: &[(FieldKey, Box<str>)],
    bytes_max: usize,
) -> Result<RecordFields, RecordError> {
    let bytes = size(record);
    if bytes > bytes_max {
        return Err(RecordError::TooLong { bytes: bytes as u64, max: bytes_max });
    }
    let word = |name: &str| names.iter().find(|(_, known)| **known == *name).map(|(word, _)| *word);
    let mut fields = RecordFields::default();
    let Some(body) = &record.value else { return Err(RecordError::Malformed("it has no value".to_owned())) };
    if value == Value::Fields {
        let members: BTreeMap<String, &RawValue> = serde_json::from_slice(body)
            .map_err(|error| RecordError::Malformed(format!("its value is not a JSON object: {error}")))?;
        for (name, field) in members {
            if let Some(word) = word(&name)
                && let Some(text) = text(word, body, field)
            {
                fields.set(word, text);
            }
        }
        return Ok(fields);
    }
    for (name, header) in &record.headers {
        if let (Some(word), Some(header)) = (word(name), header) {
            fields.set(word, header.clone());
        }
    }
    let has_channel = fields.get(FieldKey::Channel).is_some() || fields.get(FieldKey::Channels).is_some();
    if let (false, Some(key)) = (has_channel, &record.key) {
        fields.set(FieldKey::Channel, key.clone());
    }
    match value {
        Value::Bytes => fields.set(FieldKey::B64data, STANDARD.encode(body).into()),
        _ => fields.set(FieldKey::Data, body.clone()),
    }
    Ok(fields)
}

/// Returns a member of the object in the form that other sources have: fields that hold JSON as they are written, and
/// texts without their quotes.
fn text(word: FieldKey, body: &Bytes, field: &RawValue) -> Option<Bytes> {
    let written = field.get();
    let as_written = || Some(body.slice_ref(written.as_bytes()));
    match word {
        FieldKey::Data => as_written(),
        _ if written == "null" => None,
        FieldKey::Tags | FieldKey::Channels => as_written(),
        _ => match serde_json::from_str::<String>(written) {
            Ok(text) => Some(text.into()),
            Err(_) => as_written(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [(FieldKey, &str); 6] = [
        (FieldKey::Channel, "channel"),
        (FieldKey::Data, "data"),
        (FieldKey::Tags, "tags"),
        (FieldKey::Version, "version"),
        (FieldKey::Delta, "delta"),
        (FieldKey::Key, "symbol"),
    ];

    fn read_as(value: Value, record: &ConsumerRecord, max: usize) -> Result<RecordFields, String> {
        let names: Vec<_> = NAMES.iter().map(|(word, name)| (*word, Box::from(*name))).collect();
        read(record, value, &names, max).map_err(|unread| unread.to_string())
    }

    fn record(key: Option<&'static str>, value: Option<&'static str>) -> ConsumerRecord {
        ConsumerRecord::new("t", 0, 0, key.map(Bytes::from), value.map(Bytes::from))
    }

    fn shown(fields: &RecordFields, word: FieldKey) -> &str {
        std::str::from_utf8(fields.get(word).map_or(&[], |bytes| bytes)).unwrap()
    }

    #[test]
    fn an_object_has_the_fields_of_a_publication() {
        let body = "{\"channel\":\"a\\u0062\",\"data\":{ \"x\" : 1 },\"tags\":{\"t\":\"1\"},\"version\":7,\"delta\":true,\
                    \"symbol\":null,\"other\":[1]}";
        let fields = read_as(Value::Fields, &record(Some("key"), Some(body)), 1_000).unwrap();
        let expected = [
            (FieldKey::Channel, "ab"),
            (FieldKey::Data, "{ \"x\" : 1 }"),
            (FieldKey::Tags, "{\"t\":\"1\"}"),
            (FieldKey::Version, "7"),
            (FieldKey::Delta, "true"),
            (FieldKey::Key, ""),
        ];
        for (word, text) in expected {
            assert_eq!(shown(&fields, word), text, "{word:?}");
        }
        let null = read_as(Value::Fields, &record(None, Some("{\"data\":null}")), 1_000).unwrap();
        assert_eq!(shown(&null, FieldKey::Data), "null", "data may be null");
    }

    #[test]
    fn headers_and_the_key_say_what_a_value_of_data_does_not() {
        let mut plain = record(Some("room"), Some("[1]"));
        plain.headers = vec![("version".to_owned(), Some(Bytes::from("7"))), ("tags".to_owned(), None)];
        let fields = read_as(Value::Data, &plain, 1_000).unwrap();
        let told = [FieldKey::Channel, FieldKey::Data, FieldKey::Version, FieldKey::Tags]
            .map(|word| shown(&fields, word));
        assert_eq!(told, ["room", "[1]", "7", ""]);
        plain.headers.push(("channel".to_owned(), Some(Bytes::from("other"))));
        let fields = read_as(Value::Bytes, &plain, 1_000).unwrap();
        let told = [FieldKey::Channel, FieldKey::Data, FieldKey::B64data].map(|word| shown(&fields, word));
        assert_eq!(told, ["other", "", "WzFd"]);
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        let told = |value, record: &ConsumerRecord, max| read_as(value, record, max).unwrap_err();
        assert!(told(Value::Fields, &record(None, Some("[1]")), 1_000).contains("not a JSON object"));
        assert!(told(Value::Fields, &record(None, Some("{")), 1_000).contains("not a JSON object"));
        assert_eq!(told(Value::Data, &record(Some("k"), None), 1_000), "it has no value");
        let long = record(Some("key"), Some("value"));
        assert_eq!(told(Value::Data, &long, 7), "it has 8 bytes, and record_bytes_max is 7");
    }
}
