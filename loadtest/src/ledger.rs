//! What has been published so far, shared between publishers and receivers.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Failed publications whose sequence is remembered, over all channels. Further ones are only counted, and count as lost
/// where they are missing.
const FAILED_MAX: u64 = 1_000_000;

#[derive(Debug)]
pub struct Ledger {
    channels: Vec<ChannelLedger>,
    failed: AtomicU64,
}

#[derive(Debug)]
struct ChannelLedger {
    name: String,
    /// The last sequence handed to a publisher.
    issued: AtomicU64,
    /// Publications that a publisher got an error for. Each may have been published or not.
    failed: Mutex<Vec<u64>>,
}

impl Ledger {
    pub fn new(names: impl Iterator<Item = String>) -> Self {
        let channels = names
            .map(|name| ChannelLedger { name, issued: AtomicU64::new(0), failed: Mutex::new(Vec::new()) })
            .collect();
        Self { channels, failed: AtomicU64::new(0) }
    }

    pub fn name(&self, channel: u32) -> &str {
        &self.channels[channel as usize].name
    }

    pub fn channels(&self) -> u32 {
        self.channels.len() as u32
    }

    /// Takes the next sequence of a channel, before it is sent.
    pub fn issue(&self, channel: u32) -> u64 {
        // SeqCst: a receiver that reads the count after its subscription was confirmed must see every publication
        // that was sent before.
        self.channels[channel as usize].issued.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub fn issued(&self, channel: u32) -> u64 {
        self.channels[channel as usize].issued.load(Ordering::SeqCst)
    }

    pub fn note_failure(&self, channel: u32, sequence: u64) {
        if self.failed.fetch_add(1, Ordering::Relaxed) < FAILED_MAX {
            self.channels[channel as usize].failed.lock().push(sequence);
        }
    }

    pub fn with_failed<T>(&self, channel: u32, look: impl FnOnce(&[u64]) -> T) -> T {
        look(&self.channels[channel as usize].failed.lock())
    }
}
