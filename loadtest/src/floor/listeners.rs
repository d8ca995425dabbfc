//! The dense list of everyone who listens, and the sweep over it.

use std::os::fd::OwnedFd;

use rustix::net::{SendFlags, send};

/// A sweep touches the descriptors alone, which stand side by side.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    sockets: Vec<OwnedFd>,
    /// Whose each is.
    guests: Vec<usize>,
    slow: u64,
}

impl Listeners {
    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Those who had to go because they could not take a whole buffer.
    pub(super) fn slow_total(&self) -> u64 {
        self.slow
    }

    pub(super) fn socket(&self, place: usize) -> Option<&OwnedFd> {
        self.sockets.get(place)
    }

    /// Returns the place.
    pub(super) fn add(&mut self, socket: OwnedFd, guest: usize) -> usize {
        self.sockets.push(socket);
        self.guests.push(guest);
        self.sockets.len() - 1
    }

    /// Closes the socket in a place. Returns the guest who sits there from now on.
    pub(super) fn remove(&mut self, place: usize) -> Option<usize> {
        if place < self.sockets.len() {
            self.sockets.swap_remove(place);
            self.guests.swap_remove(place);
        }
        self.guests.get(place).copied()
    }

    /// The bare loop. Returns the guests who could not take all of it.
    pub(super) fn sweep(&mut self, bytes: &[u8]) -> Vec<usize> {
        let mut slow = Vec::new();
        for (socket, &guest) in self.sockets.iter().zip(&self.guests) {
            let sent = send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
            if sent != Ok(bytes.len()) {
                slow.push(guest);
            }
        }
        self.slow += slow.len() as u64;
        slow
    }
}
