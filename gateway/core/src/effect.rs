//! What a session wants done, and how it is told what came of it.
//!
//! The shell performs effects in the order they are polled. Those with a [`Ticket`] are answered by exactly one
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

/// Names an effect whose outcome is awaited. Unique within one session.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord, Default)]
pub struct Ticket(pub u32);

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Begin the answer to the request that the client came with, with this header among others. What is written to the
    /// client follows in it. Only for protocols whose answers wait for that.
    Begin(Option<Header>),
    /// Write this message to the client.
    Send(OwnedMessage),
    /// Send a ping of the transport's own.
    Ping,
    /// Say goodbye, after everything sent so far. Nothing follows; the shell then leaves all channels.
    Close(Disconnect),

    /// Find out who the client is. An empty token asks to be let in anonymously.
    Authenticate {
        ticket: Ticket,
        connect: Box<Connect>,
    },
    /// Find out what a subscription token grants, or, without one, what the application says. The session has checked
    /// that the channel is valid.
    Authorize {
        ticket: Ticket,
        channel: Channel,
        token: Box<str>,
        /// What the client says to the application.
        data: Option<Payload>,
    },
    /// Whether a client may subscribe, and where: for the application to say. `channel`: where the client asks to, or empty.
    Resolve {
        ticket: Ticket,
        channel: Box<str>,
        /// What the application is told.
        question: Payload,
    },
    /// A client that is connected already says who it is.
    SignIn {
        ticket: Ticket,
        token: Box<str>,
        data: Payload,
    },
    /// A new connection token from a client that is connected already.
    Reauthenticate {
        ticket: Ticket,
        token: Box<str>,
    },

    /// The connection expires: ask the application whether it may stay.
    Refresh {
        ticket: Ticket,
    },
    /// The same of a subscription.
    SubRefresh {
        ticket: Ticket,
        channel: Channel,
    },
    /// Close the user's other connections, on every node.
    CloseOthers,

    /// Become a subscriber: from now on the hub holds publications back for this client until [`Effect::GoLive`].
    /// Answered once the broker delivers the channel to this node, with the history asked for, read after that.
    /// Whoever is held back from already begins anew.
    Join(Box<Join>),
    /// The reply is on its way: deliver what was held back, without what lies at or before `position`, then live.
    /// What cannot be delivered is told to [`Session::handle_hole`](crate::session::Session::handle_hole).
    GoLive(GoLive),
    /// Answered once the client's socket has taken all that was sent so far: the client is ready for more.
    AwaitRoom {
        ticket: Ticket,
    },
    /// Stop being a subscriber; also undoes a join that failed or is not answered yet.
    Leave {
        channel: Channel,
        /// Why it ended, if the client knew of it.
        ended: Option<Ended>,
    },

    /// Show this in the channel's presence in place of what the join said.
    UpdatePresence {
        channel: Channel,
        info: Box<ClientInfo>,
    },
    /// Tell the channel's subscribers that this client has come. What it was told before is on its way.
    AnnounceJoined {
        channel: Channel,
        info: Box<ClientInfo>,
    },
    /// The same when it is gone. Whoever leaves by closing is told of by
    /// [`Session::take_announced`](crate::session::Session::take_announced).
    AnnounceLeft {
        channel: Channel,
        info: Box<ClientInfo>,
    },

    /// Give a message to the application. The channel is that of a bare endpoint, and empty elsewhere.
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
    /// Ask the application something.
    Rpc {
        ticket: Ticket,
        method: Box<str>,
        data: Payload,
    },
    /// Serve a subscription otherwise from now on. Answered as [`Effect::Rpc`] is.
    ChangeDelivery {
        ticket: Ticket,
        channel: Channel,
        /// `None`: it is sent all.
        latest: Option<NewestTerms>,
    },
    Publish {
        ticket: Ticket,
        channel: Channel,
        publication: Box<Publication>,
        retention: Retention,
    },
    /// Change a key of a channel that keeps state by key.
    ChangeKey {
        ticket: Ticket,
        channel: Channel,
        change: Box<MapChange>,
        keeping: MapRetention,
    },
    /// Read a part of such a state.
    ReadState {
        ticket: Ticket,
        channel: Channel,
        filter: Box<StateFilter>,
        keeping: MapRetention,
    },
    /// Show this subscriber as keys of other channels, from now until it is hidden.
    ShowSubscriber(Box<PublishedSubscriber>),
    /// Take them back. Whoever leaves by closing is told of by
    /// [`Session::take_shown`](crate::session::Session::take_shown).
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

    /// Find out whether these keys are signed for this client, and whether there is room for them.
    Verify {
        ticket: Ticket,
        channel: Channel,
        batches: Vec<TrackBatch>,
    },
    /// The reply is on its way: tell the client what is newer than the version it has of each key, now and as it comes.
    /// Ends with the subscription.
    Follow {
        channel: Channel,
        keys: Vec<(Box<str>, u64)>,
    },
    /// Not of these keys any more.
    Unfollow {
        channel: Channel,
        keys: Vec<Box<str>>,
    },
}

/// An event of a client that the application is asked about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventQuestion {
    /// Of the part of the server that it was sent to.
    pub channel: Channel,
    pub event: Box<str>,
    /// Its arguments: a JSON array.
    pub arguments: Tagged,
    /// The channels that hang on that one and that the client is in.
    pub rooms: Vec<Channel>,
}

/// What the application wants done for an event, in this order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EventActions {
    pub leave: Vec<Channel>,
    /// Channels that the client comes into. Those that it is in are none.
    pub join: Vec<ServerSubscription>,
    pub emit: Vec<Emitted>,
    /// For the client, if it asks for an acknowledgement.
    pub acknowledge: Option<Box<Tagged>>,
    /// The client is put out of the part of the server that the event was sent to.
    pub end: bool,
}

/// An event that the application sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Emitted {
    /// To the client alone, as if it had come to this channel.
    Own { channel: Channel, publication: Box<Publication> },
    /// To the subscribers of a channel.
    Published { channel: Channel, publication: Box<Publication> },
}

/// Why a subscription that its client knew of has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// The client wished it.
    ByClient,
    /// Its connection is gone. Whoever leaves so is told of by
    /// [`Session::take_ended`](crate::session::Session::take_ended).
    Disconnected,
    /// The server did it, and has told the client.
    ByServer(UnsubscribeCode),
}

impl Ended {
    /// As Centrifuge counts it. The first two are said to no client.
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

/// A subscriber as others see it among the keys of channels that are made for that.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublishedSubscriber {
    pub info: ClientInfo,
    /// Where its client id is a key.
    pub clients: Option<Channel>,
    /// Where its user is a key. It is not taken back: it expires some time after the user's last client has left.
    pub users: Option<Channel>,
    /// Where its client id may be a key that it has set itself, to be removed as it leaves.
    pub own: Option<Channel>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Join {
    pub ticket: Ticket,
    pub channel: Channel,
    pub terms: DeliveryTerms,
    pub retention: Retention,
    /// Read history on the way: `None` in channels without a stream.
    pub history: Option<HistoryRequest>,
    /// Show this in the channel's presence from now until the leave.
    pub presence: Option<ClientInfo>,
    /// Answer with who is there ([`OutcomeResult::JoinedAmong`]).
    pub members: bool,
    /// In place of `history`: read the newest value of each key, as they are kept by this.
    pub newest: Option<MapRetention>,
}

/// How a subscriber is told what comes to the channel.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DeliveryTerms {
    /// It is told of gaps in the channel's stream.
    pub positioned: bool,
    /// It is told who comes and who goes.
    pub joins_and_leaves: bool,
    /// Payloads may come as patches of the one before. For those who are told of gaps.
    pub patches: bool,
    /// Only publications that this lets through.
    pub filter: Option<Arc<TagFilter>>,
    /// Of the changes of who is there, as the node counts them, those up to this one are known to it.
    pub members_known: u64,
    /// It is sent the newest value of each key, in place of all.
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
    /// `None` where publications are not numbered.
    pub position: Option<StreamPosition>,
    /// As the join said.
    pub terms: DeliveryTerms,
    /// If what was held back does not join on, more may be read from history. Not where that was tried just now and
    /// brought nothing.
    pub may_read_on: bool,
    /// The client was just sent the publication at `position`, whole or by a patch: the next can be a patch of it.
    pub has_last: bool,
}

impl GoLive {
    /// Whether history may have what was held back and cannot be delivered.
    pub fn can_read_on(&self) -> bool {
        self.may_read_on && self.position.is_some()
    }
}

/// What someone who joins is to be told of the channel's retained history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistoryRequest {
    /// A limit of 0 asks for the position only. The newest publication is one in reverse, from no offset on.
    pub filter: HistoryFilter,
    /// The epoch of `filter.since`: empty if any will do, `None` if it cannot be of any stream here.
    pub epoch: Option<Epoch>,
    /// What is looked for in what `filter` says: of what came before it nothing is wanted. If it is not there, nothing need be
    /// told but the position.
    pub sought: Option<ResumeAfter>,
    /// It is to be read for this one: any part that begins there is welcome, up to what there is now.
    pub part: bool,
}

/// What came of the effect with this ticket.
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
    /// The history asked for; `None` if none was.
    Joined(Result<Option<HistoryPage>, ErrorCode>),
    /// The same for a join that asks who is there.
    JoinedAmong(Result<(Option<HistoryPage>, ChannelMembers), ErrorCode>),
    /// Who the client is, and what it is subscribed to as such.
    SignedIn(Result<Identity, Denial>),
    /// For `Refresh` and `SubRefresh`.
    Renewed(Result<Renewal, Denial>),
    /// For `Event`.
    Handled(Result<Box<EventActions>, Denial>),
    /// For `Message`: what goes back to the client, if anything does.
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

/// Who is in a channel: one client of each user.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChannelMembers {
    pub clients: Vec<ClientInfo>,
    /// How many changes of that the node has seen.
    pub version: u64,
}

/// Keys that are signed, and until when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified {
    pub items: Vec<(Box<str>, u64)>,
    pub expires: Option<Moment>,
}

/// What the application says of a connection or a subscription that was to end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Renewal {
    /// It ends.
    Expired,
    /// It stays: until `expires`, or for as long as it likes. What is `None` beside that is as it was.
    Stays { expires: Option<Moment>, info: Option<Bytes>, meta: Option<Bytes> },
    /// There is no answer. The question is asked again, for so long after the end.
    Unanswered { grace: Duration },
}

/// Who a client is, and what it brings.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    pub user: UserId,
    /// JSON shown to others.
    pub info: Option<Bytes>,
    /// When the connection ends unless it is refreshed.
    pub expires: Option<Moment>,
    /// The application is asked then ([`Effect::Refresh`]), and not the client.
    pub refreshed_by_server: bool,
    /// What the server subscribes it to as it connects.
    pub subs: Vec<ServerSubscription>,
    /// A JSON object for the application's own servers. No client ever sees it.
    pub meta: Option<Bytes>,
    /// What it may do in which channels, beside what these allow to everybody. The first that names a channel counts.
    pub caps: Box<[Capability]>,
    /// For the reply to its connect command. No token has it.
    pub data: Option<Bytes>,
    /// What the wall clock says, in milliseconds since 1970, for that reply.
    pub time_ms: Option<u64>,
    /// What its token says of updates.
    pub updates: Option<Box<Updates>>,
}

/// What may be done with updates, by their topics.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Updates {
    /// Topics whose private updates may be read.
    pub subscribe: Box<[Selector]>,
    /// Topics that may be published to.
    pub publish: Box<[Selector]>,
    /// JSON that is shown beside its subscriptions.
    pub payload: Option<Bytes>,
}

/// A subscription that the server makes, not the client.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServerSubscription {
    /// As it was written: whether it is a valid name, of a namespace that exists, is for the session to see.
    pub channel: Box<str>,
    /// JSON shown to others in this channel.
    pub info: Option<Bytes>,
    /// For the client, beside the subscription.
    pub data: Option<Bytes>,
    /// When the subscription ends.
    pub expires: Option<Moment>,
    pub overrides: Overrides,
    /// The client is told who is there, by users.
    pub members: bool,
}

/// What is said of one subscription in place of its channel's options. `None`: as these say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Overrides {
    pub presence: Option<bool>,
    pub join_leave: Option<bool>,
    pub force_recovery: Option<bool>,
    pub force_positioning: Option<bool>,
    pub force_push_join_leave: Option<bool>,
}

/// What a client may do in some channels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capability {
    /// Names, or patterns in which `*` stands for any text.
    pub channels: Box<[Box<str>]>,
    pub matching: Matching,
    pub allow: Rights,
}

/// How the channels of a [`Capability`] are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Matching {
    #[default]
    Exact,
    Wildcard,
}

/// What may be done in a channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rights {
    pub subscribe: bool,
    pub publish: bool,
    /// Presence and its counts; joins and leaves for a subscriber.
    pub presence: bool,
    /// History; positions and recovery for a subscriber.
    pub history: bool,
}

/// What a subscription token gives.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Grant {
    /// The user the token was made for: the session checks that it is this client's.
    pub user: UserId,
    /// As whom it is seen in this channel, if not as who it is.
    pub shown_as: Option<UserId>,
    /// JSON shown to others in this channel.
    pub info: Option<Bytes>,
    pub expires: Option<Moment>,
    /// The application is asked then ([`Effect::SubRefresh`]), and not the client.
    pub refreshed_by_server: bool,
    /// For the client, in the reply.
    pub data: Option<Bytes>,
    pub overrides: Overrides,
    /// What the subscriber may do in the channel beside what its options allow. Subscribing is allowed by the grant.
    pub allow: Rights,
    /// Who the client is, where it has shown that only now.
    pub identity: Option<Box<Identity>>,
    /// What is done once the client has been told that it is a subscriber.
    pub then: Option<Box<EventActions>>,
    /// The client comes back to a session that it had.
    pub resumed: Option<Box<Resumed>>,
}

/// A session that a client comes back to, as it stands when what was missed has been read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resumed {
    /// Who the client was, and is again.
    pub client: ClientId,
    /// From where on it is told of the channel that it comes into.
    pub since: Since,
    /// The channels that hang on that one.
    pub rooms: Vec<(Channel, Since)>,
    /// What it missed up to there, in the order in which it is told.
    pub missed: Vec<(Channel, Publication)>,
}

/// Where a client may subscribe, according to the application.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Resolved {
    /// As it was written.
    pub channel: Box<str>,
    pub grant: Grant,
}

/// Why what was asked for is not done.
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
