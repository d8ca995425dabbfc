//! A JetStream stream, read by one node at a time through a durable pull consumer.
//!
//! The right to read is a lease: a message in a separate stream, changed by compare-and-set. A node that takes the
//! lease over recreates the consumer behind the acknowledged messages, so that it begins with the messages that the
//! node before it had not finished.

mod consume;
mod nats_feed_config;
mod parse_delivery;

use std::collections::HashMap;
use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use serde_json::{Value, json};

pub use self::nats_feed_config::{Format, NatsFeedConfig};
use self::parse_delivery::ReceivedMessage;
use super::feed_config::FeedConfig;
use super::source::{Bounds, FeedSource, FieldKey, Lag, SettledRecord, SourceCheck, SourceError, SourceItem};
use crate::broker::nats::moment::now;
use crate::broker::nats::nats_link::{NatsLink, NatsLinkPurpose, is_unheard};
use crate::broker::nats::nats_names::token;
use crate::broker::nats::stored::{JetStream, JetStreamError, MessageSelector, code};
use crate::broker::nats::{NatsConfig, NatsConnectError, NatsDialer, acquire_lease_at};
use crate::broker::{LeaseOutcome, LeaseRequest};

/// How long the lease lasts from each renewal on.
const LEASE_TTL: Duration = Duration::from_secs(5);

/// The stream, and this node as its reader.
pub(super) struct NatsStream {
    dialer: NatsDialer,
    name: String,
    reader: String,
    timeout: Duration,
    replicas: u8,
    jetstream: JetStream,
    settings: NatsFeedConfig,
    bounds: Bounds,
    words: Vec<(FieldKey, String)>,
    /// The stream of leases, and the subject of this feed's lease in it.
    turns: String,
    turn: String,
    /// The subject of dead letters.
    dead: String,
    /// The sequence up to which everything is acknowledged, as far as this node knows. It is stored with the lease, so
    /// that a lost consumer can be recreated where it was.
    done: u64,
    open: Option<NatsConsumer>,
}

/// An open connection, and the messages that were delivered on it.
struct NatsConsumer {
    link: NatsLink,
    /// Whether this node has the lease and the consumer is ready.
    reads: bool,
    fetched: Vec<ReceivedMessage>,
    held: HashMap<Box<str>, ReceivedMessage>,
    /// The number of messages that the consumer has delivered, all of them to this node.
    delivered: u64,
}

impl NatsConsumer {
    /// Forgets the delivered messages, because another node has the lease and receives them again.
    fn lose_lease(&mut self) {
        self.reads = false;
        self.fetched.clear();
        self.held.clear();
    }

    /// Checks that no message went to another node. One that has lost the lease without knowing it may still pull
    /// messages; then this node has to begin again.
    fn next(&mut self, received: ReceivedMessage) -> Result<ReceivedMessage, String> {
        self.delivered += 1;
        if received.delivery != self.delivered {
            return Err("another client reads through the same consumer".to_owned());
        }
        Ok(received)
    }
}

impl NatsStream {
    /// Creates the source. `node` is unique to this run of the node.
    pub(super) fn new(
        name: &str,
        feed: &FeedConfig,
        nats: &NatsConfig,
        node: &str,
    ) -> Result<Self, NatsConnectError> {
        let settings = feed.nats.clone();
        let nats = settings.nats(nats);
        let (prefix, stream, consumer) = (&nats.prefix, token(&settings.stream), token(&settings.consumer));
        let words = feed.fields.names().map(|(word, name)| (word, name.to_owned()));
        Ok(Self {
            dialer: NatsDialer::new(&nats)?,
            name: format!("{prefix}:{node}:feed:{name}"),
            reader: format!("{node}:{name}"),
            timeout: nats.timeout(),
            replicas: nats.replicas,
            jetstream: JetStream::new(&nats.domain, false),
            turns: format!("{prefix}_feeds"),
            turn: format!("{prefix}.f.{stream}.{consumer}"),
            dead: format!("{prefix}.dead.{}", token(&settings.dead_letters())),
            settings,
            done: 0,
            bounds: feed.bounds(),
            words: words.into(),
            open: None,
        })
    }

    async fn take_next(&mut self) -> Result<SourceItem, SourceError> {
        let taken = self.try_to_take().await;
        taken.map_err(|problem| self.lost(&problem))
    }

    async fn try_to_take(&mut self) -> Result<SourceItem, String> {
        self.open().await?;
        let turn = self.acquire_lease(LEASE_TTL).await?;
        let Some(open) = &mut self.open else { return Err("it is not open".to_owned()) };
        if !turn.held {
            open.lose_lease();
            return Ok(SourceItem::NotOurs);
        }
        if !open.reads {
            self.done = turn.done.parse().unwrap_or_default();
            self.prepare().await?;
        }
        let Some(open) = &mut self.open else { return Err("it is not open".to_owned()) };
        let mut received = std::mem::take(&mut open.fetched);
        let Bounds { records_max, bytes_max, .. } = self.bounds;
        if received.len() < records_max {
            let left = bytes_max.saturating_sub(received.iter().map(ReceivedMessage::bytes).sum()).max(1_024);
            let batch = records_max - received.len();
            let more = consume::pull(&self.jetstream, &open.link, &self.settings, batch, left, None).await;
            for message in more.map_err(|error| error.to_string())? {
                received.push(open.next(ReceivedMessage::read(message)?)?);
            }
        }
        let record_bytes_max = self.bounds.record_bytes_max;
        let records =
            received.iter().map(|one| one.record(&self.words, self.settings.format, record_bytes_max));
        let records = records.collect();
        open.held = received.into_iter().map(|one| (one.position(), one)).collect();
        Ok(SourceItem::Records(records))
    }

    /// Makes sure that the consumer exists and delivers all unacknowledged messages in order.
    async fn prepare(&mut self) -> Result<(), String> {
        let Some(open) = &self.open else { return Err("it is not open".to_owned()) };
        let (jetstream, link, settings) = (&self.jetstream, &open.link, &self.settings);
        let keeps = consume::look_at_stream(jetstream, link, settings).await?;
        let begins = match consume::look(jetstream, link, settings).await? {
            Some(progress) if progress.open == 0 => {
                self.begin_reading(progress.delivered);
                return Ok(());
            }
            Some(progress) => {
                self.done = progress.done;
                // The lease stores `done` before the consumer is deleted.
                if !self.acquire_lease(LEASE_TTL).await?.held {
                    return Err("this node has lost its lease on the stream".to_owned());
                }
                consume::unmake(jetstream, link, settings).await?;
                Some(progress.done)
            }
            None => Some(self.done).filter(|done| *done > 0),
        };
        consume::make(jetstream, link, settings, self.bounds, (keeps, begins)).await?;
        self.begin_reading(0);
        Ok(())
    }

    fn begin_reading(&mut self, delivered: u64) {
        if let Some(open) = &mut self.open {
            open.reads = true;
            open.delivered = delivered;
        }
    }

    /// Connects, and finds or creates the stream of leases.
    async fn open(&mut self) -> Result<(), String> {
        if self.open.is_some() {
            return Ok(());
        }
        let options = self.dialer.options(&self.name).map_err(|error| error.to_string())?;
        let (servers, metrics) = (self.dialer.servers(), std::sync::Arc::default());
        let nothing = Box::new(|| {});
        let link =
            NatsLink::start(servers, options, NatsLinkPurpose::Commands, self.timeout, metrics, nothing)
                .await;
        let link = link.map_err(|error| error.to_string())?;
        link.connected().await.map_err(|error| error.to_string())?;
        link.can_replicate(self.replicas).map_err(|error| error.to_string())?;
        let turns = json!({
            "name": self.turns,
            "subjects": [format!("{}.*.*", self.turn.rsplitn(3, '.').last().unwrap_or_default())],
            "retention": "limits",
            "storage": "file",
            "num_replicas": self.replicas,
            "max_msgs_per_subject": 1,
        });
        make(&self.jetstream, &link, &self.turns, &turns).await?;
        self.open = Some(NatsConsumer {
            link,
            reads: false,
            fetched: Vec::new(),
            held: HashMap::new(),
            delivered: 0,
        });
        Ok(())
    }

    async fn acquire_lease(&self, lease: Duration) -> Result<LeaseOutcome, String> {
        let Some(open) = &self.open else { return Err("it is not open".to_owned()) };
        let done = self.done.to_string();
        let taking =
            LeaseRequest { what: "", node: &self.reader, lease, patience: Duration::ZERO, done: &done };
        let taken = acquire_lease_at(&self.jetstream, &open.link, &self.turns, &self.turn, taking).await;
        taken.map_err(consume::describe)
    }

    /// Settles records. Dead letters come last: if they cannot be written, the other records are settled.
    async fn settle_records(&mut self, settled: Vec<SettledRecord>) -> Result<(), String> {
        let (dead, done): (Vec<_>, Vec<_>) = settled.into_iter().partition(|one| one.dead.is_some());
        self.acknowledge(&done).await?;
        if !dead.is_empty() {
            self.put_aside(&dead).await?;
            self.acknowledge(&dead).await?;
        }
        Ok(())
    }

    async fn acknowledge(&mut self, settled: &[SettledRecord]) -> Result<(), String> {
        let Some(open) = &mut self.open else { return Err("it is not open".to_owned()) };
        let done = settled.iter().filter_map(|one| open.held.remove(&one.position));
        let replies: Vec<String> = done.map(|one| one.reply).collect();
        let link = &open.link;
        // Each acknowledgement is confirmed: an unconfirmed one might be lost, and its message redelivered.
        let acknowledging = replies
            .into_iter()
            .map(|reply| async move { link.ask(reply, None, Bytes::from_static(b"+ACK")).await });
        for acknowledged in join_all(acknowledging).await {
            if is_unheard(&acknowledged.map_err(|error| error.to_string())?) {
                return Err("the consumer no longer exists".to_owned());
            }
        }
        Ok(())
    }

    /// Writes dead letters: the messages, with headers that tell the reason and the place.
    async fn put_aside(&self, settled: &[SettledRecord]) -> Result<(), String> {
        let Some(open) = &self.open else { return Err("it is not open".to_owned()) };
        let name = self.settings.dead_letters();
        let stream = json!({
            "name": name,
            "subjects": [self.dead],
            "retention": "limits",
            "discard": "old",
            "storage": "file",
            "num_replicas": self.replicas,
            "max_msgs": self.settings.dead_letters_max,
        });
        make(&self.jetstream, &open.link, &name, &stream).await?;
        for one in settled {
            let (Some(reason), Some(received)) = (&one.dead, open.held.get(&one.position)) else { continue };
            let mut headers = received.headers.clone().unwrap_or_else(HeaderMap::new);
            // Headers cannot hold line breaks.
            headers.insert("Feed-Reason", reason.replace(['\r', '\n'], " "));
            headers.insert("Feed-Subject", received.subject.clone());
            headers.insert("Feed-Sequence", received.sequence.to_string());
            let put =
                self.jetstream.put_with(&open.link, self.dead.clone(), headers, received.payload.clone());
            put.await.map_err(consume::describe)?;
        }
        Ok(())
    }

    async fn look_at(&mut self) -> Result<SourceCheck, String> {
        let turn = self.acquire_lease(LEASE_TTL).await?;
        let Some(open) = &mut self.open else { return Err("it is not open".to_owned()) };
        if !turn.held {
            open.lose_lease();
            return Ok(SourceCheck::NotOurs);
        }
        let looked = consume::look(&self.jetstream, &open.link, &self.settings).await?;
        let Some(progress) = looked else { return Err("the consumer no longer exists".to_owned()) };
        self.done = progress.done;
        let records = progress.left + progress.open;
        let oldest = match records {
            0 => None,
            _ => self.oldest_after(progress.done).await,
        };
        Ok(SourceCheck::Ours(Lag { records: Some(records), oldest }))
    }

    /// Returns the age of the first message behind this one.
    async fn oldest_after(&self, done: u64) -> Option<Duration> {
        let open = self.open.as_ref()?;
        let subject = if self.settings.subject.is_empty() { ">" } else { &self.settings.subject };
        let which = MessageSelector::Next { sequence: done + 1, subject: subject.to_owned() };
        let stored = self.jetstream.get(&open.link, &self.settings.stream, &which).await.ok()??;
        Some(Duration::from_millis(now().saturating_sub(stored.written)))
    }

    async fn wait_for_more(&mut self, at_most: Duration) -> Result<(), String> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let bytes_max = self.bounds.bytes_max;
        let wait = Some(at_most);
        let pulled = consume::pull(&self.jetstream, &open.link, &self.settings, 1, bytes_max, wait).await;
        for message in pulled.map_err(|error| error.to_string())? {
            let received = open.next(ReceivedMessage::read(message)?)?;
            open.fetched.push(received);
        }
        Ok(())
    }

    async fn give_back(&mut self) {
        if self.open.as_ref().is_some_and(|open| open.reads)
            && let Err(error) = self.acquire_lease(Duration::ZERO).await
        {
            tracing::debug!(error, "the lease on a stream could not be given back; it expires by itself");
        }
        self.open = None;
    }

    /// Drops the connection after any failure. The next call connects again, and begins with the unfinished messages.
    fn lost(&mut self, problem: &str) -> SourceError {
        self.open = None;
        SourceError(format!("stream {}: {problem}", self.settings.stream))
    }
}

/// Creates a stream, if it does not exist.
async fn make(jetstream: &JetStream, link: &NatsLink, name: &str, config: &Value) -> Result<(), String> {
    let describe = |failed: JetStreamError| format!("stream {name}: {}", consume::describe(failed));
    match jetstream.ask::<Value>(link, &format!("STREAM.INFO.{name}"), &json!({})).await {
        Ok(_) => Ok(()),
        Err(JetStreamError::Refused(code::STREAM_NOT_FOUND, _)) => {
            match jetstream.ask::<Value>(link, &format!("STREAM.CREATE.{name}"), config).await {
                Ok(_) | Err(JetStreamError::Refused(code::STREAM_NAME_TAKEN, _)) => Ok(()),
                Err(failed) => Err(describe(failed)),
            }
        }
        Err(failed) => Err(describe(failed)),
    }
}

impl FeedSource for NatsStream {
    fn take(&mut self) -> BoxFuture<'_, Result<SourceItem, SourceError>> {
        self.take_next().boxed()
    }

    fn settle(&mut self, settled: Vec<SettledRecord>) -> BoxFuture<'_, Result<(), SourceError>> {
        async move { self.settle_records(settled).await.map_err(|problem| self.lost(&problem)) }.boxed()
    }

    fn look(&mut self) -> BoxFuture<'_, Result<SourceCheck, SourceError>> {
        async move { self.look_at().await.map_err(|problem| self.lost(&problem)) }.boxed()
    }

    fn wait(&mut self, at_most: Duration) -> BoxFuture<'_, Result<(), SourceError>> {
        async move { self.wait_for_more(at_most).await.map_err(|problem| self.lost(&problem)) }.boxed()
    }

    fn leave(&mut self) -> BoxFuture<'_, ()> {
        self.give_back().boxed()
    }
}

impl std::fmt::Debug for NatsStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NatsStream").field("stream", &self.settings.stream).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
