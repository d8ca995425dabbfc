//! The Mercure hub: maps topics to channels, and publishes updates.

use std::sync::Arc;

use gateway_core::channel_rules::{ChannelOptions, ChannelRules};
use gateway_core::effect::{Denial, Identity};
use gateway_core::history::Retention;
use serde::{Deserialize, Serialize};
use shared::channel::{CHANNEL_BYTES_MAX, Channel};
use shared::protocol::mercure::{ALL_TOPICS, InvalidUpdate, Update};
use shared::topic_selector::Selector;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::mercure_subscriptions::{self, Subscriber};
use crate::auth::Authenticator;
use crate::backend::ClientOrigin;
use crate::broker::PublishRequest;
use crate::client::StreamWatcher;
use crate::node::Node;
use crate::setting::Faults;
use crate::telemetry::labels::PublicationSource;

/// The most updates published at once. Further ones are told to come back.
const AT_ONCE_MAX: usize = 1_024;

/// Longest name of the cookie, in bytes.
const COOKIE_BYTES_MAX: usize = 64;

/// A Mercure hub at `/.well-known/mercure`.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct MercureConfig {
    /// Serves the hub.
    pub enabled: bool,
    /// The namespace of the hub's channels. Updates for a topic are published in the channel with the topic's name,
    /// and all updates in the channel `*`. If `namespaces` has no section of this name, each channel keeps 300
    /// publications for an hour, and every accepted client may read updates that are not private.
    pub namespace: Box<str>,
    /// The cookie in which browsers send their token.
    pub cookie: Box<str>,
    /// Publishes a private update when a subscription begins or ends, and lists active subscriptions at
    /// `/.well-known/mercure/subscriptions`.
    pub subscriptions: bool,
}

impl Default for MercureConfig {
    fn default() -> Self {
        let (namespace, cookie) = ("mercure".into(), "mercureAuthorization".into());
        Self { enabled: false, namespace, cookie, subscriptions: false }
    }
}

impl MercureConfig {
    pub fn check(&self, faults: &mut Faults) {
        let is_name = |text: &str| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        if !is_name(&self.namespace) {
            faults.add("namespace", "must be letters, digits, - and _");
        }
        if !is_name(&self.cookie) || self.cookie.len() > COOKIE_BYTES_MAX {
            faults.add("cookie", format!("must be 1 to {COOKIE_BYTES_MAX} letters, digits, - and _"));
        }
    }
}

/// Returns the options of the hub's namespace if the configuration has none.
pub fn default_options() -> ChannelOptions {
    ChannelOptions {
        history_size: 300,
        history_ttl_s: 3_600,
        force_recovery: true,
        allow_subscribe: true,
        allow_subscribe_anonymous: true,
        ..ChannelOptions::default()
    }
}

#[derive(Debug)]
pub(crate) struct Hub {
    config: MercureConfig,
    authenticator: Arc<Authenticator>,
    node: Arc<Node>,
    room: Semaphore,
}

/// Why an update was not published.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpdateError {
    #[error(transparent)]
    Invalid(#[from] InvalidUpdate),
    #[error("the topic {0:?} cannot be a channel's name: {1}")]
    Topic(String, String),
    #[error("the data is not in the format that the namespace {0} requires")]
    Data(Box<str>),
    #[error("publishing requires a token")]
    NoToken,
    #[error("the token is refused: {0}")]
    Token(String),
    #[error("the claim mercure.publish does not name the topic {0:?}")]
    Forbidden(String),
    #[error("the claim mercure.subscribe does not name this list of subscriptions")]
    Unlisted,
    #[error("the application refuses the update: {0}")]
    Denied(String),
    #[error("too many updates are being published at once")]
    Busy,
    #[error("the broker failed")]
    Failed,
}

impl Hub {
    pub(crate) fn new(config: MercureConfig, authenticator: Arc<Authenticator>, node: Arc<Node>) -> Self {
        Self { config, authenticator, node, room: Semaphore::new(AT_ONCE_MAX) }
    }

    /// Returns the name of the cookie in which browsers send their token.
    pub(crate) fn cookie(&self) -> &str {
        &self.config.cookie
    }

    /// Returns the name of the channel of a topic, or of all topics.
    pub(crate) fn channel_of(&self, topic: Option<&str>) -> String {
        name(&self.config.namespace, &self.node.rules(), topic)
    }

    pub(super) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    pub(super) fn is_insecure(&self) -> bool {
        self.authenticator.is_insecure()
    }

    /// Whether subscriptions are listed at this path.
    pub(crate) fn lists(&self, path: &str) -> bool {
        let below = path.strip_prefix(mercure_subscriptions::PATH);
        self.config.subscriptions && below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
    }

    /// Returns a watcher for a client that follows these topics, if subscriptions are published.
    pub(crate) fn watch(self: &Arc<Self>, topics: &[String]) -> Option<Arc<dyn StreamWatcher>> {
        self.config
            .subscriptions
            .then(|| -> Arc<dyn StreamWatcher> { Arc::new(Subscriber::new(self.clone(), topics.to_vec())) })
    }

    /// Returns the channel whose presence holds the subscribers. It has no subscribers itself.
    pub(super) fn presence_channel(&self) -> Result<Channel, UpdateError> {
        channel(&self.config.namespace, &self.node.rules(), Some(mercure_subscriptions::PATH))
    }

    /// Returns the channel of all topics and its retention.
    pub(super) fn all_topics(&self) -> Result<(Channel, Retention), UpdateError> {
        let rules = self.node.rules();
        let channel = channel(&self.config.namespace, &rules, None)?;
        let retention = rules.options(&channel).map(|options| options.retention()).unwrap_or_default();
        Ok((channel, retention))
    }

    /// Publishes an update of the hub itself, only in the channel of all topics: few subscribers could name its topic
    /// beforehand.
    pub(super) async fn publish_own(&self, update: &Update) -> Result<(), UpdateError> {
        let (channel, retention) = self.all_topics()?;
        let publication = update.publication(&new_id());
        let request = PublishRequest { channel, publication, retention, idempotency: None, version: None };
        self.node.publish(request).await.map(|_| ()).map_err(|_| UpdateError::Failed)
    }

    /// Authenticates a token.
    pub(super) async fn identify(&self, token: Option<&str>) -> Result<Identity, UpdateError> {
        let is_shown = token.filter(|token| !token.is_empty());
        let Some(token) = is_shown.or(self.is_insecure().then_some("")) else {
            return Err(UpdateError::NoToken);
        };
        let now = self.node.clock.unix_seconds();
        self.authenticator.authenticate(now, token).wait().await.map_err(|denial| {
            UpdateError::Token(match denial {
                Denial::Error(refusal) => refusal.message.into_owned(),
                Denial::Disconnect(disconnect) => disconnect.plain().reason.into_owned(),
            })
        })
    }

    /// Publishes the update in a form, if the token allows publishing to all its topics. Returns the update's id. The
    /// application is asked first if the channels of its topics have the hook; `origin` is what it is told of the request.
    pub(crate) async fn publish(
        &self,
        token: Option<&str>,
        form: &[u8],
        origin: &ClientOrigin,
    ) -> Result<String, UpdateError> {
        let _room = self.room.try_acquire().map_err(|_| UpdateError::Busy)?;
        let update = Update::read(form)?;
        let identity = self.identify(token).await?;
        if !self.is_insecure() {
            check_rights(&identity, update.topics())?;
        }
        let id = update.id().map_or_else(new_id, str::to_owned);
        let requests =
            self.ask_about(self.requests(&update, &id)?, update.topics(), &identity, origin).await?;
        // An update in several channels counts once, in the first of them.
        let channel = requests.first().map(|request| request.channel.clone());
        for published in self.node.publish_in_order(requests).await {
            published.map_err(|_| UpdateError::Failed)?;
        }
        if let Some(channel) = channel {
            self.node.note_publication(&channel, PublicationSource::Client);
        }
        Ok(id)
    }

    /// Returns a request for the channel of each topic, and one for the channel of all topics.
    fn requests(&self, update: &Update, id: &str) -> Result<Vec<PublishRequest>, UpdateError> {
        let rules = self.node.rules();
        let topics = update.topics().iter().map(|topic| Some(&**topic));
        let request = |topic: Option<&str>| {
            let channel = channel(&self.config.namespace, &rules, topic)?;
            let options = rules.options(&channel).cloned().unwrap_or_default();
            let mut publication = update.publication(id);
            publication.delta = options.delta_publish;
            if !options.publication_data_format.admits(&publication.data) {
                return Err(UpdateError::Data(self.config.namespace.clone()));
            }
            let retention = options.retention();
            Ok(PublishRequest { channel, publication, retention, idempotency: None, version: None })
        };
        topics.chain([None]).map(request).collect()
    }
}

fn new_id() -> String {
    format!("urn:uuid:{}", Uuid::new_v4())
}

fn name(namespace: &str, rules: &ChannelRules, topic: Option<&str>) -> String {
    format!("{namespace}{}{}", rules.names.namespace_boundary, topic.unwrap_or(ALL_TOPICS))
}

fn channel(namespace: &str, rules: &ChannelRules, topic: Option<&str>) -> Result<Channel, UpdateError> {
    let unfit = |why: String| UpdateError::Topic(topic.unwrap_or_default().to_owned(), why);
    let name = name(namespace, rules, topic);
    let channel = rules.channel(&name, CHANNEL_BYTES_MAX).map_err(|invalid| unfit(invalid.to_string()))?;
    if !rules.names.audience(channel.as_str()).is_everyone() {
        return Err(unfit("it would be the name of a private channel".to_owned()));
    }
    if topic.is_some() && !rules.admits_name(&channel) {
        return Err(unfit("its namespace's channel_regex does not match it".to_owned()));
    }
    Ok(channel)
}

/// Checks that all topics are allowed. Otherwise nothing is published.
fn check_rights(identity: &Identity, topics: &[String]) -> Result<(), UpdateError> {
    let allowed = identity.updates.as_deref().map_or(&[][..], |updates| &updates.publish);
    let is_allowed = |topic: &&String| allowed.iter().any(|selector: &Selector| selector.matches(topic));
    match topics.iter().find(|topic| !is_allowed(topic)) {
        None => Ok(()),
        Some(topic) => Err(UpdateError::Forbidden(topic.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> ChannelRules {
        let namespaces = [("mercure".into(), default_options())];
        ChannelRules::new(ChannelOptions::default(), namespaces, Default::default(), false)
    }

    #[test]
    fn a_topic_is_a_channel_of_the_hubs_namespace() {
        let named = |topic| channel("mercure", &rules(), topic).map(|channel| channel.as_str().to_owned());
        assert_eq!(named(Some("https://a.example/1?b=c")).unwrap(), "mercure:https://a.example/1?b=c");
        assert_eq!(named(None).unwrap(), "mercure:*");
        for bad in ["https://a.example/#ann", "a b", "é", &"x".repeat(CHANNEL_BYTES_MAX)] {
            assert!(matches!(named(Some(bad)), Err(UpdateError::Topic(..))), "{bad}");
        }
    }

    #[test]
    fn every_topic_has_to_be_allowed() {
        let may = |publish: &[&str], topics: &[&str]| {
            let publish = publish.iter().map(|text| Selector::new(text)).collect();
            let updates = gateway_core::effect::Updates { publish, ..Default::default() };
            let identity = Identity { updates: Some(Box::new(updates)), ..Identity::default() };
            let topics: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
            check_rights(&identity, &topics).is_ok()
        };
        assert!(may(&["*"], &["a", "b"]) && may(&["a", "/b/{id}"], &["a", "/b/1"]));
        assert!(!may(&["a"], &["a", "b"]) && !may(&[], &["a"]));
        assert!(check_rights(&Identity::default(), &["a".to_owned()]).is_err());
    }

    #[test]
    fn names_in_the_configuration_are_checked() {
        let faulty = |config: MercureConfig| {
            let mut faults = Faults::default();
            config.check(&mut faults);
            faults.into_inner().into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(faulty(MercureConfig::default()), [""; 0]);
        let bad =
            MercureConfig { namespace: "a:b".into(), cookie: "".into(), enabled: true, subscriptions: true };
        assert_eq!(faulty(bad), ["namespace", "cookie"]);
    }
}
