//! Sending to a socket known by its descriptor alone: the inner step of a fan-out.
//!
//! The hub's tables hold descriptors so that a sweep over ten thousand subscribers touches nothing else of theirs.
//! That is sound because one thread owns both: a worker takes a connection out of its hub before it closes the
//! connection's socket, so a descriptor in a table is never one that the kernel has given to somebody else.

#![expect(unsafe_code, reason = "a descriptor from the hub's table is borrowed for the length of one call")]

use std::io;
use std::os::fd::BorrowedFd;

use rustix::net::SendFlags;

/// Sends without waiting. Answers how many bytes the kernel took.
pub(crate) fn send(descriptor: i32, bytes: &[u8]) -> io::Result<usize> {
    debug_assert!(descriptor >= 0, "only plain sockets are sent to directly");
    // SAFETY: the descriptor is that of a connection of this worker, which is taken out of every table before its
    // socket is closed (see the module's comment), and nothing is closed during this call.
    let socket = unsafe { BorrowedFd::borrow_raw(descriptor) };
    Ok(rustix::net::send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
}
