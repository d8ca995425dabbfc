//! The entries of an app's ledger, and the events that webhooks make of them.

use std::borrow::Cow;

use gateway_core::ledger::LedgerEvent;
use serde::{Deserialize, Serialize};

use crate::pusher::webhook::WebhookEvent;

/// The entries of a node in a ledger, as texts: a letter, the channel's name in Pusher, and for a member a line break
/// and the user.
const CHANNEL: char = 'c';
const MEMBER: char = 'm';
const BETWEEN: char = '\n';

/// Returns the entry of a channel that has subscribers.
pub(super) fn channel(name: &str) -> Box<str> {
    format!("{CHANNEL}{name}").into()
}

/// Returns the entry of a user in a presence channel.
pub(super) fn member(name: &str, user: &str) -> Box<str> {
    format!("{MEMBER}{name}{BETWEEN}{user}").into()
}

/// An event as it stands in a batch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct BatchEvent<'a> {
    pub(super) name: &'a str,
    pub(super) channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) subscription_count: Option<u32>,
}

/// A client's own event.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(super) struct ClientEvent<'a> {
    pub(super) name: &'static str,
    pub(super) channel: &'a str,
    pub(super) event: &'a str,
    pub(super) data: Cow<'a, str>,
    pub(super) socket_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user_id: Option<&'a str>,
}

/// The part of an event in the ledger by which a webhook filters.
#[derive(Deserialize)]
struct EventHead<'a> {
    name: WebhookEvent,
    #[serde(borrow)]
    channel: Cow<'a, str>,
}

/// Returns an event as JSON, if a webhook wants it. Invalid events are skipped too, because a node of another release
/// may have written them.
pub(super) fn written(news: &LedgerEvent, wants: impl Fn(WebhookEvent, &str) -> bool) -> Option<String> {
    let (event, channel, user_id, subscription_count) = match news {
        LedgerEvent::Reported(json) => {
            let head: EventHead<'_> = serde_json::from_str(json).ok()?;
            return wants(head.name, &head.channel).then(|| json.to_string());
        }
        LedgerEvent::Counted(subject, count) => {
            (WebhookEvent::SubscriptionCount, subject.strip_prefix(CHANNEL)?, None, Some(*count))
        }
        LedgerEvent::Taken(subject) => {
            held(subject, WebhookEvent::ChannelOccupied, WebhookEvent::MemberAdded)?
        }
        LedgerEvent::Free(subject) => {
            held(subject, WebhookEvent::ChannelVacated, WebhookEvent::MemberRemoved)?
        }
    };
    let event_body = BatchEvent { name: event.name(), channel, user_id, subscription_count };
    wants(event, channel).then(|| serde_json::to_string(&event_body).expect("texts and numbers are JSON"))
}

type Parts<'a> = (WebhookEvent, &'a str, Option<&'a str>, Option<u32>);

fn held(subject: &str, of_channel: WebhookEvent, of_member: WebhookEvent) -> Option<Parts<'_>> {
    if let Some(name) = subject.strip_prefix(CHANNEL) {
        return Some((of_channel, name, None, None));
    }
    let (name, user) = subject.strip_prefix(MEMBER)?.split_once(BETWEEN)?;
    Some((of_member, name, Some(user), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(news: &LedgerEvent) -> Option<String> {
        written(news, |_, _| true)
    }

    #[test]
    fn news_of_a_ledger_are_events_as_applications_for_pusher_know_them() {
        for (news, json) in [
            (LedgerEvent::Taken(channel("a")), r#"{"name":"channel_occupied","channel":"a"}"#),
            (LedgerEvent::Free(channel("a")), r#"{"name":"channel_vacated","channel":"a"}"#),
            (
                LedgerEvent::Taken(member("presence-a", "ann\n\"")),
                r#"{"name":"member_added","channel":"presence-a","user_id":"ann\n\""}"#,
            ),
            (
                LedgerEvent::Free(member("presence-a", "7")),
                r#"{"name":"member_removed","channel":"presence-a","user_id":"7"}"#,
            ),
            (
                LedgerEvent::Counted(channel("a"), 3),
                r#"{"name":"subscription_count","channel":"a","subscription_count":3}"#,
            ),
        ] {
            assert_eq!(all(&news).as_deref(), Some(json));
        }
        let event = ClientEvent {
            name: WebhookEvent::ClientEvent.name(),
            channel: "presence-a",
            event: "client-moved",
            data: r#"{"x":1}"#.into(),
            socket_id: "1.2".to_owned(),
            user_id: Some("7"),
        };
        let json = serde_json::to_string(&event).unwrap();
        let expected = r#"{"name":"client_event","channel":"presence-a","event":"client-moved","data":"{\"x\":1}","socket_id":"1.2","user_id":"7"}"#;
        assert_eq!(json, expected);
        assert_eq!(all(&LedgerEvent::Reported(json.into())).as_deref(), Some(expected));
    }

    #[test]
    fn what_nobody_wants_or_nobody_can_read_is_no_event() {
        assert_eq!(
            written(&LedgerEvent::Taken(channel("a")), |event, _| event != WebhookEvent::ChannelOccupied),
            None
        );
        assert_eq!(written(&LedgerEvent::Taken(channel("a")), |_, name| name != "a"), None);
        let odd = [
            LedgerEvent::Taken("".into()),
            LedgerEvent::Free("xa".into()),
            LedgerEvent::Free("ma".into()),
            LedgerEvent::Reported("{}".into()),
        ];
        assert!(odd.iter().all(|news| all(news).is_none()));
    }
}
