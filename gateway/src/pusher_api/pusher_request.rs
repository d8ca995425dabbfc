//! Parses requests: paths and bodies.

use std::borrow::Cow;

use bytes::Bytes;
use http::Method;
use serde::Deserialize;
use serde_json::value::RawValue;
use shared::id::ClientId;
use shared::protocol::pusher::{
    Access, PusherChannelKind, USER_BYTES_MAX, check_channel, check_event, parse_socket_id,
};
use shared::publication::Payload;

use super::pusher_api_error::PusherApiError;
use crate::pusher::PusherConfig;

/// The prefix of this API's paths; an app's id follows.
const PREFIX: &str = "/apps/";
/// The prefix of a path that Python's library uses: it names no app.
const OF_NO_APP: &str = "/users/";
const TERMINATE: &str = "terminate_connections";

/// Whether a path can be one of this API's.
pub(super) fn is_path(path: &str) -> bool {
    path.starts_with(PREFIX) || terminated(path).is_some()
}

/// Returns the user in a path that names no app.
fn terminated(path: &str) -> Option<&str> {
    let (user, rest) = path.strip_prefix(OF_NO_APP)?.split_once('/')?;
    (rest == TERMINATE).then_some(user)
}

/// The operation that a path stands for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum PusherApiEndpoint {
    Events,
    BatchEvents,
    Channels,
    Channel(String),
    Users(String),
    TerminateConnections(String),
}

impl PusherApiEndpoint {
    /// Returns the app's id and the operation. Without an id, the app is that of the key that signs the request.
    pub(super) fn of(path: &str) -> Option<(Option<&str>, Self)> {
        let decoded =
            |text| Some(percent_encoding::percent_decode_str(text).decode_utf8().ok()?.into_owned());
        if let Some(user) = terminated(path) {
            return Some((None, Self::TerminateConnections(decoded(user)?)));
        }
        let (id, rest) = path.strip_prefix(PREFIX)?.split_once('/')?;
        let mut parts = rest.split('/');
        let endpoint = match (parts.next()?, parts.next(), parts.next(), parts.next()) {
            ("events", None, ..) => Self::Events,
            ("batch_events", None, ..) => Self::BatchEvents,
            ("channels", None, ..) => Self::Channels,
            ("channels", Some(name), None, _) => Self::Channel(decoded(name)?),
            ("channels", Some(name), Some("users"), None) => Self::Users(decoded(name)?),
            ("users", Some(user), Some(TERMINATE), None) => Self::TerminateConnections(decoded(user)?),
            _ => return None,
        };
        Some((Some(id), endpoint))
    }

    pub(super) fn method(&self) -> Method {
        match self {
            Self::Events | Self::BatchEvents | Self::TerminateConnections(_) => Method::POST,
            Self::Channels | Self::Channel(_) | Self::Users(_) => Method::GET,
        }
    }

    /// Returns the label for metrics.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Events => "pusher_events",
            Self::BatchEvents => "pusher_batch_events",
            Self::Channels => "pusher_channels",
            Self::Channel(_) => "pusher_channel",
            Self::Users(_) => "pusher_users",
            Self::TerminateConnections(_) => "pusher_terminate_connections",
        }
    }
}

/// An event for some channels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Trigger {
    pub(super) name: Box<str>,
    pub(super) channels: Vec<String>,
    pub(super) data: Payload,
    /// The client that does not receive the event.
    pub(super) except: Option<ClientId>,
    pub(super) info: ChannelAttributes,
}

/// The requested attributes of channels.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct ChannelAttributes {
    pub(super) user_count: bool,
    pub(super) subscription_count: bool,
    pub(super) cache: bool,
}

impl ChannelAttributes {
    pub(super) fn read(list: Option<&str>) -> Result<Self, PusherApiError> {
        let mut info = Self::default();
        for word in list.unwrap_or_default().split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word {
                "user_count" => info.user_count = true,
                "subscription_count" => info.subscription_count = true,
                "cache" => info.cache = true,
                _ => {
                    let known = "user_count, subscription_count and cache";
                    return Err(PusherApiError::bad_request(format!("info may only contain {known}")));
                }
            }
        }
        Ok(info)
    }

    pub(super) fn is_empty(self) -> bool {
        self == Self::default()
    }
}

#[derive(Deserialize)]
struct EventBody<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow, default)]
    channel: Option<Cow<'a, str>>,
    #[serde(default)]
    channels: Vec<String>,
    #[serde(borrow, default)]
    socket_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    info: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct EventBatch<'a> {
    #[serde(borrow)]
    batch: Vec<EventBody<'a>>,
}

/// Parses the body of a request for one event.
pub(super) fn read_trigger(body: &[u8], limits: &PusherConfig) -> Result<Trigger, PusherApiError> {
    let event: EventBody<'_> = serde_json::from_slice(body).map_err(malformed)?;
    event.read(limits)
}

/// Parses the body of a request for several events, each for one channel.
pub(super) fn read_batch(body: &[u8], limits: &PusherConfig) -> Result<Vec<Trigger>, PusherApiError> {
    let EventBatch { batch } = serde_json::from_slice(body).map_err(malformed)?;
    if batch.len() > limits.batch_events_max {
        let max = limits.batch_events_max;
        return Err(PusherApiError::too_large(format!("the batch holds more than {max} events")));
    }
    let one = |event: EventBody<'_>| match event.channel.is_some() && event.channels.is_empty() {
        true => event.read(limits),
        false => {
            Err(PusherApiError::bad_request("each event of a batch must have channel, and not channels"))
        }
    };
    batch.into_iter().map(one).collect()
}

impl EventBody<'_> {
    fn read(self, limits: &PusherConfig) -> Result<Trigger, PusherApiError> {
        check_event(&self.name)
            .map_err(|why| PusherApiError::bad_request(format!("the event's name {why}")))?;
        let mut channels = self.channels;
        channels.extend(self.channel.map(Cow::into_owned));
        if channels.is_empty() {
            return Err(PusherApiError::bad_request("no channels are given"));
        }
        if channels.len() > limits.event_channels_max {
            let max = limits.event_channels_max;
            return Err(PusherApiError::bad_request(format!("more than {max} channels are given")));
        }
        for channel in &channels {
            check_name(channel)?;
        }
        if channels.len() > 1 && channels.iter().any(|channel| PusherChannelKind::of(channel).encrypted) {
            return Err(PusherApiError::bad_request(
                "an event for an encrypted channel must not have other channels",
            ));
        }
        let data = self.data.get();
        // Data that is not a text was not encoded by the sender, and is taken as it is.
        let data = match data.starts_with('"') {
            true => Payload::json_or_text(serde_json::from_str::<String>(data).map_err(malformed)?),
            false => Payload::json(Bytes::copy_from_slice(data.as_bytes())),
        };
        let max = limits.event_data_bytes_max;
        if data.bytes.len() > max {
            return Err(PusherApiError::too_large(format!(
                "the data of an event is longer than {max} bytes"
            )));
        }
        let except = match self.socket_id.as_deref() {
            None | Some("") => None,
            Some(id) => Some(
                parse_socket_id(id)
                    .ok_or_else(|| PusherApiError::bad_request("socket_id is not a valid socket id"))?,
            ),
        };
        let info = ChannelAttributes::read(self.info.as_deref())?;
        Ok(Trigger { name: self.name.into(), channels, data, except, info })
    }
}

/// Checks whether a channel can have this name.
pub(super) fn check_name(name: &str) -> Result<(), PusherApiError> {
    let refused =
        |why: &dyn std::fmt::Display| PusherApiError::bad_request(format!("the channel's name {why}"));
    match PusherChannelKind::of(name).access {
        Access::User if name.len() > USER_BYTES_MAX + "#server-to-user-".len() => {
            Err(refused(&"is too long"))
        }
        Access::User => Ok(()),
        _ => check_channel(name).map_err(|why| refused(&why)),
    }
}

fn malformed(error: serde_json::Error) -> PusherApiError {
    PusherApiError::bad_request(format!("the body cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn trigger(body: &str) -> Result<Trigger, StatusCode> {
        let limits =
            PusherConfig { event_data_bytes_max: 16, event_channels_max: 2, ..PusherConfig::default() };
        read_trigger(body.as_bytes(), &limits).map_err(|refused| refused.status)
    }

    #[test]
    fn an_event_has_a_name_channels_and_data_that_is_a_text_of_json_or_of_anything() {
        let read =
            trigger(r#"{"name":"e","channels":["a","private-b"],"data":"{\"x\":1}","info":"user_count"}"#);
        let read = read.unwrap();
        assert_eq!((&*read.name, read.channels.len(), &read.data), ("e", 2, &Payload::json(r#"{"x":1}"#)));
        assert!(read.info.user_count && read.except.is_none());
        let text = trigger(r#"{"name":"e","channel":"a","data":"hi","socket_id":"1.2"}"#).unwrap();
        assert_eq!((text.data, text.except), (Payload::text("hi"), parse_socket_id("1.2")));
        assert_eq!(
            trigger(r#"{"name":"e","channel":"a","data":{"x":1}}"#).unwrap().data,
            Payload::json(r#"{"x":1}"#)
        );
    }

    #[test]
    fn what_is_too_much_or_wrong_is_refused() {
        let bad = StatusCode::BAD_REQUEST;
        for (body, status) in [
            ("", bad),
            ("[]", bad),
            (r#"{"name":"e","data":"x"}"#, bad),
            (r#"{"name":"","channel":"a","data":"x"}"#, bad),
            (r#"{"name":"e","channel":"a"}"#, bad),
            (r#"{"name":"e","channel":"a b","data":"x"}"#, bad),
            (r#"{"name":"e","channels":["a","b","c"],"data":"x"}"#, bad),
            (r#"{"name":"e","channels":["a","private-encrypted-b"],"data":"x"}"#, bad),
            (r#"{"name":"e","channel":"a","data":"x","socket_id":"x"}"#, bad),
            (r#"{"name":"e","channel":"a","data":"x","info":"colour"}"#, bad),
            (r#"{"name":"e","channel":"a","data":"12345678901234567"}"#, StatusCode::PAYLOAD_TOO_LARGE),
        ] {
            assert_eq!(trigger(body).unwrap_err(), status, "{body}");
        }
    }

    #[test]
    fn a_batch_holds_events_for_a_channel_each_and_not_too_many() {
        let limits = PusherConfig { batch_events_max: 2, ..PusherConfig::default() };
        let read = |body: &str| read_batch(body.as_bytes(), &limits).map(|batch| batch.len());
        let event = r#"{"name":"e","channel":"a","data":"x"}"#;
        assert_eq!(read(&format!(r#"{{"batch":[{event},{event}]}}"#)).unwrap(), 2);
        let many = read(&format!(r#"{{"batch":[{event},{event},{event}]}}"#)).unwrap_err();
        assert_eq!(many.status, StatusCode::PAYLOAD_TOO_LARGE);
        assert!(read(r#"{"batch":[{"name":"e","channels":["a"],"data":"x"}]}"#).is_err());
    }

    #[test]
    fn a_path_names_an_app_and_what_is_asked_of_it() {
        let channel = PusherApiEndpoint::Channel("presence-a".to_owned());
        for (path, expected) in [
            ("/apps/1/events", Some(("1", PusherApiEndpoint::Events))),
            ("/apps/1/batch_events", Some(("1", PusherApiEndpoint::BatchEvents))),
            ("/apps/1/channels", Some(("1", PusherApiEndpoint::Channels))),
            ("/apps/1/channels/presence-a", Some(("1", channel))),
            (
                "/apps/1/channels/presence%2Da/users",
                Some(("1", PusherApiEndpoint::Users("presence-a".to_owned()))),
            ),
            (
                "/apps/1/users/a%2Fb/terminate_connections",
                Some(("1", PusherApiEndpoint::TerminateConnections("a/b".to_owned()))),
            ),
            ("/apps/1", None),
            ("/apps/1/", None),
            ("/apps/1/events/x", None),
            ("/apps/1/channels/a/users/x", None),
            ("/app/1/events", None),
            ("/users/a/terminate", None),
            ("/users/a/terminate_connections/x", None),
        ] {
            let expected = expected.map(|(id, endpoint)| (Some(id), endpoint));
            assert_eq!(PusherApiEndpoint::of(path), expected, "{path}");
        }
        let terminate = PusherApiEndpoint::TerminateConnections("a b".to_owned());
        assert_eq!(PusherApiEndpoint::of("/users/a%20b/terminate_connections"), Some((None, terminate)));
        assert!(is_path("/users/a/terminate_connections") && !is_path("/users/a") && is_path("/apps/x"));
    }
}
