//! Parses RESP3 on the connection for subscriptions. A message is found by the lengths before its parts and split off the
//! buffer it arrived in, without looking at its payload or copying it.

use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};

/// The longest part that is read. Redis itself allows 512 MiB, and no publication is nearly as long.
const PART_BYTES_MAX: usize = 64 << 20;
/// The deepest nesting of lists. The answers that are asked for here have one list in another.
const DEPTH_MAX: usize = 8;
/// The longest line, which is a length or an error.
const LINE_BYTES_MAX: usize = 64 << 10;

/// A complete reply or push of Redis.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum RespReply {
    Message(RedisMessage),
    Subscribed,
    Unsubscribed,
    /// A channel of sharded pub/sub that is no longer subscribed, because this node unsubscribed or because its slot moved.
    Left(Bytes),
    /// The raw answer to a command, or the text of an error.
    Answer(Result<Bytes, String>),
    /// A push that nobody asked for.
    Other,
}

/// A message of a channel, still in one buffer with its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct RedisMessage {
    whole: Bytes,
    name: Range<usize>,
    data: Range<usize>,
}

impl RedisMessage {
    pub(super) fn name(&self) -> &[u8] {
        self.whole.get(self.name.clone()).unwrap_or_default()
    }

    /// Returns the payload, which shares the memory that the message came in.
    pub(super) fn data(&self) -> Bytes {
        self.whole.slice(self.data.clone())
    }
}

/// The input is not RESP3, or exceeds a bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the answer of Redis is not RESP3, or too long")]
pub(super) struct Malformed;

/// Takes the first reply out of the buffer. Returns `None` while it is incomplete.
pub(super) fn take(buffer: &mut BytesMut) -> Result<Option<RespReply>, Malformed> {
    let bytes = &buffer[..];
    let Some(first) = bytes.first() else { return Ok(None) };
    if *first != b'>' {
        let Some(end) = end_of(bytes, 0, 0)? else { return Ok(None) };
        let whole = buffer.split_to(end).freeze();
        return Ok(Some(match whole[0] {
            // An attribute of the reply that follows, which nobody asked for.
            b'|' => RespReply::Other,
            b'-' | b'!' => {
                let text = String::from_utf8_lossy(&whole[1..]);
                RespReply::Answer(Err(text.trim().chars().take(200).collect()))
            }
            _ => RespReply::Answer(Ok(whole)),
        }));
    }
    let Some((parts, start)) = length(bytes, 1)? else { return Ok(None) };
    let Some(kind) = text(bytes, start)? else { return Ok(None) };
    if parts == 4 && &bytes[kind.clone()] == b"pmessage" {
        let Some(pattern) = text(bytes, kind.end + 2)? else { return Ok(None) };
        return message(buffer, pattern.end + 2);
    }
    let reply = match &bytes[kind.clone()] {
        b"message" | b"smessage" if parts == 3 => return message(buffer, kind.end + 2),
        b"subscribe" | b"psubscribe" | b"ssubscribe" if parts == 3 => RespReply::Subscribed,
        b"unsubscribe" if parts == 3 => RespReply::Unsubscribed,
        b"sunsubscribe" if parts == 3 => return left(buffer, kind.end + 2),
        _ => RespReply::Other,
    };
    let Some(end) = end_of(bytes, 0, 0)? else { return Ok(None) };
    buffer.advance(end);
    Ok(Some(reply))
}

/// Takes out a push saying that a channel of sharded pub/sub is no longer subscribed. Its name begins at `at`.
fn left(buffer: &mut BytesMut, at: usize) -> Result<Option<RespReply>, Malformed> {
    let Some(end) = end_of(buffer, 0, 0)? else { return Ok(None) };
    // Without a subscription, the push has no name.
    let name = match buffer.get(at..at + 2) {
        Some(b"$-") => None,
        _ => text(buffer, at)?,
    };
    let whole = buffer.split_to(end).freeze();
    Ok(Some(name.map_or(RespReply::Other, |name| RespReply::Left(whole.slice(name)))))
}

/// Takes a message out of the buffer. Its channel name begins at `at`.
fn message(buffer: &mut BytesMut, at: usize) -> Result<Option<RespReply>, Malformed> {
    let Some(name) = text(buffer, at)? else { return Ok(None) };
    let Some(data) = text(buffer, name.end + 2)? else { return Ok(None) };
    let whole = buffer.split_to(data.end + 2).freeze();
    Ok(Some(RespReply::Message(RedisMessage { whole, name, data })))
}

/// Returns the range of a bulk string whose `$` is at `at`, once the string and the line break behind it have arrived.
fn text(bytes: &[u8], at: usize) -> Result<Option<Range<usize>>, Malformed> {
    match bytes.get(at) {
        None => return Ok(None),
        Some(b'$') => {}
        Some(_) => return Err(Malformed),
    }
    let Some((length, start)) = length(bytes, at + 1)? else { return Ok(None) };
    let end = start + length;
    match bytes.get(end..end + 2) {
        Some(b"\r\n") => Ok(Some(start..end)),
        Some(_) => Err(Malformed),
        None => Ok(None),
    }
}

/// Returns the number between `at` and the end of its line, and where the next line begins.
fn length(bytes: &[u8], at: usize) -> Result<Option<(usize, usize)>, Malformed> {
    let mut value = 0;
    for (index, byte) in bytes.iter().enumerate().skip(at) {
        match byte {
            b'0'..=b'9' => value = value * 10 + usize::from(byte - b'0'),
            b'\r' if index > at => {
                return match bytes.get(index + 1) {
                    Some(b'\n') => Ok(Some((value, index + 2))),
                    Some(_) => Err(Malformed),
                    None => Ok(None),
                };
            }
            _ => return Err(Malformed),
        }
        if value > PART_BYTES_MAX {
            return Err(Malformed);
        }
    }
    Ok(None)
}

/// Returns the end of the value that begins at `at`, once the value has arrived.
fn end_of(bytes: &[u8], at: usize, depth: usize) -> Result<Option<usize>, Malformed> {
    if depth > DEPTH_MAX {
        return Err(Malformed);
    }
    let Some(kind) = bytes.get(at) else { return Ok(None) };
    match kind {
        b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => line_end(bytes, at),
        b'$' | b'!' | b'=' | b'*' if bytes.get(at + 1) == Some(&b'-') => line_end(bytes, at),
        b'$' | b'!' | b'=' => {
            let Some((length, start)) = length(bytes, at + 1)? else { return Ok(None) };
            match bytes.get(start + length..start + length + 2) {
                Some(b"\r\n") => Ok(Some(start + length + 2)),
                Some(_) => Err(Malformed),
                None => Ok(None),
            }
        }
        b'*' | b'~' | b'>' | b'%' | b'|' => {
            let Some((count, mut next)) = length(bytes, at + 1)? else { return Ok(None) };
            let each = if matches!(kind, b'%' | b'|') { 2 } else { 1 };
            for _ in 0..count * each {
                let Some(end) = end_of(bytes, next, depth + 1)? else { return Ok(None) };
                next = end;
            }
            Ok(Some(next))
        }
        _ => Err(Malformed),
    }
}

fn line_end(bytes: &[u8], at: usize) -> Result<Option<usize>, Malformed> {
    let line = &bytes[at..bytes.len().min(at + LINE_BYTES_MAX)];
    match memchr::memchr(b'\n', line) {
        Some(end) => Ok(Some(at + end + 1)),
        None if line.len() == LINE_BYTES_MAX => Err(Malformed),
        None => Ok(None),
    }
}

/// Returns the words of a flat answer, in order.
pub(super) fn words(answer: &str) -> impl Iterator<Item = &str> {
    // Skips lines that hold the length of a string or of the answer.
    answer.split("\r\n").filter(|line| !line.starts_with(['$', '%', '*']))
}

/// Appends a command to `out`.
pub(super) fn command<P: AsRef<[u8]>>(parts: impl ExactSizeIterator<Item = P>, out: &mut Vec<u8>) {
    let mut number = itoa::Buffer::new();
    out.push(b'*');
    out.extend_from_slice(number.format(parts.len()).as_bytes());
    out.extend_from_slice(b"\r\n");
    for part in parts {
        let part = part.as_ref();
        out.push(b'$');
        out.extend_from_slice(number.format(part.len()).as_bytes());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b">3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n\
        %2\r\n$6\r\nserver\r\n$5\r\nredis\r\n+modules\r\n*1\r\n%1\r\n+a\r\n_\r\n\
        >3\r\n$7\r\nmessage\r\n$1\r\na\r\n$6\r\nx\r\n\x00>y\r\n\
        -NOPERM no\r\n\
        |1\r\n+ttl\r\n:3\r\n\
        >3\r\n$7\r\nmessage\r\n$2\r\nbb\r\n$0\r\n\r\n\
        >3\r\n$10\r\npsubscribe\r\n$2\r\nc*\r\n:2\r\n\
        >4\r\n$8\r\npmessage\r\n$2\r\nc*\r\n$3\r\ncde\r\n$2\r\n\r\n\r\n\
        >2\r\n$10\r\ninvalidate\r\n*-1\r\n\
        $-1\r\n\
        >3\r\n$10\r\nssubscribe\r\n$1\r\ns\r\n:1\r\n\
        >3\r\n$8\r\nsmessage\r\n$1\r\ns\r\n$1\r\nd\r\n\
        >3\r\n$12\r\nsunsubscribe\r\n$1\r\ns\r\n:0\r\n\
        >3\r\n$12\r\nsunsubscribe\r\n$-1\r\n:0\r\n\
        >3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:0\r\n\
        +PONG\r\n";

    fn said(buffer: &mut BytesMut, into: &mut Vec<String>) {
        while let Some(said) = take(buffer).unwrap() {
            into.push(match said {
                RespReply::Message(message) => {
                    let (name, data) = (message.name().to_vec(), message.data());
                    format!("{} {:?}", String::from_utf8(name).unwrap(), data)
                }
                RespReply::Answer(Ok(whole)) => format!("Answer({})", whole.len()),
                other => format!("{other:?}"),
            });
        }
    }

    #[test]
    fn everything_is_told_apart_wherever_it_is_cut() {
        let expected = [
            "Subscribed",
            "Answer(52)",
            "a b\"x\\r\\n\\0>y\"",
            "Answer(Err(\"NOPERM no\"))",
            "Other",
            "bb b\"\"",
            "Subscribed",
            "cde b\"\\r\\n\"",
            "Other",
            "Answer(5)",
            "Subscribed",
            "s b\"d\"",
            "Left(b\"s\")",
            "Other",
            "Unsubscribed",
            "Answer(7)",
        ];
        for cut in 0..=STREAM.len() {
            let (mut buffer, mut all) = (BytesMut::from(&STREAM[..cut]), Vec::new());
            said(&mut buffer, &mut all);
            buffer.extend_from_slice(&STREAM[cut..]);
            said(&mut buffer, &mut all);
            assert_eq!(all, expected, "cut at {cut}");
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn a_message_shares_the_memory_it_came_in() {
        let mut buffer = BytesMut::from(&b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$5\r\nhello\r\n+PONG\r\n"[..]);
        let start = buffer.as_ptr() as usize;
        let Ok(Some(RespReply::Message(message))) = take(&mut buffer) else { panic!("no message") };
        assert_eq!(message.data(), "hello");
        assert_eq!(message.data().as_ptr() as usize - start, 28);
        assert_eq!(take(&mut buffer), Ok(Some(RespReply::Answer(Ok(Bytes::from_static(b"+PONG\r\n"))))));
    }

    #[test]
    fn what_is_no_resp3_is_refused_at_once() {
        for bad in [
            &b"hello\r\n"[..],
            b">x\r\n",
            b">-1\r\n",
            b">\r\n",
            b">3\r\n:1\r\n",
            b">3\r\n$7\r\nmessage\r\n:1\r\n",
            b">3\r\n$7\r\nmessage\r\n$1\r\nab\r\n",
            b"$99999999999999999999\r\n",
            b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
            b"$1\rx",
        ] {
            assert_eq!(take(&mut BytesMut::from(bad)), Err(Malformed), "{bad:?}");
        }
        let endless = vec![b'+'; LINE_BYTES_MAX];
        assert_eq!(take(&mut BytesMut::from(&endless[..])), Err(Malformed));
    }

    #[test]
    fn a_command_is_a_list_of_texts() {
        let mut out = Vec::new();
        command(["PING", ""].iter(), &mut out);
        assert_eq!(out, b"*2\r\n$4\r\nPING\r\n$0\r\n\r\n");
    }
}
