//! One client, from open to close: a state machine without a clock or a socket.
//!
//! Five verbs are all of it. What happens goes in through `handle_message`, `handle_outcome` and `handle_timeout`
//! (and what the server itself wants through `handle_subscribe`, `handle_unsubscribe`, `handle_refresh` and
//! `handle_disconnect`); what should be done comes
//! out of `poll_effect`, to be polled until it is empty after each of them; `poll_timeout` says when to call again.
//!
//! Commands are carried out in their order, one awaited effect at a time. The exception is a row of subscribe
//! commands, of which up to [`JOINS_MAX`] are in flight at once, so that a client with many subscriptions does not
//! pay a round trip for each.
//!
//! The files are named for the events: each `on_*.rs` holds what one of them starts and how that ends.

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
pub use context::{Application, Context, NoObserver, SessionObserver};
pub use on_change_delivery::CHANGE_DELIVERY;
pub use on_renewal::RENEWAL_RETRY;
pub use settings::{SessionSettings, SettingError};
pub use way::ConnectionWay;

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

mod backlog;
mod batch;
mod behind;
mod beside;
mod limits;
mod loading;
mod rights;
mod session_state;
mod terms;
mod way;

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

/// Most subscribe commands of one connection that are in flight at once.
pub const JOINS_MAX: usize = 16;

/// The id of a connect command that came with the request.
const CONNECT_ID: u32 = 1;
/// The least that a command takes on the wire: a masked frame of the bare endpoint without a payload.
const COMMAND_BYTES_MIN: usize = 6;
/// No token outlives this: a longer expiry is cut to it, and asked to be refreshed then. 365 days.
const EXPIRY_MAX: std::time::Duration = std::time::Duration::from_secs(365 * 24 * 3600);

/// A moment later than any timeout.
const NEVER: Moment = Moment(u64::MAX);

/// What a session begins with.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Unique over all nodes and time.
    pub client: ClientId,
    pub protocol: Arc<dyn Protocol>,
    pub context: Arc<Context>,
    pub way: ConnectionWay,
    /// The connect command, where the request that opened the connection says it all.
    pub connect: Option<Box<Connect>>,
    /// Random bits, for the moment of the first ping.
    pub seed: u64,
}

/// The state of one client's connection. Most connections are idle, so every byte counts: what is rare is boxed, and no
/// queue keeps memory while it is empty.
#[derive(Debug)]
pub struct Session {
    client: ClientId,
    context: Arc<Context>,
    protocol: Arc<dyn Protocol>,
    /// `None` for an anonymous client with nothing to remember.
    identity: Option<Box<Identity>>,
    /// Sorted by channel name.
    subscriptions: SmallVec<[Subscription; 1]>,
    effects: VecDeque<Effect>,
    /// Replies that will leave as one message.
    batch: Option<Box<ReplyBatch>>,
    pending: Option<Box<PendingCommand>>,
    backlog: Option<Box<Backlog>>,
    /// Subscriptions to channels that keep state by key, whose clients read that page by page.
    loading: Option<Box<Loadings>>,
    /// What is still to be read for the client, as it takes what it was sent.
    behind: Option<Box<BehindReaders>>,
    /// What the application is asked about, now and again.
    renewals: Option<Box<Renewals>>,
    /// Which keys of polled channels the client follows.
    tracking: Option<Box<Tracking>>,
    /// What few sessions have, or none for long.
    rare: Option<Box<RareSessionState>>,
    limits: SessionLimits,
    /// Until connected: when it is too late for that, unless pings do not wait for it. Then: when the next ping is due, or the pong to the last one.
    deadline: Moment,
    /// When the first token has been expired for too long, of the connection or of a subscription.
    expiry: Moment,
    /// From the connect command's success to the first ping.
    first_ping_ms: u32,
    next_ticket: u32,
    /// How many subscriptions are not live yet.
    joining: u16,
    phase: Phase,
    awaits_pong: bool,
    /// Nothing comes from the client after its connect command.
    one_way: bool,
    /// It follows what it asked for as it connected, and nothing else, ever.
    fixed: bool,
    /// Every subscription is asked about.
    asks_of_all: bool,
    /// The client comes into parts of the server and goes out of them, on whose channels others hang.
    has_rooms: bool,
    /// Something has come from the client since the last ping.
    heard: bool,
    /// Pings that no pong has answered.
    pongs_pending: u8,
    /// When the last ping was made, in milliseconds: what is left of it beyond 32 bits.
    pinged_ms: u32,
    /// Bytes of long answers since the client was last known to have taken all.
    sent_bytes: u32,
}

/// What a session holds in a box of its own, and only if it has any of it.
#[derive(Debug, Default)]
struct RareSessionState {
    /// Until connected: what the client is to be told of the way.
    way: ConnectionWay,
    /// Where pings do not wait for it: when it is too late for the connect command's success.
    connect_by: Option<Moment>,
    events: EventLimit,
    /// Channels that the client comes back to, while it is on its way there.
    returning: Vec<Channel>,
}

impl Session {
    /// Opens a session. Its first effect is what the protocol says as a connection opens.
    pub fn open(now: Moment, opening: Opening) -> Self {
        let Opening { client, protocol, context, way, connect, seed } = opening;
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
            one_way: matches!(way, ConnectionWay::OneWay { .. }),
            fixed: false,
            asks_of_all: false,
            has_rooms: false,
            rare: (!matches!(way, ConnectionWay::Both))
                .then(|| Box::new(RareSessionState { way, ..RareSessionState::default() })),
            limits: SessionLimits::default(),
            deadline,
            expiry: NEVER,
            first_ping_ms,
            next_ticket: 0,
            joining: 0,
            phase: Phase::Opening,
            awaits_pong: false,
            heard: false,
            pongs_pending: 0,
            pinged_ms: 0,
            sent_bytes: 0,
        };
        session.accept(now, commands);
        session
    }

    /// For wires that have a way of their own to say what a client may: every subscription is asked about
    /// ([`Effect::Authorize`]), whatever its channel's options allow.
    #[must_use]
    pub fn asking_of_all(self) -> Self {
        Self { asks_of_all: true, ..self }
    }

    /// For wires on which the other side is asked for a sign of life from the beginning, and not only once it is connected.
    /// The first ping comes after at most seven eighths of an interval: libraries wait for one from when they were answered.
    #[must_use]
    pub fn pinging_at_once(mut self, now: Moment) -> Self {
        self.rare.get_or_insert_default().connect_by = Some(self.deadline);
        let (first, half) = (u64::from(self.first_ping_ms), self.context.settings.ping_interval_ms / 2);
        self.deadline = now + Duration::from_millis(first - first.saturating_sub(half) / 4);
        self
    }

    /// For wires on which one connection comes into several parts of the server, each with rooms in it: a refused
    /// connect command leaves the connection as it was, and who leaves a part leaves its rooms.
    #[must_use]
    pub fn with_rooms(self) -> Self {
        Self { has_rooms: true, ..self.asking_of_all() }
    }

    /// Returns what is to be done next, in order. `None`: nothing until something happens again.
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

    /// Replaces the context, if it is another one. What was granted before stays granted.
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

    /// Returns the user of the connection, who is anonymous until it is connected.
    pub fn user(&self) -> &UserId {
        static ANONYMOUS: UserId = UserId::ANONYMOUS;
        self.identity.as_ref().map_or(&ANONYMOUS, |identity| &identity.user)
    }

    /// Returns what the token or the connect hook says of the client for the application's own servers.
    pub fn meta(&self) -> Option<&Bytes> {
        self.identity.as_ref()?.meta.as_ref()
    }

    /// Returns what the token says of the client for those who are told who follows which topics.
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

    /// Returns how many bytes are kept of commands that wait for their turn, and of one that has come in part.
    pub fn queued_bytes(&self) -> usize {
        self.backlog.as_ref().map_or(0, |backlog| backlog.size().1) + self.protocol.held_bytes()
    }

    /// Returns how many commands are in flight or wait for their turn.
    pub fn unfinished(&self) -> usize {
        let waiting = self.backlog.as_ref().map_or(0, |backlog| backlog.size().0);
        waiting + usize::from(self.pending.is_some()) + usize::from(self.joining)
    }

    /// Returns about as many bytes as can be read at once without more commands than may wait for earlier ones: a client is only
    /// to blame for those that it sends after it is no longer read from.
    pub fn bytes_wanted(&self) -> usize {
        let SessionSettings { queued_commands_max, queued_bytes_max, .. } = self.context.settings;
        let (commands, bytes) = self.backlog.as_ref().map_or((0, 0), |backlog| backlog.size());
        let commands_left = (queued_commands_max as usize).saturating_sub(commands);
        let bytes_left = (queued_bytes_max as usize).saturating_sub(bytes);
        commands_left.saturating_mul(COMMAND_BYTES_MIN).min(bytes_left)
    }

    /// Returns the channels that have been joined and not left, those included whose join is not answered yet. After the
    /// close they are what the shell has to leave.
    pub fn subscriptions(&self) -> impl Iterator<Item = &Channel> {
        let joined = self
            .subscriptions
            .iter()
            .filter(|one| !matches!(one.stage, session_state::JoiningStage::Authorizing(_)));
        joined.map(|one| &one.channel)
    }

    /// Returns whether publications of a channel are delivered to the client, or will be once it is back there.
    pub fn is_in(&self, channel: &Channel) -> bool {
        let returning = || self.rare.as_ref().is_some_and(|rare| rare.returning.contains(channel));
        self.find_live(channel.as_str()).is_some() || returning()
    }

    /// Returns whether a publication of one of its channels is for this client.
    pub fn is_meant(&self, publication: &Publication) -> bool {
        let only = publication.only.as_deref();
        publication.except.as_deref() != Some(&self.client)
            && only.is_none_or(|only| only.includes(self.client, |channel| self.is_in(channel)))
    }

    /// Returns what others see of the client in a channel that has granted it this.
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

    /// Returns what others see of the client in one of its channels.
    fn info_in(&self, at: usize) -> ClientInfo {
        self.info(self.subscriptions[at].granted())
    }

    /// Returns when it is too late to connect, where pings do not wait for that.
    fn connect_by(&self) -> Option<Moment> {
        self.rare.as_ref()?.connect_by
    }

    /// Returns where the subscription to a channel is (`Ok`), or where it would be (`Err`).
    fn find(&self, channel: &str) -> Result<usize, usize> {
        self.subscriptions.binary_search_by(|one| one.channel.as_str().cmp(channel))
    }

    /// Returns the subscription to a channel, if publications are delivered.
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

    /// Keeps a command for later.
    fn defer(&mut self, command: Command) {
        let backlog = self.backlog.get_or_insert_default();
        if backlog.push(command, &self.context.settings).is_err() {
            self.close(Disconnect::TOO_MANY_REQUESTS);
        }
    }

    /// Closes the session: nothing is done or said after this.
    fn close(&mut self, disconnect: Disconnect) {
        if self.phase == Phase::Closed {
            return;
        }
        self.say_last_words(&disconnect);
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
