//! One client from open to close, as a state machine without a clock or a socket.
//!
//! The caller (the shell) drives a session with five kinds of methods. It reports what happened with `handle_message`,
//! `handle_outcome` and `handle_timeout`, and passes on requests of the server with `handle_subscribe`,
//! `handle_unsubscribe`, `handle_refresh` and `handle_disconnect`. After each call it polls `poll_effect` until it is
//! empty and performs the effects. `poll_timeout` says when to call `handle_timeout` next.
//!
//! Commands run in order, one awaited effect at a time. Consecutive subscribe commands are the exception: up to
//! [`JOINS_MAX`] of them are in flight at once, so that a client with many subscriptions does not pay a round trip for
//! each.
//!
//! Each `on_*.rs` file is named for an event and holds both what the event starts and how it ends.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use shared::channel::Channel;
use shared::command::{Command, Connect, Request};
use shared::disconnect::Disconnect;
use shared::id::{ClientId, UserId};
use shared::moment::Moment;
use shared::protocol::Protocol;
use shared::publication::{ClientInfo, Publication};
use smallvec::SmallVec;

use crate::effect::{Effect, Identity, Ticket};

pub use batch::{BATCH_BYTES_MAX, REPLIES_PER_MESSAGE_MAX};
pub use behind::READS_FAILED_MAX;
pub use connection_kind::ConnectionKind;
pub use context::{Application, Context, NoObserver, SessionObserver};
pub use on_change_delivery::CHANGE_DELIVERY;
pub use on_renewal::RENEWAL_RETRY;
pub use settings::{SessionSettings, SettingError};

use backlog::Backlog;
use batch::ReplyBatch;
use behind::BehindReaders;
use limits::{EventLimit, SessionLimits};
use loading::Loadings;
use on_renewal::Renewals;
use on_track::Tracking;
use session_state::{PendingCommand, Phase, Subscription};

mod context;
mod settings;

mod additional_reader;
mod backlog;
mod batch;
mod behind;
mod connection_kind;
mod limits;
mod loading;
mod rights;
mod session_state;
mod terms;

mod on_application;
mod on_arrival;
mod on_change_delivery;
mod on_connect;
mod on_emit;
mod on_enter;
mod on_event;
mod on_map_subscribe;
mod on_message;
mod on_outcome;
mod on_publish;
mod on_publish_key;
mod on_query;
mod on_refresh;
mod on_renewal;
mod on_resolve;
mod on_server_subscribe;
mod on_sign_in;
mod on_subscribe;
mod on_timeout;
mod on_track;
mod on_unsubscribe;

/// Maximum number of subscribe commands of one connection in flight at once.
pub const JOINS_MAX: usize = 16;

/// The id given to a connect command that came with the request that opened the connection.
const CONNECT_ID: u32 = 1;
/// The fewest bytes a command takes on the wire: a masked frame of the bare endpoint without a payload.
const COMMAND_BYTES_MIN: usize = 6;
/// The longest time until a token expires: a later expiry is cut to it, and the token must be refreshed then. 365 days.
const EXPIRY_MAX: std::time::Duration = std::time::Duration::from_secs(365 * 24 * 3600);

/// A moment later than any timeout.
const NEVER: Moment = Moment(u64::MAX);

/// The arguments of [`Session::open`].
#[derive(Clone, Debug)]
pub struct Opening {
    /// Unique over all nodes and time.
    pub client: ClientId,
    pub protocol: Arc<dyn Protocol>,
    pub context: Arc<Context>,
    pub connection_kind: ConnectionKind,
    /// The connect command, if the request that opened the connection contained everything it needs.
    pub connect: Option<Box<Connect>>,
    /// Random bits that choose when the first ping is sent.
    pub seed: u64,
}

/// The state of one client's connection. Most connections are idle, so every byte counts: rare state is boxed, and an
/// empty queue keeps no memory.
#[derive(Debug)]
pub struct Session {
    client: ClientId,
    context: Arc<Context>,
    protocol: Arc<dyn Protocol>,
    /// `None` for an anonymous client about which nothing has to be remembered.
    identity: Option<Box<Identity>>,
    /// Sorted by channel name.
    subscriptions: SmallVec<[Subscription; 1]>,
    effects: VecDeque<Effect>,
    /// Replies that will be sent as one message.
    batch: Option<Box<ReplyBatch>>,
    pending: Option<Box<PendingCommand>>,
    backlog: Option<Box<Backlog>>,
    /// Subscriptions to map channels whose clients are still reading the state page by page.
    loading: Option<Box<Loadings>>,
    /// Subscriptions that still read history, piece by piece, as the client takes what it was sent.
    behind: Option<Box<BehindReaders>>,
    /// Questions to the application about renewing the connection and its subscriptions.
    renewals: Option<Box<Renewals>>,
    /// Keys of polled channels that the client follows.
    tracking: Option<Box<Tracking>>,
    /// State that few sessions have, or have only for a short time.
    rare: Option<Box<RareSessionState>>,
    limits: SessionLimits,
    /// Before the session is connected: the deadline of the connect command, unless `connect_by` holds it. After that:
    /// when the next ping is due, or the deadline of the pong to the last one.
    deadline: Moment,
    /// When the connection, a subscription or a key's signature next ends because it has expired, or the application is
    /// next asked to renew one. [`NEVER`] if nothing expires.
    expiry: Moment,
    /// Milliseconds from the success of the connect command to the first ping.
    first_ping_ms: u32,
    next_ticket: u32,
    /// Number of subscriptions and page requests that are in flight.
    joining: u16,
    phase: Phase,
    awaits_pong: bool,
    /// Whether the client sends nothing after its connect command.
    is_unidirectional: bool,
    /// Whether the subscriptions are fixed to those that the connect command asked for.
    fixed: bool,
    /// Whether every subscription is authorized by [`Effect::Authorize`], whatever the channel's options allow.
    asks_of_all: bool,
    /// Whether the client enters and leaves Socket.IO namespaces, each with rooms that depend on it.
    has_rooms: bool,
    /// Whether the client has sent anything since the last ping.
    has_received: bool,
    /// Pings that have not been answered by a pong yet.
    pongs_pending: u8,
    /// The low 32 bits of the moment of the last ping, in milliseconds.
    pinged_ms: u32,
    /// Bytes of long answers sent since the client was last known to have taken everything.
    sent_bytes: u32,
}

/// Rare state of a session, boxed and allocated only when some of it is set.
#[derive(Debug, Default)]
struct RareSessionState {
    /// Before the session is connected: how the client reaches the session, for the reply to connect.
    connection_kind: ConnectionKind,
    /// The deadline of the connect command's success, if pings begin before it.
    connect_by: Option<Moment>,
    events: EventLimit,
    /// Channels that a resumed client is rejoining but is not yet subscribed to.
    returning: Vec<Channel>,
}

impl Session {
    /// Opens a session. Its first effect is whatever the protocol sends when a connection opens.
    pub fn open(now: Moment, opening: Opening) -> Self {
        let Opening { client, protocol, context, connection_kind, connect, seed } = opening;
        let half = context.settings.ping_interval_ms / 2;
        let first_ping_ms = u32::try_from(half + seed % (half + 1)).unwrap_or(u32::MAX);
        let deadline = now + context.settings.connect_timeout();
        let mut commands = Vec::new();
        protocol.open(&mut commands);
        commands
            .extend(connect.map(|connect| Command { id: CONNECT_ID, request: Request::Connect(connect) }));
        let mut session = Self {
            client,
            context,
            protocol,
            identity: None,
            subscriptions: SmallVec::new(),
            effects: VecDeque::new(),
            batch: None,
            pending: None,
            backlog: None,
            loading: None,
            behind: None,
            renewals: None,
            tracking: None,
            is_unidirectional: matches!(connection_kind, ConnectionKind::Unidirectional { .. }),
            fixed: false,
            asks_of_all: false,
            has_rooms: false,
            rare: (!matches!(connection_kind, ConnectionKind::Bidirectional))
                .then(|| Box::new(RareSessionState { connection_kind, ..RareSessionState::default() })),
            limits: SessionLimits::default(),
            deadline,
            expiry: NEVER,
            first_ping_ms,
            next_ticket: 0,
            joining: 0,
            phase: Phase::Opening,
            awaits_pong: false,
            has_received: false,
            pongs_pending: 0,
            pinged_ms: 0,
            sent_bytes: 0,
        };
        session.accept(now, commands);
        session
    }

    /// Authorizes every subscription by [`Effect::Authorize`], whatever its channel's options allow. For protocols that
    /// have their own way to say what a client may do.
    #[must_use]
    pub fn asking_of_all(self) -> Self {
        Self { asks_of_all: true, ..self }
    }

    /// Sends pings from the opening of the connection on, and not only once it is connected. The first ping comes after
    /// at most seven eighths of an interval, because client libraries expect one counted from when the server answered
    /// them.
    #[must_use]
    pub fn pinging_at_once(mut self, now: Moment) -> Self {
        self.rare.get_or_insert_default().connect_by = Some(self.deadline);
        let (first, half) = (u64::from(self.first_ping_ms), self.context.settings.ping_interval_ms / 2);
        self.deadline = now + Duration::from_millis(first - first.saturating_sub(half) / 4);
        self
    }

    /// Lets the connection enter several Socket.IO namespaces, each with rooms in it. A refused connect command leaves
    /// the connection as it was, and a client that leaves a namespace leaves its rooms.
    #[must_use]
    pub fn with_rooms(self) -> Self {
        Self { has_rooms: true, ..self.asking_of_all() }
    }

    /// Returns the next effect to perform, in order. `None` means that there is nothing to do until something else
    /// happens.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        if self.effects.is_empty() {
            self.flush();
        }
        let effect = self.effects.pop_front();
        if self.effects.is_empty() {
            self.effects = VecDeque::new();
        }
        effect
    }

    /// Replaces the context, if it is a different one. Rights that were granted under the old context stay granted.
    pub fn set_context(&mut self, context: &Arc<Context>) {
        if !Arc::ptr_eq(&self.context, context) {
            self.context = context.clone();
        }
    }

    /// Closes the connection on behalf of the server.
    pub fn handle_disconnect(&mut self, disconnect: Disconnect) {
        self.close(disconnect);
    }

    pub fn client(&self) -> ClientId {
        self.client
    }

    /// Returns the user of the connection, which is anonymous until the session is connected.
    pub fn user(&self) -> &UserId {
        static ANONYMOUS: UserId = UserId::ANONYMOUS;
        self.identity.as_ref().map_or(&ANONYMOUS, |identity| &identity.user)
    }

    /// Returns the `meta` of the token or the connect hook, which only the application's own servers see.
    pub fn meta(&self) -> Option<&Bytes> {
        self.identity.as_ref()?.meta.as_ref()
    }

    /// Returns the payload of the token that is shown beside the client's subscriptions to topics.
    pub fn payload(&self) -> Option<&Bytes> {
        self.identity.as_ref()?.updates.as_ref()?.payload.as_ref()
    }

    /// Returns whether the connect command has succeeded and the connection is not closed.
    pub fn is_connected(&self) -> bool {
        self.phase == Phase::Connected
    }

    pub fn is_closed(&self) -> bool {
        self.phase == Phase::Closed
    }

    /// Returns whether so many commands wait that the client's socket should not be read for now.
    pub fn is_congested(&self) -> bool {
        self.backlog.as_ref().is_some_and(|backlog| backlog.is_half_full(&self.context.settings))
    }

    /// Returns whether a command is in flight or waits for its turn.
    pub fn is_busy(&self) -> bool {
        self.pending.is_some() || self.backlog.is_some() || self.joining > 0
    }

    /// Returns the bytes held for commands that wait for their turn and for a message that has arrived in part.
    pub fn queued_bytes(&self) -> usize {
        self.backlog.as_ref().map_or(0, |backlog| backlog.size().1) + self.protocol.held_bytes()
    }

    /// Returns how many commands are in flight or wait for their turn.
    pub fn unfinished(&self) -> usize {
        let waiting = self.backlog.as_ref().map_or(0, |backlog| backlog.size().0);
        waiting + usize::from(self.pending.is_some()) + usize::from(self.joining)
    }

    /// Returns about how many bytes can be read at once without exceeding the commands that may wait for earlier ones.
    /// A client is only to blame for commands that it sends after the gateway has stopped reading from it.
    pub fn bytes_wanted(&self) -> usize {
        let SessionSettings { queued_commands_max, queued_bytes_max, .. } = self.context.settings;
        let (commands, bytes) = self.backlog.as_ref().map_or((0, 0), |backlog| backlog.size());
        let commands_left = (queued_commands_max as usize).saturating_sub(commands);
        let bytes_left = (queued_bytes_max as usize).saturating_sub(bytes);
        commands_left.saturating_mul(COMMAND_BYTES_MIN).min(bytes_left)
    }

    /// Returns the channels that have been joined and not left, including those whose join has not been answered yet.
    /// After the session has closed, these are the channels that the shell has to leave.
    pub fn subscriptions(&self) -> impl Iterator<Item = &Channel> {
        let joined = self
            .subscriptions
            .iter()
            .filter(|one| !matches!(one.stage, session_state::JoiningStage::Authorizing(_)));
        joined.map(|one| &one.channel)
    }

    /// Returns whether publications of a channel are delivered to the client, or will be once it has rejoined the
    /// channel.
    pub fn is_in(&self, channel: &Channel) -> bool {
        let returning = || self.rare.as_ref().is_some_and(|rare| rare.returning.contains(channel));
        self.find_live(channel.as_str()).is_some() || returning()
    }

    /// Returns whether a publication to one of the client's channels is addressed to this client.
    pub fn is_meant(&self, publication: &Publication) -> bool {
        let only = publication.only.as_deref();
        publication.except.as_deref() != Some(&self.client)
            && only.is_none_or(|only| only.includes(self.client, |channel| self.is_in(channel)))
    }

    /// Returns how others see the client in a channel, given what was granted to it there.
    fn info(&self, granted: Option<&session_state::Granted>) -> ClientInfo {
        let identity = self.identity.as_deref();
        let user = granted.and_then(|granted| granted.user.as_ref());
        ClientInfo {
            client: self.client,
            user: user.unwrap_or(self.user()).clone(),
            conn_info: identity.and_then(|identity| identity.info.clone()),
            chan_info: granted.and_then(|granted| granted.info.clone()),
        }
    }

    /// Returns how others see the client in one of its channels.
    fn info_in(&self, at: usize) -> ClientInfo {
        self.info(self.subscriptions[at].granted())
    }

    /// Returns the deadline for connecting, if pings begin before the client is connected.
    fn connect_by(&self) -> Option<Moment> {
        self.rare.as_ref()?.connect_by
    }

    /// Returns the index of the subscription to a channel (`Ok`), or the index at which it would be inserted (`Err`).
    fn find(&self, channel: &str) -> Result<usize, usize> {
        self.subscriptions.binary_search_by(|one| one.channel.as_str().cmp(channel))
    }

    /// Returns the subscription to a channel, if it is live.
    fn find_live(&self, channel: &str) -> Option<&Subscription> {
        let at = self.find(channel).ok()?;
        self.subscriptions.get(at).filter(|one| one.is_live())
    }

    fn ticket(&mut self) -> Ticket {
        self.next_ticket = self.next_ticket.wrapping_add(1);
        Ticket(self.next_ticket)
    }

    /// Makes the next command wait for the outcome of an effect.
    fn wait(&mut self, ticket: Ticket, id: u32, awaited: session_state::PendingEffect) {
        self.pending = Some(Box::new(PendingCommand { ticket, id, awaited }));
    }

    /// Appends a command to the backlog.
    fn defer(&mut self, command: Command) {
        let backlog = self.backlog.get_or_insert_default();
        if backlog.push(command, &self.context.settings).is_err() {
            self.close(Disconnect::TOO_MANY_REQUESTS);
        }
    }

    /// Closes the session: it performs no command and sends nothing after this.
    fn close(&mut self, disconnect: Disconnect) {
        if self.phase == Phase::Closed {
            return;
        }
        self.write_close_message(&disconnect);
        self.flush();
        self.effects.push_back(Effect::Close(disconnect));
        self.phase = Phase::Closed;
        self.pending = None;
        self.backlog = None;
        self.loading = None;
        self.behind = None;
        self.renewals = None;
        self.tracking = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_small() {
        assert!(size_of::<Session>() <= 256, "{} bytes", size_of::<Session>());
        assert!(size_of::<Subscription>() <= 32, "{} bytes", size_of::<Subscription>());
    }
}
