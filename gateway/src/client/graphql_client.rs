//! A client that speaks GraphQL: delivers to its operations, and asks the application about them.

use bytes::{Bytes, BytesMut};
use gateway_core::effect::{Denial, OutcomeResult, Resolved, Ticket};
use shared::error::ErrorCode;
use shared::protocol::graphql::{GraphQl, PayloadRecord, Selected, SessionActions};
use shared::publication::Payload;

use crate::client::Client;
use crate::client::framing::Framing;
use crate::worker::WorkerLocal;

impl Framing {
    /// Returns the frames for a client with these operations, from bytes for it alone or shared by all. `None` if there are
    /// none.
    pub(super) fn of_operations(
        &self,
        graphql: &GraphQl,
        bytes: &Bytes,
        selected: &mut Selected,
    ) -> Option<Bytes> {
        if !PayloadRecord::is_first_in(bytes) {
            return (!bytes.is_empty()).then(|| self.enclose_message(bytes));
        }
        let mut messages = BytesMut::new();
        let lengths = graphql.deliver(bytes, selected, &mut messages);
        let messages = messages.freeze();
        match lengths[..] {
            [] => None,
            [_] => Some(self.enclose_message(&messages)),
            _ => {
                let mut frames = BytesMut::with_capacity(messages.len() + 16 * lengths.len());
                let mut rest = messages;
                for length in lengths {
                    frames.extend_from_slice(&self.enclose_message(&rest.split_to(length)));
                }
                Some(frames.freeze())
            }
        }
    }
}

impl Client {
    /// Follows up on the answers to the client's operations. Returns whether there was anything to do.
    pub(super) fn follow_up(&mut self, local: &WorkerLocal) -> bool {
        self.take_answers(local);
        let graphql = self.rare.as_ref().and_then(|rare| rare.graphql.as_ref());
        let Some(SessionActions { commands, close }) = graphql.and_then(|graphql| graphql.take_actions())
        else {
            return false;
        };
        self.session.handle_commands(local.now, commands);
        if let Some(disconnect) = close {
            self.session.handle_disconnect(disconnect);
        }
        true
    }

    /// Asks the application whether an operation is carried out, and in which channel.
    pub(super) fn ask_to_resolve(
        &mut self,
        local: &WorkerLocal,
        ticket: Ticket,
        channel: Box<str>,
        question: Payload,
    ) {
        let Some(backend) = local.node.backend.clone() else {
            let not_available = Err(Denial::of(ErrorCode::NotAvailable));
            return self.answer(local, ticket, OutcomeResult::Resolved(not_available));
        };
        let caller = self.caller();
        self.ask(local, ticket, |node| async move {
            let answer = backend.resolve(&caller.origin, &caller.asker(), &channel, &question.bytes).await;
            OutcomeResult::Resolved(answer.map(|mut resolved: Resolved| {
                let rules = node.rules();
                let known = rules.channel(&resolved.channel, shared::channel::CHANNEL_BYTES_MAX);
                resolved.grant.refreshed_by_server =
                    known.is_ok_and(|channel| rules.is_renewed_by_server(&channel));
                resolved
            }))
        });
    }
}
