//! The header of messages between nodes that may come over several servers: the sender and the number of the message.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{BufMut, Bytes, BytesMut};

/// Raised whenever an older node would misread a message.
const VERSION: u8 = 1;
const HEAD_BYTES: usize = 17;

/// Numbers the messages of this process.
#[derive(Debug)]
pub(in crate::broker) struct Numbers {
    sender: u64,
    next: AtomicU64,
}

impl Default for Numbers {
    fn default() -> Self {
        Self { sender: rand::random(), next: AtomicU64::new(1) }
    }
}

impl Numbers {
    /// Prepends a header with the next number to the message.
    pub(in crate::broker) fn write(&self, message: &[u8]) -> Bytes {
        let mut written = BytesMut::with_capacity(HEAD_BYTES + message.len());
        written.put_u8(VERSION);
        written.put_u64(self.sender);
        written.put_u64(self.next.fetch_add(1, Ordering::Relaxed));
        written.put_slice(message);
        written.freeze()
    }
}

/// Splits a message into its sender, its number and its body. Returns `None` for a message of another release, or of a
/// node that has only one server.
pub(in crate::broker) fn read(mut written: Bytes) -> Option<(u64, u64, Bytes)> {
    let message = written.split_off(HEAD_BYTES.min(written.len()));
    let head: &[u8; HEAD_BYTES] = written[..].try_into().ok()?;
    let [version, numbers @ ..] = head;
    let (sender, number) = numbers.split_first_chunk::<8>()?;
    let number = number.try_into().ok()?;
    (*version == VERSION).then(|| (u64::from_be_bytes(*sender), u64::from_be_bytes(number), message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_read_back_with_their_numbers_and_what_is_none_is_refused() {
        let numbers = Numbers::default();
        for (number, text) in [(1, "first"), (2, "")] {
            let written = numbers.write(text.as_bytes());
            assert_eq!(read(written), Some((numbers.sender, number, Bytes::from(text))));
        }
        for other in ["", "[1,{}]", "[1,{\"user\":\"a long message of before\"}]"] {
            assert_eq!(read(Bytes::from(other)), None, "{other}");
        }
    }
}
