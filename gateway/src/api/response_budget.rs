//! How much one answer of the API may hold: a request of a few bytes can ask for the histories of thousands of channels.

use std::sync::atomic::{AtomicU32, Ordering};

use super::api_request::Command;

/// Bytes that are left for what is still to be told.
#[derive(Debug)]
pub(super) struct ResponseBudget(AtomicU32);

impl ResponseBudget {
    pub(super) fn of(bytes: u32) -> Self {
        Self(AtomicU32::new(bytes))
    }

    pub(super) fn left(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// So many bytes are told. What is more than was left is told all the same, and nothing after it.
    pub(super) fn take(&self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let rest = |left: u32| Some(left.saturating_sub(bytes));
        // There is always a rest, so this cannot fail.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest);
    }
}

impl Command<'_> {
    /// Whether a few bytes of a request can bring a long answer.
    pub(super) fn may_tell_much(&self) -> bool {
        matches!(
            self,
            Self::History(_)
                | Self::Presence(_)
                | Self::Channels(_)
                | Self::Connections(_)
                | Self::Inspect(_)
                | Self::Closes(_)
                | Self::Explain(_)
                | Self::MapReadState(_)
                | Self::MapReadStream(_)
                | Self::Rpc(_)
                | Self::SocketioSockets(_)
                | Self::SocketioAsk(_)
        )
    }
}
