//! The demo's feed: the real daily prices of `gateway/demo/prices.csv`, published by the node itself under `--demo`.

pub mod demo_config;
mod feed;
mod replay;

use gateway_core::channel_rules::ChannelRules;

use crate::broker::{BrokerError, PublishRequest, Published};
use crate::prices;

/// Publishes until it is dropped: `run(node.rules(), |request| node.publish(request))`.
pub async fn run<P, F>(rules: &ChannelRules, publish: P)
where
    P: Fn(PublishRequest) -> F,
    F: Future<Output = Result<Published, BrokerError>>,
{
    let prices = prices::parse(prices::SHIPPED).expect("a test reads the prices that are built in");
    feed::feed(replay::Replay::new(prices), rules, feed::PACE, publish).await;
}

#[cfg(test)]
mod tests {
    use shared::channel::{CHANNEL_BYTES_MAX, Channel};

    use super::*;

    #[test]
    fn the_prices_that_are_built_in_can_be_read_and_have_channels() {
        let prices = prices::parse(prices::SHIPPED).unwrap();
        assert_eq!(prices.len(), 4_196);
        for price in prices {
            assert!(Channel::parse(&price.channel(), CHANNEL_BYTES_MAX).is_ok(), "{}", price.channel());
        }
    }
}
