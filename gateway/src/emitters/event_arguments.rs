//! Converts the arguments of an event to JSON, straight from MessagePack or JSON, without an intermediate tree.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use shared::protocol::socketio::{ARGUMENTS_MAX, arguments_of_server, binary_fault};
use shared::publication::{JSON_DEPTH_MAX, Tagged};

/// The most binary values of one event: each is sent separately.
const BINARY_MAX: usize = 256;

/// An event's name, and its arguments as a JSON array.
#[derive(Debug, Default)]
pub(super) struct EventArguments {
    pub(super) event: String,
    json: Vec<u8>,
    /// JSON pointers to the texts that are binary values in base64.
    binary: Vec<String>,
}

impl EventArguments {
    pub(super) fn into_arguments(self) -> Result<(String, Tagged), String> {
        let unreadable = |error: serde_json::Error| error.to_string();
        let values: Vec<&RawValue> = serde_json::from_slice(&self.json).map_err(unreadable)?;
        match binary_fault(&values, &self.binary) {
            Some(fault) => Err(fault),
            None => Ok((self.event, arguments_of_server(&values, &self.binary))),
        }
    }
}

/// Reads the list that is a packet's data.
pub(super) struct ListOfArguments;

impl<'de> DeserializeSeed<'de> for ListOfArguments {
    type Value = EventArguments;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<EventArguments, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ListOfArguments {
    type Value = EventArguments;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list that begins with an event's name")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<EventArguments, A::Error> {
        let Some(event) = list.next_element_seed(ObjectKey)? else {
            return Err(A::Error::custom("an event without a name"));
        };
        let mut writer = Writer { json: vec![b'['], depth: 1, ..Writer::default() };
        let mut count = 0;
        while let Some(wrote) = writer.element(&mut list, count)? {
            if wrote == ValueWritten::Nothing {
                writer.json.extend_from_slice(b"null");
            }
            count += 1;
            if count > ARGUMENTS_MAX {
                return Err(A::Error::custom(format!("more than {ARGUMENTS_MAX} arguments")));
            }
        }
        writer.json.push(b']');
        Ok(EventArguments { event, json: writer.json, binary: writer.binary })
    }
}

/// Whether a value was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ValueWritten {
    Value,
    /// JavaScript's `undefined`: left out of an object, and null in a list.
    Nothing,
}

/// Writes values as JSON, and binary values as base64, with a list of their places.
#[derive(Debug, Default)]
struct Writer {
    json: Vec<u8>,
    pointer: String,
    binary: Vec<String>,
    depth: usize,
}

impl Writer {
    /// Writes the next element of a list, at this index. `None`: there is none.
    fn element<'de, A: SeqAccess<'de>>(
        &mut self,
        list: &mut A,
        index: usize,
    ) -> Result<Option<ValueWritten>, A::Error> {
        let (start, length) = (self.json.len(), self.pointer.len());
        if index > 0 {
            self.json.push(b',');
        }
        self.pointer.push('/');
        self.pointer.push_str(itoa::Buffer::new().format(index));
        let wrote = list.next_element_seed(&mut *self)?;
        self.pointer.truncate(length);
        if wrote.is_none() {
            self.json.truncate(start);
        }
        Ok(wrote)
    }

    fn text(&mut self, text: &str) {
        // Writing to a vector cannot fail, and every text can be written as JSON.
        let _ = serde_json::to_writer(&mut self.json, text);
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), String> {
        if self.binary.len() >= BINARY_MAX {
            return Err(format!("more than {BINARY_MAX} pieces of binary data"));
        }
        self.binary.push(self.pointer.clone());
        self.json.push(b'"');
        self.json.extend_from_slice(STANDARD.encode(bytes).as_bytes());
        self.json.push(b'"');
        Ok(())
    }

    fn deeper<E: Error>(&mut self) -> Result<(), E> {
        self.depth += 1;
        match self.depth > JSON_DEPTH_MAX {
            true => Err(E::custom(format!("nested deeper than {JSON_DEPTH_MAX}"))),
            false => Ok(()),
        }
    }

    /// Writes a value of a type that MessagePack has and JSON has not.
    fn extension(&mut self, tag: i8, data: &[u8]) -> Result<ValueWritten, String> {
        match (tag, data) {
            // Extensions of type 0 are those of notepack before its version 3.
            (0, [0]) => return Ok(ValueWritten::Nothing),
            // notepack's form of a date. Eight binary bytes look the same, but hardly ever begin with so small a number.
            (0, [0, 0, ..]) if data.len() == 8 => {
                let millis = data.iter().fold(0_i64, |sum, byte| (sum << 8) | i64::from(*byte));
                self.text(&iso_date(millis));
            }
            (0, _) => self.bytes(data)?,
            (-1, _) => {
                let millis = timestamp_millis(data).ok_or("a timestamp of no known length")?;
                self.text(&iso_date(millis));
            }
            _ => return Err(format!("an extension of MessagePack with the type {tag}")),
        }
        Ok(ValueWritten::Value)
    }
}

impl<'de> DeserializeSeed<'de> for &mut Writer {
    type Value = ValueWritten;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<ValueWritten, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Writer {
    type Value = ValueWritten;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<ValueWritten, E> {
        self.json.extend_from_slice(b"null");
        Ok(ValueWritten::Value)
    }

    fn visit_bool<E>(self, value: bool) -> Result<ValueWritten, E> {
        self.json.extend_from_slice(if value { b"true" } else { b"false" });
        Ok(ValueWritten::Value)
    }

    fn visit_i64<E>(self, value: i64) -> Result<ValueWritten, E> {
        self.json.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        Ok(ValueWritten::Value)
    }

    fn visit_u64<E>(self, value: u64) -> Result<ValueWritten, E> {
        self.json.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
        Ok(ValueWritten::Value)
    }

    fn visit_f64<E>(self, value: f64) -> Result<ValueWritten, E> {
        // JSON has no NaN and no infinity: they become null, as in JavaScript.
        let _ = serde_json::to_writer(&mut self.json, &value);
        Ok(ValueWritten::Value)
    }

    fn visit_str<E>(self, text: &str) -> Result<ValueWritten, E> {
        self.text(text);
        Ok(ValueWritten::Value)
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<ValueWritten, E> {
        self.bytes(bytes).map_err(E::custom)?;
        Ok(ValueWritten::Value)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<ValueWritten, D::Error> {
        let (tag, data) = deserializer.deserialize_any(Extension)?;
        self.extension(tag, &data).map_err(D::Error::custom)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<ValueWritten, A::Error> {
        self.deeper()?;
        self.json.push(b'[');
        let mut index = 0;
        while let Some(wrote) = self.element(&mut list, index)? {
            if wrote == ValueWritten::Nothing {
                self.json.extend_from_slice(b"null");
            }
            index += 1;
        }
        self.json.push(b']');
        self.depth -= 1;
        Ok(ValueWritten::Value)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ValueWritten, A::Error> {
        self.deeper()?;
        self.json.push(b'{');
        let mut is_first = true;
        while let Some(key) = map.next_key_seed(ObjectKey)? {
            let (start, length) = (self.json.len(), self.pointer.len());
            if !is_first {
                self.json.push(b',');
            }
            self.text(&key);
            self.json.push(b':');
            self.pointer.push('/');
            for letter in key.chars() {
                match letter {
                    '~' => self.pointer.push_str("~0"),
                    '/' => self.pointer.push_str("~1"),
                    _ => self.pointer.push(letter),
                }
            }
            match map.next_value_seed(&mut *self)? {
                ValueWritten::Value => is_first = false,
                ValueWritten::Nothing => self.json.truncate(start),
            }
            self.pointer.truncate(length);
        }
        self.json.push(b'}');
        self.depth -= 1;
        Ok(ValueWritten::Value)
    }
}

/// Reads a text, or a value that JavaScript converts to a text as a key.
pub(super) struct ObjectKey;

impl<'de> DeserializeSeed<'de> for ObjectKey {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for ObjectKey {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_u64<E>(self, value: u64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_i64<E>(self, value: i64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_f64<E>(self, value: f64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_bool<E>(self, value: bool) -> Result<String, E> {
        Ok(value.to_string())
    }
}

/// Reads the tag and the data of an extension.
struct Extension;

impl<'de> Visitor<'de> for Extension {
    type Value = (i8, Vec<u8>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an extension")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<(i8, Vec<u8>), A::Error> {
        let broken = || A::Error::custom("an extension in parts");
        let tag = parts.next_element::<i8>()?.ok_or_else(broken)?;
        let data = parts.next_element_seed(Data)?.ok_or_else(broken)?;
        Ok((tag, data))
    }
}

struct Data;

impl<'de> DeserializeSeed<'de> for Data {
    type Value = Vec<u8>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<u8>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Data {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }
}

/// Returns the timestamp of MessagePack in milliseconds since 1970, from any of its three lengths.
fn timestamp_millis(data: &[u8]) -> Option<i64> {
    let number = |bytes: &[u8]| bytes.iter().fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
    let (seconds, nanos) = match data.len() {
        4 => (i64::try_from(number(data)).ok()?, 0),
        8 => {
            let whole = number(data);
            (i64::try_from(whole & 0x3_ffff_ffff).ok()?, whole >> 34)
        }
        12 => (number(&data[4..]) as i64, number(&data[..4])),
        _ => return None,
    };
    seconds.checked_mul(1_000)?.checked_add(i64::try_from(nanos / 1_000_000).ok()?)
}

/// Formats a time like `Date.prototype.toISOString`.
fn iso_date(millis: i64) -> String {
    let (days, of_day) = (millis.div_euclid(86_400_000), millis.rem_euclid(86_400_000));
    // Computed in eras of 400 years that begin in March, so that a leap day comes last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let year = match year {
        0..=9_999 => format!("{year:04}"),
        year => format!("{year:+07}"),
    };
    let (seconds, millis) = (of_day / 1_000, of_day % 1_000);
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_javascript_writes_them() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_577_836_800_123, "2020-01-01T00:00:00.123Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (253_402_300_800_000, "+010000-01-01T00:00:00.000Z"),
            (-62_198_755_200_000, "-000001-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(iso_date(millis), text);
        }
    }

    #[test]
    fn timestamps_come_in_three_lengths() {
        let hex = |text: &str| -> Vec<u8> {
            (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
        };
        assert_eq!(timestamp_millis(&hex("5e0be100")), Some(1_577_836_800_000));
        assert_eq!(timestamp_millis(&hex("1d5353005e0be100")), Some(1_577_836_800_123));
        assert_eq!(timestamp_millis(&hex("00000000ffffffffffffffff")), Some(-1_000));
        assert_eq!(timestamp_millis(&hex("000000007fffffffffffffff")), None);
        assert_eq!(timestamp_millis(b"123"), None);
    }
}
