//! The slots of a cluster: which of them has a key, and by which tag a key gets into one.
//!
//! As the specification of Redis Cluster has it: CRC-16 (XMODEM) of what stands between the first pair of braces that has anything
//! between it, or else of the whole key, modulo 16,384.

use std::sync::LazyLock;

/// How many there are.
pub(crate) const SLOTS: u16 = 16_384;

/// Places at which what belongs to all nodes is kept, so that the fault of one master does not take it away: in the middle of
/// each third of all slots, which three masters have when a cluster is made.
pub(crate) const COMMON: [u16; 3] = [2_730, 8_192, 13_653];

/// For each slot the least number whose digits have it.
static TAGS: LazyLock<Box<[u32]>> = LazyLock::new(|| {
    let mut tags = vec![u32::MAX; usize::from(SLOTS)].into_boxed_slice();
    let (mut left, mut number) = (tags.len(), 0);
    let mut digits = itoa::Buffer::new();
    while left > 0 {
        let tag = &mut tags[usize::from(of_tag(digits.format(number).as_bytes()))];
        if *tag == u32::MAX {
            *tag = number;
            left -= 1;
        }
        number += 1;
    }
    tags
});

const TABLE: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let (mut crc, mut bit) = ((byte as u16) << 8, 0);
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// The slot of what has this tag.
pub(crate) fn of_tag(tag: &[u8]) -> u16 {
    let crc = tag.iter().fold(0_u16, |crc, byte| (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)]);
    crc % SLOTS
}

/// The slot of a key.
pub(crate) fn of_key(key: &[u8]) -> u16 {
    let tag = memchr::memchr(b'{', key).and_then(|open| {
        let inner = &key[open + 1..];
        memchr::memchr(b'}', inner).filter(|close| *close > 0).map(|close| &inner[..close])
    });
    of_tag(tag.unwrap_or(key))
}

/// A tag whose slot this is.
pub(crate) fn tag(slot: u16) -> u32 {
    TAGS[usize::from(slot % SLOTS)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(of_key(b"123456789"), 0x31c3);
        assert_eq!(of_key(b"foo"), 12_182);
        assert_eq!(of_key(b"{user1000}.following"), of_key(b"{user1000}.followers"));
        assert_eq!(of_key(b"foo{}{bar}"), of_tag(b"foo{}{bar}"));
        assert_eq!(of_key(b"foo{{bar}}zap"), of_tag(b"{bar"));
        assert_eq!(of_key(b"foo{bar}{zap}"), of_tag(b"bar"));
    }

    #[test]
    fn every_slot_has_a_tag() {
        for slot in 0..SLOTS {
            assert_eq!(of_key(format!("a:{{{}}}b", tag(slot)).as_bytes()), slot);
        }
        assert!(TAGS.iter().max().is_some_and(|longest| *longest < 1_000_000), "tags are short");
    }
}
