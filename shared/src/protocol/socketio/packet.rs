//! The head of a packet: its kind, the number of its attachments, its namespace, and the number of its acknowledgement.

use bytes::{BufMut, BytesMut};

use crate::protocol::json;

/// The namespace of packets that name none.
pub(super) const MAIN: &str = "/";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PacketKind {
    Connect = 0,
    Disconnect = 1,
    Event = 2,
    Ack = 3,
    ConnectError = 4,
    BinaryEvent = 5,
    BinaryAck = 6,
}

impl PacketKind {
    fn of(digit: u8) -> Option<Self> {
        let all = [
            Self::Connect,
            Self::Disconnect,
            Self::Event,
            Self::Ack,
            Self::ConnectError,
            Self::BinaryEvent,
            Self::BinaryAck,
        ];
        all.get(usize::from(digit.checked_sub(b'0')?)).copied()
    }

    fn has_attachments(self) -> bool {
        matches!(self, Self::BinaryEvent | Self::BinaryAck)
    }
}

/// A packet without its attachments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Packet<'a> {
    pub(super) kind: PacketKind,
    /// The number of binary messages that follow.
    pub(super) attachments: u32,
    pub(super) namespace: &'a str,
    pub(super) ack: Option<u64>,
    /// Unparsed JSON; empty if there is none.
    pub(super) data: &'a str,
}

impl<'a> Packet<'a> {
    /// Reads a packet. `None` if the text is not one.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let kind = PacketKind::of(*text.as_bytes().first()?)?;
        let mut rest = &text[1..];
        let mut attachments = 0;
        if kind.has_attachments() {
            let (count, behind) = rest.split_once('-')?;
            attachments = number(count)?.try_into().ok()?;
            rest = behind;
        }
        let mut namespace = MAIN;
        if rest.starts_with('/') {
            (namespace, rest) = rest.split_once(',').unwrap_or((rest, ""));
        }
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let ack = match digits {
            0 => None,
            _ => Some(number(&rest[..digits])?),
        };
        Some(Self { kind, attachments, namespace, ack, data: &rest[digits..] })
    }
}

/// Writes the head of a packet.
pub(super) fn begin(
    kind: PacketKind,
    attachments: usize,
    namespace: &str,
    ack: Option<u64>,
    out: &mut BytesMut,
) {
    out.put_u8(b'0' + kind as u8);
    if kind.has_attachments() {
        json::number(attachments as u64, out);
        out.put_u8(b'-');
    }
    if namespace != MAIN {
        out.put_slice(namespace.as_bytes());
        out.put_u8(b',');
    }
    if let Some(ack) = ack {
        json::number(ack, out);
    }
}

/// Reads a number that consists of digits only and fits.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_read_as_it_is_written() {
        for (text, kind, attachments, namespace, ack, data) in [
            ("0", PacketKind::Connect, 0, "/", None, ""),
            ("0{\"token\":\"x\"}", PacketKind::Connect, 0, "/", None, "{\"token\":\"x\"}"),
            ("0/admin,{}", PacketKind::Connect, 0, "/admin", None, "{}"),
            ("1/admin,", PacketKind::Disconnect, 0, "/admin", None, ""),
            ("2[\"foo\",1]", PacketKind::Event, 0, "/", None, "[\"foo\",1]"),
            ("212[\"foo\"]", PacketKind::Event, 0, "/", Some(12), "[\"foo\"]"),
            ("3/admin,0[]", PacketKind::Ack, 0, "/admin", Some(0), "[]"),
            ("4{\"message\":\"no\"}", PacketKind::ConnectError, 0, "/", None, "{\"message\":\"no\"}"),
            ("51-[\"baz\",1]", PacketKind::BinaryEvent, 1, "/", None, "[\"baz\",1]"),
            ("52-/admin,7[\"baz\"]", PacketKind::BinaryEvent, 2, "/admin", Some(7), "[\"baz\"]"),
            ("61-7[1]", PacketKind::BinaryAck, 1, "/", Some(7), "[1]"),
        ] {
            let packet = Packet { kind, attachments, namespace, ack, data };
            assert_eq!(Packet::parse(text), Some(packet));
            let mut out = BytesMut::new();
            begin(kind, attachments as usize, namespace, ack, &mut out);
            out.extend_from_slice(data.as_bytes());
            assert_eq!(out, text);
        }
        // Some clients leave out the comma.
        assert_eq!(Packet::parse("0/admin").map(|packet| packet.namespace), Some("/admin"));
    }

    #[test]
    fn what_is_no_packet_is_none() {
        for text in ["", "7", "a", "é", "5[]", "5-[]", "5x-[]", "599999999999-[]", "299999999999999999999[]"]
        {
            assert_eq!(Packet::parse(text), None, "{text}");
        }
    }
}
