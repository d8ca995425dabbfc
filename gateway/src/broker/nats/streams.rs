//! The streams of JetStream: found or created, and checked again on each new connection.
//!
//! A stream of history, of keys or of ledgers has a life, whose name is in the subjects that it takes: a message for
//! another life finds no stream. A stream begins a life when it is created, and when it has gone back: when its last
//! sequence is lower than one that this node has seen in the same life. Then a copy of old data was restored, or the
//! latest writes are lost.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gateway_core::history::KeysBeside;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};

use super::nats_config::{NatsConfig, Storage};
use super::nats_link::NatsLink;
use super::nats_names::{NatsNames, StreamKind};
use super::stored::{JetStream, JetStreamError, code, nanoseconds};
use crate::broker::BrokerError;

/// The classes of history sizes, in publications. A channel is in the stream of the smallest class that is enough.
pub(super) const SIZES: [u32; 9] = [16, 64, 256, 1_024, 4_096, 16_384, 65_536, 262_144, 1_048_576];

/// The classes of TTLs of idempotency keys, in seconds, used in the same way. The last is more than anything can ask for.
pub(super) const KEY_SECONDS: [u32; 6] = [60, 600, 3_600, 14_400, 86_400, 31_536_000];

/// Messages of a subject beside its publications: the markers of removed history and of ended epochs.
const MARKERS_MAX: u64 = 8;

/// Sessions are kept for at most a day, and somewhat longer while their connection lives. Servers before 2.11 keep each
/// for all of this time.
const SESSIONS_AGE: Duration = Duration::from_secs(25 * 60 * 60);

/// The most sessions. Past it, those written longest ago are removed first.
const SESSIONS_MAX: u64 = 1 << 20;

/// The setting that allows a TTL for each message, known to servers from 2.11 on.
const MESSAGES_END: &str = "allow_msg_ttl";

/// The settings that can be changed in an existing stream.
const SETTINGS: [&str; 7] = [
    "allow_direct",
    "max_age",
    "max_bytes",
    "max_msgs",
    "max_msgs_per_subject",
    "num_replicas",
    MESSAGES_END,
];

/// The description of a stream that may hold messages of an earlier life.
const BEGUN_ANEW: &str = "It has gone back to what it was before.";

/// For this long, a server of a cluster that has just become the leader may know less than was confirmed before.
const LEADER_SETTLES: Duration = Duration::from_secs(5);

/// How often a stream is looked for again that others create or remove.
const ATTEMPTS_MAX: u32 = 5;

/// A stream that exists.
#[derive(Debug)]
pub(crate) struct LiveStream {
    /// The life of a stream with lives, with which its subjects end.
    pub(super) name: Arc<str>,
    /// The highest sequence that this node knows to have been assigned.
    seen: AtomicU64,
    /// Whether messages can have a TTL, after which the server removes them.
    forgets: AtomicBool,
    /// Whether the stream may hold messages of another life that continue in this one.
    carries: AtomicBool,
}

impl LiveStream {
    fn new(name: &str) -> Self {
        let (forgets, carries) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { name: name.into(), seen: AtomicU64::new(0), forgets, carries }
    }

    pub(super) fn carries(&self) -> bool {
        self.carries.load(Ordering::SeqCst)
    }

    pub(super) fn forgets(&self) -> bool {
        self.forgets.load(Ordering::SeqCst)
    }

    /// Notes that this sequence was assigned.
    pub(super) fn saw(&self, sequence: u64) {
        self.seen.fetch_max(sequence, Ordering::SeqCst);
    }
}

/// A stream, and the connection on which it was last checked.
#[derive(Clone, Debug)]
struct KnownStream {
    life: Arc<LiveStream>,
    /// 0 if the stream has to be checked again.
    connection: u64,
    /// Since when the stream has appeared to have gone back.
    back_since: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Streams {
    names: NatsNames,
    jetstream: JetStream,
    /// The link whose connection counts: the one for commands.
    link: Arc<NatsLink>,
    storage: Storage,
    replicas: u8,
    history_bytes_max: u64,
    keys_max: u64,
    position_ttl: Duration,
    known: Mutex<HashMap<StreamKind, KnownStream>>,
    /// Held while a stream is found or created, so that this happens one at a time.
    finding: tokio::sync::Mutex<()>,
}

#[derive(Deserialize)]
struct StreamInfoResponse {
    config: Value,
    state: InfoState,
}

#[derive(Deserialize)]
struct InfoState {
    last_seq: u64,
}

#[derive(Deserialize)]
struct NamesPage {
    #[serde(default)]
    streams: Option<Vec<String>>,
    total: usize,
}

impl Streams {
    pub(super) fn new(
        config: &NatsConfig,
        names: NatsNames,
        jetstream: JetStream,
        link: Arc<NatsLink>,
    ) -> Self {
        Self {
            names,
            jetstream,
            link,
            storage: config.storage,
            replicas: config.replicas,
            history_bytes_max: config.history_bytes_max,
            keys_max: config.idempotency_keys_max,
            position_ttl: Duration::from_secs(config.position_ttl_s),
            known: Mutex::default(),
            finding: tokio::sync::Mutex::default(),
        }
    }

    /// Returns the stream, found or created on the present connection.
    pub(super) async fn ready(&self, kind: StreamKind) -> Result<Arc<LiveStream>, BrokerError> {
        let connection = self.link.opened().await?;
        if let Some(life) = self.known_on(kind, connection) {
            return Ok(life);
        }
        let _alone = match tokio::time::timeout(self.link.timeout(), self.finding.lock()).await {
            Ok(alone) => alone,
            Err(_) => return Err(BrokerError::Timeout(self.link.timeout())),
        };
        // Another task may have found it meanwhile.
        if let Some(life) = self.known_on(kind, connection) {
            return Ok(life);
        }
        self.find(kind, connection).await.map_err(BrokerError::from)
    }

    /// Has the stream checked again, because it did not take a message that was meant for it.
    pub(super) fn doubt(&self, kind: StreamKind) {
        if let Some(known) = self.known.lock().get_mut(&kind) {
            known.connection = 0;
        }
    }

    fn known_on(&self, kind: StreamKind, connection: u64) -> Option<Arc<LiveStream>> {
        let known = self.known.lock();
        known.get(&kind).filter(|known| known.connection == connection).map(|known| known.life.clone())
    }

    /// Checks whether streams with lives have gone back, which can also happen while the connection stays.
    pub(super) async fn look_again(&self) -> Result<(), BrokerError> {
        let used: Vec<StreamKind> = self.known.lock().keys().copied().collect();
        for kind in used.into_iter().filter(|kind| kind.has_lives()) {
            let connection = self.link.connection()?;
            let _alone = self.finding.lock().await;
            self.find(kind, connection).await?;
        }
        Ok(())
    }

    /// Returns all existing streams that channels are in.
    pub(super) async fn of_channels(&self) -> Result<Vec<StreamKind>, BrokerError> {
        let (mut found, mut offset) = (Vec::new(), 0);
        loop {
            let request = json!({ "offset": offset });
            let page: NamesPage = self.jetstream.ask(&self.link, "STREAM.NAMES", &request).await?;
            let names = page.streams.unwrap_or_default();
            found.extend(names.iter().filter_map(|name| self.names.of_channels(name)));
            offset += names.len();
            if names.is_empty() || offset >= page.total {
                return Ok(found);
            }
        }
    }

    async fn find(&self, kind: StreamKind, connection: u64) -> Result<Arc<LiveStream>, JetStreamError> {
        self.link.can_replicate(self.replicas)?;
        let mut refused = None;
        for _ in 0..ATTEMPTS_MAX {
            let before = self.known.lock().get(&kind).map(|known| known.life.clone());
            let seen = before.as_ref().map_or(0, |life| life.seen.load(Ordering::SeqCst));
            let name = self.names.stream(kind);
            let info: StreamInfoResponse =
                match self.jetstream.ask(&self.link, &format!("STREAM.INFO.{name}"), &json!({})).await {
                    Ok(info) => info,
                    Err(JetStreamError::Refused(code::STREAM_NOT_FOUND, _)) => {
                        refused = self.make(kind).await?.or(refused);
                        continue;
                    }
                    Err(failed) => return Err(failed),
                };
            let taken = info.config.get("subjects").and_then(|all| all.get(0)).and_then(Value::as_str);
            let Some(life) = taken.and_then(|taken| self.names.life_of(kind, taken)) else {
                let text =
                    format!("the stream {name} exists and has other subjects: set another nats.prefix");
                return Err(BrokerError::Unexpected(text.into()).into());
            };
            let same = before.filter(|before| *before.name == *life);
            if same.is_some() && kind.has_lives() && info.state.last_seq < seen {
                if !self.has_gone_back_for_long(kind) {
                    return same.ok_or(JetStreamError::NoStream);
                }
                self.begin_anew(kind, life, &info.config).await?;
                continue;
            }
            let life = same.unwrap_or_else(|| Arc::new(LiveStream::new(life)));
            life.saw(info.state.last_seq);
            let config = self.set_limits(kind, info.config).await?;
            let forgets = config.get(MESSAGES_END).and_then(Value::as_bool);
            life.forgets.store(forgets == Some(true), Ordering::SeqCst);
            let description = config.get("description").and_then(Value::as_str);
            life.carries.store(description == Some(BEGUN_ANEW), Ordering::SeqCst);
            let known = KnownStream { life: life.clone(), connection, back_since: None };
            self.known.lock().insert(kind, known);
            return Ok(life);
        }
        if let Some(refused) = refused {
            // The stream does not exist, and another one takes its subjects.
            if let JetStreamError::Refused(_, error) = &refused {
                self.link.failed(error);
            }
            return Err(refused);
        }
        let text =
            format!("other clients create and remove the stream {} again and again", self.names.stream(kind));
        Err(BrokerError::Unexpected(text.into()).into())
    }

    /// Whether the stream has gone back for longer than a new leader needs to settle.
    fn has_gone_back_for_long(&self, kind: StreamKind) -> bool {
        let mut known = self.known.lock();
        let Some(known) = known.get_mut(&kind) else { return true };
        let since = *known.back_since.get_or_insert_with(Instant::now);
        self.replicas == 1 || since.elapsed() >= LEADER_SETTLES
    }

    /// Creates a stream. Returns the refusal if another node may have created it.
    async fn make(&self, kind: StreamKind) -> Result<Option<JetStreamError>, JetStreamError> {
        let name = self.names.stream(kind);
        let config = self.wanted(kind, &new_life());
        match self.jetstream.ask::<Value>(&self.link, &format!("STREAM.CREATE.{name}"), &config).await {
            Ok(_) => {
                tracing::info!(stream = name, "the stream did not exist and was created");
                Ok(None)
            }
            // If two nodes create it at once, servers before 2.9.16 tell the second one only that the subjects are taken.
            Err(failed @ JetStreamError::Refused(code::STREAM_NAME_TAKEN | code::SUBJECTS_TAKEN, _)) => {
                Ok(Some(failed))
            }
            Err(failed) => Err(failed),
        }
    }

    /// Ends a life: nobody finds its messages any more, and they are removed unless they are carried over.
    async fn begin_anew(&self, kind: StreamKind, life: &str, config: &Value) -> Result<(), JetStreamError> {
        let name = self.names.stream(kind);
        let mut config = config.clone();
        config["subjects"] = json!(self.names.taken(kind, &new_life()));
        if kind.is_carried_over() {
            config["description"] = json!(BEGUN_ANEW);
        }
        self.jetstream.ask::<Value>(&self.link, &format!("STREAM.UPDATE.{name}"), &config).await?;
        tracing::warn!(
            stream = name,
            "the stream has gone back to an earlier state: the gateway begins it anew, and its channels begin new epochs"
        );
        if kind.is_carried_over() {
            return Ok(());
        }
        self.jetstream.purge(&self.link, &name, &self.names.whole_life(kind, life)).await
    }

    /// Changes the settings that can be changed in an existing stream. Returns its present settings.
    async fn set_limits(&self, kind: StreamKind, mut config: Value) -> Result<Value, JetStreamError> {
        let wanted = self.wanted(kind, "");
        let mut differs = false;
        for key in SETTINGS {
            // Settings that are not asked for stay as they are: they may come from a newer server.
            if wanted.get(key).is_some() && config.get(key) != wanted.get(key) {
                config[key] = wanted[key].clone();
                differs = true;
            }
        }
        // Done only when the stream is first found: a server that alters the settings would be asked to change them each time.
        if !differs || self.known.lock().contains_key(&kind) {
            return Ok(config);
        }
        // A server refuses a window for duplicates that is longer than messages are kept. The window was set when the
        // stream was created.
        let age = wanted["max_age"].as_u64().filter(|age| *age > 0);
        if let (Some(age), Some(window)) = (age, config["duplicate_window"].as_u64())
            && window > age
        {
            config["duplicate_window"] = json!(age);
        }
        let name = self.names.stream(kind);
        let set: StreamInfoResponse =
            self.jetstream.ask(&self.link, &format!("STREAM.UPDATE.{name}"), &config).await?;
        tracing::info!(stream = name, "the settings of the stream were updated");
        Ok(set.config)
    }

    fn wanted(&self, kind: StreamKind, life: &str) -> Value {
        let unbounded = |count: u64| i64::try_from(count).ok().filter(|count| *count > 0).unwrap_or(-1);
        let (age, per_subject, messages, bytes, storage) = match kind {
            StreamKind::History(size) => {
                let per_subject = u64::from(size) + MARKERS_MAX;
                (self.position_ttl, per_subject, 0, self.history_bytes_max, self.storage)
            }
            StreamKind::Once(seconds) => {
                (Duration::from_secs(seconds.into()), 1, self.keys_max, 0, self.storage)
            }
            StreamKind::State => (Duration::ZERO, 1, 0, 0, self.storage),
            // Nodes store their presence anew.
            StreamKind::Presence => (Duration::ZERO, 1, 0, 0, Storage::Memory),
            StreamKind::Sessions => (SESSIONS_AGE, 1, SESSIONS_MAX, 0, self.storage),
            // The writers of ledgers and of channels with state by key keep them short.
            StreamKind::Ledgers => (Duration::ZERO, 0, 0, 0, self.storage),
            StreamKind::Keys(KeysBeside::Staying) => (Duration::ZERO, 0, 0, 0, self.storage),
            StreamKind::Keys(_) => (self.position_ttl, 0, 0, 0, self.storage),
        };
        let mut config = json!({
            "name": self.names.stream(kind),
            "subjects": self.names.taken(kind, life),
            "retention": "limits",
            "discard": "old",
            "storage": storage.word(),
            "num_replicas": self.replicas,
            "max_age": nanoseconds(age),
            "max_msgs_per_subject": unbounded(per_subject),
            "max_msgs": unbounded(messages),
            "max_bytes": unbounded(bytes),
            "max_consumers": -1,
            "allow_direct": self.jetstream.is_direct(),
            "allow_rollup_hdrs": true,
        });
        if kind == StreamKind::Sessions && self.link.can_end_messages() {
            config[MESSAGES_END] = json!(true);
        }
        if let Some((source, destination)) = self.names.republished(kind) {
            config["republish"] = json!({ "src": source, "dest": destination });
        }
        config
    }
}

fn new_life() -> String {
    (0..12).map(|_| char::from(rand::random_range(b'a'..=b'z'))).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::super::fake::{FakeReply, serve};
    use super::super::nats_link::NatsLinkPurpose;
    use super::super::{NatsDialer, NatsUrl};
    use super::*;

    /// Looks for a stream at a server that refuses to create it because its subjects are taken, and that finds the stream only
    /// from the request `found_from` on. Returns the result and the number of counted refusals.
    async fn looked_for(found_from: u32) -> (Result<Arc<LiveStream>, BrokerError>, u64) {
        let looks = AtomicU32::new(0);
        let error = |code: u64, text: &str| {
            let error = json!({ "error": { "code": 400, "err_code": code, "description": text } });
            vec![FakeReply::Answer(error.to_string())]
        };
        let says = move |subject: &str| match subject {
            "$JS.API.STREAM.INFO.tidegate_history_16" => {
                if looks.fetch_add(1, Ordering::SeqCst) < found_from {
                    return error(code::STREAM_NOT_FOUND, "stream not found");
                }
                let config = json!({ "subjects": ["tidegate.h16.*.abc", "tidegate.h16.%any"] });
                vec![FakeReply::Answer(json!({ "config": config, "state": { "last_seq": 0 } }).to_string())]
            }
            "$JS.API.STREAM.CREATE.tidegate_history_16" => {
                error(code::SUBJECTS_TAKEN, "subjects overlap with an existing stream")
            }
            // The request sets the stream's limits, and changes nothing else.
            "$JS.API.STREAM.UPDATE.tidegate_history_16" => {
                vec![FakeReply::Answer(json!({ "config": {}, "state": { "last_seq": 0 } }).to_string())]
            }
            _ => Vec::new(),
        };
        let (url, _server) = serve(says).await;
        let config = NatsConfig { url: NatsUrl::new(url), timeout_ms: 2_000, ..NatsConfig::default() };
        let dialer = NatsDialer::new(&config).unwrap();
        let options = dialer.options("test").unwrap();
        let (metrics, nothing) = (Arc::<crate::broker::measure::BrokerMetrics>::default(), Box::new(|| {}));
        let purpose = NatsLinkPurpose::Commands;
        let (servers, counted) = (dialer.servers(), metrics.clone());
        let link = NatsLink::start(servers, options, purpose, config.timeout(), metrics, nothing);
        let link = Arc::new(link.await.unwrap());
        let names = NatsNames::new("tidegate");
        let streams = Streams::new(&config, names, JetStream::new("", true), link);
        let found = streams.ready(StreamKind::History(16)).await;
        (found, counted.refused(crate::broker::BrokerRefusal::Other).get())
    }

    #[tokio::test]
    async fn of_two_nodes_that_make_a_stream_at_once_the_second_uses_that_of_the_first() {
        let (found, refused) = looked_for(1).await;
        assert_eq!((&*found.unwrap().name, refused), ("abc", 0));
    }

    #[tokio::test]
    async fn a_stream_whose_subjects_another_one_takes_is_refused_in_words() {
        let (found, refused) = looked_for(u32::MAX).await;
        assert!(found.unwrap_err().to_string().contains("subjects overlap"));
        assert_eq!(refused, 1);
    }
}
