//! Several Redis servers that do not know of each other: each channel is at one of them, with everything that belongs to it.
//!
//! A shard is a [`RedisBroker`] of its own, with its own links, pauses and counters, so that the failure of one server
//! affects its channels alone. Messages that concern nodes rather than channels go over every server: [`reach_shard`].

pub(crate) mod collect_answers;
pub(in crate::broker) mod events;
mod reach_shard;
pub(in crate::broker) mod shard_message;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use gateway_core::history::{HistoryFilter, HistoryPage, Retention};
use gateway_core::map::{ChangedKey, MapRetention, StateFilter, StatePage};
use gateway_core::placement::Placement;
use shared::channel::Channel;
use shared::position::{Epoch, StreamPosition};
use shared::push::OwnedEvent;

use self::events::ShardEvents;
use self::shard_message::Numbers;
use super::measure::BrokerMetrics;
use super::redis::{DialError, RedisBroker, RedisConfig};
use super::{
    Broker, BrokerError, BrokerEvents, ChangeRequest, LeaseOutcome, LeaseRequest, PublishRequest, Published,
};

/// A value for each server, and the placement of names on servers.
#[derive(Debug)]
pub struct Shards<T> {
    placement: Arc<Placement>,
    all: Box<[T]>,
}

impl<T> Shards<T> {
    /// `all` holds the values of the servers that `placement` was made of, in its order.
    pub fn new(placement: Placement, all: Vec<T>) -> Self {
        Self { placement: Arc::new(placement), all: all.into() }
    }

    /// Returns the value of the server that has `name`. Channels, ledgers, sessions and leases are named by the text
    /// between braces in the names of their keys.
    pub fn of(&self, name: &str) -> &T {
        &self.all[self.placement.of(name)]
    }

    pub(crate) fn place(&self, name: &str) -> usize {
        self.placement.of(name)
    }

    /// Returns all values: first that of the server that has `name`, then those of the servers that would have it if the
    /// ones before were absent.
    pub(crate) fn ranked(&self, name: &str) -> impl Iterator<Item = &T> {
        self.placement.ranked(name).into_iter().map(|shard| &self.all[shard])
    }

    pub fn get(&self, shard: usize) -> Option<&T> {
        self.all.get(shard)
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &T> {
        self.all.iter()
    }

    /// Makes another value for each of the same servers.
    pub fn map<U>(&self, make: impl FnMut(&T) -> U) -> Shards<U> {
        Shards { placement: self.placement.clone(), all: self.all.iter().map(make).collect() }
    }
}

/// One of the servers.
#[derive(Debug)]
pub struct BrokerShard {
    /// Its address, as it is configured.
    pub name: Arc<str>,
    pub broker: Arc<RedisBroker>,
    pub metrics: Arc<BrokerMetrics>,
}

/// The broker of several nodes over several servers.
#[derive(Debug)]
pub struct ShardedBroker {
    shards: Shards<BrokerShard>,
    numbers: Numbers,
    /// How long to wait for a server until the next one is tried as well.
    patience: Duration,
}

impl ShardedBroker {
    /// Begins to connect and returns at once, as [`RedisBroker::start`] does. `metrics` makes the counters of a server
    /// from its name.
    pub fn start(
        config: &RedisConfig,
        node: &str,
        events: Arc<dyn BrokerEvents>,
        metrics: impl Fn(&str) -> Arc<BrokerMetrics>,
    ) -> Result<Arc<Self>, DialError> {
        let servers = config.shards();
        let placement = Placement::new(servers.iter().map(|(name, _)| &**name));
        let repeats = Arc::default();
        let shard = |(number, (name, config)): (usize, &(Arc<str>, RedisConfig))| {
            let events = Arc::new(ShardEvents::new(number, events.clone(), Arc::clone(&repeats)));
            let metrics = metrics(name);
            let broker = RedisBroker::start(config, node, events, metrics.clone())?;
            Ok(BrokerShard { name: name.clone(), broker, metrics })
        };
        let all = servers.iter().enumerate().map(shard).collect::<Result<_, DialError>>()?;
        Ok(Arc::new(Self {
            shards: Shards::new(placement, all),
            numbers: Numbers::default(),
            patience: config.timeout() / 8,
        }))
    }

    pub fn shards(&self) -> &Shards<BrokerShard> {
        &self.shards
    }

    fn of(&self, channel: &Channel) -> &RedisBroker {
        &self.shards.of(channel.as_str()).broker
    }

    /// Groups items by the server that has them, with the index of each.
    fn divided<T>(
        &self,
        things: Vec<T>,
        channel: impl Fn(&T) -> &Channel,
    ) -> Vec<(&BrokerShard, Vec<usize>, Vec<T>)> {
        divide(things, |thing| self.shards.place(channel(thing).as_str()), self.shards.all.len())
            .into_iter()
            .map(|(shard, places, things)| (&self.shards.all[shard], places, things))
            .collect()
    }
}

/// Groups items by their shard, with the index of each. Shards without items are left out.
pub(crate) fn divide<T>(
    things: Vec<T>,
    shard: impl Fn(&T) -> usize,
    shards: usize,
) -> Vec<(usize, Vec<usize>, Vec<T>)> {
    let mut divided: Vec<(usize, Vec<usize>, Vec<T>)> =
        (0..shards).map(|shard| (shard, Vec::new(), Vec::new())).collect();
    for (place, thing) in things.into_iter().enumerate() {
        let (_, places, its) = &mut divided[shard(&thing)];
        places.push(place);
        its.push(thing);
    }
    divided.retain(|(_, places, _)| !places.is_empty());
    divided
}

/// Reverses [`divide`]: returns what each shard gave for its items, in their original order.
pub(crate) fn restore<T>(parts: impl IntoIterator<Item = (Vec<usize>, Vec<T>)>) -> Vec<T> {
    let mut all: Vec<(usize, T)> =
        parts.into_iter().flat_map(|(places, given)| places.into_iter().zip(given)).collect();
    all.sort_unstable_by_key(|(place, _)| *place);
    all.into_iter().map(|(_, given)| given).collect()
}

impl Broker for ShardedBroker {
    fn parts(&self) -> usize {
        self.shards.all.len()
    }

    fn part_of(&self, channel: &Channel) -> usize {
        self.shards.place(channel.as_str())
    }

    fn part_name(&self, part: usize) -> Arc<str> {
        self.shards.get(part).map_or_else(|| "".into(), |shard| shard.name.clone())
    }

    fn layout(&self) -> &str {
        self.shards.placement.layout()
    }

    fn publish(&self, request: PublishRequest) -> BoxFuture<'_, Result<Published, BrokerError>> {
        self.of(&request.channel).publish(request)
    }

    fn publish_event(&self, channel: Channel, event: OwnedEvent) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.of(&channel).publish_event(channel, event)
    }

    /// Subscribes to all of the channels or to none, as the trait requires. A caller that does not want channels to share
    /// their fate asks for those of one part at a time.
    fn subscribe(&self, channels: Vec<Channel>) -> BoxFuture<'_, Result<(), BrokerError>> {
        // All requests begin before the first is awaited, as they do with one server.
        let requests = self.divided(channels, |channel| channel).into_iter().map(|(shard, _, channels)| {
            let request = shard.broker.subscribe(channels.clone());
            async move { (shard, channels, request.await) }
        });
        let requests: Vec<_> = requests.collect();
        async move {
            let mut result = Ok(());
            let mut taken = Vec::new();
            for (shard, channels, subscribed) in join_all(requests).await {
                match subscribed {
                    Ok(()) => taken.push((shard, channels)),
                    Err(error) => result = Err(error),
                }
            }
            if result.is_err() {
                let given_back =
                    taken.into_iter().map(|(shard, channels)| shard.broker.unsubscribe(channels));
                // If that fails, that server is gone as well, and forgets the subscriptions.
                join_all(given_back).await;
            }
            result
        }
        .boxed()
    }

    fn unsubscribe(&self, channels: Vec<Channel>) -> BoxFuture<'_, Result<(), BrokerError>> {
        let requests: Vec<_> = self
            .divided(channels, |channel| channel)
            .into_iter()
            .map(|(shard, _, channels)| shard.broker.unsubscribe(channels))
            .collect();
        async move { join_all(requests).await.into_iter().collect() }.boxed()
    }

    fn history(
        &self,
        channel: Channel,
        filter: HistoryFilter,
        retention: Retention,
    ) -> BoxFuture<'_, Result<HistoryPage, BrokerError>> {
        self.of(&channel).history(channel, filter, retention)
    }

    fn positions(
        &self,
        channels: Vec<(Channel, Retention)>,
    ) -> BoxFuture<'_, Result<Vec<StreamPosition>, BrokerError>> {
        let parts = self.divided(channels, |(channel, _)| channel);
        let requests: Vec<_> = parts
            .into_iter()
            .map(|(shard, places, channels)| async move {
                Ok::<_, BrokerError>((places, shard.broker.positions(channels).await?))
            })
            .collect();
        async move { Ok(restore(join_all(requests).await.into_iter().collect::<Result<Vec<_>, _>>()?)) }
            .boxed()
    }

    fn leave_epoch(
        &self,
        channel: Channel,
        epoch: Epoch,
    ) -> BoxFuture<'_, Result<StreamPosition, BrokerError>> {
        self.of(&channel).leave_epoch(channel, epoch)
    }

    fn remove_history(&self, channel: Channel) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.of(&channel).remove_history(channel)
    }

    fn change_key(&self, request: ChangeRequest) -> BoxFuture<'_, Result<ChangedKey, BrokerError>> {
        self.of(&request.channel).change_key(request)
    }

    fn read_state(
        &self,
        channel: Channel,
        filter: StateFilter,
        keeping: MapRetention,
    ) -> BoxFuture<'_, Result<StatePage, BrokerError>> {
        self.of(&channel).read_state(channel, filter, keeping)
    }

    fn takes_out_expired(&self) -> bool {
        false
    }

    fn count_keys(&self, channel: Channel) -> BoxFuture<'_, Result<u64, BrokerError>> {
        self.of(&channel).count_keys(channel)
    }

    fn clear_state(&self, channel: Channel) -> BoxFuture<'_, Result<(), BrokerError>> {
        self.of(&channel).clear_state(channel)
    }

    fn send_control(&self, message: Bytes) -> BoxFuture<'_, Result<u32, BrokerError>> {
        self.send_to_all(message).boxed()
    }

    fn tell_node(&self, node: &str, message: Bytes) -> BoxFuture<'_, Result<u32, BrokerError>> {
        self.send_to_node(node.to_owned(), message).boxed()
    }

    fn canary(&self) -> BoxFuture<'_, Result<Duration, BrokerError>> {
        let all = self.shards.iter().map(|shard| shard.broker.canary());
        async move {
            let took = join_all(all).await.into_iter().collect::<Result<Vec<_>, _>>()?;
            Ok(took.into_iter().max().unwrap_or_default())
        }
        .boxed()
    }

    fn canary_of(&self, part: usize) -> BoxFuture<'_, Result<Duration, BrokerError>> {
        match self.shards.get(part) {
            Some(shard) => shard.broker.canary(),
            None => self.canary(),
        }
    }

    fn acquire_lease<'a>(
        &'a self,
        taking: LeaseRequest<'a>,
    ) -> BoxFuture<'a, Result<LeaseOutcome, BrokerError>> {
        self.acquire_lease_anywhere(taking).boxed()
    }

    fn announce(
        &self,
        node: &str,
        description: Bytes,
        lease: Duration,
    ) -> BoxFuture<'_, Result<Vec<Bytes>, BrokerError>> {
        let node = node.to_owned();
        async move { self.announce_everywhere(&node, description, lease).await }.boxed()
    }

    fn nodes(&self) -> BoxFuture<'_, Result<Vec<Bytes>, BrokerError>> {
        self.nodes_anywhere().boxed()
    }

    fn retire(&self, node: &str) -> BoxFuture<'_, Result<(), BrokerError>> {
        let all: Vec<_> = self.shards.iter().map(|shard| shard.broker.retire(node)).collect();
        async move { join_all(all).await.into_iter().collect() }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_divided_comes_back_in_its_order() {
        let divided = divide(vec![5, 3, 8, 1, 6], |number| number % 3, 3);
        let shards: Vec<_> = divided.iter().map(|(shard, _, things)| (*shard, things.clone())).collect();
        assert_eq!(shards, [(0, vec![3, 6]), (1, vec![1]), (2, vec![5, 8])]);
        let parts = divided.into_iter().rev().map(|(_, places, things)| (places, things));
        assert_eq!(restore(parts), [5, 3, 8, 1, 6]);
    }
}
