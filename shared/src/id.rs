//! Identifiers of clients, users and nodes.

use std::fmt;
use std::sync::Arc;

use arcstr::ArcStr;

/// One client connection, unique over all nodes and time: 128 random bits, shown as a UUID.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(u128);

/// The positions of the hyphens in the text of an id.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];

impl ClientId {
    /// Makes an id of random bits that the caller provides, as a version 4 UUID (RFC 9562 §5.4).
    pub fn from_random(bits: u128) -> Self {
        Self(bits & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62))
    }

    /// Makes an id from the result of [`ClientId::bits`].
    pub fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// Returns all 128 bits, for a record that is more compact than text.
    pub fn bits(self) -> u128 {
        self.0
    }

    /// Returns the id as text: 32 hexadecimal digits and four hyphens, all ASCII.
    pub fn hyphenated(self) -> [u8; 36] {
        let mut text = [b'-'; 36];
        let mut at = 0;
        for byte in self.0.to_be_bytes() {
            if HYPHENS.contains(&at) {
                at += 1;
            }
            for nibble in [byte >> 4, byte & 0xf] {
                text[at] = b"0123456789abcdef"[usize::from(nibble)];
                at += 1;
            }
        }
        text
    }

    /// Reads the hyphenated form that `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 36 || !text.is_ascii() || HYPHENS.iter().any(|&at| text.as_bytes()[at] != b'-') {
            return None;
        }
        let digits = text.bytes().enumerate().filter(|(at, _)| !HYPHENS.contains(at));
        digits
            .map(|(_, digit)| char::from(digit).to_digit(16))
            .try_fold(0u128, |bits, digit| Some(bits << 4 | u128::from(digit?)))
            .map(Self)
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.hyphenated()).unwrap_or_default())
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientId({self})")
    }
}

/// The user that a client's token names. Empty for an anonymous client.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct UserId(Option<ArcStr>);

impl UserId {
    pub const ANONYMOUS: Self = Self(None);

    pub fn new(user: &str) -> Self {
        Self((!user.is_empty()).then(|| user.into()))
    }

    pub fn as_str(&self) -> &str {
        self.0.as_deref().unwrap_or("")
    }

    pub fn is_anonymous(&self) -> bool {
        self.0.is_none()
    }
}

/// One running gateway process. Not its configured name, which several runs may share.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NodeId(pub Arc<str>);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_id_is_a_version_4_uuid_and_reads_back() {
        let id = ClientId::from_random(u128::MAX);
        assert_eq!(id.to_string(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(ClientId::parse(&id.to_string()), Some(id));
        for bad in [
            "",
            "ffffffff-ffff-4fff-bfff-fffffffffff",
            "ffffffff+ffff-4fff-bfff-ffffffffffff",
            "gfffffff-ffff-4fff-bfff-ffffffffffff",
        ] {
            assert_eq!(ClientId::parse(bad), None, "{bad}");
        }
    }
}
