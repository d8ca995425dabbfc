//! Requests to subscribe and unsubscribe that wait for the connection, in the order of the calls.

use std::collections::VecDeque;

use parking_lot::Mutex;
use shared::channel::Channel;
use tokio::sync::{Notify, oneshot};

use crate::broker::BrokerError;

/// The most channels that may wait to be subscribed; more are refused. Unsubscribing is never refused: a channel that can
/// be unsubscribed has been subscribed, which bounds the number.
const SUBSCRIBE_WAITING_MAX: usize = 200_000;

#[derive(Debug, Default)]
pub(super) struct Requests {
    queue: Mutex<RequestQueue>,
    added: Notify,
}

#[derive(Debug, Default)]
struct RequestQueue {
    requests: VecDeque<SubscriptionRequest>,
    /// Channels in the queue that wait to be subscribed.
    subscribing: usize,
}

#[derive(Debug)]
pub(super) struct SubscriptionRequest {
    pub(super) kind: SubscriptionRequestKind,
    pub(super) channels: Vec<Channel>,
    pub(super) reply: oneshot::Sender<Result<(), BrokerError>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SubscriptionRequestKind {
    Subscribe,
    Unsubscribe,
}

impl Requests {
    /// Puts a request before all others.
    pub(super) fn push_first(&self, request: SubscriptionRequest) {
        self.queue.lock().requests.push_front(request);
        self.added.notify_one();
    }

    pub(super) fn push(&self, request: SubscriptionRequest) -> bool {
        let mut queue = self.queue.lock();
        if request.kind == SubscriptionRequestKind::Subscribe {
            if queue.subscribing + request.channels.len() > SUBSCRIBE_WAITING_MAX {
                return false;
            }
            queue.subscribing += request.channels.len();
        }
        queue.requests.push_back(request);
        drop(queue);
        self.added.notify_one();
        true
    }

    /// Takes all waiting requests. Waits until there is at least one.
    pub(super) async fn take(&self) -> VecDeque<SubscriptionRequest> {
        loop {
            let added = self.added.notified();
            {
                let mut queue = self.queue.lock();
                if !queue.requests.is_empty() {
                    queue.subscribing = 0;
                    return std::mem::take(&mut queue.requests);
                }
            }
            added.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kind: SubscriptionRequestKind, count: usize) -> SubscriptionRequest {
        let channel = Channel::parse("a", 255).unwrap();
        SubscriptionRequest { kind, channels: vec![channel; count], reply: oneshot::channel().0 }
    }

    #[tokio::test]
    async fn only_so_many_channels_wait_to_be_subscribed_but_any_can_be_given_up() {
        let requests = Requests::default();
        assert!(requests.push(request(SubscriptionRequestKind::Subscribe, SUBSCRIBE_WAITING_MAX)));
        assert!(!requests.push(request(SubscriptionRequestKind::Subscribe, 1)));
        assert!(requests.push(request(SubscriptionRequestKind::Unsubscribe, 1)));
        requests.push_first(request(SubscriptionRequestKind::Unsubscribe, 2));
        let taken: Vec<_> = requests.take().await.iter().map(|taken| taken.channels.len()).collect();
        assert_eq!(taken, [2, SUBSCRIBE_WAITING_MAX, 1]);
        assert!(requests.push(request(SubscriptionRequestKind::Subscribe, 1)));
    }
}
