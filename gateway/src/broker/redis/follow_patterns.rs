//! Follows messages that others publish in a Redis, this gateway's or another, over a connection of its own that is
//! reopened for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::access::Access;
use super::redis_config::RedisConfig;
use super::redis_dial::{DialError, PushConnection, RedisDialer};
use super::resp::RedisMessage;
use super::subscriptions::{Driver, ReceiveMessage, Subscriptions};
use super::supervise::{ReconnectBackoff, supervise};
use crate::telemetry::Reminder;

/// Receives what a [`Follower`] reads. Called on the connection's task, which reads nothing else meanwhile: must not wait.
pub(crate) trait Follow: Send + Sync + 'static {
    /// The connection is open and everything is subscribed. `again`: it has been open before.
    fn opened(&self, again: bool);

    /// The connection is lost. Messages published from now on are missed until it is open again.
    fn lost(&self);

    /// A message, and the name of the channel that it was published in.
    fn message(&self, name: &[u8], data: &[u8]);
}

/// The patterns to follow.
pub(crate) struct Following {
    /// Patterns of channel names.
    pub(crate) patterns: Vec<String>,
    /// A channel, and a function that makes the message to publish there. It is published as soon as everything is
    /// subscribed, before anybody else publishes anything.
    pub(crate) hello: (String, Box<dyn Fn() -> String + Send + Sync>),
}

/// Escapes the characters of a name that have a special meaning in patterns.
pub(crate) fn literally(name: &str) -> String {
    let mut pattern = String::with_capacity(name.len());
    for letter in name.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}

/// Connects, and reconnects after each loss. Ends when it is dropped.
pub(crate) struct Follower {
    config: RedisConfig,
    dialer: RedisDialer,
    following: Following,
    receiver: Arc<FollowReceiver>,
}

struct FollowReceiver {
    follow: Arc<dyn Follow>,
    received: AtomicU64,
}

impl ReceiveMessage for FollowReceiver {
    fn receive(&self, message: &RedisMessage) {
        self.follow.message(message.name(), &message.data());
    }

    fn received(&self) -> &AtomicU64 {
        &self.received
    }
}

impl Follower {
    /// `name` is the name of the connection in Redis' list of clients. Must be called within a tokio runtime.
    pub(crate) fn new(
        config: RedisConfig,
        name: String,
        following: Following,
        follow: Arc<dyn Follow>,
    ) -> Result<Self, DialError> {
        let access = Arc::new(Access::new(&config, &name, &Arc::default())?);
        let dialer = RedisDialer::new(&config, &access, name);
        Ok(Self {
            config,
            dialer,
            following,
            receiver: Arc::new(FollowReceiver { follow, received: AtomicU64::new(0) }),
        })
    }

    /// Follows for ever. `what` says in logs whose messages these are.
    pub(crate) async fn run(self, what: &'static str) {
        let mut pauses = ReconnectBackoff::new(self.config.reconnect_max());
        let mut reminder = Reminder::new();
        let mut again = false;
        loop {
            let reason: Arc<str> = match self.dialer.dial_subscriptions(self.receiver.clone()).await {
                Ok(dialed) => {
                    let opened = Instant::now();
                    let reason = match self.subscribe(&dialed.connection).await {
                        Ok(()) => {
                            let down_ms = reminder.over(opened).map(|down| down.as_millis() as u64);
                            tracing::info!(down_ms, what, "connected to Redis");
                            self.receiver.follow.opened(again);
                            again = true;
                            self.keep(dialed).await
                        }
                        Err(reason) => {
                            end(dialed.driver).await;
                            reason
                        }
                    };
                    self.receiver.follow.lost();
                    pauses.note_lifetime(opened.elapsed());
                    reason
                }
                Err(error) => error.to_string().into(),
            };
            if reminder.is_due(&reason, Instant::now()) {
                tracing::warn!(redis = self.dialer.place(), %reason, what, "no connection to Redis");
            }
            self.dialer.rest(&mut pauses).await;
        }
    }

    /// Subscribes and publishes in one write, so that Redis carries out nothing between the two.
    async fn subscribe(&self, connection: &Subscriptions) -> Result<(), Arc<str>> {
        let (channel, message) = &self.following.hello;
        let message = message();
        let hello = ["PUBLISH", channel, &*message];
        let subscribed = connection.follow(&self.following.patterns, &hello);
        match tokio::time::timeout(self.dialer.timeout(), subscribed).await {
            Ok(subscribed) => subscribed.map_err(|error| error.to_string().into()),
            Err(_) => Err(format!("no answer within {} ms", self.dialer.timeout().as_millis()).into()),
        }
    }

    /// Keeps the connection until it is lost. Returns the reason of the loss.
    async fn keep(&self, dialed: PushConnection) -> Arc<str> {
        let PushConnection { connection, mut driver, server, at } = dialed;
        let lost = async {
            tokio::select! {
                ended = &mut driver => {
                    ended.unwrap_or_else(|error| format!("reading from Redis failed: {error}").into())
                }
                reason = self.dialer.moved(&at) => reason,
            }
        };
        let received = || self.receiver.received.load(Ordering::Relaxed);
        let ask = || connection.identify();
        let changed = |_: &super::server::Server| {};
        let reason =
            supervise(lost, self.config.ping(), self.dialer.timeout(), received, ask, server, changed).await;
        end(driver).await;
        reason
    }
}

/// Stops the driver: nothing of an old connection may arrive beside the messages of the new one.
async fn end(driver: Driver) {
    driver.abort();
    // A driver that has ended may have been awaited already, and must not be polled again.
    if !driver.is_finished() {
        let _ = driver.await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_pattern_means_itself() {
        assert_eq!(literally("socket.io#/#"), "socket.io#/#");
        assert_eq!(literally(r"a*b?c[d]\e"), r"a\*b\?c\[d\]\\e");
    }
}
