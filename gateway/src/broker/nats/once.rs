//! Idempotency keys: each is a message of its own, which is taken only if there is none.
//!
//! In a channel without history that message is the publication itself: it is sent on once it is taken. In one with history
//! the key is reserved first, then used, then said to be used. Whoever dies in between leaves a key that is reserved: who
//! comes later waits until nothing can come of it any more, looks for it in the history, and uses it if it is not there.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::future::join_all;
use prost::encoding::{decode_varint, encode_varint};
use shared::channel::Channel;
use shared::position::{EPOCH_BYTES_MAX, Epoch, StreamPosition};
use tokio::time::Instant;

use super::NatsBroker;
use super::moment::now;
use super::nats_names::{KEY_BYTES, StreamKind, class_of, digest_of};
use super::stored::{JetStreamError, MessageSelector, StoredMessage, code, odd};
use super::streams::KEY_SECONDS;
use crate::broker::{BrokerError, Idempotency, Published};

/// What the message of a key begins with. What a channel's subscribers are sent stands behind the time.
pub(super) const ONCE: u8 = 0xB2;
const RESERVED: u8 = 0xB3;
const USED: u8 = 0xB4;

/// How often it is looked again whether a key that somebody has reserved was used.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A key that is reserved for a publication.
#[derive(Clone, Debug)]
pub(super) struct KeyReservation {
    pub(super) digest: [u8; KEY_BYTES],
    /// Somebody else had it reserved, and never said that it was used.
    pub(super) taken_over: bool,
    subject: String,
    seconds: u32,
    sequence: u64,
    ttl_ms: u64,
}

/// What is known of a key.
enum KeyState {
    Free { after: u64 },
    Reserved { after: u64, since: u64 },
    Used(Option<StreamPosition>),
}

/// What came of a try to take a key.
enum TakenKey {
    /// The message is there, and whether there was one before that was never used.
    Ours {
        sequence: u64,
        taken_over: bool,
    },
    Used(Option<StreamPosition>),
    /// Somebody else has reserved it, and may be using it at this moment.
    Busy,
}

pub(super) enum KeyReserveOutcome {
    Ours(KeyReservation),
    Used(Published),
    Busy,
}

impl NatsBroker {
    /// Publishes what is not kept, unless its key was used.
    pub(super) async fn publish_once(
        &self,
        channel: &Channel,
        idempotency: &Idempotency,
        message: &[u8],
        deadline: Instant,
    ) -> Result<Published, BrokerError> {
        let (seconds, ttl_ms) = good_for(idempotency.ttl);
        let subject = self.names.published_once(seconds, channel, &idempotency.key);
        let mut payload = head(ONCE, ttl_ms);
        payload.put_slice(message);
        let payload = payload.freeze();
        loop {
            let duplicate = match self.take_key(seconds, &subject, payload.clone(), deadline).await? {
                TakenKey::Ours { .. } => false,
                TakenKey::Used(_) => true,
                // Nobody reserves these.
                TakenKey::Busy => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                    continue;
                }
            };
            return Ok(Published { position: None, duplicate });
        }
    }

    /// Reserves the key for a publication that is kept, or says what came of it.
    pub(super) async fn reserve(
        &self,
        channel: &Channel,
        idempotency: &Idempotency,
        deadline: Instant,
    ) -> Result<KeyReserveOutcome, BrokerError> {
        let (seconds, ttl_ms) = good_for(idempotency.ttl);
        let subject = self.names.key(seconds, channel, &idempotency.key);
        let payload = head(RESERVED, ttl_ms).freeze();
        Ok(match self.take_key(seconds, &subject, payload, deadline).await? {
            TakenKey::Ours { sequence, taken_over } => KeyReserveOutcome::Ours(KeyReservation {
                digest: digest_of(&idempotency.key),
                taken_over,
                subject,
                seconds,
                sequence,
                ttl_ms,
            }),
            TakenKey::Used(position) => KeyReserveOutcome::Used(Published { position, duplicate: true }),
            TakenKey::Busy => KeyReserveOutcome::Busy,
        })
    }

    /// Says that these keys were used. A key of which nobody can be told is as one whose user died.
    pub(super) async fn used(&self, used: Vec<(KeyReservation, StreamPosition)>) {
        let saying = used.into_iter().map(|(reservation, position)| async move {
            let mut payload = head(USED, reservation.ttl_ms);
            encode_varint(position.offset, &mut payload);
            payload.put_slice(position.epoch.as_str().as_bytes());
            let KeyReservation { subject, sequence, .. } = reservation;
            let acknowledged =
                self.jetstream.add(&self.link, subject, sequence, false, payload.freeze()).await;
            if let Err(JetStreamError::NoStream) = acknowledged {
                self.streams.doubt(StreamKind::Once(reservation.seconds));
            }
        });
        join_all(saying).await;
    }

    /// Lets go of keys that nothing came of.
    pub(super) async fn release(&self, reserved: impl Iterator<Item = KeyReservation>) {
        let releasing = reserved.map(|reservation| async move {
            let stream = self.names.stream(StreamKind::Once(reservation.seconds));
            // One that is left is as one whose user died.
            let _ = self.jetstream.delete(&self.link, &stream, reservation.sequence).await;
        });
        join_all(releasing).await;
    }

    /// Waits for nobody who has reserved it.
    async fn take_key(
        &self,
        seconds: u32,
        subject: &str,
        payload: Bytes,
        deadline: Instant,
    ) -> Result<TakenKey, BrokerError> {
        let kind = StreamKind::Once(seconds);
        // Most keys are new.
        let (mut after, mut taken_over) = (0, false);
        loop {
            if Instant::now() >= deadline {
                return Err(BrokerError::Timeout(self.timeout));
            }
            self.streams.ready(kind).await?;
            match self.jetstream.add(&self.link, subject.to_owned(), after, false, payload.clone()).await {
                Ok(sequence) => return Ok(TakenKey::Ours { sequence, taken_over }),
                Err(JetStreamError::Refused(code::WRONG_LAST_SEQUENCE, _)) => {}
                Err(JetStreamError::NoStream) => {
                    self.streams.doubt(kind);
                    continue;
                }
                Err(failed) => return Err(failed.into()),
            }
            let which = MessageSelector::Last(subject.to_owned());
            let last = self.jetstream.get(&self.link, &self.names.stream(kind), &which).await?;
            (after, taken_over) = match last.as_ref().map_or(Ok(KeyState::Free { after: 0 }), known)? {
                KeyState::Free { after } => (after, false),
                KeyState::Used(position) => return Ok(TakenKey::Used(position)),
                KeyState::Reserved { after, since } => {
                    // Twice as long as anything that began then can take.
                    let patience =
                        u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX).saturating_mul(2);
                    if now().saturating_sub(since) < patience {
                        return Ok(TakenKey::Busy);
                    }
                    (after, true)
                }
            };
        }
    }
}

/// The class of streams that a key is in, and how long it is good, in milliseconds.
fn good_for(ttl: Duration) -> (u32, u64) {
    let seconds = u32::try_from(ttl.as_secs().saturating_add(1)).unwrap_or(u32::MAX);
    let most = KEY_SECONDS[KEY_SECONDS.len() - 1];
    let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).min(u64::from(most) * 1_000);
    (class_of(seconds.min(most), &KEY_SECONDS), ttl_ms)
}

fn head(what: u8, ttl_ms: u64) -> BytesMut {
    let mut head = BytesMut::new();
    head.put_u8(what);
    encode_varint(ttl_ms, &mut head);
    head
}

/// What the last message of a key says of it.
fn known(stored: &StoredMessage) -> Result<KeyState, BrokerError> {
    let mut payload = stored.payload.clone();
    let what = payload.try_get_u8().map_err(|_| odd("an idempotency key"))?;
    let ttl_ms = decode_varint(&mut payload).map_err(|_| odd("an idempotency key"))?;
    if now() >= stored.written.saturating_add(ttl_ms) {
        return Ok(KeyState::Free { after: stored.sequence });
    }
    match what {
        ONCE => Ok(KeyState::Used(None)),
        RESERVED => Ok(KeyState::Reserved { after: stored.sequence, since: stored.written }),
        USED => {
            let offset = decode_varint(&mut payload).map_err(|_| odd("an idempotency key"))?;
            let epoch = (payload.len() <= EPOCH_BYTES_MAX).then_some(&payload[..]);
            let epoch = epoch.and_then(|epoch| Epoch::parse(std::str::from_utf8(epoch).ok()?));
            let epoch = epoch.ok_or_else(|| odd("an idempotency key"))?;
            Ok(KeyState::Used(Some(StreamPosition { offset, epoch })))
        }
        _ => Err(odd("an idempotency key")),
    }
}

/// What a channel's subscribers are sent of a message that is known by its key.
pub(super) fn message_of(mut payload: Bytes) -> Option<Bytes> {
    payload.try_get_u8().ok()?;
    decode_varint(&mut payload).ok()?;
    Some(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_in_the_stream_that_keeps_it_long_enough_and_no_longer_than_needed() {
        assert_eq!(good_for(Duration::from_millis(200)), (60, 200));
        assert_eq!(good_for(Duration::from_secs(59)).0, 60);
        assert_eq!(good_for(Duration::from_secs(60)).0, 600);
        assert_eq!(good_for(Duration::MAX).0, 31_536_000);
    }

    #[test]
    fn what_a_key_says_is_read_until_its_time_is_over() {
        let stored =
            |payload: BytesMut, written| StoredMessage { sequence: 7, written, payload: payload.freeze() };
        let used = || {
            let mut payload = head(USED, 1_000);
            encode_varint(3, &mut payload);
            payload.put_slice(b"epoch");
            payload
        };
        let position = StreamPosition { offset: 3, epoch: Epoch::parse("epoch").unwrap() };
        assert!(
            matches!(known(&stored(used(), now())).unwrap(), KeyState::Used(Some(found)) if found == position)
        );
        assert!(matches!(known(&stored(used(), now() - 1_000)).unwrap(), KeyState::Free { after: 7 }));
        let reserved = known(&stored(head(RESERVED, 1_000), now())).unwrap();
        assert!(matches!(reserved, KeyState::Reserved { after: 7, .. }));
        assert!(known(&stored(BytesMut::from(&b"x"[..]), now())).is_err());
        let mut once = head(ONCE, 1_000);
        once.put_slice(b":record");
        assert_eq!(message_of(once.freeze()).unwrap(), ":record");
    }
}
