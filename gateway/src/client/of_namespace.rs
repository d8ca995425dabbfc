//! A client of Socket.IO: into which namespaces it may come, and as whom.

use gateway_core::effect::{Denial, Grant, Identity, OutcomeResult, Ticket};
use shared::channel::Channel;
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::id::UserId;
use shared::protocol::socketio::Door;
use shared::refusal::Refusal;

use crate::auth::Verdict;
use crate::client::Client;
use crate::worker::Local;

impl Client {
    /// Lets it into a namespace, or into a room that an event of it leads to. `token`: what it shows to come into a further
    /// namespace than its first.
    pub(super) fn let_into_namespace(
        &mut self,
        local: &mut Local,
        ticket: Ticket,
        channel: &Channel,
        token: &str,
    ) {
        let user = self.session.user().clone();
        let door = match local.encodings.socketio_namespaces().seen(channel.as_str()) {
            Some(seen) if seen.is_of_all() => seen.namespace.door,
            // What rules lead there has said that it may.
            Some(_) => Door::default(),
            None => {
                let refused = Err(Denial::of(ErrorCode::NotAvailable));
                return self.answer(local, ticket, OutcomeResult::Authorized(refused));
            }
        };
        if token.is_empty() {
            return self.answer(local, ticket, OutcomeResult::Authorized(pass(door, user, None)));
        }
        let verdict = local.authenticator.authenticate(local.clock.unix_seconds(), token);
        let verdict = match verdict {
            Verdict::Now(shown) => {
                let granted = shown_at(door, user, shown);
                Verdict::Now(granted.and_then(|grant| self.become_shown(local, grant)))
            }
            Verdict::Later(shown) => {
                Verdict::Later(Box::pin(async move { shown_at(door, user, shown.await) }))
            }
        };
        self.answer_with(local, ticket, verdict, OutcomeResult::Authorized);
    }

    /// A client of nobody in particular has shown who it is: its connection counts for that user from now on.
    pub(super) fn become_shown(&mut self, local: &mut Local, grant: Grant) -> Result<Grant, Denial> {
        let Some(identity) = grant.identity.filter(|_| self.session.user().is_anonymous()) else {
            return Ok(Grant { identity: None, ..grant });
        };
        let before = self.user_permit.take();
        match self.admit(local, Ok(*identity)) {
            Ok(identity) => Ok(Grant { identity: Some(Box::new(identity)), ..grant }),
            Err(denial) => {
                // It stays who it is, where it is.
                self.user_permit = before;
                Err(Denial::Error(refusal(denial)))
            }
        }
    }
}

/// With what a client has shown at the door of a namespace. A connection is of one user in all of them.
fn shown_at(door: Door, user: UserId, shown: Result<Identity, Denial>) -> Result<Grant, Denial> {
    let identity = shown.map_err(|denial| Denial::Error(refusal(denial)))?;
    if user.is_anonymous() || identity.user == user {
        return pass(door, identity.user.clone(), user.is_anonymous().then(|| Box::new(identity)));
    }
    let message = "the connection is of another user: a namespace for this one takes a connection of its own";
    Err(Denial::Error(Refusal { message: message.into(), ..ErrorCode::Unauthorized.into() }))
}

fn pass(door: Door, user: UserId, identity: Option<Box<Identity>>) -> Result<Grant, Denial> {
    if door.users_only && user.is_anonymous() {
        let message = "only clients with a token may connect to this namespace";
        return Err(Denial::Error(Refusal { message: message.into(), ..ErrorCode::Unauthorized.into() }));
    }
    Ok(Grant { user, identity, ..Grant::default() })
}

/// A namespace that is closed to a client ends no connection.
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
        let at = |own: &str, shown: &str| shown_at(Door::default(), UserId::new(own), Ok(user(shown)));
        assert_eq!(at("ann", "ann").unwrap().identity, None);
        assert_eq!(at("", "ann").unwrap().identity, Some(Box::new(user("ann"))));
        assert!(at("ann", "bob").is_err() && at("ann", "").is_err());
        let wrong =
            shown_at(Door::default(), UserId::new("ann"), Err(Denial::Disconnect(Disconnect::INVALID_TOKEN)));
        assert!(matches!(wrong, Err(Denial::Error(_))), "the connection stays");
    }

    #[test]
    fn a_namespace_of_users_is_closed_to_all_others() {
        let door = Door { users_only: true };
        assert!(pass(door, UserId::ANONYMOUS, None).is_err());
        assert!(pass(door, UserId::new("ann"), None).is_ok());
        assert!(shown_at(door, UserId::ANONYMOUS, Ok(user(""))).is_err());
    }
}
