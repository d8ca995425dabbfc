//! Packets in the body of a request or response, divided by a separator.

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
use bytes::{BufMut, BytesMut};
use memchr::{memchr, memchr2};

use super::{EnginePacket, MESSAGE, PacketError};
use crate::framing::{Message, MessageKind};

/// Divides two packets. No packet contains it.
pub const SEPARATOR: u8 = 0x1e;

/// The prefix of binary data in base64.
const BINARY: u8 = b'b';

/// Iterates over the packets of a body, in order.
///
/// Binary data is decoded in place: nothing is allocated for it.
#[derive(Debug)]
pub struct PollingPayload<'b> {
    rest: Option<&'b mut [u8]>,
}

impl<'b> PollingPayload<'b> {
    /// Starts to read a body. An empty body counts as one empty packet.
    pub fn read(body: &'b mut [u8]) -> Self {
        Self { rest: Some(body) }
    }

    /// Checks that each part of a body is a valid packet, and returns the first error.
    pub fn check(body: &[u8]) -> Result<(), PacketError> {
        body.split(|byte| *byte == SEPARATOR).try_for_each(|packet| match packet.split_first() {
            Some((&BINARY, text)) if is_base64_in_lines(text) => Ok(()),
            Some((&BINARY, _)) => Err(PacketError::NotBase64),
            _ if simdutf8::basic::from_utf8(packet).is_err() => Err(PacketError::NotUtf8),
            _ => EnginePacket::read_text(packet).map(drop),
        })
    }
}

impl<'b> Iterator for PollingPayload<'b> {
    type Item = Result<EnginePacket<'b>, PacketError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.rest.take()?;
        let packet = match memchr(SEPARATOR, rest) {
            Some(end) => {
                let (packet, after) = rest.split_at_mut(end);
                self.rest = after.get_mut(1..);
                packet
            }
            None => rest,
        };
        Some(read_in_place(packet))
    }
}

fn read_in_place(packet: &mut [u8]) -> Result<EnginePacket<'_>, PacketError> {
    if packet.first() == Some(&BINARY) {
        let data = decode_in_place(&mut packet[1..])?;
        return Ok(EnginePacket::Message(Message { kind: MessageKind::Binary, data }));
    }
    match simdutf8::basic::from_utf8(packet) {
        Ok(_) => EnginePacket::read_text(packet),
        Err(_) => Err(PacketError::NotUtf8),
    }
}

/// Appends a message as a packet of a body, without a separator. Text that contains the separator is sent as binary
/// data, as it would otherwise be read as two packets.
pub fn put_message(message: Message<'_>, out: &mut BytesMut) {
    if message.kind == MessageKind::Text && memchr(SEPARATOR, message.data).is_none() {
        out.put_u8(MESSAGE);
        return out.put_slice(message.data);
    }
    out.put_u8(BINARY);
    let start = out.len();
    let length = base64::encoded_len(message.data.len(), true).unwrap_or_default();
    out.put_bytes(0, length);
    // The buffer has exactly the encoded length, so that encoding cannot fail.
    let _ = BASE64_STANDARD.encode_slice(message.data, &mut out[start..]);
}

/// How many bytes are decoded at a time. A multiple of four.
const PIECE_BYTES: usize = 64;

/// Decodes base64 in place, piece by piece: the decoded bytes are never longer than the text they come from.
fn decode_in_place(text: &mut [u8]) -> Result<&[u8], PacketError> {
    let length = join_lines(text);
    let text = &mut text[..length];
    let padding = text.iter().rev().take(2).take_while(|byte| **byte == b'=').count();
    let length = text.len() - padding;
    if padding > 0 && !text.len().is_multiple_of(4) {
        return Err(PacketError::NotBase64);
    }
    let mut decoded = 0;
    for begin in (0..length).step_by(PIECE_BYTES) {
        let end = length.min(begin + PIECE_BYTES);
        let mut piece = [0; PIECE_BYTES];
        let count = BASE64_STANDARD_NO_PAD
            .decode_slice(&text[begin..end], &mut piece)
            .map_err(|_| PacketError::NotBase64)?;
        text[decoded..decoded + count].copy_from_slice(&piece[..count]);
        decoded += count;
    }
    Ok(&text[..decoded])
}

fn is_line_break(byte: u8) -> bool {
    matches!(byte, b'\r' | b'\n')
}

/// Removes line breaks, which some libraries (Java's among them) put into base64 and behind it (RFC 2045). Returns the
/// length that remains.
fn join_lines(text: &mut [u8]) -> usize {
    let Some(first) = memchr2(b'\r', b'\n', text) else { return text.len() };
    let mut length = first;
    for at in first..text.len() {
        if !is_line_break(text[at]) {
            text[length] = text[at];
            length += 1;
        }
    }
    length
}

/// Whether [`decode_in_place`] can decode the text.
fn is_base64_in_lines(text: &[u8]) -> bool {
    match memchr2(b'\r', b'\n', text) {
        None => is_base64(text),
        Some(_) => {
            let joined: Vec<u8> = text.iter().copied().filter(|byte| !is_line_break(*byte)).collect();
            is_base64(&joined)
        }
    }
}

/// The same for text without line breaks.
fn is_base64(text: &[u8]) -> bool {
    let mut piece = [0; PIECE_BYTES];
    let padding = text.iter().rev().take(2).take_while(|byte| **byte == b'=').count();
    (padding == 0 || text.len().is_multiple_of(4))
        && text[..text.len() - padding]
            .chunks(PIECE_BYTES)
            .all(|chunk| BASE64_STANDARD_NO_PAD.decode_slice(chunk, &mut piece).is_ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(data: &[u8]) -> EnginePacket<'_> {
        EnginePacket::Message(Message { kind: MessageKind::Text, data })
    }

    fn binary(data: &[u8]) -> EnginePacket<'_> {
        EnginePacket::Message(Message { kind: MessageKind::Binary, data })
    }

    #[test]
    fn packets_stand_one_behind_another() {
        let mut body = *b"4hello\x1ebAQIDBA==\x1e3\x1e1";
        let packets: Vec<_> = PollingPayload::read(&mut body).collect();
        assert_eq!(
            packets,
            [
                Ok(text(b"hello")),
                Ok(binary(&[1, 2, 3, 4])),
                Ok(EnginePacket::Pong(b"")),
                Ok(EnginePacket::Close)
            ]
        );
    }

    #[test]
    fn line_breaks_in_base64_are_passed_over() {
        let data: Vec<u8> = (0..=255).collect();
        let encoded = BASE64_STANDARD.encode(&data);
        for line_break in ["\n", "\r\n"] {
            let lines: Vec<&str> =
                encoded.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
            let body = format!("b{}{line_break}\x1ebAQ==\n\x1eb\n\x1e4a\nb", lines.join(line_break));
            assert_eq!(PollingPayload::check(body.as_bytes()), Ok(()));
            let mut body = body.into_bytes();
            let packets: Vec<_> = PollingPayload::read(&mut body).collect();
            assert_eq!(packets, [Ok(binary(&data)), Ok(binary(&[1])), Ok(binary(&[])), Ok(text(b"a\nb"))]);
        }
        for wrong in [&b"bAQ=\n="[..], b"bA\n", b"bAQ= ="] {
            assert_eq!(PollingPayload::check(wrong).is_ok(), wrong == b"bAQ=\n=", "{wrong:?}");
        }
    }

    #[test]
    fn what_is_no_packet_is_refused_whether_it_is_read_or_only_checked() {
        for (body, fault) in [
            (&b""[..], PacketError::Empty),
            (b"4a\x1e", PacketError::Empty),
            (b"abc", PacketError::UnknownType),
            (b"bA", PacketError::NotBase64),
            (b"bAQ=", PacketError::NotBase64),
            (b"bAQ===", PacketError::NotBase64),
            (b"b!!!!", PacketError::NotBase64),
            (b"bA===", PacketError::NotBase64),
            (b"4\xff", PacketError::NotUtf8),
            (b"4a\x1e9", PacketError::UnknownType),
        ] {
            assert_eq!(PollingPayload::check(body), Err(fault), "{body:?}");
            let read: Result<Vec<_>, _> =
                PollingPayload::read(&mut body.to_vec()).map(|one| one.map(drop)).collect();
            assert_eq!(read, Err(fault), "{body:?}");
        }
        let mut unpadded = *b"bAQ";
        assert_eq!(
            PollingPayload::read(&mut unpadded).next(),
            Some(Ok(binary(&[1]))),
            "some leave the padding out"
        );
    }

    #[test]
    fn text_that_holds_a_separator_is_sent_as_data() {
        let mut out = BytesMut::new();
        put_message(Message { kind: MessageKind::Text, data: b"a\x1eb" }, &mut out);
        assert_eq!(PollingPayload::read(&mut out).collect::<Vec<_>>(), [Ok(binary(b"a\x1eb"))]);
    }

    proptest! {
        #[test]
        fn messages_read_back_as_they_were_put(messages: Vec<(bool, Vec<u8>)>) {
            let messages: Vec<(MessageKind, Vec<u8>)> = messages
                .into_iter()
                .map(|(is_text, data)| match is_text && !data.contains(&SEPARATOR) && std::str::from_utf8(&data).is_ok() {
                    true => (MessageKind::Text, data),
                    false => (MessageKind::Binary, data),
                })
                .collect();
            let mut body = BytesMut::new();
            for (at, (kind, data)) in messages.iter().enumerate() {
                if at > 0 {
                    body.put_u8(SEPARATOR);
                }
                put_message(Message { kind: *kind, data }, &mut body);
            }
            if !messages.is_empty() {
                prop_assert_eq!(PollingPayload::check(&body), Ok(()));
                let read: Vec<_> = PollingPayload::read(&mut body).collect();
                let put: Vec<_> =
                    messages.iter().map(|(kind, data)| Ok(EnginePacket::Message(Message { kind: *kind, data }))).collect();
                prop_assert_eq!(read, put);
            }
        }

        #[test]
        fn reading_and_checking_agree_on_any_bytes(body: Vec<u8>) {
            let checked = PollingPayload::check(&body);
            let read = PollingPayload::read(&mut body.clone()).try_for_each(|packet| packet.map(drop));
            prop_assert_eq!(read, checked);
        }
    }
}
