//! Leases on tasks: each in a message of its own, beside the progress of its holder.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{decode_varint, encode_varint};
use tokio::time::Instant;

use super::NatsBroker;
use super::moment::now;
use super::nats_link::NatsLink;
use super::nats_names::StreamKind;
use super::stored::{JetStream, JetStreamError, MessageSelector, StoredMessage, code, odd};
use crate::broker::measure::Operation;
use crate::broker::{BrokerError, LeaseOutcome, LeaseRequest};

/// How long the progress of a task is kept after nobody continues it.
const UNUSED_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// The content of a lease's message.
struct StoredLease {
    node: Box<str>,
    lease_ms: u64,
    done: Box<str>,
}

impl NatsBroker {
    pub(super) async fn acquire_nats_lease(
        &self,
        taking: LeaseRequest<'_>,
    ) -> Result<LeaseOutcome, BrokerError> {
        let began = Instant::now();
        self.streams.ready(StreamKind::State).await?;
        let (stream, subject) = (self.names.stream(StreamKind::State), self.names.task_lease(taking.what));
        let outcome = acquire_lease_at(&self.jetstream, &self.link, &stream, &subject, taking).await;
        let outcome = outcome.map_err(|failed| self.state_failed(failed))?;
        self.metrics.observe_round_trip(Operation::Lease, began.elapsed());
        Ok(outcome)
    }
}

/// Acquires the lease stored under this subject, unless another node holds it.
pub(crate) async fn acquire_lease_at(
    jetstream: &JetStream,
    link: &NatsLink,
    stream: &str,
    subject: &str,
    taking: LeaseRequest<'_>,
) -> Result<LeaseOutcome, JetStreamError> {
    let LeaseRequest { node, lease, patience, done, .. } = taking;
    let deadline = Instant::now() + link.timeout();
    let patience = millis(patience);
    loop {
        if Instant::now() >= deadline {
            return Err(BrokerError::Timeout(link.timeout()).into());
        }
        let last = jetstream.get(link, stream, &MessageSelector::Last(subject.to_owned())).await?;
        let (now, after) = (now(), last.as_ref().map_or(0, |last| last.sequence));
        let known =
            last.map(|last| StoredLease::read(&last).map(|written| (written, last.written))).transpose()?;
        let known = known.map(|(written, since)| {
            let until = since.saturating_add(written.lease_ms);
            (written, until)
        });
        let known = known.filter(|(_, until)| now < until.saturating_add(millis(UNUSED_TTL)));
        let (known_done, over): (Box<str>, u64) = match known {
            None => ("".into(), 0),
            Some((written, until)) if *written.node == *node => (done.into(), now.saturating_sub(until)),
            Some((written, until)) if until.saturating_add(patience) > now => {
                return Ok(LeaseOutcome { held: false, done: written.done, over: Duration::ZERO });
            }
            Some((written, until)) => (written.done, now.saturating_sub(until)),
        };
        let written = StoredLease { node: node.into(), lease_ms: millis(lease), done: known_done.clone() };
        match jetstream.add(link, subject.to_owned(), after, false, written.encode()).await {
            Ok(_) => {
                return Ok(LeaseOutcome { held: true, done: known_done, over: Duration::from_millis(over) });
            }
            // Another node was first.
            Err(JetStreamError::Refused(code::WRONG_LAST_SEQUENCE, _)) => {}
            Err(failed) => return Err(failed),
        }
    }
}

impl StoredLease {
    fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        encode_varint(self.lease_ms, &mut out);
        encode_varint(self.node.len() as u64, &mut out);
        out.put_slice(self.node.as_bytes());
        out.put_slice(self.done.as_bytes());
        out.freeze()
    }

    fn read(stored: &StoredMessage) -> Result<Self, BrokerError> {
        let mut payload = stored.payload.clone();
        let mut number = || if payload.has_remaining() { decode_varint(&mut payload).ok() } else { None };
        let (lease_ms, length) = number().zip(number()).ok_or_else(|| odd("a turn"))?;
        let length = usize::try_from(length).ok().filter(|length| *length <= payload.len());
        let node = payload.split_to(length.ok_or_else(|| odd("a turn"))?);
        let text = |bytes: &[u8]| std::str::from_utf8(bytes).map(Into::into).map_err(|_| odd("a turn"));
        Ok(Self { node: text(&node)?, lease_ms, done: text(&payload)? })
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
