//! Channels that keep state by key: a hash of values, the order of the keys and their expiry, beside the channel's
//! stream. One script changes a key, another reads a page.
//!
//! Every script first removes a few expired keys and publishes their removal. Nodes check the channels that they have
//! subscribers of; the keys of a channel that no node checks expire as a whole.

use bytes::{Bytes, BytesMut};
use gateway_core::map::{
    ChangedKey, Cursor, KeyAction, MapChange, MapRetention, SetMode, StateFilter, StatePage, Suppressed,
    removal,
};
use redis::{Cmd, FromRedisValue, Value};
use shared::channel::Channel;
use shared::position::{Epoch, StreamPosition};
use shared::publication::{Keyed, Publication};
use shared::record::{decode_record, encode_record};

use super::RedisBroker;
use super::publish_script::{OutgoingPublication, read_position, ttl_millis, unexpected};
use super::redis_keys::RedisKeys;
use super::redis_link::OpenLink;
use super::script;
use crate::broker::measure::Operation;
use crate::broker::{BrokerError, ChangeRequest};

/// Bytes after which a page ends, so that other answers do not wait long behind it.
const PAGE_BYTES: u32 = 128 << 10;

/// The arguments of the script that changes a key.
#[derive(Debug)]
pub(super) struct KeyChange {
    common: MapScriptCommon,
    once: Option<(String, u64)>,
    key_ttl: u64,
    keys_max: u32,
    action: &'static str,
    key: Box<str>,
    record: BytesMut,
    removal: BytesMut,
    score: i64,
    mode: &'static str,
    refreshes: bool,
    expected: Option<StreamPosition>,
    version: (u64, Box<str>),
    /// Whether subscribers want patches.
    delta: bool,
}

/// The arguments that all scripts of these channels share.
#[derive(Debug)]
struct MapScriptCommon {
    slot: u16,
    keys: Vec<String>,
    epoch: Epoch,
    name: String,
    size: u32,
    stream_ttl: u64,
    position_ttl: u64,
}

impl MapScriptCommon {
    fn new(keys: &RedisKeys, position_ttl_ms: u64, channel: &Channel, keeping: &MapRetention) -> Self {
        let mut named: Vec<String> = keys.life().iter().map(|name| name.to_string()).collect();
        named.extend([
            keys.position(channel),
            keys.stream(channel),
            keys.state(channel),
            keys.order(channel),
            keys.expiry(channel),
        ]);
        let has_stream = keeping.stream.keeps_history();
        Self {
            slot: keys.slot(channel),
            keys: named,
            epoch: Epoch::from_random(rand::random()),
            name: keys.publications(channel),
            size: if has_stream { keeping.stream.size } else { 0 },
            stream_ttl: ttl_millis(keeping.stream.ttl),
            // The position lives as long as the keys: for ever if they do not expire.
            position_ttl: if keeping.key_ttl.is_some() { position_ttl_ms } else { 0 },
        }
    }

    fn fill(&self, command: &mut Cmd, up: &OpenLink, once: Option<&str>) {
        command.arg(self.keys.len() + usize::from(once.is_some())).arg(&self.keys).arg(once);
        command
            .arg(&*script::run_of(up))
            .arg(self.epoch.as_str())
            .arg(&self.name)
            .arg(self.size)
            .arg(self.stream_ttl)
            .arg(self.position_ttl);
    }
}

impl KeyChange {
    pub(super) fn new(keys: &RedisKeys, position_ttl_ms: u64, request: ChangeRequest) -> Self {
        let ChangeRequest { channel, change: MapChange { key, action, expected }, keeping, idempotency } =
            request;
        let common = MapScriptCommon::new(keys, position_ttl_ms, &channel, &keeping);
        let once = idempotency.as_ref().map(|once| (keys.once(&channel, &once.key), ttl_millis(once.ttl)));
        let made = Self {
            common,
            once,
            key_ttl: keeping.key_ttl.map_or(0, ttl_millis),
            keys_max: keeping.keys_max,
            action: "remove",
            key: key.clone(),
            record: BytesMut::new(),
            removal: BytesMut::new(),
            score: 0,
            mode: "any",
            refreshes: false,
            expected,
            version: (0, "".into()),
            delta: false,
        };
        match action {
            KeyAction::Remove { tags } => {
                let record = tags.map(|tags| encoded(&removal(&key, tags))).unwrap_or_default();
                Self { record, ..made }
            }
            KeyAction::Set(set) => {
                let version = set.version.map_or((0, "".into()), |version| (version.number, version.epoch));
                // With `quiet` nobody is told, so no removal is needed.
                let removal = match keeping.quiet {
                    true => BytesMut::new(),
                    false => encoded(&removal(&key, set.publication.tags.clone())),
                };
                let keyed = Keyed { key, score: set.score, version: version.0, ..Keyed::default() };
                let publication = Publication { keyed: Some(Box::new(keyed)), ..set.publication };
                let mode = match set.mode {
                    SetMode::Any => "any",
                    SetMode::IfNew => "if_new",
                    SetMode::IfExists => "if_exists",
                };
                let score = if keeping.ordered { set.score } else { 0 };
                let (record, refreshes) = (encoded(&publication), set.refreshes);
                let delta = publication.delta;
                Self { action: "set", record, removal, score, mode, refreshes, version, delta, ..made }
            }
        }
    }

    pub(super) fn fill(&self, mut command: Cmd, up: &OpenLink) -> Cmd {
        let (once, once_ttl) = match &self.once {
            Some((once, ttl)) => (Some(&**once), *ttl),
            None => (None, 0),
        };
        self.common.fill(&mut command, up, once);
        let expected = self.expected.map(|expected| (expected.offset.to_string(), expected.epoch));
        let (offset, epoch) = expected.unwrap_or((String::new(), Epoch::EMPTY));
        command
            .arg(self.key_ttl)
            .arg(self.keys_max)
            .arg(self.action)
            .arg(&*self.key)
            .arg(&self.record[..])
            .arg(&self.removal[..])
            .arg(self.score)
            .arg(self.mode)
            .arg(u8::from(self.refreshes))
            .arg(offset)
            .arg(epoch.as_str())
            .arg(self.version.0)
            .arg(&*self.version.1)
            .arg(once_ttl)
            // Outlives every key, so that the removal of the last one is published if a node is subscribed.
            .arg(self.key_ttl.saturating_mul(2).saturating_add(60_000))
            .arg(u8::from(self.delta));
        command
    }

    pub(super) fn has_key(&self) -> bool {
        self.once.is_some()
    }

    pub(super) fn slot(&self) -> u16 {
        self.common.slot
    }

    pub(super) fn bytes(&self) -> usize {
        self.record.len() + self.removal.len() + self.key.len()
    }
}

impl RedisBroker {
    /// Changes a key. Changes leave in the order of the calls, even if nobody waits, and in order with publications.
    pub(super) fn change_one_key(
        &self,
        request: ChangeRequest,
    ) -> impl Future<Output = Result<ChangedKey, BrokerError>> + use<> {
        let metrics = self.metrics_of(&request.channel);
        let change = KeyChange::new(&self.keys, self.position_ttl_ms, request);
        let answer = self.ways.push(OutgoingPublication::Key(Box::new(change)));
        async move {
            let changed = read_changed(answer.await?)?;
            match changed.suppressed {
                None => metrics.published.increment(),
                Some(Suppressed::Idempotency) => metrics.duplicates.increment(),
                Some(_) => {}
            }
            Ok(changed)
        }
    }

    pub(super) async fn read_keys(
        &self,
        channel: Channel,
        filter: StateFilter,
        keeping: MapRetention,
    ) -> Result<StatePage, BrokerError> {
        let common = MapScriptCommon::new(&self.keys, self.position_ttl_ms, &channel, &keeping);
        let cursor = Cursor::parse(&filter.cursor, keeping.ordered);
        let (way, from) = match &filter.key {
            Some(key) => ("key", &**key),
            None if !keeping.ordered => ("name", &*cursor.key),
            None if filter.ascending => ("ascending", &*cursor.key),
            None => ("score", &*cursor.key),
        };
        let fill = |command: &mut Cmd, up: &OpenLink| {
            common.fill(command, up, None);
            let enough = filter.enough_bytes.clamp(1, PAGE_BYTES);
            command.arg(filter.limit).arg(way).arg(cursor.score).arg(from).arg(enough);
        };
        let at = self.keys.position(&channel);
        let answer = self.reads.eval(Operation::History, &script::READ_STATE, &at, fill).await?;
        let page = read_page(answer, &keeping);
        if let Err(BrokerError::Unexpected(_)) = &page {
            self.metrics.undecodable.increment();
        }
        page
    }

    pub(super) async fn count_all_keys(&self, channel: Channel) -> Result<u64, BrokerError> {
        let mut command = redis::cmd("ZCARD");
        command.arg(self.keys.order(&channel));
        let count = self.link.call(Operation::History, &command).await?;
        u64::from_redis_value(count).map_err(|_| unexpected("keys"))
    }

    /// Removes all keys of the channel. The position goes too, so that a new epoch follows.
    pub(super) async fn clear_keys(&self, channel: Channel) -> Result<(), BrokerError> {
        let keys = &self.keys;
        let mut command = redis::cmd("UNLINK");
        command.arg(keys.position(&channel)).arg(keys.stream(&channel));
        command.arg(keys.state(&channel)).arg(keys.order(&channel)).arg(keys.expiry(&channel));
        self.link.call(Operation::History, &command).await.map(|_| ())
    }
}

fn encoded(publication: &Publication) -> BytesMut {
    let mut record = BytesMut::new();
    encode_record(publication, &mut record);
    record
}

fn read_changed(value: Value) -> Result<ChangedKey, BrokerError> {
    let Value::Array(parts) = value else { return Err(unexpected("change_key")) };
    let Ok([Value::BulkString(reason), offset, epoch]) = <[Value; 3]>::try_from(parts) else {
        return Err(unexpected("change_key"));
    };
    let position = Some(read_position(offset, epoch)?);
    match std::str::from_utf8(&reason) {
        Ok("") => Ok(ChangedKey { position, suppressed: None }),
        Ok("full") => Err(BrokerError::Full),
        Ok(reason) => {
            let suppressed = Some(Suppressed::parse(reason).ok_or_else(|| unexpected("change_key"))?);
            Ok(ChangedKey { position, suppressed })
        }
        Err(_) => Err(unexpected("change_key")),
    }
}

fn read_page(value: Value, keeping: &MapRetention) -> Result<StatePage, BrokerError> {
    let Value::Array(parts) = value else { return Err(unexpected("read_state")) };
    let Ok([offset, epoch, score, key, Value::Array(listed)]) = <[Value; 5]>::try_from(parts) else {
        return Err(unexpected("read_state"));
    };
    let top = read_position(offset, epoch)?;
    let (score, key): (i64, String) = (
        i64::from_redis_value(score).map_err(|_| unexpected("read_state"))?,
        String::from_redis_value(key).map_err(|_| unexpected("read_state"))?,
    );
    let mut entries = Vec::with_capacity(listed.len() / 2);
    let mut listed = listed.into_iter();
    while let (Some(offset), Some(Value::BulkString(record))) = (listed.next(), listed.next()) {
        let offset = u64::from_redis_value(offset).map_err(|_| unexpected("read_state"))?;
        let publication = decode_record(Bytes::from(record))
            .map_err(|error| BrokerError::Unexpected(format!("a key cannot be read: {error}").into()))?;
        let position = Some(StreamPosition { offset, ..top });
        entries.push(Publication { position, ..publication });
    }
    let cursor = if key.is_empty() { "".into() } else { Cursor::write(score, &key, keeping.ordered) };
    Ok(StatePage { entries, top: Some(top), cursor })
}
