//! Checks of settings that several parts share: which values cannot work, and why.

use std::fmt::Display;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;

use serde::de::{Deserialize, Deserializer, Error};

/// The longest path, in bytes.
const PATH_BYTES_MAX: usize = 255;
/// Reserved first segments of a path: the gateway uses them, or may do so one day.
const TAKEN: [&str; 6] = ["api", "app", "apps", "connection", "emulation", "raw"];

/// Removes what editors, shells and files leave around a text: white space, line breaks, a byte order mark.
pub fn trimmed(text: &str) -> &str {
    text.trim_matches(|character: char| character.is_whitespace() || character == '\u{feff}')
}

/// Parses an address and port to listen on.
pub fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let text = trimmed(text);
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let port = |text: &str| text.parse::<u16>().ok();
    if let Some(port) = text.strip_prefix("localhost:").and_then(port) {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    // Other programs take a port alone for every address. Nobody should get that by leaving something out.
    Err(match port(text.strip_prefix(':').or_else(|| text.strip_prefix("*:")).unwrap_or(text)) {
        Some(port) => format!(
            "is \"{text}\", which has no address: use 127.0.0.1:{port} to accept connections from this machine only, \
             0.0.0.0:{port} or [::]:{port} to accept them from everywhere"
        ),
        None => format!(
            "is \"{text}\", must be an address of this machine and a port, such as 127.0.0.1:8000, [::1]:8000 or localhost:8000"
        ),
    })
}

/// Deserializes an address, for the field of a section.
pub fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    parse_address(&String::deserialize(deserializer)?).map_err(D::Error::custom)
}

/// The same for an optional address.
pub fn address_if_any<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    parse_address(&text).map(Some).map_err(D::Error::custom)
}

/// Checks a path. Paths are compared with those of requests byte by byte, so characters that clients would encode are refused.
pub(crate) fn check_path(path: &str) -> Result<(), String> {
    let Some(rest) = path.strip_prefix('/') else { return Err("must begin with /".to_owned()) };
    if path.len() > PATH_BYTES_MAX {
        return Err(format!("is longer than {PATH_BYTES_MAX} bytes"));
    }
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/:@!$&'()*+,;=".contains(&byte);
    if !path.bytes().all(is_plain) {
        return Err("must consist of letters, digits and -._~/:@!$&'()*+,;=".to_owned());
    }
    if rest.split('/').any(|part| part == "." || part == "..") {
        return Err("must not have a part . or .., which clients remove".to_owned());
    }
    let first = rest.split('/').next().unwrap_or_default();
    if TAKEN.contains(&first) {
        return Err(format!("must not begin with /{first}, which is reserved"));
    }
    Ok(())
}

/// The mistakes in the settings of one section. A part adds to it without knowing where its section stands.
#[derive(Debug, Default)]
pub struct Faults(Vec<(String, String)>);

impl Faults {
    /// Adds a mistake. The problem is read after `section.key: `.
    pub fn add(&mut self, key: impl Into<String>, problem: impl Into<String>) {
        self.0.push((key.into(), problem.into()));
    }

    /// Adds a mistake if `value` is outside `range`.
    pub fn outside<T: PartialOrd + Display>(&mut self, key: &str, value: T, range: RangeInclusive<T>) {
        if !range.contains(&value) {
            self.add(key, format!("is {value}, must be from {} to {}", range.start(), range.end()));
        }
    }

    /// Returns every mistake as (key, problem).
    pub fn into_inner(self) -> Vec<(String, String)> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_as_people_write_it_or_the_mistake_shows_what_would_do() {
        let read = |text: &str| parse_address(text).map(|address| address.to_string());
        assert_eq!(read("127.0.0.1:8000").as_deref(), Ok("127.0.0.1:8000"));
        assert_eq!(read(" [::1]:8000\n").as_deref(), Ok("[::1]:8000"));
        assert_eq!(read("localhost:8000").as_deref(), Ok("127.0.0.1:8000"));
        for bare in [":8000", "*:8000", "8000"] {
            let told = read(bare).unwrap_err();
            assert!(
                told.contains("127.0.0.1:8000 to accept connections from this machine")
                    && told.contains("0.0.0.0:8000"),
                "{told}"
            );
        }
        for bad in [
            "",
            "localhost",
            "localhost:",
            "gateway.example:8000",
            "127.0.0.1",
            "127.0.0.1:99999",
            "::1:8000x",
        ] {
            let told = read(bad).unwrap_err();
            assert!(told.contains("such as 127.0.0.1:8000"), "{told}");
        }
    }
}
