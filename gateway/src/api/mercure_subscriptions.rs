//! Subscriptions to topics of the Mercure hub: updates when one begins or ends, and lists of the current ones.
//!
//! A subscriber is in the presence of a channel without subscribers, so all nodes know of it, and it goes with its node.

use std::sync::Arc;

use bytes::Bytes;
use gateway_core::history::HistoryFilter;
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use shared::id::{ClientId, UserId};
use shared::protocol::mercure::{EARLIEST, Update, id_of};
use shared::publication::ClientInfo;
use tokio::sync::oneshot;

use super::update::{Hub, UpdateError};
use crate::client::StreamWatcher;

/// The path of the lists.
pub(crate) const PATH: &str = "/.well-known/mercure/subscriptions";

const CONTEXT: &str = "https://mercure.rocks/";

/// The characters that a variable of a URI template escapes (RFC 6570 §3.2.2).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The subscriber's info in the presence channel.
#[derive(Serialize, Deserialize)]
struct SubscriberInfo {
    topics: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload: Option<Box<RawValue>>,
}

/// A client of the hub, while its stream lasts.
#[derive(Debug)]
pub(crate) struct Subscriber {
    hub: Arc<Hub>,
    topics: Vec<String>,
    begun: Mutex<Option<StreamBeginning>>,
}

#[derive(Debug)]
struct StreamBeginning {
    payload: Option<Bytes>,
    /// Resolves when the beginning has been published.
    announced: oneshot::Receiver<()>,
}

impl Subscriber {
    pub(crate) fn new(hub: Arc<Hub>, mut topics: Vec<String>) -> Self {
        topics.sort_unstable();
        topics.dedup();
        Self { hub, topics, begun: Mutex::default() }
    }
}

impl StreamWatcher for Subscriber {
    fn begun(&self, client: ClientId, payload: Option<&Bytes>) {
        let (telling, announced) = oneshot::channel();
        *self.begun.lock() = Some(StreamBeginning { payload: payload.cloned(), announced });
        let (hub, topics, payload) = (self.hub.clone(), self.topics.clone(), payload.cloned());
        self.hub.node().spawn(async move {
            hub.show(client, &topics, payload.as_ref()).await;
            hub.publish_subscription(client, &topics, true, payload.as_ref()).await;
            drop(telling);
        });
    }

    fn ended(&self, client: ClientId) {
        let Some(StreamBeginning { payload, announced }) = self.begun.lock().take() else { return };
        let (hub, topics) = (self.hub.clone(), self.topics.clone());
        self.hub.node().spawn(async move {
            // The end is published only after the beginning.
            let _ = announced.await;
            hub.hide(client);
            hub.publish_subscription(client, &topics, false, payload.as_ref()).await;
        });
    }
}

/// Selects subscriptions.
enum SubscriptionQuery {
    All,
    Of(String),
    One(String, String),
}

impl SubscriptionQuery {
    /// Parses a path. `None` for one that selects nothing.
    fn read(path: &str) -> Option<Self> {
        let rest = path.strip_prefix(PATH)?;
        let decode = |text: &str| percent_decode_str(text).decode_utf8().ok().map(|text| text.into_owned());
        let mut parts = rest.strip_prefix('/').into_iter().flat_map(|rest| rest.split('/'));
        match (parts.next(), parts.next(), parts.next()) {
            (None, ..) if rest.is_empty() => Some(Self::All),
            (Some(topic), None, _) if !topic.is_empty() => Some(Self::Of(decode(topic)?)),
            (Some(topic), Some(subscriber), None) => Some(Self::One(decode(topic)?, decode(subscriber)?)),
            _ => None,
        }
    }
}

impl Hub {
    /// Returns the JSON-LD document at a path. `None` if there is no such subscription.
    pub(crate) async fn subscriptions(
        &self,
        token: Option<&str>,
        path: &str,
    ) -> Result<Option<String>, UpdateError> {
        let identity = self.identify(token).await?;
        let selectors = identity.updates.as_deref().map_or(&[][..], |updates| &updates.subscribe);
        if !self.is_insecure() && !selectors.iter().any(|selector| selector.matches(path)) {
            return Err(UpdateError::Unlisted);
        }
        let Some(wanted) = SubscriptionQuery::read(path) else { return Ok(None) };
        // Read before the list: a client that follows updates from there on misses no change of the list.
        let last_id = self.last_id().await?;
        let present =
            self.node().presence(self.presence_channel()?).await.map_err(|_| UpdateError::Failed)?;
        let mut listed = Vec::new();
        for (client, info) in &present {
            let Some(subscriber_info) = info
                .chan_info
                .as_ref()
                .and_then(|written| serde_json::from_slice::<SubscriberInfo>(written).ok())
            else {
                continue;
            };
            let subscriber = name_of(*client);
            for topic in &subscriber_info.topics {
                let is_wanted = match &wanted {
                    SubscriptionQuery::All => true,
                    SubscriptionQuery::Of(of) => of == topic,
                    SubscriptionQuery::One(of, by) => of == topic && *by == subscriber,
                };
                if is_wanted {
                    listed.push(document(topic, &subscriber, true, subscriber_info.payload.as_deref()));
                }
            }
        }
        let mut answer = match wanted {
            SubscriptionQuery::One(..) => match listed.pop() {
                Some(only) => only,
                None => return Ok(None),
            },
            _ => json!({ "id": path, "type": "Subscriptions", "subscriptions": listed }),
        };
        answer["@context"] = CONTEXT.into();
        answer["lastEventID"] = last_id.into();
        Ok(Some(answer.to_string()))
    }

    async fn last_id(&self) -> Result<String, UpdateError> {
        let (channel, retention) = self.all_topics()?;
        if !retention.keeps_history() {
            return Ok(EARLIEST.to_owned());
        }
        let filter = HistoryFilter { limit: 1, reverse: true, ..HistoryFilter::default() };
        let page = self.node().history(channel, filter, retention).await.map_err(|_| UpdateError::Failed)?;
        Ok(page.publications.first().and_then(id_of).unwrap_or_else(|| EARLIEST.to_owned()))
    }

    async fn show(&self, client: ClientId, topics: &[String], payload: Option<&Bytes>) {
        let Ok(channel) = self.presence_channel() else { return };
        let payload = payload.and_then(|payload| serde_json::from_slice(payload).ok());
        let subscriber_info = SubscriberInfo { topics: topics.to_vec(), payload };
        let chan_info = serde_json::to_vec(&subscriber_info).ok().map(Bytes::from);
        let info = ClientInfo { client, user: UserId::ANONYMOUS, conn_info: None, chan_info };
        if let Err(error) = self.node().enter_presence(channel, info).wait().await {
            tracing::debug!(%error, %client, "a subscription is not listed yet");
        }
    }

    fn hide(&self, client: ClientId) {
        if let Ok(channel) = self.presence_channel() {
            self.node().leave_presence(channel, client);
        }
    }

    /// Publishes an update for each topic. Subscribers to these updates can tell from the list what they may have missed.
    async fn publish_subscription(
        &self,
        client: ClientId,
        topics: &[String],
        active: bool,
        payload: Option<&Bytes>,
    ) {
        let subscriber = name_of(client);
        let payload = payload.and_then(|payload| serde_json::from_slice::<Box<RawValue>>(payload).ok());
        for topic in topics {
            let mut document = document(topic, &subscriber, active, payload.as_deref());
            document["@context"] = CONTEXT.into();
            let update = Update::own(path_of(topic, &subscriber), document.to_string());
            if let Err(error) = self.publish_own(&update).await {
                tracing::debug!(%error, %client, "an update about a subscription could not be published");
            }
        }
    }
}

fn name_of(client: ClientId) -> String {
    let hyphenated = client.hyphenated();
    format!("urn:uuid:{}", std::str::from_utf8(&hyphenated).unwrap_or_default())
}

fn path_of(topic: &str, subscriber: &str) -> String {
    let (topic, subscriber) = (utf8_percent_encode(topic, ESCAPED), utf8_percent_encode(subscriber, ESCAPED));
    format!("{PATH}/{topic}/{subscriber}")
}

fn document(topic: &str, subscriber: &str, active: bool, payload: Option<&RawValue>) -> Value {
    let mut document = json!({
        "id": path_of(topic, subscriber),
        "type": "Subscription",
        "topic": topic,
        "subscriber": subscriber,
        "active": active,
    });
    if let Some(payload) = payload.and_then(|payload| serde_json::from_str(payload.get()).ok()) {
        document["payload"] = payload;
    }
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_is_named_by_its_topic_and_its_subscriber() {
        let subscriber = name_of(ClientId::from_random(7));
        assert_eq!(subscriber, "urn:uuid:00000000-0000-4000-8000-000000000007");
        let document = document("https://a.example/{id}", &subscriber, true, None);
        assert_eq!(
            document["id"],
            "/.well-known/mercure/subscriptions/https%3A%2F%2Fa.example%2F%7Bid%7D/\
             urn%3Auuid%3A00000000-0000-4000-8000-000000000007"
        );
        assert!(document.get("payload").is_none());
    }

    #[test]
    fn paths_ask_for_all_for_those_of_a_topic_or_for_one() {
        let read = |rest: &str| match SubscriptionQuery::read(&format!("{PATH}{rest}"))? {
            SubscriptionQuery::All => Some("all".to_owned()),
            SubscriptionQuery::Of(topic) => Some(format!("of {topic}")),
            SubscriptionQuery::One(topic, subscriber) => Some(format!("of {topic} by {subscriber}")),
        };
        assert_eq!(read("").as_deref(), Some("all"));
        assert_eq!(read("/a%2Fb").as_deref(), Some("of a/b"));
        assert_eq!(read("/a/urn%3Ab").as_deref(), Some("of a by urn:b"));
        for none in ["/", "s", "/a/b/c", "/%ff"] {
            assert_eq!(read(none), None, "{none}");
        }
    }
}
