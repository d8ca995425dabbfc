//! Moves subscriptions with their slots. A channel whose slot has left its master is subscribed at the next one, and
//! publications made in between are recovered.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use parking_lot::Mutex;
use shared::channel::Channel;
use tokio::sync::Notify;

use super::{Redirect, RedisCluster};
use crate::broker::BrokerError;

/// How long to wait for further channels that move with the first.
const TOGETHER: Duration = Duration::from_millis(2);

/// The pause before channels that could not be subscribed are tried again.
const RETRY: Duration = Duration::from_millis(50);

/// Channels on their way to another master: at most as many as are subscribed.
#[derive(Debug, Default)]
pub(in crate::broker::redis) struct Moves {
    channels: Mutex<HashSet<Channel>>,
    added: Notify,
}

impl Moves {
    pub(in crate::broker::redis) fn add(&self, channels: impl IntoIterator<Item = Channel>) {
        let mut moving = self.channels.lock();
        let before = moving.len();
        moving.extend(channels);
        if moving.len() > before {
            self.added.notify_one();
        }
    }

    /// Forgets channels that are not wanted any more.
    fn forget(&self, channels: &[Channel]) {
        let mut moving = self.channels.lock();
        if !moving.is_empty() {
            channels.iter().for_each(|channel| {
                moving.remove(channel);
            });
        }
    }

    fn all(&self) -> Vec<Channel> {
        self.channels.lock().iter().cloned().collect()
    }

    /// Takes out these channels. Returns those that were still wanted, and those that were not.
    fn take(&self, channels: Vec<Channel>) -> (Vec<Channel>, Vec<Channel>) {
        let mut moving = self.channels.lock();
        channels.into_iter().partition(|channel| moving.remove(channel))
    }
}

/// Subscribes to moving channels at their new masters, for as long as the cluster exists.
pub(super) async fn keep_moving(cluster: Weak<RedisCluster>, moves: Arc<Moves>) {
    loop {
        if moves.all().is_empty() {
            moves.added.notified().await;
        }
        tokio::time::sleep(TOGETHER).await;
        let Some(cluster) = cluster.upgrade() else { return };
        cluster.looking.look_within(cluster.config.timeout()).await;
        if !cluster.move_all(&moves).await {
            drop(cluster);
            tokio::time::sleep(RETRY).await;
        }
    }
}

impl RedisCluster {
    /// Subscribes to all moving channels. Returns whether all of them have arrived.
    async fn move_all(&self, moves: &Moves) -> bool {
        let mut by_slot: BTreeMap<u16, Vec<Channel>> = BTreeMap::new();
        for channel in moves.all() {
            by_slot.entry(self.keys.slot(&channel)).or_default().push(channel);
        }
        let requests: Vec<_> = by_slot
            .into_iter()
            .map(|(slot, channels)| async move {
                let owner = self.owner(slot).ok()?;
                owner.master.listener.subscribe(channels.clone()).await.ok()?;
                Some((owner.place, channels))
            })
            .collect();
        let (mut all, mut arrived) = (true, BTreeMap::<usize, Vec<Channel>>::new());
        for moved in join_all(requests).await {
            match moved {
                Some((place, channels)) => arrived.entry(place).or_default().extend(channels),
                None => all = false,
            }
        }
        for (place, channels) in arrived {
            let (mut wanted, unwanted) = moves.take(channels);
            let part = self.part(place);
            if let Some(part) = part.as_ref().filter(|_| !unwanted.is_empty()) {
                drop(part.master.listener.unsubscribe(unwanted));
            }
            // Some channels may have moved again while others were awaited.
            let here = part.map(|part| part.master.listener.wants(&wanted)).unwrap_or_default();
            let here: HashSet<Channel> = here.into_iter().collect();
            let gone: Vec<Channel> = wanted.extract_if(.., |channel| !here.contains(channel)).collect();
            if !gone.is_empty() {
                moves.add(gone);
                all = false;
            }
            tracing::info!(
                place,
                channels = wanted.len(),
                "channels have moved to another master of the cluster"
            );
            self.events.moved(place, wanted);
        }
        all
    }

    /// Subscribes to all of the channels or to none, as the trait requires.
    pub(in crate::broker::redis) fn subscribe(
        self: &Arc<Self>,
        channels: Vec<Channel>,
    ) -> impl Future<Output = Result<(), BrokerError>> + Send + use<> {
        // Where the master is known, the request begins before anything is awaited, so that calls keep their order.
        let requests: Vec<_> = self
            .by_slot(channels)
            .into_iter()
            .map(|(slot, channels)| {
                let owner = self.owner(slot).ok();
                (slot, channels.clone(), owner.map(|owner| owner.master.listener.subscribe(channels)))
            })
            .collect();
        let cluster = self.clone();
        async move {
            let each = requests.into_iter().map(|(slot, channels, first)| {
                let cluster = &cluster;
                async move {
                    let first = match first {
                        Some(first) => Some(first.await),
                        None => None,
                    };
                    (cluster.subscribe_in(slot, &channels, first).await, channels)
                }
            });
            let (mut result, mut taken) = (Ok(()), Vec::new());
            for (subscribed, channels) in join_all(each).await {
                match subscribed {
                    Ok(()) => taken.extend(channels),
                    Err(error) => result = Err(error),
                }
            }
            if result.is_err() {
                // If this fails, that master is gone as well, and forgets the subscriptions.
                let _ = cluster.unsubscribe(taken).await;
            }
            result
        }
    }

    /// Subscribes to channels of one slot until its master has them. `last` is an answer that has come already.
    async fn subscribe_in(
        &self,
        slot: u16,
        channels: &[Channel],
        mut last: Option<Result<(), BrokerError>>,
    ) -> Result<(), BrokerError> {
        let deadline = tokio::time::Instant::now() + self.config.timeout();
        loop {
            match last {
                Some(Err(error)) => {
                    let Some(redirect) = Redirect::read(&error) else { return Err(error) };
                    drop(self.redirected(slot, &redirect));
                    if tokio::time::Instant::now() + RETRY >= deadline {
                        return Err(error);
                    }
                    self.looking.look_within(RETRY).await;
                }
                Some(Ok(())) => return Ok(()),
                None => {
                    let settled = tokio::time::timeout_at(deadline, self.settle()).await;
                    settled.map_err(|_| BrokerError::Timeout(self.config.timeout()))?;
                }
            }
            last = Some(self.owner(slot)?.master.listener.subscribe(channels.to_vec()).await);
        }
    }

    pub(in crate::broker::redis) fn unsubscribe(
        &self,
        channels: Vec<Channel>,
    ) -> impl Future<Output = Result<(), BrokerError>> + Send + use<> {
        self.moves.forget(&channels);
        let mut by_place: BTreeMap<usize, HashSet<Channel>> = BTreeMap::new();
        let places = self.places.read();
        // Both the masters that have the channels, and those that were asked for them and do not have them yet.
        for part in places.all() {
            by_place.entry(part.place).or_default().extend(part.master.listener.wants(&channels));
        }
        for channel in channels {
            if let Some(owner) = places.owner(self.keys.slot(&channel)) {
                by_place.entry(owner.place).or_default().insert(channel);
            }
        }
        let requests: Vec<_> = by_place
            .into_iter()
            .filter(|(_, channels)| !channels.is_empty())
            .filter_map(|(place, channels)| {
                let part = places.parts.get(place)?.as_ref()?;
                Some(part.master.listener.unsubscribe(channels.into_iter().collect()))
            })
            .collect();
        drop(places);
        async move { join_all(requests).await.into_iter().collect() }
    }

    fn by_slot(&self, channels: Vec<Channel>) -> BTreeMap<u16, Vec<Channel>> {
        let mut by_slot: BTreeMap<u16, Vec<Channel>> = BTreeMap::new();
        for channel in channels {
            by_slot.entry(self.keys.slot(&channel)).or_default().push(channel);
        }
        by_slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_wants_any_more_is_told_when_it_has_arrived() {
        let channel = |name| Channel::parse(name, 255).unwrap();
        let moves = Moves::default();
        moves.add([channel("a"), channel("b"), channel("a")]);
        assert_eq!(moves.all().len(), 2);
        moves.forget(&[channel("b")]);
        let (wanted, unwanted) = moves.take(vec![channel("a"), channel("b")]);
        assert_eq!((wanted, unwanted), (vec![channel("a")], vec![channel("b")]));
        assert!(moves.all().is_empty());
    }
}
