//! Makes a channel's log short while it is used: writes the state down as a base, with the changes that were made
//! meanwhile, and puts the base in place of the log.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use gateway_core::history::KeysBeside;
use shared::channel::Channel;
use tokio::time::Instant;

use super::super::NatsBroker;
use super::super::nats_names::StreamKind;
use super::cached_maps::{FollowedMap, MapTail};
use super::follow_map::OpenMap;
use super::map_message::MapRow;
use super::write_base::{BaseWriter, chunk_bytes};
use crate::broker::BrokerError;

/// A log is made short when the messages behind its base cost this many bytes, and half of what the base costs: then the
/// whole state is written down once for changes of half its size.
const LOG_BYTES: usize = 256 << 10;
const BASE_SHARE: usize = 2;
/// A base that the server drops by its age is replaced when it has this share of the age.
const AGE_SHARE: u32 = 4;
/// How long an attempt may take.
const SHORTENING_MAX: Duration = Duration::from_secs(60);
/// How often an attempt tries to put its base in place. Each try takes a round trip in which no other node may write.
const TRIES_MAX: u32 = 50;

/// How long a node waits before it tries again to replace a base because of its age. Without it, each write would begin
/// an attempt while attempts fail. A quarter of the least `position_ttl_s` is 15 s: an attempt still falls between a
/// quarter and half of it.
const AGED_PAUSE: Duration = Duration::from_secs(10);

/// Returns whether this node has to make the log short: of several nodes, the one whose message, of `own` bytes, made the
/// log so long.
fn is_long(followed: &FollowedMap, own: usize) -> bool {
    let each = LOG_BYTES.max(followed.base_bytes / BASE_SHARE);
    followed.log_bytes / each > followed.log_bytes.saturating_sub(own) / each
}

/// Returns whether a base has to be replaced now because of its age.
fn is_aged(followed: &FollowedMap, age: Duration, position_ttl: Duration, now: Instant) -> bool {
    let began = followed.shortening_began;
    age > position_ttl / AGE_SHARE && began.is_none_or(|began| now.duration_since(began) >= AGED_PAUSE)
}

impl NatsBroker {
    /// Begins an attempt to make the log short if it is due, unless one is in progress. This node has just added a
    /// message that costs `own` bytes.
    pub(super) fn shorten_if_due(&self, open: &mut OpenMap, own: usize, now: u64) {
        let (expires, followed) = (open.beside == KeysBeside::Expiring, &mut *open.followed);
        let (age, at) = (Duration::from_millis(now.saturating_sub(followed.based)), Instant::now());
        let is_aged = expires && is_aged(followed, age, self.position_ttl, at);
        if followed.tail.is_some() || !(is_long(followed, own) || is_aged) {
            return;
        }
        followed.shortening_began = Some(at);
        let (broker, channel, beside) = (self.own(), open.channel.clone(), open.beside);
        tokio::spawn(async move { broker.shorten_map(channel, beside).await });
    }

    async fn shorten_map(self: Arc<Self>, channel: Channel, beside: KeysBeside) {
        let owner = rand::random();
        let mut unused = None;
        let shortening = self.try_to_shorten(owner, &channel, beside, &mut unused);
        let done = match tokio::time::timeout(SHORTENING_MAX, shortening).await {
            Ok(done) => done,
            Err(_) => Err(BrokerError::Timeout(SHORTENING_MAX)),
        };
        if let Some(parts) = unused {
            // Parts that cannot be deleted now are deleted with those of the next base.
            let stream = self.names.stream(StreamKind::Keys(beside));
            let _ = self.jetstream.purge(&self.link, &stream, &parts).await;
        }
        let Err(error) = done else { return };
        if let Some(map) = self.maps.find(beside, &channel) {
            map.followed.lock().await.tail.take_if(|tail| tail.owner == owner);
        }
        if let Some(suppressed) = self.unshortened_log.admit() {
            tracing::warn!(%error, %channel, suppressed, "the log of a channel that keeps state by key could not be made \
                shorter; it is tried again when it is longer");
        }
    }

    /// `unused`: the subject of the parts that were written, as long as no base can name them.
    async fn try_to_shorten(
        &self,
        owner: u64,
        channel: &Channel,
        beside: KeysBeside,
        unused: &mut Option<String>,
    ) -> Result<(), BrokerError> {
        let open = async || self.open_map(channel, beside, Instant::now() + self.timeout).await;
        let chunk_bytes = chunk_bytes(self);
        let (mut writer, chunks, life) = {
            let mut open = open().await?;
            if open.followed.tail.is_some() {
                return Ok(());
            }
            open.followed.tail = Some(MapTail { owner, ..MapTail::default() });
            let chunks = open.followed.fold.write_down(chunk_bytes);
            (BaseWriter::new(self, &open, "at"), chunks, open.live.name.clone())
        };
        *unused = Some(writer.subject.clone());
        writer.add_all(chunks).await.map_err(|failed| self.map_failed(beside, failed))?;
        for _ in 0..TRIES_MAX {
            let long_tail = {
                let mut open = open().await?;
                self.follow_map(&mut open).await?;
                let is_same_life = open.live.name == life;
                let followed = &mut *open.followed;
                // Another node has made the log short, or there were too many changes meanwhile.
                let is_own = |tail: &&mut MapTail| is_same_life && tail.owner == owner;
                let Some(tail) = followed.tail.as_mut().filter(is_own) else { return Ok(()) };
                if tail.bytes <= chunk_bytes {
                    let mut base = writer.base.clone();
                    base.rows = with_messages(&base.rows, &tail.messages);
                    (base.covers, base.head, base.time) =
                        (followed.sequence, followed.fold.head(), followed.fold.time);
                    // While the outcome is unknown, the base may be in place and name these parts.
                    let parts = unused.take();
                    match self.put_base(&mut open, base).await {
                        Ok(true) => {
                            self.drop_map_parts(&open).await;
                            return Ok(());
                        }
                        Err(error) if error.is_outcome_unknown() => return Err(error),
                        refused => {
                            *unused = parts;
                            refused?;
                        }
                    }
                    None
                } else {
                    Some(std::mem::replace(tail, MapTail { owner, ..MapTail::default() }))
                }
            };
            if let Some(MapTail { messages, .. }) = long_tail {
                // The rows in the message of the base are older than these changes, so they go first.
                let mut some = BytesMut::from(&std::mem::take(&mut writer.base.rows)[..]);
                let mut full = Vec::new();
                for (written, message) in messages {
                    let before = some.len();
                    MapRow::Done(written, message).encode(&mut some);
                    if before > 0 && some.len() > chunk_bytes {
                        let last = some.split_off(before);
                        full.push(std::mem::replace(&mut some, last).freeze());
                    }
                }
                full.push(some.freeze());
                for rows in full {
                    writer.add(rows).await.map_err(|failed| self.map_failed(beside, failed))?;
                }
            }
        }
        Err(BrokerError::Unanswered(format!("others have written each of {TRIES_MAX} times").into()))
    }
}

/// Returns these rows, followed by the changes after them.
fn with_messages(rows: &bytes::Bytes, messages: &[(u64, bytes::Bytes)]) -> bytes::Bytes {
    let mut all = BytesMut::from(&rows[..]);
    messages.iter().for_each(|(written, message)| MapRow::Done(*written, message.clone()).encode(&mut all));
    all.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_made_short_once_each_time_that_it_costs_so_much_and_half_of_its_base() {
        let due = |log_bytes, base_bytes, own| {
            is_long(&FollowedMap { log_bytes, base_bytes, ..FollowedMap::default() }, own)
        };
        assert!(!due(LOG_BYTES - 1, 0, 1_000));
        assert!(due(LOG_BYTES, 0, 1) && due(LOG_BYTES + 999, 0, 1_000));
        assert!(!due(LOG_BYTES + 1_000, 0, 1_000), "who made it so does it");
        assert!(due(2 * LOG_BYTES, 0, 1));
        assert!(!due(2 * LOG_BYTES, 8 * LOG_BYTES, 1) && due(4 * LOG_BYTES, 8 * LOG_BYTES, 1));
    }

    #[test]
    fn a_base_that_is_old_is_replaced_in_attempts_with_a_pause_between_them() {
        let (ttl, began) = (Duration::from_secs(60), Instant::now());
        let mut followed = FollowedMap::default();
        assert!(!is_aged(&followed, Duration::from_secs(15), ttl, began));
        assert!(is_aged(&followed, Duration::from_secs(16), ttl, began));
        followed.shortening_began = Some(began);
        let aged_at =
            |followed: &FollowedMap, later| is_aged(followed, Duration::from_secs(17), ttl, began + later);
        assert!(!aged_at(&followed, AGED_PAUSE / 2));
        followed.reset();
        assert!(!aged_at(&followed, AGED_PAUSE / 2), "also when the log was read anew meanwhile");
        assert!(aged_at(&followed, AGED_PAUSE));
    }
}
