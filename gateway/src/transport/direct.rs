//! Sends to a socket known by its descriptor alone: the inner step of a fan-out.
//!
//! A sweep over ten thousand subscribers touches nothing of a connection but its place in one dense table, so the descriptor
//! is kept there, as a [`Direct`]. Only a live stream makes one, it cannot be copied, and the worker that keeps it drops it
//! before the stream. So the kernel can never have given the descriptor to another socket, whatever the hub's tables say.

#![expect(unsafe_code, reason = "a descriptor is kept beside the stream that owns it")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use mio::net::TcpStream;
use rustix::net::SendFlags;

/// The permission to send to a plain socket past the stream that owns it. As small as the descriptor, also in an `Option`.
#[derive(Debug)]
pub(crate) struct Direct(BorrowedFd<'static>);

const _: () =
    assert!(size_of::<Option<Direct>>() == 4, "there is one for each connection, and a sweep reads them all");

impl Direct {
    /// Makes the permission for a stream. To be dropped before the stream is.
    pub(super) fn of(stream: &TcpStream) -> Self {
        // SAFETY: the worker's table holds this in the connection's place, which it empties before the connection is
        // dropped and its socket closed; nothing else can hold it, because it is neither `Copy` nor `Clone`.
        Self(unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) })
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// A send never waits, and one to a peer that has gone does not end the process.
pub(super) const FLAGS: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);

/// Sends without waiting. Returns how many bytes the kernel took.
pub(crate) fn send(to: &Direct, bytes: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(to.0, bytes, FLAGS)?)
}
