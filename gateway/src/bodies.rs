//! Accounts for the bodies of requests while they are received and processed, against a part of the node's memory budget.
//!
//! The readers bound the length and the time of each body. The budget here bounds all of them together.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;

/// The bytes of bodies that this node holds.
#[derive(Debug)]
pub(crate) struct Bodies {
    bytes_max: usize,
    held_bytes: AtomicUsize,
    refused: AtomicU64,
}

/// Why a body is not read to its end. The request has had no effect then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the body is longer than {0} bytes")]
    TooLong(usize),
    #[error("the body broke off: {0}")]
    Broken(Box<dyn std::error::Error + Send + Sync>),
    #[error("the body did not arrive in time")]
    Late,
    #[error("other requests' bodies use all the memory for bodies; nothing of this request was carried out")]
    Crowded,
}

/// A received body. Its bytes are accounted for until it is dropped.
#[derive(Debug)]
pub(crate) struct ReceivedBody {
    bytes: Bytes,
    _room: BodyPermit,
}

/// A reservation of bytes in the node's budget for bodies.
pub(crate) struct BodyPermit {
    bodies: Arc<Bodies>,
    bytes: usize,
}

impl Bodies {
    /// Creates a budget of this many bytes. A single body has room in any case.
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes_max, held_bytes: AtomicUsize::new(0), refused: AtomicU64::new(0) })
    }

    pub(crate) fn held_bytes(&self) -> usize {
        self.held_bytes.load(Ordering::Relaxed)
    }

    /// Returns how often a body found no room.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Returns an empty reservation, which can grow.
    pub(crate) fn room(self: &Arc<Self>) -> BodyPermit {
        BodyPermit { bodies: self.clone(), bytes: 0 }
    }

    /// Reads a body of at most `max` bytes to its end, within this time.
    pub(crate) async fn read<B>(
        self: &Arc<Self>,
        body: B,
        max: usize,
        within: Duration,
    ) -> Result<ReceivedBody, BodyError>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let reading = tokio::time::timeout(within, self.collect(body, max));
        reading.await.unwrap_or(Err(BodyError::Late))
    }

    async fn collect<B>(self: &Arc<Self>, body: B, max: usize) -> Result<ReceivedBody, BodyError>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut body = std::pin::pin!(body);
        let mut room = self.room();
        // Most bodies arrive in one piece, which is not copied.
        let (mut first, mut all) = (Bytes::new(), BytesMut::new());
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|error| BodyError::Broken(error.into()))?.into_data() else {
                continue;
            };
            if data.len() > max - room.bytes {
                return Err(BodyError::TooLong(max));
            }
            if !room.grow(data.len()) {
                self.refused.fetch_add(1, Ordering::Relaxed);
                return Err(BodyError::Crowded);
            }
            match (first.is_empty(), all.is_empty()) {
                (true, true) => first = data,
                (false, true) => {
                    all.reserve(first.len() + data.len());
                    all.extend_from_slice(&first);
                    all.extend_from_slice(&data);
                }
                _ => all.extend_from_slice(&data),
            }
        }
        let bytes = if all.is_empty() { first } else { all.freeze() };
        Ok(ReceivedBody { bytes, _room: room })
    }
}

impl Deref for ReceivedBody {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.bytes
    }
}

impl BodyPermit {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Enlarges the reservation by this many bytes. Returns false and leaves it as it was if there is no room.
    pub(crate) fn grow(&mut self, by: usize) -> bool {
        let before = self.bodies.held_bytes.fetch_add(by, Ordering::Relaxed);
        let others = before.saturating_sub(self.bytes);
        if others > 0 && before.saturating_add(by) > self.bodies.bytes_max {
            self.bodies.held_bytes.fetch_sub(by, Ordering::Relaxed);
            return false;
        }
        self.bytes += by;
        true
    }

    /// Changes the reservation to this size, which may be smaller.
    pub(crate) fn resize(&mut self, bytes: usize) -> bool {
        if bytes > self.bytes {
            return self.grow(bytes - self.bytes);
        }
        self.bodies.held_bytes.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        self.bytes = bytes;
        true
    }
}

impl Drop for BodyPermit {
    fn drop(&mut self) {
        self.bodies.held_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl fmt::Debug for BodyPermit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BodyPermit").field(&self.bytes).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream;
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

    use super::*;

    const SOON: Duration = Duration::from_secs(60);

    fn pieces(pieces: &'static [&'static [u8]]) -> impl Body<Data = Bytes, Error = Infallible> {
        let frames = pieces.iter().map(|piece| Ok(Frame::data(Bytes::from_static(piece))));
        StreamBody::new(stream::iter(frames))
    }

    #[tokio::test]
    async fn a_body_counts_until_it_is_dropped() {
        let bodies = Bodies::new(100);
        const COME: [&[&[u8]]; 2] = [&[b"hello"], &[b"he", b"", b"l", b"lo"]];
        for come in COME {
            let body = bodies.read(pieces(come), 5, SOON).await.unwrap();
            assert_eq!((&body[..], bodies.held_bytes()), (&b"hello"[..], 5));
            drop(body);
            assert_eq!(bodies.held_bytes(), 0);
        }
        assert!(bodies.read(pieces(&[]), 5, SOON).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_is_too_long_late_or_broken_is_told_and_leaves_nothing() {
        let bodies = Bodies::new(100);
        let long = bodies.read(pieces(&[b"hel", b"lo!"]), 5, SOON).await;
        assert!(matches!(long, Err(BodyError::TooLong(5))));
        let never = StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>());
        assert!(matches!(bodies.read(never, 5, Duration::ZERO).await, Err(BodyError::Late)));
        let broken =
            stream::iter([Ok(Frame::data(Bytes::from_static(b"he"))), Err(std::io::Error::other("gone"))]);
        assert!(matches!(bodies.read(StreamBody::new(broken), 5, SOON).await, Err(BodyError::Broken(_))));
        assert_eq!((bodies.held_bytes(), bodies.refused()), (0, 0));
    }

    #[tokio::test]
    async fn all_together_have_so_much_room_and_one_alone_what_it_needs() {
        let bodies = Bodies::new(10);
        let read = async |bytes: usize| bodies.read(Full::from(vec![7; bytes]), 100, SOON).await;
        let one = read(6).await.unwrap();
        assert!(matches!(read(5).await, Err(BodyError::Crowded)));
        let other = read(4).await.unwrap();
        assert_eq!((bodies.held_bytes(), bodies.refused()), (10, 1));
        drop((one, other));
        let large = read(50).await.unwrap();
        assert!(matches!(read(1).await, Err(BodyError::Crowded)));
        drop(large);
        assert_eq!(bodies.held_bytes(), 0);
    }

    #[test]
    fn room_grows_and_shrinks_within_what_there_is() {
        let bodies = Bodies::new(10);
        let (mut one, mut other) = (bodies.room(), bodies.room());
        assert!(one.resize(7) && !other.resize(4) && other.resize(3));
        assert!(one.resize(2) && other.resize(8) && !other.grow(1));
        assert_eq!((one.bytes(), other.bytes(), bodies.held_bytes()), (2, 8, 10));
        drop((one, other));
        assert_eq!(bodies.held_bytes(), 0);
    }
}
