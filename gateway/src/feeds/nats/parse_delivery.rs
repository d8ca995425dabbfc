//! Parses a delivered message into a record.

use std::borrow::Cow;
use std::collections::HashMap;

use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use serde_json::value::RawValue;

use super::nats_feed_config::Format;
use crate::feeds::source::{FeedRecord, FieldKey, RecordError, RecordFields};

/// A delivered message.
#[derive(Debug)]
pub(super) struct ReceivedMessage {
    pub(super) sequence: u64,
    /// The number of this delivery among those of the consumer.
    pub(super) delivery: u64,
    /// When the message was stored, in nanoseconds since 1970.
    stored: u64,
    pub(super) subject: String,
    /// The subject at which the message is acknowledged.
    pub(super) reply: String,
    pub(super) headers: Option<HeaderMap>,
    pub(super) payload: Bytes,
}

impl ReceivedMessage {
    /// Parses a message. Its place is in the subject of the acknowledgement, which newer servers begin with two more
    /// tokens: `$JS.ACK.stream.consumer.deliveries.sequence.of consumer.nanoseconds…`.
    pub(super) fn read(message: Message) -> Result<Self, String> {
        let reply = message.reply.map(|reply| reply.to_string()).unwrap_or_default();
        let tokens: Vec<&str> = reply.split('.').collect();
        let at = if tokens.len() >= 11 { 7 } else { 5 };
        let number = |at: usize| tokens.get(at).and_then(|token| token.parse().ok());
        let (Some(sequence), Some(delivery), Some(stored)) = (number(at), number(at + 1), number(at + 2))
        else {
            return Err("a message has no position in the stream".to_owned());
        };
        let (subject, headers, payload) = (message.subject.to_string(), message.headers, message.payload);
        Ok(Self { sequence, delivery, stored, subject, reply, headers, payload })
    }

    /// Returns the position. A recreated stream counts from one again, and a restored backup assigns sequences twice,
    /// so the position includes the time.
    pub(super) fn position(&self) -> Box<str> {
        format!("{}-{}", self.sequence, self.stored).into()
    }

    /// Returns the approximate size with headers, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let headers = self.headers.iter().flat_map(HeaderMap::iter);
        let length = |(name, values): (&async_nats::HeaderName, &Vec<async_nats::HeaderValue>)| {
            let name: &str = name.as_ref();
            values.iter().map(|value| name.len() + value.as_str().len()).sum::<usize>()
        };
        self.payload.len() + headers.map(length).sum::<usize>()
    }

    pub(super) fn record(
        &self,
        words: &[(FieldKey, String)],
        format: Format,
        bytes_max: usize,
    ) -> FeedRecord {
        let bytes = self.bytes();
        let fields = if bytes > bytes_max {
            Err(RecordError::TooLong { bytes: bytes as u64, max: bytes_max })
        } else {
            match format {
                Format::Json => self.members(words),
                Format::Headers => Ok(self.fields(words)),
            }
        };
        FeedRecord { position: self.position(), fields }
    }

    /// Returns the members of an object: texts are unescaped, other values stay as written. Data always stays as written.
    fn members(&self, words: &[(FieldKey, String)]) -> Result<RecordFields, RecordError> {
        let members: HashMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(&self.payload)
            .map_err(|error| RecordError::NoObject(error.to_string()))?;
        let mut fields = RecordFields::default();
        for (word, name) in words {
            let Some(value) = members.get(&**name) else { continue };
            let written = value.get();
            if written == "null" && *word != FieldKey::Data {
                continue;
            }
            let text = (*word != FieldKey::Data && written.starts_with('"'))
                .then(|| serde_json::from_str::<String>(written))
                .transpose()
                .map_err(|error| RecordError::NoObject(error.to_string()))?;
            fields.set(*word, text.map_or_else(|| Bytes::copy_from_slice(written.as_bytes()), Bytes::from));
        }
        Ok(fields)
    }

    /// Returns the fields from the headers, with the body as the data.
    fn fields(&self, words: &[(FieldKey, String)]) -> RecordFields {
        let mut fields = RecordFields::default();
        for (word, name) in words {
            let value = self.headers.as_ref().and_then(|headers| headers.get_last(&**name));
            if let Some(value) = value {
                fields.set(*word, Bytes::copy_from_slice(value.as_str().as_bytes()));
            }
        }
        if fields.get(FieldKey::Data).is_none() && fields.get(FieldKey::B64data).is_none() {
            fields.set(FieldKey::Data, self.payload.clone());
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(payload: &'static str, headers: &[(&'static str, &str)]) -> ReceivedMessage {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        let payload = Bytes::from_static(payload.as_bytes());
        ReceivedMessage {
            sequence: 7,
            delivery: 1,
            stored: 9,
            subject: "s".into(),
            reply: String::new(),
            headers: Some(map),
            payload,
        }
    }

    fn words() -> Vec<(FieldKey, String)> {
        [FieldKey::Channel, FieldKey::Data, FieldKey::Tags, FieldKey::Version]
            .map(|word| (word, word.name().to_owned()))
            .into()
    }

    fn text(fields: &RecordFields, word: FieldKey) -> Option<String> {
        fields.get(word).map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn members_of_an_object_are_fields_and_data_is_as_it_was_written() {
        let message = received(
            r#"{"channel":"a\u0062", "data": "te\u0078t", "tags":{"x":"y"}, "version": 7, "other": [1]}"#,
            &[],
        );
        let fields = message.record(&words(), Format::Json, 1_000).fields.unwrap();
        assert_eq!(text(&fields, FieldKey::Channel).as_deref(), Some("ab"));
        assert_eq!(text(&fields, FieldKey::Data).as_deref(), Some(r#""te\u0078t""#));
        assert_eq!(text(&fields, FieldKey::Tags).as_deref(), Some(r#"{"x":"y"}"#));
        assert_eq!(text(&fields, FieldKey::Version).as_deref(), Some("7"));
        for bad in ["", "[1]", "x"] {
            let fields = received(bad, &[]).record(&words(), Format::Json, 1_000).fields;
            assert!(matches!(fields, Err(RecordError::NoObject(_))), "{bad}");
        }
    }

    #[test]
    fn headers_are_fields_and_the_body_is_the_data() {
        let message = received("[1]", &[("channel", "a"), ("version", "3")]);
        let fields = message.record(&words(), Format::Headers, 1_000).fields.unwrap();
        let told =
            [FieldKey::Channel, FieldKey::Data, FieldKey::Version].map(|word| text(&fields, word).unwrap());
        assert_eq!(told, ["a", "[1]", "3"]);
    }

    #[test]
    fn what_is_too_long_is_not_read() {
        let message = received("{\"data\":1}", &[("channel", "a")]);
        assert!(matches!(
            message.record(&words(), Format::Json, 17).fields,
            Err(RecordError::TooLong { bytes: 18, max: 17 })
        ));
    }
}
