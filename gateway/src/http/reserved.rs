//! Streams whose clients are there before anybody reads them: by the names that open them.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use shared::id::ClientId;

use crate::client::StreamWatcher;
use crate::transport::task_pipe::HandedBody;

/// No more than there are clients, for each holds a place among those.
#[derive(Debug, Default)]
pub(super) struct StreamReservations {
    /// `None`: it is open.
    streams: Mutex<HashMap<Box<str>, Option<HandedBody>>>,
}

/// What came of opening one.
#[derive(Debug)]
pub(super) enum ReserveOutcome {
    Stream(HandedBody),
    Already,
    Unknown,
}

/// One of them, as long as its client is there.
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
    /// For a client that is about to be made, and is to be watched by this.
    pub(super) fn begin(self: &Arc<Self>) -> Arc<StreamReservation> {
        Arc::new(StreamReservation { all: Arc::downgrade(self), stage: Mutex::new(ReservationStage::Begun) })
    }

    /// The stream of this name, once.
    pub(super) fn take(&self, name: &str) -> ReserveOutcome {
        match self.streams.lock().get_mut(name) {
            None => ReserveOutcome::Unknown,
            Some(stream) => stream.take().map_or(ReserveOutcome::Already, ReserveOutcome::Stream),
        }
    }
}

impl StreamReservation {
    /// The client has been made, and this is the other end of its stream.
    pub(super) fn keep(&self, name: &str, stream: HandedBody) {
        let Some(all) = self.all.upgrade() else { return };
        let mut stage = self.stage.lock();
        // It may have gone already.
        if matches!(*stage, ReservationStage::Begun) {
            *stage = ReservationStage::Reserved(name.into());
            all.streams.lock().insert(name.into(), Some(stream));
        }
    }

    /// Nobody has opened it in time: its client goes. One that is open stays.
    pub(super) fn give_up(&self) {
        let unopened = self.with_name(|all, name| all.streams.lock().get_mut(name).and_then(Option::take));
        // Only now, without a lock: the client's worker is told.
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
