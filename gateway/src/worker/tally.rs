//! What a worker counts for itself, and hands to the metrics once a turn: no shared counter is touched for each
//! delivery.

use shared::disconnect::Disconnect;

#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) messages_in: u64,
    pub(crate) deliveries: u64,
    pub(crate) client_publications: u64,
    pub(crate) slow_consumers: u64,
    /// Frames given up for clients that did not read them; each such client is closed and told.
    pub(crate) frames_discarded: u64,
    pub(crate) insufficient: u64,
    pub(crate) closed_by_peer: u64,
    pub(crate) lost: u64,
    pub(crate) closes: Vec<&'static str>,
}

impl Tally {
    pub(crate) fn count_close(&mut self, disconnect: &Disconnect) {
        self.closes.push(disconnect.label());
    }
}
