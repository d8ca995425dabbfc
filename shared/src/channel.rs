//! A channel: the name that publications are sent to and subscriptions are made for.

use std::borrow::Borrow;
use std::fmt;

use arcstr::ArcStr;

/// Longest channel name any configuration can allow, in bytes. The configured limit is at most this.
pub const CHANNEL_BYTES_MAX: usize = 255;

/// A valid channel name. Cloning shares the bytes. It is one pointer wide, as the length is stored with the bytes: a
/// node holds about five of them for each subscription.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(ArcStr);

const _: () = assert!(size_of::<Option<Channel>>() == 8, "tables of them are what channels cost");

/// Why a text is not a channel name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidChannel {
    #[error("the channel name is empty")]
    Empty,
    #[error("the channel name is longer than {max} bytes")]
    TooLong { max: usize },
    #[error("the channel name holds something other than printable ASCII")]
    NotPrintableAscii,
    #[error("the channel name holds a control character or a line break")]
    Control,
}

impl Channel {
    /// Accepts a name of 1 to `bytes_max` printable ASCII bytes (0x21 to 0x7e, so no spaces).
    pub fn parse(name: &str, bytes_max: usize) -> Result<Self, InvalidChannel> {
        Self::check_length(name, bytes_max)?;
        if !name.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidChannel::NotPrintableAscii);
        }
        Ok(Self(name.into()))
    }

    /// Accepts a name of 1 to `bytes_max` bytes of any text without control characters and line breaks. Names are
    /// compared byte by byte: two Unicode encodings of the same letters are two channels.
    pub fn parse_unicode(name: &str, bytes_max: usize) -> Result<Self, InvalidChannel> {
        Self::check_length(name, bytes_max)?;
        let breaks_lines = |char: char| char.is_control() || matches!(char, '\u{2028}' | '\u{2029}');
        if name.chars().any(breaks_lines) {
            return Err(InvalidChannel::Control);
        }
        Ok(Self(name.into()))
    }

    fn check_length(name: &str, bytes_max: usize) -> Result<(), InvalidChannel> {
        if name.is_empty() {
            return Err(InvalidChannel::Empty);
        }
        let max = bytes_max.min(CHANNEL_BYTES_MAX);
        if name.len() > max { Err(InvalidChannel::TooLong { max }) } else { Ok(()) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Channel {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Channel({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_printable_ascii() {
        assert_eq!(Channel::parse("", 255), Err(InvalidChannel::Empty));
        assert_eq!(Channel::parse(&"x".repeat(256), 1000), Err(InvalidChannel::TooLong { max: 255 }));
        assert_eq!(Channel::parse("abcd", 3), Err(InvalidChannel::TooLong { max: 3 }));
        for name in ["a b", "a\n", "é", "a\u{0}"] {
            assert_eq!(Channel::parse(name, 255), Err(InvalidChannel::NotPrintableAscii), "{name:?}");
        }
    }
    #[test]
    fn any_text_can_be_a_name_where_that_is_set_but_for_what_breaks_a_line() {
        for name in ["a b", "é", "цены: нефть", "🙂", "prices:\u{feff}"] {
            assert_eq!(Channel::parse_unicode(name, 255).unwrap().as_str(), name);
        }
        for name in ["a\nb", "\u{0}", "a\u{7f}", "\u{85}", "é\u{2028}", "é\t"] {
            assert_eq!(Channel::parse_unicode(name, 255), Err(InvalidChannel::Control), "{name:?}");
        }
        assert_eq!(Channel::parse_unicode("", 255), Err(InvalidChannel::Empty));
        assert_eq!(
            Channel::parse_unicode("éé", 3),
            Err(InvalidChannel::TooLong { max: 3 }),
            "bytes, not letters"
        );
    }
}
