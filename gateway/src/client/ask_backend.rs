//! Asks the application's own servers about a client. Workers do not wait for the answers.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use gateway_core::effect::{Denial, Grant, OutcomeResult, Ticket};
use shared::channel::Channel;
use shared::command::Connect;
use shared::error::ErrorCode;
use shared::id::{ClientId, UserId};
use shared::publication::Payload;

use crate::backend::{Backend, BareMessage, ClientOrigin, ConnectQuestion, HookSubject};
use crate::broker::{ChangeRequest, PublishRequest};
use crate::client::Client;
use crate::client::perform::refused;
use crate::node::Node;
use crate::webhooks::PendingClientEvent;
use crate::worker::WorkerLocal;

/// A client as described to a backend, for a request that outlives the turn.
#[derive(Clone, Debug)]
pub(super) struct HookCaller {
    client: ClientId,
    transport: &'static str,
    protocol: &'static str,
    user: UserId,
    meta: Option<Bytes>,
    pub(super) origin: Arc<ClientOrigin>,
}

impl HookCaller {
    pub(super) fn origin(&self) -> &ClientOrigin {
        &self.origin
    }

    /// The client has resumed an earlier one and takes over its id.
    pub(super) fn become_client(&mut self, client: ClientId) {
        self.client = client;
    }

    /// Sets the user that the client has just authenticated as.
    pub(super) fn become_user(&mut self, user: &UserId, meta: Option<&Bytes>) {
        (self.user, self.meta) = (user.clone(), meta.cloned());
    }

    pub(super) fn asker(&self) -> HookSubject<'_> {
        HookSubject {
            client: self.client,
            transport: self.transport,
            protocol: self.protocol,
            user: &self.user,
            meta: self.meta.as_ref(),
        }
    }
}

impl Client {
    pub(super) fn caller(&self) -> HookCaller {
        HookCaller {
            client: self.session.client(),
            transport: self.transport(),
            protocol: self.protocol.format(),
            user: self.session.user().clone(),
            meta: self.session.meta().cloned(),
            origin: self.origin().cloned().unwrap_or_default(),
        }
    }

    /// Asks the backend to authenticate a client, with or without a token. If the backend has no answer, the client is the
    /// user of its token, or anonymous.
    pub(super) fn ask_to_connect(
        &mut self,
        local: &WorkerLocal,
        ticket: Ticket,
        backend: Arc<Backend>,
        connect: Box<Connect>,
    ) {
        let (authenticator, now) = (local.authenticator.clone(), local.clock.unix_seconds());
        // Whether a client without a token may connect is for the backend to say first. Decided now, a client that the
        // backend admits would be logged and counted as refused.
        let verdict = (!connect.token.is_empty()).then(|| authenticator.authenticate(now, &connect.token));
        if !connect.headers.is_empty() {
            let given = connect.headers.iter().map(|(name, value)| (&**name, &**value));
            let mut origin = self.origin().map(|origin| ClientOrigin::clone(origin)).unwrap_or_default();
            origin.emulated = backend.emulated(given);
            self.rare.get_or_insert_default().origin = Some(Arc::new(origin));
        }
        let mut caller = self.caller();
        self.ask(local, ticket, |_| async move {
            let known = match verdict {
                Some(verdict) => match verdict.wait().await {
                    Ok(identity) => Some(identity),
                    // The backend is not asked about an invalid token.
                    Err(denial) => return OutcomeResult::Authenticated(Err(denial)),
                },
                None => None,
            };
            if let Some(identity) = &known {
                (caller.user, caller.meta) = (identity.user.clone(), identity.meta.clone());
            }
            let question = ConnectQuestion {
                data: connect.data.as_ref().map(|data| &data.bytes[..]),
                name: &connect.name,
                version: &connect.version,
                channels: connect.subs.keys().map(|channel| &**channel).collect(),
            };
            let answer = backend.connect(&caller.origin, &caller.asker(), question).await;
            OutcomeResult::Authenticated(match answer.map(|identity| identity.or(known)) {
                Ok(Some(identity)) => Ok(identity),
                Ok(None) => authenticator.authenticate(now, "").wait().await,
                Err(denial) => Err(denial),
            })
        });
    }

    /// Asks whether a client without a token for a channel may subscribe to it.
    pub(super) fn ask_to_subscribe(
        &mut self,
        local: &WorkerLocal,
        ticket: Ticket,
        channel: Channel,
        data: Option<Payload>,
    ) {
        let Some(backend) = local.node.backend.clone() else {
            return self.answer(local, ticket, OutcomeResult::Authorized(not_available()));
        };
        let caller = self.caller();
        let refreshed_by_server = local.context.rules.is_renewed_by_server(&channel);
        self.ask(local, ticket, |_| async move {
            let data = data.as_ref().map(|data| &data.bytes[..]);
            let answer = backend.subscribe(&caller.origin, &caller.asker(), channel.as_str(), "", data).await;
            OutcomeResult::Authorized(answer.map(|grant| Grant { refreshed_by_server, ..grant }))
        });
    }

    /// Asks whether a connection that is about to expire may stay.
    pub(super) fn ask_to_refresh(&mut self, local: &WorkerLocal, ticket: Ticket) {
        let Some(backend) = local.node.backend.clone() else {
            return self.answer(local, ticket, OutcomeResult::Renewed(not_available()));
        };
        let caller = self.caller();
        self.ask(local, ticket, |_| async move {
            OutcomeResult::Renewed(backend.refresh(&caller.origin, &caller.asker()).await)
        });
    }

    /// Asks whether a subscription that is about to expire may stay.
    pub(super) fn ask_to_sub_refresh(&mut self, local: &WorkerLocal, ticket: Ticket, channel: Channel) {
        let Some(backend) = local.node.backend.clone() else {
            return self.answer(local, ticket, OutcomeResult::Renewed(not_available()));
        };
        let caller = self.caller();
        self.ask(local, ticket, |_| async move {
            let answer = backend.sub_refresh(&caller.origin, &caller.asker(), channel.as_str()).await;
            OutcomeResult::Renewed(answer)
        });
    }

    /// Calls a method of the application for a client.
    pub(super) fn ask_rpc(&mut self, local: &WorkerLocal, ticket: Ticket, method: Box<str>, data: Payload) {
        let Some(backend) = local.node.backend.clone() else {
            return self.answer(local, ticket, OutcomeResult::Rpc(not_available()));
        };
        let caller = self.caller();
        self.ask(local, ticket, |_| async move {
            let data = Some(&data.bytes[..]).filter(|data| !data.is_empty());
            let answer = backend.rpc(&caller.origin, &caller.asker(), &method, data).await;
            // An answer without data is a valid answer.
            OutcomeResult::Rpc(answer.map(|data| data.unwrap_or_else(|| Payload::json(Bytes::new()))))
        });
    }

    /// Sends a client's message to the application, which may answer it.
    pub(super) fn ask_with_message(
        &mut self,
        local: &WorkerLocal,
        ticket: Ticket,
        channel: Box<str>,
        data: Payload,
    ) {
        let Some(backend) = local.node.backend.clone() else {
            return self.answer(local, ticket, OutcomeResult::Messaged(not_available()));
        };
        let caller = self.caller();
        self.ask(local, ticket, |_| async move {
            let sent = BareMessage { client: caller.client, user: &caller.user, channel: &channel, data };
            OutcomeResult::Messaged(backend.message(&caller.origin, sent).await)
        });
    }

    /// Publishes for a client, in a channel whose hook decides whether and in what form. `webhook` is the event sent to the
    /// app's webhooks as well.
    pub(super) fn publish_as_allowed(
        &mut self,
        local: &WorkerLocal,
        ticket: Ticket,
        came: Instant,
        request: PublishRequest,
        webhook: Option<PendingClientEvent>,
    ) {
        let caller = self.caller();
        self.ask(local, ticket, |node| async move {
            let allowed = node.ask_publish_hook(&caller.origin, &caller.asker(), request).await;
            OutcomeResult::Published(match allowed {
                Ok(request) => publish(&node, came, request)
                    .await
                    .map(|()| webhook.into_iter().for_each(PendingClientEvent::record)),
                Err(denial) => Err(denial),
            })
        });
    }

    /// Changes a key for a client, in a channel whose hook decides whether and how.
    pub(super) fn change_key_as_allowed(
        &mut self,
        local: &WorkerLocal,
        ticket: Ticket,
        request: ChangeRequest,
    ) {
        let caller = self.caller();
        self.ask(local, ticket, |node| async move {
            let allowed = node.ask_key_hook(&caller.origin, &caller.asker(), request).await;
            OutcomeResult::Published(match allowed {
                Ok(request) => {
                    node.change_key(request).await.map(|_| ()).map_err(|error| refused(error).into())
                }
                Err(denial) => Err(denial),
            })
        });
    }
}

fn not_available<T>() -> Result<T, Denial> {
    Err(Denial::of(ErrorCode::NotAvailable))
}

async fn publish(node: &Node, came: Instant, request: PublishRequest) -> Result<(), Denial> {
    node.publish_since(came, request).await.map(|_| ()).map_err(|error| refused(error).into())
}
