//! Patterns that match channels by the shape of their names: `/users/:id/orders`.

use std::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use shared::channel::CHANNEL_BYTES_MAX;

/// The separator with which patterns and the channels they match begin, and which stands between their segments.
pub const SEPARATOR: char = '/';

/// The shape of names. Of two patterns that match a channel the lesser is the narrower: it has a text where the other has a
/// variable, or a variable where the other has `*`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ChannelPattern(Box<[Segment]>);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Segment {
    /// This text.
    Text(Box<str>),
    /// `:name`: any text without a separator, but not the empty one.
    Variable(Box<str>),
    /// `*` at the end: any text, but not the empty one.
    Rest,
}

impl ChannelPattern {
    /// Parses a pattern. An empty text is no pattern: it matches nothing.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let Some(text) = text.strip_prefix(SEPARATOR).filter(|_| text.len() <= CHANNEL_BYTES_MAX) else {
            return Err("must begin with / and be no longer than a channel");
        };
        let last = text.split(SEPARATOR).count() - 1;
        let read = |(at, text): (usize, &str)| match (text, text.strip_prefix(':')) {
            ("", _) => Err("must not have an empty part between two / or at its end"),
            ("*", _) if at == last => Ok(Segment::Rest),
            (_, Some("")) => Err("has a variable without a name"),
            (_, Some(name)) if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') => {
                Ok(Segment::Variable(name.into()))
            }
            (_, Some(_)) => Err("has a variable whose name does not consist of letters, digits and _"),
            (text, None) if text.contains('*') => Err("can have a * only as its last part"),
            (text, None) => Ok(Segment::Text(text.into())),
        };
        Ok(Self(text.split(SEPARATOR).enumerate().map(read).collect::<Result<_, _>>()?))
    }

    pub fn is_none(&self) -> bool {
        self.0.is_empty()
    }

    pub fn describes(&self, name: &str) -> bool {
        let Some(mut rest) = name.strip_prefix(SEPARATOR).filter(|_| !self.is_none()) else { return false };
        for (at, segment) in self.0.iter().enumerate() {
            if *segment == Segment::Rest {
                return !rest.is_empty();
            }
            let (part, behind) =
                rest.split_once(SEPARATOR).map_or((rest, None), |(part, behind)| (part, Some(behind)));
            let fits = match segment {
                Segment::Text(text) => **text == *part,
                Segment::Variable(_) | Segment::Rest => !part.is_empty(),
            };
            match (fits, behind) {
                (true, Some(behind)) => rest = behind,
                (true, None) => return at + 1 == self.0.len(),
                (false, _) => return false,
            }
        }
        false
    }

    /// Whether this pattern matches the same channels as another one: the names of variables make no difference.
    pub fn is_like(&self, other: &Self) -> bool {
        let alike = |(one, other): (&Segment, &Segment)| match (one, other) {
            (Segment::Variable(_), Segment::Variable(_)) => true,
            (one, other) => one == other,
        };
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(alike)
    }
}

impl fmt::Display for ChannelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|segment| match segment {
            Segment::Text(text) => write!(f, "/{text}"),
            Segment::Variable(name) => write!(f, "/:{name}"),
            Segment::Rest => f.write_str("/*"),
        })
    }
}

impl fmt::Debug for ChannelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl Serialize for ChannelPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ChannelPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(|problem| D::Error::custom(format_args!("\"{text}\" {problem}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> ChannelPattern {
        ChannelPattern::parse(text).unwrap()
    }

    #[test]
    fn a_pattern_describes_all_of_a_name() {
        for (text, name, expected) in [
            ("/users/:id", "/users/42", true),
            ("/users/:id", "/users/", false),
            ("/users/:id", "/users", false),
            ("/users/:id", "/users/42/orders", false),
            ("/users/:id", "users/42", false),
            ("/users/:id/orders", "/users/42/orders", true),
            ("/users/*", "/users/42/orders", true),
            ("/users/*", "/users/", false),
            ("/*", "/anything", true),
            ("/news", "/news", true),
            ("/news", "/newsy", false),
            ("", "", false),
            ("", "/", false),
        ] {
            assert_eq!(pattern(text).describes(name), expected, "{text} {name}");
            assert_eq!(pattern(text).to_string(), text);
        }
    }

    #[test]
    fn the_narrower_pattern_is_the_lesser() {
        let mut patterns = ["/*", "/:a/:b", "/:a/*", "/users/*", "/users/me", "/users/:id"].map(pattern);
        patterns.sort();
        let sorted: Vec<String> = patterns.iter().map(ToString::to_string).collect();
        assert_eq!(sorted, ["/users/me", "/users/:id", "/users/*", "/:a/:b", "/:a/*", "/*"]);
    }

    #[test]
    fn patterns_that_mean_nothing_are_refused() {
        for bad in ["users", "/", "//", "/a/", "/a//b", "/:", "/:a b", "/*/a", "/a*", &"/a".repeat(200)] {
            assert!(ChannelPattern::parse(bad).is_err(), "{bad}");
        }
        assert!(pattern("/a/:b").is_like(&pattern("/a/:c")) && !pattern("/a/:b").is_like(&pattern("/a/b")));
    }
}
