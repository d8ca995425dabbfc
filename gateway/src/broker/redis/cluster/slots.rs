//! The slots of a cluster: the slot of a key, and tags that put a key into a given slot.
//!
//! As specified by Redis Cluster, the slot is the CRC-16 (XMODEM) of the text between the first pair of braces, or of the
//! whole key if there is no such text, modulo 16,384.

use std::sync::LazyLock;

/// The number of slots.
pub(crate) const SLOTS: u16 = 16_384;

/// Slots of the copies of keys that belong to all nodes, so that the failure of one master does not take them away. Each
/// is in the middle of a third of all slots, which is what three masters have when a cluster is created.
pub(crate) const COMMON: [u16; 3] = [2_730, 8_192, 13_653];

/// For each slot, the least number whose digits are a tag of it.
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

/// Returns the slot of keys with this tag.
pub(crate) fn of_tag(tag: &[u8]) -> u16 {
    let crc = tag.iter().fold(0_u16, |crc, byte| (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)]);
    crc % SLOTS
}

/// Returns the slot of a key.
pub(crate) fn of_key(key: &[u8]) -> u16 {
    let tag = memchr::memchr(b'{', key).and_then(|open| {
        let inner = &key[open + 1..];
        memchr::memchr(b'}', inner).filter(|close| *close > 0).map(|close| &inner[..close])
    });
    of_tag(tag.unwrap_or(key))
}

/// Returns a tag of this slot.
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
