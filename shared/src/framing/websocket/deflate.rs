//! permessage-deflate (RFC 7692) with a fresh context for every message, in both directions.
//!
//! Both machines are large (tens to hundreds of kilobytes) and keep no state between messages, so there is one of each
//! per worker and none per connection.

use bytes::BytesMut;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::frame::FrameError;
use super::offer::{WINDOW_BITS_MAX, WINDOW_BITS_MIN};

/// Inflates incoming messages, one after the other.
#[derive(Debug)]
pub struct Inflater {
    machine: Decompress,
    output: Vec<u8>,
}

impl Default for Inflater {
    fn default() -> Self {
        Self::new()
    }
}

impl Inflater {
    pub fn new() -> Self {
        Self { machine: Decompress::new(false), output: Vec::new() }
    }

    /// Inflates a message. Stops with an error once it exceeds `bytes_max`.
    pub fn inflate(&mut self, compressed: &[u8], bytes_max: usize) -> Result<&[u8], FrameError> {
        self.output.clear();
        // Otherwise one huge message would fix the size of the buffer for ever.
        self.output.shrink_to(OUTPUT_IDLE_BYTES);
        if compressed.is_empty() {
            // An empty payload in place of the one byte of RFC 7692 §7.2.3.6. It can only mean the empty message.
            return Ok(&self.output);
        }
        self.machine.reset(false);
        let mut rest = compressed;
        for _ in 0..FINAL_BLOCKS_MAX {
            rest = match self.feed(rest, bytes_max)? {
                // The sender ended the stream with a final block instead of a flush (RFC 7692 §7.2.3.4).
                InflateEnd::Ended([]) => return Ok(&self.output),
                InflateEnd::Ended(after) => after,
                InflateEnd::Consumed => return self.end(bytes_max),
            };
            self.machine.reset(false);
        }
        Err(FrameError::NotDeflate)
    }

    /// Feeds the tail that the sender removed, which completes the last block, and then known blocks of our own. If the
    /// output does not end with exactly those, the message stopped within a block: a decoder that continues from there
    /// may accept arbitrary bytes, but not this whole sequence.
    fn end(&mut self, bytes_max: usize) -> Result<&[u8], FrameError> {
        let message_bytes = self.output.len();
        let fed = self.feed(&ENDING, bytes_max.saturating_add(MARK.len()))?;
        if matches!(fed, InflateEnd::Ended([])) && self.output.get(message_bytes..) == Some(&MARK) {
            self.output.truncate(message_bytes);
            return Ok(&self.output);
        }
        Err(FrameError::NotDeflate)
    }

    fn feed<'c>(&mut self, mut rest: &'c [u8], bytes_max: usize) -> Result<InflateEnd<'c>, FrameError> {
        loop {
            if self.output.len() == self.output.capacity() {
                // Space for one byte beyond the limit is enough to detect that the limit is exceeded.
                let wanted = (self.output.len() * 2).max(OUTPUT_FIRST_BYTES).min(bytes_max.saturating_add(1));
                self.output.reserve_exact(wanted.saturating_sub(self.output.len()).max(1));
            }
            let consumed_before = self.machine.total_in();
            let produced_before = self.output.len();
            let status = self
                .machine
                .decompress_vec(rest, &mut self.output, FlushDecompress::None)
                .map_err(|_| FrameError::NotDeflate)?;
            if self.output.len() > bytes_max {
                return Err(FrameError::MessageTooBig);
            }
            let consumed = usize::try_from(self.machine.total_in() - consumed_before).unwrap_or(rest.len());
            rest = rest.get(consumed..).unwrap_or_default();
            match status {
                Status::StreamEnd => return Ok(InflateEnd::Ended(rest)),
                _ if rest.is_empty() && self.output.len() < self.output.capacity() => {
                    return Ok(InflateEnd::Consumed);
                }
                // There was space and input but no progress, and there will never be.
                _ if consumed == 0 && self.output.len() == produced_before => {
                    return Err(FrameError::NotDeflate);
                }
                _ => {}
            }
        }
    }
}

/// Compresses outgoing messages, one after another.
#[derive(Debug)]
pub struct Deflater {
    machine: Compress,
}

impl Deflater {
    /// Makes a deflater of a level from 1 (fast) to 9 (small). Other levels are clamped.
    pub fn new(level: u8) -> Self {
        Self { machine: Compress::new(Compression::new(u32::from(level.clamp(1, 9))), false) }
    }

    /// Appends the compressed payload of a message. Appends nothing and returns false if compression does not make it
    /// smaller: then the message should be sent uncompressed.
    ///
    /// Any peer whose window admits the message can read the result: see [`super::offer::window_admits`].
    pub fn deflate(&mut self, payload: &[u8], out: &mut BytesMut) -> bool {
        // A result that does not fit in the payload's own length is not smaller.
        self.run(payload, WINDOW_BITS_MAX, payload.len(), out)
    }

    /// Appends the compressed payload of a message of any length for a window of 2 to the power of `window_bits` bytes,
    /// even if that makes it longer. This is for a single peer: [`Deflater::deflate`] compresses better for a payload
    /// that is shared. Returns false, with nothing appended, only if the machine fails.
    pub fn deflate_for_window(&mut self, payload: &[u8], window_bits: u8, out: &mut BytesMut) -> bool {
        let pieces = payload.len() >> window_bits.clamp(WINDOW_BITS_MIN, WINDOW_BITS_MAX);
        // At level 1 a byte may take nine bits. Each piece ends with a flush of five bytes.
        let grown = payload.len() + payload.len() / 7 + 16 * (pieces + 1);
        self.run(payload, window_bits.clamp(WINDOW_BITS_MIN, WINDOW_BITS_MAX), grown, out)
    }

    fn run(&mut self, payload: &[u8], window_bits: u8, bytes_max: usize, out: &mut BytesMut) -> bool {
        self.machine.reset();
        let start = out.len();
        out.resize(start + bytes_max + TAIL.len(), 0);
        let end = self.compress(payload, window_bits, &mut out[start..]).map(|written| start + written);
        match end {
            Some(end) if out[start..end].ends_with(&TAIL) => {
                out.truncate(end - TAIL.len());
                true
            }
            _ => {
                out.truncate(start);
                false
            }
        }
    }

    /// Returns the number of bytes written to `out`, or `None` if it is too small.
    fn compress(&mut self, payload: &[u8], window_bits: u8, out: &mut [u8]) -> Option<usize> {
        // A full flush forgets all data before it, so that nothing refers back further than one piece. The largest
        // window needs no flush: no compressor refers back further than that.
        let piece_bytes = if window_bits < WINDOW_BITS_MAX { 1 << window_bits } else { usize::MAX };
        let mut pieces = payload.chunks(piece_bytes).peekable();
        let mut written = 0;
        loop {
            let piece = pieces.next().unwrap_or_default();
            let last = pieces.peek().is_none();
            let flush = if last { FlushCompress::Sync } else { FlushCompress::Full };
            self.machine.compress(piece, out.get_mut(written..)?, flush).ok()?;
            written = usize::try_from(self.machine.total_out()).ok()?;
            // A flush that stops exactly at the end may not be complete.
            if written >= out.len() {
                return None;
            }
            if last {
                return Some(written);
            }
        }
    }
}

/// The end of a sync flush, which the sender removes (RFC 7692 §7.2.1).
const TAIL: [u8; 4] = [0x00, 0x00, 0xff, 0xff];
/// Arbitrary bytes, which the rest of an unfinished message does not decode to.
const MARK: [u8; 8] = [0x9d, 0x3e, 0xf1, 0x07, 0x6a, 0xc4, 0x58, 0xb2];
/// The tail, the mark as a stored block, and an empty final block.
#[rustfmt::skip]
const ENDING: [u8; 19] = [
    0x00, 0x00, 0xff, 0xff,
    0x00, 0x08, 0x00, 0xf7, 0xff, 0x9d, 0x3e, 0xf1, 0x07, 0x6a, 0xc4, 0x58, 0xb2,
    0x03, 0x00,
];
/// Initial size of the output buffer, in bytes.
const OUTPUT_FIRST_BYTES: usize = 1024;
/// Largest output buffer that is kept between messages, in bytes.
const OUTPUT_IDLE_BYTES: usize = 256 * 1024;
/// The most final blocks, each with a context of its own, in one message.
const FINAL_BLOCKS_MAX: usize = 64;

enum InflateEnd<'c> {
    /// All input is used up.
    Consumed,
    /// A final block ended the stream, and these bytes follow it.
    Ended(&'c [u8]),
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;

    fn inflated(compressed: &[u8]) -> Result<Vec<u8>, FrameError> {
        Inflater::new().inflate(compressed, 1 << 20).map(<[u8]>::to_vec)
    }

    #[test]
    fn the_rfc_examples_inflate_to_hello() {
        let one_block = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        let stored = [0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00];
        let final_block = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
        let two_blocks = [0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00];
        for compressed in [&one_block[..], &stored, &final_block, &two_blocks] {
            assert_eq!(inflated(compressed).as_deref(), Ok(&b"Hello"[..]), "{compressed:x?}");
        }
        // Some senders leave out the byte that should follow a final block.
        assert_eq!(inflated(&final_block[..7]).as_deref(), Ok(&b"Hello"[..]));
    }

    #[test]
    fn the_empty_message_is_one_byte_or_none() {
        assert_eq!(inflated(&[0x00]), Ok(vec![]));
        assert_eq!(inflated(&[0x02, 0x00]), Ok(vec![]));
        assert_eq!(inflated(&[]), Ok(vec![]));
    }

    #[test]
    fn a_stream_cut_short_is_refused_wherever_it_is_cut() {
        let payload: Vec<u8> = (0..700u32).flat_map(|i| (i * i).to_be_bytes()).collect();
        let mut compressed = BytesMut::new();
        assert!(Deflater::new(6).deflate(&payload, &mut compressed));
        assert_eq!(inflated(&compressed), Ok(payload));
        for cut in 1..compressed.len() {
            assert_eq!(inflated(&compressed[..cut]), Err(FrameError::NotDeflate), "cut at {cut}");
        }
    }

    #[test]
    fn garbage_is_refused() {
        assert_eq!(inflated(&[0x07]), Err(FrameError::NotDeflate), "a block type that does not exist");
        assert_eq!(inflated(&[0x00, 0x05, 0x00, 0x00, 0x00]), Err(FrameError::NotDeflate));
        assert_eq!(inflated(&[0xff; 40]), Err(FrameError::NotDeflate));
        let end_over_and_over = [0x03, 0x00].repeat(1000);
        assert_eq!(inflated(&end_over_and_over), Err(FrameError::NotDeflate));
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit() {
        let mut bomb = BytesMut::new();
        assert!(Deflater::new(9).deflate(&vec![0; 5 << 20], &mut bomb));
        assert!(bomb.len() < 6_000);
        let mut inflater = Inflater::new();
        assert_eq!(inflater.inflate(&bomb, 100_000), Err(FrameError::MessageTooBig));
        assert!(inflater.output.capacity() <= 100_009, "{} bytes held", inflater.output.capacity());
        assert_eq!(inflater.inflate(&[0x00], 100_000), Ok(&[][..]), "the next message is not affected");
    }

    #[test]
    fn the_limit_itself_is_allowed() {
        for length in [1, 2, 1023, 1024, 1025, 65_536] {
            let mut compressed = BytesMut::new();
            let payload = vec![b'x'; length];
            assert!(Deflater::new(1).deflate_for_window(&payload, 15, &mut compressed));
            let mut inflater = Inflater::new();
            assert_eq!(inflater.inflate(&compressed, length), Ok(&payload[..]));
            assert_eq!(inflater.inflate(&compressed, length - 1), Err(FrameError::MessageTooBig));
        }
    }

    #[test]
    fn what_does_not_get_smaller_is_not_compressed() {
        let mut out = BytesMut::from(&b"before"[..]);
        let mut deflater = Deflater::new(6);
        for payload in [&b""[..], b"a", b"abcdefgh"] {
            assert!(!deflater.deflate(payload, &mut out));
            assert_eq!(&out[..], b"before");
        }
    }

    #[test]
    fn a_large_message_does_not_leave_a_large_buffer() {
        let mut compressed = BytesMut::new();
        assert!(Deflater::new(6).deflate(&vec![1; 4 << 20], &mut compressed));
        let mut inflater = Inflater::new();
        assert_eq!(inflater.inflate(&compressed, 8 << 20).map(<[u8]>::len), Ok(4 << 20));
        inflater.inflate(&[0x00], 8 << 20).unwrap();
        assert!(inflater.output.capacity() <= OUTPUT_IDLE_BYTES);
    }

    /// The inflater here has the largest window. The Autobahn cases show that an inflater with a window of 2^9 bytes
    /// can read the result.
    #[test]
    fn a_message_compressed_for_a_small_window_never_refers_past_a_piece() {
        let noise: Vec<u8> =
            (0..512u32).flat_map(|i| (i.wrapping_mul(0x9e37_79b9) ^ i).to_be_bytes()).collect();
        // The same 2 KiB of noise twice: only a reference from the second to the first can make it smaller.
        let twice = [&noise[..], &noise].concat();
        let mut deflater = Deflater::new(9);
        let (mut wide, mut narrow) = (BytesMut::new(), BytesMut::new());
        assert!(deflater.deflate_for_window(&twice, 15, &mut wide));
        assert!(deflater.deflate_for_window(&twice, 11, &mut narrow));
        assert!(wide.len() < noise.len() + 200, "{} bytes", wide.len());
        assert!(narrow.len() > noise.len() * 3 / 2, "{} bytes", narrow.len());
        assert_eq!(inflated(&narrow), Ok(twice));
    }

    #[test]
    fn anything_can_be_compressed_for_any_window_at_any_level() {
        let mut state = 1u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .take(40_000)
        .collect();
        for (level, window_bits) in [(1, 0), (2, 8), (1, 9), (3, 9), (6, 14), (1, 15), (9, 20)] {
            let mut deflater = Deflater::new(level);
            for length in [0, 1, 255, 256, 257, 512, 4096, 40_000] {
                let mut compressed = BytesMut::new();
                assert!(deflater.deflate_for_window(&noise[..length], window_bits, &mut compressed));
                assert_eq!(
                    inflated(&compressed).as_deref(),
                    Ok(&noise[..length]),
                    "{window_bits} bits, {length} bytes"
                );
            }
        }
    }

    proptest! {
        #![proptest_config(crate::framing::websocket::same_every_run())]

        #[test]
        fn messages_come_back_as_they_were(
            seeds in prop::collection::vec((any::<u8>(), 1usize..2000), 1..20),
            level in 0u8..12,
        ) {
            let payload: Vec<u8> = seeds
                .iter()
                .flat_map(|&(byte, count)| (0..count).map(move |i| byte.wrapping_add((i % 7) as u8)))
                .collect();
            let mut compressed = BytesMut::new();
            if Deflater::new(level).deflate(&payload, &mut compressed) {
                prop_assert!(compressed.len() < payload.len());
                let back = inflated(&compressed);
                prop_assert_eq!(back.as_deref(), Ok(&payload[..]));
            }
        }

        #[test]
        fn any_bytes_inflate_or_are_refused_within_the_limit(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut inflater = Inflater::new();
            if let Ok(message) = inflater.inflate(&bytes, 3000) {
                prop_assert!(message.len() <= 3000);
            }
        }
    }
}
