//! Streams whose clients are there before anybody reads them: by the names that open them.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use shared::id::ClientId;

use crate::client::Watcher;
use crate::transport::handed::HandedBody;

/// No more than there are clients, for each holds a place among those.
#[derive(Debug, Default)]
pub(super) struct Reserved {
    /// `None`: it is open.
    streams: Mutex<HashMap<Box<str>, Option<HandedBody>>>,
}

/// What came of opening one.
#[derive(Debug)]
pub(super) enum Taken {
    Stream(HandedBody),
    Already,
    Unknown,
}

/// One of them, as long as its client is there.
#[derive(Debug)]
pub(super) struct Reservation {
    all: Weak<Reserved>,
    stage: Mutex<Stage>,
}

#[derive(Debug)]
enum Stage {
    Begun,
    Kept(Box<str>),
    Gone,
}

impl Reserved {
    /// For a client that is about to be made, and is to be watched by this.
    pub(super) fn begin(self: &Arc<Self>) -> Arc<Reservation> {
        Arc::new(Reservation { all: Arc::downgrade(self), stage: Mutex::new(Stage::Begun) })
    }

    /// The stream of this name, once.
    pub(super) fn take(&self, name: &str) -> Taken {
        match self.streams.lock().get_mut(name) {
            None => Taken::Unknown,
            Some(stream) => stream.take().map_or(Taken::Already, Taken::Stream),
        }
    }
}

impl Reservation {
    /// The client has been made, and this is the other end of its stream.
    pub(super) fn keep(&self, name: &str, stream: HandedBody) {
        let Some(all) = self.all.upgrade() else { return };
        let mut stage = self.stage.lock();
        // It may have gone already.
        if matches!(*stage, Stage::Begun) {
            *stage = Stage::Kept(name.into());
            all.streams.lock().insert(name.into(), Some(stream));
        }
    }

    /// Nobody has opened it in time: its client goes. One that is open stays.
    pub(super) fn give_up(&self) {
        let unopened = self.with_name(|all, name| all.streams.lock().get_mut(name).and_then(Option::take));
        // Only now, without a lock: the client's worker is told.
        drop(unopened);
    }

    fn with_name<T>(&self, act: impl FnOnce(&Reserved, &str) -> T) -> Option<T> {
        let all = self.all.upgrade()?;
        match &*self.stage.lock() {
            Stage::Kept(name) => Some(act(&all, name)),
            Stage::Begun | Stage::Gone => None,
        }
    }
}

impl Watcher for Reservation {
    fn begun(&self, _client: ClientId, _payload: Option<&Bytes>) {}

    fn ended(&self, _client: ClientId) {
        let unopened = self.with_name(|all, name| all.streams.lock().remove(name));
        drop(unopened);
        *self.stage.lock() = Stage::Gone;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::handed::handed;
    use crate::transport::{Socket, Stream};

    #[test]
    fn a_stream_is_opened_once_and_forgotten_with_its_client() {
        let all = Arc::new(Reserved::default());
        let reservation = all.begin();
        let (_near, far) = handed();
        reservation.keep("n.s", far);
        assert!(matches!(all.take("n.t"), Taken::Unknown));
        assert!(matches!(all.take("n.s"), Taken::Stream(_)));
        assert!(matches!(all.take("n.s"), Taken::Already));
        reservation.give_up();
        assert!(matches!(all.take("n.s"), Taken::Already), "it was opened in time");
        reservation.ended(ClientId::from_random(1));
        assert!(matches!(all.take("n.s"), Taken::Unknown));
    }

    #[test]
    fn whoever_went_before_is_not_kept() {
        let all = Arc::new(Reserved::default());
        let reservation = all.begin();
        reservation.ended(ClientId::from_random(1));
        let (_near, far) = handed();
        reservation.keep("n.s", far);
        assert!(matches!(all.take("n.s"), Taken::Unknown));
    }

    #[test]
    fn what_nobody_opens_is_given_up() {
        let all = Arc::new(Reserved::default());
        let reservation = all.begin();
        let (near, far) = handed();
        let mut near = Stream::from(Socket::Handed(near));
        reservation.keep("n.s", far);
        reservation.give_up();
        assert_eq!(near.read(&mut [0; 1]).ok(), Some(0), "its client sees the end");
    }
}
