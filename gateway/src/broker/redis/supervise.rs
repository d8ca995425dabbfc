//! Keeps a connection: asks again and again what the server at its other end is, gives the connection up when it is of no
//! use, and spaces the attempts to open it again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::server::Server;
use crate::broker::BrokerError;

/// A connection that held this long was not part of a run of failures.
const HELD_LONG: Duration = Duration::from_secs(10);

/// The first pause after a loss is at most this long.
const PAUSE_FIRST_MAX: Duration = Duration::from_millis(50);

/// The state of a connection that is reopened again and again.
#[derive(Clone, Debug)]
pub(crate) enum ConnectionState<T> {
    /// The first attempt is being made.
    Opening,
    Up(T),
    Down(Arc<str>),
}

/// Returns the value that is up, or an error with the reason of the outage. Waits only for the outcome of the very first
/// attempt.
pub(super) async fn settled<T: Clone>(state: &watch::Receiver<ConnectionState<T>>) -> Result<T, BrokerError> {
    let mut state = state.clone();
    let settled = state.wait_for(|state| !matches!(state, ConnectionState::Opening)).await;
    match settled.as_deref() {
        Ok(ConnectionState::Up(up)) => Ok(up.clone()),
        Ok(ConnectionState::Down(reason)) => Err(BrokerError::Unreachable(reason.clone())),
        Ok(ConnectionState::Opening) | Err(_) => Err(BrokerError::Unreachable("the link is closed".into())),
    }
}

/// Gives up connections that are open but of no use.
#[derive(Debug)]
pub(super) struct GiveUpSignal(watch::Sender<(u64, Arc<str>)>);

impl Default for GiveUpSignal {
    fn default() -> Self {
        Self(watch::channel((0, "".into())).0)
    }
}

impl GiveUpSignal {
    /// Gives up the connection of this number, and those before it.
    pub(super) fn connection(&self, number: u64, reason: &str) {
        self.0.send_if_modified(|given_up| {
            let is_news = given_up.0 < number;
            if is_news {
                *given_up = (number, reason.into());
            }
            is_news
        });
    }

    /// Returns when the connection of this number is to be given up, with the reason.
    pub(super) async fn wait(&self, number: u64) -> Arc<str> {
        let mut given_up = self.0.subscribe();
        let reason = given_up.wait_for(|(last, _)| *last >= number).await.ok().map(|last| last.1.clone());
        match reason {
            Some(reason) => reason,
            // Never happens: `self` holds the sender.
            None => std::future::pending().await,
        }
    }
}

/// Waits until the connection is lost, or its server can no longer be used, and returns the reason. The server is asked
/// in intervals what it is, and `changed` is called whenever the answer differs from the last. `received` grows with
/// everything that arrives: a connection that brings bytes is alive, however long an answer is queued behind them.
pub(super) async fn supervise<P: Future<Output = Result<Server, BrokerError>>>(
    lost: impl Future<Output = Arc<str>>,
    interval: Duration,
    timeout: Duration,
    received: impl Fn() -> u64,
    ask: impl Fn() -> P,
    mut known: Server,
    mut changed: impl FnMut(&Server),
) -> Arc<str> {
    tokio::pin!(lost);
    loop {
        tokio::select! {
            reason = &mut lost => return reason,
            () = tokio::time::sleep(interval) => {}
        }
        let before = received();
        let answer = tokio::select! {
            reason = &mut lost => return reason,
            answer = tokio::time::timeout(timeout, ask()) => answer,
        };
        match answer {
            Ok(Ok(server)) => {
                if let Some(why) = server.unusable(known.is_of_cluster()) {
                    return why.into();
                }
                if server != known {
                    changed(&server);
                    known = server;
                }
            }
            // A server that refuses is alive.
            Ok(Err(BrokerError::Refused { .. })) => {}
            Ok(Err(error)) => return error.to_string().into(),
            Err(_) if received() != before => {}
            Err(_) => return format!("nothing arrived within {} ms", timeout.as_millis()).into(),
        }
    }
}

/// Pauses between attempts. Each is random between zero and a bound that doubles, so that many nodes do not come back at once.
#[derive(Clone, Debug)]
pub(super) struct ReconnectBackoff {
    bound: Duration,
    max: Duration,
}

impl ReconnectBackoff {
    pub(super) fn new(max: Duration) -> Self {
        Self { bound: PAUSE_FIRST_MAX.min(max), max }
    }

    pub(super) fn next(&mut self) -> Duration {
        let pause = self.bound.mul_f64(rand::random::<f64>());
        self.bound = (self.bound * 2).min(self.max);
        pause
    }

    /// Resets the bound: the next attempt is not part of a run of failures.
    pub(super) fn begin_anew(&mut self) {
        *self = Self::new(self.max);
    }

    /// Takes notice of how long the last connection held.
    pub(super) fn note_lifetime(&mut self, duration: Duration) {
        if duration >= HELD_LONG {
            self.begin_anew();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn pauses_grow_to_their_bound_and_start_again_after_a_connection_that_held() {
        let max = Duration::from_secs(3);
        let mut pauses = ReconnectBackoff::new(max);
        for _ in 0..20 {
            assert!(pauses.next() <= max);
        }
        assert_eq!(pauses.bound, max);
        pauses.note_lifetime(Duration::from_secs(1));
        assert_eq!(pauses.bound, max);
        pauses.note_lifetime(Duration::from_secs(60));
        assert!(pauses.next() <= PAUSE_FIRST_MAX);
    }

    #[tokio::test]
    async fn a_connection_is_given_up_once_and_the_next_is_not() {
        let give_up = GiveUpSignal::default();
        give_up.connection(2, "of no use");
        give_up.connection(1, "late");
        assert_eq!(&*give_up.wait(1).await, "of no use");
        assert_eq!(&*give_up.wait(2).await, "of no use");
        let next = tokio::time::timeout(Duration::from_millis(1), give_up.wait(3));
        assert!(next.await.is_err());
    }

    /// Returns how a connection ends if its server gives this answer, or none.
    async fn ends(answer: Option<Result<Server, BrokerError>>, bytes_arrive: bool) -> Option<Arc<str>> {
        let (short, received) = (Duration::from_millis(1), AtomicU64::new(0));
        let held = supervise(
            std::future::pending(),
            short,
            short,
            || received.fetch_add(u64::from(bytes_arrive), Ordering::Relaxed),
            || {
                let answer = answer.clone();
                async move {
                    match answer {
                        Some(answer) => answer,
                        None => std::future::pending().await,
                    }
                }
            },
            Server::default(),
            |_| {},
        );
        tokio::time::timeout(Duration::from_millis(100), held).await.ok()
    }

    #[tokio::test]
    async fn whoever_answers_refuses_or_sends_anything_at_all_is_alive() {
        assert_eq!(ends(Some(Ok(Server::default())), false).await, None);
        assert_eq!(ends(Some(Err(BrokerError::refused("BUSY a script runs"))), false).await, None);
        assert_eq!(ends(None, true).await, None, "its answer stands in line behind something long");
        assert!(ends(None, false).await.is_some());
        assert!(ends(Some(Err(BrokerError::Unreachable("gone".into()))), true).await.is_some());
        let replica = Server::from_hello(["role", "replica"]);
        assert!(ends(Some(Ok(replica)), true).await.is_some_and(|why| why.contains("replica")));
    }
}
