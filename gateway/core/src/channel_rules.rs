//! Channel options by namespace: what clients may do in a channel, and what the channel keeps.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::channel::{Channel, InvalidChannel};
use shared::command::SubscriptionKind;
use shared::protocol::mercure;
use shared::publication::{Payload, PayloadKind, Publication};

use crate::channel_names::ChannelNames;
use crate::channel_pattern::{ChannelPattern, SEPARATOR};
use crate::history::{KeysBeside, Retention};
use crate::map::{MapOptions, MapRetention};
use crate::name_rule::NameRule;
use crate::namespace_id::NamespaceId;
use crate::newest::NewestOptions;
use crate::poll::PollOptions;

/// The options of one namespace, or of channels without one.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChannelOptions {
    /// The pattern of the namespace's channels: they are selected by the shape of their names instead of by the
    /// prefix. `/users/:id`, where `:id` is any text without `/`, or `/users/*`, where `*` is all the rest. Only for
    /// namespaces. If several patterns match a channel, the narrowest one applies.
    pub pattern: ChannelPattern,
    /// A regular expression that channel names must match (`^[a-z]+$`). It is applied to the part after the
    /// namespace, or to the whole name if the namespace has a pattern and for channels without a namespace. Commands
    /// of clients with other names are refused with 107. At most 1024 bytes; classes such as `\d` match ASCII only.
    pub channel_regex: NameRule,
    /// The most publications kept in a channel's history. 0: no history, and so no offsets and no recovery.
    pub history_size: u32,
    /// Time that a channel's history is kept after its last publication, in seconds. 0: no history.
    pub history_ttl_s: u64,
    /// The least time between two writes to a subscriber, in milliseconds. Publications that arrive faster are sent
    /// together, which costs less CPU and adds at most this much latency. 0: each publication is sent as soon as
    /// possible.
    pub flush_interval_ms: u32,
    /// Makes every subscription track its stream position and detect gaps, whether it asks to or not. Needs history.
    pub force_positioning: bool,
    /// Makes every subscription recoverable, whether it asks to be or not. Needs history.
    pub force_recovery: bool,
    /// Allows subscriptions to ask for recovery. Recovery returns history: without this option and `force_recovery`,
    /// subscriptions can recover only if `allow_history` is set. Needs history.
    pub allow_recovery: bool,
    /// Allows subscriptions to ask for tracking of their stream position, even if they may not recover. Needs
    /// history.
    pub allow_positioning: bool,
    /// What recovery returns: all missed publications (`stream`), or the newest publication (`cache`), which is
    /// enough if each publication holds the whole state.
    pub force_recovery_mode: RecoveryMode,
    /// Sends the newest publication to every new subscriber, whether it asks for it or not. Only for recoverable
    /// subscriptions, with the recovery mode `cache`.
    pub auto_cache_recover: bool,
    /// Delta formats that subscribers may ask for, to receive changes instead of whole publications: `fossil`.
    pub allowed_delta_types: Vec<DeltaType>,
    /// Allows deltas for every publication, as if its publisher had asked for it.
    pub delta_publish: bool,
    /// Allows subscribers to filter publications by their tags.
    pub allow_tags_filter: bool,
    /// The format of publications: `any`, `json`, `json_object` or `binary`. Others are refused with 107. Bare text
    /// is not JSON.
    pub publication_data_format: DataFormat,
    /// Adds the time of publication, in milliseconds since 1970.
    pub publication_time: bool,
    /// Keeps presence: which clients are subscribed.
    pub presence: bool,
    /// Produces join and leave events, for subscribers that receive them.
    pub join_leave: bool,
    /// Allows subscribers to ask for join and leave events.
    pub allow_join_leave: bool,
    /// Sends join and leave events to all subscribers, whether they ask for them or not.
    pub force_push_join_leave: bool,
    /// Allows clients with a user to subscribe without a subscription token.
    pub allow_subscribe: bool,
    /// Allows anonymous clients to subscribe without a subscription token.
    pub allow_subscribe_anonymous: bool,
    /// Allows the users listed after the `#` in a channel's name (`chat#ann,bob`) to subscribe without a subscription
    /// token. No option lets other users subscribe to such a channel without one.
    pub allow_user_limited: bool,
    /// Allows the client whose id follows the `&` in a channel's name (`inbox&8f14e45f-ceea-467f-8a3d-0a4c1c3e2b11`)
    /// to subscribe without a subscription token. No option lets other clients subscribe to such a channel without
    /// one.
    pub allow_client_channels: bool,
    /// Allows subscribers with a user to publish.
    pub allow_publish: bool,
    /// Allows anonymous subscribers to publish.
    pub allow_publish_anonymous: bool,
    /// Allows clients with a user to publish without being subscribed; with `allow_publish_anonymous`, also anonymous
    /// clients. Does not apply to private channels or channels that name their users or client.
    pub allow_publish_for_client: bool,
    /// Asks the subscribe hook whether a client without a subscription token may subscribe; its answer overrides the
    /// other options. The hook is not asked about private channels or channels that name their users or client. Needs
    /// `backend.subscribe.url`.
    pub subscribe_hook: bool,
    /// Asks the sub_refresh hook, instead of the client, to renew an expiring subscription. Needs
    /// `backend.sub_refresh.url`.
    pub sub_refresh_hook: bool,
    /// Asks the publish hook whether a client may publish. The hook may change the publication; its answer overrides
    /// the other options. Needs `backend.publish.url`.
    pub publish_hook: bool,
    /// Allows subscribers to read history.
    pub allow_history: bool,
    /// Allows clients with a user to read history without being subscribed. Does not apply to private channels or
    /// channels that name their users or client.
    pub allow_history_for_client: bool,
    /// Allows anonymous clients to read history without being subscribed, with the same restriction.
    pub allow_history_for_anonymous: bool,
    /// Allows subscribers to read presence.
    pub allow_presence: bool,
    /// What subscriptions follow. `stream`: a stream of publications. `map`: values by key. `map_clients` and
    /// `map_users`: the clients or users that are subscribed to another channel. `shared_poll`: values by key that
    /// the node polls from a backend, once for all followers. Subscribe commands for another type are refused with
    /// 103.
    pub subscription_type: SubscriptionType,
    /// What channels of the types `map`, `map_clients` and `map_users` keep, and who may change it.
    pub map: MapOptions,
    /// Shows the channel's subscribers in a map channel: each client id is a key of the channel whose name is this
    /// prefix followed by the name of the subscribed channel. The namespace of the map channel must be of the type
    /// `map_clients`.
    pub map_clients_presence_channel_prefix: Box<str>,
    /// Shows the users of the channel's subscribers in a map channel in the same way. A user's key stays while the
    /// user has a subscribed client, and then until the key expires. The namespace of the map channel must be of the
    /// type `map_users`.
    pub map_users_presence_channel_prefix: Box<str>,
    /// The least time that clients are asked to leave between two publications of the same key, in milliseconds:
    /// libraries then send only the newest. 0: none. Only for the type `map`.
    pub client_publish_debounce_interval_ms: u32,
    /// Polling of channels of the type `shared_poll`.
    pub shared_poll: PollOptions,
    /// Delivery of only the newest value of each key.
    pub newest: NewestOptions,
    /// Allows clients with a user to read presence without being subscribed. Does not apply to private channels or
    /// channels that name their users or client.
    pub allow_presence_for_client: bool,
    /// Allows anonymous clients to read presence without being subscribed, with the same restriction.
    pub allow_presence_for_anonymous: bool,
    /// Whether publications can be private, for clients whose token names one of their topics. Set for the channels of
    /// the Mercure hub.
    #[serde(skip)]
    pub has_private_publications: bool,
    /// Whether clients may resume a session in all channels of the namespace at once. History then also keeps
    /// publications that are for some subscribers only.
    #[serde(skip)]
    pub keeps_sessions: bool,
    /// Whether clients are admitted only by a signature or a token.
    #[serde(skip)]
    pub only_signed: bool,
    /// The id under which metrics of its channels are counted.
    #[serde(skip)]
    pub namespace: NamespaceId,
}

/// The kind of content that subscriptions to a channel follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SubscriptionType {
    /// A stream of publications.
    #[default]
    Stream,
    /// Values by key.
    Map,
    /// Clients, by their ids.
    MapClients,
    /// Users.
    MapUsers,
    /// Values by key that a backend is asked for.
    SharedPoll,
}

impl SubscriptionType {
    pub fn keeps_keys(self) -> bool {
        match self {
            Self::Stream | Self::SharedPoll => false,
            Self::Map | Self::MapClients | Self::MapUsers => true,
        }
    }

    /// Returns the kind of subscription that a client has to ask for.
    pub fn kind(self) -> SubscriptionKind {
        match self {
            Self::Stream => SubscriptionKind::Stream,
            Self::Map => SubscriptionKind::Map,
            Self::MapClients => SubscriptionKind::MapClients,
            Self::MapUsers => SubscriptionKind::MapUsers,
            Self::SharedPoll => SubscriptionKind::SharedPoll,
        }
    }
}

/// What a subscriber is sent when it recovers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RecoveryMode {
    /// Everything it missed.
    #[default]
    Stream,
    /// The newest publication.
    Cache,
}

/// A format of deltas from one payload to the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DeltaType {
    Fossil,
}

/// Which payloads a channel accepts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DataFormat {
    #[default]
    Any,
    Json,
    JsonObject,
    Binary,
}

impl DataFormat {
    pub fn admits(self, payload: &Payload) -> bool {
        let is_json = payload.kind == PayloadKind::Json;
        match self {
            Self::Any => true,
            Self::Json => is_json,
            Self::JsonObject => {
                is_json && payload.bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
            }
            Self::Binary => payload.kind == PayloadKind::Binary,
        }
    }
}

impl ChannelOptions {
    /// Returns whether the channel's content comes only from a backend that is polled.
    pub fn is_polled(&self) -> bool {
        self.subscription_type == SubscriptionType::SharedPoll
    }

    /// Returns the retention of one publication. A publication for some subscribers only is retained only in channels
    /// that keep sessions, because its audience has to be known when it is read again.
    pub fn retention_of(&self, publication: &Publication) -> Retention {
        match publication.only.as_deref() {
            Some(only) if only.volatile || !self.keeps_sessions => Retention::default(),
            _ => self.retention(),
        }
    }

    /// Returns the retention of a channel's history, also of one beside a map.
    pub fn retention(&self) -> Retention {
        if self.subscription_type.keeps_keys() {
            return self.map.keeping().stream;
        }
        let beside = if self.newest.snapshot { KeysBeside::Expiring } else { KeysBeside::None };
        Retention { size: self.history_size, ttl: Duration::from_secs(self.history_ttl_s), beside }
    }

    /// Returns the retention of the newest values of a channel of publications. `None` if it keeps none.
    pub fn newest_retention(&self) -> Option<MapRetention> {
        self.newest.keeping(self.retention())
    }

    /// Returns whether its channels are maps, which take publications of keys only.
    pub fn keeps_keys(&self) -> bool {
        self.subscription_type.keeps_keys()
    }
}

/// Options by prefix of a channel's own name.
pub type Kinds = Vec<(Box<str>, Arc<ChannelOptions>)>;

/// The options of all channels, and the rules for their names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ChannelRules {
    /// For channels without a namespace.
    pub default: Arc<ChannelOptions>,
    pub namespaces: BTreeMap<Box<str>, Arc<ChannelOptions>>,
    /// The options of namespaces with a pattern, the narrower patterns first.
    pub patterns: Vec<Arc<ChannelOptions>>,
    /// The names of those namespaces, in the same order.
    pub pattern_names: Vec<Box<str>>,
    /// Options by the prefix of the name after the namespace, for some namespaces. The first match counts.
    pub kinds: BTreeMap<Box<str>, Kinds>,
    pub names: ChannelNames,
    /// Whether names may be any text, and not only printable ASCII.
    pub unicode: bool,
    /// The namespace whose channels are topics of a Mercure hub.
    pub hub: Option<Box<str>>,
}

impl ChannelRules {
    /// Creates rules, and sorts namespaces into those that prefix channel names and those with a pattern.
    pub fn new(
        default: ChannelOptions,
        namespaces: impl IntoIterator<Item = (Box<str>, ChannelOptions)>,
        names: ChannelNames,
        unicode: bool,
    ) -> Self {
        let mut rules = Self { default: Arc::new(default), names, unicode, ..Self::default() };
        let mut patterns: Vec<(Box<str>, Arc<ChannelOptions>)> = Vec::new();
        for (name, options) in namespaces {
            let options = Arc::new(options);
            match options.pattern.is_none() {
                true => drop(rules.namespaces.insert(name, options)),
                false => patterns.push((name, options)),
            }
        }
        patterns.sort_by(|(_, one), (_, other)| one.pattern.cmp(&other.pattern));
        (rules.pattern_names, rules.patterns) = patterns.into_iter().unzip();
        rules
    }

    /// Returns these rules with options by prefix for the channels of a namespace. A namespace that does not exist is
    /// created with the default options.
    #[must_use]
    pub fn with_kinds(mut self, namespace: &str, kinds: Vec<(Box<str>, ChannelOptions)>) -> Self {
        self.namespaces.entry(namespace.into()).or_default();
        let kinds = kinds.into_iter().map(|(prefix, options)| (prefix, Arc::new(options))).collect();
        self.kinds.insert(namespace.into(), kinds);
        self
    }

    /// Returns these rules with a namespace whose channels are topics of a Mercure hub.
    #[must_use]
    pub fn with_hub(self, namespace: &str) -> Self {
        Self { hub: Some(namespace.into()), ..self }
    }

    /// Returns these rules with each namespace counted under the id that `id_of` gives it.
    #[must_use]
    pub fn with_namespace_ids(mut self, id_of: impl Fn(&str) -> NamespaceId) -> Self {
        let named = self.namespaces.iter_mut().map(|(name, options)| (&**name, options));
        let patterns = self.pattern_names.iter().map(|name| &**name).zip(&mut self.patterns);
        let kinds = self.kinds.iter_mut();
        let kinds =
            kinds.flat_map(|(name, kinds)| kinds.iter_mut().map(move |(_, options)| (&**name, options)));
        for (name, options) in named.chain(patterns).chain(kinds) {
            Arc::make_mut(options).namespace = id_of(name);
        }
        self
    }

    /// Returns the topic whose updates are in this channel, if the channel is for everyone and publishers can use the
    /// topic.
    pub fn topic<'a>(&self, channel: &'a Channel) -> Option<&'a str> {
        let behind_namespace = channel.as_str().strip_prefix(&**self.hub.as_ref()?)?;
        let topic = behind_namespace.strip_prefix(&*self.names.namespace_boundary)?;
        let is_one = topic != mercure::ALL_TOPICS
            && !topic.starts_with(mercure::OWN_TOPICS)
            && !topic.chars().any(char::is_control);
        (is_one && self.names.audience(channel.as_str()).is_everyone()).then_some(topic)
    }

    /// Parses the name of a channel.
    pub fn channel(&self, name: &str, bytes_max: usize) -> Result<Channel, InvalidChannel> {
        if self.unicode { Channel::parse_unicode(name, bytes_max) } else { Channel::parse(name, bytes_max) }
    }

    /// Returns whether the application, and not the client, is asked when a subscription to the channel expires.
    pub fn is_renewed_by_server(&self, channel: &Channel) -> bool {
        self.options(channel).is_some_and(|options| options.sub_refresh_hook)
    }

    /// Returns the options of a channel. `None` if its namespace does not exist.
    pub fn options(&self, channel: &Channel) -> Option<&Arc<ChannelOptions>> {
        self.find(channel.as_str()).0
    }

    /// Returns the id under which metrics of a channel are counted.
    pub fn namespace_id(&self, channel: &str) -> NamespaceId {
        self.find(channel).0.map_or(NamespaceId::UNKNOWN, |options| options.namespace)
    }

    /// Returns the part of a channel's name after its namespace.
    pub fn own_name<'a>(&self, channel: &'a Channel) -> &'a str {
        self.find(channel.as_str()).1
    }

    /// Returns whether the namespace's rule for names admits the channel's. A namespace that does not exist admits
    /// every name.
    pub fn admits_name(&self, channel: &Channel) -> bool {
        let (options, rest) = self.find(channel.as_str());
        options.is_none_or(|options| options.channel_regex.admits(rest))
    }

    /// Returns all options there are.
    pub fn all(&self) -> impl Iterator<Item = &Arc<ChannelOptions>> {
        let kinds = self.kinds.values().flatten().map(|(_, options)| options);
        [&self.default].into_iter().chain(self.namespaces.values()).chain(&self.patterns).chain(kinds)
    }

    /// Returns the options of a channel, and its name without the namespace.
    fn find<'a>(&self, channel: &'a str) -> (Option<&Arc<ChannelOptions>>, &'a str) {
        let name = self.names.public_part(channel);
        if !self.patterns.is_empty() && name.starts_with(SEPARATOR) {
            let described = self.patterns.iter().find(|options| options.pattern.describes(name));
            if described.is_some() {
                return (described, name);
            }
        }
        match self.names.namespace(name) {
            (None, rest) => (Some(&self.default), rest),
            (Some(namespace), rest) => {
                let kinds = self.kinds.get(namespace).map_or(&[][..], |kinds| &kinds[..]);
                let kind = kinds.iter().find(|(prefix, _)| rest.starts_with(&**prefix));
                let options = kind.map(|(_, options)| options).or_else(|| self.namespaces.get(namespace));
                (options, rest)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(pattern: &str, channel_regex: &str) -> ChannelOptions {
        ChannelOptions {
            pattern: ChannelPattern::parse(pattern).unwrap(),
            channel_regex: NameRule::parse(channel_regex).unwrap(),
            ..ChannelOptions::default()
        }
    }

    fn rules() -> ChannelRules {
        let namespaces = [
            ("a_user".into(), with("/users/:id", "^/users/[0-9]+$")),
            ("all".into(), with("/*", "")),
            ("chat".into(), with("", "^[a-z]+$")),
        ];
        let default = ChannelOptions { presence: true, ..with("", "^x") };
        ChannelRules::new(default, namespaces, ChannelNames::default(), false)
    }

    fn channel(name: &str) -> Channel {
        Channel::parse(name, 255).unwrap()
    }

    #[test]
    fn the_beginning_of_a_name_can_say_more_than_its_namespace() {
        let presence = ChannelOptions { presence: true, ..ChannelOptions::default() };
        let both = ChannelOptions { join_leave: true, ..presence.clone() };
        let kinds = vec![("room-large-".into(), both), ("room-".into(), presence)];
        let rules = rules().with_kinds("chat", kinds.clone()).with_kinds("shop", kinds);
        let options = |name: &str| {
            let options = rules.options(&channel(name)).unwrap();
            (options.presence, options.join_leave)
        };
        for namespace in ["chat", "shop"] {
            assert_eq!(options(&format!("{namespace}:room-a")), (true, false));
            assert_eq!(options(&format!("{namespace}:room-large-a")), (true, true));
            assert_eq!(options(&format!("{namespace}:a-room-")), (false, false));
            assert_eq!(options(&format!("${namespace}:room-a")), (true, false), "private or not");
        }
        assert_eq!(rules.all().count(), 4 + 1 + 4, "one namespace is there for its kinds alone");
        assert!(!rules.admits_name(&channel("chat:A")), "what the namespace says of names holds");
    }

    #[test]
    fn a_channel_has_the_options_of_the_narrowest_pattern_then_of_its_namespace() {
        let rules = rules();
        let pattern = |name| rules.options(&channel(name)).map(|options| options.pattern.to_string());
        assert_eq!(pattern("/users/42").as_deref(), Some("/users/:id"));
        assert_eq!(pattern("$/users/42").as_deref(), Some("/users/:id"));
        assert_eq!(pattern("/users/42/x").as_deref(), Some("/*"));
        assert_eq!(pattern("a_user:1"), None, "a namespace with a pattern has no other channels");
        assert_eq!(pattern("chat:x").as_deref(), Some(""));
        assert!(rules.options(&channel("x")).unwrap().presence);
        assert_eq!(rules.all().count(), 4);
    }

    #[test]
    fn a_rule_is_for_what_follows_the_namespace() {
        let rules = rules();
        for (name, expected) in [
            ("chat:abc", true),
            ("$chat:abc", true),
            ("chat:ABC", false),
            ("chat:", false),
            ("x", true),
            ("y", false),
            ("$x", true),
            ("/users/1", true),
            ("/users/ann", false),
            ("nowhere:Y", true),
        ] {
            assert_eq!(rules.admits_name(&channel(name)), expected, "{name}");
        }
    }

    #[test]
    fn channels_of_a_hub_are_topics_where_all_may_know_them() {
        let rules = ChannelRules::default().with_hub("mercure");
        let topic = |name: &str| rules.topic(&Channel::parse(name, 255).unwrap()).map(str::to_owned);
        assert_eq!(topic("mercure:https://a.example/1").as_deref(), Some("https://a.example/1"));
        for other in [
            "news",
            "mercurey:a",
            "mercure:*",
            "$mercure:a",
            "mercure:a#ann",
            "mercure:/.well-known/mercure/subscriptions/a/b",
        ] {
            assert_eq!(topic(other), None, "{other}");
        }
        assert_eq!(ChannelRules::default().topic(&Channel::parse("mercure:a", 255).unwrap()), None);
    }

    #[test]
    fn what_is_counted_goes_by_the_namespace_also_of_patterns_and_kinds() {
        let kinds = vec![("room-".into(), ChannelOptions::default())];
        let rules = rules().with_kinds("chat", kinds).with_namespace_ids(|name| match name {
            "a_user" => NamespaceId(7),
            "chat" => NamespaceId(8),
            _ => NamespaceId(9),
        });
        for (name, expected) in [
            ("/users/42", 7),
            ("$/users/42", 7),
            ("/x", 9),
            ("chat:a", 8),
            ("$chat:room-1", 8),
            ("x", NamespaceId::DEFAULT.0),
            ("nowhere:x", NamespaceId::UNKNOWN.0),
            ("a_user:1", NamespaceId::UNKNOWN.0),
        ] {
            assert_eq!(rules.namespace_id(name), NamespaceId(expected), "{name}");
        }
    }
}
