//! Writes Protobuf field by field. As the length of a message precedes it, the same code that writes a message can also
//! count its bytes.

use bytes::{BufMut, Bytes, BytesMut};

use crate::id::ClientId;
use crate::position::StreamPosition;
use crate::publication::{ClientInfo, Payload, Publication};
use crate::push::Form;
use crate::reply::Expiry;

/// The two wire types that the protocol uses.
const VARINT: u32 = 0;
const DELIMITED: u32 = 2;

/// Receives the fields that are written: stores the bytes, or only counts them.
pub(super) trait Sink: Sized {
    fn put(&mut self, bytes: &[u8]);

    fn put_varint(&mut self, value: u64);

    /// Writes a field that is a message, even if that is empty.
    fn message(&mut self, field: u32, message: &impl Fields) {
        self.delimited(field, length(message));
        message.write(self);
    }

    fn number(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.put_varint(u64::from(field << 3 | VARINT));
            self.put_varint(value);
        }
    }

    fn flag(&mut self, field: u32, value: bool) {
        self.number(field, u64::from(value));
    }

    fn bytes(&mut self, field: u32, value: &[u8]) {
        if !value.is_empty() {
            self.entry(field, value);
        }
    }

    fn string(&mut self, field: u32, value: &str) {
        self.bytes(field, value.as_bytes());
    }

    fn payload(&mut self, field: u32, value: Option<&Payload>) {
        self.bytes(field, value.map_or(&[][..], |payload| &payload.bytes));
    }

    /// Like [`Sink::bytes`], but writes an empty value too: keys and values of maps are always written.
    fn entry(&mut self, field: u32, value: &[u8]) {
        self.delimited(field, value.len());
        self.put(value);
    }

    fn delimited(&mut self, field: u32, length: usize) {
        self.put_varint(u64::from(field << 3 | DELIMITED));
        self.put_varint(length as u64);
    }

    /// Writes an expiry, given the numbers of its two fields: whether there is one, and its seconds.
    fn expiry(&mut self, [expires, ttl]: [u32; 2], expiry: Option<Expiry>) {
        if let Some(Expiry { seconds }) = expiry {
            self.flag(expires, true);
            self.number(ttl, u64::from(seconds));
        }
    }

    /// Writes a position, given the numbers of the fields for the epoch and the offset.
    fn position(&mut self, [epoch, offset]: [u32; 2], position: Option<StreamPosition>) {
        if let Some(position) = position {
            self.string(epoch, position.epoch.as_str());
            self.number(offset, position.offset);
        }
    }

    fn client_id(&mut self, field: u32, client: ClientId) {
        self.bytes(field, &client.hyphenated());
    }
}

/// The fields of a message.
pub(super) trait Fields {
    fn write(&self, out: &mut impl Sink);
}

/// Appends a message preceded by its length.
pub(super) fn write_with_length(message: &impl Fields, out: &mut BytesMut) {
    let length = length(message);
    out.reserve(varint_length(length as u64) + length);
    out.put_varint(length as u64);
    message.write(out);
}

fn length(message: &impl Fields) -> usize {
    let mut counted = LengthSink(0);
    message.write(&mut counted);
    counted.0
}

impl Sink for BytesMut {
    fn put(&mut self, bytes: &[u8]) {
        self.put_slice(bytes);
    }

    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.put_u8(value as u8);
    }
}

struct LengthSink(usize);

impl Sink for LengthSink {
    fn put(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }

    fn put_varint(&mut self, value: u64) {
        self.0 += varint_length(value);
    }

    /// Counts the fields once, where the default implementation counts them again for the length.
    fn message(&mut self, field: u32, message: &impl Fields) {
        let before = self.0;
        message.write(self);
        self.delimited(field, self.0 - before);
    }
}

fn varint_length(value: u64) -> usize {
    // Seven bits a byte, and one byte for zero.
    (u64::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// A publication in the form that a subscriber receives.
pub(super) struct Published<'a> {
    pub(super) publication: &'a Publication,
    pub(super) form: Form<'a>,
    pub(super) with_epoch: bool,
}

impl Fields for Published<'_> {
    fn write(&self, out: &mut impl Sink) {
        let Publication {
            data,
            position,
            info,
            tags,
            time_ms,
            delta: _,
            keyed,
            except: _,
            only: _,
            stamp: _,
        } = self.publication;
        match self.form {
            Form::Plain | Form::Whole => out.bytes(4, &data.bytes),
            Form::Patch(patch) => out.bytes(4, patch),
        }
        if let Some(info) = info {
            out.message(5, info);
        }
        if let Some(position) = position {
            out.number(6, position.offset);
        }
        for (key, value) in tags {
            out.message(7, &Pair(key, value));
        }
        out.flag(8, matches!(self.form, Form::Patch(_)));
        out.number(9, *time_ms);
        if let Some(keyed) = keyed {
            out.string(11, &keyed.key);
            out.flag(12, keyed.removed);
            // Zigzag encoding: small numbers of either sign take few bytes.
            out.number(13, (keyed.score << 1 ^ keyed.score >> 63) as u64);
        }
        if let Some(position) = position.filter(|_| self.with_epoch) {
            out.string(14, position.epoch.as_str());
        }
        out.number(16, keyed.as_ref().map_or(0, |keyed| keyed.version));
    }
}

/// Writes each of them plain.
pub(super) fn publications(field: u32, list: &[Publication], out: &mut impl Sink) {
    for publication in list {
        out.message(field, &Published { publication, form: Form::Plain, with_epoch: false });
    }
}

/// The same for a subscriber that has negotiated deltas. An empty patch means that the payload comes whole.
pub(super) fn patched_publications(field: u32, list: &[Publication], patches: &[Bytes], out: &mut impl Sink) {
    let none = Bytes::new();
    for (publication, patch) in list.iter().zip(patches.iter().chain(std::iter::repeat(&none))) {
        let form = if patch.is_empty() { Form::Whole } else { Form::Patch(patch) };
        out.message(field, &Published { publication, form, with_epoch: false });
    }
}

impl Fields for ClientInfo {
    fn write(&self, out: &mut impl Sink) {
        out.string(1, self.user.as_str());
        out.client_id(2, self.client);
        out.bytes(3, self.conn_info.as_deref().unwrap_or_default());
        out.bytes(4, self.chan_info.as_deref().unwrap_or_default());
    }
}

/// Writes a map of messages, which on the wire is a list of pairs.
pub(super) fn map<K: AsRef<[u8]>, V: Fields>(
    field: u32,
    entries: impl IntoIterator<Item = (K, V)>,
    out: &mut impl Sink,
) {
    for (key, value) in entries {
        out.message(field, &MapEntryFields(key, value));
    }
}

struct MapEntryFields<K, V>(K, V);

impl<K: AsRef<[u8]>, V: Fields> Fields for MapEntryFields<K, V> {
    fn write(&self, out: &mut impl Sink) {
        out.entry(1, self.0.as_ref());
        out.message(2, &self.1);
    }
}

impl<T: Fields> Fields for &T {
    fn write(&self, out: &mut impl Sink) {
        T::write(self, out);
    }
}

/// An entry of a map of strings.
struct Pair<'a>(&'a str, &'a str);

impl Fields for Pair<'_> {
    fn write(&self, out: &mut impl Sink) {
        out.entry(1, self.0.as_bytes());
        out.entry(2, self.1.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_takes_as_many_bytes_as_were_counted() {
        for value in (0..64).map(|bit| 1_u64 << bit).flat_map(|power| [power - 1, power, power | 1]) {
            let (mut out, mut counted) = (BytesMut::new(), LengthSink(0));
            out.put_varint(value);
            counted.put_varint(value);
            assert_eq!(out.len(), counted.0, "{value}");
            assert_eq!(prost::decode_length_delimiter(&out[..]), Ok(value as usize));
        }
    }

    #[test]
    fn room_is_made_once_and_for_no_more_than_is_written() {
        let publication = Publication::new(Payload::binary(vec![7; 300]));
        let mut out = BytesMut::new();
        write_with_length(
            &Published { publication: &publication, form: Form::Plain, with_epoch: false },
            &mut out,
        );
        assert_eq!((out.len(), out.capacity()), (2 + 1 + 2 + 300, 2 + 1 + 2 + 300));
    }
}
