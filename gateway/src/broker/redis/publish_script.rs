//! Publishes: with one script that numbers, stores and sends, or with a plain PUBLISH if there is nothing to store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use redis::{Cmd, FromRedisValue, Value};
use shared::channel::Channel;
use shared::position::{Epoch, StreamPosition};
use shared::push::OwnedEvent;
use shared::record::{encode_event, encode_position, encode_record};

use super::RedisBroker;
use super::epochs::KnownEpoch;
use super::keys_of_maps::KeyChange;
use super::redis_keys::RedisKeys;
use super::redis_link::OpenLink;
use super::script;
use crate::broker::{BrokerError, PublishRequest, Published, Version};

/// How often the TTLs of a stream are renewed at most per TTL: streams are kept up to a sixteenth longer than asked.
const RENEWALS_PER_TTL: u64 = 16;

/// A publication to be sent, independent of the connection.
#[derive(Debug)]
pub(super) enum OutgoingPublication {
    /// Nothing to store: a PUBLISH.
    Plain {
        slot: u16,
        name: String,
        message: BytesMut,
    },
    Retained(Box<PublishScriptArgs>),
    /// The change of a key.
    Key(Box<KeyChange>),
}

/// The arguments of the script that publishes.
#[derive(Debug)]
pub(super) struct PublishScriptArgs {
    slot: u16,
    life: Arc<[Arc<str>]>,
    position: String,
    stream: String,
    name: String,
    once: Option<(String, u64)>,
    epoch: Epoch,
    size: u32,
    times: Times,
    version: Option<Version>,
    /// The epoch that the channel is believed to have.
    known: Option<KnownEpoch>,
    record: BytesMut,
}

/// How long things are kept, in milliseconds. Each is a little longer than required, so that not every publication needs
/// to renew it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Times {
    stream: u64,
    position: u64,
    /// Both are renewed at this interval.
    renew: u64,
}

impl RedisBroker {
    /// Publishes. Publications leave in the order of the calls, even if nobody waits.
    pub(super) fn publish_once(
        &self,
        request: PublishRequest,
    ) -> impl Future<Output = Result<Published, BrokerError>> + use<> {
        let (epochs, requested_at) = (self.epochs.clone(), Instant::now());
        let hash = request.retention.keeps_history().then(|| epochs.hash(&request.channel));
        let known = hash.and_then(|hash| epochs.of(hash));
        let answer =
            self.ways.push(OutgoingPublication::new(&self.keys, self.position_ttl_ms, &request, known));
        let metrics = self.metrics_of(&request.channel);
        async move {
            let (published, lasts) = read_published(answer.await?, known)?;
            if let (Some(hash), Some(position), Some(lasts)) = (hash, published.position, lasts) {
                epochs.learn(hash, position.epoch, requested_at, lasts);
            }
            if published.duplicate {
                metrics.duplicates.increment();
            } else {
                metrics.published.increment();
            }
            Ok(published)
        }
    }

    /// Sends a join or a leave in the queue of publications, so that it keeps its order among them.
    pub(super) fn send_event(
        &self,
        channel: &Channel,
        event: &OwnedEvent,
    ) -> impl Future<Output = Result<(), BrokerError>> + use<> {
        let mut message = BytesMut::new();
        encode_position(None, &mut message);
        encode_event(event, &mut message);
        let (slot, name) = (self.keys.slot(channel), self.keys.publications(channel));
        let answer = self.ways.push(OutgoingPublication::Plain { slot, name, message });
        async move { answer.await.map(drop) }
    }
}

impl OutgoingPublication {
    pub(super) fn new(
        keys: &RedisKeys,
        position_ttl_ms: u64,
        request: &PublishRequest,
        known: Option<KnownEpoch>,
    ) -> Self {
        let PublishRequest { channel, publication, retention, idempotency, version } = request;
        let (slot, name) = (keys.slot(channel), keys.publications(channel));
        let keeps = retention.keeps_history();
        let mut record = BytesMut::new();
        if !keeps && idempotency.is_none() {
            record.reserve(publication.data.bytes.len() + 8);
            encode_position(None, &mut record);
            encode_record(publication, &mut record);
            return Self::Plain { slot, name, message: record };
        }
        encode_record(publication, &mut record);
        Self::Retained(Box::new(PublishScriptArgs {
            slot,
            life: keys.life().clone(),
            position: keys.position(channel),
            stream: keys.stream(channel),
            name,
            once: idempotency.as_ref().map(|once| (keys.once(channel, &once.key), ttl_millis(once.ttl))),
            epoch: Epoch::from_random(rand::random()),
            size: if keeps { retention.size } else { 0 },
            times: Times::new(ttl_millis(retention.ttl), position_ttl_ms),
            version: version.clone(),
            known,
            record,
        }))
    }

    /// Returns the command for this connection.
    pub(super) fn command(&self, up: &OpenLink) -> Cmd {
        match self {
            Self::Plain { name, message, .. } => {
                let by_shard = up.of_cluster.is_some();
                let mut command = redis::cmd(if by_shard { "SPUBLISH" } else { "PUBLISH" });
                command.arg(name).arg(&message[..]);
                command
            }
            Self::Retained(args) => args.command(up),
            Self::Key(change) => change.fill(script::CHANGE_KEY.by_hash(up), up),
        }
    }

    /// Whether one call may make this publication together with others of the same slot.
    pub(super) fn shares_a_call(&self) -> bool {
        self.script_args().is_some_and(PublishScriptArgs::is_plain)
    }

    /// Whether it has an idempotency key.
    pub(super) fn has_key(&self) -> bool {
        match self {
            Self::Plain { .. } => false,
            Self::Retained(args) => args.once.is_some(),
            Self::Key(change) => change.has_key(),
        }
    }

    /// Returns the slot of the channel in a cluster. 0 elsewhere.
    pub(super) fn slot(&self) -> u16 {
        match self {
            Self::Plain { slot, .. } => *slot,
            Self::Retained(args) => args.slot,
            Self::Key(change) => change.slot(),
        }
    }

    /// Returns the message that the script sends to subscribers, once the publication was made: `answer` is that of the
    /// script. `None` if the publication was not made, or was not made by the script that publishes.
    pub(super) fn message(&self, answer: &Value) -> Option<Self> {
        let args = self.script_args()?;
        let (published, _) = read_published(answer.clone(), args.known).ok()?;
        let mut message = BytesMut::new();
        encode_position(published.position, &mut message);
        message.extend_from_slice(&args.record);
        (!published.duplicate).then(|| Self::Plain { slot: args.slot, name: args.name.clone(), message })
    }

    pub(super) fn script_args(&self) -> Option<&PublishScriptArgs> {
        match self {
            Self::Retained(args) => Some(args),
            Self::Plain { .. } | Self::Key(_) => None,
        }
    }

    /// Returns the size in bytes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Plain { message, .. } => message.len(),
            Self::Retained(args) => args.record.len(),
            Self::Key(change) => change.bytes(),
        }
    }
}

impl PublishScriptArgs {
    /// Returns the command that makes this publication alone.
    fn command(&self, up: &OpenLink) -> Cmd {
        let mut command = script::PUBLISH.by_hash(up);
        command.arg(self.life.len() + 2 + usize::from(self.once.is_some()));
        self.life(&mut command);
        self.keys(&mut command);
        let mut once_ttl = 0;
        if let Some((once, ttl)) = &self.once {
            command.arg(once);
            once_ttl = *ttl;
        }
        self.common(&mut command, up);
        let is_plain = self.is_plain();
        self.arguments(&mut command, is_plain);
        if !is_plain {
            command.arg(once_ttl);
        }
        if let Some(version) = &self.version {
            command.arg(version.number).arg(&*version.epoch);
        }
        command
    }

    fn life(&self, command: &mut Cmd) {
        for name in self.life.iter() {
            command.arg(&**name);
        }
    }

    fn keys(&self, command: &mut Cmd) {
        command.arg(&self.position).arg(&self.stream);
    }

    /// Adds the arguments that all publications of a call share.
    fn common(&self, command: &mut Cmd, up: &OpenLink) {
        command.arg(&*script::run_of(up)).arg(self.epoch.as_str()).arg(self.times.position);
    }

    fn arguments(&self, command: &mut Cmd, may_be_known: bool) {
        let known = self.known.filter(|_| may_be_known).and_then(|known| known.at(Instant::now()));
        command
            .arg(&self.name)
            .arg(known.as_ref().map_or("", Epoch::as_str))
            .arg(self.size)
            .arg(self.times.stream)
            .arg(self.times.renew)
            .arg(&self.record[..]);
    }

    /// Whether there is no idempotency key and no version to compare.
    fn is_plain(&self) -> bool {
        self.once.is_none() && self.version.is_none()
    }
}

/// Returns the command that makes all of these publications, which must be plain, one after the other. `None` if there
/// are none.
pub(super) fn command_of_several<'a>(
    all: impl Iterator<Item = &'a PublishScriptArgs> + Clone,
    up: &OpenLink,
) -> Option<Cmd> {
    let first = all.clone().next()?;
    let mut command = script::PUBLISH.by_hash(up);
    command.arg(first.life.len() + 2 * all.clone().count());
    first.life(&mut command);
    all.clone().for_each(|args| args.keys(&mut command));
    first.common(&mut command, up);
    all.for_each(|args| args.arguments(&mut command, true));
    Some(command)
}

impl Times {
    fn new(stream: u64, position: u64) -> Self {
        let renew = stream.min(position) / RENEWALS_PER_TTL;
        // Readers renew a position too, and add as much.
        Self { stream: stream.saturating_add(renew), position: position.saturating_add(position / 4), renew }
    }
}

/// Redis refuses a TTL of zero.
pub(super) fn ttl_millis(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).clamp(1, i64::MAX as u64 / 2)
}

/// Reads the answer. PUBLISH returns the number of receiving connections, the script the position. The duration is how
/// long nothing of the channel needs to be renewed, if the script checked that.
fn read_published(
    value: Value,
    known: Option<KnownEpoch>,
) -> Result<(Published, Option<Duration>), BrokerError> {
    let parts = match (value, known) {
        (Value::Int(_), None) => return Ok((Published::default(), None)),
        (Value::Int(offset), Some(known)) => {
            let offset = u64::try_from(offset).map_err(|_| unexpected("publish"))?;
            let position = Some(StreamPosition { offset, epoch: known.epoch });
            return Ok((Published { position, duplicate: false }, None));
        }
        (Value::Array(parts), _) => parts,
        _ => return Err(unexpected("publish")),
    };
    let mut parts = parts.into_iter();
    let (duplicate, position) = (parts.next(), parts.next().zip(parts.next()));
    let Some(Value::Int(duplicate @ 0..=1)) = duplicate else { return Err(unexpected("publish")) };
    let lasts = match parts.next() {
        None => None,
        Some(Value::Int(ms)) => Some(Duration::from_millis(u64::try_from(ms).unwrap_or_default())),
        Some(_) => return Err(unexpected("publish")),
    };
    let position = position.map(|(offset, epoch)| read_position(offset, epoch)).transpose()?;
    Ok((Published { position, duplicate: duplicate == 1 }, lasts))
}

pub(super) fn read_position(offset: Value, epoch: Value) -> Result<StreamPosition, BrokerError> {
    let offset = u64::from_redis_value(offset).map_err(|_| unexpected("position"))?;
    let Value::BulkString(epoch) = epoch else { return Err(unexpected("position")) };
    let epoch = std::str::from_utf8(&epoch).ok().and_then(Epoch::parse);
    Ok(StreamPosition { offset, epoch: epoch.ok_or_else(|| unexpected("position"))? })
}

pub(super) fn unexpected(script: &str) -> BrokerError {
    BrokerError::Unexpected(format!("the {script} script returned something unexpected").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_kept_for_less_than_was_asked() {
        for (stream, position) in [(300, 60_000), (60_000, 2_592_000_000), (86_400_000, 60_000), (1, 60_000)]
        {
            let times = Times::new(stream, position);
            assert!(
                times.stream >= stream + times.renew && times.position >= position + times.renew,
                "{times:?}"
            );
        }
    }
}
