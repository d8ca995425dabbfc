//! Requests under way on the connection for subscriptions: whoever asked is told what came of it, whatever happens.

use std::collections::HashSet;

use shared::channel::Channel;

use super::requests::{Kind, Request};
use crate::broker::BrokerError;

/// Requests under way. What is wanted changes at once, so that a connection lost meanwhile is replaced by one that
/// has it; what was not confirmed by then is given up again, for its caller is told so.
pub(super) struct Asked<'a> {
    pub(super) wanted: &'a mut HashSet<Channel>,
    waiting: Vec<Request>,
}

impl<'a> Asked<'a> {
    pub(super) fn new(wanted: &'a mut HashSet<Channel>) -> Self {
        Self { wanted, waiting: Vec::new() }
    }

    pub(super) fn note(&mut self, request: Request) {
        for channel in &request.channels {
            match request.kind {
                Kind::Subscribe => self.wanted.insert(channel.clone()),
                Kind::Unsubscribe => self.wanted.remove(channel),
            };
        }
        self.waiting.push(request);
    }

    /// Everything was confirmed. Gives back what was subscribed for callers that no longer wait.
    pub(super) fn settle(mut self) -> Vec<Channel> {
        let (mut abandoned, mut taken) = (Vec::new(), HashSet::new());
        for Request { kind, channels, reply } in std::mem::take(&mut self.waiting) {
            let heard = reply.send(Ok(())).is_ok();
            match kind {
                Kind::Subscribe if heard => taken.extend(channels),
                Kind::Subscribe => abandoned.extend(channels),
                Kind::Unsubscribe => {}
            }
        }
        abandoned.retain(|channel| !taken.contains(channel));
        abandoned
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        for Request { kind, channels, reply } in self.waiting.drain(..) {
            let result = match kind {
                Kind::Subscribe => {
                    for channel in &channels {
                        self.wanted.remove(channel);
                    }
                    Err(BrokerError::Unreachable("the connection was lost while subscribing".into()))
                }
                Kind::Unsubscribe => Ok(()),
            };
            // Whoever asked may have given up.
            let _ = reply.send(result);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn request(kind: Kind, name: &str) -> (Request, oneshot::Receiver<Result<(), BrokerError>>) {
        let (reply, answer) = oneshot::channel();
        (Request { kind, channels: vec![Channel::parse(name, 255).unwrap()], reply }, answer)
    }

    #[test]
    fn what_was_confirmed_for_nobody_is_given_back_unless_someone_else_has_it() {
        let mut wanted = HashSet::new();
        let mut asked = Asked::new(&mut wanted);
        let (gone, answer) = request(Kind::Subscribe, "a");
        drop(answer);
        let (also_gone, answer) = request(Kind::Subscribe, "b");
        drop(answer);
        let (there, mut answer) = request(Kind::Subscribe, "b");
        for request in [gone, also_gone, there] {
            asked.note(request);
        }
        assert_eq!(asked.settle(), [Channel::parse("a", 255).unwrap()]);
        assert!(matches!(answer.try_recv(), Ok(Ok(()))));
        assert_eq!(wanted.len(), 2);
    }

    #[test]
    fn what_was_not_confirmed_is_not_wanted_and_its_caller_is_told() {
        let mut wanted = HashSet::from([Channel::parse("old", 255).unwrap()]);
        let mut asked = Asked::new(&mut wanted);
        let (subscribe, mut subscribed) = request(Kind::Subscribe, "a");
        let (unsubscribe, mut unsubscribed) = request(Kind::Unsubscribe, "old");
        asked.note(subscribe);
        asked.note(unsubscribe);
        drop(asked);
        assert!(matches!(subscribed.try_recv(), Ok(Err(BrokerError::Unreachable(_)))));
        assert!(matches!(unsubscribed.try_recv(), Ok(Ok(()))));
        assert!(wanted.is_empty());
    }
}
