//! Reads presence from Redis.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gateway_core::effect::PresenceStats;
use parking_lot::Mutex;
use redis::{Cmd, FromRedisValue, Value};
use shared::channel::Channel;
use shared::id::ClientId;
use shared::publication::ClientInfo;
use shared::record::decode_record;

use super::flush::{LEASE, millis};
use crate::broker::BrokerError;
use crate::broker::measure::Operation;
use crate::broker::redis::RedisBroker;
use crate::broker::redis::redis_link::OpenLink;
use crate::broker::redis::script::Script;
use crate::broker::shards::collect_answers::gather;

static READ: Script = Script::new(include_str!("scripts/read.lua"));

/// The greatest age of a list of live nodes. A part of the lease, if that is shorter.
const LIST_AGE_MAX: Duration = Duration::from_secs(1);

/// How much longer than the first of several places for leases the others may take.
const OTHER_PLACES: Duration = Duration::from_millis(250);

/// The names of the nodes whose lease is valid.
type LiveNodeNames = Arc<Vec<Vec<u8>>>;

/// A cached list of the nodes whose lease was valid a moment ago.
#[derive(Debug)]
pub(super) struct LiveNodes {
    age_max: Duration,
    known: Mutex<Option<(Instant, LiveNodeNames)>>,
}

impl LiveNodes {
    pub(super) fn new(lease: Duration) -> Self {
        Self { age_max: LIST_AGE_MAX.min(lease / 4), known: Mutex::new(None) }
    }

    pub(super) async fn read_clients(
        &self,
        broker: &RedisBroker,
        channel: Channel,
    ) -> Result<BTreeMap<ClientId, ClientInfo>, BrokerError> {
        let Value::Array(nodes) = self.read(broker, &channel, "clients").await? else {
            return Err(unexpected());
        };
        let mut clients = BTreeMap::new();
        for records in nodes {
            let Value::Array(records) = records else { return Err(unexpected()) };
            for record in records {
                let Value::BulkString(record) = record else { return Err(unexpected()) };
                let publication = decode_record(Bytes::from(record)).map_err(|error| {
                    broker.metrics().undecodable.increment();
                    BrokerError::Unexpected(
                        format!("the presence of {channel} cannot be read: {error}").into(),
                    )
                })?;
                let info = publication.info.ok_or_else(unexpected)?;
                clients.insert(info.client, info);
            }
        }
        Ok(clients)
    }

    pub(super) async fn read_stats(
        &self,
        broker: &RedisBroker,
        channel: Channel,
    ) -> Result<PresenceStats, BrokerError> {
        let value = self.read(broker, &channel, "stats").await?;
        let (clients, users) = <(u32, u32)>::from_redis_value(value).map_err(|_| unexpected())?;
        Ok(PresenceStats { clients, users })
    }

    async fn read(&self, broker: &RedisBroker, channel: &Channel, what: &str) -> Result<Value, BrokerError> {
        let known = self.known.lock().clone();
        let known = known.filter(|(at, _)| at.elapsed() < self.age_max).map(|(_, live)| live);
        let live = match known {
            Some(live) => live,
            None => self.list(broker).await?,
        };
        let key = broker.keys().present(channel);
        let unknown = match ask(broker, &key, what, &live, None).await? {
            PresenceReadOutcome::Answer(answer) => return Ok(answer),
            PresenceReadOutcome::Unknown(unknown) => unknown,
        };
        // These nodes were in the channel before the next list is made, and a node takes its lease before it writes:
        // nodes that are not on the new list are dead, and so are nodes that were on the list before. A node that
        // appears only after that is new.
        let before = live;
        let live = self.list(broker).await?;
        let known = unknown.into_iter().chain(before.iter().cloned());
        let dead: Vec<_> = known.filter(|name| !live.contains(name)).collect();
        match ask(broker, &key, what, &live, Some(&dead)).await? {
            PresenceReadOutcome::Answer(answer) => Ok(answer),
            PresenceReadOutcome::Unknown(_) => Err(unexpected()),
        }
    }

    async fn list(&self, broker: &RedisBroker) -> Result<LiveNodeNames, BrokerError> {
        let before = Instant::now();
        let (_, live) = read_leases(broker, "", Duration::ZERO, "").await?;
        *self.known.lock() = Some((before, live.clone()));
        Ok(live)
    }
}

pub(super) enum PresenceReadOutcome {
    Answer(Value),
    /// The channel names these nodes, which are not known to be alive.
    Unknown(Vec<Vec<u8>>),
}

/// Asks for the presence of a channel. With `dead`, removes those nodes and takes all others as alive.
pub(super) async fn ask(
    broker: &RedisBroker,
    key: &str,
    what: &str,
    live: &[Vec<u8>],
    dead: Option<&[Vec<u8>]>,
) -> Result<PresenceReadOutcome, BrokerError> {
    let fill = |command: &mut Cmd, _: &OpenLink| {
        command.arg(1).arg(key).arg(what).arg(u8::from(dead.is_some())).arg(live.len());
        for name in live.iter().chain(dead.unwrap_or_default()) {
            command.arg(name);
        }
    };
    let answer = broker.reads().eval(Operation::PresenceRead, &READ, key, fill).await?;
    let Value::Array(parts) = answer else { return Err(unexpected()) };
    match <[Value; 2]>::try_from(parts) {
        Ok([Value::Int(1), answer]) => Ok(PresenceReadOutcome::Answer(answer)),
        Ok([_, unknown]) => {
            Vec::from_redis_value(unknown).map(PresenceReadOutcome::Unknown).map_err(|_| unexpected())
        }
        Err(_) => Err(unexpected()),
    }
}

/// Renews the lease of `name`, if it is not empty, and ends that of `ending`, if that is not empty. Returns whether the
/// lease was valid until now, and the names of all nodes with a valid lease. With several places for leases a majority
/// is enough: a lease that one replaced server lacks is on another one.
pub(super) async fn read_leases(
    broker: &RedisBroker,
    name: &str,
    lease: Duration,
    ending: &str,
) -> Result<(bool, LiveNodeNames), BrokerError> {
    let places = broker.keys().presence_leases();
    if let [place] = &places[..] {
        let (held, names) = read_leases_at(broker, place, name, lease, ending).await?;
        return Ok((held, Arc::new(names)));
    }
    let reads = places.iter().map(|place| read_leases_at(broker, place, name, lease, ending));
    let (mut held, mut all) = (false, Vec::new());
    let given = gather(reads, OTHER_PLACES).await?;
    if 2 * given.len() <= places.len() {
        return Err(BrokerError::Unreachable("most Redis servers that hold leases do not answer".into()));
    }
    for (held_here, names) in given {
        held |= held_here;
        all.extend(names);
    }
    Ok((held, Arc::new(latest_of_each(all))))
}

/// Keeps only the latest name of each node: a place that was unreachable when a node changed its name still has the one before.
fn latest_of_each(names: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut latest: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    let mut others = BTreeSet::new();
    for name in names {
        let dot = name.iter().rposition(|byte| *byte == b'.');
        let number = dot.and_then(|dot| std::str::from_utf8(&name[dot + 1..]).ok()?.parse().ok());
        match (dot, number) {
            (Some(dot), Some(number)) => {
                let last = latest.entry(name[..dot].to_vec()).or_insert(number);
                *last = number.max(*last);
            }
            _ => {
                others.insert(name);
            }
        }
    }
    let named =
        latest.into_iter().map(|(node, number)| [&node[..], format!(".{number}").as_bytes()].concat());
    named.chain(others).collect()
}

async fn read_leases_at(
    broker: &RedisBroker,
    key: &str,
    name: &str,
    lease: Duration,
    ending: &str,
) -> Result<(bool, Vec<Vec<u8>>), BrokerError> {
    let fill = |command: &mut Cmd, _: &OpenLink| {
        command.arg(1).arg(key).arg(name).arg(millis(lease)).arg(ending);
    };
    let operation = if name.is_empty() { Operation::PresenceRead } else { Operation::PresenceWrite };
    let value = broker.link().eval(operation, &LEASE, key, fill).await?;
    let (held, names) = <(u8, Vec<Vec<u8>>)>::from_redis_value(value).map_err(|_| unexpected())?;
    Ok((held == 1, names))
}

fn unexpected() -> BrokerError {
    BrokerError::Unexpected("the presence scripts gave something they should not".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_present_under_the_name_that_it_took_last() {
        let names = ["a.b.9", "a.b.10", "odd", "c.1", "a.b.9", "odd"].map(|name| name.as_bytes().to_vec());
        let latest: Vec<String> =
            latest_of_each(names.into()).into_iter().map(|name| String::from_utf8(name).unwrap()).collect();
        assert_eq!(latest, ["a.b.10", "c.1", "odd"]);
    }
}
