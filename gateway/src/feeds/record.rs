//! Turns the content of a record into a publication, with the fields and the rules of the server API.

use std::collections::BTreeMap;
use std::fmt::Display;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::source::{FeedRecord, FieldKey, RecordFields};
use crate::api::{ApiConfig, Content, PublishedMessage};

/// The publication that a record asks for, and its channels.
#[derive(Debug)]
pub(super) struct RecordRequest {
    pub(super) message: PublishedMessage,
    pub(super) channels: Vec<Box<str>>,
}

/// Parses a record, or returns why it cannot be published.
pub(super) fn read(record: &FeedRecord, api: &ApiConfig) -> Result<RecordRequest, String> {
    let fields = record.fields.as_ref().map_err(ToString::to_string)?;
    #[cfg(debug_assertions)]
    fields
        .get(FieldKey::Data)
        .iter()
        .for_each(|data| crate::faults::trip(crate::faults::READING_PANICS, data));
    let channels = channels(fields, api.broadcast_channels_max)?;
    let tags: BTreeMap<Box<str>, Box<str>> = json(fields, FieldKey::Tags)?.unwrap_or_default();
    let (data, body) = match fields.get(FieldKey::Data) {
        Some(bytes) if !bytes.is_empty() => {
            let data: &RawValue =
                serde_json::from_slice(bytes).map_err(|error| wrong(FieldKey::Data, error))?;
            (Some(data), bytes.clone())
        }
        _ => (None, Bytes::new()),
    };
    let content = Content {
        data,
        b64data: text(fields, FieldKey::B64data)?,
        skip_history: truth(fields, FieldKey::SkipHistory)?,
        tags: &tags,
        idempotency_key: text(fields, FieldKey::IdempotencyKey)?,
        version: number(fields, FieldKey::Version)?,
        version_epoch: text(fields, FieldKey::VersionEpoch)?,
        delta: truth(fields, FieldKey::Delta)?,
        key: Some(text(fields, FieldKey::Key)?).filter(|key| !key.is_empty()),
    };
    let message = PublishedMessage::read(content, &body, api).map_err(|refused| refused.message())?;
    Ok(RecordRequest { message, channels })
}

fn channels(fields: &RecordFields, max: usize) -> Result<Vec<Box<str>>, String> {
    let one = text(fields, FieldKey::Channel)?;
    let several: Vec<Box<str>> = json(fields, FieldKey::Channels)?.unwrap_or_default();
    match (one, several.len()) {
        ("", 0) => Err("it names no channel".to_owned()),
        (one, 0) => Ok(vec![one.into()]),
        ("", count) if count > max => Err(format!("it names more than {max} channels")),
        ("", _) => Ok(several),
        _ => Err("it has both channel and channels".to_owned()),
    }
}

fn wrong(word: FieldKey, problem: impl Display) -> String {
    format!("{}: {problem}", word.name())
}

fn text(fields: &RecordFields, word: FieldKey) -> Result<&str, String> {
    let bytes = fields.get(word).map_or(&b""[..], |bytes| bytes);
    std::str::from_utf8(bytes).map_err(|error| wrong(word, error))
}

/// Returns `None` if the field is missing, empty or null.
fn json<'a, T: serde::Deserialize<'a>>(
    fields: &'a RecordFields,
    word: FieldKey,
) -> Result<Option<T>, String> {
    match fields.get(word) {
        Some(bytes) if !bytes.is_empty() => serde_json::from_slice(bytes).map_err(|error| wrong(word, error)),
        _ => Ok(None),
    }
}

fn number(fields: &RecordFields, word: FieldKey) -> Result<u64, String> {
    match text(fields, word)? {
        "" => Ok(0),
        text => text.parse().map_err(|_| wrong(word, "is not a whole number of at least 0")),
    }
}

fn truth(fields: &RecordFields, word: FieldKey) -> Result<bool, String> {
    match text(fields, word)? {
        "" | "false" | "f" | "0" => Ok(false),
        "true" | "t" | "1" => Ok(true),
        _ => Err(wrong(word, "is neither true nor false")),
    }
}

#[cfg(test)]
mod tests {
    use gateway_core::channel_rules::ChannelOptions;
    use shared::channel::Channel;

    use super::*;
    use crate::broker::PublishRequest;

    const WORDS: [FieldKey; FieldKey::COUNT] = [
        FieldKey::Channel,
        FieldKey::Channels,
        FieldKey::Data,
        FieldKey::B64data,
        FieldKey::Tags,
        FieldKey::Key,
        FieldKey::IdempotencyKey,
        FieldKey::Version,
        FieldKey::VersionEpoch,
        FieldKey::SkipHistory,
        FieldKey::Delta,
    ];

    fn record(fields: &[(&str, &str)]) -> FeedRecord {
        let mut record_fields = RecordFields::default();
        for (name, value) in fields {
            let word = WORDS.into_iter().find(|word| word.name() == *name).unwrap();
            record_fields.set(word, Bytes::copy_from_slice(value.as_bytes()));
        }
        FeedRecord { position: "1-0".into(), fields: Ok(record_fields) }
    }

    fn publication_of(fields: &[(&str, &str)]) -> (Vec<Box<str>>, PublishRequest) {
        let RecordRequest { message, channels } = read(&record(fields), &ApiConfig::default()).unwrap();
        let channel = Channel::parse("x", 255).unwrap();
        (channels, message.to(channel, &ChannelOptions::default()).unwrap())
    }

    #[test]
    fn the_least_is_a_channel_and_data_and_the_data_is_not_changed() {
        let (channels, request) = publication_of(&[("channel", "news"), ("data", "{ \"a\": 1 }")]);
        assert_eq!(channels.join(" "), "news");
        assert_eq!(&*request.publication.data.bytes, b"{ \"a\": 1 }");
        assert_eq!((request.idempotency.is_none(), request.version.is_none()), (true, true));
    }

    #[test]
    fn everything_that_can_be_said_is_heard() {
        let (channels, request) = publication_of(&[
            ("channels", "[\"a\",\"b\"]"),
            ("b64data", "aGVsbG8="),
            ("tags", "{\"t\":\"1\"}"),
            ("idempotency_key", "k"),
            ("version", "7"),
            ("version_epoch", "e"),
            ("delta", "t"),
            ("skip_history", "1"),
            ("key", ""),
        ]);
        assert_eq!(channels.join(" "), "a b");
        let publication = &request.publication;
        assert_eq!((&*publication.data.bytes, publication.delta), (&b"hello"[..], true));
        assert_eq!(&*publication.tags["t"], "1");
        assert_eq!(&*request.idempotency.unwrap().key, "k");
        assert_eq!(request.version.map(|version| version.number), Some(7));
    }

    #[test]
    fn what_cannot_be_published_is_told_with_the_field_that_is_wrong() {
        let long = format!("\"{}\"", "x".repeat(256 * 1024));
        for (fields, why) in [
            (&[("data", "1")][..], "names no channel"),
            (&[("channels", "[]"), ("data", "1")], "names no channel"),
            (&[("channel", "a"), ("channels", "[\"b\"]"), ("data", "1")], "both channel and channels"),
            (&[("channel", "a")], "no data"),
            (&[("channel", "a"), ("data", "{")], "data: "),
            (&[("channel", "a"), ("data", "1 2")], "data: "),
            (&[("channel", "a"), ("data", &long)], "longer than"),
            (&[("channel", "a"), ("b64data", "*")], "b64data: "),
            (&[("channel", "a"), ("data", "1"), ("tags", "[]")], "tags: "),
            (&[("channel", "a"), ("data", "1"), ("tags", "{\"a\":1}")], "tags: "),
            (&[("channel", "a"), ("data", "1"), ("version", "-1")], "version: "),
            (&[("channel", "a"), ("data", "1"), ("delta", "yes")], "delta: "),
            (&[("channels", "a"), ("data", "1")], "channels: "),
        ] {
            let message = read(&record(fields), &ApiConfig::default()).unwrap_err();
            assert!(message.contains(why), "{why}: {message}");
        }
        let unread = FeedRecord { fields: Err(super::super::source::RecordError::Gone), ..record(&[]) };
        assert!(read(&unread, &ApiConfig::default()).is_err());
    }
}
