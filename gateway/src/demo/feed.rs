//! Publishes prices at a pace that people can watch.

use std::time::Duration;

use gateway_core::channel_rules::ChannelRules;
use shared::channel::{CHANNEL_BYTES_MAX, Channel};
use shared::publication::{Payload, Publication};
use tokio::time::MissedTickBehavior;

use super::replay::Replay;
use crate::broker::{BrokerError, PublishRequest, Published};
use crate::prices::Price;

/// The interval between two prices: each of five shares moves four times a second.
pub(super) const PACE: Duration = Duration::from_millis(50);

/// Publishes for ever. A price that cannot be published is tried again at the next tick: none is left out.
pub(super) async fn feed<P, F>(mut replay: Replay<'_>, rules: &ChannelRules, pace: Duration, publish: P)
where
    P: Fn(PublishRequest) -> F,
    F: Future<Output = Result<Published, BrokerError>>,
{
    let mut turn = tokio::time::interval(pace);
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for price in replay.earlier() {
        if let Err(error) = publish(request(price, rules)).await {
            // The only effect is that the lines of the page start out shorter.
            tracing::warn!(%error, "the demo starts without its past prices");
            break;
        }
    }
    let mut failing = false;
    loop {
        turn.tick().await;
        match publish(request(replay.current(), rules)).await {
            Ok(_) => {
                if failing {
                    tracing::info!("the demo publishes again");
                }
                failing = false;
                replay.advance();
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "the demo waits: its prices cannot be published");
                }
                failing = true;
            }
        }
    }
}

fn request(price: &Price<'_>, rules: &ChannelRules) -> PublishRequest {
    let channel = Channel::parse(&price.channel(), CHANNEL_BYTES_MAX)
        .expect("a test makes a channel of every share of the demo");
    let retention = rules.options(&channel).map(|options| options.retention()).unwrap_or_default();
    let publication = Publication::new(Payload::json(price.to_json()));
    PublishRequest { channel, publication, retention, idempotency: None, version: None }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::mpsc;

    use super::*;
    use crate::config::Config;
    use crate::prices::{HEADER, parse};

    const CSV: &str = "1,A,1,1,1,1,1\n2,A,2,2,2,2,2\n2,B,3,3,3,3,3\n";

    /// Starts a feed whose n-th attempt fails if `fails(n)`. The channel receives its publications.
    fn start(fails: fn(u32) -> bool) -> mpsc::UnboundedReceiver<PublishRequest> {
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let csv = format!("{HEADER}\n{CSV}");
            let replay = Replay::new(parse(&csv).unwrap());
            let attempts = Arc::new(AtomicU32::new(0));
            let publish = |request| {
                let failed = fails(attempts.fetch_add(1, Ordering::Relaxed));
                let sent = if failed { Ok(()) } else { sender.send(request) };
                async move {
                    assert!(sent.is_ok(), "the test has ended");
                    if failed {
                        Err(BrokerError::Timeout(Duration::from_secs(1)))
                    } else {
                        Ok(Published::default())
                    }
                }
            };
            feed(replay, &Config::demo().channel_rules(), Duration::from_millis(1), publish).await;
        });
        receiver
    }

    async fn take(feed: &mut mpsc::UnboundedReceiver<PublishRequest>, count: usize) -> Vec<String> {
        let mut seen = Vec::new();
        for _ in 0..count {
            let next = tokio::time::timeout(Duration::from_secs(10), feed.recv()).await;
            let request = next.expect("a price comes in time").unwrap();
            assert!(request.retention.size > 0, "prices keep a history");
            let data: serde_json::Value = serde_json::from_slice(&request.publication.data.bytes).unwrap();
            seen.push(format!("{} {}", request.channel.as_str(), data["close"]));
        }
        seen
    }

    #[tokio::test]
    async fn prices_go_to_the_channels_of_their_shares() {
        let mut feed = start(|_| false);
        let seen = take(&mut feed, 5).await;
        assert_eq!(seen, ["prices:A 1", "prices:A 2", "prices:B 3", "prices:A 1", "prices:A 2"]);
    }

    #[tokio::test]
    async fn a_price_that_cannot_be_published_is_published_later() {
        let mut feed = start(|attempt| matches!(attempt, 2..=4));
        let seen = take(&mut feed, 4).await;
        assert_eq!(seen, ["prices:A 1", "prices:A 2", "prices:B 3", "prices:A 1"]);
    }
}
