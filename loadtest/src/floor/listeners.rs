//! The dense lists of those who listen, and the sweep over one of them.

use std::os::fd::OwnedFd;

use rustix::net::{SendFlags, send};

/// Everyone who listens, by channel.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    lists: Vec<List>,
    count: usize,
    slow: u64,
}

/// A sweep touches the descriptors alone, which stand side by side.
#[derive(Debug, Default)]
struct List {
    sockets: Vec<OwnedFd>,
    /// Whose each is.
    guests: Vec<usize>,
}

/// Where the socket of a listener stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seat {
    /// The number of its channel.
    pub(super) channel: usize,
    pub(super) place: usize,
}

impl Listeners {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Those who had to go because they could not take a whole buffer.
    pub(super) fn slow_total(&self) -> u64 {
        self.slow
    }

    pub(super) fn socket(&self, seat: Seat) -> Option<&OwnedFd> {
        self.lists.get(seat.channel)?.sockets.get(seat.place)
    }

    pub(super) fn add(&mut self, socket: OwnedFd, guest: usize, channel: usize) -> Seat {
        if self.lists.len() <= channel {
            self.lists.resize_with(channel + 1, List::default);
        }
        let list = &mut self.lists[channel];
        list.sockets.push(socket);
        list.guests.push(guest);
        self.count += 1;
        Seat { channel, place: list.sockets.len() - 1 }
    }

    /// Closes the socket there. Returns the guest who sits there from now on.
    pub(super) fn remove(&mut self, seat: Seat) -> Option<usize> {
        let list = self.lists.get_mut(seat.channel)?;
        if seat.place < list.sockets.len() {
            list.sockets.swap_remove(seat.place);
            list.guests.swap_remove(seat.place);
            self.count -= 1;
        }
        list.guests.get(seat.place).copied()
    }

    /// The bare loop. Adds the guests who could not take all of it to `slow`.
    pub(super) fn sweep(&mut self, channel: usize, bytes: &[u8], slow: &mut Vec<usize>) {
        let Some(list) = self.lists.get(channel) else { return };
        let before = slow.len();
        for (socket, &guest) in list.sockets.iter().zip(&list.guests) {
            let sent = send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
            if sent != Ok(bytes.len()) {
                slow.push(guest);
            }
        }
        self.slow += (slow.len() - before) as u64;
    }
}
