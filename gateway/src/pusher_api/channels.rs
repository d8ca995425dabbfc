//! Answers which channels are occupied, by how many subscribers and by which users.

use std::collections::BTreeMap;

use futures_util::StreamExt;
use gateway_core::history::HistoryFilter;
use serde_json::{Map, Value, json};
use shared::protocol::pusher::{Access, PusherChannelKind, check_channel};
use shared::publication::PayloadKind;

use super::pusher_api_error::PusherApiError;
use super::pusher_request::{ChannelAttributes, check_name};
use super::serve_pusher_api::PusherApiCall;

/// The most channels that are asked about concurrently.
const TOGETHER: usize = 64;

impl PusherApiCall<'_> {
    /// Returns the channels that have subscribers, by name.
    pub(super) async fn channels(&self) -> Result<Value, PusherApiError> {
        let prefix = self.parameters.get("filter_by_prefix").unwrap_or_default();
        if !prefix.is_empty() && check_channel(prefix).is_err() {
            return Err(PusherApiError::bad_request(
                "filter_by_prefix is not the beginning of a channel's name",
            ));
        }
        let info = ChannelAttributes::read(self.parameters.get("info"))?;
        if info.user_count && !prefix.starts_with("presence-") {
            return Err(PusherApiError::bad_request(
                "user_count is only for presence channels: set filter_by_prefix=presence-",
            ));
        }
        let pattern = format!("{}*", self.app.names.channel(prefix));
        let list = self.node.channels_everywhere(&pattern, "", self.limits.list_max, self.deadline).await?;
        let own = list.channels.iter().filter_map(|(channel, count)| {
            let name = self.app.names.name_of(channel)?;
            (PusherChannelKind::of(&name).access != Access::User).then_some((name, *count))
        });
        let attributes = own.map(|(name, count)| async move {
            let mut attributes = Map::new();
            if info.subscription_count {
                attributes.insert("subscription_count".to_owned(), count.into());
            }
            let users = ChannelAttributes { user_count: info.user_count, ..ChannelAttributes::default() };
            self.add_attributes(&name, users, &mut attributes).await.map(|()| (name, Value::from(attributes)))
        });
        // Collected before they run: a stream of closures would borrow for too long.
        let attributes: Vec<_> = attributes.collect();
        let attributes: Vec<_> = futures_util::stream::iter(attributes).buffered(TOGETHER).collect().await;
        let channels: BTreeMap<String, Value> = attributes.into_iter().collect::<Result<_, _>>()?;
        // An incomplete list is marked as such.
        let is_partial = list.cursor.is_some() || !list.missing_nodes.is_empty();
        Ok(match is_partial {
            false => json!({ "channels": channels }),
            true => json!({ "channels": channels, "partial": true }),
        })
    }

    pub(super) async fn channel(&self, name: &str) -> Result<Value, PusherApiError> {
        check_name(name)?;
        let info = ChannelAttributes::read(self.parameters.get("info"))?;
        if info.user_count && PusherChannelKind::of(name).access != Access::Presence {
            return Err(PusherApiError::bad_request("user_count is only for presence channels"));
        }
        if info.cache && !PusherChannelKind::of(name).cache {
            return Err(PusherApiError::bad_request("cache is only for cache channels"));
        }
        let mut attributes = Map::new();
        let count = self.count(name).await?;
        attributes.insert("occupied".to_owned(), (count > 0).into());
        if info.subscription_count {
            attributes.insert("subscription_count".to_owned(), count.into());
        }
        self.add_attributes(name, ChannelAttributes { subscription_count: false, ..info }, &mut attributes)
            .await?;
        Ok(attributes.into())
    }

    /// Returns the users of a presence channel.
    pub(super) async fn users(&self, name: &str) -> Result<Value, PusherApiError> {
        check_name(name)?;
        if PusherChannelKind::of(name).access != Access::Presence {
            return Err(PusherApiError::bad_request("only presence channels have users"));
        }
        self.in_time()?;
        let present = self.node.presence(self.named(name)?).await?;
        let mut users: Vec<&str> = present.values().map(|info| info.user.as_str()).collect();
        users.retain(|user| !user.is_empty());
        users.sort_unstable();
        users.dedup();
        let users: Vec<Value> = users.into_iter().map(|id| json!({ "id": id })).collect();
        Ok(json!({ "users": users }))
    }

    /// Adds the requested attributes of a channel, as far as a channel of its kind has them.
    pub(super) async fn add_attributes(
        &self,
        name: &str,
        info: ChannelAttributes,
        attributes: &mut Map<String, Value>,
    ) -> Result<(), PusherApiError> {
        self.in_time()?;
        let kind = PusherChannelKind::of(name);
        if info.user_count && kind.access == Access::Presence {
            let stats = self.node.presence_stats(self.named(name)?).await?;
            attributes.insert("user_count".to_owned(), stats.users.into());
        }
        if info.subscription_count {
            attributes.insert("subscription_count".to_owned(), self.count(name).await?.into());
        }
        if info.cache && kind.cache {
            attributes.insert("cache".to_owned(), self.cached(name).await?);
        }
        Ok(())
    }

    /// Returns the number of subscribers, on all nodes.
    async fn count(&self, name: &str) -> Result<u64, PusherApiError> {
        let channel = self.named(name)?;
        let counted = self.node.count_everywhere(std::slice::from_ref(&channel)).await?;
        Ok(counted.get(channel.as_str()).copied().unwrap_or(0))
    }

    /// Returns the event that a cache channel has kept, and for how many more seconds it does.
    async fn cached(&self, name: &str) -> Result<Value, PusherApiError> {
        let channel = self.named(name)?;
        let rules = self.node.rules();
        let Some(options) = rules.options(&channel) else { return Ok(Value::Null) };
        let filter = HistoryFilter { limit: 1, reverse: true, ..HistoryFilter::default() };
        let page = self.node.history(channel, filter, options.retention()).await?;
        let Some(last) = page.publications.first() else { return Ok(Value::Null) };
        let age_s = self.node.clock.unix_millis().saturating_sub(last.time_ms) / 1_000;
        let data = match last.data.kind {
            PayloadKind::Json | PayloadKind::Text => String::from_utf8_lossy(&last.data.bytes).into_owned(),
            PayloadKind::Binary => return Ok(Value::Null),
        };
        Ok(json!({ "data": data, "ttl": options.history_ttl_s.saturating_sub(age_s) }))
    }
}
