//! Reads a tree of values into a type, and finds every invalid value, not only the first.
//!
//! serde stops at the first invalid value. That value is noted and removed from the tree, and the whole is read again:
//! the removed value has its default then, and the next invalid one is found.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Unexpected, Visitor};

use super::mistake::Mistake;
use super::tree::{ConfigNode, ValueKind, ValueOrigin};
use crate::setting::trimmed;

/// Reads the valid values and notes the invalid ones. Ends because each round removes a value from the tree.
pub(super) fn read<T: DeserializeOwned + Default>(mut tree: ConfigNode, mistakes: &mut Vec<Mistake>) -> T {
    loop {
        let fault = match T::deserialize(Reader(&tree)) {
            Ok(value) => return value,
            Err(fault) => fault,
        };
        let path: Vec<String> = fault.path.into_iter().rev().collect();
        let source = tree.find(&path).and_then(|node| node.source_of(&path));
        mistakes.push(Mistake { path: path.join("."), problem: fault.problem, source });
        if !tree.prune(&path) {
            return T::default();
        }
    }
}

/// Why a value is invalid, and its path, innermost step first.
#[derive(Debug)]
struct ValueError {
    path: Vec<String>,
    problem: String,
}

impl ValueError {
    fn under(mut self, step: &str) -> Self {
        self.path.push(step.to_owned());
        self
    }
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)
    }
}

impl std::error::Error for ValueError {}

impl de::Error for ValueError {
    fn custom<T: fmt::Display>(problem: T) -> Self {
        Self { path: Vec::new(), problem: problem.to_string() }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(unknown("key".to_owned(), field, expected))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(unknown(format!("value \"{variant}\""), variant, expected))
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(format_args!("is {}, must be {}", found_in_words(&found), describe(expected)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::custom(format_args!("is {}, must be {}", found_in_words(&found), describe(expected)))
    }
}

/// Replaces names of Rust types, which mean nothing to an operator.
fn describe(expected: &dyn de::Expected) -> String {
    match expected.to_string().as_str() {
        "u8" => "a whole number from 0 to 255".to_owned(),
        "u16" => "a whole number from 0 to 65535".to_owned(),
        "u32" => format!("a whole number from 0 to {}", u32::MAX),
        "u64" | "usize" => "a whole number of at least 0".to_owned(),
        "i8" | "i16" | "i32" | "i64" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" => "text".to_owned(),
        "a sequence" => "a list".to_owned(),
        words if words.starts_with("struct ") || words == "a map" => "a section with keys".to_owned(),
        words => words.to_owned(),
    }
}

fn found_in_words(found: &Unexpected<'_>) -> String {
    match found {
        Unexpected::Str(text) => format!("the text \"{text}\""),
        Unexpected::Unsigned(number) => number.to_string(),
        Unexpected::Signed(number) => number.to_string(),
        Unexpected::Float(number) => number.to_string(),
        Unexpected::Bool(value) => value.to_string(),
        Unexpected::Map => "a section".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        other => other.to_string(),
    }
}

fn unknown(what: String, given: &str, expected: &'static [&'static str]) -> String {
    let near = expected
        .iter()
        .map(|known| (distance(given, known), known))
        .filter(|(distance, known)| *distance <= 1 + known.len() / 4)
        .min();
    match near {
        Some((_, known)) => format!("unknown {what}: did you mean `{known}`?"),
        None if expected.is_empty() => format!("unknown {what}"),
        None => format!("unknown {what}: must be one of {}", expected.join(", ")),
    }
}

/// Returns how many letters must be added, dropped, changed or swapped with their neighbour to turn `b` into `a`.
pub(super) fn distance(a: &str, b: &str) -> usize {
    // Keys are short: a long unknown key resembles no known one.
    const LETTERS_MAX: usize = 64;
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len() > LETTERS_MAX || b.len() > LETTERS_MAX {
        return usize::MAX;
    }
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = changed.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

/// A value of the tree, as serde reads it.
#[derive(Clone, Copy)]
struct Reader<'a>(&'a ConfigNode);

impl Reader<'_> {
    /// Reads a text that may represent another type. In variables and flags everything is text, and a value copied from
    /// there into a file is in quotes: all are read alike.
    fn text(&self) -> Option<&str> {
        match &self.0.kind {
            ValueKind::Text(text) => Some(trimmed(text)),
            _ => None,
        }
    }

    /// The same where a list is expected, or nothing at all. TOML has its own syntax for these.
    fn loose_text(&self) -> Option<&str> {
        self.text().filter(|_| !matches!(self.0.origin, ValueOrigin::File(_)))
    }
}

/// Implements serde's number types: text is parsed, and any other value must be a number already.
macro_rules! numbers {
    ($($method:ident $visit:ident $parsed:ty;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
            match self.text().map(str::parse::<$parsed>) {
                Some(Ok(number)) => visitor.$visit(number),
                Some(Err(_)) | None => self.deserialize_any(visitor),
            }
        })*
    };
}

impl<'de> de::Deserializer<'de> for Reader<'_> {
    type Error = ValueError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        match &self.0.kind {
            ValueKind::Nothing => visitor.visit_unit(),
            ValueKind::Bool(value) => visitor.visit_bool(*value),
            ValueKind::Whole(value) => match u64::try_from(*value) {
                Ok(value) => visitor.visit_u64(value),
                Err(_) => visitor.visit_i64(*value),
            },
            ValueKind::Float(value) => visitor.visit_f64(*value),
            ValueKind::Text(text) => visitor.visit_str(trimmed(text)),
            ValueKind::List(elements) => visitor.visit_seq(Elements(elements.iter())),
            ValueKind::Table(entries) => {
                visitor.visit_map(Entries { entries: entries.iter(), current: None })
            }
        }
    }

    numbers! {
        deserialize_i8 visit_i64 i64;
        deserialize_i16 visit_i64 i64;
        deserialize_i32 visit_i64 i64;
        deserialize_i64 visit_i64 i64;
        deserialize_u8 visit_u64 u64;
        deserialize_u16 visit_u64 u64;
        deserialize_u32 visit_u64 u64;
        deserialize_u64 visit_u64 u64;
        deserialize_f32 visit_f64 f64;
        deserialize_f64 visit_f64 f64;
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        match self.text().map(str::to_ascii_lowercase).as_deref() {
            Some("true" | "1" | "yes" | "on") => visitor.visit_bool(true),
            Some("false" | "0" | "no" | "off") => visitor.visit_bool(false),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        match (&self.0.kind, self.loose_text()) {
            (ValueKind::Nothing, _) | (_, Some("")) => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        let Some(text) = self.loose_text() else { return self.deserialize_any(visitor) };
        let elements: Vec<(usize, ConfigNode)> = text
            .split(',')
            .map(trimmed)
            .filter(|element| !element.is_empty())
            .map(|element| ConfigNode {
                origin: self.0.origin.clone(),
                kind: ValueKind::Text(element.to_owned()),
            })
            .enumerate()
            .collect();
        // These elements are not in the tree, so a mistake in one is a mistake in the whole text.
        visitor.visit_seq(Elements(elements.iter())).map_err(|fault| ValueError { path: Vec::new(), ..fault })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        match &self.0.kind {
            ValueKind::Text(text) => {
                let deserializer: StrDeserializer<'_, ValueError> = trimmed(text).into_deserializer();
                de::Deserializer::deserialize_enum(deserializer, name, variants, visitor)
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ValueError> {
        visitor.visit_unit()
    }

    /// Refuses lists: serde would read their elements as the fields in order, and an empty list as an empty section.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ValueError> {
        match &self.0.kind {
            ValueKind::List(_) => Err(de::Error::invalid_type(Unexpected::Seq, &visitor)),
            _ => self.deserialize_any(visitor),
        }
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct tuple tuple_struct map identifier
    }
}

struct Elements<'a>(std::slice::Iter<'a, (usize, ConfigNode)>);

impl<'de> de::SeqAccess<'de> for Elements<'_> {
    type Error = ValueError;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, ValueError> {
        let Some((index, element)) = self.0.next() else { return Ok(None) };
        seed.deserialize(Reader(element)).map(Some).map_err(|fault| fault.under(&index.to_string()))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.0.len())
    }
}

struct Entries<'a> {
    entries: std::collections::btree_map::Iter<'a, String, ConfigNode>,
    current: Option<(&'a String, &'a ConfigNode)>,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = ValueError;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, ValueError> {
        self.current = self.entries.next();
        let Some((key, _)) = self.current else { return Ok(None) };
        let deserializer: StrDeserializer<'_, ValueError> = key.as_str().into_deserializer();
        seed.deserialize(deserializer).map(Some).map_err(|fault| fault.under(key))
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, ValueError> {
        let Some((key, value)) = self.current else {
            return Err(de::Error::custom("a value was asked for before its key"));
        };
        seed.deserialize(Reader(value)).map_err(|fault| fault.under(key))
    }
}
