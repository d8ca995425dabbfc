//! Framing of pushes as pieces of a response without an end: server-sent events, lines, or length-delimited messages.
//!
//! Over HTTP/1.1 each piece is a chunk (RFC 9112 §7.1), so that the shared bytes are exactly what is written to the
//! socket.

use bytes::{Bytes, BytesMut};
use shared::framing::MessageKind;

use super::variants::PushFraming;

/// Bytes of a chunk's length in hexadecimal digits and its line end. No message is longer than a u32 can say.
const CHUNK_HEADER_BYTES_MAX: usize = 10;
const CHUNK_END: &[u8] = b"\r\n";
/// The chunk that ends a chunked response.
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// The layout of messages in the response.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Layout {
    /// Each message is the data of an event, for `EventSource`.
    EventStream,
    /// Messages are events already, encoded by the protocol, and are sent as they are.
    Events,
    /// One message per line.
    Lines,
    /// Messages as they are: each begins with its length.
    Delimited,
}

/// The framing of a response without an end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct StreamFrames {
    pub layout: Layout,
    /// Whether each piece is a chunk of HTTP/1.1.
    pub chunked: bool,
}

impl StreamFrames {
    pub const COUNT: usize = 8;

    pub const ALL: [Self; Self::COUNT] = [
        Self { layout: Layout::EventStream, chunked: false },
        Self { layout: Layout::EventStream, chunked: true },
        Self { layout: Layout::Lines, chunked: false },
        Self { layout: Layout::Lines, chunked: true },
        Self { layout: Layout::Delimited, chunked: false },
        Self { layout: Layout::Delimited, chunked: true },
        Self { layout: Layout::Events, chunked: false },
        Self { layout: Layout::Events, chunked: true },
    ];

    /// Returns the index in [`StreamFrames::ALL`].
    pub fn index(self) -> usize {
        let layout = match self.layout {
            Layout::EventStream => 0,
            Layout::Lines => 2,
            Layout::Delimited => 4,
            Layout::Events => 6,
        };
        layout + usize::from(self.chunked)
    }

    /// Returns the bytes that end the response.
    pub fn end(self) -> &'static [u8] {
        if self.chunked { LAST_CHUNK } else { b"" }
    }

    /// Returns a piece that is no message and shows that the stream is alive, if the layout has one. A comment of an
    /// event stream must not be followed by an empty line: some readers make an event of it.
    pub fn keep_alive(self) -> Option<Bytes> {
        matches!(self.layout, Layout::EventStream | Layout::Events).then(|| self.piece(b":\n"))
    }

    /// Returns a piece that holds these bytes and is no message.
    pub fn piece(self, bytes: &[u8]) -> Bytes {
        self.piece_of(bytes.len(), |buffer| buffer.extend_from_slice(bytes))
    }

    /// Returns a piece of the bytes that `append` appends, which are about `bytes` many.
    pub fn piece_of(self, bytes: usize, append: impl FnOnce(&mut BytesMut)) -> Bytes {
        let mut buffer = BytesMut::with_capacity(CHUNK_HEADER_BYTES_MAX + bytes + CHUNK_END.len());
        buffer.resize(CHUNK_HEADER_BYTES_MAX, 0);
        append(&mut buffer);
        let start = self.enclose(CHUNK_HEADER_BYTES_MAX, &mut buffer);
        buffer.freeze().slice(start..)
    }

    /// Returns the bytes before and after each message.
    fn around(self) -> (&'static [u8], &'static [u8]) {
        match self.layout {
            Layout::EventStream => (b"data: ", b"\n\n"),
            Layout::Lines => (b"", b"\n"),
            Layout::Delimited | Layout::Events => (b"", b""),
        }
    }

    /// Makes the buffer from `start` on a piece. Returns where the piece begins.
    fn enclose(self, start: usize, buffer: &mut BytesMut) -> usize {
        if !self.chunked {
            return start;
        }
        let mut header = [0; CHUNK_HEADER_BYTES_MAX];
        let mut at = CHUNK_HEADER_BYTES_MAX - 2;
        header[at..].copy_from_slice(CHUNK_END);
        let mut left = buffer.len().saturating_sub(start);
        while at > 0 {
            at -= 1;
            header[at] = b"0123456789abcdef"[left & 0xf];
            left >>= 4;
            if left == 0 {
                break;
            }
        }
        let header = &header[at..];
        let begin = start.saturating_sub(header.len());
        if let Some(room) = buffer.get_mut(begin..start) {
            room.copy_from_slice(header);
        }
        buffer.extend_from_slice(CHUNK_END);
        begin
    }
}

impl PushFraming for StreamFrames {
    fn headroom(&self) -> usize {
        CHUNK_HEADER_BYTES_MAX + self.around().0.len()
    }

    fn seal(&self, _kind: MessageKind, buffer: &mut BytesMut) -> usize {
        let (before, after) = self.around();
        let headroom = self.headroom();
        if self.layout == Layout::EventStream {
            fold_lines(headroom, buffer);
        }
        let start = headroom - before.len();
        if let Some(room) = buffer.get_mut(start..headroom) {
            room.copy_from_slice(before);
        }
        buffer.extend_from_slice(after);
        self.enclose(start, buffer)
    }

    /// Returns `None`: a response is deflated as a whole or not at all.
    fn deflate(&self, _kind: MessageKind, _message: &[u8]) -> Option<Bytes> {
        None
    }
}

/// Splits a message into one `data` field per line, because a line end ends a field. The reader joins the fields with
/// line feeds.
fn fold_lines(start: usize, buffer: &mut BytesMut) {
    let is_end = |byte: &u8| matches!(byte, b'\n' | b'\r');
    if !buffer.iter().skip(start).any(is_end) {
        return;
    }
    let message = buffer.split_off(start.min(buffer.len()));
    let mut rest = &message[..];
    while let Some(end) = rest.iter().position(is_end) {
        buffer.extend_from_slice(&rest[..end]);
        buffer.extend_from_slice(b"\ndata: ");
        let is_pair = rest[end..].starts_with(b"\r\n");
        rest = &rest[end + 1 + usize::from(is_pair)..];
    }
    buffer.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(layout: Layout, chunked: bool, message: &[u8]) -> String {
        let frames = StreamFrames { layout, chunked };
        let mut buffer = BytesMut::zeroed(frames.headroom());
        buffer.extend_from_slice(message);
        let start = frames.seal(MessageKind::Text, &mut buffer);
        String::from_utf8(buffer[start..].to_vec()).unwrap()
    }

    #[test]
    fn a_message_is_an_event_a_line_or_as_it_is() {
        assert_eq!(sealed(Layout::EventStream, false, b"{}"), "data: {}\n\n");
        assert_eq!(sealed(Layout::Lines, false, b"{}"), "{}\n");
        assert_eq!(sealed(Layout::Delimited, false, b"\x02{}"), "\x02{}");
    }

    #[test]
    fn a_chunk_says_how_long_it_is() {
        assert_eq!(sealed(Layout::EventStream, true, b"{}"), "a\r\ndata: {}\n\n\r\n");
        assert_eq!(
            sealed(Layout::Lines, true, &[b'x'; 0xfff]),
            format!("1000\r\n{}\n\r\n", "x".repeat(0xfff))
        );
        assert_eq!(sealed(Layout::Delimited, true, &[b'x'; 17]), format!("11\r\n{}\r\n", "x".repeat(17)));
        let frames = StreamFrames { layout: Layout::Lines, chunked: true };
        assert_eq!(frames.piece(b"\r\n"), "2\r\n\r\n\r\n");
        assert_eq!(frames.end(), LAST_CHUNK);
    }

    #[test]
    fn every_line_of_an_event_is_a_field() {
        assert_eq!(
            sealed(Layout::EventStream, false, b"a\nb\r\n\rc"),
            "data: a\ndata: b\ndata: \ndata: c\n\n"
        );
    }

    #[test]
    fn every_layout_has_its_place() {
        for (place, frames) in StreamFrames::ALL.into_iter().enumerate() {
            assert_eq!(frames.index(), place);
        }
    }
}
