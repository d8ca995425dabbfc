//! The mark inside every payload: which run, channel and place in the sequence it is, and when it was meant to be
//! sent. It is plain text without quotes or backslashes, so it can be found in whatever envelope a server makes.

use std::sync::LazyLock;

use memchr::memmem::Finder;

const PREFIX: &[u8] = b"tgm-";
/// `tgm-` run(8) `-` channel(6) `-` sequence(10) `-` time(16), all in hexadecimal.
pub const MARK_BYTES: usize = 4 + 8 + 1 + 6 + 1 + 10 + 1 + 16;

/// Most channels that a mark can tell apart.
pub const CHANNELS_MAX: u32 = 1 << 24;

static FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(PREFIX));

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark {
    /// Tells this run's publications from those of others on the same channel.
    pub run: u32,
    pub channel: u32,
    /// From 1, without holes, per channel.
    pub sequence: u64,
    /// When the schedule wanted it sent, on [`crate::clock`].
    pub intended_ns: u64,
}

impl Mark {
    /// The next mark in a message, and the rest behind it.
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
        let text = text.get(..MARK_BYTES - PREFIX.len())?;
        if text[8] != b'-' || text[15] != b'-' || text[26] != b'-' {
            return None;
        }
        Some(Self {
            run: hex(&text[..8])? as u32,
            channel: hex(&text[9..15])? as u32,
            sequence: hex(&text[16..26])?,
            intended_ns: hex(&text[27..43])?,
        })
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

    /// The size of every payload this makes.
    pub fn bytes(&self) -> usize {
        if self.padding.is_empty() {
            PAYLOAD_BYTES_MIN
        } else {
            PAYLOAD_BYTES_MIN + PADDING_FIELD_BYTES + self.padding.len()
        }
    }

    pub fn make(&self, channel: u32, sequence: u64, intended_ns: u64) -> String {
        use std::fmt::Write;
        let mut payload = String::with_capacity(self.bytes());
        // Writing to a string cannot fail.
        let _ = write!(
            payload,
            "{{\"mark\":\"tgm-{:08x}-{:06x}-{:010x}-{:016x}\"",
            self.run, channel, sequence, intended_ns
        );
        if !self.padding.is_empty() {
            payload.push_str(",\"pad\":\"");
            payload.push_str(&self.padding);
            payload.push('"');
        }
        payload.push('}');
        payload
    }
}

fn hex(digits: &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for &digit in digits {
        let nibble = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        value = value << 4 | u64::from(nibble);
    }
    Some(value)
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
        assert_eq!(maker.bytes(), maker.make(0, 1, 9).len());
    }

    #[test]
    fn what_only_looks_like_a_mark_is_none() {
        let payload = PayloadMaker::new(1, 0).make(0, 1, 9);
        assert_eq!(Mark::find(&payload.as_bytes()[..40]), None);
        assert_eq!(Mark::find(payload.replace("-0000000001-", "-000000000g-").as_bytes()), None);
        assert_eq!(Mark::find(b""), None);
    }
}
