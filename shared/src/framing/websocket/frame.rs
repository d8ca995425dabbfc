//! The frame header (RFC 6455 §5.2), and the errors in frames from a peer.

use bytes::{BufMut, BytesMut};

use crate::disconnect::Disconnect;

/// The longest payload of a ping, pong or close frame, in bytes.
pub const CONTROL_BYTES_MAX: usize = 125;
/// The longest header: two bytes, eight of length, four of mask.
pub const HEADER_BYTES_MAX: usize = 14;

/// The end of the connection that reads the frames. Clients mask their frames, servers do not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Server,
    Client,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameHeader {
    pub fin: bool,
    /// Whether the message is compressed (RFC 7692). Set only in a message's first frame.
    pub rsv1: bool,
    pub opcode: Opcode,
    pub mask: Option<[u8; 4]>,
    pub length: u64,
}

/// A peer's violation of the protocol or of a limit. [`FrameError::disconnect`] returns the close for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a reserved bit is set that no extension in use defines")]
    ReservedBit,
    #[error("opcode {0} is reserved")]
    ReservedOpcode(u8),
    #[error("a ping, pong or close frame is fragmented")]
    FragmentedControl,
    #[error("a ping, pong or close frame is longer than 125 bytes")]
    LongControl,
    #[error("a payload length is not written in the fewest bytes")]
    LengthNotMinimal,
    #[error("a payload length has its highest bit set")]
    LengthOverflow,
    #[error("a frame from a client is not masked")]
    NotMasked,
    #[error("a frame from a server is masked")]
    Masked,
    #[error("a continuation frame continues no message")]
    NothingToContinue,
    #[error("a message starts before the previous one has ended")]
    MessageNotEnded,
    #[error("a close frame has a body of one byte")]
    CloseTooShort,
    #[error("close code {0} may not be sent")]
    CloseCode(u16),
    #[error("a text message or close reason is not UTF-8")]
    NotUtf8,
    #[error("a compressed message cannot be inflated")]
    NotDeflate,
    #[error("a frame is longer than the limit")]
    FrameTooBig,
    #[error("a message is longer than the limit")]
    MessageTooBig,
    #[error("a message is in more fragments than the limit")]
    TooManyFragments,
}

impl FrameError {
    /// Returns the close for this error: 1002, 1007 or 1009.
    pub fn disconnect(self) -> Disconnect {
        match self {
            Self::NotUtf8 | Self::NotDeflate => Disconnect::INVALID_TEXT,
            Self::FrameTooBig | Self::MessageTooBig | Self::TooManyFragments => Disconnect::TOO_BIG,
            _ => Disconnect::PROTOCOL_ERROR,
        }
    }
}

impl Opcode {
    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }

    fn from_bits(bits: u8) -> Result<Self, FrameError> {
        Ok(match bits {
            0 => Self::Continuation,
            1 => Self::Text,
            2 => Self::Binary,
            8 => Self::Close,
            9 => Self::Ping,
            10 => Self::Pong,
            other => return Err(FrameError::ReservedOpcode(other)),
        })
    }

    fn bits(self) -> u8 {
        match self {
            Self::Continuation => 0,
            Self::Text => 1,
            Self::Binary => 2,
            Self::Close => 8,
            Self::Ping => 9,
            Self::Pong => 10,
        }
    }
}

impl FrameHeader {
    /// Reads the header at the start of `bytes` and returns it with its length; `None` while more bytes are needed.
    /// Errors are reported as early as possible: those in the first byte before those in the second.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, FrameError> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        if first & 0x30 != 0 {
            return Err(FrameError::ReservedBit);
        }
        let opcode = Opcode::from_bits(first & 0x0f)?;
        let (fin, rsv1) = (first & 0x80 != 0, first & 0x40 != 0);
        if opcode.is_control() && !fin {
            return Err(FrameError::FragmentedControl);
        }
        // Only the first frame of a message declares compression (RFC 7692 §6).
        if rsv1 && !matches!(opcode, Opcode::Text | Opcode::Binary) {
            return Err(FrameError::ReservedBit);
        }
        let Some(&second) = bytes.get(1) else { return Ok(None) };
        if opcode.is_control() && second & 0x7f > 125 {
            return Err(FrameError::LongControl);
        }
        let (length, length_end) = match second & 0x7f {
            126 => {
                let Some(field) = field::<2>(bytes, 2) else { return Ok(None) };
                let length = u64::from(u16::from_be_bytes(field));
                if length < 126 {
                    return Err(FrameError::LengthNotMinimal);
                }
                (length, 4)
            }
            127 => {
                let Some(field) = field::<8>(bytes, 2) else { return Ok(None) };
                let length = u64::from_be_bytes(field);
                if length >> 63 != 0 {
                    return Err(FrameError::LengthOverflow);
                }
                if length <= u64::from(u16::MAX) {
                    return Err(FrameError::LengthNotMinimal);
                }
                (length, 10)
            }
            short => (u64::from(short), 2),
        };
        let (mask, end) = if second & 0x80 == 0 {
            (None, length_end)
        } else {
            let Some(key) = field::<4>(bytes, length_end) else { return Ok(None) };
            (Some(key), length_end + 4)
        };
        Ok(Some((Self { fin, rsv1, opcode, mask, length }, end)))
    }

    /// Appends the header. The payload follows it, masked if the header has a mask.
    pub fn encode(&self, out: &mut BytesMut) {
        let (bytes, length) = self.to_bytes();
        out.put_slice(&bytes[..length]);
    }

    /// Returns the header and the number of bytes that it takes.
    pub fn to_bytes(self) -> ([u8; HEADER_BYTES_MAX], usize) {
        let mut bytes = [0; HEADER_BYTES_MAX];
        bytes[0] = (u8::from(self.fin) << 7) | (u8::from(self.rsv1) << 6) | self.opcode.bits();
        let masked = u8::from(self.mask.is_some()) << 7;
        let mut end = 2;
        if let Ok(short @ 0..=125) = u8::try_from(self.length) {
            bytes[1] = masked | short;
        } else if let Ok(medium) = u16::try_from(self.length) {
            bytes[1] = masked | 126;
            bytes[2..4].copy_from_slice(&medium.to_be_bytes());
            end = 4;
        } else {
            bytes[1] = masked | 127;
            bytes[2..10].copy_from_slice(&self.length.to_be_bytes());
            end = 10;
        }
        if let Some(key) = self.mask {
            bytes[end..end + 4].copy_from_slice(&key);
            end += 4;
        }
        (bytes, end)
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::{FrameError, FrameHeader, Opcode};

    #[test]
    fn headers_of_every_length_are_minimal_and_read_back() {
        for (length, size) in [
            (0, 2),
            (125, 2),
            (126, 4),
            (127, 4),
            (65_535, 4),
            (65_536, 10),
            (1 << 20, 10),
            ((1 << 63) - 1, 10),
        ] {
            for mask in [None, Some([1, 2, 3, 4])] {
                let header = FrameHeader { fin: true, rsv1: true, opcode: Opcode::Binary, mask, length };
                let mut out = BytesMut::new();
                header.encode(&mut out);
                let whole = size + mask.map_or(0, |_| 4);
                assert_eq!(out.len(), whole);
                assert_eq!(FrameHeader::parse(&out), Ok(Some((header, whole))));
                for short in 0..whole {
                    assert_eq!(FrameHeader::parse(&out[..short]), Ok(None), "{short} of {whole} bytes");
                }
            }
        }
    }

    #[test]
    fn a_length_in_more_bytes_than_needed_is_refused() {
        assert_eq!(FrameHeader::parse(&[0x82, 126, 0, 125]), Err(FrameError::LengthNotMinimal));
        assert_eq!(
            FrameHeader::parse(&[0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff]),
            Err(FrameError::LengthNotMinimal)
        );
    }

    #[test]
    fn a_length_with_its_highest_bit_set_is_refused() {
        assert_eq!(
            FrameHeader::parse(&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0]),
            Err(FrameError::LengthOverflow)
        );
    }

    #[test]
    fn reserved_bits_and_opcodes_are_refused_at_the_first_byte() {
        for first in [0x91, 0xa1, 0xb1, 0xc0, 0xc8, 0xc9, 0xca] {
            assert_eq!(FrameHeader::parse(&[first]), Err(FrameError::ReservedBit), "{first:#x}");
        }
        for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
            assert_eq!(FrameHeader::parse(&[0x80 | opcode]), Err(FrameError::ReservedOpcode(opcode)));
        }
    }

    #[test]
    fn control_frames_are_short_and_whole() {
        for opcode in [8, 9, 10] {
            assert_eq!(FrameHeader::parse(&[opcode]), Err(FrameError::FragmentedControl));
            assert_eq!(FrameHeader::parse(&[0x80 | opcode, 126]), Err(FrameError::LongControl));
            assert_eq!(FrameHeader::parse(&[0x80 | opcode, 0x80 | 127]), Err(FrameError::LongControl));
            assert!(FrameHeader::parse(&[0x80 | opcode, 125]).unwrap().is_some());
        }
    }

    #[test]
    fn every_error_closes_with_a_code_of_the_standard() {
        for (error, code) in [
            (FrameError::ReservedBit, 1002),
            (FrameError::NotMasked, 1002),
            (FrameError::CloseCode(1005), 1002),
            (FrameError::NotUtf8, 1007),
            (FrameError::NotDeflate, 1007),
            (FrameError::FrameTooBig, 1009),
            (FrameError::MessageTooBig, 1009),
            (FrameError::TooManyFragments, 1009),
        ] {
            assert_eq!(error.disconnect().code, code);
        }
    }

    proptest! {
        #![proptest_config(crate::framing::websocket::same_every_run())]

        #[test]
        fn a_header_that_is_accepted_encodes_to_the_same_bytes(bytes in prop::collection::vec(any::<u8>(), 0..16)) {
            if let Ok(Some((header, length))) = FrameHeader::parse(&bytes) {
                let mut out = BytesMut::new();
                header.encode(&mut out);
                prop_assert_eq!(&out[..], &bytes[..length]);
            }
        }
    }
}
