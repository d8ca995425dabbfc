//! Random events in any order: the invariants of a session.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gateway_core::effect::{
    Denial, Effect, GoLive, Grant, Identity, Outcome, OutcomeResult, PresenceStats, Renewal, Resolved,
    ServerSubscription, Ticket, Verified,
};
use gateway_core::history::HistoryPage;
use gateway_core::map::StatePage;
use gateway_core::session::{
    Application, ConnectionKind, Context, JOINS_MAX, Opening, Session, SessionSettings,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use shared::channel::Channel;
use shared::command::Since;
use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::framing::{Message, MessageKind};
use shared::id::{ClientId, UserId};
use shared::moment::Moment;
use shared::protocol::Protocol;
use shared::protocol::centrifuge::json::CentrifugeJson;
use shared::protocol::raw::{MessageHandling, Raw};
use shared::publication::Payload;
use shared::push::UnsubscribeCode;

use crate::support::{channel, context, page};

const CHANNELS: [&str; 6] = ["a", "$b", "log:c", "recover:d", "shut:e", "poll:f"];

#[derive(Clone, Debug)]
enum Event {
    /// One message with these commands, each with its own id.
    Says(Vec<&'static str>),
    SaysBytes(MessageKind, Vec<u8>),
    /// The outcome of one of the awaited effects: of the right kind, or of any other.
    Answers(Index, Kind, bool),
    AnswersNothing(u32, Kind),
    WaitsUntilWoken,
    Waits(u64),
    Unsubscribes(&'static str, UnsubscribeCode),
    Subscribes(&'static str, bool),
    Refreshes(Kind),
    TransportPong,
    Disconnects,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Good,
    Expiring,
    Refused(ErrorCode),
    Closed,
}

/// `ID` stands for a number that is used only once.
const COMMANDS: [&str; 27] = [
    r#"{"id":ID,"connect":{}}"#,
    r#"{"id":ID,"subscribe":{"channel":"a"}}"#,
    r#"{"id":ID,"subscribe":{"channel":"$b","token":"t"}}"#,
    r#"{"id":ID,"subscribe":{"channel":"log:c","token":"t","positioned":true}}"#,
    r#"{"id":ID,"subscribe":{"channel":"log:c","recover":true,"epoch":"life","offset":2}}"#,
    r#"{"id":ID,"subscribe":{"channel":"recover:d","recover":true,"epoch":"old","offset":9,"flag":2}}"#,
    r#"{"id":ID,"subscribe":{"channel":"shut:e"}}"#,
    r#"{"id":ID,"subscribe":{"channel":""}}"#,
    r#"{"id":ID,"unsubscribe":{"channel":"a"}}"#,
    r#"{"id":ID,"unsubscribe":{"channel":"log:c"}}"#,
    r#"{"id":ID,"publish":{"channel":"a","data":1}}"#,
    r#"{"id":ID,"publish":{"channel":"log:c","data":{}}}"#,
    r#"{"id":ID,"history":{"channel":"log:c","limit":5,"since":{"offset":1,"epoch":"life"}}}"#,
    r#"{"id":ID,"presence":{"channel":"log:c"}}"#,
    r#"{"id":ID,"presence_stats":{"channel":"log:c"}}"#,
    r#"{"id":ID,"refresh":{"token":"t"}}"#,
    r#"{"id":ID,"sub_refresh":{"channel":"$b","token":"t"}}"#,
    r#"{"id":ID,"subscribe":{"channel":"poll:f","type":4}}"#,
    r#"{"id":ID,"sub_refresh":{"channel":"poll:f","type":1,"track":[{"items":[{"key":"k"},{"key":"l"}]}],"untrack":["l"]}}"#,
    r#"{"id":ID,"sub_refresh":{"channel":"poll:f","type":2,"untrack":["k"]}}"#,
    r#"{"id":ID,"unsubscribe":{"channel":"poll:f"}}"#,
    r#"{"id":ID,"rpc":{"method":"m"}}"#,
    r#"{"send":{"data":1}}"#,
    r#"{"id":ID,"ping":{}}"#,
    r#"{"id":ID,"connect":{"subs":{"a":{},"recover:d":{"recover":true,"epoch":"life","offset":2}}}}"#,
    "{}",
    "not a command",
];

/// The part of [`COMMANDS`] that never closes a connected client by itself.
const HARMLESS: std::ops::Range<usize> = 1..7;

fn commands() -> impl Strategy<Value = Vec<&'static str>> {
    let harmless = select([&COMMANDS[HARMLESS], &COMMANDS[8..22]].concat());
    vec(prop_oneof![40 => harmless, 1 => select(COMMANDS.to_vec())], 1..8)
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        12 => Just(Kind::Good),
        2 => Just(Kind::Expiring),
        2 => select(ErrorCode::ALL.to_vec()).prop_map(Kind::Refused),
        1 => Just(Kind::Closed),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let message_kind = select(vec![MessageKind::Text, MessageKind::Binary]);
    let code = vec![UnsubscribeCode::Server, UnsubscribeCode::InsufficientState, UnsubscribeCode::Expired];
    let right = prop_oneof![30 => Just(true), 1 => Just(false)];
    prop_oneof![
        20 => commands().prop_map(Event::Says),
        1 => (message_kind, vec(any::<u8>(), 0..40)).prop_map(|(kind, bytes)| Event::SaysBytes(kind, bytes)),
        40 => (any::<Index>(), kind(), right).prop_map(|(at, kind, right)| Event::Answers(at, kind, right)),
        2 => (any::<u32>(), kind()).prop_map(|(ticket, kind)| Event::AnswersNothing(ticket, kind)),
        2 => Just(Event::WaitsUntilWoken),
        2 => (0..20_000_u64).prop_map(Event::Waits),
        3 => (select(CHANNELS.to_vec()), select(code)).prop_map(|(name, code)| Event::Unsubscribes(name, code)),
        2 => (select(CHANNELS.to_vec()), any::<bool>()).prop_map(|(name, recover)| Event::Subscribes(name, recover)),
        1 => kind().prop_map(Event::Refreshes),
        1 => Just(Event::TransportPong),
        1 => Just(Event::Disconnects),
    ]
}

/// The hub's state of a channel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Joining,
    Live,
}

/// A session, and everything that was observed of it.
struct Observed {
    session: Session,
    now: Moment,
    is_json: bool,
    answers_pings: bool,
    next_id: u32,
    awaited: Vec<Effect>,
    tickets: BTreeSet<Ticket>,
    /// The ids of commands, and whether they were answered.
    replied: BTreeMap<u32, bool>,
    places: BTreeMap<Channel, Place>,
    subscribe_ids: BTreeMap<u32, &'static str>,
    /// The channels in which the client was announced.
    announced: BTreeSet<Channel>,
    /// The channels in whose presence the client may be seen, and in which it was not announced.
    visible: BTreeSet<Channel>,
    closed: bool,
}

impl Observed {
    fn open(protocol: Arc<dyn Protocol>, is_json: bool) -> Self {
        // Every publication fills a piece.
        let settings = SessionSettings {
            errors_max: 20,
            queued_commands_max: 40,
            reply_bytes_max: 1,
            ..SessionSettings::default()
        };
        let application = Application { rpc: true, messages: true, events: true };
        let mut context = Context { settings, application, ..context() };
        for name in ["log", "recover"] {
            if let Some(options) = context.rules.namespaces.get_mut(name) {
                Arc::make_mut(options).join_leave = true;
            }
        }
        let opening = Opening {
            client: ClientId::from_random(7),
            protocol,
            context: Arc::new(context),
            connection_kind: ConnectionKind::Bidirectional,
            connect: None,
            seed: 3,
        };
        let now = Moment(5_000);
        let session = Session::open(now, opening);
        let mut observed = Self {
            session,
            now,
            is_json,
            answers_pings: true,
            next_id: 1,
            awaited: Vec::new(),
            tickets: BTreeSet::new(),
            replied: BTreeMap::new(),
            places: BTreeMap::new(),
            subscribe_ids: BTreeMap::new(),
            announced: BTreeSet::new(),
            visible: BTreeSet::new(),
            closed: false,
        };
        observed.look();
        observed
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Says(commands) => self.says(&commands),
            Event::SaysBytes(kind, data) => {
                // The session closes, or publishes the message (in the bare protocol).
                self.session.handle_message(self.now, Message { kind, data: &data });
            }
            Event::Answers(at, kind, right) => {
                if !self.awaited.is_empty() {
                    let effect = self.awaited.remove(at.index(self.awaited.len()));
                    let (ticket, result) = outcome(&effect, self.now, kind);
                    let result = if right { result } else { other_than(&result) };
                    self.session.handle_outcome(self.now, Outcome { ticket, result });
                }
            }
            Event::AnswersNothing(ticket, kind) => {
                let ticket = Ticket(ticket | 0x8000_0000);
                let result = outcome(
                    &Effect::Publish {
                        ticket,
                        channel: channel("a"),
                        publication: Box::new(page(&[1], 1).publications.remove(0)),
                        retention: Default::default(),
                    },
                    self.now,
                    kind,
                )
                .1;
                self.session.handle_outcome(self.now, Outcome { ticket, result });
            }
            Event::WaitsUntilWoken => {
                if let Some(next) = self.session.poll_timeout() {
                    self.now = self.now.max(next);
                    self.session.handle_timeout(self.now);
                    let after = self.session.poll_timeout();
                    assert!(after.is_none_or(|after| after > next), "it wakes for nothing");
                }
            }
            Event::Waits(ms) => {
                self.now = Moment(self.now.0 + ms);
                self.session.handle_timeout(self.now);
            }
            Event::Unsubscribes(name, code) => self.session.handle_unsubscribe(&channel(name), code),
            Event::Subscribes(name, recover) => {
                let since = recover.then(|| Since { offset: 2, epoch: "life".into() });
                let subscription = ServerSubscription { channel: name.into(), ..Default::default() };
                // The result does not matter: its effects are checked.
                let _ = self.session.handle_subscribe(self.now, subscription, since);
            }
            Event::Refreshes(kind) => {
                let renewal = renewal(self.now, kind).unwrap_or(Renewal::Expired);
                self.session.handle_refresh(self.now, renewal);
            }
            Event::TransportPong => self.session.handle_transport_pong(self.now),
            Event::Disconnects => self.session.handle_disconnect(Disconnect::SHUTDOWN),
        }
        self.look();
    }

    fn says(&mut self, commands: &[&'static str]) {
        let mut lines = Vec::new();
        for command in commands {
            let id = self.next_id;
            self.next_id += 1;
            if self.is_json && command.contains("ID") {
                self.replied.insert(id, false);
                if let Some(name) = CHANNELS.iter().find(|name| {
                    command.contains("\"subscribe\"") && command.contains(&format!("\"{name}\""))
                }) {
                    self.subscribe_ids.insert(id, name);
                }
            }
            lines.push(command.replace("ID", &id.to_string()));
        }
        let message = lines.join("\n");
        self.session.handle_message(self.now, Message { kind: MessageKind::Text, data: message.as_bytes() });
    }

    /// Takes the session's effects and checks each.
    fn look(&mut self) {
        let mut pinged = false;
        while let Some(effect) = self.session.poll_effect() {
            assert!(!self.closed, "{effect:?} after the close");
            match &effect {
                Effect::Send(message) => pinged |= self.reads(&message.data),
                Effect::Ping => pinged = true,
                Effect::Close(_) => self.closed = true,
                Effect::Join(join) => {
                    if join.presence.is_some() {
                        self.visible.insert(join.channel.clone());
                    }
                    let before = self.places.insert(join.channel.clone(), Place::Joining);
                    let reads_on = join.history.as_ref().is_some_and(|history| history.part);
                    let expected = reads_on.then_some(Place::Joining);
                    assert_eq!(before, expected, "{} is joined twice", join.channel);
                }
                Effect::GoLive(GoLive { channel, .. }) => {
                    let before = self.places.insert(channel.clone(), Place::Live);
                    assert_eq!(before, Some(Place::Joining), "{channel} goes live without a join");
                }
                Effect::Leave { channel, ended } => match self.places.remove(channel) {
                    None => panic!("{channel} is left without a join"),
                    Some(Place::Live) => assert!(ended.is_some(), "{channel} was live"),
                    // A client may be told of its subscription before it goes live, or not at all.
                    Some(Place::Joining) => {}
                },
                Effect::UpdatePresence { channel, .. } => {
                    assert!(self.places.contains_key(channel), "{channel} is not joined");
                }
                Effect::AnnounceJoined { channel, .. } => {
                    assert!(self.places.contains_key(channel), "{channel} is not joined");
                    assert!(self.announced.insert(channel.clone()), "{channel} is announced twice");
                    self.visible.remove(channel);
                }
                Effect::AnnounceLeft { channel, .. } => {
                    assert!(!self.places.contains_key(channel), "{channel} is still joined");
                    assert!(self.announced.remove(channel), "{channel} was not announced");
                }
                Effect::Follow { channel, .. } | Effect::Unfollow { channel, .. } => {
                    assert_eq!(self.places.get(channel), Some(&Place::Live), "{channel} is not live");
                }
                _ => {}
            }
            if let Some(ticket) = ticket(&effect) {
                assert!(self.tickets.insert(ticket), "{ticket:?} is used twice");
                self.awaited.push(effect);
            }
        }
        // Beside the joins, room and renewals are awaited. Effects that no longer matter may be left.
        let others = 2 + 2 * CHANNELS.len();
        assert!(self.awaited.len() <= JOINS_MAX + others || self.closed, "too much is awaited");
        assert_eq!(self.session.is_closed(), self.closed);
        assert_eq!(self.session.poll_timeout().is_none(), self.closed);
        let known: Vec<&Channel> = self.session.subscriptions().collect();
        let joined: Vec<&Channel> = self.places.keys().collect();
        assert_eq!(known, joined, "the session and the hub know the same subscriptions");
        if self.closed {
            let left: BTreeSet<Channel> =
                self.session.take_announced().into_iter().map(|(channel, _)| channel).collect();
            let mut known = std::mem::take(&mut self.announced);
            assert!(left.is_superset(&known), "{left:?} of {known:?}");
            known.extend(std::mem::take(&mut self.visible));
            assert!(left.is_subset(&known), "{left:?} are more than others know of");
            let ended: BTreeSet<Channel> =
                self.session.take_ended().into_iter().map(|(channel, _)| channel).collect();
            let live = self.places.iter().filter(|(_, place)| **place == Place::Live);
            assert!(
                live.into_iter().all(|(channel, _)| ended.contains(channel)),
                "only {ended:?} have ended"
            );
        }
        if pinged && self.answers_pings && !self.closed {
            if self.is_json {
                self.session.handle_message(self.now, Message { kind: MessageKind::Text, data: b"{}" });
            } else {
                self.session.handle_transport_pong(self.now);
            }
            self.look();
        }
    }

    /// Reads a message. Returns whether there was a ping in it.
    fn reads(&mut self, message: &[u8]) -> bool {
        if !self.is_json {
            return false;
        }
        let mut pinged = false;
        for line in std::str::from_utf8(message).unwrap().split('\n') {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            pinged |= line == "{}";
            let Some(id) = value.get("id").and_then(serde_json::Value::as_u64) else { continue };
            let id = u32::try_from(id).unwrap();
            let before = self.replied.insert(id, true);
            assert_eq!(before, Some(false), "{id} is answered twice or was never asked");
            if value.get("subscribe").is_some() {
                let place = self.places.get(self.subscribe_ids[&id]);
                assert_eq!(place, Some(&Place::Joining), "it is live before its reply");
            }
        }
        pinged
    }

    /// Answers all awaited effects, until there are none.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.closed || self.awaited.is_empty() {
                break;
            }
            let effect = self.awaited.remove(0);
            let (ticket, result) = outcome(&effect, self.now, Kind::Good);
            self.session.handle_outcome(self.now, Outcome { ticket, result });
            self.look();
        }
    }
}

fn ticket(effect: &Effect) -> Option<Ticket> {
    match effect {
        Effect::Authenticate { ticket, .. }
        | Effect::Authorize { ticket, .. }
        | Effect::Reauthenticate { ticket, .. }
        | Effect::SignIn { ticket, .. }
        | Effect::Resolve { ticket, .. }
        | Effect::Publish { ticket, .. }
        | Effect::ChangeKey { ticket, .. }
        | Effect::ReadState { ticket, .. }
        | Effect::History { ticket, .. }
        | Effect::Presence { ticket, .. }
        | Effect::PresenceStats { ticket, .. }
        | Effect::Verify { ticket, .. }
        | Effect::Refresh { ticket }
        | Effect::SubRefresh { ticket, .. }
        | Effect::Message { ticket, .. }
        | Effect::Event { ticket, .. }
        | Effect::Rpc { ticket, .. }
        | Effect::ChangeDelivery { ticket, .. }
        | Effect::AwaitRoom { ticket } => Some(*ticket),
        Effect::Join(join) => Some(join.ticket),
        Effect::Send(_)
        | Effect::Begin(_)
        | Effect::Ping
        | Effect::Close(_)
        | Effect::CloseOthers
        | Effect::GoLive(_)
        | Effect::Leave { .. }
        | Effect::Follow { .. }
        | Effect::Unfollow { .. }
        | Effect::UpdatePresence { .. }
        | Effect::AnnounceJoined { .. }
        | Effect::AnnounceLeft { .. }
        | Effect::ShowSubscriber(_)
        | Effect::HideSubscriber(_) => None,
    }
}

fn outcome(effect: &Effect, now: Moment, kind: Kind) -> (Ticket, OutcomeResult) {
    let user = UserId::new("ann");
    let expires = matches!(kind, Kind::Expiring).then_some(Moment(now.0 + 10_000));
    let refusal = match kind {
        Kind::Good | Kind::Expiring => None,
        Kind::Refused(error) => Some(Denial::of(error)),
        Kind::Closed => Some(Denial::Disconnect(Disconnect::INVALID_TOKEN)),
    };
    let error = match kind {
        Kind::Good | Kind::Expiring => None,
        Kind::Refused(error) => Some(error),
        Kind::Closed => Some(ErrorCode::Internal),
    };
    let failed = |error: Option<ErrorCode>| error.map_or(Ok(()), Err);
    let read: HistoryPage = page(&[3, 4], 4);
    let result = match effect {
        Effect::Authenticate { .. } | Effect::Reauthenticate { .. } | Effect::SignIn { .. } => {
            // A client that the server renews is also subscribed by it.
            let refreshed_by_server = expires.is_some();
            let to = |name: &&str| ServerSubscription { channel: (*name).into(), ..Default::default() };
            let subs = ["log:c", "recover:d"].iter().filter(|_| refreshed_by_server).map(to).collect();
            let identity = Identity { user, expires, refreshed_by_server, subs, ..Identity::default() };
            OutcomeResult::Authenticated(refusal.map_or(Ok(identity), Err))
        }
        Effect::Authorize { .. } => {
            let refreshed_by_server = now.0.is_multiple_of(2);
            let grant = Grant { user, expires, refreshed_by_server, ..Grant::default() };
            OutcomeResult::Authorized(refusal.map_or(Ok(grant), Err))
        }
        Effect::Resolve { .. } => {
            let resolved =
                Resolved { channel: "log:a".into(), grant: Grant { user, expires, ..Grant::default() } };
            OutcomeResult::Resolved(refusal.map_or(Ok(resolved), Err))
        }
        Effect::Refresh { .. } | Effect::SubRefresh { .. } => OutcomeResult::Renewed(renewal(now, kind)),
        Effect::Event { .. } => OutcomeResult::Handled(refusal.map_or(Ok(Box::default()), Err)),
        Effect::Rpc { .. } | Effect::ChangeDelivery { .. } => {
            OutcomeResult::Rpc(refusal.map_or(Ok(Payload::json("1")), Err))
        }
        Effect::Message { .. } => OutcomeResult::Messaged(refusal.map_or(Ok(Some(Payload::json("1"))), Err)),
        Effect::Join(join) => OutcomeResult::Joined(failed(error).map(|()| {
            let since = join.history.as_ref()?.filter.since.unwrap_or(0);
            let publications = read.publications.into_iter().filter(|one| one.offset() > since);
            Some(HistoryPage { publications: publications.collect(), ..read })
        })),
        Effect::AwaitRoom { .. } => OutcomeResult::Room,
        Effect::ReadState { filter, .. } => OutcomeResult::State(failed(error).map(|()| StatePage {
            entries: read.publications.clone(),
            top: Some(read.top),
            cursor: if filter.cursor.is_empty() { "k".into() } else { "".into() },
        })),
        Effect::History { .. } => OutcomeResult::History(failed(error).map(|()| read)),
        Effect::Presence { .. } => OutcomeResult::Presence(failed(error).map(|()| Vec::new())),
        Effect::Verify { batches, .. } => OutcomeResult::Verified(failed(error).map(|()| {
            let items = batches.iter().map(|batch| batch.items.clone());
            items.map(|items| Verified { items, expires: Some(now) }).collect()
        })),
        Effect::PresenceStats { .. } => {
            OutcomeResult::PresenceStats(failed(error).map(|()| PresenceStats::default()))
        }
        _ => OutcomeResult::Published(failed(error).map_err(Denial::of)),
    };
    (ticket(effect).unwrap(), result)
}

fn renewal(now: Moment, kind: Kind) -> Result<Renewal, Denial> {
    let stays = |expires| Ok(Renewal::Stays { expires, info: None, meta: None });
    match kind {
        Kind::Good => stays(None),
        Kind::Expiring => stays(Some(Moment(now.0 + 10_000))),
        Kind::Refused(error) => Err(Denial::of(error)),
        Kind::Closed => Ok(Renewal::Expired),
    }
}

fn other_than(result: &OutcomeResult) -> OutcomeResult {
    match result {
        OutcomeResult::Published(_) => OutcomeResult::Presence(Ok(Vec::new())),
        _ => OutcomeResult::Published(Ok(())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_to_a_json_client_the_rules_hold(events in vec(event(), 0..80), ponging: bool) {
        let mut observed = Observed::open(Arc::new(CentrifugeJson::default()), true);
        observed.answers_pings = ponging;
        observed.says(&[COMMANDS[0]]);
        observed.look();
        for event in events {
            observed.happens(event);
        }
        observed.settle();
        if observed.session.is_connected() {
            let unanswered: Vec<_> = observed.replied.iter().filter(|(_, replied)| !**replied).collect();
            prop_assert!(unanswered.is_empty(), "never answered: {:?}", unanswered);
            prop_assert!(observed.places.values().all(|place| *place == Place::Live));
            prop_assert!(!observed.session.is_congested());
        }
    }

    #[test]
    fn whatever_happens_to_a_raw_client_the_rules_hold(
        events in vec(event(), 0..60),
        name in select(CHANNELS.to_vec()),
        recovers: bool,
        messages in select(vec![MessageHandling::Publish, MessageHandling::Ask, MessageHandling::Refuse]),
    ) {
        let recover = recovers.then(|| Since { offset: 2, epoch: "life".into() });
        let raw = Raw::new(name.into(), "".into(), recover).taking(messages);
        let mut observed = Observed::open(Arc::new(raw), false);
        for event in events {
            observed.happens(event);
        }
        observed.settle();
    }

    #[test]
    fn no_bytes_make_a_session_panic(messages in vec((any::<bool>(), vec(any::<u8>(), 0..200)), 0..20)) {
        let mut observed = Observed::open(Arc::new(CentrifugeJson::default()), true);
        observed.says(&[COMMANDS[0]]);
        observed.look();
        observed.settle();
        for (text, data) in messages {
            let kind = if text { MessageKind::Text } else { MessageKind::Binary };
            observed.session.handle_message(observed.now, Message { kind, data: &data });
            observed.look();
        }
    }
}

/// Without this test the properties above could also hold of sessions that close at once.
#[test]
fn a_long_conversation_stays_open_and_is_answered() {
    let mut observed = Observed::open(Arc::new(CentrifugeJson::default()), true);
    observed.says(&[COMMANDS[0]]);
    observed.look();
    for round in 0..8 {
        observed.says(&COMMANDS[HARMLESS]);
        observed.says(&COMMANDS[8..22]);
        observed.look();
        observed.settle();
        assert!(observed.session.is_connected(), "round {round}");
        assert!(observed.replied.values().all(|replied| *replied), "round {round}");
        observed.happens(Event::WaitsUntilWoken);
    }
    assert_eq!(observed.replied.len(), 1 + 8 * (HARMLESS.len() + 14));
}
