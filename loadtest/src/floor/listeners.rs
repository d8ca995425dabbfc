//! The dense lists of listeners, and the sweep over one list.

use std::os::fd::OwnedFd;

use rustix::net::{SendFlags, send};

/// All listeners, by channel.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    lists: Vec<List>,
    pub(super) count: usize,
    /// Listeners that were closed because they could not take a whole buffer.
    pub(super) slow: u64,
}

/// The listeners of one channel. A sweep touches the descriptors alone, so these stand side by side.
#[derive(Debug, Default)]
struct List {
    sockets: Vec<OwnedFd>,
    /// The peer that each socket belongs to.
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
    pub(super) fn socket(&self, slot: Slot) -> &OwnedFd {
        &self.lists[slot.channel].sockets[slot.place]
    }

    /// Returns the place of the next listener of a channel.
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

    /// Closes the socket in this slot. Returns the peer whose socket takes its place.
    pub(super) fn remove(&mut self, slot: Slot) -> Option<usize> {
        let list = &mut self.lists[slot.channel];
        list.sockets.swap_remove(slot.place);
        list.peers.swap_remove(slot.place);
        self.count -= 1;
        list.peers.get(slot.place).copied()
    }

    /// Sends to every listener of a channel: the bare loop. Adds the peers that could not take all bytes to `slow`.
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
