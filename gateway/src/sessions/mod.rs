//! Stored sessions, to which clients may come back on any node: the state of each, until its client has been away for too long.
//!
//! A session is stored under a hash of its secret name, in this process ([`memory`]), in Redis ([`redis`]) or in NATS
//! ([`nats`]). One connection holds it, and writes by others are refused. The connection's node prolongs it for as long
//! as the connection lives, so that it outlives the node by the configured time.

pub mod memory;
pub mod nats;
pub mod redis;
pub mod shards;

mod session_keeper;

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use shared::id::ClientId;
use shared::position::{Epoch, StreamPosition};
use shared::protocol::socketio::{FollowedChannel, SessionOffsets};

use crate::broker::BrokerError;
use crate::client_key::ClientKey;

pub(crate) use session_keeper::{HoldEnd, SessionKeeper};

/// The key under which a session is stored.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SessionKey(Cow<'static, str>);

/// Identifies the connection that holds a session: a random number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Holder(pub u64);

/// A connection of this node as a holder of sessions. Clones stand for the same connection.
#[derive(Clone, Debug)]
pub(crate) struct SessionHolder {
    pub(crate) holder: Holder,
    pub(crate) key: ClientKey,
    /// Set once the connection is gone: how its sessions end, also those that are stored only after that.
    gone: Arc<OnceLock<HoldEnd>>,
}

impl SessionHolder {
    pub(crate) fn new(holder: Holder, key: ClientKey) -> Self {
        Self { holder, key, gone: Arc::default() }
    }
}

/// The result of prolonging a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenewOutcome {
    Prolonged,
    /// The session does not exist: Redis has lost or expired it.
    Lost,
    /// Another connection holds the session.
    Taken,
    /// The store cannot be reached for this session now.
    Unknown,
}

/// A session as it is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredSession {
    pub holder: Holder,
    /// Counts the changes by this holder, so that an older state never replaces a newer one.
    pub version: u64,
    pub value: Bytes,
}

/// Stores sessions. Every call ends by itself, as those of brokers do.
pub trait SessionStore: Send + Sync + std::fmt::Debug {
    /// Writes a holder's state of a session. Returns `false`, and does nothing, if another holder has it; also if
    /// another was the last one to have it and the store still knows.
    fn write<'a>(
        &'a self,
        key: &'a SessionKey,
        stored: StoredSession,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool, BrokerError>>;

    /// Passes a session from the holder that it was read from to a new one. Returns `false` if that holder does not
    /// have it any more.
    fn take<'a>(
        &'a self,
        key: &'a SessionKey,
        from: Holder,
        stored: StoredSession,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool, BrokerError>>;

    fn read<'a>(&'a self, key: &'a SessionKey) -> BoxFuture<'a, Result<Option<StoredSession>, BrokerError>>;

    /// Prolongs these sessions by the given times, as far as the given holders have them.
    fn prolong<'a>(
        &'a self,
        sessions: &'a [(SessionKey, Holder, Duration)],
    ) -> BoxFuture<'a, Result<Vec<RenewOutcome>, BrokerError>>;

    /// Removes a session, if this holder has it.
    fn remove<'a>(&'a self, key: &'a SessionKey, holder: Holder) -> BoxFuture<'a, Result<(), BrokerError>>;
}

impl SessionKey {
    /// The key that sorts before all others.
    const LEAST: Self = Self(Cow::Borrowed(""));

    /// Hashes the name, so that a reader of the store cannot resume a session.
    pub fn of(pid: &str) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, pid.as_bytes());
        let hex = digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}"));
        Self(hex.collect::<String>().into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The stored state of a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionRecord {
    /// The id that the client had, and has again when it comes back.
    pub client: ClientId,
    pub user: Box<str>,
    pub namespace: Box<str>,
    /// The node that has, or had, the session's connection.
    pub node: Box<str>,
    pub offsets: SessionOffsets,
}

/// The serialized form, so that a rename above cannot change what other releases read.
#[derive(Serialize, Deserialize)]
struct SessionRecordBody {
    v: u32,
    client: Box<str>,
    user: Box<str>,
    namespace: Box<str>,
    node: Box<str>,
    next: u32,
    /// Number, channel, offset and epoch.
    followed: Vec<(u32, Box<str>, u64, Box<str>)>,
}

/// Raised whenever an older node would misread a session. Sessions of another version are ignored.
const VERSION: u32 = 1;

impl SessionRecord {
    pub fn encode(&self) -> Bytes {
        let followed = self.offsets.followed.iter().map(|FollowedChannel { number, channel, since }| {
            (*number, channel.clone(), since.offset, since.epoch.as_str().into())
        });
        let written = SessionRecordBody {
            v: VERSION,
            client: self.client.to_string().into(),
            user: self.user.clone(),
            namespace: self.namespace.clone(),
            node: self.node.clone(),
            next: self.offsets.next,
            followed: followed.collect(),
        };
        serde_json::to_vec(&written).unwrap_or_default().into()
    }

    /// Returns `None` for a session that this release does not understand.
    pub fn decode(value: &[u8]) -> Option<Self> {
        let written: SessionRecordBody = serde_json::from_slice(value).ok()?;
        if written.v != VERSION {
            return None;
        }
        let followed = written.followed.into_iter().map(|(number, channel, offset, epoch)| {
            Some(FollowedChannel {
                number,
                channel,
                since: StreamPosition { offset, epoch: Epoch::parse(&epoch)? },
            })
        });
        let offsets = SessionOffsets { followed: followed.collect::<Option<_>>()?, next: written.next };
        let client = ClientId::parse(&written.client)?;
        Some(Self { client, user: written.user, namespace: written.namespace, node: written.node, offsets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_reads_back_as_it_was_written() {
        let since = StreamPosition { offset: 7, epoch: Epoch::parse("life").unwrap() };
        let followed = vec![FollowedChannel { number: 3, channel: "socketio:a%20b".into(), since }];
        let record = SessionRecord {
            client: ClientId::from_random(5),
            user: "ann \"x\"".into(),
            namespace: "/".into(),
            node: "n".into(),
            offsets: SessionOffsets { followed, next: 9 },
        };
        let written = record.encode();
        assert_eq!(SessionRecord::decode(&written), Some(record));
        for other in ["", "{}", "[]", r#"{"v":2}"#] {
            assert_eq!(SessionRecord::decode(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_key_does_not_tell_the_name() {
        let key = SessionKey::of("secret");
        assert_eq!(key.as_str().len(), 32);
        assert_ne!(key, SessionKey::of("secreu"));
    }
}
