//! Effects that a session wants performed, and their outcomes.
//!
//! The shell performs effects in the order they are polled. Each effect with a [`Ticket`] is answered by exactly one
//! [`Outcome`] with the same ticket, at any later time, unless the session has closed.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use shared::channel::Channel;
use shared::command::{Connect, ResumeAfter, Since, TrackBatch};
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::framing::OwnedMessage;
use shared::id::{ClientId, UserId};
use shared::moment::Moment;
use shared::position::{Epoch, StreamPosition};
use shared::protocol::Header;
use shared::publication::{ClientInfo, Payload, Publication, Tagged};
use shared::push::UnsubscribeCode;
use shared::refusal::Refusal;
use shared::topic_selector::Selector;

use crate::history::{HistoryFilter, HistoryPage, Retention};
use crate::map::{MapChange, MapRetention, StateFilter, StatePage};
use crate::newest::NewestTerms;
use crate::tag_filter::TagFilter;

/// Identifies an effect whose outcome is awaited. Unique within one session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub struct Ticket(pub u32);

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Begin the response to the client's request, with this header among others. What is sent to the client follows in
    /// it. Only for protocols whose response does not begin earlier.
    Begin(Option<Header>),
    /// Write this message to the client.
    Send(OwnedMessage),
    /// Send a ping of the transport.
    Ping,
    /// Close the connection, after everything sent so far. No effect follows; the shell then leaves all channels.
    Close(Disconnect),

    /// Authenticate the client. An empty token asks for an anonymous connection.
    Authenticate {
        ticket: Ticket,
        connect: Box<Connect>,
    },
    /// Determine what a subscription token grants or, without one, what the application says. The session has checked
    /// that the channel is valid.
    Authorize {
        ticket: Ticket,
        channel: Channel,
        token: Box<str>,
        /// The client's data for the application.
        data: Option<Payload>,
    },
    /// Ask the application whether a client may subscribe, and to which channel. `channel`: the one that the client
    /// asks for, or empty.
    Resolve {
        ticket: Ticket,
        channel: Box<str>,
        /// The data for the application.
        question: Payload,
    },
    /// Verify the identity that a connected client claims.
    SignIn {
        ticket: Ticket,
        token: Box<str>,
        data: Payload,
    },
    /// Verify a new connection token of a connected client.
    Reauthenticate {
        ticket: Ticket,
        token: Box<str>,
    },

    /// Ask the application whether an expired connection may stay.
    Refresh {
        ticket: Ticket,
    },
    /// Ask the application whether an expired subscription may stay.
    SubRefresh {
        ticket: Ticket,
        channel: Channel,
    },
    /// Close the user's other connections, on every node.
    CloseOthers,

    /// Join a channel: from now on the hub holds publications back for this client until [`Effect::GoLive`]. Answered
    /// once the broker delivers the channel to this node, with the requested history, read after that. For a client
    /// that is joining already, holding back starts anew.
    Join(Box<Join>),
    /// The reply has been sent: deliver the held publications after `position`, then go live. Publications that cannot
    /// be delivered are reported to [`Session::handle_gap`](crate::session::Session::handle_gap).
    GoLive(GoLive),
    /// Wait until the client's socket has taken everything sent so far, and so the client is ready for more.
    AwaitRoom {
        ticket: Ticket,
    },
    /// Leave a channel. Also undoes a join that failed or is not answered yet.
    Leave {
        channel: Channel,
        /// Why the subscription ended, if the client knew of it.
        ended: Option<Ended>,
    },

    /// Replace the client's info in the channel's presence.
    UpdatePresence {
        channel: Channel,
        info: Box<ClientInfo>,
    },
    /// Tell the channel's subscribers that this client has joined. The reply to the client has been sent before.
    AnnounceJoined {
        channel: Channel,
        info: Box<ClientInfo>,
    },
    /// Tell the channel's subscribers that this client has left. For clients that leave by closing,
    /// [`Session::take_announced`](crate::session::Session::take_announced) is called instead.
    AnnounceLeft {
        channel: Channel,
        info: Box<ClientInfo>,
    },

    /// Pass a message to the application. The channel is that of a bare endpoint, and empty elsewhere.
    Message {
        ticket: Ticket,
        channel: Box<str>,
        data: Payload,
    },
    /// Ask the application about an event.
    Event {
        ticket: Ticket,
        question: Box<EventQuestion>,
    },
    /// Call the application.
    Rpc {
        ticket: Ticket,
        method: Box<str>,
        data: Payload,
    },
    /// Change the delivery of a subscription. Answered as [`Effect::Rpc`] is.
    ChangeDelivery {
        ticket: Ticket,
        channel: Channel,
        /// `None` if the subscriber is sent all publications.
        latest: Option<NewestTerms>,
    },
    Publish {
        ticket: Ticket,
        channel: Channel,
        publication: Box<Publication>,
        retention: Retention,
    },
    /// Change a key of a map.
    ChangeKey {
        ticket: Ticket,
        channel: Channel,
        change: Box<MapChange>,
        keeping: MapRetention,
    },
    /// Read a part of a map's state.
    ReadState {
        ticket: Ticket,
        channel: Channel,
        filter: Box<StateFilter>,
        keeping: MapRetention,
    },
    /// Show a subscriber as keys of other channels until it is hidden.
    ShowSubscriber(Box<PublishedSubscriber>),
    /// Remove these keys. For clients that leave by closing,
    /// [`Session::take_shown`](crate::session::Session::take_shown) is called instead.
    HideSubscriber(Box<PublishedSubscriber>),
    History {
        ticket: Ticket,
        channel: Channel,
        filter: HistoryFilter,
        retention: Retention,
    },
    Presence {
        ticket: Ticket,
        channel: Channel,
    },
    PresenceStats {
        ticket: Ticket,
        channel: Channel,
    },

    /// Verify whether keys are signed for this client, and whether there is room for them.
    Verify {
        ticket: Ticket,
        channel: Channel,
        batches: Vec<TrackBatch>,
    },
    /// The reply has been sent: send the client what is newer than its version of each key, now and as it comes. Ends
    /// with the subscription.
    Follow {
        channel: Channel,
        keys: Vec<(Box<str>, u64)>,
    },
    /// Stop following these keys.
    Unfollow {
        channel: Channel,
        keys: Vec<Box<str>>,
    },
}

/// An event of a client about which the application is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventQuestion {
    /// The channel of the Socket.IO namespace to which the event was sent.
    pub channel: Channel,
    pub event: Box<str>,
    /// The arguments of the event: a JSON array.
    pub arguments: Tagged,
    /// The rooms of that namespace that the client is in.
    pub rooms: Vec<Channel>,
}

/// The actions of the application for an event, in this order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EventActions {
    pub leave: Vec<Channel>,
    /// Channels for the client to join. Those that it is in already are ignored.
    pub join: Vec<ServerSubscription>,
    pub emit: Vec<Emitted>,
    /// The acknowledgement, if the client asks for one.
    pub acknowledge: Option<Box<Tagged>>,
    /// Whether the client is removed from the namespace to which the event was sent.
    pub end: bool,
}

/// An event to send for the application.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Emitted {
    /// To the client alone, as if it had been published to this channel.
    Own { channel: Channel, publication: Box<Publication> },
    /// To the subscribers of a channel.
    Published { channel: Channel, publication: Box<Publication> },
}

/// Why a subscription that its client knew of has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The client unsubscribed.
    ByClient,
    /// The connection was closed. Reported by [`Session::take_ended`](crate::session::Session::take_ended).
    Disconnected,
    /// The server ended the subscription, and has told the client.
    ByServer(UnsubscribeCode),
}

impl Ended {
    /// Returns the code that Centrifuge uses. The codes of the first two are sent to no client.
    pub fn code(self) -> u32 {
        match self {
            Self::ByClient => 0,
            Self::Disconnected => 1,
            Self::ByServer(code) => code.code(),
        }
    }

    pub fn reason(self) -> &'static str {
        match self {
            Self::ByClient => "client unsubscribed",
            Self::Disconnected => "client disconnected",
            Self::ByServer(code) => code.reason(),
        }
    }
}

/// A subscriber that is shown as keys of other channels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublishedSubscriber {
    pub info: ClientInfo,
    /// The channel in which its client id is a key.
    pub clients: Option<Channel>,
    /// The channel in which its user is a key. This key is not removed: it expires some time after the user's last
    /// client has left.
    pub users: Option<Channel>,
    /// The channel in which it may have set its client id as a key, which is removed as it leaves.
    pub own: Option<Channel>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Join {
    pub ticket: Ticket,
    pub channel: Channel,
    pub terms: DeliveryTerms,
    pub retention: Retention,
    /// The history to read on the way. `None` in channels without a stream.
    pub history: Option<HistoryRequest>,
    /// The client's info in the channel's presence, from now until it leaves.
    pub presence: Option<ClientInfo>,
    /// Whether to answer with the channel's members ([`OutcomeResult::JoinedAmong`]).
    pub members: bool,
    /// In place of `history`: read the newest value of each key, with this retention.
    pub newest: Option<MapRetention>,
}

/// The terms of delivery to a subscriber.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeliveryTerms {
    /// Whether the subscriber is told of gaps in the channel's stream.
    pub positioned: bool,
    /// Whether the subscriber is told of joins and leaves.
    pub joins_and_leaves: bool,
    /// Whether payloads may be sent as patches of the one before. Only for positioned subscribers.
    pub patches: bool,
    /// The filter that publications must match.
    pub filter: Option<Arc<TagFilter>>,
    /// The node's count of member changes up to which the client knows the members.
    pub members_known: u64,
    /// The terms of newest values, if the client is sent those in place of all publications.
    pub latest: Option<NewestTerms>,
}

impl DeliveryTerms {
    pub fn lets_through(&self, publication: &Publication) -> bool {
        self.filter.as_ref().is_none_or(|filter| filter.matches(&publication.tags))
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GoLive {
    pub channel: Channel,
    /// The position of the client. `None` if publications are not numbered.
    pub position: Option<StreamPosition>,
    /// The terms of the join.
    pub terms: DeliveryTerms,
    /// Whether the rest may be read from history if the held publications do not follow `position`. Not set if that was
    /// just tried without result.
    pub may_read_on: bool,
    /// Whether the client was just sent the publication at `position`, whole or as a patch, so that the next one can be
    /// a patch of it.
    pub has_last: bool,
}

impl GoLive {
    /// Returns whether history may contain held publications that cannot be delivered.
    pub fn can_read_on(&self) -> bool {
        self.may_read_on && self.position.is_some()
    }
}

/// The part of the channel's retained history to read for a joining subscriber.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistoryRequest {
    /// A limit of 0 asks for the position only. The newest publication is a limit of 1 in reverse, without an offset.
    pub filter: HistoryFilter,
    /// The epoch of `filter.since`. Empty if any epoch will do, `None` if it cannot be the epoch of any stream here.
    pub epoch: Option<Epoch>,
    /// An update to look for in the publications that `filter` selects. Those before the update are not needed. If it
    /// is not there, only the position is needed.
    pub sought: Option<ResumeAfter>,
    /// Whether the history is read for this client alone: any part that begins at `filter.since` will do, up to the
    /// present.
    pub part: bool,
}

/// The outcome of the effect with this ticket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    pub ticket: Ticket,
    pub result: OutcomeResult,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OutcomeResult {
    /// For `Authenticate` and `Reauthenticate`.
    Authenticated(Result<Identity, Denial>),
    Authorized(Result<Grant, Denial>),
    Resolved(Result<Resolved, Denial>),
    /// For `Join`: the requested history; `None` if none was requested.
    Joined(Result<Option<HistoryPage>, ErrorCode>),
    /// For a `Join` that asks for the members.
    JoinedAmong(Result<(Option<HistoryPage>, ChannelMembers), ErrorCode>),
    /// For `SignIn`: the identity of the client, and the subscriptions that come with it.
    SignedIn(Result<Identity, Denial>),
    /// For `Refresh` and `SubRefresh`.
    Renewed(Result<Renewal, Denial>),
    /// For `Event`.
    Handled(Result<Box<EventActions>, Denial>),
    /// For `Message`: the answer to the client, if there is one.
    Messaged(Result<Option<Payload>, Denial>),
    Rpc(Result<Payload, Denial>),
    /// For `Publish` and `ChangeKey`.
    Published(Result<(), Denial>),
    History(Result<HistoryPage, ErrorCode>),
    Presence(Result<Vec<ClientInfo>, ErrorCode>),
    PresenceStats(Result<PresenceStats, ErrorCode>),
    /// For `ReadState`.
    State(Result<StatePage, ErrorCode>),
    /// For `Verify`.
    Verified(Result<Vec<Verified>, ErrorCode>),
    /// For `AwaitRoom`.
    Room,
}

/// The members of a channel: one client of each user.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChannelMembers {
    pub clients: Vec<ClientInfo>,
    /// Number of member changes that the node has seen.
    pub version: u64,
}

/// Keys whose signature was verified, and its expiry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified {
    pub items: Vec<(Box<str>, u64)>,
    pub expires: Option<Moment>,
}

/// The application's answer about a connection or a subscription that has expired.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Renewal {
    /// The connection or subscription ends.
    Expired,
    /// It stays until `expires`, or without a limit. The other fields stay as they were if they are `None`.
    Stays { expires: Option<Moment>, info: Option<Bytes>, meta: Option<Bytes> },
    /// There was no answer. The question is repeated until `grace` after the expiry.
    Unanswered { grace: Duration },
}

/// The identity of a client, and what comes with it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    pub user: UserId,
    /// JSON shown to other clients.
    pub info: Option<Bytes>,
    /// When the connection ends unless it is refreshed.
    pub expires: Option<Moment>,
    /// Whether the application, and not the client, is asked to renew it then ([`Effect::Refresh`]).
    pub refreshed_by_server: bool,
    /// Subscriptions that the server makes as the client connects.
    pub subs: Vec<ServerSubscription>,
    /// A JSON object for the application's own servers, which no client sees.
    pub meta: Option<Bytes>,
    /// Rights in channels, beside those that the channels give to everybody. The first capability that names a channel
    /// counts.
    pub caps: Box<[Capability]>,
    /// Data for the connect reply. Tokens have none.
    pub data: Option<Bytes>,
    /// The wall clock for the connect reply, in milliseconds since 1970.
    pub time_ms: Option<u64>,
    /// The rights of the client's token for updates.
    pub updates: Option<Box<Updates>>,
}

/// Rights for updates, by topics.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Updates {
    /// Topics whose private updates may be read.
    pub subscribe: Box<[Selector]>,
    /// Topics that may be published to.
    pub publish: Box<[Selector]>,
    /// JSON shown beside the client's subscriptions.
    pub payload: Option<Bytes>,
}

/// A subscription made by the server and not by the client.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServerSubscription {
    /// The name as it was written: the session checks whether it is valid and its namespace exists.
    pub channel: Box<str>,
    /// JSON shown to other clients in this channel.
    pub info: Option<Bytes>,
    /// Data for the client, sent with the subscription.
    pub data: Option<Bytes>,
    /// When the subscription ends.
    pub expires: Option<Moment>,
    pub overrides: Overrides,
    /// Whether the client is told the channel's members, by users.
    pub members: bool,
}

/// Overrides of the channel's options for one subscription. `None` leaves an option as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Overrides {
    pub presence: Option<bool>,
    pub join_leave: Option<bool>,
    pub force_recovery: Option<bool>,
    pub force_positioning: Option<bool>,
    pub force_push_join_leave: Option<bool>,
}

/// The rights of a client in some channels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capability {
    /// Names, or patterns in which `*` stands for any text.
    pub channels: Box<[Box<str>]>,
    pub matching: Matching,
    pub allow: Rights,
}

/// How the channel names of a [`Capability`] are matched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Matching {
    #[default]
    Exact,
    Wildcard,
}

/// Rights in a channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rights {
    pub subscribe: bool,
    pub publish: bool,
    /// Presence and its counts; joins and leaves for a subscriber.
    pub presence: bool,
    /// History; positions and recovery for a subscriber.
    pub history: bool,
}

/// What a subscription token or the application grants.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Grant {
    /// The user of the token. The session checks that it is the client's.
    pub user: UserId,
    /// The user under which others see the client in this channel, if it is not its own.
    pub shown_as: Option<UserId>,
    /// JSON shown to other clients in this channel.
    pub info: Option<Bytes>,
    pub expires: Option<Moment>,
    /// Whether the application, and not the client, is asked to renew it then ([`Effect::SubRefresh`]).
    pub refreshed_by_server: bool,
    /// Data for the client in the reply.
    pub data: Option<Bytes>,
    pub overrides: Overrides,
    /// Rights beside those of the channel's options. The grant itself allows subscribing.
    pub allow: Rights,
    /// The identity of the client, if it was established only now.
    pub identity: Option<Box<Identity>>,
    /// Actions to perform once the client has been told that it is subscribed.
    pub then: Option<Box<EventActions>>,
    /// The earlier session that the client resumes.
    pub resumed: Option<Box<Resumed>>,
}

/// A session that a client resumes, as it stands once everything missed has been read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resumed {
    /// The client id of the session, which the client takes again.
    pub client: ClientId,
    /// The position from which the client is told of the channel that it enters.
    pub since: Since,
    /// The rooms of that channel, with the position in each.
    pub rooms: Vec<(Channel, Since)>,
    /// Publications missed up to those positions, in the order in which the client is told.
    pub missed: Vec<(Channel, Publication)>,
}

/// The channel that the application lets a client subscribe to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Resolved {
    /// The name as it was written.
    pub channel: Box<str>,
    pub grant: Grant,
}

/// Why a command was not performed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Denial {
    /// Answer the command with this error.
    Error(Refusal),
    /// Close the connection.
    Disconnect(Disconnect),
}

impl Denial {
    pub const fn of(error: ErrorCode) -> Self {
        Self::Error(Refusal::of(error))
    }
}

impl From<ErrorCode> for Denial {
    fn from(error: ErrorCode) -> Self {
        Self::of(error)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PresenceStats {
    pub clients: u32,
    pub users: u32,
}
