//! Deltas in the format of Fossil SCM: the difference between one payload and the next.
//!
//! ```text
//! delta   = size LF command* checksum ";"
//! command = length "@" offset ","     this many bytes of the previous payload, from this offset on
//!         | length ":" bytes          these bytes
//! ```
//!
//! `size` is that of the new payload. Numbers are in base 64, most significant digit first. The checksum is the sum of the
//! new payload's big-endian 32-bit words, padded with zeros. Everything is counted in bytes. Where the new payload is text,
//! the delta is, too: text protocols carry it in a string, whose parts must not begin or end within a character.

use bytes::Bytes;
use rustc_hash::FxHashMap;
use shared::publication::{Payload, PayloadKind, Publication};

/// The digits of numbers.
const DIGITS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";

/// The length of the windows by which common parts are found, and the least length worth a copy.
const WINDOW: usize = 8;
/// The distance between the windows of the previous payload that are remembered, in bytes.
const STEP: usize = 4;
/// The most bits of an index of the table of windows. Of several windows with the same index the last one is found.
const TABLE_BITS_MAX: u32 = 16;

/// Why a delta cannot be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    #[error("the delta ends too early")]
    Truncated,
    #[error("the delta is malformed")]
    Malformed,
    #[error("the delta makes more bytes than are allowed")]
    TooLarge,
    #[error("the delta was not made from this payload")]
    OtherPayload,
}

/// Returns the delta that makes `target` from `origin`. `None` if it would not be shorter than `target` itself.
pub fn create(origin: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    if u32::try_from(origin.len()).is_err() || u32::try_from(target.len()).is_err() {
        return None;
    }
    let mut delta = Writer { out: Vec::with_capacity(target.len().min(64 + target.len() / 4)), target };
    put_number(target.len() as u32, &mut delta.out);
    delta.out.push(b'\n');

    let prefix = common_prefix(origin, target);
    let suffix = common_suffix(&origin[prefix..], &target[prefix..]);
    let is_text = std::str::from_utf8(target).is_ok();
    let (prefix, suffix) = match is_text {
        true => (
            whole_characters(target, 0, prefix).1,
            target.len() - whole_characters(target, target.len() - suffix, target.len()).0,
        ),
        false => (prefix, suffix),
    };
    let changed_until = target.len() - suffix;
    delta.copy_or_insert(0, 0, prefix);
    if prefix < changed_until {
        write_changed(origin, prefix, changed_until, is_text, &mut delta)?;
    }
    delta.copy_or_insert(origin.len() - suffix, changed_until, target.len());
    put_number(checksum(target), &mut delta.out);
    delta.out.push(b';');
    (delta.out.len() < target.len()).then_some(delta.out)
}

/// Returns the delta between two payloads, in a form that all protocols can carry. `None` if it would not be shorter than
/// the payload, or if one of them is not JSON.
pub fn between(before: &Payload, payload: &Payload) -> Option<Bytes> {
    let is_json = before.kind == PayloadKind::Json && payload.kind == PayloadKind::Json;
    is_json.then(|| create(&before.bytes, &payload.bytes))?.map(Bytes::from)
}

/// Returns the deltas of consecutive publications, as a subscriber gets them in a reply. An empty one stands for a
/// publication that is sent whole, as the first always is. Where a channel keeps state by key, each key has its own chain.
pub fn chain(publications: &[Publication]) -> Vec<Bytes> {
    if publications.iter().any(|publication| publication.keyed.is_some()) {
        return chain_by_key(publications);
    }
    let first = publications.iter().take(1).map(|_| Bytes::new());
    let pairs = publications.windows(2).map(|pair| match pair {
        [before, publication] if publication.delta => {
            between(&before.data, &publication.data).unwrap_or_default()
        }
        _ => Bytes::new(),
    });
    first.chain(pairs).collect()
}

fn chain_by_key(publications: &[Publication]) -> Vec<Bytes> {
    let mut last: FxHashMap<&str, &Payload> = FxHashMap::default();
    let patches = publications.iter().map(|publication| {
        let key = publication.keyed.as_ref().map_or("", |keyed| &keyed.key);
        // A key that is set again after its removal comes whole.
        let before = match publication.keyed.as_ref().is_some_and(|keyed| keyed.removed) {
            true => last.remove(key).filter(|_| false),
            false => last.insert(key, &publication.data),
        };
        let patch = before.filter(|_| publication.delta);
        patch.and_then(|before| between(before, &publication.data)).unwrap_or_default()
    });
    patches.collect()
}

/// Applies a delta to the previous payload. The result has at most `bytes_max` bytes.
pub fn apply(origin: &[u8], delta: &[u8], bytes_max: usize) -> Result<Vec<u8>, DeltaError> {
    let mut rest = delta;
    let size = take_number(&mut rest)? as usize;
    if take(&mut rest)? != b'\n' {
        return Err(DeltaError::Malformed);
    }
    if size > bytes_max {
        return Err(DeltaError::TooLarge);
    }
    let mut target = Vec::with_capacity(size.min(origin.len() + delta.len()));
    loop {
        let number = take_number(&mut rest)?;
        let part = match take(&mut rest)? {
            b'@' => {
                let offset = take_number(&mut rest)? as usize;
                if take(&mut rest)? != b',' {
                    return Err(DeltaError::Malformed);
                }
                let end = offset.checked_add(number as usize).ok_or(DeltaError::Malformed)?;
                origin.get(offset..end).ok_or(DeltaError::OtherPayload)?
            }
            b':' => {
                let (part, behind) = rest.split_at_checked(number as usize).ok_or(DeltaError::Truncated)?;
                rest = behind;
                part
            }
            b';' => {
                return match target.len() == size && number == checksum(&target) && rest.is_empty() {
                    true => Ok(target),
                    false => Err(DeltaError::OtherPayload),
                };
            }
            _ => return Err(DeltaError::Malformed),
        };
        if part.len() > size - target.len() {
            return Err(DeltaError::Malformed);
        }
        target.extend_from_slice(part);
    }
}

struct Writer<'a> {
    out: Vec<u8>,
    target: &'a [u8],
}

impl Writer<'_> {
    fn copy(&mut self, offset: usize, bytes: usize) {
        put_number(bytes as u32, &mut self.out);
        self.out.push(b'@');
        put_number(offset as u32, &mut self.out);
        self.out.push(b',');
    }

    fn insert(&mut self, from: usize, until: usize) {
        if from < until {
            put_number((until - from) as u32, &mut self.out);
            self.out.push(b':');
            self.out.extend_from_slice(&self.target[from..until]);
        }
    }

    /// Writes a part of the target that is also at `offset` of the origin.
    fn copy_or_insert(&mut self, offset: usize, from: usize, until: usize) {
        if until - from >= WINDOW { self.copy(offset, until - from) } else { self.insert(from, until) }
    }

    /// Whether the delta is already as long as the target.
    fn is_no_gain(&self) -> bool {
        self.out.len() >= self.target.len()
    }
}

/// Writes what lies between the common prefix and the common suffix. Returns `None` as soon as nothing can be gained.
fn write_changed(
    origin: &[u8],
    from: usize,
    until: usize,
    is_text: bool,
    delta: &mut Writer<'_>,
) -> Option<()> {
    let target = delta.target;
    let windows = PayloadWindows::of(origin);
    // Everything before `done` is written. At `at + shift` the origin continues the last copy, if the bytes since were
    // replaced by as many others.
    let (mut done, mut at) = (from, from);
    let mut shift = 0_isize;
    while at + WINDOW <= until {
        let beside = at.checked_add_signed(shift);
        let candidates = [beside, windows.find(origin, &target[at..at + WINDOW])];
        let found = candidates.into_iter().flatten().find_map(|offset| {
            let length = common_prefix(origin.get(offset..)?, &target[at..until]);
            if length < WINDOW {
                return None;
            }
            let before = common_suffix(&origin[..offset], &target[done..at]);
            let (start, end) = match is_text {
                true => whole_characters(target, at - before, at + length),
                false => (at - before, at + length),
            };
            // A shorter part costs as much to copy as to insert.
            (end - start >= WINDOW).then(|| (start, end, offset + start - at))
        });
        let Some((start, end, offset)) = found else {
            at += 1;
            continue;
        };
        delta.insert(done, start);
        delta.copy(offset, end - start);
        if delta.is_no_gain() {
            return None;
        }
        shift = (offset as isize) - (start as isize);
        (done, at) = (end, end);
    }
    delta.insert(done, until);
    (!delta.is_no_gain()).then_some(())
}

/// The positions of a payload's windows.
struct PayloadWindows {
    /// Each offset plus one; 0 for none.
    offsets: Vec<u32>,
    bits: u32,
}

impl PayloadWindows {
    fn of(origin: &[u8]) -> Self {
        let count = (origin.len() / STEP).max(1);
        let bits = (usize::BITS - count.leading_zeros()).clamp(4, TABLE_BITS_MAX);
        let mut windows = Self { offsets: vec![0; 1 << bits], bits };
        for (index, window) in origin.windows(WINDOW).step_by(STEP).enumerate() {
            let place = windows.place(window);
            windows.offsets[place] = (index * STEP + 1) as u32;
        }
        windows
    }

    fn find(&self, origin: &[u8], window: &[u8]) -> Option<usize> {
        let offset = self.offsets[self.place(window)].checked_sub(1)? as usize;
        (origin.get(offset..offset + WINDOW)? == window).then_some(offset)
    }

    fn place(&self, window: &[u8]) -> usize {
        let mut bytes = [0; WINDOW];
        bytes.copy_from_slice(window);
        let mixed = u64::from_le_bytes(bytes).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> (u64::BITS - self.bits)) as usize
    }
}

fn common_prefix(one: &[u8], other: &[u8]) -> usize {
    let blocks = one.chunks_exact(32).zip(other.chunks_exact(32));
    let same = blocks.take_while(|(one, other)| one == other).count() * 32;
    same + one[same..].iter().zip(&other[same..]).take_while(|(one, other)| one == other).count()
}

fn common_suffix(one: &[u8], other: &[u8]) -> usize {
    one.iter().rev().zip(other.iter().rev()).take_while(|(one, other)| one == other).count()
}

/// Returns the largest part within these bounds that begins and ends between characters.
fn whole_characters(text: &[u8], mut start: usize, mut end: usize) -> (usize, usize) {
    let is_inside = |at: usize| text.get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    while start < end && is_inside(start) {
        start += 1;
    }
    while end > start && is_inside(end) {
        end -= 1;
    }
    (start, end)
}

fn checksum(bytes: &[u8]) -> u32 {
    bytes.chunks(4).fold(0, |sum: u32, chunk| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        sum.wrapping_add(u32::from_be_bytes(word))
    })
}

fn put_number(number: u32, out: &mut Vec<u8>) {
    let digits = (u32::BITS - number.leading_zeros()).div_ceil(6).max(1);
    for digit in (0..digits).rev() {
        out.push(DIGITS[(number >> (6 * digit)) as usize & 63]);
    }
}

/// Reads a number, which has at least one digit.
fn take_number(rest: &mut &[u8]) -> Result<u32, DeltaError> {
    let mut number: Option<u32> = None;
    while let Some((&byte, behind)) = rest.split_first() {
        let Some(digit) = digit(byte) else { break };
        let before = number.unwrap_or(0);
        if before >> (u32::BITS - 6) != 0 {
            return Err(DeltaError::Malformed);
        }
        number = Some(before << 6 | digit);
        *rest = behind;
    }
    match rest.is_empty() {
        true => Err(DeltaError::Truncated),
        false => number.ok_or(DeltaError::Malformed),
    }
}

fn digit(byte: u8) -> Option<u32> {
    let value = match byte {
        b'0'..=b'9' => byte - b'0',
        b'A'..=b'Z' => byte - b'A' + 10,
        b'_' => 36,
        b'a'..=b'z' => byte - b'a' + 37,
        b'~' => 63,
        _ => return None,
    };
    Some(value.into())
}

fn take(rest: &mut &[u8]) -> Result<u8, DeltaError> {
    let (&byte, behind) = rest.split_first().ok_or(DeltaError::Truncated)?;
    *rest = behind;
    Ok(byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAX: usize = 1 << 20;

    /// A payload and one that shares parts of it, in any order.
    fn pairs() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
        let part = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            "[a-c\u{e9}\u{1f600}]{0,40}".prop_map(String::into_bytes),
        ];
        prop::collection::vec(part, 1..8).prop_flat_map(|parts| {
            let order = prop::collection::vec((0..parts.len(), any::<bool>()), 0..12);
            (Just(parts), order, prop::collection::vec(any::<u8>(), 0..6)).prop_map(|(parts, order, new)| {
                let target = order.iter().flat_map(|&(index, whole)| {
                    let part = &parts[index];
                    if whole { part.clone() } else { [&part[..part.len() / 2], &new].concat() }
                });
                (parts.concat(), target.collect())
            })
        })
    }

    proptest! {
        #[test]
        fn a_delta_makes_the_new_payload_of_the_one_before((origin, target) in pairs()) {
            if let Some(delta) = create(&origin, &target) {
                prop_assert!(delta.len() < target.len());
                prop_assert_eq!(apply(&origin, &delta, target.len()), Ok(target.clone()));
                prop_assert_eq!(apply(&origin, &delta, target.len() - 1), Err(DeltaError::TooLarge));
            }
        }

        #[test]
        fn the_delta_of_a_text_is_a_text(
            origin in "[ab\u{e9}\u{20ac}\u{1f600}\u{1f601}]{0,60}",
            target in "[ab\u{e9}\u{20ac}\u{1f600}\u{1f601}]{0,60}",
            shared in "[ab\u{e9}\u{20ac}\u{1f600}\u{1f601}]{10,60}",
        ) {
            let (origin, target) = (format!("{origin}{shared}"), format!("{target}{shared}{origin}"));
            if let Some(delta) = create(origin.as_bytes(), target.as_bytes()) {
                prop_assert!(std::str::from_utf8(&delta).is_ok());
                prop_assert_eq!(apply(origin.as_bytes(), &delta, MAX), Ok(target.into_bytes()));
            }
        }

        #[test]
        fn applying_takes_any_bytes_and_makes_no_more_than_is_allowed(
            origin in prop::collection::vec(any::<u8>(), 0..64),
            delta in prop::collection::vec(prop_oneof![Just(b'1'), Just(b'@'), Just(b':'), Just(b','), Just(b';'), Just(b'\n'), any::<u8>()], 0..64),
            bytes_max in 0_usize..100,
        ) {
            if let Ok(target) = apply(&origin, &delta, bytes_max) {
                prop_assert!(target.len() <= bytes_max);
            }
        }

        #[test]
        fn a_spoiled_delta_is_an_error_or_the_same(
            (origin, target) in pairs(),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            if let Some(mut delta) = create(&origin, &target) {
                let at = at.index(delta.len());
                delta[at] = byte;
                if let Ok(made) = apply(&origin, &delta, MAX) {
                    prop_assert_eq!((made.len(), checksum(&made)), (target.len(), checksum(&target)));
                }
                prop_assert!(apply(&origin, &delta[..at], MAX).is_err());
            }
        }

        #[test]
        fn numbers_read_back(number in any::<u32>()) {
            let mut written = Vec::new();
            put_number(number, &mut written);
            written.push(b';');
            prop_assert_eq!(take_number(&mut &written[..]), Ok(number));
        }
    }

    fn text(delta: Option<Vec<u8>>) -> Option<String> {
        delta.map(|delta| String::from_utf8(delta).expect("text"))
    }

    #[test]
    fn a_changed_price_is_a_few_bytes_between_two_copies() {
        let tick = |price: u32| format!("{{\"symbol\":\"AAPL\",\"price\":{price},\"currency\":\"USD\"}}");
        let delta = create(tick(187).as_bytes(), tick(188).as_bytes());
        assert_eq!(text(delta).as_deref(), Some("j\nR@0,1:8I@S,1Yeeqq;"));
    }

    #[test]
    fn nothing_that_is_not_shorter_is_a_delta() {
        for (origin, target) in [("", ""), ("", "abc"), ("abc", ""), ("a", "a"), ("abcdefgh", "ijklmnopqrst")]
        {
            assert_eq!(create(origin.as_bytes(), target.as_bytes()), None, "{origin:?} {target:?}");
        }
        let same = "the same text twice, which is one copy";
        assert_eq!(text(create(same.as_bytes(), same.as_bytes())).map(|delta| delta.len() < 16), Some(true));
    }

    #[test]
    fn parts_that_changed_places_are_copied() {
        let (one, two) = ("first part of a payload, ".repeat(3), "second part of it; ".repeat(4));
        let (origin, target) = (format!("{one}{two}"), format!("{two}{one}"));
        let delta = create(origin.as_bytes(), target.as_bytes()).expect("much is shared");
        assert!(delta.len() < 40, "{} bytes", delta.len());
        assert_eq!(apply(origin.as_bytes(), &delta, MAX), Ok(target.into_bytes()));
    }

    #[test]
    fn an_array_with_a_few_other_numbers_is_copied_in_between() {
        let row = |index: u32, value: u32| format!("{{\"id\":{index},\"value\":{value}}}");
        let table = |changed: &[u32]| {
            let rows =
                (1000..1100).map(|index| row(index, if changed.contains(&index) { 7777 } else { 5555 }));
            format!("[{}]", rows.collect::<Vec<_>>().join(","))
        };
        let (origin, target) = (table(&[]), table(&[1003, 1040, 1077]));
        let delta = create(origin.as_bytes(), target.as_bytes()).expect("much is shared");
        assert!(delta.len() < 60, "{} bytes of {}", delta.len(), target.len());
        assert_eq!(apply(origin.as_bytes(), &delta, MAX), Ok(target.into_bytes()));
    }

    #[test]
    fn a_chain_begins_whole_and_goes_on_by_patches_where_their_publishers_want_them() {
        let publication = |price: u32, delta: bool| {
            let data = format!("{{\"symbol\":\"AAPL\",\"price\":{price},\"currency\":\"USD\"}}");
            Publication { delta, ..Publication::new(Payload::json(data)) }
        };
        let text = Publication { delta: true, ..Publication::new(Payload::text("no JSON")) };
        let list =
            [publication(1, true), publication(2, true), publication(3, false), text, publication(4, true)];
        let patches = chain(&list);
        assert_eq!(patches.iter().map(Bytes::is_empty).collect::<Vec<_>>(), [true, false, true, true, true]);
        assert_eq!(apply(&list[0].data.bytes, &patches[1], MAX).as_deref(), Ok(&list[1].data.bytes[..]));
        assert_eq!(chain(&[]), Vec::<Bytes>::new());
    }

    #[test]
    fn what_other_programs_write_is_read() {
        let origin = b"hello, world";
        for (delta, expected) in [
            (&b"C\nC@0,170~a7;"[..], Ok(&b"hello, world"[..])),
            (b"0\n0;", Ok(b"")),
            (b"", Err(DeltaError::Truncated)),
            (b"0", Err(DeltaError::Truncated)),
            (b"0;", Err(DeltaError::Malformed)),
            (b"\n0;", Err(DeltaError::Malformed)),
            (b"1\n1@C,0;", Err(DeltaError::OtherPayload)),
            (b"1\n2:ab0;", Err(DeltaError::Malformed)),
            (b"~~~~~~\n0;", Err(DeltaError::Malformed)),
            (b"1\n5:ab", Err(DeltaError::Truncated)),
            (b"1\n1:a0;", Err(DeltaError::OtherPayload)),
        ] {
            let made = apply(origin, delta, MAX);
            assert_eq!(
                made.as_deref(),
                expected.as_ref().map(|bytes| *bytes),
                "{:?}",
                String::from_utf8_lossy(delta)
            );
        }
    }
}
