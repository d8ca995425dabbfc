//! A server's reading of clients' frames, in one piece and in all possible pieces.

mod chopped;
mod compressed;
mod memory_and_limits;
mod order;
mod text_and_close;

use bytes::BytesMut;
use shared::framing::websocket::{
    Assembler, Deflater, FrameError, FrameEvent, FrameHeader, Inflater, Limits, Opcode, Role, encode_masked,
};
use shared::framing::{Message, MessageKind};

const LIMITS: Limits = Limits { message_bytes_max: 2 << 20, frame_bytes_max: 2 << 20, fragments_max: 2000 };

#[derive(Clone, PartialEq, Eq, Debug)]
enum Seen {
    Message(MessageKind, Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
    Error(FrameError),
}

impl From<Result<FrameEvent<'_>, FrameError>> for Seen {
    fn from(event: Result<FrameEvent<'_>, FrameError>) -> Self {
        match event {
            Ok(FrameEvent::Message(Message { kind, data })) => Self::Message(kind, data.to_vec()),
            Ok(FrameEvent::Ping(data)) => Self::Ping(data.to_vec()),
            Ok(FrameEvent::Pong(data)) => Self::Pong(data.to_vec()),
            Ok(FrameEvent::Close(close)) => Self::Close(close.code, close.reason.to_owned()),
            Err(error) => Self::Error(error),
        }
    }
}

fn text(data: &str) -> Seen {
    Seen::Message(MessageKind::Text, data.as_bytes().to_vec())
}

/// One connection and all events read from it.
struct Peer {
    assembler: Assembler,
    inflater: Inflater,
    limits: Limits,
    seen: Vec<Seen>,
}

impl Peer {
    fn new(limits: Limits) -> Self {
        Self {
            assembler: Assembler::new(Role::Server, true),
            inflater: Inflater::new(),
            limits,
            seen: vec![],
        }
    }

    fn says(&mut self, bytes: &[u8]) {
        let mut buffer = bytes.to_vec();
        let mut unread = &mut buffer[..];
        loop {
            match self.assembler.next(&mut unread, &self.limits, &mut self.inflater) {
                Ok(Some(event)) => self.seen.push(Ok(event).into()),
                Ok(None) => break,
                Err(error) => self.seen.push(Seen::Error(error)),
            }
        }
        assert!(unread.is_empty(), "None means that everything is used up");
    }
}

/// Returns the events of bytes that arrive at once, after checking that they are the same when the bytes arrive one by one.
fn seen(bytes: &[u8]) -> Vec<Seen> {
    let mut whole = Peer::new(LIMITS);
    whole.says(bytes);
    let mut chopped = Peer::new(LIMITS);
    bytes.iter().for_each(|byte| chopped.says(&[*byte]));
    assert_eq!(whole.seen, chopped.seen, "in one piece and octet by octet");
    whole.seen
}

fn frame(fin: bool, rsv1: bool, opcode: Opcode, payload: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    let header = FrameHeader { fin, rsv1, opcode, mask: None, length: 0 };
    encode_masked(header, payload, [0x37, 0xfa, 0x21, 0x3d], &mut out);
    out
}

fn whole(opcode: Opcode, payload: &[u8]) -> BytesMut {
    frame(true, false, opcode, payload)
}

fn part(opcode: Opcode, payload: &[u8]) -> BytesMut {
    frame(false, false, opcode, payload)
}

fn all<const N: usize>(frames: [BytesMut; N]) -> Vec<u8> {
    frames.concat()
}
