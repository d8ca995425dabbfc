//! The time by the server's clock, by which keys of maps expire at every node.
//!
//! Servers before 2.10 do not answer with their time, but say when they stored a message: a node stores one and reads it
//! back. Between measurements it adds what its monotonic clock shows, so its wall clock does not matter.

use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::NatsBroker;
use super::moment::now;
use super::nats_link::NatsLink;
use super::nats_names::StreamKind;
use super::stored::{JetStream, JetStreamError, MessageSelector, odd};
use crate::broker::BrokerError;

/// How long a measurement is used. Clocks of two machines drift apart by a few milliseconds in this time.
const MEASURED_TTL: Duration = Duration::from_secs(60);
/// How long a node waits after a measurement that failed.
const FAILED_PAUSE: Duration = Duration::from_secs(1);
/// A measurement that took longer is not used: it may be wrong by half of its time.
const MEASURING_MAX: Duration = Duration::from_secs(1);

/// The server's clock as far as this node knows it: right to half of the time that the measurement took.
#[derive(Debug, Default)]
pub(super) struct ServerClock {
    state: Mutex<ClockState>,
    /// Held by whoever measures.
    measuring: tokio::sync::Mutex<()>,
}

#[derive(Clone, Copy, Debug, Default)]
struct ClockState {
    /// The server's time at an instant, in milliseconds since 1970.
    shown: Option<(u64, Instant)>,
    /// On which connection the clock was measured, and until when that is good.
    good: Option<(u64, Instant)>,
}

impl ServerClock {
    /// Returns the time in milliseconds since 1970: by the clock of this machine until the server's was measured.
    pub(super) fn now(&self) -> u64 {
        match self.state.lock().shown {
            Some((shown, at)) => shown.saturating_add(millis(at.elapsed())),
            None => now(),
        }
    }

    fn is_known(&self) -> bool {
        self.state.lock().shown.is_some()
    }

    /// Notes that the clock could not be measured on this connection.
    fn failed(&self, connection: u64) {
        self.state.lock().good = Some((connection, Instant::now() + FAILED_PAUSE));
    }

    fn is_due(&self, connection: u64) -> bool {
        let good = self.state.lock().good;
        good.is_none_or(|(number, until)| number != connection || Instant::now() >= until)
    }

    /// Measures the clock if that is due on this connection. A failed measurement leaves what is known.
    async fn measure_if_due(&self, jetstream: &JetStream, link: &NatsLink, stream: &str, subject: &str) {
        let Ok(connection) = link.connection() else { return };
        if !self.is_due(connection) {
            return;
        }
        let _alone = match self.measuring.try_lock() {
            Ok(alone) => alone,
            Err(_) if self.is_known() => return,
            Err(_) => self.measuring.lock().await,
        };
        if !self.is_due(connection) {
            return;
        }
        let measured = measure(jetstream, link, stream, subject).await;
        match measured {
            Ok(shown) => {
                let good = Some((connection, Instant::now() + MEASURED_TTL));
                *self.state.lock() = ClockState { shown: Some(shown), good };
            }
            Err(failed) => {
                self.failed(connection);
                tracing::debug!(?failed, "the clock of the server could not be read");
            }
        }
    }
}

/// Returns the server's time at an instant.
async fn measure(
    jetstream: &JetStream,
    link: &NatsLink,
    stream: &str,
    subject: &str,
) -> Result<(u64, Instant), JetStreamError> {
    let began = Instant::now();
    let sequence = jetstream.put(link, subject.to_owned(), Bytes::new()).await?;
    // A message that another node has stored since is as good: it was stored between the beginning and the end, too.
    let last = jetstream.get(link, stream, &MessageSelector::Last(subject.to_owned())).await?;
    let stored = last.ok_or_else(|| odd("no message where one was stored"))?;
    if stored.sequence < sequence {
        return Err(odd("an older message than the one that was just stored").into());
    }
    let (ended, took) = (Instant::now(), began.elapsed());
    if took > MEASURING_MAX {
        return Err(BrokerError::Timeout(MEASURING_MAX).into());
    }
    let half = took / 2;
    Ok((stored.written.saturating_add(millis(half)), ended))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl NatsBroker {
    /// Returns the time by the server's clock. Waits for the first measurement; later ones are made aside, so that nobody
    /// who holds a map waits for them.
    pub(super) async fn server_time(&self) -> u64 {
        if let Ok(connection) = self.link.connection()
            && self.clock.is_due(connection)
        {
            if !self.clock.is_known() {
                self.measure_clock(connection).await;
            } else if self.clock.measuring.try_lock().is_ok() {
                let broker = self.own();
                tokio::spawn(async move { broker.measure_clock(connection).await });
            }
        }
        self.clock.now()
    }

    async fn measure_clock(&self, connection: u64) {
        if self.streams.ready(StreamKind::State).await.is_err() {
            return self.clock.failed(connection);
        }
        let (stream, subject) = (self.names.stream(StreamKind::State), self.names.clock());
        self.clock.measure_if_due(&self.jetstream, &self.link, &stream, &subject).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::fake::{FakeReply, serve};
    use super::super::moment::milliseconds;
    use super::super::nats_link::NatsLinkPurpose;
    use super::super::{NatsConfig, NatsDialer, NatsUrl};
    use super::*;
    use crate::broker::measure::BrokerMetrics;

    /// When the fake server stored its messages.
    const STORED: &str = "2026-11-30T12:00:00Z";

    async fn link_to(
        says: impl Fn(&str) -> Vec<FakeReply> + Send + Sync + 'static,
    ) -> (NatsLink, impl Sized) {
        let (url, server) = serve(says).await;
        let config = NatsConfig { url: NatsUrl::new(url), timeout_ms: 2_000, ..NatsConfig::default() };
        let dialer = NatsDialer::new(&config).unwrap();
        let options = dialer.options("test").unwrap();
        let (metrics, nothing) = (Arc::<BrokerMetrics>::default(), Box::new(|| {}));
        let purpose = NatsLinkPurpose::Commands;
        let link = NatsLink::start(dialer.servers(), options, purpose, config.timeout(), metrics, nothing);
        let link = link.await.unwrap();
        link.opened().await.unwrap();
        (link, server)
    }

    #[tokio::test]
    async fn the_time_is_the_servers_however_wrong_the_clock_of_this_machine_is() {
        let (link, _server) = link_to(|subject| match subject {
            "t.s.clock.now" => vec![FakeReply::Answer("{\"stream\":\"t_state\",\"seq\":7}".into())],
            "$JS.API.DIRECT.GET.t_state" => vec![FakeReply::Stored("t.s.clock.now", 7)],
            _ => Vec::new(),
        })
        .await;
        let (clock, began) = (ServerClock::default(), Instant::now());
        assert!(clock.now().abs_diff(now()) < 1_000, "nothing was measured yet");
        clock.measure_if_due(&JetStream::new("", true), &link, "t_state", "t.s.clock.now").await;
        let shown = clock.now() - milliseconds(STORED).unwrap();
        assert!(shown <= millis(began.elapsed()), "{shown}");
        assert!(!clock.is_due(1) && clock.is_due(2), "it is measured anew on each connection");
    }

    #[tokio::test]
    async fn a_clock_that_cannot_be_read_is_tried_again_and_what_is_known_stays() {
        let (link, _server) =
            link_to(|_| vec![FakeReply::Answer("{\"error\":{\"err_code\":10077}}".into())]).await;
        let clock = ServerClock::default();
        clock.state.lock().shown = Some((1_000_000, Instant::now()));
        clock.measure_if_due(&JetStream::new("", true), &link, "t_state", "t.s.clock.now").await;
        assert!((1_000_000..1_060_000).contains(&clock.now()));
        assert!(!clock.is_due(1));
        let until = clock.state.lock().good.unwrap().1;
        assert!(until <= Instant::now() + FAILED_PAUSE);
    }
}
