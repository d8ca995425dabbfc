//! Contains panics. A panic costs the client that was being served or, if that is unknown, all clients of the worker, but
//! never the node. These clients are closed with 3004, return and recover.
//!
//! A publication that cannot be encoded is caught where it is encoded, in the hub's `prepared`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use gateway_core::hub::Hub;
use gateway_core::timer_wheel::TimerWheel;
use shared::disconnect::Disconnect;
use shared::framing::websocket::Inflater;

use crate::client::DropReason;
use crate::telemetry::labels::PanicSite;
use crate::worker::{ClientFlags, Worker};

impl Worker {
    /// Runs a step that concerns one client alone.
    pub(super) fn serve(&mut self, index: usize, step: impl FnOnce(&mut Self)) {
        self.renew_client(index);
        let gone = self.clients.get(index).and_then(|client| client.why_its_app_is_gone());
        if gone.is_some() {
            // This may deliver to other clients too: a panic there is not this client's.
            self.serve_last(index, None);
        }
        let serve = || {
            if let Some(gone) = gone {
                self.end(index, None, |client| client.session.handle_disconnect(gone));
            }
            step(self);
        };
        if catch_unwind(AssertUnwindSafe(serve)).is_err() {
            self.quarantine(index);
        }
    }

    /// Closes a client whose serving panicked. Nothing of its state is trusted any more except the socket.
    #[cold]
    fn quarantine(&mut self, index: usize) {
        self.metrics.panicked(PanicSite::Client);
        // Clients share these, and the panic may have left them in an inconsistent state.
        self.local.inflater = Inflater::new();
        self.local.scratch.clear();
        let Some(client) = self.clients.get_mut(index) else { return };
        tracing::error!(client = %client.session.client(), "serving a client panicked; the client is closed");
        let was_closing = client.is_closing();
        let closed = catch_unwind(AssertUnwindSafe(|| match was_closing {
            true => self.remove(index, &DropReason::Closed),
            false => self.clients[index].close_after_fault(&mut self.local),
        }));
        if closed.is_err() {
            // The hub's tables may still hold parts of the client, and can no longer be trusted.
            self.begin_anew();
        }
    }

    /// Closes all clients of this worker and starts with empty tables, because the old ones may be inconsistent.
    pub(super) fn begin_anew(&mut self) {
        self.metrics.panicked(PanicSite::Worker);
        tracing::error!(clients = self.clients.len(), "a worker panicked; its clients are closed");
        let clients = std::mem::take(&mut self.clients);
        self.local.scratch.clear();
        for (index, mut client) in clients {
            // Before the socket closes: the flags hold the permission to send to it.
            self.local.flags[index] = ClientFlags::default();
            let closing = catch_unwind(AssertUnwindSafe(|| {
                for channel in client.session.subscriptions() {
                    self.local.node.leave_presence(channel.clone(), client.session.client());
                }
                client.leave_sessions(&self.local, &Disconnect::INTERNAL);
                client.forget_account(&self.local);
                client.try_send_close(&mut self.local, &Disconnect::INTERNAL);
            }));
            let reason = Disconnect::INTERNAL.label();
            let lived = self.local.now.since(client.opened);
            self.metrics.disconnected(client.protocol, reason, lived);
            if closing.is_err() {
                tracing::error!("a client could not be closed in an orderly way");
            }
        }
        let channels: Vec<_> = self.local.hub.channels().cloned().collect();
        for channel in channels {
            let namespace = self.local.context.rules.namespace_id(channel.as_str());
            let subscriptions = self.local.hub.subscribers(channel.as_str()) as i64;
            self.local.tally.namespaces.of(namespace).subscriptions -= subscriptions;
            self.local.node.release(self.local.index, &channel);
        }
        self.local.hub = Hub::new(self.hold_limits);
        self.local.pending_connections = super::single_connection::PendingConnections::default();
        self.local.awaited = super::await_subscriptions::PendingSubscriptions::default();
        self.forget_followers();
        self.local.inflater = Inflater::new();
        self.local.wheel = TimerWheel::new(self.local.now);
        self.local.directory = super::Directory::default();
        self.local.unread.clear();
        self.local.unwritten.clear();
        self.windows = super::FlushWindows::default();
        self.after_sweep.clear();
        self.due.clear();
        self.forget_gathered();
        self.report(Duration::ZERO);
    }
}
