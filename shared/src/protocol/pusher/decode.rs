//! Decodes client messages.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::names::{Access, PusherChannelKind, check_channel, check_event};
use super::{Pusher, id};
use crate::command::{Command, Request, Subscribe};
use crate::error::ErrorCode;
use crate::protocol::DecodeError;
use crate::publication::{Payload, is_too_deep};

/// The prefix of clients' own events.
const CLIENT_EVENT: &str = "client-";

#[derive(Deserialize)]
struct PusherEvent<'a> {
    #[serde(borrow)]
    event: Cow<'a, str>,
    #[serde(borrow, default)]
    channel: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
struct SubscribeData<'a> {
    #[serde(borrow, default)]
    channel: Cow<'a, str>,
    #[serde(borrow, default)]
    auth: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    channel_data: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct SignInData<'a> {
    #[serde(borrow)]
    auth: Cow<'a, str>,
    #[serde(borrow)]
    user_data: Cow<'a, str>,
}

/// Returns the command for a message, if it has one.
pub(super) fn decode(pusher: &Pusher, message: &[u8]) -> Result<Option<Command>, DecodeError> {
    if message.is_empty() {
        return Err(DecodeError::Empty);
    }
    let line: PusherEvent<'_> = serde_json::from_slice(message).map_err(|_| DecodeError::Malformed)?;
    if is_too_deep(message) {
        return Err(DecodeError::Malformed);
    }
    let command = |id, request| Ok(Some(Command { id, request }));
    match &*line.event {
        "pusher:ping" => command(id::PING, Request::Ping),
        // A pong only shows that the client is alive. Unlike in other protocols it may come unrequested.
        "pusher:pong" => Ok(None),
        "pusher:subscribe" => {
            let SubscribeData { channel, auth, channel_data } = data(&line)?;
            command(id::SUBSCRIBE, subscribe(pusher, &channel, auth, channel_data))
        }
        "pusher:unsubscribe" => {
            let channel = data::<SubscribeData<'_>>(&line)?.channel;
            match is_name(&channel) {
                true => {
                    let channel = pusher.names.channel(&channel).into();
                    command(id::UNSUBSCRIBE, Request::Unsubscribe { channel })
                }
                false => command(id::OTHER, Request::Refused(ErrorCode::BadRequest)),
            }
        }
        "pusher:signin" => {
            let SignInData { auth, user_data } = data(&line)?;
            let data = Payload::text(Bytes::from(user_data.into_owned()));
            command(id::SIGN_IN, Request::SignIn { token: auth.into(), data })
        }
        event if event.starts_with(CLIENT_EVENT) => command(id::EMIT, emit(pusher, &line)?),
        // All other events are the server's alone.
        _ => command(id::OTHER, Request::Refused(ErrorCode::MethodNotFound)),
    }
}

fn subscribe(
    pusher: &Pusher,
    name: &str,
    auth: Option<Cow<'_, str>>,
    channel_data: Option<Cow<'_, str>>,
) -> Request {
    if !is_name(name) {
        return Request::Refused(ErrorCode::BadRequest);
    }
    let members = PusherChannelKind::of(name).access == Access::Presence;
    Request::Subscribe(Subscribe {
        channel: pusher.names.channel(name).into(),
        token: auth.unwrap_or_default().into(),
        data: channel_data.map(|data| Box::new(Payload::text(Bytes::from(data.into_owned())))),
        join_leave: members,
        members,
        ..Subscribe::default()
    })
}

fn emit(pusher: &Pusher, line: &PusherEvent<'_>) -> Result<Request, DecodeError> {
    let channel = line.channel.as_deref().unwrap_or_default();
    if check_event(&line.event).is_err() || !is_name(channel) {
        return Ok(Request::Refused(ErrorCode::BadRequest));
    }
    if !PusherChannelKind::of(channel).takes_client_events() {
        return Ok(Request::Refused(ErrorCode::PermissionDenied));
    }
    let data = match line.data {
        None => Payload::json(&b"null"[..]),
        // The content of the string is the payload, as in the server's messages.
        Some(text) if text.get().starts_with('"') => {
            // JavaScript strings may hold half a surrogate pair, which is not valid UTF-8.
            let Ok(text) = serde_json::from_str::<String>(text.get()) else {
                return Ok(Request::Refused(ErrorCode::BadRequest));
            };
            Payload::json_or_text(text)
        }
        Some(json) => Payload::json(Bytes::copy_from_slice(json.get().as_bytes())),
    };
    if data.bytes.len() > pusher.event_data_bytes_max {
        return Ok(Request::Refused(ErrorCode::LimitExceeded));
    }
    let channel = pusher.names.channel(channel).into();
    Ok(Request::Emit { channel, event: (*line.event).into(), data })
}

fn is_name(name: &str) -> bool {
    PusherChannelKind::of(name).access == Access::User || check_channel(name).is_ok()
}

/// Reads the data of a message.
fn data<'a, T: Deserialize<'a>>(line: &PusherEvent<'a>) -> Result<T, DecodeError> {
    let data = line.data.ok_or(DecodeError::Malformed)?.get();
    serde_json::from_str(data).map_err(|_| DecodeError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::super::PusherNames;
    use super::*;

    fn pusher() -> Pusher {
        Pusher {
            names: PusherNames::new("shop", ":", "#"),
            activity_timeout_s: 120,
            event_data_bytes_max: 64,
        }
    }

    fn decoded(message: &str) -> Result<Option<Command>, DecodeError> {
        decode(&pusher(), message.as_bytes())
    }

    fn request(message: &str) -> Request {
        decoded(message).expect("it can be read").expect("it asks for something").request
    }

    #[test]
    fn a_public_channel_is_subscribed_to_without_a_signature() {
        for message in [
            r#"{"event":"pusher:subscribe","data":{"auth":"","channel":"news"}}"#,
            r#"{"event":"pusher:subscribe","data":{"channel":"news"}}"#,
        ] {
            let expected = Subscribe { channel: "shop:news".into(), ..Subscribe::default() };
            assert_eq!(request(message), Request::Subscribe(expected));
        }
    }

    #[test]
    fn a_presence_channel_asks_who_is_there() {
        let message = r#"{"event":"pusher:subscribe","data":{"channel":"presence-room","auth":"key:sig",
            "channel_data":"{\"user_id\":\"1\"}"}}"#;
        let Request::Subscribe(subscribe) = request(message) else { panic!("it subscribes") };
        assert!(subscribe.members && subscribe.join_leave);
        assert_eq!((&*subscribe.channel, &*subscribe.token), ("shop:presence-room", "key:sig"));
        assert_eq!(subscribe.data.as_deref(), Some(&Payload::text(r#"{"user_id":"1"}"#)));
    }

    #[test]
    fn a_clients_event_holds_json_or_a_text_that_is_json_or_none() {
        let sent = |data: &str| {
            let message = format!(r#"{{"event":"client-moved","channel":"private-map"{data}}}"#);
            let Request::Emit { channel, event, data } = request(&message) else { panic!("an event") };
            assert_eq!((&*channel, &*event), ("shop:private-map", "client-moved"));
            data
        };
        assert_eq!(sent(r#","data":{"x": 1}"#), Payload::json(r#"{"x": 1}"#));
        assert_eq!(sent(r#","data":"{\"x\":1}""#), Payload::json(r#"{"x":1}"#));
        assert_eq!(sent(r#","data":"hello""#), Payload::text("hello"));
        assert_eq!(sent(""), Payload::json("null"));
    }

    #[test]
    fn clients_events_are_for_private_and_presence_channels_and_short() {
        let refused = |channel: &str, data: &str| match request(&format!(
            r#"{{"event":"client-x","channel":"{channel}","data":{data}}}"#
        )) {
            Request::Refused(error) => Some(error),
            _ => None,
        };
        for channel in ["news", "cache-news", "private-encrypted-x", "#server-to-user-1"] {
            assert_eq!(refused(channel, "1"), Some(ErrorCode::PermissionDenied), "{channel}");
        }
        assert_eq!(refused("a b", "1"), Some(ErrorCode::BadRequest));
        assert_eq!(refused("private-x", &format!("\"{}\"", "x".repeat(64))), None);
        assert_eq!(refused("private-x", &format!("\"{}\"", "x".repeat(65))), Some(ErrorCode::LimitExceeded));
        let long = format!(r#"{{"event":"client-{}","channel":"private-x"}}"#, "x".repeat(200));
        assert_eq!(request(&long), Request::Refused(ErrorCode::BadRequest));
    }

    #[test]
    fn who_signs_in_shows_what_the_application_has_signed() {
        let message = r#"{"event":"pusher:signin","data":{"auth":"key:sig","user_data":"{\"id\":\"1\"}"}}"#;
        let data = Payload::text(r#"{"id":"1"}"#);
        assert_eq!(request(message), Request::SignIn { token: "key:sig".into(), data });
    }

    #[test]
    fn pings_are_answered_and_pongs_say_it_all() {
        assert_eq!(request(r#"{"event":"pusher:ping","data":{}}"#), Request::Ping);
        assert_eq!(decoded(r#"{"event":"pusher:pong","data":{}}"#), Ok(None));
    }

    #[test]
    fn what_only_the_server_says_is_refused_and_what_is_no_event_closes() {
        for event in ["news", "pusher:error", "pusher_internal:member_added", ""] {
            let message = format!(r#"{{"event":"{event}","channel":"private-x","data":{{}}}}"#);
            assert_eq!(request(&message), Request::Refused(ErrorCode::MethodNotFound), "{event}");
        }
        let deep = format!(
            r#"{{"event":"client-x","channel":"private-x","data":{}}}"#,
            "[".repeat(200) + &"]".repeat(200)
        );
        for broken in [
            "{}",
            "[]",
            "pusher:ping",
            r#"{"event":7}"#,
            r#"{"event":"pusher:subscribe"}"#,
            r#"{"event":"pusher:subscribe","data":7}"#,
            r#"{"event":"pusher:signin","data":{"auth":"x"}}"#,
            &deep,
        ] {
            assert_eq!(decoded(broken), Err(DecodeError::Malformed), "{broken}");
        }
        assert_eq!(decoded(""), Err(DecodeError::Empty));
    }

    #[test]
    fn a_name_that_no_channel_can_have_is_refused() {
        for name in ["", "a b", "a:b", "a#b"] {
            for event in ["pusher:subscribe", "pusher:unsubscribe"] {
                let message = format!(r#"{{"event":"{event}","data":{{"channel":"{name}"}}}}"#);
                assert_eq!(request(&message), Request::Refused(ErrorCode::BadRequest), "{event} {name}");
            }
        }
    }
}
