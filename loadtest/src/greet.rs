//! Opens a connection that subscribes to nothing: for a handshake alone, or to publish on it.

use bytes::Bytes;
use shared::framing::MessageKind;

use crate::connect::{Entry, connect};
use crate::dialect::Event;
use crate::subscriber::Shared;
use crate::wire::{Incoming, Wire};

/// Connects as connection number `number`, of a user. Returns a connection that the server has welcomed, and whether the server wants its pings answered.
pub(crate) async fn connect_and_greet(
    shared: &Shared,
    number: u32,
    user: &str,
) -> Result<(Wire, bool), String> {
    let target = &shared.plan.targets[shared.plan.first_target(number)];
    let channel = shared.ledger.name(number % shared.ledger.channels());
    let path = shared.dialect.path(shared.plan.arguments.access.transport, &target.path, channel);
    let token = shared.tokens.of(user);
    let bearer = token.as_deref().filter(|_| shared.dialect.shows_token_in_header());
    let mut wire = connect(&shared.plan, target, number, Entry { path: &path, bearer })
        .await
        .map_err(|error| error.to_string())?;
    let mut messages = Vec::new();
    shared.dialect.greet(token.as_deref(), std::iter::empty(), &mut messages);
    wire.send(&messages).await.map_err(|error| error.to_string())?;
    let mut welcome = None;
    shared.dialect.opened(|event| welcome = welcome.or(welcomed(&event)));
    loop {
        if let Some(pong) = welcome {
            return Ok((wire, pong));
        }
        let mut refused = None;
        let (kind, message) = next_message(&mut wire).await?;
        shared.dialect.hear(kind, &message, |event| match event {
            Event::Refused { reason, .. } => refused = Some(reason),
            event => welcome = welcome.or(welcomed(&event)),
        });
        if let Some(reason) = refused {
            return Err(reason);
        }
    }
}

/// The next message; an error says why there will be none.
pub(crate) async fn next_message(wire: &mut Wire) -> Result<(MessageKind, Bytes), String> {
    match wire.next().await {
        Ok(Incoming::Message(kind, message)) => Ok((kind, message)),
        Ok(Incoming::Close { code, reason }) => Err(format!("closed with {code} {reason}")),
        Err(error) => Err(error.to_string()),
    }
}

fn welcomed(event: &Event<'_>) -> Option<bool> {
    match event {
        Event::Welcome { pong } => Some(*pong),
        _ => None,
    }
}
