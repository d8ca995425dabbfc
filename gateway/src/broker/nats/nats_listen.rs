//! The subscriptions of this node: one for each channel that has subscribers here.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use gateway_core::history::KeysBeside;
use parking_lot::Mutex;
use shared::channel::Channel;
use shared::push::OwnedEvent;
use shared::record::decode_event_message;
use tokio_util::task::AbortOnDropHandle;

use super::NatsBroker;
use super::block::{BLOCK, Block};
use super::idempotency::{ONCE, message_of};
use super::maps::CachedMaps;
use super::maps::map_message::{BASE, CHANGES, ChangesMessage};
use super::moment::now;
use super::nats_link::{NatsLink, NatsLinkState};
use super::nats_names::NatsNames;
use super::server_clock::ServerClock;
use super::tops::ChannelTops;
use crate::broker::measure::{BrokerMetrics, Operation};
use crate::broker::{BrokerError, BrokerEvents};

/// The receivers of messages.
pub(super) struct NatsRouter {
    pub(super) names: NatsNames,
    pub(super) events: Arc<dyn BrokerEvents>,
    pub(super) metrics: Arc<BrokerMetrics>,
    pub(super) tops: Arc<ChannelTops>,
    pub(super) maps: Arc<CachedMaps>,
    pub(super) clock: Arc<ServerClock>,
}

/// A subscribed channel.
#[derive(Debug)]
struct FollowedSubject {
    is_wanted: Arc<AtomicBool>,
    _task: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
pub(super) struct FollowedSubjects(Mutex<HashMap<Channel, FollowedSubject>>);

impl NatsBroker {
    pub(super) async fn listen_to(&self, channels: Vec<Channel>) -> Result<(), BrokerError> {
        let began = tokio::time::Instant::now();
        let listened = async {
            for channel in &channels {
                self.follow(channel).await?;
            }
            // The server works in order: when the round trip ends, it has taken all of these subscriptions.
            self.listener.round_trip().await?.wait().await
        };
        match listened.await {
            Ok(()) => {
                self.metrics.observe_round_trip(Operation::Subscribe, began.elapsed());
                Ok(())
            }
            Err(error) => {
                self.leave_all(&channels);
                Err(error)
            }
        }
    }

    async fn follow(&self, channel: &Channel) -> Result<(), BrokerError> {
        self.listener.opened().await?;
        let subscribing = self.listener.client.subscribe(self.names.subscription(channel));
        let subscriber = match tokio::time::timeout(self.timeout, subscribing).await {
            Ok(Ok(subscriber)) => subscriber,
            Ok(Err(error)) => return Err(BrokerError::Unreachable(error.to_string().into())),
            Err(_) => return Err(BrokerError::Timeout(self.timeout)),
        };
        let is_wanted = Arc::new(AtomicBool::new(true));
        let task = receive(self.router.clone(), channel.clone(), subscriber, is_wanted.clone());
        let followed = FollowedSubject { is_wanted, _task: AbortOnDropHandle::new(tokio::spawn(task)) };
        if self.listening.0.lock().insert(channel.clone(), followed).is_none() {
            self.metrics.subscribed_channels.increment();
        }
        Ok(())
    }

    /// Unsubscribes from channels. Nothing of them is delivered any more when this returns.
    pub(super) fn leave_all(&self, channels: &[Channel]) {
        let mut listening = self.listening.0.lock();
        for channel in channels {
            if let Some(followed) = listening.remove(channel) {
                followed.is_wanted.store(false, Ordering::SeqCst);
                self.metrics.subscribed_channels.subtract(1);
            }
        }
        let sparse = listening.capacity() > 64 && listening.len() < listening.capacity() / 4;
        if sparse {
            let twice = listening.len() * 2;
            listening.shrink_to(twice);
        }
    }
}

/// Passes on the messages of a channel in order, until the channel is left.
async fn receive(
    router: Arc<NatsRouter>,
    channel: Channel,
    mut subscriber: Subscriber,
    is_wanted: Arc<AtomicBool>,
) {
    while let Some(message) = subscriber.next().await {
        if !is_wanted.load(Ordering::SeqCst) {
            return;
        }
        router.take(&channel, message);
    }
}

impl NatsRouter {
    fn take(&self, channel: &Channel, message: Message) {
        match message.payload.first() {
            Some(&BLOCK) => self.take_block(channel, &message),
            Some(&CHANGES) => self.take_changes(channel, &message),
            // A snapshot of earlier changes, which were delivered when they were made.
            Some(&BASE) => {}
            Some(&ONCE) => match message_of(message.payload) {
                Some(message) => self.take_event(channel, message),
                None => self.metrics.undecodable.increment(),
            },
            _ => self.take_event(channel, message.payload),
        }
    }

    fn take_event(&self, channel: &Channel, message: Bytes) {
        match decode_event_message(message) {
            Ok(OwnedEvent::Publication(publication)) => {
                self.count(publication.data.bytes.len());
                self.events.publication(channel.as_str(), publication);
            }
            Ok(event) => self.events.event(channel.as_str(), event),
            Err(error) => self.cannot_read(channel, &error),
        }
    }

    fn take_block(&self, channel: &Channel, message: &Message) {
        let block = match Block::decode(message.payload.clone()) {
            Ok(block) => block,
            Err(error) => return self.cannot_read(channel, &error),
        };
        if let Some((life, sequence)) = place_of(message) {
            self.tops.note_block(channel, life, sequence, &block, now());
        }
        for publication in block.publications() {
            match publication {
                Ok(publication) => {
                    self.count(publication.data.bytes.len());
                    self.events.publication(channel.as_str(), publication);
                }
                Err(error) => self.cannot_read(channel, &error),
            }
        }
    }

    fn take_changes(&self, channel: &Channel, message: &Message) {
        let changes = match ChangesMessage::decode(message.payload.clone()) {
            Ok(changes) => changes,
            Err(error) => return self.cannot_read(channel, &error),
        };
        if let Some((life, sequence)) = place_of(message)
            && let Some((beside, before)) = self.log_of(message)
        {
            let place = (life, sequence, before);
            self.maps.hear((beside, channel), place, &changes, (&message.payload, self.clock.now()));
        }
        for publication in changes.publications() {
            match publication {
                Ok(publication) => {
                    self.count(publication.data.bytes.len());
                    self.events.publication(channel.as_str(), publication);
                }
                Err(error) => self.cannot_read(channel, &error),
            }
        }
    }

    /// Returns which streams hold the log of a message, and the sequence of the message before it in the log.
    fn log_of(&self, message: &Message) -> Option<(KeysBeside, u64)> {
        let headers = message.headers.as_ref()?;
        let beside = self.names.is_in_keys(headers.get_last("Nats-Subject")?.as_str())?;
        Some((beside, headers.get_last("Nats-Last-Sequence")?.as_str().parse().ok()?))
    }

    fn count(&self, bytes: usize) {
        self.metrics.received.increment();
        self.metrics.received_bytes.add(bytes as u64);
    }

    fn cannot_read(&self, channel: &Channel, error: &dyn std::fmt::Display) {
        self.metrics.undecodable.increment();
        tracing::debug!(%channel, %error, "a message cannot be read");
    }
}

/// Returns the life and the sequence of a message that is stored in a stream.
fn place_of(message: &Message) -> Option<(&str, u64)> {
    let headers = message.headers.as_ref()?;
    let subject = headers.get_last("Nats-Subject")?.as_str();
    let sequence = headers.get_last("Nats-Sequence")?.as_str().parse().ok()?;
    Some((subject.rsplit_once('.')?.1, sequence))
}

/// Reports that anything may have been missed whenever a link has a new connection.
pub(super) async fn report_losses(link: Arc<NatsLink>, events: Arc<dyn BrokerEvents>) {
    let mut state = link.watch();
    let mut last = None;
    loop {
        let NatsLinkState::Up(number) = *state.borrow_and_update() else {
            if state.changed().await.is_err() {
                return;
            }
            continue;
        };
        if last.is_some_and(|last| last != number) || (last.is_none() && number > 1) {
            // When the round trip ends, the subscriptions have been restored.
            let back = match link.round_trip().await {
                Ok(returning) => returning.wait().await,
                Err(error) => Err(error),
            };
            if back.is_err() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                continue;
            }
            events.resumed(0);
        }
        last = Some(number);
        if state.changed().await.is_err() {
            return;
        }
    }
}

impl std::fmt::Debug for NatsRouter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NatsRouter").finish_non_exhaustive()
    }
}
