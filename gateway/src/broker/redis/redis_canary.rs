//! The canary, by which a node proves that it can do its work: a publication of its own that takes the way of all others,
//! is stored and comes back, on keys and a channel that belong to no client.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use gateway_core::history::{HistoryFilter, Retention};
use parking_lot::{Mutex, RwLock};
use redis::{FromRedisValue, Value};
use shared::channel::{CHANNEL_BYTES_MAX, Channel};
use shared::publication::{Payload, Publication};
use tokio::sync::oneshot;

use super::master::Master;
use super::publish_script::{OutgoingPublication, unexpected};
use super::redis_dial::is_for_want_of_a_right;
use super::redis_history::{history_call, read_answer};
use super::redis_keys::RedisKeys;
use super::redis_link::OpenLink;
use super::redis_listen::ListeningConnection;
use super::script;
use crate::broker::measure::Operation;
use crate::broker::{BrokerError, Idempotency, PublishRequest};

/// The TTL of the keys of canaries.
const TRACES_TTL: Duration = Duration::from_secs(30);

/// How often the user's rights are checked while nothing indicates that one is missing.
const RIGHTS_INTERVAL: Duration = Duration::from_secs(30);

/// After this many lost canaries in a row, the connection on which they should have arrived is given up, even if other
/// bytes arrive on it.
const STRAYS_MAX: u32 = 3;

/// The error when links end at different servers.
const APART: &str = "the connections to Redis reach different servers: its address must lead to one server";

/// The channel of a node through which its canary probes go, in a key space of its own.
#[derive(Debug)]
pub(super) struct CanaryChannel {
    pub(super) keys: RedisKeys,
    pub(super) channel: Channel,
    /// The pub/sub channel on which canaries arrive.
    pub(super) name: String,
}

#[derive(Debug)]
pub(super) struct Canaries {
    canary_channel: RwLock<Arc<CanaryChannel>>,
    in_flight: Mutex<HashMap<u64, oneshot::Sender<()>>>,
    strays: AtomicU32,
    /// The connection on which all rights were last found, and when.
    rights_had: Mutex<Option<(u64, Instant)>>,
}

impl CanaryChannel {
    fn new(keys: RedisKeys, node: &str) -> Self {
        // Node names consist of characters that are allowed in channel names.
        let channel = Channel::parse(node, CHANNEL_BYTES_MAX)
            .or_else(|_| Channel::parse("node", CHANNEL_BYTES_MAX))
            .expect("a word is a channel name");
        let name = keys.publications(&channel);
        Self { keys, channel, name }
    }
}

impl Canaries {
    /// `keys` are the keys of canaries; `node` is unique to this process.
    pub(super) fn new(keys: RedisKeys, node: &str) -> Self {
        Self {
            canary_channel: RwLock::new(Arc::new(CanaryChannel::new(keys, node))),
            in_flight: Mutex::default(),
            strays: AtomicU32::new(0),
            rights_had: Mutex::new(None),
        }
    }

    pub(super) fn canary_channel(&self) -> Arc<CanaryChannel> {
        self.canary_channel.read().clone()
    }

    /// Sends further canaries through the channel of this node in these keys.
    pub(super) fn move_to(&self, keys: RedisKeys, node: &str) {
        *self.canary_channel.write() = Arc::new(CanaryChannel::new(keys, node));
    }

    /// Notes that a canary came back.
    pub(super) fn received(&self, publication: &Publication) {
        let number = std::str::from_utf8(&publication.data.bytes).ok().and_then(|text| text.parse().ok());
        if let Some(waiting) = number.and_then(|number: u64| self.in_flight.lock().remove(&number)) {
            // The caller may have given up at this very moment.
            let _ = waiting.send(());
        }
    }
}

impl Master {
    /// Sends a canary, and reads the history that stores it.
    pub(super) async fn send_canary(&self) -> Result<Duration, BrokerError> {
        let start = Instant::now();
        let (up, listening) = self.ends_together().await?;
        let read = async {
            let filter = HistoryFilter { since: None, limit: 1, reverse: true, enough_bytes: None };
            let canary_channel = self.canaries.canary_channel();
            let fill = history_call(
                &canary_channel.keys,
                TRACES_TTL.as_millis() as u64,
                &canary_channel.channel,
                filter,
            );
            self.reads.eval(Operation::History, &script::HISTORY, fill).await.and_then(read_answer).map(drop)
        };
        let (received, read) = tokio::join!(self.publish_canary(&up, &listening), read);
        let round_trip = received.and(read);
        match round_trip {
            Ok(()) => self.has_rights(up.number).await?,
            Err(error) => {
                if is_for_want_of_a_right(&error) {
                    self.look_at_rights().await?;
                }
                return Err(error);
            }
        }
        let took = start.elapsed();
        self.metrics.canary_micros.set(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        Ok(took)
    }

    /// Returns the links that carry canaries, once it is known that they end at the same server.
    async fn ends_together(&self) -> Result<(OpenLink, ListeningConnection), BrokerError> {
        let ends = async {
            let of = |what: &str, error| match error {
                BrokerError::Unreachable(reason) => {
                    BrokerError::Unreachable(format!("{what}: {reason}").into())
                }
                other => other,
            };
            let (_, up) = self.link.connection().await.map_err(|error| of("for commands", error))?;
            let (_, reads) = self.reads.connection().await.map_err(|error| of("for reads", error))?;
            let listening =
                self.listener.listening().await.map_err(|error| of("for subscriptions", error))?;
            Ok((up, reads, listening))
        };
        let ends = tokio::time::timeout(self.timeout, ends).await;
        let (up, reads, listening) = ends.unwrap_or(Err(BrokerError::Timeout(self.timeout)))?;
        if up.server.is_surely_another(&listening.server) || up.server.is_surely_another(&reads.server) {
            self.reads.give_up(reads.number, APART);
            return Err(self.take_apart(&up, &listening));
        }
        Ok((up, listening))
    }

    async fn publish_canary(
        &self,
        up: &OpenLink,
        listening: &ListeningConnection,
    ) -> Result<(), BrokerError> {
        let number: u64 = rand::random();
        let (sender, back) = oneshot::channel();
        self.canaries.in_flight.lock().insert(number, sender);
        let _forget = PendingCanary { canaries: &self.canaries, number };
        let canary_channel = self.canaries.canary_channel();
        // Subscribes anew each time: the right to may have been taken away, and an existing subscription would hide that.
        let subscribe = async {
            let names = [vec![canary_channel.name.clone()], vec![format!("{}:nothing", canary_channel.name)]];
            let both = async {
                let connection = &listening.connection;
                if self.router.is_sharded() {
                    connection.subscribe_sharded(&names[..1]).await.into_iter().collect::<Result<(), _>>()?;
                    return connection.unsubscribe_sharded(&names[1..]).await;
                }
                let [name, nothing] = names;
                let (subscribing, unsubscribing) =
                    (connection.subscribe(name), connection.unsubscribe(nothing));
                subscribing.await.and(unsubscribing.await)
            };
            let done = tokio::time::timeout(self.timeout, both).await;
            done.unwrap_or_else(|_| Err(BrokerError::unanswered(self.timeout)))
        };
        let request = PublishRequest {
            channel: canary_channel.channel.clone(),
            publication: Publication::new(Payload::text(number.to_string())),
            retention: Retention::new(1, TRACES_TTL),
            // Each canary has a key of its own: with a common one, the second within the TTL would not be made.
            idempotency: Some(Idempotency { key: number.to_string().into(), ttl: Duration::from_millis(1) }),
            version: None,
        };
        let ttl_ms = TRACES_TTL.as_millis() as u64;
        let publish = || {
            self.publications
                .push(OutgoingPublication::new(&canary_channel.keys, ttl_ms, &request, None), None)
        };
        let received_before = self.router.received.load(Ordering::Relaxed);
        if self.router.is_sharded() {
            // The canary may be the first in this slot, and another connection is as likely to be ahead of this one.
            subscribe.await?;
            publish().await?;
        } else {
            let (subscribed, published) = tokio::join!(subscribe, publish());
            subscribed?;
            published?;
        }
        self.is_listened_to(up, listening).await?;
        if tokio::time::timeout(self.timeout, back).await.is_ok() {
            self.canaries.strays.store(0, Ordering::Relaxed);
            return Ok(());
        }
        let why = format!("a canary sent {} ms ago did not come back", self.timeout.as_millis());
        let strays = self.canaries.strays.fetch_add(1, Ordering::Relaxed) + 1;
        // While other bytes arrive, the canary may only be queued behind them.
        if self.router.received.load(Ordering::Relaxed) == received_before || strays >= STRAYS_MAX {
            self.canaries.strays.store(0, Ordering::Relaxed);
            self.listener.give_up(listening.number, &why);
        }
        Err(BrokerError::Unanswered(why.into()))
    }

    /// Asks the server that takes commands whether it has this node's subscriptions too.
    async fn is_listened_to(
        &self,
        up: &OpenLink,
        listening: &ListeningConnection,
    ) -> Result<(), BrokerError> {
        let mut command = redis::cmd("PUBSUB");
        let numbers = if self.router.is_sharded() { "SHARDNUMSUB" } else { "NUMSUB" };
        command.arg(numbers).arg(&self.canaries.canary_channel().name);
        match self.link.call(Operation::Control, &command).await {
            Ok(answer) => {
                let listeners = Vec::<Value>::from_redis_value(answer).ok();
                let nobody = listeners.is_some_and(|listeners| listeners.last() == Some(&Value::Int(0)));
                if nobody { Err(self.take_apart(up, listening)) } else { Ok(()) }
            }
            // This check is optional.
            Err(error) if is_for_want_of_a_right(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn take_apart(&self, up: &OpenLink, listening: &ListeningConnection) -> BrokerError {
        self.link.give_up(up.number, APART);
        self.listener.give_up(listening.number, APART);
        BrokerError::Unreachable(APART.into())
    }

    /// Checks the user's rights on each new connection, and in intervals.
    async fn has_rights(&self, number: u64) -> Result<(), BrokerError> {
        let had = *self.canaries.rights_had.lock();
        if had.is_some_and(|(on, at)| on == number && at.elapsed() < RIGHTS_INTERVAL) {
            return Ok(());
        }
        self.look_at_rights().await?;
        *self.canaries.rights_had.lock() = Some((number, Instant::now()));
        Ok(())
    }

    /// Tries each right by itself. Otherwise a missing right that is rarely needed would only show when it is, in an
    /// error of a script that names a line. The error names all missing rights.
    pub(super) async fn look_at_rights(&self) -> Result<(), BrokerError> {
        let canary_channel = self.canaries.canary_channel();
        let CanaryChannel { keys, channel, name } = &*canary_channel;
        let tried = [keys.stream(channel), keys.position(channel), keys.present(channel)];
        let publish = if self.router.is_sharded() { "SPUBLISH" } else { "PUBLISH" };
        let fill = |command: &mut redis::Cmd, _: &OpenLink| {
            command.arg(tried.len()).arg(&tried).arg(name).arg(publish);
        };
        let answer = self.link.eval(Operation::Control, &script::RIGHTS, fill).await?;
        let lacks = Vec::<String>::from_redis_value(answer).map_err(|_| unexpected("rights"))?;
        if lacks.is_empty() {
            return Ok(());
        }
        *self.canaries.rights_had.lock() = None;
        Err(BrokerError::refused(format!("NOPERM the user lacks the right to {}", lacks.join(", "))))
    }
}

/// Forgets a canary when its caller stops waiting, for whatever reason.
struct PendingCanary<'a> {
    canaries: &'a Canaries,
    number: u64,
}

impl Drop for PendingCanary<'_> {
    fn drop(&mut self) {
        self.canaries.in_flight.lock().remove(&self.number);
    }
}
