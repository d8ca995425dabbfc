//! Requests in flight on the connection for subscriptions. Every caller is answered, whatever happens.

use std::collections::HashSet;

use parking_lot::Mutex;
use shared::channel::Channel;

use super::requests::{SubscriptionRequest, SubscriptionRequestKind};
use crate::broker::BrokerError;

/// Requests in flight. The set of wanted channels changes at once, so that a connection that replaces a lost one
/// subscribes to them. Channels not confirmed by then are dropped again, because their caller gets an error.
pub(super) struct PendingRequests<'a> {
    wanted: &'a Mutex<HashSet<Channel>>,
    waiting: Vec<SubscriptionRequest>,
}

impl<'a> PendingRequests<'a> {
    pub(super) fn new(wanted: &'a Mutex<HashSet<Channel>>) -> Self {
        Self { wanted, waiting: Vec::new() }
    }

    pub(super) fn note(&mut self, request: SubscriptionRequest) {
        let mut wanted = self.wanted.lock();
        for channel in &request.channels {
            match request.kind {
                SubscriptionRequestKind::Subscribe => wanted.insert(channel.clone()),
                SubscriptionRequestKind::Unsubscribe => wanted.remove(channel),
            };
        }
        self.waiting.push(request);
    }

    /// Fails the requests that subscribe to these channels, some of which were refused. No such request has other
    /// channels besides.
    pub(super) fn refuse(&mut self, channels: &[Channel], error: &BrokerError) {
        let refused = |request: &mut SubscriptionRequest| {
            request.kind == SubscriptionRequestKind::Subscribe
                && request.channels.iter().any(|channel| channels.contains(channel))
        };
        for SubscriptionRequest { channels, reply, .. } in self.waiting.extract_if(.., refused) {
            let mut wanted = self.wanted.lock();
            channels.iter().for_each(|channel| {
                wanted.remove(channel);
            });
            // The caller may have given up.
            let _ = reply.send(Err(error.clone()));
        }
    }

    /// Ends the batch after everything was confirmed. Returns the channels that were subscribed for callers that no
    /// longer wait.
    pub(super) fn settle(mut self) -> Vec<Channel> {
        let (mut abandoned, mut taken) = (Vec::new(), HashSet::new());
        for SubscriptionRequest { kind, channels, reply } in std::mem::take(&mut self.waiting) {
            let received = reply.send(Ok(())).is_ok();
            match kind {
                SubscriptionRequestKind::Subscribe if received => taken.extend(channels),
                SubscriptionRequestKind::Subscribe => abandoned.extend(channels),
                SubscriptionRequestKind::Unsubscribe => {}
            }
        }
        abandoned.retain(|channel| !taken.contains(channel));
        abandoned
    }
}

impl Drop for PendingRequests<'_> {
    fn drop(&mut self) {
        for SubscriptionRequest { kind, channels, reply } in self.waiting.drain(..) {
            let result = match kind {
                SubscriptionRequestKind::Subscribe => {
                    let mut wanted = self.wanted.lock();
                    channels.iter().for_each(|channel| {
                        wanted.remove(channel);
                    });
                    Err(BrokerError::Unreachable("the connection was lost while subscribing".into()))
                }
                SubscriptionRequestKind::Unsubscribe => Ok(()),
            };
            // The caller may have given up.
            let _ = reply.send(result);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn request(
        kind: SubscriptionRequestKind,
        name: &str,
    ) -> (SubscriptionRequest, oneshot::Receiver<Result<(), BrokerError>>) {
        let (reply, answer) = oneshot::channel();
        (SubscriptionRequest { kind, channels: vec![Channel::parse(name, 255).unwrap()], reply }, answer)
    }

    #[test]
    fn what_was_confirmed_for_nobody_is_given_back_unless_someone_else_has_it() {
        let wanted = Mutex::default();
        let mut asked = PendingRequests::new(&wanted);
        let (gone, answer) = request(SubscriptionRequestKind::Subscribe, "a");
        drop(answer);
        let (also_gone, answer) = request(SubscriptionRequestKind::Subscribe, "b");
        drop(answer);
        let (there, mut answer) = request(SubscriptionRequestKind::Subscribe, "b");
        for request in [gone, also_gone, there] {
            asked.note(request);
        }
        assert_eq!(asked.settle(), [Channel::parse("a", 255).unwrap()]);
        assert!(matches!(answer.try_recv(), Ok(Ok(()))));
        assert_eq!(wanted.lock().len(), 2);
    }

    #[test]
    fn what_was_not_confirmed_is_not_wanted_and_its_caller_is_told() {
        let wanted = Mutex::new(HashSet::from([Channel::parse("old", 255).unwrap()]));
        let mut asked = PendingRequests::new(&wanted);
        let (subscribe, mut subscribed) = request(SubscriptionRequestKind::Subscribe, "a");
        let (unsubscribe, mut unsubscribed) = request(SubscriptionRequestKind::Unsubscribe, "old");
        asked.note(subscribe);
        asked.note(unsubscribe);
        drop(asked);
        assert!(matches!(subscribed.try_recv(), Ok(Err(BrokerError::Unreachable(_)))));
        assert!(matches!(unsubscribed.try_recv(), Ok(Ok(()))));
        assert!(wanted.lock().is_empty());
    }
}
