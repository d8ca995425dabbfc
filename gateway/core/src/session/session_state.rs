//! What a session remembers between two events.

use std::collections::BTreeMap;

use bytes::Bytes;
use shared::channel::Channel;
use shared::command::{Since, Subscribe};
use shared::id::UserId;
use shared::moment::Moment;
use shared::publication::Payload;
use shared::push::UnsubscribeCode;

use super::on_arrival::ServerSubscriptions;
use super::on_event::EventInFlight;
use super::terms::{RecoveryRequest, SubscriptionTerms};
use crate::effect::{ChannelMembers, EventActions, Overrides, Resumed, Rights, Ticket};

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Nothing but a connect command is in order.
    Opening,
    /// The token is being looked at, or what the server subscribes the client to is joined; further commands wait.
    Connecting,
    /// The connect command was answered with an error. No further command is in order.
    Refused,
    Connected,
    Closed,
}

/// A command whose effect is not answered yet. All others wait for it, except that several channels can be joined
/// at once: what is known of those stands in their [`Subscription`].
#[derive(Debug)]
pub(super) struct PendingCommand {
    pub(super) ticket: Ticket,
    pub(super) id: u32,
    pub(super) awaited: PendingEffect,
}

#[derive(Debug)]
pub(super) enum PendingEffect {
    /// With where the client stopped reading what the server had subscribed it to.
    Connect {
        subs: BTreeMap<Box<str>, Subscribe>,
    },
    /// What the server subscribes the client to, before the connect command is answered.
    Arrival(Box<ServerSubscriptions>),
    Refresh,
    SubRefresh {
        channel: Channel,
    },
    Message,
    /// With the channel of the part of the server that the event was sent to.
    Event {
        channel: Channel,
    },
    /// The rest of what the application wants done for an event.
    Handling(Box<EventInFlight>),
    Rpc,
    /// With what the client asks for.
    Resolve {
        request: Box<Subscribe>,
    },
    /// With what the client says of itself.
    SignIn {
        data: Payload,
    },
    Publish,
    History {
        since: Option<Since>,
    },
    Presence,
    PresenceStats,
    /// With keys that the signatures cover and that are followed no more.
    Track {
        channel: Channel,
        untrack: Vec<Box<str>>,
    },
}

/// What is rare stands in a box: most subscriptions have no token.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) channel: Channel,
    pub(super) stage: JoiningStage,
}

#[derive(Debug)]
pub(super) enum JoiningStage {
    /// The token is being looked at. The hub knows nothing of this subscription yet.
    Authorizing(Box<JoiningSubscription>),
    /// The hub holds publications back until the reply is written.
    Joining(Box<JoiningSubscription>),
    Live(LiveSubscription),
}

/// A subscription whose client knows of it, or will with the reply that is being put together.
#[derive(Debug, Default)]
pub(super) struct LiveSubscription {
    pub(super) granted: Option<Box<Granted>>,
    /// The server has made it.
    pub(super) server_side: bool,
    /// The client has been told.
    pub(super) known: bool,
    /// The others were told that this client has come.
    pub(super) announced: bool,
    /// It is in the channel's presence.
    pub(super) present: bool,
    /// It is a key of other channels, or has one of this that goes with it.
    pub(super) shown: bool,
    /// The client may say anew whether it wants the newest values or all.
    pub(super) chooses: bool,
}

/// A subscription on its way.
#[derive(Debug, Default)]
pub(super) struct JoiningSubscription {
    pub(super) ticket: Ticket,
    /// Of the command. 0 if the server makes it.
    pub(super) id: u32,
    pub(super) server_side: bool,
    pub(super) recovery: RecoveryRequest,
    pub(super) overrides: Overrides,
    /// Set when it is joined.
    pub(super) given: SubscriptionTerms,
    pub(super) granted: Option<Box<Granted>>,
    /// For the client, when it is told.
    pub(super) data: Option<Payload>,
    /// In a channel that keeps state by key: how far its client is.
    pub(super) keyed: Option<Box<super::loading::LoadedState>>,
    /// Who was there when it was joined, for a client that is told of that.
    pub(super) members: Option<ChannelMembers>,
    /// What is done once the client knows of it.
    pub(super) then: Option<Box<EventActions>>,
    /// The client comes back to a session with it.
    pub(super) resumed: Option<Box<Resumed>>,
    /// The server has ended it meanwhile. The client is told once it knows that it is subscribed.
    pub(super) ended: Option<UnsubscribeCode>,
    /// It was live, and is joined anew for one more reader.
    pub(super) before: Option<LiveSubscription>,
}

/// What a subscription was given by its token, the server or the application.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Granted {
    /// As whom it is seen in the channel, if not as who it is.
    pub(super) user: Option<UserId>,
    pub(super) info: Option<Bytes>,
    pub(super) expires: Option<Moment>,
    /// The application is asked when it expires, and not the client.
    pub(super) refreshed_by_server: bool,
    pub(super) allow: Rights,
}

impl Granted {
    /// `None` if there is nothing to remember.
    pub(super) fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }
}

impl Subscription {
    pub(super) fn joining(&self) -> Option<&JoiningSubscription> {
        match &self.stage {
            JoiningStage::Authorizing(joining) | JoiningStage::Joining(joining) => Some(joining),
            JoiningStage::Live(_) => None,
        }
    }

    pub(super) fn joining_mut(&mut self) -> Option<&mut JoiningSubscription> {
        match &mut self.stage {
            JoiningStage::Authorizing(joining) | JoiningStage::Joining(joining) => Some(joining),
            JoiningStage::Live(_) => None,
        }
    }

    pub(super) fn live_mut(&mut self) -> Option<&mut LiveSubscription> {
        match &mut self.stage {
            JoiningStage::Live(live) => Some(live),
            JoiningStage::Joining(joining) => joining.before.as_mut(),
            JoiningStage::Authorizing(_) => None,
        }
    }

    pub(super) fn granted(&self) -> Option<&Granted> {
        match &self.stage {
            JoiningStage::Authorizing(joining) | JoiningStage::Joining(joining) => joining.granted.as_deref(),
            JoiningStage::Live(live) => live.granted.as_deref(),
        }
    }

    /// What a live subscription was given that ends unless it is refreshed, and when.
    pub(super) fn expiring(&self) -> Option<(&Granted, Moment)> {
        let JoiningStage::Live(LiveSubscription { granted: Some(granted), .. }) = &self.stage else {
            return None;
        };
        granted.expires.map(|expires| (&**granted, expires))
    }

    pub(super) fn is_live(&self) -> bool {
        matches!(self.stage, JoiningStage::Live(_))
    }

    /// Whether the client is in the channel's presence by it.
    pub(super) fn is_present(&self) -> bool {
        match &self.stage {
            JoiningStage::Authorizing(_) => false,
            JoiningStage::Joining(joining) => joining.given.presence,
            JoiningStage::Live(live) => live.present,
        }
    }

    /// Whether the client has been told of it.
    pub(super) fn is_known(&self) -> bool {
        match &self.stage {
            JoiningStage::Live(live) => live.known,
            JoiningStage::Joining(joining) => joining.before.as_ref().is_some_and(|before| before.known),
            JoiningStage::Authorizing(_) => false,
        }
    }

    pub(super) fn is_server_side(&self) -> bool {
        match &self.stage {
            JoiningStage::Authorizing(joining) | JoiningStage::Joining(joining) => joining.server_side,
            JoiningStage::Live(live) => live.server_side,
        }
    }
}
