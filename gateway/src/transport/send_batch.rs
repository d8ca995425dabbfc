//! Sends to many sockets in one system call, where the kernel allows this process io_uring.
//!
//! It keeps the promises of [`direct`](super::direct), whose sends it gathers. No send waits: one that would is answered
//! with `WouldBlock`. When the call returns every send has been answered, so the kernel holds no descriptor and no bytes:
//! nothing can reach a descriptor's next owner, or be sent after a later send.

#![expect(unsafe_code, reason = "the kernel is given descriptors and addresses through memory it shares")]

use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;

use bytes::Bytes;
use io_uring::{IoUring, opcode, types};

use super::Direct;
use super::direct::FLAGS;

/// The most sends in one call: the kernel's entries for these stay in the nearest processor cache.
pub(crate) const TOGETHER_MAX: usize = 128;

/// More bytes than a pair of sockets can hold.
const TRIED_BYTES_MAX: usize = 64 << 20;

/// Gathered sends, and the ring to the kernel.
pub(crate) struct SendBatch {
    ring: IoUring,
    sends: Vec<Send>,
    /// The bytes of the sends. Consecutive sends mostly share them.
    frames: Vec<Bytes>,
    /// The kernel's answer to each send, if it has come.
    answers: Vec<Option<i32>>,
}

#[derive(Clone, Copy, Debug)]
struct Send {
    socket: RawFd,
    frames: u32,
    /// Identifies the send to the caller.
    tag: u32,
}

impl std::fmt::Debug for SendBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendBatch").field("sends", &self.sends).finish_non_exhaustive()
    }
}

impl SendBatch {
    /// Opens a ring. Fails if the kernel has no io_uring, does not allow it to this process, or does not keep the promises
    /// above.
    pub(crate) fn open() -> io::Result<Self> {
        let room = || Vec::with_capacity(TOGETHER_MAX);
        let ring = IoUring::new(TOGETHER_MAX as u32)?;
        let answers = Vec::with_capacity(TOGETHER_MAX);
        let mut together = Self { ring, sends: room(), frames: Vec::new(), answers };
        together.try_out()?;
        Ok(together)
    }

    /// Sends to its own pair of sockets until they take no more, to check the promises.
    fn try_out(&mut self) -> io::Result<()> {
        let (near, mut far) = UnixStream::pair()?;
        let frames = Bytes::from_static(&[b'?'; 16 << 10]);
        let mut sent = 0;
        loop {
            self.gather(near.as_raw_fd(), &frames, 0);
            let mut answered = Err(io::ErrorKind::Unsupported.into());
            self.send(|_, answer| answered = answer)?;
            match answered {
                Ok(count) if count <= frames.len() && sent < TRIED_BYTES_MAX => sent += count,
                Ok(_) => return Err(io::Error::other("sends do not end")),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && sent > 0 => break,
                Err(error) => return Err(error),
            }
        }
        drop(near);
        let received = io::copy(&mut far.by_ref(), &mut io::sink())?;
        if received == sent as u64 {
            Ok(())
        } else {
            Err(io::Error::other("the socket was sent other bytes than were given"))
        }
    }

    /// Adds a send of all these bytes. There may be [`TOGETHER_MAX`] of them.
    #[inline]
    pub(crate) fn add(&mut self, to: &Direct, frames: &Bytes, tag: u32) {
        self.gather(to.descriptor(), frames, tag);
    }

    #[inline]
    fn gather(&mut self, socket: RawFd, frames: &Bytes, tag: u32) {
        debug_assert!(self.sends.len() < TOGETHER_MAX, "more sends than a batch may hold");
        let is_same = |known: &Bytes| known.as_ptr() == frames.as_ptr() && known.len() == frames.len();
        let at = self.frames.iter().rposition(is_same).unwrap_or_else(|| {
            self.frames.push(frames.clone());
            self.frames.len() - 1
        });
        self.sends.push(Send { socket, frames: at as u32, tag });
    }

    /// Sends everything gathered. Each send is answered as by [`direct::send`](super::direct::send), in order.
    ///
    /// After an error the ring must not be used again. Every send has been answered nevertheless.
    pub(crate) fn send(&mut self, mut answer: impl FnMut(u32, io::Result<usize>)) -> io::Result<()> {
        self.answers.clear();
        self.answers.resize(self.sends.len(), None);
        let (seen, submitted) = self.ask();
        if self.answers[..seen].contains(&None) {
            // The kernel may still read these bytes: leaking them is better than reusing their memory.
            std::mem::forget(self.frames.clone());
        }
        for (at, send) in self.sends.iter().enumerate() {
            let result = match self.answers[at] {
                Some(result) => match u32::try_from(result) {
                    Ok(count) => Ok(count as usize),
                    Err(_) => Err(io::Error::from_raw_os_error(-result)),
                },
                // It is unknown how much of it was sent.
                None if at < seen => Err(io::ErrorKind::ConnectionAborted.into()),
                None => send_alone(send.socket, &self.frames[send.frames as usize]),
            };
            answer(send.tag, result);
        }
        self.sends.clear();
        self.frames.clear();
        submitted
    }

    /// Has the kernel carry out the sends. Returns how many it has seen, and an error if it has not answered them all.
    fn ask(&mut self) -> (usize, io::Result<()>) {
        let mut queue = self.ring.submission();
        for (at, send) in self.sends.iter().enumerate() {
            let frames = &self.frames[send.frames as usize];
            let length = u32::try_from(frames.len()).unwrap_or(u32::MAX);
            let entry =
                opcode::Send::new(types::Fd(send.socket), frames.as_ptr(), length).flags(FLAGS.bits() as i32);
            // SAFETY: the kernel reads the bytes before it answers. Until then they are kept in `frames`, or leaked.
            let pushed = unsafe { queue.push(&entry.build().user_data(at as u64)) };
            debug_assert!(pushed.is_ok(), "the queue has room for a whole batch");
        }
        let pushed = queue.len();
        drop(queue);
        let (mut unanswered, mut submitted) = (pushed, Ok(()));
        while unanswered > 0 && submitted.is_ok() {
            let before = unanswered;
            submitted = self.ring.submit().map(drop);
            for completion in self.ring.completion() {
                if let Some(answer @ None) = self.answers.get_mut(completion.user_data() as usize) {
                    *answer = Some(completion.result());
                    unanswered -= 1;
                }
            }
            if submitted.is_ok() && unanswered == before {
                submitted = Err(io::Error::other("the kernel carried out none of several sends"));
            }
        }
        if submitted.is_ok() && pushed < self.sends.len() {
            submitted = Err(io::Error::other("the kernel's queue was not empty"));
        }
        (pushed - self.ring.submission().len(), submitted)
    }
}

/// Sends without the ring what the kernel has not taken from its queue.
fn send_alone(socket: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the caller that added this send keeps the stream open until the batch is sent.
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    Ok(rustix::net::send(socket, bytes, FLAGS)?)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    /// Returns `None` if this machine forbids io_uring, as some test machines do.
    fn allowed() -> Option<SendBatch> {
        match SendBatch::open() {
            Ok(together) => Some(together),
            Err(error)
                if [io::ErrorKind::PermissionDenied, io::ErrorKind::Unsupported].contains(&error.kind()) =>
            {
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn answers(together: &mut SendBatch) -> Vec<(u32, Result<usize, io::ErrorKind>)> {
        let mut answers = Vec::new();
        together.send(|tag, answer| answers.push((tag, answer.map_err(|error| error.kind())))).unwrap();
        answers
    }

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        near.set_nonblocking(true).unwrap();
        (near, listener.accept().unwrap().0)
    }

    fn read_all(mut far: TcpStream) -> Vec<u8> {
        let mut read = Vec::new();
        far.read_to_end(&mut read).unwrap();
        read
    }

    #[test]
    fn each_socket_gets_its_own_bytes_in_order_and_each_send_its_answer() {
        let Some(mut together) = allowed() else { return };
        let pairs: Vec<_> = (0..TOGETHER_MAX).map(|_| pair()).collect();
        let frames = [Bytes::from_static(b"even"), Bytes::from_static(b"odd one")];
        for round in 0..3 {
            for (at, (near, _)) in pairs.iter().enumerate() {
                together.gather(near.as_raw_fd(), &frames[(at + round) % 2], at as u32 * 10);
            }
            let expected: Vec<_> =
                (0..TOGETHER_MAX).map(|at| (at as u32 * 10, Ok(frames[(at + round) % 2].len()))).collect();
            assert_eq!(answers(&mut together), expected);
        }
        assert_eq!(answers(&mut together), [], "nothing is left of them");
        for (at, (near, far)) in pairs.into_iter().enumerate() {
            drop(near);
            let expected = if at % 2 == 0 { "evenodd oneeven" } else { "odd oneevenodd one" };
            assert_eq!(read_all(far), expected.as_bytes());
        }
    }

    #[test]
    fn a_socket_that_takes_less_or_nothing_or_is_gone_is_told_and_the_others_are_served() {
        let Some(mut together) = allowed() else { return };
        let [(slow, reads_late), (gone, leaves), (well, reads)] = [pair(), pair(), pair()];
        // A close over unread bytes is a reset.
        gone.set_nonblocking(false).unwrap();
        io::Write::write_all(&mut &gone, b"unread").unwrap();
        drop(leaves);
        let large: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
        let (large, small) = (Bytes::from(large), Bytes::from_static(b"small"));
        let (mut taken, mut sent, mut ends) = (0, 0, Vec::new());
        while ends.last() != Some(&Err(io::ErrorKind::WouldBlock)) {
            together.gather(slow.as_raw_fd(), &large.slice(taken % large.len()..), 1);
            together.gather(gone.as_raw_fd(), &small, 2);
            together.gather(well.as_raw_fd(), &small, 3);
            let [(1, of_slow), (2, of_gone), (3, Ok(5))] = answers(&mut together)[..] else {
                panic!("other answers");
            };
            ends.push(of_slow);
            taken += of_slow.unwrap_or(0);
            sent += 5;
            assert!(of_gone.is_err_and(|kind| {
                matches!(kind, io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
            }));
            assert!(ends.len() < 1_000, "a socket takes all of this");
        }
        assert!(
            ends.iter().any(|end| end.is_ok_and(|count| count < large.len())),
            "it took a part: {ends:?}"
        );
        drop((slow, well));
        let all = read_all(reads_late);
        assert_eq!(all.len(), taken);
        assert!(all.chunks(large.len()).all(|chunk| chunk == &large[..chunk.len()]));
        assert_eq!(read_all(reads).len(), sent);
    }
}
