//! A client of Socket.IO: which namespaces it may enter, and as which user.

use gateway_core::effect::{Denial, EventQuestion, Grant, Identity, OutcomeResult, Ticket};
use shared::channel::Channel;
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::id::UserId;
use shared::protocol::socketio::{NamespaceAccess, SocketIoShared};
use shared::publication::Payload;
use shared::refusal::Refusal;

use crate::auth::TokenVerdict;
use crate::backend::{Backend, SocketIoEvent};
use crate::client::Client;
use crate::client::ask_backend::HookCaller;
use crate::worker::WorkerLocal;

impl Client {
    /// Admits the client to a namespace, or to a room that a rule for one of its events names. `token` is the token for a
    /// namespace after the first; `auth` is the client's payload.
    pub(super) fn let_into_namespace(
        &mut self,
        local: &mut WorkerLocal,
        ticket: Ticket,
        channel: Channel,
        token: &str,
        auth: Option<Payload>,
    ) {
        let user = self.session.user().clone();
        let common = local.encodings.socketio_common().clone();
        let mut returning = None;
        let access = match common.namespaces.seen(channel.as_str()) {
            Some(seen) if seen.is_of_all() => {
                returning = self.returning(local, seen.namespace);
                *seen.namespace.access.get()
            }
            // A rule may name any room except channels of another protocol that require a signature.
            Some(_) if local.node.rules().options(&channel).is_some_and(|options| options.only_signed) => {
                let refused = Err(Denial::of(ErrorCode::PermissionDenied));
                return self.answer(local, ticket, OutcomeResult::Authorized(refused));
            }
            // The rule that names the room has decided already.
            Some(_) => NamespaceAccess::default(),
            None => {
                let refused = Err(Denial::of(ErrorCode::NotAvailable));
                return self.answer(local, ticket, OutcomeResult::Authorized(refused));
            }
        };
        let shown =
            (!token.is_empty()).then(|| local.authenticator.authenticate(local.clock.unix_seconds(), token));
        let backend = local.node.backend.clone().filter(|_| access.asks);
        let passed = match (shown, backend) {
            (None, None) if returning.is_none() => pass(access, user, None),
            (Some(TokenVerdict::Now(shown)), None) if returning.is_none() => shown_at(access, user, shown),
            (shown, backend) => {
                let mut caller = self.caller();
                return self.ask(local, ticket, move |node| async move {
                    let passed = match shown {
                        Some(shown) => shown_at(access, user, shown.wait().await),
                        None => pass(access, user, None),
                    };
                    let mut grant = match passed {
                        Ok(grant) => grant,
                        Err(denial) => return OutcomeResult::Authorized(Err(denial)),
                    };
                    if let Some(returning) = &returning {
                        grant.resumed = returning.resume(&node, &common, grant.user.as_str()).await;
                    }
                    let asks = !access.recovery_skips_hook || grant.resumed.is_none();
                    let Some(backend) = backend.filter(|_| asks) else {
                        return OutcomeResult::Authorized(Ok(grant));
                    };
                    if let Some(resumed) = &grant.resumed {
                        caller.become_client(resumed.client);
                    }
                    let answer = ask_for_access(&backend, &common, caller, &channel, auth.as_ref(), grant);
                    let passed = answer.await;
                    if let (Err(_), Some(returning)) = (&passed, &returning) {
                        returning.release_session(&node, &common);
                    }
                    OutcomeResult::Authorized(passed)
                });
            }
        };
        let passed = passed.and_then(|grant| self.become_shown(local, grant));
        self.answer(local, ticket, OutcomeResult::Authorized(passed));
    }

    /// Asks the application about a client's event.
    pub(super) fn ask_about_event(&mut self, local: &WorkerLocal, ticket: Ticket, question: EventQuestion) {
        let Some(backend) = local.node.backend.clone() else {
            let refused = Err(Denial::of(ErrorCode::NotAvailable));
            return self.answer(local, ticket, OutcomeResult::Handled(refused));
        };
        let (caller, common) = (self.caller(), local.encodings.socketio_common().clone());
        self.ask(local, ticket, move |_| async move {
            let EventQuestion { channel, event, arguments, rooms } = question;
            let names = &common.namespaces;
            let rooms = rooms.iter().filter_map(|room| names.seen(room.as_str())?.room());
            let rooms: Vec<String> = rooms.collect();
            let Some(namespace) = names.seen(channel.as_str()).map(|seen| seen.namespace) else {
                return OutcomeResult::Handled(Err(Denial::of(ErrorCode::NotAvailable)));
            };
            let happened = SocketIoEvent::Event { event: &event, arguments: &arguments, rooms: &rooms };
            let handled = backend.socketio(caller.origin(), &caller.asker(), namespace, happened).await;
            OutcomeResult::Handled(handled.map(Box::new))
        });
    }

    /// Sets the user of an anonymous client that has authenticated. Its connection counts for that user from now on.
    pub(super) fn become_shown(&mut self, local: &mut WorkerLocal, grant: Grant) -> Result<Grant, Denial> {
        let Some(identity) = grant.identity.filter(|_| self.session.user().is_anonymous()) else {
            return Ok(Grant { identity: None, ..grant });
        };
        let before = self.user_permit.take();
        match self.admit(local, Ok(*identity)) {
            Ok(identity) => Ok(Grant { identity: Some(Box::new(identity)), ..grant }),
            Err(denial) => {
                // The client stays anonymous and keeps its namespaces.
                self.user_permit = before;
                Err(Denial::Error(refusal(denial)))
            }
        }
    }
}

/// Asks the application whether to admit a client, and what to do then.
async fn ask_for_access(
    backend: &Backend,
    common: &SocketIoShared,
    mut caller: HookCaller,
    channel: &Channel,
    auth: Option<&Payload>,
    grant: Grant,
) -> Result<Grant, Denial> {
    let seen = common.namespaces.seen(channel.as_str());
    let namespace = seen.map(|seen| seen.namespace).ok_or(Denial::of(ErrorCode::NotAvailable))?;
    if let Some(identity) = &grant.identity {
        caller.become_user(&identity.user, identity.meta.as_ref());
    }
    let happened = SocketIoEvent::Connect { auth, recovered: grant.resumed.is_some() };
    match backend.socketio(caller.origin(), &caller.asker(), namespace, happened).await {
        Ok(then) => Ok(Grant { then: Some(Box::new(then)), ..grant }),
        Err(denial) => Err(Denial::Error(refusal(denial))),
    }
}

/// Checks a client's token for a namespace. A connection has the same user in all of them.
fn shown_at(access: NamespaceAccess, user: UserId, shown: Result<Identity, Denial>) -> Result<Grant, Denial> {
    let identity = shown.map_err(|denial| Denial::Error(refusal(denial)))?;
    if user.is_anonymous() || identity.user == user {
        return pass(access, identity.user.clone(), user.is_anonymous().then(|| Box::new(identity)));
    }
    let message = "the connection belongs to another user: use another connection for this user";
    Err(Denial::Error(Refusal { message: message.into(), ..ErrorCode::Unauthorized.into() }))
}

fn pass(access: NamespaceAccess, user: UserId, identity: Option<Box<Identity>>) -> Result<Grant, Denial> {
    if access.users_only && user.is_anonymous() {
        let message = "only clients with a token may connect to this namespace";
        return Err(Denial::Error(Refusal { message: message.into(), ..ErrorCode::Unauthorized.into() }));
    }
    Ok(Grant { user, identity, ..Grant::default() })
}

/// Converts a denial: being refused by a namespace does not end the connection.
fn refusal(denial: Denial) -> Refusal {
    match denial {
        Denial::Error(refusal) => refusal,
        Denial::Disconnect(disconnect) if disconnect.code == Disconnect::CONNECTION_LIMIT.code => {
            Refusal { message: disconnect.reason, ..ErrorCode::LimitExceeded.into() }
        }
        Denial::Disconnect(disconnect) => {
            Refusal { message: disconnect.reason, ..ErrorCode::Unauthorized.into() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> Identity {
        Identity { user: UserId::new(name), ..Identity::default() }
    }

    #[test]
    fn a_connection_is_of_one_user_in_all_of_its_namespaces() {
        let at =
            |own: &str, shown: &str| shown_at(NamespaceAccess::default(), UserId::new(own), Ok(user(shown)));
        assert_eq!(at("ann", "ann").unwrap().identity, None);
        assert_eq!(at("", "ann").unwrap().identity, Some(Box::new(user("ann"))));
        assert!(at("ann", "bob").is_err() && at("ann", "").is_err());
        let wrong = shown_at(
            NamespaceAccess::default(),
            UserId::new("ann"),
            Err(Denial::Disconnect(Disconnect::INVALID_TOKEN)),
        );
        assert!(matches!(wrong, Err(Denial::Error(_))), "the connection stays");
    }

    #[test]
    fn a_namespace_of_users_is_closed_to_all_others() {
        let access = NamespaceAccess { users_only: true, ..NamespaceAccess::default() };
        assert!(pass(access, UserId::ANONYMOUS, None).is_err());
        assert!(pass(access, UserId::new("ann"), None).is_ok());
        assert!(shown_at(access, UserId::ANONYMOUS, Ok(user(""))).is_err());
    }
}
