//! What a session remembers between two events.

use bytes::Bytes;
use shared::channel::Channel;
use shared::command::Since;
use shared::moment::Moment;
use shared::push::UnsubscribeCode;

use crate::effect::Ticket;

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Nothing but a connect command is in order.
    Opening,
    /// The token is being looked at; further commands wait.
    Connecting,
    /// The connect command was answered with an error. No further command is in order.
    Refused,
    Connected,
    Closed,
}

/// A command whose effect is not answered yet. All others wait for it, except that several channels can be joined
/// at once: what is known of those stands in their [`Subscription`].
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) ticket: Ticket,
    pub(super) id: u32,
    pub(super) awaited: Awaited,
}

#[derive(Debug)]
pub(super) enum Awaited {
    Connect,
    Refresh,
    SubRefresh { channel: Channel },
    Publish,
    History { since: Option<Since> },
    Presence,
    PresenceStats,
}

/// What is rare stands in a box: most subscriptions have no token.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) channel: Channel,
    pub(super) stage: Stage,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// The token is being looked at. The hub knows nothing of this subscription yet.
    Authorizing(Box<Joining>),
    /// The hub holds publications back until the reply is written.
    Joining(Box<Joining>),
    Live(Option<Box<Granted>>),
}

/// A subscribe command on its way.
#[derive(Debug)]
pub(super) struct Joining {
    pub(super) ticket: Ticket,
    pub(super) id: u32,
    /// Where the client stopped reading, if it asked to recover.
    pub(super) since: Option<Since>,
    pub(super) reject_unrecovered: bool,
    /// Whether it may be given what it missed.
    pub(super) may_recover: bool,
    pub(super) recoverable: bool,
    pub(super) positioned: bool,
    pub(super) granted: Option<Box<Granted>>,
    /// The server has ended it meanwhile. The client is told once it knows that it is subscribed.
    pub(super) ended: Option<UnsubscribeCode>,
}

/// What a subscription token gave.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) info: Option<Bytes>,
    pub(super) expires: Option<Moment>,
}

impl Subscription {
    pub(super) fn joining(&self) -> Option<&Joining> {
        match &self.stage {
            Stage::Authorizing(joining) | Stage::Joining(joining) => Some(joining),
            Stage::Live(_) => None,
        }
    }

    pub(super) fn joining_mut(&mut self) -> Option<&mut Joining> {
        match &mut self.stage {
            Stage::Authorizing(joining) | Stage::Joining(joining) => Some(joining),
            Stage::Live(_) => None,
        }
    }

    pub(super) fn granted(&self) -> Option<&Granted> {
        match &self.stage {
            Stage::Authorizing(joining) | Stage::Joining(joining) => joining.granted.as_deref(),
            Stage::Live(granted) => granted.as_deref(),
        }
    }

    /// When a live subscription ends unless it is refreshed.
    pub(super) fn expires(&self) -> Option<Moment> {
        match &self.stage {
            Stage::Live(granted) => granted.as_ref().and_then(|granted| granted.expires),
            Stage::Authorizing(_) | Stage::Joining(_) => None,
        }
    }

    pub(super) fn is_live(&self) -> bool {
        matches!(self.stage, Stage::Live(_))
    }
}
