//! The demo's feed: the real daily prices of `gateway/demo/prices.csv`, published by the node itself under `--demo`.

pub mod demo_config;
mod feed;
mod replay;

use std::sync::Arc;

use crate::broker::{BrokerError, PublishRequest, Published};
use crate::node::Node;
use crate::prices;
use crate::telemetry::labels::PublicationSource;

/// Publishes until it is dropped.
pub(crate) async fn run(node: Arc<Node>) {
    let prices = prices::parse(prices::SHIPPED).expect("a test reads the prices that are built in");
    let (replay, rules) = (replay::Replay::new(prices), node.rules());
    feed::feed(replay, &rules, feed::PACE, |request| publish(&node, request)).await;
}

async fn publish(node: &Node, request: PublishRequest) -> Result<Published, BrokerError> {
    let namespace = node.namespace_of(&request.channel);
    let published = node.publish(request).await?;
    node.metrics.publication_in(namespace, PublicationSource::Demo);
    Ok(published)
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
