//! Bounds the size of one response: a request of a few bytes can ask for the histories of thousands of channels.

use std::sync::atomic::{AtomicU32, Ordering};

use super::api_request::Command;

/// The bytes left for the rest of the response.
#[derive(Debug)]
pub(super) struct ResponseBudget(AtomicU32);

impl ResponseBudget {
    pub(super) fn of(bytes: u32) -> Self {
        Self(AtomicU32::new(bytes))
    }

    pub(super) fn left(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Deducts an answer. One that exceeds the budget is still written, but nothing after it.
    pub(super) fn take(&self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let rest = |left: u32| Some(left.saturating_sub(bytes));
        // The closure never returns `None`, so this cannot fail.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest);
    }
}

impl Command<'_> {
    /// Whether a short command can have a long answer.
    pub(super) fn allows_long_answers(&self) -> bool {
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
