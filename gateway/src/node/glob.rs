//! Patterns of channel names: `*` matches any text, `?` any character, `[a-z]` and `[!a-z]` one of a set, `{a,b}` one of
//! several patterns; `\` escapes the next character.

/// The longest pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 255;
/// The most patterns that the alternatives of one pattern expand to.
const ALTERNATIVES_MAX: usize = 64;

/// A parsed pattern. For each alternative, matching takes time of at most the product of both lengths.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Glob(Vec<Vec<GlobPart>>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum GlobPart {
    Any,
    One,
    Of { not: bool, ranges: Vec<(char, char)> },
    Exactly(char),
}

/// Why a pattern is invalid.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum InvalidGlob {
    #[error("it is longer than {PATTERN_BYTES_MAX} bytes")]
    TooLong,
    #[error("its braces stand for more than {ALTERNATIVES_MAX} patterns")]
    TooMany,
    #[error("it has an unmatched bracket or brace")]
    Unbalanced,
    #[error("it ends with a backslash")]
    Unfinished,
}

impl Glob {
    /// Parses a pattern. The empty pattern matches every name.
    pub fn parse(pattern: &str) -> Result<Self, InvalidGlob> {
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(InvalidGlob::TooLong);
        }
        if pattern.is_empty() {
            return Ok(Self(vec![vec![GlobPart::Any]]));
        }
        let mut rest = pattern.chars().collect::<Vec<_>>().into_iter().peekable();
        let patterns = read_sequence(&mut rest, false)?;
        if rest.next().is_some() {
            return Err(InvalidGlob::Unbalanced);
        }
        Ok(Self(patterns))
    }

    /// Returns the one name that the pattern matches, if it matches exactly one.
    pub fn literal(&self) -> Option<String> {
        let [parts] = &self.0[..] else { return None };
        let exactly = |part: &GlobPart| if let GlobPart::Exactly(char) = part { Some(*char) } else { None };
        parts.iter().map(exactly).collect()
    }

    pub fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        self.0.iter().any(|parts| fits(parts, &name))
    }
}

type GlobChars = std::iter::Peekable<std::vec::IntoIter<char>>;

/// Reads a sequence and returns the patterns it expands to. `inner`: the sequence ends before a comma or a closing brace.
fn read_sequence(rest: &mut GlobChars, inner: bool) -> Result<Vec<Vec<GlobPart>>, InvalidGlob> {
    let mut so_far: Vec<Vec<GlobPart>> = vec![Vec::new()];
    while let Some(&next) = rest.peek() {
        if inner && (next == ',' || next == '}') {
            break;
        }
        rest.next();
        let part = match next {
            '*' => GlobPart::Any,
            '?' => GlobPart::One,
            '[' => read_set(rest)?,
            '{' => {
                so_far = read_alternatives(rest, &so_far)?;
                continue;
            }
            '}' | ']' => return Err(InvalidGlob::Unbalanced),
            '\\' => GlobPart::Exactly(rest.next().ok_or(InvalidGlob::Unfinished)?),
            other => GlobPart::Exactly(other),
        };
        for pattern in &mut so_far {
            // Several `*` in a row are one.
            if part != GlobPart::Any || pattern.last() != Some(&GlobPart::Any) {
                pattern.push(part.clone());
            }
        }
    }
    Ok(so_far)
}

/// Reads what follows an opening brace: every pattern so far is continued with each of the alternatives.
fn read_alternatives(
    rest: &mut GlobChars,
    so_far: &[Vec<GlobPart>],
) -> Result<Vec<Vec<GlobPart>>, InvalidGlob> {
    let mut all = Vec::new();
    loop {
        let alternatives = read_sequence(rest, true)?;
        for before in so_far {
            for alternative in &alternatives {
                all.push(before.iter().chain(alternative).cloned().collect());
                if all.len() > ALTERNATIVES_MAX {
                    return Err(InvalidGlob::TooMany);
                }
            }
        }
        match rest.next() {
            Some(',') => {}
            Some('}') => return Ok(all),
            _ => return Err(InvalidGlob::Unbalanced),
        }
    }
}

fn read_set(rest: &mut GlobChars) -> Result<GlobPart, InvalidGlob> {
    let not = rest.next_if(|&first| first == '!' || first == '^').is_some();
    let mut ranges = Vec::new();
    loop {
        let first = match rest.next().ok_or(InvalidGlob::Unbalanced)? {
            ']' if !ranges.is_empty() => return Ok(GlobPart::Of { not, ranges }),
            '\\' => rest.next().ok_or(InvalidGlob::Unfinished)?,
            other => other,
        };
        let mut last = first;
        if rest.peek() == Some(&'-') {
            rest.next();
            match rest.peek() {
                // A hyphen before the closing bracket is literal.
                Some(']') | None => ranges.push(('-', '-')),
                Some(&other) => {
                    rest.next();
                    last = other;
                }
            }
        }
        ranges.push((first, last));
    }
}

/// Tries the shortest text for the last `*` first; backtracking to earlier ones is never needed.
fn fits(parts: &[GlobPart], name: &[char]) -> bool {
    let (mut part, mut at) = (0, 0);
    let mut last_any: Option<(usize, usize)> = None;
    while at < name.len() {
        match parts.get(part) {
            Some(GlobPart::Any) => {
                last_any = Some((part, at));
                part += 1;
            }
            Some(wanted) if is_one(wanted, name[at]) => {
                part += 1;
                at += 1;
            }
            _ => match &mut last_any {
                Some((any, taken)) => {
                    *taken += 1;
                    part = *any + 1;
                    at = *taken;
                }
                None => return false,
            },
        }
    }
    parts[part..].iter().all(|part| *part == GlobPart::Any)
}

fn is_one(part: &GlobPart, character: char) -> bool {
    match part {
        GlobPart::One => true,
        GlobPart::Exactly(wanted) => *wanted == character,
        GlobPart::Of { not, ranges } => {
            ranges.iter().any(|(first, last)| (*first..=*last).contains(&character)) != *not
        }
        GlobPart::Any => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pattern_of_plain_characters_is_for_one_name() {
        let literal = |pattern| Glob::parse(pattern).unwrap().literal();
        assert_eq!(literal("shop:news").as_deref(), Some("shop:news"));
        assert_eq!(literal(r"a\*").as_deref(), Some("a*"));
        for pattern in ["", "a*", "a?", "[a]", "{a,b}"] {
            assert_eq!(literal(pattern), None, "{pattern}");
        }
    }

    #[test]
    fn a_pattern_fits_what_it_says() {
        for (pattern, fitting, others) in [
            ("", &["a", "x:y"][..], &[][..]),
            ("*", &["a", ""], &[]),
            ("news", &["news"], &["new", "news2", "News"]),
            ("prices:*", &["prices:", "prices:AAPL"], &["price:AAPL", "xprices:a"]),
            ("*:a*b", &["x:ab", "x:aab", "x:a:b"], &["x:a", "ab"]),
            ("a?c", &["abc", "aéc"], &["ac", "abbc"]),
            ("[a-c]x[!0-9]", &["axz", "cx-"], &["dxz", "ax1"]),
            ("[]a-]", &["]", "a", "-"], &["b"]),
            ("{a,b{1,2},}:x", &["a:x", "b1:x", "b2:x", ":x"], &["b:x", "a"]),
            (r"a\*b\{", &["a*b{"], &["axb{"]),
            ("a,b", &["a,b"], &["a"]),
        ] {
            let glob = Glob::parse(pattern).unwrap();
            for name in fitting {
                assert!(glob.matches(name), "{pattern} fits {name}");
            }
            for name in others {
                assert!(!glob.matches(name), "{pattern} does not fit {name}");
            }
        }
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for (pattern, why) in [
            ("[a", InvalidGlob::Unbalanced),
            ("{a,b", InvalidGlob::Unbalanced),
            ("a}", InvalidGlob::Unbalanced),
            ("a]", InvalidGlob::Unbalanced),
            ("a\\", InvalidGlob::Unfinished),
            (&"{a,b}".repeat(7), InvalidGlob::TooMany),
            (&"a".repeat(256), InvalidGlob::TooLong),
        ] {
            assert_eq!(Glob::parse(pattern), Err(why), "{pattern}");
        }
    }

    proptest! {
        #[test]
        fn any_pattern_is_read_or_refused_and_any_name_matched(pattern in "[a*?\\[\\]{},\\\\!-]{0,40}", name in "[a-c:]{0,60}") {
            if let Ok(glob) = Glob::parse(&pattern) {
                glob.matches(&name);
            }
        }
    }
}
