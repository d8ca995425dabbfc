//! Reserved streams: their clients exist before the streams are opened by name.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use shared::id::ClientId;

use crate::client::StreamWatcher;
use crate::transport::task_pipe::HandedBody;

/// The reserved streams. Bounded by the limit of clients, because each holds a client's place.
#[derive(Debug, Default)]
pub(super) struct StreamReservations {
    /// `None` for a stream that is open already.
    streams: Mutex<HashMap<Box<str>, Option<HandedBody>>>,
}

/// The outcome of opening a reserved stream.
#[derive(Debug)]
pub(super) enum ReserveOutcome {
    Stream(HandedBody),
    Already,
    Unknown,
}

/// A reservation, which lasts as long as its client.
#[derive(Debug)]
pub(super) struct StreamReservation {
    all: Weak<StreamReservations>,
    stage: Mutex<ReservationStage>,
}

#[derive(Debug)]
enum ReservationStage {
    Begun,
    Reserved(Box<str>),
    Gone,
}

impl StreamReservations {
    /// Returns a reservation for a client that is about to be made, to be passed as its watcher.
    pub(super) fn begin(self: &Arc<Self>) -> Arc<StreamReservation> {
        Arc::new(StreamReservation { all: Arc::downgrade(self), stage: Mutex::new(ReservationStage::Begun) })
    }

    /// Takes the stream of this name, once.
    pub(super) fn take(&self, name: &str) -> ReserveOutcome {
        match self.streams.lock().get_mut(name) {
            None => ReserveOutcome::Unknown,
            Some(stream) => stream.take().map_or(ReserveOutcome::Already, ReserveOutcome::Stream),
        }
    }
}

impl StreamReservation {
    /// Keeps the other end of the client's stream, once the client has been made.
    pub(super) fn keep(&self, name: &str, stream: HandedBody) {
        let Some(all) = self.all.upgrade() else { return };
        let mut stage = self.stage.lock();
        // The client may be gone already.
        if matches!(*stage, ReservationStage::Begun) {
            *stage = ReservationStage::Reserved(name.into());
            all.streams.lock().insert(name.into(), Some(stream));
        }
    }

    /// Drops the stream if it has not been opened in time, which ends its client. An open stream stays.
    pub(super) fn give_up(&self) {
        let unopened = self.with_name(|all, name| all.streams.lock().get_mut(name).and_then(Option::take));
        // Dropped without a lock held, because this notifies the client's worker.
        drop(unopened);
    }

    fn with_name<T>(&self, act: impl FnOnce(&StreamReservations, &str) -> T) -> Option<T> {
        let all = self.all.upgrade()?;
        match &*self.stage.lock() {
            ReservationStage::Reserved(name) => Some(act(&all, name)),
            ReservationStage::Begun | ReservationStage::Gone => None,
        }
    }
}

impl StreamWatcher for StreamReservation {
    fn begun(&self, _client: ClientId, _payload: Option<&Bytes>) {}

    fn ended(&self, _client: ClientId) {
        let unopened = self.with_name(|all, name| all.streams.lock().remove(name));
        drop(unopened);
        *self.stage.lock() = ReservationStage::Gone;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::task_pipe::handed;
    use crate::transport::{ClientStream, IncomingSocket};

    #[test]
    fn a_stream_is_opened_once_and_forgotten_with_its_client() {
        let all = Arc::new(StreamReservations::default());
        let reservation = all.begin();
        let (_near, far) = handed();
        reservation.keep("n.s", far);
        assert!(matches!(all.take("n.t"), ReserveOutcome::Unknown));
        assert!(matches!(all.take("n.s"), ReserveOutcome::Stream(_)));
        assert!(matches!(all.take("n.s"), ReserveOutcome::Already));
        reservation.give_up();
        assert!(matches!(all.take("n.s"), ReserveOutcome::Already), "it was opened in time");
        reservation.ended(ClientId::from_random(1));
        assert!(matches!(all.take("n.s"), ReserveOutcome::Unknown));
    }

    #[test]
    fn whoever_went_before_is_not_kept() {
        let all = Arc::new(StreamReservations::default());
        let reservation = all.begin();
        reservation.ended(ClientId::from_random(1));
        let (_near, far) = handed();
        reservation.keep("n.s", far);
        assert!(matches!(all.take("n.s"), ReserveOutcome::Unknown));
    }

    #[test]
    fn what_nobody_opens_is_given_up() {
        let all = Arc::new(StreamReservations::default());
        let reservation = all.begin();
        let (near, far) = handed();
        let mut near = ClientStream::from(IncomingSocket::Handed(near));
        reservation.keep("n.s", far);
        reservation.give_up();
        assert_eq!(near.read(&mut [0; 1]).ok(), Some(0), "its client sees the end");
    }
}
