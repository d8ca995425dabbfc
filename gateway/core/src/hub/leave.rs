//! Leaving one channel or all of them, and giving memory back after many have left.

use shared::channel::Channel;

use super::Hub;

/// The outcome of a leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaveOutcome {
    /// Whether the channel has no subscriber left on this worker.
    pub last: bool,
}

impl Hub {
    /// Ends a subscription in any state. Returns `None` if there is none.
    pub fn leave(&mut self, channel: &str, key: u32) -> Option<LeaveOutcome> {
        let (id, at) = self.take_place(self.ids.find(&self.channels, channel)?, key)?;
        let members = &mut self.channels[id as usize];
        self.held_bytes -= members.take_out(at, id, &mut self.places);
        if !members.is_empty() {
            return Some(LeaveOutcome { last: false });
        }
        let last = self.is_last(id);
        self.drop_empty(id);
        Some(LeaveOutcome { last })
    }

    /// Ends all subscriptions of a connection. Linear in their number, whatever the number of other subscribers.
    pub fn remove_all(&mut self, key: u32, mut left: impl FnMut(&Channel, LeaveOutcome)) {
        for place in self.places.take(key) {
            let members = &mut self.channels[place.channel as usize];
            self.held_bytes -= members.take_out(place.at, place.channel, &mut self.places);
            if !members.is_empty() {
                left(&members.channel, LeaveOutcome { last: false });
                continue;
            }
            let last = self.is_last(place.channel);
            left(&self.channels[place.channel as usize].channel, LeaveOutcome { last });
            self.drop_empty(place.channel);
        }
    }

    /// Frees memory that the present subscriptions do not need. Worth calling now and then, but not often: it may copy
    /// tables.
    pub fn shrink(&mut self) {
        self.channels.shrink_to_fit();
        self.ids.shrink(&self.channels);
        self.places.shrink();
    }

    pub(super) fn forget(&mut self, id: u32) {
        let members = self.channels.remove(id as usize);
        self.sweeps.forget(id);
        self.ids.remove(members.channel.as_str(), id);
    }
}
