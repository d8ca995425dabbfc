//! Asks a client of Socket.IO for acknowledgements.

use bytes::BytesMut;
use shared::framing::OwnedMessage;
use shared::protocol::Encoded;
use shared::protocol::socketio::ClientNews;

use crate::client::Client;
use crate::node::ClientsRequest;
use crate::worker::WorkerLocal;

/// The most outstanding acknowledgements of one client.
const PENDING_MAX: usize = 64;

impl Client {
    /// Sends the client an event that asks for an acknowledgement.
    pub(crate) fn ask_client(&mut self, local: &mut WorkerLocal, asking: &ClientsRequest) {
        let client = self.session.client();
        self.forget_asks();
        let Some(own) = self.rare.as_mut().and_then(|rare| rare.socketio.as_mut()) else { return };
        let protocol = own.protocol.clone();
        if own.pending_acks.len() >= PENDING_MAX {
            return asking.refuse(client);
        }
        let Some(awaited) = asking.begin(client) else { return };
        let mut out = BytesMut::new();
        let ask = &asking.ask;
        let Some((number, encoded)) = protocol.ask(&ask.namespace, &ask.event, &ask.arguments, &mut out)
        else {
            // The client is just entering or leaving the namespace.
            return;
        };
        own.pending_acks.push((number, awaited));
        let messages = match encoded {
            Encoded::Message(kind) => vec![(kind, out.len())],
            Encoded::Messages(messages) => messages,
            _ => Vec::new(),
        };
        for (kind, length) in messages {
            let data = out.split_to(length.min(out.len())).freeze();
            self.send_message(local, &OwnedMessage { kind, data });
        }
    }

    /// Forgets acknowledgements that nobody waits for any more.
    pub(crate) fn forget_asks(&mut self) {
        let Some(own) = self.rare.as_mut().and_then(|rare| rare.socketio.as_mut()) else { return };
        let protocol = &own.protocol;
        own.pending_acks.retain(|(number, awaited)| {
            let is_given_up = awaited.is_given_up();
            if is_given_up {
                protocol.give_up_ask(*number);
            }
            !is_given_up
        });
        if own.pending_acks.is_empty() {
            own.pending_acks = Vec::new();
        }
    }

    /// Passes on the client's acknowledgements.
    pub(super) fn take_answers(&mut self, local: &WorkerLocal) {
        let Some(own) = self.rare.as_mut().and_then(|rare| rare.socketio.as_mut()) else { return };
        let ClientNews { answered, events, refused, joined } = own.protocol.take_news();
        if events > 0 || refused > 0 {
            local.metrics.socketio.events(events, refused);
        }
        if joined != own.counted {
            count_in_namespaces(local, &mut own.counted, joined);
        }
        for answered in answered {
            // An acknowledgement for another namespace than the event's leaves the pending one as it is.
            let is_in_time = answered.arguments.is_some_and(|arguments| {
                let at = own.pending_acks.iter().position(|(number, _)| *number == answered.number);
                at.is_some_and(|at| own.pending_acks.swap_remove(at).1.answer(arguments))
            });
            if !is_in_time {
                local.metrics.socketio.ask_ended("late");
            }
        }
    }

    /// Gives up the client's outstanding acknowledgements, and takes it out of the counts of namespaces.
    pub(super) fn give_up_answers(&mut self, local: &WorkerLocal) {
        if let Some(own) = self.rare.as_mut().and_then(|rare| rare.socketio.as_mut()) {
            own.pending_acks = Vec::new();
            count_in_namespaces(local, &mut own.counted, 0);
        }
    }
}

/// Updates the counts of namespaces with those that the client has entered or left.
#[cold]
fn count_in_namespaces(local: &WorkerLocal, counted: &mut u64, joined: u64) {
    for (index, namespace) in local.encodings.socketio_common().namespaces.iter().enumerate() {
        let is_in = |bits: u64| bits & (1 << index) != 0;
        match (is_in(*counted), is_in(joined)) {
            (false, true) => local.metrics.socketio.entered(namespace.name(), 1),
            (true, false) => local.metrics.socketio.entered(namespace.name(), -1),
            _ => {}
        }
    }
    *counted = joined;
}
