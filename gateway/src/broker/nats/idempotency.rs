//! Idempotency keys. Each is a message of its own, which the server takes only if there is none.
//!
//! In a channel without history that message is the publication itself, which is republished once it is taken. In a
//! channel with history the key is reserved first, then used, then marked as used. A node that dies in between leaves a
//! reserved key: a later publisher waits until nothing can come of the reservation any more, looks for the key in the
//! history, and uses it if it is not there.

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

/// The first byte of a key's message that is the publication itself. The message for subscribers stands behind the TTL.
pub(super) const ONCE: u8 = 0xB2;
const RESERVED: u8 = 0xB3;
const USED: u8 = 0xB4;

/// The pause before a key that is reserved elsewhere is checked again.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A key that is reserved for a publication.
#[derive(Clone, Debug)]
pub(super) struct KeyReservation {
    pub(super) digest: [u8; KEY_BYTES],
    /// Whether the key had been reserved before, and never marked as used.
    pub(super) taken_over: bool,
    subject: String,
    seconds: u32,
    sequence: u64,
    ttl_ms: u64,
}

#[cfg(test)]
impl KeyReservation {
    pub(super) fn example(taken_over: bool) -> Self {
        let digest = [0; KEY_BYTES];
        Self { digest, taken_over, subject: "key".into(), seconds: 60, sequence: 1, ttl_ms: 1_000 }
    }
}

/// The state of a key.
enum KeyState {
    Free { after: u64 },
    Reserved { after: u64, since: u64 },
    Used(Option<StreamPosition>),
}

/// The result of an attempt to take a key.
enum TakenKey {
    /// The message is stored. `taken_over`: there was a reservation before that was never marked as used.
    Ours {
        sequence: u64,
        taken_over: bool,
    },
    Used(Option<StreamPosition>),
    /// Somebody else has reserved the key, and may be using it at this moment.
    Busy,
}

pub(super) enum KeyReserveOutcome {
    Ours(KeyReservation),
    Used(Published),
    Busy,
}

impl NatsBroker {
    /// Publishes without history, unless the key was used.
    pub(super) async fn publish_once(
        &self,
        channel: &Channel,
        idempotency: &Idempotency,
        message: &[u8],
        deadline: Instant,
    ) -> Result<Published, BrokerError> {
        let (seconds, ttl_ms) = class_and_ttl(idempotency.ttl);
        let subject = self.names.published_once(seconds, channel, &idempotency.key);
        let mut payload = head(ONCE, ttl_ms);
        payload.put_slice(message);
        let payload = payload.freeze();
        loop {
            let duplicate = match self.take_key(seconds, &subject, payload.clone(), deadline).await? {
                TakenKey::Ours { .. } => false,
                TakenKey::Used(_) => true,
                // Keys of this kind are never reserved.
                TakenKey::Busy => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                    continue;
                }
            };
            return Ok(Published { position: None, duplicate });
        }
    }

    /// Reserves the key for a publication with history, or returns the result of the earlier publication.
    pub(super) async fn reserve(
        &self,
        channel: &Channel,
        idempotency: &Idempotency,
        deadline: Instant,
    ) -> Result<KeyReserveOutcome, BrokerError> {
        let (seconds, ttl_ms) = class_and_ttl(idempotency.ttl);
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

    /// Marks these keys as used. A key for which that fails remains as if its publisher had died.
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

    /// Releases keys whose publications were not made.
    pub(super) async fn release(&self, reserved: impl Iterator<Item = KeyReservation>) {
        let releasing = reserved.map(|reservation| async move {
            let stream = self.names.stream(StreamKind::Once(reservation.seconds));
            // A key that is not released remains as if its publisher had died.
            let _ = self.jetstream.delete(&self.link, &stream, reservation.sequence).await;
        });
        join_all(releasing).await;
    }

    /// Takes a key. Does not wait if somebody else has reserved it.
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
            (after, taken_over) =
                match last.as_ref().map_or(Ok(KeyState::Free { after: 0 }), read_key_state)? {
                    KeyState::Free { after } => (after, false),
                    KeyState::Used(position) => return Ok(TakenKey::Used(position)),
                    KeyState::Reserved { after, since } => {
                        // Twice as long as a publication that was begun then can take.
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

/// Returns the class of streams that a key is in, and its TTL in milliseconds.
fn class_and_ttl(ttl: Duration) -> (u32, u64) {
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

/// Reads the state of a key from its last message.
fn read_key_state(stored: &StoredMessage) -> Result<KeyState, BrokerError> {
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

/// Returns the message for subscribers from a key's message that is the publication itself.
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
        assert_eq!(class_and_ttl(Duration::from_millis(200)), (60, 200));
        assert_eq!(class_and_ttl(Duration::from_secs(59)).0, 60);
        assert_eq!(class_and_ttl(Duration::from_secs(60)).0, 600);
        assert_eq!(class_and_ttl(Duration::MAX).0, 31_536_000);
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
            matches!(read_key_state(&stored(used(), now())).unwrap(), KeyState::Used(Some(found)) if found == position)
        );
        assert!(matches!(
            read_key_state(&stored(used(), now() - 1_000)).unwrap(),
            KeyState::Free { after: 7 }
        ));
        let reserved = read_key_state(&stored(head(RESERVED, 1_000), now())).unwrap();
        assert!(matches!(reserved, KeyState::Reserved { after: 7, .. }));
        assert!(read_key_state(&stored(BytesMut::from(&b"x"[..]), now())).is_err());
        let mut once = head(ONCE, 1_000);
        once.put_slice(b":record");
        assert_eq!(message_of(once.freeze()).unwrap(), ":record");
    }
}
