//! Reads as much of DER (X.690) as encloses a key: one element after the other, each with its tag and length.

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OBJECT_IDENTIFIER: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;

/// The bytes that have not been read yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Der<'a>(pub(super) &'a [u8]);

impl<'a> Der<'a> {
    /// Takes the content of the next element, if the element has this tag.
    pub(super) fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let [first, length, rest @ ..] = self.0 else { return None };
        if *first != tag {
            return None;
        }
        let (length, rest) = match length {
            short @ 0..=0x7f => (usize::from(*short), rest),
            0x81 | 0x82 => {
                let (length, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
                (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
            }
            // A key is never longer than that, and DER has no indefinite lengths.
            _ => return None,
        };
        let (element, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(element)
    }

    pub(super) fn sequence(&mut self) -> Option<Self> {
        self.take(SEQUENCE).map(Self)
    }

    /// Takes a non-negative integer, without leading zeros.
    pub(super) fn unsigned(&mut self) -> Option<&'a [u8]> {
        let number = self.take(INTEGER)?;
        number.first().filter(|first| **first < 0x80)?;
        Some(without_zeros(number))
    }

    /// Takes a bit string that consists of whole bytes.
    pub(super) fn bits(&mut self) -> Option<&'a [u8]> {
        self.take(BIT_STRING)?.strip_prefix(&[0])
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }
}

pub(super) fn without_zeros(number: &[u8]) -> &[u8] {
    &number[number.iter().take_while(|byte| **byte == 0).count()..]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn elements_are_taken_one_by_one() {
        let mut der = Der(&[0x30, 0x05, 0x02, 0x03, 0x00, 0xff, 0x01, 0x03, 0x02, 0x00, 0x07]);
        assert_eq!(der.take(INTEGER), None);
        let mut inside = der.sequence().unwrap();
        assert_eq!(inside.unsigned(), Some(&[0xff, 0x01][..]));
        assert!(inside.is_at_end());
        assert_eq!(der.bits(), Some(&[7][..]));
        assert!(der.is_at_end());
        let mut long = vec![0x02, 0x82, 0x01, 0x00];
        long.extend([1; 256]);
        assert_eq!(Der(&long).unsigned().map(<[u8]>::len), Some(256));
        assert_eq!(Der(&long[..100]).unsigned(), None);
        assert_eq!(Der(&[0x02, 0x80, 0x01]).unsigned(), None);
        assert_eq!(Der(&[0x02, 0x01, 0x81]).unsigned(), None, "negative");
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_read(bytes in proptest::collection::vec(any::<u8>(), 0..64), tag in any::<u8>()) {
            let mut der = Der(&bytes);
            if let Some(element) = der.take(tag) {
                prop_assert!(element.len() + der.0.len() + 2 <= bytes.len());
            }
        }
    }
}
