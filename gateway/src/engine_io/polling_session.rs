//! The session of one polling client, whose requests fetch and bring packets. Between requests it consists of this
//! state and a pipe to the client's worker, without a task.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use shared::framing::engine_io::{PollingPayload, SEPARATOR};
use tokio::sync::Notify;

use crate::transport::task_pipe::{Attached, HandedBody};

/// The answer to requests for which there are no packets.
pub(super) const NOOP: Bytes = Bytes::from_static(b"6");
/// The answer to a pending request when another request has broken the rules.
const CLOSE: Bytes = Bytes::from_static(b"1");

/// How long a request that fetches waits while the client probes a WebSocket.
const FETCH_WHILE_PROBING: Duration = Duration::from_millis(100);

/// How long the worker may take to have room for the packets that a request brings.
const BRING_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct PollingSession {
    pipe: HandedBody,
    phase: Mutex<Phase>,
    /// Notified when the phase changes.
    changed: Notify,
    /// Whether a request waits for packets.
    fetching: AtomicBool,
    /// Whether a request brings packets.
    uploading: AtomicBool,
    /// Packets taken for a request at another node that did not fit into the reply.
    pub(super) unfetched: Mutex<Bytes>,
    /// Parts of the packets that a request at another node brings.
    pub(super) uploaded: Mutex<BytesMut>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Polling,
    /// The client probes a WebSocket.
    Probing,
    /// The client has changed over to a WebSocket.
    Moved,
    Ended,
}

/// Why a request is refused. All but the first end the session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum PollingError {
    #[error("the session is over, or was upgraded to a WebSocket")]
    Over,
    #[error("the session has another such request in progress")]
    Overlap,
    #[error("a packet cannot be read")]
    Malformed,
    #[error("the session accepts no more data")]
    Congested,
    #[error("the node that has the session does not answer")]
    Unreachable,
}

impl PollingSession {
    pub(super) fn new(pipe: HandedBody) -> Self {
        Self {
            pipe,
            phase: Mutex::new(Phase::Polling),
            changed: Notify::new(),
            fetching: AtomicBool::new(false),
            uploading: AtomicBool::new(false),
            unfetched: Mutex::default(),
            uploaded: Mutex::default(),
        }
    }

    /// Returns the packets that wait, or the next ones to come, or a no-op once `patience` is over. If the request is
    /// given up, the session ends: the packets taken for it would be missing.
    pub(crate) async fn fetch(&self, patience: Duration) -> Result<Bytes, PollingError> {
        let packets = self.fetch_in_turn(patience).await?;
        Ok(if packets.is_empty() { NOOP } else { packets })
    }

    /// The same for a request that repeats at once when there are no packets: these are reported as empty bytes.
    pub(super) async fn fetch_in_turn(&self, patience: Duration) -> Result<Bytes, PollingError> {
        let Some(turn) = RequestGuard::begin(self, &self.fetching) else {
            return Err(self.break_off(PollingError::Overlap));
        };
        let begun_in = *self.phase.lock();
        let patience = match begun_in {
            Phase::Polling => patience,
            Phase::Probing => FETCH_WHILE_PROBING,
            Phase::Moved | Phase::Ended => {
                turn.done();
                return Err(PollingError::Over);
            }
        };
        let packets = tokio::select! {
            biased;
            taken = poll_fn(|context| self.pipe.poll_take(context)) => {
                match taken {
                    Some(packets) => Ok(without_last_separator(packets)),
                    None if *self.phase.lock() == Phase::Ended => Ok(CLOSE),
                    None => Err(PollingError::Over),
                }
            }
            phase = self.phase_other_than(begun_in) => {
                Ok(if phase == Phase::Ended { CLOSE } else { NOOP })
            }
            () = tokio::time::sleep(patience) => {
                Ok(if begun_in == Phase::Polling { Bytes::new() } else { NOOP })
            }
        };
        turn.done();
        if self.pipe.is_over() {
            self.end();
        }
        packets
    }

    /// Begins a request that brings packets. There is one at a time.
    pub(crate) fn begin_upload(&self) -> Result<PacketUpload<'_>, PollingError> {
        let Some(turn) = RequestGuard::begin(self, &self.uploading) else {
            return Err(self.break_off(PollingError::Overlap));
        };
        match *self.phase.lock() {
            Phase::Polling | Phase::Probing => Ok(PacketUpload(turn)),
            Phase::Moved | Phase::Ended => {
                turn.done();
                Err(PollingError::Over)
            }
        }
    }

    /// Begins to probe a WebSocket. Returns false unless the client polls and probes no other WebSocket. A request that
    /// waits is answered, so that none is in flight when the client changes over.
    pub(super) fn begin_probing(&self) -> bool {
        self.change(Phase::Polling, Phase::Probing)
    }

    /// Returns to polling after a WebSocket has failed.
    pub(super) fn stop_probing(&self) {
        self.change(Phase::Probing, Phase::Polling);
    }

    /// Moves the client to this connection. Returns whether the client is still there.
    pub(crate) fn attach(&self, attached: Attached) -> bool {
        self.change(Phase::Probing, Phase::Moved) && self.pipe.attach(attached).is_ok()
    }

    /// Ends the session, because the client is gone. Its earlier commands are carried out.
    pub(crate) fn end(&self) {
        let mut phase = self.phase.lock();
        if *phase == Phase::Moved {
            return;
        }
        *phase = Phase::Ended;
        drop(phase);
        self.changed.notify_waiters();
        self.pipe.abandon();
    }

    fn break_off(&self, fault: PollingError) -> PollingError {
        self.end();
        fault
    }

    fn change(&self, from: Phase, to: Phase) -> bool {
        let mut phase = self.phase.lock();
        if *phase != from {
            return false;
        }
        *phase = to;
        drop(phase);
        self.changed.notify_waiters();
        true
    }

    async fn phase_other_than(&self, old: Phase) -> Phase {
        loop {
            let changed = self.changed.notified();
            let phase = *self.phase.lock();
            if phase != old {
                return phase;
            }
            changed.await;
        }
    }
}

fn without_last_separator(mut packets: Bytes) -> Bytes {
    if packets.last() == Some(&SEPARATOR) {
        packets.truncate(packets.len() - 1);
    }
    packets
}

/// A request of one kind in progress. If it is dropped before it is done, the client has given it up.
struct RequestGuard<'s> {
    session: &'s PollingSession,
    taken: &'s AtomicBool,
    is_done: bool,
}

impl<'s> RequestGuard<'s> {
    fn begin(session: &'s PollingSession, taken: &'s AtomicBool) -> Option<Self> {
        // Created only if the flag was free: dropping a guard clears it.
        let is_free = !taken.swap(true, Ordering::AcqRel);
        is_free.then(|| Self { session, taken, is_done: false })
    }

    fn done(mut self) {
        self.is_done = true;
    }
}

impl Drop for RequestGuard<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.session.end();
        }
        self.taken.store(false, Ordering::Release);
    }
}

/// A request that brings packets. If it is dropped, its session ends, because packets may be missing.
pub(crate) struct PacketUpload<'s>(RequestGuard<'s>);

impl PacketUpload<'_> {
    /// Passes the packets of a whole body to the worker, once it has room.
    pub(crate) async fn upload(self, body: Bytes) -> Result<(), PollingError> {
        if PollingPayload::check(&body).is_err() {
            return Err(PollingError::Malformed);
        }
        let mut packets = BytesMut::with_capacity(body.len() + 1);
        packets.put(body);
        packets.put_u8(SEPARATOR);
        match tokio::time::timeout(BRING_TIMEOUT, self.0.session.pipe.push(packets.freeze())).await {
            Ok(true) => {
                self.0.done();
                Ok(())
            }
            Ok(false) => Err(PollingError::Over),
            Err(_) => Err(PollingError::Congested),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::sync::Arc;

    use futures_util::FutureExt;

    use super::*;
    use crate::transport::task_pipe::handed_in_slices;
    use crate::transport::{ClientStream, IncomingSocket, PipeStream};

    const PATIENCE: Duration = Duration::from_secs(30);

    /// The worker's end of the pipe, and the session.
    fn session() -> (ClientStream, Arc<PollingSession>) {
        let (near, far) = handed_in_slices(|| {});
        (ClientStream::Handed(near), Arc::new(PollingSession::new(far)))
    }

    fn write(worker: &mut ClientStream, packets: &[u8]) {
        assert_eq!(worker.write_vectored(&[IoSlice::new(packets)]).unwrap(), packets.len());
    }

    fn is_told_of_its_end(worker: &mut ClientStream) -> bool {
        matches!(worker.read(&mut [0; 8]), Ok(0))
    }

    fn other() -> Attached {
        let (near, _): (PipeStream, _) = handed_in_slices(|| {});
        Attached { socket: IncomingSocket::Handed(near), unread: Bytes::new(), deflate: None }
    }

    #[tokio::test]
    async fn a_request_fetches_all_that_waits_or_waits_for_the_next() {
        let (mut worker, session) = session();
        write(&mut worker, b"4a\x1e");
        write(&mut worker, b"4b\x1e");
        assert_eq!(session.fetch(PATIENCE).now_or_never().unwrap().unwrap(), "4a\x1e4b");
        let waiting = session.fetch(PATIENCE);
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        write(&mut worker, b"2\x1e");
        assert_eq!(waiting.await.unwrap(), "2");
    }

    #[tokio::test]
    async fn a_request_does_not_wait_for_ever_and_the_next_one_may() {
        let (mut worker, session) = session();
        for _ in 0..2 {
            assert_eq!(session.fetch(Duration::from_millis(1)).await.unwrap(), "6");
        }
        assert!(!is_told_of_its_end(&mut worker));
    }

    #[tokio::test]
    async fn two_requests_of_a_kind_end_the_session() {
        let (mut worker, session) = session();
        let waiting = session.fetch(PATIENCE);
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        assert_eq!(session.fetch(PATIENCE).await, Err(PollingError::Overlap));
        assert_eq!(waiting.await.unwrap(), "1", "the one that waits is told");
        assert_eq!(session.fetch(PATIENCE).await, Err(PollingError::Over));
        assert!(is_told_of_its_end(&mut worker));

        let (mut worker, session) = self::session();
        let _first = session.begin_upload().unwrap();
        assert_eq!(session.begin_upload().err(), Some(PollingError::Overlap));
        assert!(is_told_of_its_end(&mut worker));
    }

    #[tokio::test]
    async fn a_request_that_is_given_up_ends_the_session() {
        let (mut worker, session) = session();
        assert!(session.fetch(PATIENCE).now_or_never().is_none());
        assert!(is_told_of_its_end(&mut worker));
        let (mut worker, session) = self::session();
        drop(session.begin_upload().unwrap());
        assert!(is_told_of_its_end(&mut worker));
    }

    #[tokio::test]
    async fn what_is_brought_comes_to_the_worker_packet_by_packet() {
        let (mut worker, session) = session();
        for body in ["4a\x1e4b", "3"] {
            let uploading = session.begin_upload().unwrap();
            uploading.upload(Bytes::from_static(body.as_bytes())).await.unwrap();
        }
        let mut read = [0; 16];
        assert_eq!((worker.read(&mut read).unwrap(), &read[..6]), (6, &b"4a\x1e4b\x1e"[..]));
        assert_eq!((worker.read(&mut read).unwrap(), &read[..2]), (2, &b"3\x1e"[..]));
        let uploading = session.begin_upload().unwrap();
        assert_eq!(uploading.upload(Bytes::from_static(b"abc")).await, Err(PollingError::Malformed));
        assert!(is_told_of_its_end(&mut worker));
    }

    #[tokio::test]
    async fn while_a_websocket_is_tried_no_request_waits_for_long() {
        let (mut worker, session) = session();
        let waiting = session.fetch(PATIENCE);
        tokio::pin!(waiting);
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(session.begin_probing() && !session.begin_probing());
        assert_eq!(waiting.now_or_never().unwrap().unwrap(), "6");
        assert_eq!(session.fetch(Duration::MAX).await.unwrap(), "6");
        session.stop_probing();
        assert!(session.begin_probing(), "another may be tried then");
        assert!(session.attach(other()));
        assert_eq!(session.fetch(PATIENCE).await, Err(PollingError::Over));
        assert_eq!(session.begin_upload().err(), Some(PollingError::Over));
        assert!(!session.begin_probing());
        session.end();
        assert!(!is_told_of_its_end(&mut worker), "the worker has another stream for it");
    }

    #[tokio::test]
    async fn the_last_packets_are_fetched_and_then_it_is_over() {
        let (mut worker, session) = session();
        write(&mut worker, b"4last\x1e1\x1e");
        worker.shut_down_writing();
        assert_eq!(session.fetch(PATIENCE).await.unwrap(), "4last\x1e1");
        assert!(is_told_of_its_end(&mut worker), "there is nothing more to wait for");
        assert_eq!(session.fetch(PATIENCE).await, Err(PollingError::Over));
    }
}
