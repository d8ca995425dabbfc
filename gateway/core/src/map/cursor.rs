//! A cursor: where a page of a channel's state ends, as a text that clients send back.

/// The last key of a page, with its score where keys are ordered by that.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cursor {
    pub score: i64,
    pub key: Box<str>,
}

impl Cursor {
    /// Parses a cursor. Any text is valid: the page begins behind whatever it names.
    pub fn parse(text: &str, ordered: bool) -> Self {
        let (score, key) = match text.split_once(':').filter(|_| ordered) {
            Some((score, key)) => (score.parse().unwrap_or_default(), key),
            None => (0, text),
        };
        Self { score, key: key.into() }
    }

    pub fn write(score: i64, key: &str, ordered: bool) -> Box<str> {
        if ordered { format!("{score}:{key}").into() } else { key.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_whatever_the_key_is() {
        for (score, key) in [(0, "a"), (-7, "a:b"), (i64::MAX, "7:"), (i64::MIN, " ")] {
            let text = Cursor::write(score, key, true);
            assert_eq!(Cursor::parse(&text, true), Cursor { score, key: key.into() });
            assert_eq!(&*Cursor::parse(&Cursor::write(score, key, false), false).key, key);
        }
        assert_eq!(Cursor::parse("x", true), Cursor { score: 0, key: "x".into() });
    }
}
