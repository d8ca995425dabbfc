//! Somebody who is told that a client's stream has begun, and that it has ended.

use std::fmt;

use bytes::Bytes;
use shared::id::ClientId;

use crate::client::Client;

/// Told in this order, each at most once, and of an end only after a beginning. On a worker: nothing is waited for.
pub(crate) trait StreamWatcher: Send + Sync + fmt::Debug {
    /// The client has been let in. `payload` is what its token says of it for this.
    fn begun(&self, client: ClientId, payload: Option<&Bytes>);

    fn ended(&self, client: ClientId);
}

impl Client {
    /// The client has been let in.
    pub(super) fn tell_begun(&self) {
        if let Some(watcher) = self.rare.as_ref().and_then(|rare| rare.watcher.as_ref()) {
            watcher.begun(self.session.client(), self.session.payload());
        }
    }

    /// The client has left. Safe to call again.
    pub(super) fn tell_gone(&mut self) {
        if let Some(watcher) = self.rare.as_mut().and_then(|rare| rare.watcher.take()) {
            watcher.ended(self.session.client());
        }
    }
}
