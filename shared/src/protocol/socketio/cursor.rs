//! The positions of a client that may resume its session in a namespace: the offset sent with each event, and the state
//! that is kept while the client is away.
//!
//! Each channel that the client follows has a number, which is never reused, and a position from which it is counted.
//! An offset holds a mark of the session and the number of publications sent in each channel since that position, which
//! keeps it short: `AbCd.0-1c.3-5`, with numbers in base 36.

use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};

use crate::position::StreamPosition;

/// Longest offset that is read, in bytes.
pub(super) const OFFSET_BYTES_MAX: usize = 16 * 1024;
/// Longest session secret (`pid`) that is read, in bytes.
pub(super) const PID_BYTES_MAX: usize = 64;
/// How many bytes of the secret stand in every offset: enough to tell the session's offsets from those of the session before.
const MARK_BYTES: usize = 4;

/// What a client sends to resume a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resume {
    /// The secret name of the session.
    pub pid: Box<str>,
    /// The offset of the last event that the client received, if it received any.
    pub offset: Option<Box<str>>,
}

/// A channel that a client follows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FollowedChannel {
    /// The channel's number in the session.
    pub number: u32,
    pub channel: Box<str>,
    /// The position from which the channel is counted.
    pub since: StreamPosition,
}

/// The part of a session's saved state that the protocol needs.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SessionOffsets {
    pub followed: Vec<FollowedChannel>,
    /// The next number to use. No channel has had it or a higher one.
    pub next: u32,
}

/// Why an offset cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnusableOffset {
    /// The offset is not in the gateway's format.
    Malformed,
    /// The offset names channels that the saved state does not have yet.
    Newer,
}

/// The positions of one client in one namespace.
#[derive(Debug)]
pub(super) struct Cursor {
    pub(super) pid: Box<str>,
    offsets: SessionOffsets,
    /// The offset in each channel, in the channels' order, up to which the client was sent everything.
    sent: Vec<u64>,
    /// How often the state to save has changed.
    changes: u64,
}

impl Cursor {
    pub(super) fn new(pid: Box<str>, offsets: SessionOffsets) -> Self {
        let sent = offsets.followed.iter().map(|followed| followed.since.offset).collect();
        Self { pid, offsets, sent, changes: 0 }
    }

    /// Returns the state to save, and the number of changes that led to it.
    pub(super) fn offsets(&self) -> (u64, SessionOffsets) {
        (self.changes, self.offsets.clone())
    }

    /// Starts to follow a channel from this position. Returns whether the state changed.
    pub(super) fn follow(&mut self, channel: &str, since: StreamPosition) -> bool {
        if self.find(channel).is_some_and(|at| self.offsets.followed[at].since.epoch == since.epoch) {
            return false;
        }
        self.unfollow(channel);
        let number = self.offsets.next;
        self.offsets.next += 1;
        self.offsets.followed.push(FollowedChannel { number, channel: channel.into(), since });
        self.sent.push(since.offset);
        self.changes += 1;
        true
    }

    /// Stops following a channel. Returns whether the client followed it.
    pub(super) fn unfollow(&mut self, channel: &str) -> bool {
        let found = self.find(channel);
        if let Some(at) = found {
            self.offsets.followed.remove(at);
            self.sent.remove(at);
            self.changes += 1;
        }
        found.is_some()
    }

    /// Notes that the client was sent all publications of a channel up to this position.
    pub(super) fn advance(&mut self, channel: &str, position: StreamPosition) {
        if let Some(at) = self.find(channel)
            && self.offsets.followed[at].since.epoch == position.epoch
        {
            self.sent[at] = self.sent[at].max(position.offset);
        }
    }

    fn find(&self, channel: &str) -> Option<usize> {
        self.offsets.followed.iter().position(|followed| *followed.channel == *channel)
    }

    /// Writes the offset, which follows the arguments of an event: the client's positions once it has received the event.
    pub(super) fn write_argument(&self, out: &mut BytesMut) {
        out.put_slice(b",\"");
        out.put_slice(mark(&self.pid).as_bytes());
        for (followed, sent) in self.offsets.followed.iter().zip(&self.sent) {
            let since = sent.saturating_sub(followed.since.offset);
            if since > 0 {
                out.put_u8(b'.');
                base36(followed.number.into(), out);
                out.put_u8(b'-');
                base36(since, out);
            }
        }
        out.put_u8(b'"');
    }

    /// Returns the approximate length of the offset in an event, in bytes.
    pub(super) fn argument_bytes(&self) -> usize {
        MARK_BYTES + 4 + self.offsets.followed.len() * 8
    }
}

impl SessionOffsets {
    /// Returns the client's position in each of its channels, given the last offset that it received.
    pub fn positions(&self, resume: &Resume) -> Result<Vec<(&str, StreamPosition)>, UnusableOffset> {
        let sent = match resume.offset.as_deref() {
            None => BTreeMap::new(),
            Some(offset) => self.read(&resume.pid, offset)?,
        };
        let position = |followed: &FollowedChannel| {
            let since = sent.get(&followed.number).copied().unwrap_or(0);
            let offset = followed.since.offset.checked_add(since).ok_or(UnusableOffset::Malformed)?;
            Ok(StreamPosition { offset, ..followed.since })
        };
        self.followed.iter().map(|followed| Ok((&*followed.channel, position(followed)?))).collect()
    }

    fn read(&self, pid: &str, offset: &str) -> Result<BTreeMap<u32, u64>, UnusableOffset> {
        let mut parts = offset.split('.');
        let whose =
            parts.next().filter(|whose| whose.len() == MARK_BYTES).ok_or(UnusableOffset::Malformed)?;
        let mut sent = BTreeMap::new();
        for part in parts {
            let (number, since) = part.split_once('-').ok_or(UnusableOffset::Malformed)?;
            let read = |text| u64::from_str_radix(text, 36).map_err(|_| UnusableOffset::Malformed);
            let number = u32::try_from(read(number)?).map_err(|_| UnusableOffset::Malformed)?;
            sent.insert(number, read(since)?);
        }
        if whose != mark(pid) {
            // The offset is from another session: the client has received nothing in this one.
            return Ok(BTreeMap::new());
        }
        match sent.keys().next_back() {
            Some(last) if *last >= self.next => Err(UnusableOffset::Newer),
            _ => Ok(sent),
        }
    }
}

fn mark(pid: &str) -> &str {
    pid.get(..MARK_BYTES).unwrap_or(pid)
}

fn base36(mut number: u64, out: &mut BytesMut) {
    let mut digits = [0; 13];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b"0123456789abcdefghijklmnopqrstuvwxyz"[(number % 36) as usize];
        number /= 36;
        if number == 0 {
            break;
        }
    }
    out.put_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Epoch;

    fn at(offset: u64) -> StreamPosition {
        StreamPosition { offset, epoch: Epoch::parse("life").unwrap() }
    }

    fn told(cursor: &Cursor) -> Resume {
        let mut out = BytesMut::new();
        cursor.write_argument(&mut out);
        let offset: String = serde_json::from_slice(&out[1..]).unwrap();
        Resume { pid: cursor.pid.clone(), offset: Some(offset.into()) }
    }

    fn cursor() -> Cursor {
        let mut cursor = Cursor::new("AbCdEfGh".into(), SessionOffsets::default());
        cursor.follow("a:*", at(100));
        cursor.follow("a:room", at(7));
        cursor
    }

    #[test]
    fn an_offset_says_where_its_client_stands_in_each_channel() {
        let mut cursor = cursor();
        assert_eq!(told(&cursor).offset.as_deref(), Some("AbCd"));
        cursor.advance("a:*", at(148));
        cursor.advance("a:room", at(8));
        cursor.advance("b:other", at(8));
        assert_eq!(told(&cursor).offset.as_deref(), Some("AbCd.0-1c.1-1"));
        let (changes, offsets) = cursor.offsets();
        assert_eq!((changes, offsets.next), (2, 2));
        let positions = offsets.positions(&told(&cursor)).unwrap();
        assert_eq!(positions, [("a:*", at(148)), ("a:room", at(8))]);
    }

    #[test]
    fn who_was_sent_nothing_stands_where_it_began() {
        let cursor = cursor();
        let (_, offsets) = cursor.offsets();
        for offset in [None, Some("ZzZz.0-5.9-9".into()), told(&cursor).offset] {
            let resume = Resume { pid: cursor.pid.clone(), offset };
            assert_eq!(offsets.positions(&resume).unwrap(), [("a:*", at(100)), ("a:room", at(7))]);
        }
    }

    #[test]
    fn what_was_left_is_no_more_and_what_is_not_kept_yet_is_told_apart() {
        let mut cursor = cursor();
        let (_, before) = cursor.offsets();
        assert!(cursor.unfollow("a:room") && !cursor.unfollow("a:room"));
        cursor.follow("a:room", at(9));
        cursor.advance("a:room", at(10));
        let resume = told(&cursor);
        assert_eq!(resume.offset.as_deref(), Some("AbCd.2-1"));
        assert_eq!(before.positions(&resume), Err(UnusableOffset::Newer));
        let (_, after) = cursor.offsets();
        assert_eq!(after.positions(&resume).unwrap()[1], ("a:room", at(10)));
        let old = Resume { offset: Some("AbCd.1-5".into()), ..resume };
        assert_eq!(after.positions(&old).unwrap()[1], ("a:room", at(9)));
    }

    #[test]
    fn what_is_no_offset_of_ours_is_not_taken_for_one() {
        let (_, offsets) = cursor().offsets();
        for offset in [
            "",
            "hello",
            "AbCd.",
            "AbCd.1",
            "AbCd.x-",
            "AbCd.1-!",
            "AbCd.9999999999-1",
            "AbCd.0-zzzzzzzzzzzzzz",
        ] {
            let resume = Resume { pid: "AbCdEfGh".into(), offset: Some(offset.into()) };
            assert_eq!(offsets.positions(&resume), Err(UnusableOffset::Malformed), "{offset:?}");
        }
        let far = Resume { pid: "AbCdEfGh".into(), offset: Some("AbCd.0-3w5e11264sgsf".into()) };
        assert_eq!(offsets.positions(&far), Err(UnusableOffset::Malformed));
    }
}
