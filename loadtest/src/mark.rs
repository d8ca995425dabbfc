//! The mark inside every payload: the run, the channel, the place in the sequence, and when the publication was due.
//! A mark is plain text without quotes or backslashes, so it can be found in any envelope that a server makes.

use std::sync::LazyLock;

use memchr::memmem::Finder;

const PREFIX: &[u8] = b"tgm-";
/// `tgm-` run(8) `-` channel(6) `-` sequence(10) `-` time(16), all in hexadecimal.
pub const MARK_BYTES: usize = 4 + 8 + 1 + 6 + 1 + 10 + 1 + 16;

/// The number of channels that a mark can tell apart.
pub const CHANNELS_MAX: u32 = 1 << 24;

static FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(PREFIX));

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// Tells this run's publications from those of others on the same channel.
    pub run: u32,
    pub channel: u32,
    /// From 1, without holes, per channel.
    pub sequence: u64,
    /// When the publication was due, on [`crate::clock`].
    pub intended_ns: u64,
}

impl Mark {
    /// Returns the next mark in a message, and the rest of the message behind it.
    pub fn find(message: &[u8]) -> Option<(Self, &[u8])> {
        let mut rest = message;
        loop {
            let at = FINDER.find(rest)?;
            rest = &rest[at + PREFIX.len()..];
            if let Some(mark) = Self::parse(rest) {
                return Some((mark, &rest[MARK_BYTES - PREFIX.len()..]));
            }
        }
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text.get(..MARK_BYTES - PREFIX.len())?).ok()?;
        let mut fields = text.split('-').map(|digits| u64::from_str_radix(digits, 16).ok());
        let mut next = || fields.next().flatten();
        Some(Self { run: next()? as u32, channel: next()? as u32, sequence: next()?, intended_ns: next()? })
    }
}

/// Makes JSON payloads of a fixed size around a mark.
#[derive(Debug)]
pub struct PayloadMaker {
    run: u32,
    padding: String,
}

/// The payload without padding: `{"mark":"…"}`.
pub const PAYLOAD_BYTES_MIN: usize = MARK_BYTES + 11;
pub const PAYLOAD_BYTES_MAX: u64 = 1 << 24;
/// What a padding field adds before its first byte: `,"pad":""`.
const PADDING_FIELD_BYTES: usize = 9;

impl PayloadMaker {
    /// Payloads of `bytes` bytes, or as near above as the mark allows.
    pub fn new(run: u32, bytes: usize) -> Self {
        let length = bytes.saturating_sub(PAYLOAD_BYTES_MIN + PADDING_FIELD_BYTES);
        // Digits from a fixed generator: they deflate to somewhat less than half, as real figures do, and the same
        // bytes come in every run.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let padding = (0..length)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                char::from(b'0' + (state % 10) as u8)
            })
            .collect();
        Self { run, padding }
    }

    pub fn make(&self, channel: u32, sequence: u64, intended_ns: u64) -> String {
        let Self { run, padding } = self;
        let mark = format!("tgm-{run:08x}-{channel:06x}-{sequence:010x}-{intended_ns:016x}");
        match padding.as_str() {
            "" => format!("{{\"mark\":\"{mark}\"}}"),
            padding => format!("{{\"mark\":\"{mark}\",\"pad\":\"{padding}\"}}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_any_envelope() {
        let payload = PayloadMaker::new(0xdead_beef, 128).make(7, 42, 123_456_789);
        assert_eq!(payload.len(), 128);
        serde_json::from_str::<serde_json::Value>(&payload).unwrap();
        let mark = Mark { run: 0xdead_beef, channel: 7, sequence: 42, intended_ns: 123_456_789 };
        let escaped = serde_json::to_string(&payload).unwrap();
        for envelope in
            [payload.clone(), format!("42[\"tgm-\",{escaped}]"), format!("id: tgm-tgm-\n{payload}")]
        {
            let (found, rest) = Mark::find(envelope.as_bytes()).unwrap();
            assert_eq!(found, mark);
            assert_eq!(Mark::find(rest), None);
        }
    }

    #[test]
    fn several_marks_of_one_message_are_found_in_order() {
        let maker = PayloadMaker::new(1, 0);
        let message: String = (1..=3).map(|sequence| maker.make(0, sequence, 9)).collect();
        let mut rest = message.as_bytes();
        let mut found = Vec::new();
        while let Some((mark, behind)) = Mark::find(rest) {
            found.push(mark.sequence);
            rest = behind;
        }
        assert_eq!(found, [1, 2, 3]);
        assert_eq!(maker.make(0, 1, 9).len(), PAYLOAD_BYTES_MIN);
    }

    #[test]
    fn what_only_looks_like_a_mark_is_none() {
        let payload = PayloadMaker::new(1, 0).make(0, 1, 9);
        assert_eq!(Mark::find(&payload.as_bytes()[..40]), None);
        assert_eq!(Mark::find(payload.replace("-0000000001-", "-000000000g-").as_bytes()), None);
        assert_eq!(Mark::find(b""), None);
    }
}
