//! The section `graphql`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Catalog;
use crate::setting::Faults;

/// The longest schema, in bytes.
pub(crate) const SCHEMA_BYTES_MAX: u64 = 1 << 20;

/// GraphQL subscriptions over WebSocket (`graphql-transport-ws`, and the older `graphql-ws`) and over server-sent
/// events.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct GraphqlConfig {
    /// Serves `/graphql`.
    pub enabled: bool,
    /// A file with a schema in the GraphQL schema language, at most 1 MiB. Operations are validated against it, and
    /// payloads are reduced to the fields that they select. Not set: the sections below define the subscription type,
    /// and payloads are sent unchanged.
    pub schema_file: Option<PathBuf>,
    /// Allows clients to query the schema.
    pub introspection: bool,
    /// The longest document of an operation, in bytes.
    pub query_bytes_max: usize,
    /// The deepest nesting of selections.
    pub depth_max: u32,
    /// The most fields of an operation. The fields of a fragment count each time the fragment is used.
    pub fields_max: u32,
    /// Each field of the subscription type with its section, such as `[graphql.subscriptions.message]`.
    pub subscriptions: BTreeMap<String, Subscription>,
}

impl Default for GraphqlConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            schema_file: None,
            introspection: true,
            query_bytes_max: 16 << 10,
            depth_max: 16,
            fields_max: 500,
            subscriptions: BTreeMap::new(),
        }
    }
}

/// One field of the subscription type.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Subscription {
    /// The channel of the field, with arguments in braces: `news:{topic}`. May be empty if a hook names the channel.
    pub channel: String,
    /// The types of its arguments, and their defaults, as a schema would have them: `topic = "String!"`, `page = "Int = 1"`. An
    /// argument that the channel names and that is not here is a `String!`. Not beside a schema, which says it.
    pub arguments: BTreeMap<String, String>,
    /// The type of payloads: a scalar. A name that is not a built-in scalar stands for any JSON. Empty: `JSON`. Must
    /// not be set if there is a schema, which defines it.
    pub payload: String,
    /// The description of the field in the schema that clients query. Must not be set if there is a schema, which
    /// defines it.
    pub description: String,
    /// Asks `backend.graphql` to allow or refuse each operation; the hook may also name the channel. If false, the
    /// channel's options decide.
    pub hook: bool,
}

impl GraphqlConfig {
    /// Returns these settings with those of `new` that can change while the node runs, for new clients: all but `enabled`.
    pub(crate) fn with_live_of(&self, new: &Self) -> Self {
        Self { enabled: self.enabled, ..new.clone() }
    }

    /// Checks the settings. `has_hook`: whether `backend.graphql` is on.
    pub fn check(&self, has_hook: bool, faults: &mut Faults) {
        faults.outside("query_bytes_max", self.query_bytes_max, 64..=1 << 20);
        faults.outside("depth_max", self.depth_max, 1..=64);
        faults.outside("fields_max", self.fields_max, 1..=100_000);
        if !self.enabled {
            return;
        }
        if self.subscriptions.is_empty() {
            let problem = "must have a section for a field: [graphql.subscriptions.NAME] with channel";
            faults.add("subscriptions", problem);
        }
        for (name, subscription) in &self.subscriptions {
            if subscription.hook && !has_hook {
                faults.add(format!("subscriptions.{name}.hook"), "needs backend.graphql.url");
            }
            if subscription.channel.is_empty() && !subscription.hook {
                faults.add(format!("subscriptions.{name}.channel"), "must be set, unless hook = true");
            }
        }
        // With a schema, the fields are checked together with its file.
        if self.schema_file.is_none()
            && let Err(unusable) = Catalog::new(self, None)
        {
            unusable.into_iter().for_each(|unusable| faults.add(unusable.key, unusable.problem));
        }
    }

    /// Returns the catalog of operations, or the mistakes in the schema's file or in the settings beside it.
    pub(crate) fn catalog(&self) -> Result<Catalog, Vec<super::FieldConfigError>> {
        let Some(file) = &self.schema_file else { return Catalog::new(self, None) };
        let unreadable =
            |problem: String| vec![super::FieldConfigError { key: "schema_file".to_owned(), problem }];
        match std::fs::metadata(file) {
            Ok(found) if found.len() > SCHEMA_BYTES_MAX => {
                return Err(unreadable(format!("is longer than {SCHEMA_BYTES_MAX} bytes")));
            }
            Ok(_) => {}
            Err(error) => return Err(unreadable(format!("cannot be read: {error}"))),
        }
        let sdl =
            std::fs::read_to_string(file).map_err(|error| unreadable(format!("cannot be read: {error}")))?;
        Catalog::new(self, Some(&sdl))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faulty(config: &GraphqlConfig, has_hook: bool) -> Vec<String> {
        let mut faults = Faults::default();
        config.check(has_hook, &mut faults);
        faults.into_inner().into_iter().map(|(key, _)| key).collect()
    }

    fn with(name: &str, subscription: Subscription) -> GraphqlConfig {
        GraphqlConfig {
            enabled: true,
            subscriptions: [(name.to_owned(), subscription)].into(),
            ..GraphqlConfig::default()
        }
    }

    fn channel(channel: &str) -> Subscription {
        Subscription { channel: channel.to_owned(), ..Subscription::default() }
    }

    #[test]
    fn what_is_off_needs_nothing_and_what_is_on_needs_a_field() {
        assert_eq!(faulty(&GraphqlConfig::default(), false), [""; 0]);
        assert_eq!(
            faulty(&GraphqlConfig { enabled: true, ..GraphqlConfig::default() }, false),
            ["subscriptions"]
        );
        assert_eq!(faulty(&with("message", channel("news:{topic}")), false), [""; 0]);
    }

    #[test]
    fn a_field_has_a_channel_or_somebody_who_names_one() {
        let hook = Subscription { hook: true, ..Subscription::default() };
        assert_eq!(faulty(&with("message", channel("")), true), ["subscriptions.message.channel"]);
        assert_eq!(faulty(&with("message", hook.clone()), true), [""; 0]);
        assert_eq!(faulty(&with("message", hook), false), ["subscriptions.message.hook"]);
    }

    #[test]
    fn what_no_schema_could_be_made_of_is_told_with_its_key() {
        let key = |config: &GraphqlConfig| faulty(config, false).join(" ");
        assert_eq!(key(&with("__m", channel("news"))), "subscriptions.__m");
        assert_eq!(key(&with("a-b", channel("news"))), "subscriptions.a-b");
        assert_eq!(key(&with("m", channel("news:{"))), "subscriptions.m.channel");
        assert_eq!(key(&with("m", channel("news:{a b}"))), "subscriptions.m.channel");
        let typed = |ty: &str| {
            let arguments = [("topic".to_owned(), ty.to_owned())].into();
            with("m", Subscription { arguments, ..channel("news:{topic}") })
        };
        for sound in ["String!", "Int = 1", "ID!", "Boolean! = true"] {
            assert_eq!(key(&typed(sound)), "", "{sound}");
        }
        for wrong in ["String", "[String!]!", "Strin!", "String! = 7", "String! }", "Int = 1 x: Int = 1"] {
            assert_eq!(key(&typed(wrong)), "subscriptions.m.arguments.topic", "{wrong}");
        }
    }
}
