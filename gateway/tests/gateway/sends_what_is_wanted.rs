//! Tests subscribers that ask for less: deltas in place of payloads, or only publications with certain tags.

use gateway_core::delta;
use serde_json::{Value, json};

use crate::client::Client;
use crate::gateway::{Gateway, gateway};

const CHANNEL: &str = "stream:prices";

async fn prices() -> Gateway {
    gateway()
        .with("namespaces.stream.allowed_delta_types", "fossil")
        .with("namespaces.stream.allow_tags_filter", true)
        .start()
        .await
}

fn price(number: u64) -> Value {
    json!({ "symbol": "AAPL", "currency": "USD", "exchange": "XNAS", "price": number })
}

async fn publish(gateway: &Gateway, number: u64) {
    let tags = json!({ "odd": (number % 2).to_string() });
    let body = json!({ "channel": CHANNEL, "data": price(number), "delta": true, "tags": tags });
    gateway.api("publish", body).await;
}

/// The value that a client derives from payloads and deltas.
#[derive(Default)]
struct Prices {
    has: String,
    patches: u32,
}

impl Prices {
    fn take(&mut self, publication: &Value) -> Value {
        let data = publication["data"]
            .as_str()
            .unwrap_or_else(|| panic!("a text, once patches are agreed to: {publication}"));
        self.has = match publication["delta"] == true {
            true => {
                self.patches += 1;
                let made = delta::apply(self.has.as_bytes(), data.as_bytes(), 1 << 20)
                    .expect("a patch of what it has");
                String::from_utf8(made).expect("text")
            }
            false => data.to_owned(),
        };
        serde_json::from_str(&self.has).expect("JSON")
    }

    async fn next(&mut self, client: &mut Client) -> u64 {
        let push = client.push().await;
        self.take(&push["push"]["pub"])["price"].as_u64().expect("a price")
    }
}

#[tokio::test]
async fn the_first_payload_comes_whole_and_then_what_has_changed() {
    let gateway = prices().await;
    let (mut ann, mut bob) = (gateway.connect_as("ann").await, gateway.connect_as("bob").await);
    let subscribed = ann.command("subscribe", json!({ "channel": CHANNEL, "delta": "fossil" })).await;
    assert_eq!(subscribed["delta"], true);
    assert!(bob.subscribe(CHANNEL).await.get("delta").is_none());
    let mut prices = Prices::default();
    for number in 1..=20 {
        publish(&gateway, number).await;
    }
    for number in 1..=20 {
        assert_eq!(prices.next(&mut ann).await, number);
        assert_eq!(bob.publication().await.data, price(number), "who did not ask gets it as it is");
    }
    assert_eq!(prices.patches, 19);
}

#[tokio::test]
async fn a_recovery_is_a_chain_of_patches_that_goes_on_live() {
    let gateway = prices().await;
    let mut ann = gateway.connect_as("ann").await;
    let subscribed = ann.command("subscribe", json!({ "channel": CHANNEL, "delta": "fossil" })).await;
    for number in 1..=5 {
        publish(&gateway, number).await;
    }
    let mut again = gateway.connect_as("ann").await;
    let recover = json!({
        "channel": CHANNEL, "delta": "fossil", "recover": true, "offset": 2, "epoch": subscribed["epoch"],
    });
    let recovered = again.command("subscribe", recover).await;
    let mut prices = Prices::default();
    let missed = recovered["publications"].as_array().expect("publications");
    let read: Vec<Value> = missed.iter().map(|publication| prices.take(publication)).collect();
    assert_eq!(read, [price(3), price(4), price(5)]);
    assert_eq!(prices.patches, 2);
    publish(&gateway, 6).await;
    publish(&gateway, 7).await;
    assert_eq!((prices.next(&mut again).await, prices.next(&mut again).await), (6, 7));
    assert_eq!(prices.patches, 4, "the reply's last is what the next patch is of");
}

#[tokio::test]
async fn a_filter_on_tags_leaves_publications_out_and_tells_no_gap() {
    let gateway = prices().await;
    let mut ann = gateway.connect_as("ann").await;
    let odd = json!({ "key": "odd", "cmp": "eq", "val": "1" });
    ann.command("subscribe", json!({ "channel": CHANNEL, "tf": odd })).await;
    for number in 1..=9 {
        publish(&gateway, number).await;
    }
    for number in [1, 3, 5, 7, 9] {
        let publication = ann.publication().await;
        assert_eq!((publication.offset, publication.data), (number, price(number)));
    }
    let mut eve = gateway.connect_as("eve").await;
    let unknown = json!({ "key": "odd", "cmp": "like", "val": "1" });
    assert_eq!(eve.refused("subscribe", json!({ "channel": CHANNEL, "tf": unknown })).await, 107);
}

#[tokio::test]
async fn who_asks_is_told_who_comes_and_goes() {
    let gateway = gateway()
        .with("namespaces.stream.join_leave", true)
        .with("namespaces.stream.allow_join_leave", true)
        .start()
        .await;
    let (mut ann, mut bob) = (gateway.connect_as("ann").await, gateway.connect_as("bob").await);
    ann.command("subscribe", json!({ "channel": CHANNEL, "join_leave": true })).await;
    assert_eq!(ann.push().await["push"]["join"]["info"]["user"], "ann", "it has come itself");
    bob.subscribe(CHANNEL).await;
    assert_eq!(ann.push().await["push"]["join"]["info"]["user"], "bob");
    bob.command("unsubscribe", json!({ "channel": CHANNEL })).await;
    assert_eq!(ann.push().await["push"]["leave"]["info"]["user"], "bob");
    let mut eve = gateway.connect_as("eve").await;
    eve.subscribe(CHANNEL).await;
    assert_eq!(ann.push().await["push"]["join"]["info"]["user"], "eve");
    eve.socket.close().await;
    assert_eq!(ann.push().await["push"]["leave"]["info"]["user"], "eve");
    publish(&gateway, 1).await;
    assert_eq!(ann.publication().await.data, price(1));
}
