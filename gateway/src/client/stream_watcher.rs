//! Watches the beginning and the end of a client's stream.

use std::fmt;

use bytes::Bytes;
use shared::id::ClientId;

use crate::client::Client;

/// Called in this order, each at most once, and `ended` only after `begun`. Runs on a worker, so it must not wait.
pub(crate) trait StreamWatcher: Send + Sync + fmt::Debug {
    /// The client has been admitted. `payload` is the claim of its token for this purpose.
    fn begun(&self, client: ClientId, payload: Option<&Bytes>);

    fn ended(&self, client: ClientId);
}

impl Client {
    /// Reports that the client has been admitted.
    pub(super) fn report_begun(&self) {
        if let Some(watcher) = self.rare.as_ref().and_then(|rare| rare.watcher.as_ref()) {
            watcher.begun(self.session.client(), self.session.payload());
        }
    }

    /// Reports that the client has left. Idempotent.
    pub(super) fn report_gone(&mut self) {
        if let Some(watcher) = self.rare.as_mut().and_then(|rare| rare.watcher.take()) {
            watcher.ended(self.session.client());
        }
    }
}
