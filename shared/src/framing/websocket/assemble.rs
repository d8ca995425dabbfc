//! The incoming side of one connection: assembles arriving bytes into messages, pings, pongs and the close.
//!
//! A message that arrives whole is returned from within the caller's buffer. Only the incomplete rest is copied to the
//! heap, until it is complete.

use super::deflate::Inflater;
use super::frame::{FrameError, FrameHeader, HEADER_BYTES_MAX, Opcode, Role};
use super::mask::apply_mask;
use crate::framing::{Message, MessageKind};

/// Bounds on what one peer may send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// The largest message, in bytes, after inflating.
    pub message_bytes_max: usize,
    /// The largest payload of one frame, in bytes.
    pub frame_bytes_max: usize,
    /// The most frames in one message.
    pub fragments_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { message_bytes_max: 64 * 1024, frame_bytes_max: 64 * 1024, fragments_max: 1024 }
    }
}

/// An event that the peer's bytes amount to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameEvent<'a> {
    /// A whole message. Text is UTF-8.
    Message(Message<'a>),
    /// A ping, to be answered with a pong that holds the same data.
    Ping(&'a [u8]),
    Pong(&'a [u8]),
    /// The peer closes. This is the last event.
    Close(CloseFrame<'a>),
}

/// The body of a close frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CloseFrame<'a> {
    /// The code with which to answer, valid in a close frame; `None` if the peer gave no code.
    pub code: Option<u16>,
    pub reason: &'a str,
}

/// The incoming side of one connection.
#[derive(Debug)]
pub struct Assembler {
    partial: Option<Box<PartialFrame>>,
    role: Role,
    deflate: bool,
    ended: bool,
}

impl Assembler {
    /// Makes an assembler. `deflate` says whether permessage-deflate was negotiated.
    pub fn new(role: Role, deflate: bool) -> Self {
        Self { partial: None, role, deflate, ended: false }
    }

    /// Takes the next event from the front of `unread`, which then starts after it. `None` means that all bytes are
    /// consumed: an incomplete frame or message is kept until more bytes arrive.
    ///
    /// Payloads are unmasked in place. After a close or an error, all further bytes are discarded.
    pub fn next<'e, 'b: 'e>(
        &'e mut self,
        unread: &mut &'b mut [u8],
        limits: &Limits,
        inflater: &'e mut Inflater,
    ) -> Result<Option<FrameEvent<'e>>, FrameError> {
        self.drop_spent();
        let found = if self.ended { Ok(Found::Nothing) } else { self.find(unread, limits) };
        let Self { partial, ended, .. } = self;
        let event = found.and_then(|found| match (found, partial) {
            (Found::Whole(header, payload), _) => reveal(header, payload, limits, inflater).map(Some),
            (Found::HeldControl(header), Some(partial)) => {
                partial.spent = Spent::Control;
                reveal(header, &partial.control, limits, inflater).map(Some)
            }
            (Found::HeldMessage, Some(partial)) => {
                partial.spent = Spent::Message;
                let message = partial.message.as_ref();
                message.map(|message| message.reveal(limits, inflater).map(FrameEvent::Message)).transpose()
            }
            _ => Ok(None),
        });
        if !matches!(event, Ok(Some(FrameEvent::Message(_) | FrameEvent::Ping(_) | FrameEvent::Pong(_)))) {
            *unread = &mut [];
        }
        *ended |= matches!(event, Err(_) | Ok(Some(FrameEvent::Close(_))));
        event
    }

    /// Whether no frame or message is incomplete, so that no memory is held.
    pub fn is_idle(&self) -> bool {
        self.partial.is_none()
    }

    /// Returns the bytes held for an incomplete frame or message.
    pub fn held_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| {
            let message = partial.message.as_ref().map_or(0, |message| message.data.capacity());
            size_of::<PartialFrame>() + partial.control.capacity() + message
        })
    }

    /// Reads up to the end of a message or of a control frame.
    fn find<'b>(&mut self, unread: &mut &'b mut [u8], limits: &Limits) -> Result<Found<'b>, FrameError> {
        loop {
            if self.partial.as_ref().is_none_or(|partial| partial.frame.is_none()) {
                let Some(header) = self.take_header(unread)? else { return Ok(Found::Nothing) };
                let length = self.check(header, limits)?;
                // A whole payload is used in place, unless it belongs to a message that is being assembled.
                if (header.opcode.is_control() || (header.fin && header.opcode != Opcode::Continuation))
                    && let Some(payload) = unread.split_off_mut(..length)
                {
                    unmask(payload, header.mask, 0);
                    return Ok(Found::Whole(header, payload));
                }
                self.partial_mut().start(header, length);
            }
            let Some(partial) = &mut self.partial else { return Ok(Found::Nothing) };
            match partial.take_payload(unread)? {
                Some(header) if header.opcode.is_control() => return Ok(Found::HeldControl(header)),
                Some(header) if header.fin => return Ok(Found::HeldMessage),
                Some(_) => {}
                None => return Ok(Found::Nothing),
            }
        }
    }

    fn take_header(&mut self, unread: &mut &mut [u8]) -> Result<Option<FrameHeader>, FrameError> {
        if let Some(partial) = &mut self.partial
            && partial.header_length > 0
        {
            while let Some(byte) = unread.split_off_first_mut() {
                partial.header[partial.header_length] = *byte;
                partial.header_length += 1;
                if let Some((header, _)) = FrameHeader::parse(&partial.header[..partial.header_length])? {
                    partial.header_length = 0;
                    return Ok(Some(header));
                }
            }
            return Ok(None);
        }
        if let Some((header, length)) = FrameHeader::parse(unread)? {
            *unread = std::mem::take(unread).get_mut(length..).unwrap_or_default();
            return Ok(Some(header));
        }
        // 14 bytes always hold a whole header or an error, so that fewer remain here.
        if !unread.is_empty() {
            let partial = self.partial_mut();
            partial.header_length = unread.len();
            partial.header[..unread.len()].copy_from_slice(unread);
        }
        Ok(None)
    }

    /// Checks a header against the frames before it and the limits, before any payload is taken. Returns the payload's length.
    fn check(&self, header: FrameHeader, limits: &Limits) -> Result<usize, FrameError> {
        match (self.role, header.mask) {
            (Role::Server, None) => return Err(FrameError::NotMasked),
            (Role::Client, Some(_)) => return Err(FrameError::Masked),
            _ => {}
        }
        if header.rsv1 && !self.deflate {
            return Err(FrameError::ReservedBit);
        }
        let length = usize::try_from(header.length).map_err(|_| FrameError::FrameTooBig)?;
        if header.opcode.is_control() {
            return Ok(length);
        }
        let message = self.partial.as_ref().and_then(|partial| partial.message.as_ref());
        match (header.opcode, message) {
            (Opcode::Continuation, None) => return Err(FrameError::NothingToContinue),
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(FrameError::MessageNotEnded),
            _ => {}
        }
        let compressed = header.rsv1 || message.is_some_and(|message| message.compressed);
        if length > on_the_wire(limits.frame_bytes_max, compressed) {
            return Err(FrameError::FrameTooBig);
        }
        let gathered = message.map_or(0, |message| message.data.len());
        if gathered.saturating_add(length) > on_the_wire(limits.message_bytes_max, compressed) {
            return Err(FrameError::MessageTooBig);
        }
        let fragments = message.map_or(0, |message| message.fragments);
        if fragments >= limits.fragments_max {
            return Err(FrameError::TooManyFragments);
        }
        Ok(length)
    }

    fn partial_mut(&mut self) -> &mut PartialFrame {
        self.partial.get_or_insert_default()
    }

    /// Drops the data that the last event borrowed, and the whole state once nothing is incomplete.
    fn drop_spent(&mut self) {
        let Some(partial) = &mut self.partial else { return };
        match std::mem::take(&mut partial.spent) {
            Spent::Control => partial.control = Vec::new(),
            Spent::Message => partial.message = None,
            Spent::Nothing => {}
        }
        if self.ended || partial.header_length == 0 && partial.frame.is_none() && partial.message.is_none() {
            self.partial = None;
        }
    }
}

/// Whether a code may stand in a close frame (RFC 6455 §7.4).
pub fn is_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1011 | 3000..=4999)
}

/// The incomplete frame or message.
#[derive(Default, Debug)]
struct PartialFrame {
    /// The first bytes of a header.
    header: [u8; HEADER_BYTES_MAX],
    header_length: usize,
    /// The frame whose payload is arriving.
    frame: Option<Frame>,
    /// The payload of a ping, pong or close so far. At most 125 bytes.
    control: Vec<u8>,
    /// The message whose frames are arriving. Control frames may come in between.
    message: Option<PartialMessage>,
    /// The data that the last event borrowed.
    spent: Spent,
}

#[derive(Debug)]
struct Frame {
    header: FrameHeader,
    length: usize,
    received: usize,
}

#[derive(Debug)]
struct PartialMessage {
    kind: MessageKind,
    compressed: bool,
    data: Vec<u8>,
    /// How many bytes of `data` are known to be UTF-8, if the message is uncompressed text.
    checked: usize,
    fragments: u32,
}

#[derive(Clone, Copy, Default, Debug)]
enum Spent {
    #[default]
    Nothing,
    Control,
    Message,
}

enum Found<'b> {
    Nothing,
    Whole(FrameHeader, &'b [u8]),
    HeldControl(FrameHeader),
    HeldMessage,
}

impl PartialFrame {
    /// Starts a frame whose header has been checked.
    fn start(&mut self, header: FrameHeader, length: usize) {
        self.frame = Some(Frame { header, length, received: 0 });
        if header.opcode.is_control() {
            return;
        }
        let kind = if header.opcode == Opcode::Text { MessageKind::Text } else { MessageKind::Binary };
        let compressed = header.rsv1;
        self.message
            .get_or_insert_with(|| PartialMessage {
                kind,
                compressed,
                data: Vec::new(),
                checked: 0,
                fragments: 0,
            })
            .fragments += 1;
    }

    /// Moves payload of the current frame to the heap. Returns the header once the frame is complete.
    fn take_payload(&mut self, unread: &mut &mut [u8]) -> Result<Option<FrameHeader>, FrameError> {
        let Some(frame) = &mut self.frame else { return Ok(None) };
        let header = frame.header;
        let arrived = unread.len().min(frame.length - frame.received);
        let payload = unread.split_off_mut(..arrived).unwrap_or_default();
        unmask(payload, header.mask, frame.received);
        frame.received += arrived;
        let complete = frame.received == frame.length;
        if complete {
            self.frame = None;
        }
        if header.opcode.is_control() {
            self.control.extend_from_slice(payload);
        } else if let Some(message) = &mut self.message {
            message.data.extend_from_slice(payload);
            message.check_text(complete && header.fin)?;
        }
        Ok(complete.then_some(header))
    }
}

impl PartialMessage {
    /// Rejects text as soon as it can no longer become valid UTF-8.
    fn check_text(&mut self, whole: bool) -> Result<(), FrameError> {
        if self.kind == MessageKind::Binary || self.compressed {
            return Ok(());
        }
        match simdutf8::compat::from_utf8(&self.data[self.checked..]) {
            Ok(text) => self.checked += text.len(),
            // The bytes end within a character that may still be completed.
            Err(error) if error.error_len().is_none() && !whole => self.checked += error.valid_up_to(),
            Err(_) => return Err(FrameError::NotUtf8),
        }
        Ok(())
    }

    fn reveal<'e>(&'e self, limits: &Limits, inflater: &'e mut Inflater) -> Result<Message<'e>, FrameError> {
        if self.compressed {
            inflate(self.kind, &self.data, limits, inflater)
        } else {
            // Uncompressed text was checked as it arrived.
            Ok(Message { kind: self.kind, data: &self.data })
        }
    }
}

/// Turns a whole payload into an event: inflates it and checks its text.
fn reveal<'e>(
    header: FrameHeader,
    payload: &'e [u8],
    limits: &Limits,
    inflater: &'e mut Inflater,
) -> Result<FrameEvent<'e>, FrameError> {
    let kind = match header.opcode {
        Opcode::Ping => return Ok(FrameEvent::Ping(payload)),
        Opcode::Pong => return Ok(FrameEvent::Pong(payload)),
        Opcode::Close => return Ok(FrameEvent::Close(read_close(payload)?)),
        Opcode::Text => MessageKind::Text,
        Opcode::Binary | Opcode::Continuation => MessageKind::Binary,
    };
    if header.rsv1 {
        return Ok(FrameEvent::Message(inflate(kind, payload, limits, inflater)?));
    }
    Ok(FrameEvent::Message(checked(kind, payload)?))
}

fn inflate<'e>(
    kind: MessageKind,
    compressed: &[u8],
    limits: &Limits,
    inflater: &'e mut Inflater,
) -> Result<Message<'e>, FrameError> {
    checked(kind, inflater.inflate(compressed, limits.message_bytes_max)?)
}

fn checked(kind: MessageKind, data: &[u8]) -> Result<Message<'_>, FrameError> {
    if kind == MessageKind::Text && simdutf8::basic::from_utf8(data).is_err() {
        return Err(FrameError::NotUtf8);
    }
    Ok(Message { kind, data })
}

fn read_close(payload: &[u8]) -> Result<CloseFrame<'_>, FrameError> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() {
            Ok(CloseFrame { code: None, reason: "" })
        } else {
            Err(FrameError::CloseTooShort)
        };
    };
    let code = u16::from_be_bytes(*code);
    if !is_close_code(code) {
        return Err(FrameError::CloseCode(code));
    }
    let reason = std::str::from_utf8(reason).map_err(|_| FrameError::NotUtf8)?;
    Ok(CloseFrame { code: Some(code), reason })
}

fn unmask(payload: &mut [u8], mask: Option<[u8; 4]>, offset: usize) {
    if let Some(key) = mask {
        apply_mask(payload, key, offset);
    }
}

/// Returns the limit for a payload on the wire. Compression makes incompressible data slightly longer, so that a
/// compressed message of the largest size must be accepted too.
fn on_the_wire(bytes_max: usize, compressed: bool) -> usize {
    if compressed { bytes_max.saturating_add(bytes_max / 1024 + 64) } else { bytes_max }
}
