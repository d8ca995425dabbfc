//! The messages in the log of a ledger: one for each operation, and bases, each a snapshot in place of all messages before it.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use gateway_core::ledger::{LedgerCapacity, LedgerChange, LedgerEvent, LedgerRow, ReaderProgress};
use prost::encoding::{decode_varint, encode_varint};

/// The first byte of each kind of message, and of each kind of row.
const CHANGE: u8 = 0xC1;
const PROLONG: u8 = 0xC2;
const READ: u8 = 0xC3;
const BASE: u8 = 0xC4;
const HELD: u8 = 1;
const COUNTED: u8 = 2;
const NEWS: u8 = 3;
const READER: u8 = 4;
const LAST: u8 = 5;
const LEASE: u8 = 6;
const TURN: u8 = 7;
const DONE: u8 = 8;

/// An operation on a ledger.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum LedgerOp {
    Change {
        holder: Box<str>,
        /// Grows with every operation of a holder. An operation whose number is not greater came late, after its holder
        /// had repeated it.
        number: u64,
        room: LedgerCapacity,
        changes: Vec<LedgerChange>,
    },
    Prolong {
        holder: Box<str>,
        number: u64,
        room: LedgerCapacity,
        lease_ms: u64,
        /// Whether the holder has never held anything before.
        begins: bool,
        /// The most entries of dead holders that are freed with this operation.
        freed_max: u64,
    },
    Read {
        reader: Box<str>,
        by: Box<str>,
        lease_ms: u64,
        done: Option<ReaderProgress>,
        readers: Vec<Box<str>>,
    },
}

/// A snapshot of a ledger.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct LedgerBase {
    /// The sequence of the last message that the snapshot covers.
    pub(super) covers: u64,
    /// When that message was written, in milliseconds since 1970.
    pub(super) time: u64,
    /// The name and the number of the messages with rows that do not fit into this one. Empty, if there are none.
    pub(super) part: Box<str>,
    pub(super) parts: u64,
    /// The length of all rows together, in bytes.
    pub(super) bytes: u64,
    pub(super) rows: Bytes,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum LedgerMessage {
    Op(LedgerOp),
    Base(LedgerBase),
}

/// A row of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum ReplicaRow {
    Table(LedgerRow),
    /// A holder, the expiry of its lease, and the number of its last operation.
    Lease(Box<str>, u64, u64),
    /// A reader, the node that reads for it, and the expiry of that node's lease on reading.
    Turn(Box<str>, Box<str>, u64),
    /// An operation after all rows before it, and its time: an encoded [`LedgerOp`].
    Done(u64, Bytes),
}

impl LedgerOp {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Change { holder, number, room, changes } => {
                begin(&mut out, CHANGE, holder, *number, *room);
                for (letter, text) in changes.iter().map(LedgerChange::written) {
                    out.put_slice(letter.as_bytes());
                    put_text(&mut out, &text);
                }
            }
            Self::Prolong { holder, number, room, lease_ms, begins, freed_max } => {
                begin(&mut out, PROLONG, holder, *number, *room);
                encode_varint(*lease_ms, &mut out);
                out.put_u8(u8::from(*begins));
                encode_varint(*freed_max, &mut out);
            }
            Self::Read { reader, by, lease_ms, done, readers } => {
                out.put_u8(READ);
                put_text(&mut out, reader);
                put_text(&mut out, by);
                encode_varint(*lease_ms, &mut out);
                out.put_u8(u8::from(done.is_some()));
                let ReaderProgress { from, until } = done.unwrap_or(ReaderProgress { from: 0, until: 0 });
                encode_varint(from, &mut out);
                encode_varint(until, &mut out);
                readers.iter().for_each(|reader| put_text(&mut out, reader));
            }
        }
        out.freeze()
    }
}

impl LedgerBase {
    pub(super) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.rows.len() + 64);
        out.put_u8(BASE);
        encode_varint(self.covers, &mut out);
        encode_varint(self.time, &mut out);
        put_text(&mut out, &self.part);
        encode_varint(self.parts, &mut out);
        encode_varint(self.bytes, &mut out);
        out.put_slice(&self.rows);
        out.freeze()
    }
}

impl LedgerMessage {
    /// Whether the message is a base.
    pub(super) fn is_base(payload: &[u8]) -> bool {
        payload.first() == Some(&BASE)
    }

    /// Returns `None` for a message that this release does not understand.
    pub(super) fn decode(mut payload: Bytes) -> Option<Self> {
        let payload = &mut payload;
        let what = payload.try_get_u8().ok()?;
        Some(match what {
            CHANGE => {
                let (holder, number, room) = read_begin(payload)?;
                let mut changes = Vec::new();
                while payload.has_remaining() {
                    let letter = payload.try_get_u8().ok()?;
                    changes.push(LedgerChange::read(letter.into(), &text(payload)?)?);
                }
                Self::Op(LedgerOp::Change { holder, number, room, changes })
            }
            PROLONG => {
                let (holder, number, room) = read_begin(payload)?;
                let (lease_ms, begins) = (count(payload)?, payload.try_get_u8().ok()? != 0);
                let freed_max = count(payload)?;
                if payload.has_remaining() {
                    // A newer release has written more, and applying only a part of it would be wrong.
                    return None;
                }
                Self::Op(LedgerOp::Prolong { holder, number, room, lease_ms, begins, freed_max })
            }
            READ => {
                let (reader, by, lease_ms) = (text(payload)?, text(payload)?, count(payload)?);
                let has_done = payload.try_get_u8().ok()? != 0;
                let done = ReaderProgress { from: count(payload)?, until: count(payload)? };
                let mut readers = Vec::new();
                while payload.has_remaining() {
                    readers.push(text(payload)?);
                }
                Self::Op(LedgerOp::Read { reader, by, lease_ms, done: has_done.then_some(done), readers })
            }
            BASE => {
                let (covers, time) = (count(payload)?, count(payload)?);
                let (part, parts, bytes) = (text(payload)?, count(payload)?, count(payload)?);
                Self::Base(LedgerBase { covers, time, part, parts, bytes, rows: payload.clone() })
            }
            _ => return None,
        })
    }
}

impl ReplicaRow {
    pub(super) fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Table(LedgerRow::Held { holder, subject }) => {
                out.put_u8(HELD);
                put_text(out, holder);
                put_text(out, subject);
            }
            Self::Table(LedgerRow::Counted { subject, count }) => {
                out.put_u8(COUNTED);
                put_text(out, subject);
                encode_varint((*count).into(), out);
            }
            Self::Table(LedgerRow::News { number, event }) => {
                out.put_u8(NEWS);
                encode_varint(*number, out);
                put_text(out, &event.written());
            }
            Self::Table(LedgerRow::Reader { reader, done }) => {
                out.put_u8(READER);
                put_text(out, reader);
                encode_varint(*done, out);
            }
            Self::Table(LedgerRow::Last(last)) => {
                out.put_u8(LAST);
                encode_varint(*last, out);
            }
            Self::Lease(holder, until, number) => {
                out.put_u8(LEASE);
                put_text(out, holder);
                encode_varint(*until, out);
                encode_varint(*number, out);
            }
            Self::Turn(reader, by, until) => {
                out.put_u8(TURN);
                put_text(out, reader);
                put_text(out, by);
                encode_varint(*until, out);
            }
            Self::Done(written, op) => {
                out.put_u8(DONE);
                encode_varint(*written, out);
                encode_varint(op.len() as u64, out);
                out.put_slice(op);
            }
        }
    }

    /// Decodes all rows. Returns `None` if one is not understood.
    pub(super) fn decode_all(mut rows: Bytes, mut take: impl FnMut(Self)) -> Option<()> {
        let rows = &mut rows;
        while rows.has_remaining() {
            take(match rows.get_u8() {
                HELD => Self::Table(LedgerRow::Held { holder: text(rows)?, subject: text(rows)? }),
                COUNTED => Self::Table(LedgerRow::Counted {
                    subject: text(rows)?,
                    count: count(rows)?.try_into().ok()?,
                }),
                NEWS => Self::Table(LedgerRow::News {
                    number: count(rows)?,
                    event: LedgerEvent::read(&text(rows)?)?,
                }),
                READER => Self::Table(LedgerRow::Reader { reader: text(rows)?, done: count(rows)? }),
                LAST => Self::Table(LedgerRow::Last(count(rows)?)),
                LEASE => Self::Lease(text(rows)?, count(rows)?, count(rows)?),
                TURN => Self::Turn(text(rows)?, text(rows)?, count(rows)?),
                DONE => Self::Done(count(rows)?, some_bytes(rows)?),
                _ => return None,
            });
        }
        Some(())
    }
}

fn begin(out: &mut BytesMut, what: u8, holder: &str, number: u64, room: LedgerCapacity) {
    out.put_u8(what);
    put_text(out, holder);
    encode_varint(number, out);
    encode_varint(room.news_max as u64, out);
    encode_varint(room.bytes_max as u64, out);
}

fn read_begin(payload: &mut Bytes) -> Option<(Box<str>, u64, LedgerCapacity)> {
    let (holder, number) = (text(payload)?, count(payload)?);
    let mut most = || count(payload)?.try_into().ok();
    let room = LedgerCapacity { news_max: most()?, bytes_max: most()? };
    Some((holder, number, room))
}

fn put_text(out: &mut BytesMut, text: &str) {
    encode_varint(text.len() as u64, out);
    out.put_slice(text.as_bytes());
}

fn text(from: &mut Bytes) -> Option<Box<str>> {
    Some(std::str::from_utf8(&some_bytes(from)?).ok()?.into())
}

fn some_bytes(from: &mut Bytes) -> Option<Bytes> {
    let length = usize::try_from(count(from)?).ok().filter(|length| *length <= from.len())?;
    Some(from.split_to(length))
}

fn count(from: &mut Bytes) -> Option<u64> {
    if from.has_remaining() { decode_varint(from).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOM: LedgerCapacity = LedgerCapacity { news_max: 1_000, bytes_max: 1 << 20 };

    fn rows_of(rows: Bytes) -> Option<Vec<ReplicaRow>> {
        let mut all = Vec::new();
        ReplicaRow::decode_all(rows, |row| all.push(row)).map(|()| all)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again_and_a_part_of_it_is_never_taken_for_all(
            name in ".{0,9}", text in ".{0,9}", number in 0_u64.., small in 0_u32.., cut in 0_usize..40,
        ) {
            let (name, text): (Box<str>, Box<str>) = (name.into(), text.into());
            let changes =
                vec![LedgerChange::Hold(text.clone()), LedgerChange::Count(text.clone(), small), LedgerChange::Report(name.clone())];
            let ops = [
                LedgerOp::Change { holder: name.clone(), number, room: ROOM, changes },
                LedgerOp::Prolong { holder: name.clone(), number, room: ROOM, lease_ms: number, begins: small % 2 == 0, freed_max: number },
                LedgerOp::Read {
                    reader: name.clone(),
                    by: text.clone(),
                    lease_ms: 7,
                    done: (small % 2 == 0).then_some(ReaderProgress { from: 1, until: number }),
                    readers: vec![name.clone(), text.clone()],
                },
            ];
            for op in ops {
                let written = op.encode();
                prop_assert_eq!(LedgerMessage::decode(written.clone()), Some(LedgerMessage::Op(op.clone())));
                let part = LedgerMessage::decode(written.slice(..cut.min(written.len() - 1)));
                prop_assert_ne!(part, Some(LedgerMessage::Op(op.clone())));
                let more = [&written[..], &[0]].concat();
                prop_assert_ne!(LedgerMessage::decode(more.into()), Some(LedgerMessage::Op(op)));
            }
            let rows = vec![
                ReplicaRow::Table(LedgerRow::Held { holder: name.clone(), subject: text.clone() }),
                ReplicaRow::Table(LedgerRow::Counted { subject: text.clone(), count: small }),
                ReplicaRow::Table(LedgerRow::News { number, event: LedgerEvent::Counted(text.clone(), small) }),
                ReplicaRow::Table(LedgerRow::Reader { reader: name.clone(), done: number }),
                ReplicaRow::Table(LedgerRow::Last(number)),
                ReplicaRow::Lease(name.clone(), number, 3),
                ReplicaRow::Turn(name.clone(), text, number),
                ReplicaRow::Done(number, LedgerOp::Change { holder: name.clone(), number, room: ROOM, changes: vec![] }.encode()),
            ];
            let mut written = BytesMut::new();
            rows.iter().for_each(|row| row.encode(&mut written));
            let base = LedgerBase { covers: number, time: 5, part: name, parts: 2, bytes: number, rows: written.freeze() };
            let read = LedgerMessage::decode(base.encode());
            prop_assert_eq!(&read, &Some(LedgerMessage::Base(base.clone())));
            prop_assert_eq!(rows_of(base.rows), Some(rows));
        }

        #[test]
        fn whatever_bytes_there_are_are_no_harm(mut bytes in prop::collection::vec(any::<u8>(), 0..60), what in 0xC0_u8..0xC6) {
            let _ = rows_of(bytes.clone().into());
            let _ = LedgerMessage::decode(bytes.clone().into());
            bytes.insert(0, what);
            let _ = LedgerMessage::decode(bytes.into());
        }
    }
}
