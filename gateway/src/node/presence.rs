//! Keeping presence: adding and removing in the order it happened, with nobody waiting on a worker.

use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};
use shared::channel::Channel;
use shared::id::ClientId;
use shared::publication::ClientInfo;
use tokio::sync::{Notify, oneshot};

use crate::broker::BrokerError;
use crate::node::Node;

/// The most presence operations under way at once.
const CONCURRENT: usize = 256;

/// How long an operation that failed waits before it is tried again.
const RETRY: Duration = Duration::from_secs(1);

type Key = (Channel, ClientId);

/// What presence should say of one client in one channel. Only the latest counts, so the queue is bounded by the
/// number of subscriptions.
#[derive(Debug)]
struct Wish {
    /// `None`: gone.
    info: Option<ClientInfo>,
    done: Option<oneshot::Sender<Result<(), BrokerError>>>,
}

#[derive(Debug, Default)]
pub(crate) struct PresenceQueue {
    wishes: Mutex<FxHashMap<Key, Wish>>,
    changed: Notify,
    /// How many wishes wait or are under way.
    unsettled: AtomicUsize,
    settled: Notify,
}

impl Node {
    /// Shows a client in a channel's presence. Answered when others can see it.
    pub(crate) fn enter_presence(
        &self,
        channel: Channel,
        info: ClientInfo,
    ) -> oneshot::Receiver<Result<(), BrokerError>> {
        let (done, answer) = oneshot::channel();
        self.presence_queue.put((channel, info.client), Wish { info: Some(info), done: Some(done) });
        answer
    }

    pub(crate) fn leave_presence(&self, channel: Channel, client: ClientId) {
        self.presence_queue.put((channel, client), Wish { info: None, done: None });
    }
}

impl PresenceQueue {
    fn put(&self, key: Key, wish: Wish) {
        if self.wishes.lock().insert(key, wish).is_none() {
            self.unsettled.fetch_add(1, Ordering::AcqRel);
        }
        self.changed.notify_one();
    }

    /// Puts an operation back that failed, unless a later one has taken its place.
    fn put_back(&self, key: Key, info: Option<ClientInfo>) {
        if let Entry::Vacant(vacant) = self.wishes.lock().entry(key) {
            vacant.insert(Wish { info, done: None });
            self.unsettled.fetch_add(1, Ordering::AcqRel);
        }
        self.changed.notify_one();
    }

    fn finish(&self) {
        if self.unsettled.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.settled.notify_waiters();
        }
    }

    /// Waits until nothing is wished for that is not so.
    pub(super) async fn settled(&self) {
        loop {
            let settled = self.settled.notified();
            if self.unsettled.load(Ordering::Acquire) == 0 {
                return;
            }
            settled.await;
        }
    }

    /// Up to `room` wishes whose key is not under way.
    fn take(&self, room: usize, under_way: &FxHashSet<Key>) -> Vec<(Key, Wish)> {
        let mut wishes = self.wishes.lock();
        let keys: Vec<Key> =
            wishes.keys().filter(|key| !under_way.contains(*key)).take(room).cloned().collect();
        keys.into_iter().filter_map(|key| wishes.remove_entry(&key)).collect()
    }
}

/// Makes presence say what the queue wishes. Two operations on the same client in the same channel are never under
/// way together, so a leave cannot be overtaken by the join before it.
pub(crate) async fn keep_presence(node: Arc<Node>) {
    let mut under_way = FxHashSet::default();
    let mut running = FuturesUnordered::new();
    loop {
        for (key, wish) in node.presence_queue.take(CONCURRENT - running.len(), &under_way) {
            under_way.insert(key.clone());
            running.push(carry_out(&node, key, wish));
        }
        tokio::select! {
            Some(key) = running.next() => {
                under_way.remove(&key);
                node.presence_queue.finish();
            }
            () = node.presence_queue.changed.notified() => {}
        }
    }
}

async fn carry_out(node: &Node, key: Key, wish: Wish) -> Key {
    let (channel, client) = key.clone();
    let info = wish.info.clone();
    let result = match wish.info {
        Some(info) => node.presence.add(channel, info).await,
        None => node.presence.remove(channel, client).await,
    };
    if let Err(error) = &result {
        tracing::debug!(%error, channel = %key.0, "presence could not be updated; trying again");
        tokio::time::sleep(RETRY).await;
        node.presence_queue.put_back(key.clone(), info);
    }
    if let Some(done) = wish.done {
        // Whoever waited may have left.
        let _ = done.send(result);
    }
    key
}
