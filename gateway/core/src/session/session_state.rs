//! The state of a session between two events.

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

/// The phase of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// Only a connect command is allowed.
    Opening,
    /// The token is being verified, or the server's subscriptions are being joined; further commands wait.
    Connecting,
    /// The connect command was answered with an error. No further command is allowed.
    Refused,
    Connected,
    Closed,
}

/// The command whose effect has no outcome yet. All other commands wait for it. Subscribe commands are not stored here:
/// several can be in flight at once, and their state is in their [`Subscription`].
#[derive(Debug)]
pub(super) struct PendingCommand {
    pub(super) ticket: Ticket,
    pub(super) id: u32,
    pub(super) awaited: PendingEffect,
}

#[derive(Debug)]
pub(super) enum PendingEffect {
    /// `subs` holds the positions from which the client recovers its server-side subscriptions, and its own
    /// subscriptions.
    Connect {
        subs: BTreeMap<Box<str>, Subscribe>,
    },
    /// Joins of the subscriptions that are made before the connect command is answered.
    Arrival(Box<ServerSubscriptions>),
    Refresh,
    SubRefresh {
        channel: Channel,
    },
    Message,
    /// `channel` is that of the Socket.IO namespace to which the event was sent.
    Event {
        channel: Channel,
    },
    /// The remaining actions of the application for an event.
    Handling(Box<EventInFlight>),
    Rpc,
    /// `request` is the client's subscribe command.
    Resolve {
        request: Box<Subscribe>,
    },
    /// `data` is the client's description of itself.
    SignIn {
        data: Payload,
    },
    Publish,
    History {
        since: Option<Since>,
    },
    Presence,
    PresenceStats,
    /// `untrack` holds keys that the signatures cover and that the client no longer follows.
    Track {
        channel: Channel,
        untrack: Vec<Box<str>>,
    },
}

/// A subscription of the client. Rare state is boxed: most subscriptions have no token.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) channel: Channel,
    pub(super) stage: JoiningStage,
}

#[derive(Debug)]
pub(super) enum JoiningStage {
    /// The token is being verified. The hub does not know of the subscription yet.
    Authorizing(Box<JoiningSubscription>),
    /// The hub holds publications back until the reply is written.
    Joining(Box<JoiningSubscription>),
    Live(LiveSubscription),
}

/// A subscription of which the client has been told, or will be by the reply that is being written.
#[derive(Debug, Default)]
pub(super) struct LiveSubscription {
    pub(super) granted: Option<Box<Granted>>,
    /// Whether the server made the subscription.
    pub(super) server_side: bool,
    /// Whether the client has been told of the subscription.
    pub(super) known: bool,
    /// Whether the other subscribers were told that this client has joined.
    pub(super) announced: bool,
    /// Whether the client is in the channel's presence.
    pub(super) present: bool,
    /// Whether the client is shown as a key of other channels, or may have a key of this channel that is removed when
    /// it leaves.
    pub(super) shown: bool,
    /// Whether the client may change its choice between the newest values and all publications.
    pub(super) chooses: bool,
}

/// A subscription that is not live yet.
#[derive(Debug, Default)]
pub(super) struct JoiningSubscription {
    pub(super) ticket: Ticket,
    /// The id of the subscribe command. 0 if the server makes the subscription.
    pub(super) id: u32,
    pub(super) server_side: bool,
    pub(super) recovery: RecoveryRequest,
    pub(super) overrides: Overrides,
    /// The terms of the subscription, set when the join begins.
    pub(super) given: SubscriptionTerms,
    pub(super) granted: Option<Box<Granted>>,
    /// Data for the client in the reply.
    pub(super) data: Option<Payload>,
    /// In a map: the state that the client has read so far.
    pub(super) keyed: Option<Box<super::loading::LoadedState>>,
    /// The members at the time of the join, if the client asked for them.
    pub(super) members: Option<ChannelMembers>,
    /// Actions of the application to perform once the client has been told.
    pub(super) then: Option<Box<EventActions>>,
    /// The session that the client resumes with this subscription.
    pub(super) resumed: Option<Box<Resumed>>,
    /// The reason, if the server has ended the subscription meanwhile. The client is told once it knows that it is
    /// subscribed.
    pub(super) ended: Option<UnsubscribeCode>,
    /// The live subscription that is joined again for one more reader.
    pub(super) before: Option<LiveSubscription>,
}

/// What a token, the server or the application granted to a subscription.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Granted {
    /// The user under which others see the client in the channel, if it is not the client's own.
    pub(super) user: Option<UserId>,
    pub(super) info: Option<Bytes>,
    pub(super) expires: Option<Moment>,
    /// Whether the application, and not the client, is asked to renew the subscription when it expires.
    pub(super) refreshed_by_server: bool,
    pub(super) allow: Rights,
}

impl Granted {
    /// Boxes the grant. `None` if there is nothing to remember.
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

    /// Returns, once, whether the channel's subscribers have to be told when the client leaves.
    pub(super) fn take_announced(&mut self) -> bool {
        let is_shown = match &mut self.stage {
            JoiningStage::Joining(joining) => {
                std::mem::take(&mut joining.given.announced) && joining.given.presence
            }
            JoiningStage::Authorizing(_) | JoiningStage::Live(_) => false,
        };
        let is_announced = self.live_mut().is_some_and(|live| std::mem::take(&mut live.announced));
        is_shown || is_announced
    }

    pub(super) fn granted(&self) -> Option<&Granted> {
        match &self.stage {
            JoiningStage::Authorizing(joining) | JoiningStage::Joining(joining) => joining.granted.as_deref(),
            JoiningStage::Live(live) => live.granted.as_deref(),
        }
    }

    /// Returns the grant of a live subscription that expires, and when it does.
    pub(super) fn expiring(&self) -> Option<(&Granted, Moment)> {
        let JoiningStage::Live(LiveSubscription { granted: Some(granted), .. }) = &self.stage else {
            return None;
        };
        granted.expires.map(|expires| (&**granted, expires))
    }

    pub(super) fn is_live(&self) -> bool {
        matches!(self.stage, JoiningStage::Live(_))
    }

    /// Returns whether the client is in the channel's presence through this subscription.
    pub(super) fn is_present(&self) -> bool {
        match &self.stage {
            JoiningStage::Authorizing(_) => false,
            JoiningStage::Joining(joining) => joining.given.presence,
            JoiningStage::Live(live) => live.present,
        }
    }

    /// Returns whether the client has been told of the subscription.
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
