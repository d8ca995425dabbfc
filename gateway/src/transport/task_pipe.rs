//! A stream whose other end is a task of this node: for clients reached through a response of hyper, a stream of HTTP/2, or
//! anything else that a worker cannot poll itself.
//!
//! The pipe is bounded in each direction. To the worker it looks like a non-blocking socket; the task waits at the other
//! end.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes, BytesMut};
use hyper::body::{Body, Frame};
use parking_lot::Mutex;
use shared::framing::websocket::DeflateParams;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::transport::IncomingSocket;

/// The most bytes that wait for the task, as in a socket's own buffer.
const OUTBOUND_BYTES_MAX: usize = 16 << 10;

/// The most bytes that wait for the worker. A single push may exceed it.
const INBOUND_BYTES_MAX: usize = 16 << 10;

/// The most bytes read from a client's stream at once.
const READ_BYTES: usize = 4 << 10;

/// What a worker has to look at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PipeReadiness {
    /// There are bytes to read, or the other end is gone.
    Readable,
    /// There is room to write again.
    Writable,
}

/// Notifies a worker, from any thread.
pub(crate) type Wake = Arc<dyn Fn(PipeReadiness) + Send + Sync>;

/// The worker's end. Dropping it ends the stream for the task.
#[derive(Debug)]
pub(crate) struct PipeStream(Arc<SharedPipe>);

/// The task's end. Dropping it tells the worker that the client is gone.
#[derive(Debug)]
pub(crate) struct HandedBody(Arc<SharedPipe>);

#[derive(Debug, Default)]
struct SharedPipe {
    pipe: Mutex<Pipe>,
    /// Notified when the worker has read.
    read: Notify,
}

#[derive(Default)]
struct Pipe {
    outbound: BytesMut,
    /// Whether writes are taken slice by slice, each whole or not at all.
    is_of_slices: bool,
    /// Whether the worker has ended its side.
    outbound_ended: bool,
    /// Whether the worker has found no room, and is to be notified when there is some.
    wants_room: bool,
    inbound: VecDeque<Bytes>,
    inbound_bytes: usize,
    /// Whether the client has ended its side. The task may still take what is written.
    inbound_ended: bool,
    worker_gone: bool,
    /// Whether the task is gone: it pushes nothing and takes nothing.
    task_gone: bool,
    wake: Option<Wake>,
    taker: Option<Waker>,
    /// The connection that replaces this pipe.
    attached: Option<Box<Attached>>,
    /// Called when the worker drops its end.
    let_go: Option<OnRelease>,
}

type OnRelease = Box<dyn FnOnce() + Send>;

/// A connection that replaces a pipe.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) socket: IncomingSocket,
    /// Bytes already read from it.
    pub(crate) unread: Bytes,
    pub(crate) deflate: Option<DeflateParams>,
}

impl fmt::Debug for Pipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipe").field("outbound", &self.outbound.len()).finish_non_exhaustive()
    }
}

/// Returns the two ends of a new pipe.
pub(crate) fn handed() -> (PipeStream, HandedBody) {
    let shared = Arc::new(SharedPipe::default());
    (PipeStream(shared.clone()), HandedBody(shared))
}

/// The same for a worker whose slices must not be split: each is taken whole, so one may exceed the bound. `let_go` is
/// called when the worker's end is dropped.
pub(crate) fn handed_in_slices(let_go: impl FnOnce() + Send + 'static) -> (PipeStream, HandedBody) {
    let (near, far) = handed();
    {
        let mut pipe = near.0.pipe.lock();
        pipe.is_of_slices = true;
        pipe.let_go = Some(Box::new(let_go));
    }
    (near, far)
}

impl PipeStream {
    /// Notifies the worker from now on. Earlier events it has to check for itself.
    pub(super) fn connect(&self, wake: Wake) {
        self.0.pipe.lock().wake = Some(wake);
    }

    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut pipe = self.0.pipe.lock();
        let Some(first) = pipe.inbound.front_mut() else {
            return if pipe.task_gone || pipe.inbound_ended {
                Ok(0)
            } else {
                Err(io::ErrorKind::WouldBlock.into())
            };
        };
        let count = first.len().min(buffer.len());
        first.copy_to_slice(&mut buffer[..count]);
        if first.is_empty() {
            pipe.inbound.pop_front();
        }
        pipe.inbound_bytes -= count;
        drop(pipe);
        self.0.read.notify_one();
        Ok(count)
    }

    pub(super) fn write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut pipe = self.0.pipe.lock();
        if pipe.task_gone || pipe.outbound_ended {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut taken = 0;
        for slice in slices {
            let room = OUTBOUND_BYTES_MAX.saturating_sub(pipe.outbound.len());
            let some = if pipe.is_of_slices && room > 0 { slice.len() } else { slice.len().min(room) };
            pipe.outbound.extend_from_slice(&slice[..some]);
            taken += some;
            if some < slice.len() {
                pipe.wants_room = true;
                break;
            }
        }
        let taker = pipe.taker.take();
        drop(pipe);
        taker.into_iter().for_each(Waker::wake);
        if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    /// Returns the connection that replaces this pipe, once everything that came before it is read.
    pub(crate) fn take_attached(&self) -> Option<Box<Attached>> {
        let mut pipe = self.0.pipe.lock();
        if pipe.inbound.is_empty() { pipe.attached.take() } else { None }
    }

    /// Returns the bytes written and not taken.
    pub(crate) fn take_back(&self) -> BytesMut {
        std::mem::take(&mut self.0.pipe.lock().outbound)
    }

    /// Whether the task is gone, so that nothing written is taken any more.
    fn is_abandoned(&self) -> bool {
        self.0.pipe.lock().task_gone
    }

    pub(super) fn end(&self) {
        let taker = {
            let mut pipe = self.0.pipe.lock();
            pipe.outbound_ended = true;
            pipe.taker.take()
        };
        taker.into_iter().for_each(Waker::wake);
    }
}

impl Drop for PipeStream {
    fn drop(&mut self) {
        let (let_go, attached) = {
            let mut pipe = self.0.pipe.lock();
            pipe.wake = None;
            pipe.worker_gone = true;
            (pipe.let_go.take(), pipe.attached.take())
        };
        drop(attached);
        let_go.into_iter().for_each(|let_go| let_go());
        self.0.read.notify_one();
        self.end();
    }
}

impl HandedBody {
    /// Hands the client's bytes to the worker, once it has read enough of the earlier ones. Returns whether it still reads.
    pub(crate) async fn push(&self, bytes: Bytes) -> bool {
        loop {
            let read = self.0.read.notified();
            {
                let mut pipe = self.0.pipe.lock();
                if pipe.worker_gone {
                    return false;
                }
                if pipe.inbound_bytes < INBOUND_BYTES_MAX {
                    let wake = if pipe.inbound.is_empty() { pipe.wake.clone() } else { None };
                    if !bytes.is_empty() {
                        pipe.inbound_bytes += bytes.len();
                        pipe.inbound.push_back(bytes);
                    }
                    drop(pipe);
                    wake.into_iter().for_each(|wake| wake(PipeReadiness::Readable));
                    return true;
                }
            }
            read.await;
        }
    }

    /// Tells the worker that the client sends no more. The worker may still write.
    pub(crate) fn end_inbound(&self) {
        let wake = {
            let mut pipe = self.0.pipe.lock();
            pipe.inbound_ended = true;
            pipe.wake.clone()
        };
        wake.into_iter().for_each(|wake| wake(PipeReadiness::Readable));
    }

    /// Replaces the pipe with another connection. Returns it if the worker's end is gone.
    pub(crate) fn attach(&self, attached: Attached) -> Result<(), Attached> {
        let wake = {
            let mut pipe = self.0.pipe.lock();
            if pipe.worker_gone || pipe.attached.is_some() {
                return Err(attached);
            }
            pipe.attached = Some(Box::new(attached));
            pipe.wake.clone()
        };
        wake.into_iter().for_each(|wake| wake(PipeReadiness::Readable));
        Ok(())
    }

    /// Whether the worker has ended its side and everything is taken.
    pub(crate) fn is_over(&self) -> bool {
        let pipe = self.0.pipe.lock();
        pipe.outbound_ended && pipe.outbound.is_empty()
    }

    /// Tells the worker that the client is gone.
    pub(crate) fn abandon(&self) {
        let wake = {
            let mut pipe = self.0.pipe.lock();
            pipe.task_gone = true;
            pipe.wake.take()
        };
        wake.into_iter().for_each(|wake| wake(PipeReadiness::Readable));
    }

    /// Takes everything the worker has written. `None` once the worker has ended its side.
    pub(crate) fn poll_take(&self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut pipe = self.0.pipe.lock();
        if pipe.outbound.is_empty() {
            if pipe.outbound_ended {
                return Poll::Ready(None);
            }
            pipe.taker = Some(context.waker().clone());
            return Poll::Pending;
        }
        let taken = std::mem::take(&mut pipe.outbound).freeze();
        let wake = if std::mem::take(&mut pipe.wants_room) { pipe.wake.clone() } else { None };
        drop(pipe);
        wake.into_iter().for_each(|wake| wake(PipeReadiness::Writable));
        Poll::Ready(Some(taken))
    }
}

/// Copies a client's bytes in both directions until the worker has ended its side, or the client is gone.
pub(crate) async fn carry(stream: impl AsyncRead + AsyncWrite, handed: HandedBody) {
    let (mut from_client, mut to_client) = tokio::io::split(stream);
    let inward = async {
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        loop {
            buffer.reserve(READ_BYTES);
            match from_client.read_buf(&mut buffer).await {
                Ok(0) => return Ok(()),
                Ok(_) if handed.push(buffer.split().freeze()).await => {}
                // The worker reads no more, but its last bytes may still be in flight.
                Ok(_) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    };
    let outward = async {
        while let Some(bytes) = poll_fn(|context| handed.poll_take(context)).await {
            to_client.write_all(&bytes).await?;
            to_client.flush().await?;
        }
        to_client.shutdown().await
    };
    let mut outward = pin!(outward);
    let sent = tokio::select! {
        result = inward => result,
        _ = &mut outward => return,
    };
    if sent.is_ok() {
        handed.end_inbound();
        // Bounded by the worker, which drops a client that takes nothing, and by the connection's own pings.
        let _ = outward.await;
    }
}

/// Copies bytes from another node into a body, until no more come or nobody takes them. An idle stream holds no buffer here.
pub(crate) async fn fill(near: PipeStream, from: TcpStream) {
    let turned = Arc::new(Notify::new());
    let room = turned.clone();
    near.connect(Arc::new(move |_| room.notify_one()));
    // If the task went before the call above, it has notified nobody.
    if near.is_abandoned() {
        return;
    }
    loop {
        tokio::select! {
            readable = from.readable() => if readable.is_err() {
                return;
            },
            () = turned.notified() => {
                if near.is_abandoned() {
                    return;
                }
                continue;
            }
        }
        let mut come = match read_some(&from) {
            Ok(come) if come.is_empty() => return,
            Ok(come) => come,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        };
        while !come.is_empty() {
            match near.write_vectored(&[IoSlice::new(&come)]) {
                Ok(taken) => come.advance(taken),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => turned.notified().await,
                Err(_) => return,
            }
        }
    }
}

/// Reads what is available, up to a bound. The buffer is not held across a wait.
fn read_some(from: &TcpStream) -> io::Result<Bytes> {
    let mut buffer = [0; READ_BYTES];
    let count = from.try_read(&mut buffer)?;
    Ok(Bytes::copy_from_slice(&buffer[..count]))
}

impl Drop for HandedBody {
    fn drop(&mut self) {
        self.abandon();
    }
}

impl Body for HandedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.poll_take(context).map(|taken| taken.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use http_body_util::BodyExt;

    use super::*;

    /// Returns the two ends, and how often the worker was told of data to read and of room to write.
    fn connected() -> (PipeStream, HandedBody, Arc<[AtomicUsize; 2]>) {
        let (near, far) = handed();
        let told = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        let counted = told.clone();
        near.connect(Arc::new(move |turned| {
            counted[usize::from(turned == PipeReadiness::Writable)].fetch_add(1, Ordering::SeqCst);
        }));
        (near, far, told)
    }

    fn told(counts: &[AtomicUsize; 2]) -> [usize; 2] {
        [counts[0].load(Ordering::SeqCst), counts[1].load(Ordering::SeqCst)]
    }

    fn write(near: &PipeStream, bytes: &[u8]) -> io::Result<usize> {
        near.write_vectored(&[IoSlice::new(bytes)])
    }

    #[test]
    fn what_is_written_is_taken_in_its_order_and_then_it_ends() {
        let (near, mut far, _) = connected();
        assert!(far.frame().now_or_never().is_none());
        write(&near, b"one").unwrap();
        write(&near, b"two").unwrap();
        let taken = far.frame().now_or_never().unwrap().unwrap().unwrap();
        assert_eq!(taken.into_data().unwrap(), "onetwo");
        write(&near, b"three").unwrap();
        drop(near);
        assert_eq!(far.frame().now_or_never().unwrap().unwrap().unwrap().into_data().unwrap(), "three");
        assert!(far.frame().now_or_never().unwrap().is_none());
    }

    #[test]
    fn a_full_pipe_takes_a_part_and_tells_once_when_there_is_room() {
        let (near, mut far, counts) = connected();
        assert_eq!(write(&near, &[7; OUTBOUND_BYTES_MAX + 5]).unwrap(), OUTBOUND_BYTES_MAX);
        assert_eq!(write(&near, b"more").unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(told(&counts), [0, 0]);
        assert!(far.frame().now_or_never().is_some());
        assert_eq!(told(&counts), [0, 1]);
        assert_eq!(write(&near, b"more").unwrap(), 4);
        assert!(far.frame().now_or_never().is_some());
        assert_eq!(told(&counts), [0, 1], "nobody waited for this room");
    }

    #[test]
    fn a_pipe_of_slices_takes_each_whole_and_says_when_the_worker_lets_go() {
        let (let_go, gone) = std::sync::mpsc::channel();
        let (near, far) = handed_in_slices(move || let_go.send(()).unwrap());
        let long = vec![7; OUTBOUND_BYTES_MAX - 1];
        let slices = [IoSlice::new(&long), IoSlice::new(&long), IoSlice::new(b"x")];
        assert_eq!(near.write_vectored(&slices).unwrap(), 2 * long.len(), "one goes past the bound");
        assert_eq!(write(&near, b"x").unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(near.take_back().len(), 2 * long.len());
        assert_eq!(write(&near, b"x").unwrap(), 1);
        assert!(gone.try_recv().is_err());
        drop(near);
        assert!(gone.try_recv().is_ok() && !far.is_over(), "the last byte is still to be taken");
    }

    #[test]
    fn what_takes_the_place_of_a_pipe_waits_until_all_is_read() {
        let (near, far, counts) = connected();
        let other =
            || Attached { socket: IncomingSocket::Handed(handed().0), unread: Bytes::new(), deflate: None };
        assert_eq!(far.push(Bytes::from_static(b"last")).now_or_never(), Some(true));
        far.attach(other()).unwrap();
        assert_eq!(told(&counts), [2, 0]);
        assert!(near.take_attached().is_none() && far.attach(other()).is_err());
        near.read(&mut [0; 8]).unwrap();
        assert!(near.take_attached().is_some() && near.take_attached().is_none());
        drop(near);
        assert!(far.attach(other()).is_err());
    }

    #[test]
    fn a_task_that_goes_is_the_end_of_the_stream() {
        let (near, far, counts) = connected();
        let mut buffer = [0; 8];
        assert_eq!(near.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(far);
        assert_eq!(told(&counts), [1, 0]);
        assert_eq!(near.read(&mut buffer).unwrap(), 0);
        assert_eq!(write(&near, b"late").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn what_a_task_pushes_waits_for_the_worker_up_to_a_bound() {
        let (near, far, counts) = connected();
        let full = Bytes::from(vec![1; INBOUND_BYTES_MAX]);
        assert_eq!(far.push(full).now_or_never(), Some(true));
        let next = far.push(Bytes::from_static(b"next"));
        tokio::pin!(next);
        assert_eq!(next.as_mut().now_or_never(), None);
        let mut buffer = vec![0; INBOUND_BYTES_MAX * 2];
        assert_eq!(near.read(&mut buffer).unwrap(), INBOUND_BYTES_MAX);
        assert_eq!(next.now_or_never(), Some(true));
        assert_eq!(near.read(&mut buffer).unwrap(), 4);
        assert_eq!(told(&counts), [2, 0]);
        drop(near);
        assert_eq!(far.push(Bytes::from_static(b"late")).now_or_never(), Some(false));
    }
}
