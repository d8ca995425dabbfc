//! A rule for the names of channels, as a regular expression.

use std::fmt;

use regex_lite::{Regex, RegexBuilder};
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest expression, in bytes.
const EXPRESSION_BYTES_MAX: usize = 1_024;

/// The most memory that a compiled expression may take, in bytes. This also bounds how long a match takes.
const COMPILED_BYTES_MAX: usize = 64 << 10;

/// How deep groups may be nested.
const NESTING_MAX: u32 = 32;

/// Which names are admitted: all of them if the rule is empty. A match takes time proportional to the length of the name.
#[derive(Clone, Default)]
pub struct NameRule {
    text: Box<str>,
    compiled: Option<Regex>,
}

impl NameRule {
    /// Parses an expression. An empty text is no rule.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        if text.len() > EXPRESSION_BYTES_MAX {
            return Err(format!("is {} bytes long, must be at most {EXPRESSION_BYTES_MAX}", text.len()));
        }
        let compiled = RegexBuilder::new(text)
            .size_limit(COMPILED_BYTES_MAX)
            .nest_limit(NESTING_MAX)
            .build()
            .map_err(|error| format!("is not a regular expression: {error}"))?;
        Ok(Self { text: text.into(), compiled: Some(compiled) })
    }

    pub fn admits(&self, name: &str) -> bool {
        self.compiled.as_ref().is_none_or(|compiled| compiled.is_match(name))
    }
}

// The compiled expression follows from the text.
impl PartialEq for NameRule {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for NameRule {}

impl fmt::Debug for NameRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

impl Serialize for NameRule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for NameRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_admitted_if_the_expression_finds_something_in_it() {
        let rule = NameRule::parse("^[a-z]+$").unwrap();
        assert!(rule.admits("abc") && !rule.admits("ABC") && !rule.admits(""));
        assert!(NameRule::parse("b").unwrap().admits("abc"), "it need not be all of the name");
        assert!(NameRule::parse("").unwrap().admits("anything"));
    }

    #[test]
    fn what_is_no_expression_or_takes_too_much_is_refused_in_words() {
        assert!(NameRule::parse("[a-").unwrap_err().starts_with("is not a regular expression: "));
        assert!(NameRule::parse(&"a".repeat(2_000)).unwrap_err().contains("at most 1024"));
        for greedy in ["a{9999999}", "((a{100}){100}){100}", &"(".repeat(500)] {
            assert!(NameRule::parse(greedy).is_err(), "{greedy}");
        }
    }
}
