//! Users with one connection: of connections made at the same time, the one whose command comes last stays.

use rustc_hash::FxHashMap;
use shared::disconnect::Disconnect;
use shared::id::ClientId;
use tokio::sync::oneshot;

use crate::worker::Worker;

/// Clients whose command to close their user's other connections has not come back yet, by their place in the table. The
/// task that waits for it has a deadline, after which its receiver is closed.
#[derive(Debug, Default)]
pub(crate) struct PendingConnections(FxHashMap<u32, oneshot::Sender<()>>);

impl PendingConnections {
    pub(crate) fn enter(&mut self, index: u32) -> oneshot::Receiver<()> {
        let (decided, came_back) = oneshot::channel();
        self.0.insert(index, decided);
        came_back
    }

    pub(super) fn forget(&mut self, index: u32) {
        self.0.remove(&index);
    }

    fn is_undecided(&self, index: u32) -> bool {
        self.0.get(&index).is_some_and(|decided| !decided.is_closed())
    }

    fn decide(&mut self, index: u32) {
        if let Some(decided) = self.0.remove(&index) {
            // The task may have given up.
            let _ = decided.send(());
        }
    }
}

impl Worker {
    /// Closes the user's clients on this worker except this one, and except those whose command comes later.
    pub(super) fn close_other_connections(&mut self, user: &str, only: ClientId) {
        let indices: Vec<u32> = self.local.directory.of(user).collect();
        for index in indices {
            let Some(client) = self.clients.get(index as usize) else { continue };
            if client.session.client() == only {
                self.local.pending_connections.decide(index);
            } else if client.session.is_connected() && !self.local.pending_connections.is_undecided(index) {
                self.end(index as usize, None, |client| {
                    client.session.handle_disconnect(Disconnect::CONNECTION_LIMIT);
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_undecided_until_the_command_comes_the_client_goes_or_nobody_waits_any_more() {
        let mut pending_connections = PendingConnections::default();
        let mut waiting: Vec<_> = (0..3).map(|index| pending_connections.enter(index)).collect();
        assert!((0..3).all(|index| pending_connections.is_undecided(index)));
        pending_connections.decide(0);
        pending_connections.forget(1);
        assert_eq!(waiting[0].try_recv(), Ok(()));
        assert_eq!(waiting[1].try_recv(), Err(oneshot::error::TryRecvError::Closed));
        drop(waiting);
        assert!((0..4).all(|index| !pending_connections.is_undecided(index)));
    }
}
