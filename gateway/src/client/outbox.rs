//! The bytes that wait to be written to one client, bounded in size.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes};

/// The most buffers given to the kernel in one write.
const SLICES: usize = 32;

/// Frames to write, in order. Owns no memory while empty.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    waiting: VecDeque<QueuedBytes>,
    bytes: usize,
    /// The part of `bytes` that is held for no other client.
    own_bytes: usize,
    /// Whether a part of the first frame has been written: nothing may come before the rest of it.
    partial: bool,
    /// The number of frames at the front that the next control frame goes behind: earlier control frames, so that pongs keep
    /// the order of their pings, and the partial data frame ahead of them.
    urgent: u32,
}

/// A frame, or several that are written as one.
#[derive(Clone, Debug)]
pub(crate) enum QueuedBytes {
    /// Held for one client alone.
    Own(Bytes),
    /// Other clients may wait for the same bytes.
    Shared { bytes: Bytes },
}

impl QueuedBytes {
    pub(super) fn bytes(&self) -> &Bytes {
        let (Self::Own(bytes) | Self::Shared { bytes }) = self;
        bytes
    }

    fn bytes_mut(&mut self) -> &mut Bytes {
        let (Self::Own(bytes) | Self::Shared { bytes }) = self;
        bytes
    }

    fn is_own(&self) -> bool {
        matches!(self, Self::Own(_))
    }

    fn own_bytes(&self) -> usize {
        if self.is_own() { self.bytes().len() } else { 0 }
    }
}

/// There was no room: the client reads more slowly than it is sent to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OutboxFull;

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn own_bytes(&self) -> usize {
        self.own_bytes
    }

    /// Queues a frame. An empty outbox takes one frame of any size, so that a limit below the largest message does not
    /// exclude a client that keeps up.
    pub(crate) fn push(&mut self, frame: QueuedBytes, bytes_max: usize) -> Result<(), OutboxFull> {
        if !self.waiting.is_empty() && self.bytes + frame.bytes().len() > bytes_max {
            return Err(OutboxFull);
        }
        self.count(&frame);
        self.waiting.push_back(frame);
        Ok(())
    }

    fn count(&mut self, frame: &QueuedBytes) {
        self.bytes += frame.bytes().len();
        self.own_bytes += frame.own_bytes();
    }

    /// Queues the rest of a frame of which the socket has taken a part already.
    pub(crate) fn push_rest(&mut self, rest: Bytes) {
        debug_assert!(self.waiting.is_empty(), "a frame was written past those that wait");
        self.partial = true;
        let rest = QueuedBytes::Shared { bytes: rest };
        self.count(&rest);
        self.waiting.push_back(rest);
    }

    /// Queues a control frame ahead of waiting data (allowed by RFC 6455 §5.4), so that a slow client still sees pings and
    /// learns why it is closed. Not bounded here: each control frame answers something bounded.
    pub(crate) fn push_control(&mut self, frame: Bytes) {
        let frame = QueuedBytes::Own(frame);
        self.count(&frame);
        let place = (self.urgent as usize).max(usize::from(self.partial));
        self.waiting.insert(place, frame);
        self.urgent = place as u32 + 1;
    }

    /// Queues the close frame behind everything sent before. It always fits.
    pub(crate) fn push_last(&mut self, frame: Bytes) {
        let frame = QueuedBytes::Own(frame);
        self.count(&frame);
        self.waiting.push_back(frame);
    }

    /// Takes all frames that wait, in order.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = QueuedBytes> {
        std::mem::take(self).waiting.into_iter()
    }

    /// Drops all frames that wait, except the rest of a partial one. Returns how many were dropped.
    pub(crate) fn discard_waiting(&mut self) -> usize {
        let keep = usize::from(self.partial);
        let dropped = self.waiting.len().saturating_sub(keep);
        self.waiting.truncate(keep);
        self.urgent = 0;
        self.bytes = self.waiting.iter().map(|frame| frame.bytes().len()).sum();
        self.own_bytes = self.waiting.iter().map(QueuedBytes::own_bytes).sum();
        dropped
    }

    /// Writes until everything is written or `write` takes no more. Returns the number of bytes written.
    pub(crate) fn flush(
        &mut self,
        mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let mut total = 0;
        while !self.waiting.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = self.waiting.len().min(SLICES);
            for (slice, frame) in slices.iter_mut().zip(&self.waiting) {
                *slice = IoSlice::new(frame.bytes());
            }
            match write(&slices[..count]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    total += written;
                    self.advance(written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.waiting.is_empty() {
            // An idle connection holds no memory.
            self.waiting = VecDeque::new();
        }
        Ok(total)
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        while let Some(frame) = self.waiting.front_mut() {
            let taken = written.min(frame.bytes().len());
            if frame.is_own() {
                self.own_bytes -= taken;
            }
            if written < frame.bytes().len() {
                frame.bytes_mut().advance(written);
                self.partial |= written > 0;
                return;
            }
            written -= taken;
            self.waiting.pop_front();
            self.partial = false;
            self.urgent = self.urgent.saturating_sub(1);
            if written == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flush(outbox: &mut Outbox, sizes: &[usize]) -> Vec<u8> {
        let mut sizes = sizes.iter();
        let mut taken = Vec::new();
        let result = outbox.flush(|slices| {
            let Some(&size) = sizes.next() else { return Err(io::ErrorKind::WouldBlock.into()) };
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            let size = size.min(all.len());
            taken.extend_from_slice(&all[..size]);
            Ok(size)
        });
        assert_eq!(result.unwrap(), taken.len());
        taken
    }

    #[test]
    fn short_writes_lose_and_repeat_nothing() {
        for step in 1..12 {
            let mut outbox = Outbox::default();
            for frame in ["abc", "d", "efghi", "jk"] {
                outbox.push(QueuedBytes::Own(Bytes::from_static(frame.as_bytes())), 100).unwrap();
            }
            assert_eq!((outbox.bytes(), outbox.own_bytes()), (11, 11));
            assert_eq!(flush(&mut outbox, &[step; 12]), b"abcdefghijk", "steps of {step}");
            assert_eq!((outbox.is_empty(), outbox.bytes(), outbox.own_bytes()), (true, 0, 0));
        }
    }

    #[test]
    fn control_frames_overtake_data_but_never_split_a_frame() {
        let mut outbox = Outbox::default();
        outbox.push(QueuedBytes::Own(Bytes::from_static(b"first")), 100).unwrap();
        outbox.push(QueuedBytes::Own(Bytes::from_static(b"second")), 100).unwrap();
        let mut written = flush(&mut outbox, &[2]);
        outbox.push_control(Bytes::from_static(b"!"));
        written.extend(flush(&mut outbox, &[100, 100]));
        assert_eq!(written, b"first!second");
        outbox.push(QueuedBytes::Own(Bytes::from_static(b"third")), 100).unwrap();
        outbox.push_control(Bytes::from_static(b"!"));
        assert_eq!(flush(&mut outbox, &[100]), b"!third");
    }

    #[test]
    fn control_frames_keep_their_own_order() {
        let control = |outbox: &mut Outbox, frame: &'static str| {
            outbox.push_control(Bytes::from_static(frame.as_bytes()))
        };
        let mut outbox = Outbox::default();
        for frame in ["1", "2", "3"] {
            control(&mut outbox, frame);
        }
        outbox.push(QueuedBytes::Own(Bytes::from_static(b"data")), 100).unwrap();
        control(&mut outbox, "4");
        let mut written = flush(&mut outbox, &[6]);
        control(&mut outbox, "5");
        control(&mut outbox, "6");
        outbox.push(QueuedBytes::Own(Bytes::from_static(b"more")), 100).unwrap();
        control(&mut outbox, "7");
        written.extend(flush(&mut outbox, &[2, 1]));
        control(&mut outbox, "8");
        written.extend(flush(&mut outbox, &[100]));
        assert_eq!(written, b"1234data5678more");
    }

    #[test]
    fn a_full_outbox_refuses_but_an_empty_one_takes_any_frame() {
        let mut outbox = Outbox::default();
        outbox.push(QueuedBytes::Own(Bytes::from(vec![0; 50])), 10).unwrap();
        assert_eq!(outbox.push(QueuedBytes::Own(Bytes::from_static(b"x")), 10), Err(OutboxFull));
        let frame = |bytes| QueuedBytes::Own(Bytes::from(vec![0; bytes]));
        let mut outbox = Outbox::default();
        outbox.push(frame(6), 10).unwrap();
        assert_eq!(outbox.push(frame(5), 10), Err(OutboxFull), "it would be over its bound");
        outbox.push(frame(4), 10).unwrap();
    }

    #[test]
    fn discarding_keeps_the_rest_of_a_frame_that_has_begun() {
        let mut outbox = Outbox::default();
        outbox.push_rest(Bytes::from_static(b"rest"));
        outbox.push(QueuedBytes::Own(Bytes::from_static(b"gone")), 100).unwrap();
        assert_eq!(outbox.discard_waiting(), 1);
        outbox.push_control(Bytes::from_static(b"bye"));
        assert_eq!((outbox.bytes(), outbox.own_bytes()), (7, 3), "the rest is of a frame for all");
        assert_eq!(flush(&mut outbox, &[1, 1, 100]), b"restbye");
        for frame in ["gone", "gone too"] {
            outbox.push_control(Bytes::from_static(frame.as_bytes()));
        }
        assert_eq!(outbox.discard_waiting(), 2);
        outbox.push_control(Bytes::from_static(b"pong"));
        assert_eq!(flush(&mut outbox, &[100]), b"pong");
    }
}
