//! Sessions that their clients may come back to, at whichever node: what each was, until its client has been away too long.
//!
//! A session is kept under a hash of its secret name, in this process ([`memory`]), in Redis ([`redis`]) or in NATS ([`nats`]). One connection
//! holds it: what others write to it is not taken. Its node prolongs it for as long as the connection lives, so that it
//! outlives the node by what is configured.

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

/// Under what a session is kept.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SessionKey(Cow<'static, str>);

/// Which connection holds a session. A number that is drawn for each.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Holder(pub u64);

/// A connection of this node, as one that holds sessions. Its clones are the same connection.
#[derive(Clone, Debug)]
pub(crate) struct SessionHolder {
    pub(crate) holder: Holder,
    pub(crate) key: ClientKey,
    /// Set once it is gone: what becomes of its sessions, also of one that is only noted after that.
    gone: Arc<OnceLock<HoldEnd>>,
}

impl SessionHolder {
    pub(crate) fn new(holder: Holder, key: ClientKey) -> Self {
        Self { holder, key, gone: Arc::default() }
    }
}

/// What became of a session that its holder wants to keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenewOutcome {
    Prolonged,
    /// It is not there: Redis has lost it, or forgotten it.
    Lost,
    /// Another holds it.
    Taken,
    /// It cannot be asked about now.
    Unknown,
}

/// A session as it is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredSession {
    pub holder: Holder,
    /// How often it was changed by this holder: what is older is not written over what is newer.
    pub version: u64,
    pub value: Bytes,
}

/// Every call ends by itself, as those of brokers do.
pub trait SessionStore: Send + Sync + std::fmt::Debug {
    /// Writes what a holder has of a session. Returns `false`, and does nothing, if another holds it; also
    /// where another was the last to hold it, if the store has it still.
    fn write<'a>(
        &'a self,
        key: &'a SessionKey,
        stored: StoredSession,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool, BrokerError>>;

    /// Passes a session on from the holder it was read of. Returns `false` if that holds it no more.
    fn take<'a>(
        &'a self,
        key: &'a SessionKey,
        from: Holder,
        stored: StoredSession,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool, BrokerError>>;

    fn read<'a>(&'a self, key: &'a SessionKey) -> BoxFuture<'a, Result<Option<StoredSession>, BrokerError>>;

    /// Keeps these for so long from now on, as far as they are of these holders.
    fn prolong<'a>(
        &'a self,
        sessions: &'a [(SessionKey, Holder, Duration)],
    ) -> BoxFuture<'a, Result<Vec<RenewOutcome>, BrokerError>>;

    /// Forgets a session, if this holder holds it.
    fn remove<'a>(&'a self, key: &'a SessionKey, holder: Holder) -> BoxFuture<'a, Result<(), BrokerError>>;
}

impl SessionKey {
    /// No other sorts before it.
    const LEAST: Self = Self(Cow::Borrowed(""));

    /// Whoever reads what is kept cannot come back to it.
    pub fn of(pid: &str) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, pid.as_bytes());
        let hex = digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}"));
        Self(hex.collect::<String>().into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What is kept of a session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionRecord {
    /// Who the client was, and is again.
    pub client: ClientId,
    pub user: Box<str>,
    pub namespace: Box<str>,
    /// Where its connection is, or was.
    pub node: Box<str>,
    pub offsets: SessionOffsets,
}

/// The written form, so that a rename above cannot change what other releases read.
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

/// Raised whenever an older node would misread a session. Those of another version are none.
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

    /// `None` for what this release does not understand.
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
