//! A client for tests: it speaks JSON, and the effects of its session come as lines of text.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use gateway_core::channel_rules::{ChannelOptions, ChannelRules, SubscriptionType};
use gateway_core::effect::{
    Denial, Effect, Ended, GoLive, Grant, Identity, Outcome, OutcomeResult, PublishedSubscriber, Ticket,
};
use gateway_core::history::HistoryPage;
use gateway_core::map::{KeyAction, MapMode, MapOptions, StatePage};
use gateway_core::newest::{DeliveryMode, NewestOptions, NewestTerms};
use gateway_core::poll::PollOptions;
use gateway_core::session::{
    Application, ConnectionKind, Context, NoObserver, Opening, Session, SessionSettings,
};
use shared::channel::Channel;
use shared::command::Connect;
use shared::error::ErrorCode;
use shared::framing::{Message, MessageKind};
use shared::id::{ClientId, UserId};
use shared::moment::Moment;
use shared::position::{Epoch, StreamPosition};
use shared::protocol::Protocol;
use shared::protocol::centrifuge::json::CentrifugeJson;
use shared::publication::{Keyed, Payload, Publication};

pub(crate) const CLIENT: &str = "00000000-0000-4000-8000-000000000007";

pub(crate) struct Client {
    pub(crate) session: Session,
    pub(crate) now: Moment,
    /// Effects whose outcome is awaited, with the channel they concern.
    awaited: VecDeque<(Ticket, String)>,
    /// The reason of each leave.
    pub(crate) ended: Vec<Option<Ended>>,
}

impl Client {
    pub(crate) fn open(context: Context) -> Self {
        Self::speaking(Arc::new(CentrifugeJson::default()), context)
    }

    pub(crate) fn speaking(protocol: Arc<dyn Protocol>, context: Context) -> Self {
        Self::coming(ConnectionKind::Bidirectional, protocol, context)
    }

    pub(crate) fn coming(
        connection_kind: ConnectionKind,
        protocol: Arc<dyn Protocol>,
        context: Context,
    ) -> Self {
        Self::that_asks(connection_kind, protocol, context, None)
    }

    /// A client whose request says everything.
    pub(crate) fn that_asks(
        connection_kind: ConnectionKind,
        protocol: Arc<dyn Protocol>,
        context: Context,
        connect: Option<Box<Connect>>,
    ) -> Self {
        let now = Moment(1_000_000);
        let client = ClientId::from_random(7);
        let opening =
            Opening { client, protocol, context: Arc::new(context), connection_kind, connect, seed: 0 };
        Self { session: Session::open(now, opening), now, awaited: VecDeque::new(), ended: Vec::new() }
    }

    /// A client that is connected without a user.
    pub(crate) fn anonymous() -> Self {
        Self::connected(context(), Identity::default())
    }

    /// A client that is connected as this user.
    pub(crate) fn user(user: &str) -> Self {
        Self::connected(context(), Identity { user: UserId::new(user), ..Identity::default() })
    }

    pub(crate) fn connected(context: Context, identity: Identity) -> Self {
        let mut client = Self::open(context);
        client.says(r#"{"id":1,"connect":{}}"#);
        assert_eq!(client.did(), ["authenticate "]);
        client.answer(OutcomeResult::Authenticated(Ok(identity)));
        assert!(client.did()[0].starts_with(r#"< {"id":1,"connect":{"#));
        client
    }

    /// Subscribes without a token, to a channel that keeps nothing.
    pub(crate) fn subscribe(&mut self, channel: &str) {
        self.says(&format!(r#"{{"id":2,"subscribe":{{"channel":"{channel}"}}}}"#));
        self.did();
        self.answer(joined(None));
        assert!(self.did().contains(&format!("live {channel}")));
    }

    /// Subscribes with a token that has this grant.
    pub(crate) fn subscribe_with_token(&mut self, channel: &str, grant: Grant) {
        self.says(&format!(r#"{{"id":2,"subscribe":{{"channel":"{channel}","token":"t"}}}}"#));
        assert_eq!(self.did(), [format!("authorize {channel} t")]);
        self.answer(OutcomeResult::Authorized(Ok(grant)));
        self.did();
        self.answer(joined(None));
        assert!(self.did().contains(&format!("live {channel}")));
    }

    /// Sends one text message.
    pub(crate) fn says(&mut self, message: &str) {
        self.session.handle_message(self.now, Message { kind: MessageKind::Text, data: message.as_bytes() });
    }

    /// Answers the oldest awaited effect.
    pub(crate) fn answer(&mut self, result: OutcomeResult) {
        let (ticket, _) = self.awaited.pop_front().expect("no effect is awaited");
        self.session.handle_outcome(self.now, Outcome { ticket, result });
    }

    /// Answers the effect that is awaited for this channel.
    pub(crate) fn answer_for(&mut self, channel: &str, result: OutcomeResult) {
        let at = self.awaited.iter().position(|(_, about)| about == channel).expect("no effect is awaited");
        let (ticket, _) = self.awaited.remove(at).unwrap();
        self.session.handle_outcome(self.now, Outcome { ticket, result });
    }

    /// Lets time pass, and wakes the session whenever it asked for it.
    pub(crate) fn waits(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(next) = self.session.poll_timeout().filter(|next| *next <= until) {
            self.now = self.now.max(next);
            self.session.handle_timeout(self.now);
            assert!(self.session.poll_timeout() != Some(next), "it wakes for nothing");
        }
        self.now = until;
    }

    pub(crate) fn waits_ms(&mut self, ms: u64) {
        self.waits(Duration::from_millis(ms));
    }

    /// Returns the session's effects since the last call, a line for each.
    pub(crate) fn did(&mut self) -> Vec<String> {
        let effects: Vec<Effect> = std::iter::from_fn(|| self.session.poll_effect()).collect();
        effects.into_iter().map(|effect| self.tell(effect)).collect()
    }

    fn tell(&mut self, effect: Effect) -> String {
        match effect {
            Effect::Send(message) => format!("< {}", String::from_utf8_lossy(&message.data)),
            Effect::Begin(header) => match header {
                None => "begin".to_owned(),
                Some(header) => format!("begin with {}: {}", header.name, header.value),
            },
            Effect::Ping => "ping".to_owned(),
            Effect::Close(disconnect) => format!("close {}", disconnect.code),
            Effect::Authenticate { ticket, connect } => {
                self.ask(ticket, "");
                format!("authenticate {}", connect.token)
            }
            Effect::Reauthenticate { ticket, token } => {
                self.ask(ticket, "");
                format!("reauthenticate {token}")
            }
            Effect::Resolve { ticket, channel, question } => {
                self.ask(ticket, "");
                format!("resolve {channel} {}", String::from_utf8_lossy(&question.bytes))
            }
            Effect::SignIn { ticket, token, .. } => {
                self.ask(ticket, "");
                format!("sign in {token}")
            }
            Effect::Authorize { ticket, channel, token, .. } => {
                self.ask(ticket, channel.as_str());
                format!("authorize {channel} {token}")
            }
            Effect::Join(join) => {
                self.ask(join.ticket, join.channel.as_str());
                let mut line = format!("join {}", join.channel);
                if let Some(history) = join.history.map(|history| history.filter) {
                    line += if history.reverse { " newest" } else { "" };
                    line += &history.since.map_or(String::new(), |since| format!(" since {since}"));
                    line += &format!(" limit {}", history.limit);
                }
                line += if join.terms.positioned { " positioned" } else { "" };
                line += if join.terms.joins_and_leaves { " joins" } else { "" };
                line += if join.terms.patches { " delta" } else { "" };
                line += if join.terms.filter.is_some() { " filtered" } else { "" };
                line += if join.presence.is_some() { " present" } else { "" };
                line += if join.members { " among" } else { "" };
                line += &join.terms.latest.map_or(String::new(), |latest| told(Some(latest)));
                line += if join.newest.is_some() { " with the newest of each key" } else { "" };
                line
            }
            Effect::GoLive(GoLive { channel, position, has_last, terms, .. }) => {
                let at = position.map_or(String::new(), |position| format!(" @{}", position.offset));
                let patched = if has_last && terms.patches { " patched" } else { "" };
                format!("live {channel}{at}{patched}")
            }
            Effect::UpdatePresence { channel, info } => {
                let told = |info: Option<bytes::Bytes>| {
                    info.map_or("-".to_owned(), |info| String::from_utf8_lossy(&info).into_owned())
                };
                format!("present {channel} {} {}", told(info.conn_info), told(info.chan_info))
            }
            Effect::AnnounceJoined { channel, info } => {
                format!("announce {channel} {} joined", info.user.as_str())
            }
            Effect::AnnounceLeft { channel, info } => {
                format!("announce {channel} {} left", info.user.as_str())
            }
            Effect::Refresh { ticket } => {
                self.ask(ticket, "");
                "refresh".to_owned()
            }
            Effect::SubRefresh { ticket, channel } => {
                self.ask(ticket, channel.as_str());
                format!("sub_refresh {channel}")
            }
            Effect::CloseOthers => "close others".to_owned(),
            Effect::Message { ticket, data, .. } => {
                self.ask(ticket, "");
                format!("message {}", String::from_utf8_lossy(&data.bytes))
            }
            Effect::Event { ticket, question } => {
                self.ask(ticket, question.channel.as_str());
                let rooms: String = question.rooms.iter().map(|room| format!(" in {room}")).collect();
                let data = String::from_utf8_lossy(&question.arguments.data.bytes).into_owned();
                format!("event {} {} {data}{rooms}", question.channel, question.event)
            }
            Effect::ChangeDelivery { ticket, channel, latest } => {
                self.ask(ticket, channel.as_str());
                format!("change delivery {channel}{}", told(latest))
            }
            Effect::Rpc { ticket, method, data } => {
                self.ask(ticket, "");
                format!("rpc {method} {}", String::from_utf8_lossy(&data.bytes))
            }
            Effect::AwaitRoom { ticket } => {
                self.ask(ticket, "room");
                "await room".to_owned()
            }
            Effect::Leave { channel, ended } => {
                self.ended.push(ended);
                format!("leave {channel}")
            }
            Effect::Publish { ticket, channel, publication, retention } => {
                self.ask(ticket, channel.as_str());
                let data = String::from_utf8_lossy(&publication.data.bytes).into_owned();
                let kept = if retention.keeps_history() { " kept" } else { "" };
                format!("publish {channel} {data}{kept}")
            }
            Effect::ChangeKey { ticket, channel, change, .. } => {
                self.ask(ticket, channel.as_str());
                let action = match change.action {
                    KeyAction::Set(set) => String::from_utf8_lossy(&set.publication.data.bytes).into_owned(),
                    KeyAction::Remove { .. } => "removed".to_owned(),
                };
                format!("key {channel} {} {action}", change.key)
            }
            Effect::ReadState { ticket, channel, filter, .. } => {
                self.ask(ticket, channel.as_str());
                let cursor = if filter.cursor.is_empty() { "" } else { " from " };
                format!("state {channel}{cursor}{} limit {}", filter.cursor, filter.limit)
            }
            Effect::ShowSubscriber(shown) => format!("show {}", names(&shown)),
            Effect::HideSubscriber(shown) => format!("hide {}", names(&shown)),
            Effect::History { ticket, channel, filter, .. } => {
                self.ask(ticket, channel.as_str());
                let since = filter.since.map_or(String::new(), |since| format!(" since {since}"));
                let reverse = if filter.reverse { " reverse" } else { "" };
                format!("history {channel}{since} limit {}{reverse}", filter.limit)
            }
            Effect::Presence { ticket, channel } => {
                self.ask(ticket, channel.as_str());
                format!("presence {channel}")
            }
            Effect::PresenceStats { ticket, channel } => {
                self.ask(ticket, channel.as_str());
                format!("presence_stats {channel}")
            }
            Effect::Verify { ticket, channel, batches } => {
                self.ask(ticket, channel.as_str());
                let signatures: Vec<&str> = batches.iter().map(|batch| &*batch.signature).collect();
                format!("verify {channel} {}", signatures.join(" "))
            }
            Effect::Follow { channel, keys } => {
                let keys = keys.iter().map(|(key, version)| format!(" {key}@{version}"));
                format!("follow {channel}{}", keys.collect::<String>())
            }
            Effect::Unfollow { channel, keys } => format!("unfollow {channel} {}", keys.join(" ")),
        }
    }

    fn ask(&mut self, ticket: Ticket, about: &str) {
        assert!(self.awaited.iter().all(|(known, _)| *known != ticket), "{ticket:?} is used twice");
        self.awaited.push_back((ticket, about.to_owned()));
    }
}

/// Channels without a namespace are open to all and keep nothing. Those of `log` keep history and presence. `shut` allows
/// nothing, `named` admits the named users, `recover` and `position` force what their names say. `secret` keeps history
/// that nobody may read, and only subscribers may publish into `members`. `poll` has polled keys, three for each client.
pub(crate) fn context() -> Context {
    let open = ChannelOptions {
        allow_subscribe: true,
        allow_subscribe_anonymous: true,
        allow_publish: true,
        allow_publish_anonymous: true,
        allow_publish_for_client: true,
        allow_history: true,
        allow_presence: true,
        ..ChannelOptions::default()
    };
    let log = ChannelOptions { history_size: 10, history_ttl_s: 60, presence: true, ..open.clone() };
    let streamed = ChannelOptions { presence: false, ..log.clone() };
    let namespaces = [
        ("log", log),
        (
            "shut",
            ChannelOptions { history_size: 10, history_ttl_s: 60, presence: true, ..Default::default() },
        ),
        ("named", ChannelOptions { allow_user_limited: true, ..open.clone() }),
        ("recover", ChannelOptions { force_recovery: true, ..streamed.clone() }),
        ("secret", ChannelOptions { allow_history: false, allow_positioning: true, ..streamed.clone() }),
        ("members", ChannelOptions { allow_publish_for_client: false, ..streamed.clone() }),
        ("state", with_keys(MapMode::Persistent)),
        ("brief", with_keys(MapMode::Ephemeral)),
        (
            "seen",
            ChannelOptions {
                subscription_type: SubscriptionType::MapClients,
                ..with_keys(MapMode::Ephemeral)
            },
        ),
        ("position", ChannelOptions { force_positioning: true, ..streamed.clone() }),
        ("quotes", ChannelOptions { newest: quotes(true), force_recovery: true, ..streamed }),
        ("ticks", ChannelOptions { newest: quotes(false), ..open.clone() }),
        (
            "poll",
            ChannelOptions {
                subscription_type: SubscriptionType::SharedPoll,
                shared_poll: PollOptions { keys_per_connection_max: 3, ..PollOptions::default() },
                allow_subscribe: true,
                allow_subscribe_anonymous: true,
                ..ChannelOptions::default()
            },
        ),
    ];
    let namespaces = namespaces.map(|(name, options)| (name.into(), Arc::new(options)));
    Context {
        settings: SessionSettings::default(),
        rules: ChannelRules {
            default: Arc::new(open),
            namespaces: namespaces.into(),
            ..ChannelRules::default()
        },
        insecure: false,
        application: Application::default(),
        node: "node-1".into(),
        version: "1.2.3",
        observer: Arc::new(NoObserver),
    }
}

/// Newest values: kept and sent by default (`snapshot`), or sent on request.
fn quotes(snapshot: bool) -> NewestOptions {
    NewestOptions {
        delivery: if snapshot { DeliveryMode::Latest } else { DeliveryMode::All },
        allow_choice: true,
        times_per_s: 5,
        times_per_s_max: 10,
        bytes_per_s_max: 1_000,
        snapshot,
        ..NewestOptions::default()
    }
}

/// Channels that keep state by key, whose subscribers are shown in those of `seen`.
fn with_keys(mode: MapMode) -> ChannelOptions {
    let map = MapOptions {
        mode,
        allow_publish: true,
        allow_publish_anonymous: true,
        catch_up_timeout_ms: 5_000,
        ..MapOptions::default()
    };
    ChannelOptions {
        subscription_type: SubscriptionType::Map,
        map,
        map_clients_presence_channel_prefix: "seen:".into(),
        allow_subscribe: true,
        allow_subscribe_anonymous: true,
        ..ChannelOptions::default()
    }
}

/// A page of a state of these keys, each with the offset at which it was written.
pub(crate) fn keys(keys: &[(&str, u64)], top: Option<u64>, cursor: &str) -> OutcomeResult {
    let entries = keys.iter().map(|(key, offset)| {
        let keyed = Keyed { key: (*key).into(), ..Keyed::default() };
        let place = top.map(|_| position(*offset));
        Publication { position: place, keyed: Some(Box::new(keyed)), ..Publication::new(Payload::json("1")) }
    });
    let page = StatePage { entries: entries.collect(), top: top.map(position), cursor: cursor.into() };
    OutcomeResult::State(Ok(page))
}

fn told(latest: Option<NewestTerms>) -> String {
    match latest {
        None => " all".to_owned(),
        Some(NewestTerms { times_per_s, bytes_per_s, .. }) => {
            format!(" latest {times_per_s} times {bytes_per_s} bytes")
        }
    }
}

pub(crate) fn with_settings(settings: SessionSettings) -> Context {
    Context { settings, ..context() }
}

pub(crate) fn channel(name: &str) -> Channel {
    Channel::parse(name, 255).unwrap()
}

pub(crate) fn position(offset: u64) -> StreamPosition {
    StreamPosition { offset, epoch: Epoch::parse("life").unwrap() }
}

/// A stream that ends at `top`, with these offsets read from it.
pub(crate) fn page(offsets: &[u64], top: u64) -> HistoryPage {
    let publications = offsets.iter().map(|&offset| {
        let data = Payload::json(offset.to_string());
        Publication { position: Some(position(offset)), ..Publication::new(data) }
    });
    HistoryPage { publications: publications.collect(), top: position(top) }
}

pub(crate) fn joined(page: Option<HistoryPage>) -> OutcomeResult {
    OutcomeResult::Joined(Ok(page))
}

pub(crate) fn authenticated(user: &str) -> OutcomeResult {
    OutcomeResult::Authenticated(Ok(Identity { user: UserId::new(user), ..Identity::default() }))
}

pub(crate) fn refused(error: ErrorCode) -> Denial {
    Denial::of(error)
}

pub(crate) fn error(id: u32, code: ErrorCode) -> String {
    let temporary = if code.is_temporary() { r#","temporary":true"# } else { "" };
    let (code, message) = (code.code(), code.message());
    format!(r#"< {{"id":{id},"error":{{"code":{code},"message":"{message}"{temporary}}}}}"#)
}

/// The channels in which a subscriber is shown.
fn names(shown: &PublishedSubscriber) -> String {
    let names = [&shown.clients, &shown.users, &shown.own].into_iter().flatten();
    names.map(|channel| channel.as_str()).collect::<Vec<_>>().join(" ")
}
