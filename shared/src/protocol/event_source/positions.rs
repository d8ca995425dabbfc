//! A client's positions in its channels, as the id of an event.
//!
//! The id has the format of a form: `news=abcdefgh:12&sport=abcdefgh:7`, each channel with the epoch and the offset of
//! the last publication that the client received. An event that is shared by all subscribers of a channel names that
//! channel alone.

use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};
use memchr::{memmem, memrchr};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::command::Since;
use crate::position::StreamPosition;

/// The beginning of the line with the id, which is the last line of an event that has one.
const ID: &[u8] = b"id: ";
const EVENT_END: &[u8] = b"\n\n";

/// Characters to escape in a channel's name, as they have a meaning in the id or in the headers and addresses that carry it.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~')
    .remove(b':')
    .remove(b'/')
    .remove(b'@')
    .remove(b'$')
    .remove(b'!')
    .remove(b'*');

/// Writes the line with the id, unless there are no positions.
pub(super) fn put_id<'a>(positions: impl IntoIterator<Item = (&'a str, StreamPosition)>, out: &mut BytesMut) {
    let mut before = ID;
    for (channel, position) in positions {
        out.put_slice(before);
        utf8_percent_encode(channel, ESCAPED).for_each(|part| out.put_slice(part.as_bytes()));
        out.put_u8(b'=');
        out.put_slice(position.epoch.as_str().as_bytes());
        out.put_u8(b':');
        out.put_slice(itoa::Buffer::new().format(position.offset).as_bytes());
        before = b"&";
    }
    if before != ID {
        out.put_u8(b'\n');
    }
}

/// Reads an id. `None` if it is not in this format.
pub(super) fn read(id: &str) -> Option<BTreeMap<Box<str>, Since>> {
    let read = |pair: &str| {
        let (name, position) = pair.split_once('=')?;
        let (epoch, offset) = position.rsplit_once(':')?;
        let name = percent_decode_str(name).decode_utf8().ok()?;
        Some((name.into(), Since { offset: offset.parse().ok()?, epoch: epoch.into() }))
    };
    id.split('&').map(read).collect()
}

/// The positions of a client that follows several channels, derived from its events: the id of its last event, as written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Positions(Box<[u8]>);

impl Positions {
    /// Returns the length of the id in bytes.
    pub fn id_bytes(&self) -> usize {
        self.0.len()
    }

    /// Appends these events. The id of each event that has one is replaced by the client's positions in all of its
    /// channels after that event. The first event of the stream names all of its channels.
    pub fn amend(&mut self, events: &[u8], out: &mut BytesMut) {
        let mut rest = events;
        while let Some(end) = memmem::find(rest, EVENT_END) {
            let (event, after) = (&rest[..end], &rest[end + EVENT_END.len()..]);
            let (lines, last) = event.split_at(memrchr(b'\n', event).map_or(0, |end| end + 1));
            out.put_slice(lines);
            match last.strip_prefix(ID) {
                Some(id) => {
                    id.split(|byte| *byte == b'&').for_each(|place| self.take(place));
                    out.put_slice(ID);
                    out.put_slice(&self.0);
                }
                None => out.put_slice(last),
            }
            out.put_slice(EVENT_END);
            rest = after;
        }
        out.put_slice(rest);
    }

    /// Replaces the position in one channel. The new text is mostly as long as the old one.
    fn take(&mut self, place: &[u8]) {
        let name = &place[..memchr::memchr(b'=', place).map_or(place.len(), |end| end + 1)];
        let (mut at, mut known) = (0, None);
        for one in self.0.split(|byte| *byte == b'&') {
            if one.starts_with(name) {
                known = Some(at..at + one.len());
                break;
            }
            at += one.len() + 1;
        }
        match known {
            Some(known) if known.len() == place.len() => self.0[known].copy_from_slice(place),
            Some(known) => {
                let (before, after) = (&self.0[..known.start], &self.0[known.end..]);
                self.0 = [before, place, after].concat().into();
            }
            None if self.0.is_empty() => self.0 = place.into(),
            None => self.0 = [&self.0, &b"&"[..], place].concat().into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Epoch;

    fn line(positions: &[(&str, u64)]) -> String {
        let epoch = Epoch::parse("life").unwrap();
        let mut out = BytesMut::new();
        put_id(
            positions.iter().map(|(name, offset)| (*name, StreamPosition { offset: *offset, epoch })),
            &mut out,
        );
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn an_id_names_each_channel_and_is_read_as_it_was_written() {
        assert_eq!(line(&[]), "");
        assert_eq!(line(&[("prices:AAPL", 12)]), "id: prices:AAPL=life:12\n");
        let names = ["a&b=c", "100%", "новости", "x y", "$news#ann"];
        let written = line(&names.map(|name| (name, 7)));
        assert!(written.is_ascii(), "{written}");
        let read = read(written.strip_prefix("id: ").unwrap().trim_end()).unwrap();
        assert_eq!(read.len(), names.len());
        assert!(names.iter().all(|name| read[*name] == Since { offset: 7, epoch: "life".into() }));
    }

    #[test]
    fn what_is_no_id_of_ours_is_not_read() {
        for other in ["", "7", "a", "a=7", "a=life:", "a=life:-1", "a=life:7&", "%ff=life:7", "urn:uuid:1"] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    fn amended(positions: &mut Positions, events: &[u8]) -> String {
        let mut out = BytesMut::new();
        positions.amend(events, &mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn events_of_one_channel_are_told_apart_and_name_all_that_came_before() {
        let mut positions = Positions::default();
        let begins = b"event: subscribed\ndata: {}\nid: a=life:1&b=life:2\n\n";
        assert_eq!(amended(&mut positions, begins).as_bytes(), begins);
        let two =
            b"event: b\ndata: id: x\ndata: \nid: b=life:3\n\ndata: 1\n\nevent: a\ndata: 2\nid: a=life:10\n\n";
        assert_eq!(
            amended(&mut positions, two),
            "event: b\ndata: id: x\ndata: \nid: a=life:1&b=life:3\n\ndata: 1\n\n\
             event: a\ndata: 2\nid: a=life:10&b=life:3\n\n"
        );
    }

    #[test]
    fn a_channel_is_found_by_its_whole_name_and_its_place_may_grow() {
        let mut positions = Positions::default();
        let mut after = |id: &str| {
            amended(&mut positions, format!("data: 1\nid: {id}\n\n").as_bytes());
            String::from_utf8(positions.0.to_vec()).unwrap()
        };
        assert_eq!(after("aa=life:9"), "aa=life:9");
        assert_eq!(after("a=life:99"), "aa=life:9&a=life:99");
        assert_eq!(after("aa=life:10"), "aa=life:10&a=life:99");
        assert_eq!(after("a=new:1"), "aa=life:10&a=new:1");
        assert_eq!(after("aaa=life:1"), "aa=life:10&a=new:1&aaa=life:1");
    }

    #[test]
    fn what_has_no_id_stays_as_it_is() {
        let mut positions = Positions::default();
        for events in [&b""[..], b":\n", b"data: 1\n\n", b"event: a\ndata: 1\n\nhalf"] {
            assert_eq!(amended(&mut positions, events).as_bytes(), events);
        }
    }
}
