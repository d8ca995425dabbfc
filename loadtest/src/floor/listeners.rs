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
    peers: Vec<usize>,
}

/// Where the socket of a listener stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
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

    pub(super) fn socket(&self, slot: Slot) -> &OwnedFd {
        &self.lists[slot.channel].sockets[slot.place]
    }

    /// Where the next one to come to a channel will stand.
    pub(super) fn next_slot(&mut self, channel: usize) -> Slot {
        if self.lists.len() <= channel {
            self.lists.resize_with(channel + 1, List::default);
        }
        Slot { channel, place: self.lists[channel].sockets.len() }
    }

    pub(super) fn add(&mut self, socket: OwnedFd, peer: usize, channel: usize) {
        let list = &mut self.lists[channel];
        list.sockets.push(socket);
        list.peers.push(peer);
        self.count += 1;
    }

    /// Closes the socket there. Returns the peer whose socket stands there from now on.
    pub(super) fn remove(&mut self, slot: Slot) -> Option<usize> {
        let list = &mut self.lists[slot.channel];
        list.sockets.swap_remove(slot.place);
        list.peers.swap_remove(slot.place);
        self.count -= 1;
        list.peers.get(slot.place).copied()
    }

    /// The bare loop. Adds the peers who could not take all of it to `slow`.
    pub(super) fn sweep(&mut self, channel: usize, bytes: &[u8], slow: &mut Vec<usize>) {
        let Some(list) = self.lists.get(channel) else { return };
        let before = slow.len();
        for (socket, &peer) in list.sockets.iter().zip(&list.peers) {
            let sent = send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
            if sent != Ok(bytes.len()) {
                slow.push(peer);
            }
        }
        self.slow += (slow.len() - before) as u64;
    }
}
