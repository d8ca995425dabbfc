//! The settings of webhooks: which events an app's servers receive, and the limits of sending them.

use serde::{Deserialize, Serialize};

use crate::secret::Secret;
use crate::setting::Faults;

/// What webhooks tell of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookEvent {
    ChannelOccupied,
    ChannelVacated,
    MemberAdded,
    MemberRemoved,
    ClientEvent,
    CacheMiss,
    SubscriptionCount,
}

impl WebhookEvent {
    /// Returns the name of the event in the body of a webhook.
    pub fn name(self) -> &'static str {
        match self {
            Self::ChannelOccupied => "channel_occupied",
            Self::ChannelVacated => "channel_vacated",
            Self::MemberAdded => "member_added",
            Self::MemberRemoved => "member_removed",
            Self::ClientEvent => "client_event",
            Self::CacheMiss => "cache_miss",
            Self::SubscriptionCount => "subscription_count",
        }
    }
}

/// A webhook that informs the app's servers of events in its channels. Changes take effect after a restart.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Webhook {
    /// The `http://` or `https://` URL that events are posted to. `backend.allow_private_addresses` and
    /// `backend.ca_file` apply.
    pub url: String,
    /// The events to send: `channel_occupied`, `channel_vacated`, `member_added`, `member_removed`, `client_event`,
    /// `cache_miss`, `subscription_count` (needs `subscription_counts`). They concern the whole cluster, not single
    /// nodes.
    pub types: Vec<WebhookEvent>,
    /// Sends events only for channels whose names begin with this. Empty: for all channels.
    pub channel_prefix: String,
    /// Headers of every request, each as `Name: value`.
    pub static_headers: Vec<Secret>,
}

impl Webhook {
    /// Whether the webhook wants this event of a channel of this name.
    pub fn wants(&self, event: WebhookEvent, name: &str) -> bool {
        self.types.contains(&event) && name.starts_with(&*self.channel_prefix)
    }

    pub(super) fn check(&self, key: impl Fn(&str) -> String, counts: bool, faults: &mut Faults) {
        crate::backend::check_post(faults, &key, &self.url, &self.static_headers);
        if self.types.is_empty() {
            faults.add(key("types"), "must name at least one type");
        }
        if self.types.contains(&WebhookEvent::SubscriptionCount) && !counts {
            faults.add(
                key("types"),
                "has subscription_count, which needs subscription_counts = true in the app",
            );
        }
    }
}

/// Settings that the webhooks of all apps share.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhooksConfig {
    /// Delay before a channel counts as vacated, or a member as removed, in milliseconds. A page that is reloaded
    /// subscribes again within it, and no event is sent.
    pub vacated_delay_ms: u64,
    /// Time limit for one attempt to deliver a batch, in milliseconds.
    pub timeout_ms: u64,
    /// Time for which delivery of a batch is retried before the batch is given up, in seconds.
    pub deadline_s: u64,
    /// The most events of one batch.
    pub batch_events_max: usize,
    /// The most queued events of an app: over all nodes together, and again on each node for events that it has yet
    /// to write to the broker. When the common queue is full, the oldest events are lost and counted.
    pub queue_events_max: usize,
    /// The same limit in bytes.
    pub queue_bytes_max: usize,
}

impl Default for WebhooksConfig {
    fn default() -> Self {
        Self {
            vacated_delay_ms: 3_000,
            timeout_ms: 5_000,
            deadline_s: 300,
            batch_events_max: 100,
            queue_events_max: 100_000,
            queue_bytes_max: 16 << 20,
        }
    }
}

impl WebhooksConfig {
    pub(super) fn check(&self, faults: &mut Faults) {
        faults.outside("webhooks.vacated_delay_ms", self.vacated_delay_ms, 0..=600_000);
        faults.outside("webhooks.timeout_ms", self.timeout_ms, 10..=60_000);
        faults.outside("webhooks.deadline_s", self.deadline_s, 1..=86_400);
        faults.outside("webhooks.batch_events_max", self.batch_events_max, 1..=10_000);
        faults.outside("webhooks.queue_events_max", self.queue_events_max, 1..=10_000_000);
        faults.outside("webhooks.queue_bytes_max", self.queue_bytes_max, 65_536..=1 << 30);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faulty(webhook: &Webhook, counts: bool) -> Vec<String> {
        let mut faults = Faults::default();
        webhook.check(str::to_owned, counts, &mut faults);
        faults.into_inner().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn a_webhook_has_an_address_and_something_to_tell() {
        assert_eq!(faulty(&Webhook::default(), true), ["url", "types"]);
        let types = vec![WebhookEvent::SubscriptionCount];
        let webhook = Webhook { url: "https://app.example/hook".to_owned(), types, ..Webhook::default() };
        assert_eq!(faulty(&webhook, true), [""; 0]);
        assert_eq!(faulty(&webhook, false), ["types"]);
        let headers = Webhook { static_headers: vec![Secret::new("Content-Type: text/html")], ..webhook };
        assert_eq!(faulty(&headers, true), ["static_headers"]);
    }

    #[test]
    fn it_tells_of_what_it_names_in_channels_that_begin_so() {
        let types = vec![WebhookEvent::ChannelOccupied];
        let webhook = Webhook { types, channel_prefix: "presence-".to_owned(), ..Webhook::default() };
        assert!(webhook.wants(WebhookEvent::ChannelOccupied, "presence-a"));
        assert!(!webhook.wants(WebhookEvent::ChannelOccupied, "news"));
        assert!(!webhook.wants(WebhookEvent::ChannelVacated, "presence-a"));
    }
}
