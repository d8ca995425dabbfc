//! Masking and unmasking (RFC 6455 §5.3), which are the same operation.

/// Applies `key` to `data` in place. `offset` is the number of bytes of the same payload before `data`, so that a
/// payload can be unmasked in pieces as it arrives.
pub fn apply_mask(data: &mut [u8], key: [u8; 4], offset: usize) {
    let [a, b, c, d] = rotated(key, offset);
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    // Eight bytes at a time, in a form the compiler turns into vector instructions.
    let (words, tail) = data.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= key;
    }
}

fn rotated(mut key: [u8; 4], offset: usize) -> [u8; 4] {
    key.rotate_left(offset % 4);
    key
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::apply_mask;

    #[test]
    fn the_rfc_example_unmasks_to_hello() {
        let mut data = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
        apply_mask(&mut data, [0x37, 0xfa, 0x21, 0x3d], 0);
        assert_eq!(&data, b"Hello");
    }

    proptest! {
        #![proptest_config(crate::framing::websocket::same_every_run())]

        #[test]
        fn masking_in_pieces_is_masking_byte_by_byte(
            data in prop::collection::vec(any::<u8>(), 0..300),
            key in any::<[u8; 4]>(),
            cut in 0usize..300,
        ) {
            let naive: Vec<u8> = data.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]).collect();
            let cut = cut.min(data.len());
            let mut pieces = data;
            let (head, tail) = pieces.split_at_mut(cut);
            apply_mask(head, key, 0);
            apply_mask(tail, key, cut);
            prop_assert_eq!(pieces, naive);
        }
    }
}
