//! Encodes replies.

use bytes::BytesMut;

use super::encode_push::{error, event, inner, subscription_error};
use super::names::{PusherChannelKind, SeenChannel};
use super::{Pusher, id, socket_id};
use crate::disconnect::Disconnect;
use crate::error::ErrorCode;
use crate::framing::MessageKind;
use crate::protocol::Encoded;
use crate::protocol::json::{self, Object};
use crate::refusal::Refusal;
use crate::reply::{Answer, Connected, Reply, Subscribed};

/// The client has exceeded its rate of events.
const TOO_MANY_EVENTS: u16 = 4301;

pub(super) fn encode(pusher: &Pusher, reply: &Reply, out: &mut BytesMut) -> Encoded {
    let name = reply.channel.as_ref().and_then(|channel| pusher.names.name_of(channel.as_str()));
    match &reply.outcome {
        Ok(Answer::Connect(connected)) => established(pusher, connected, out),
        Ok(Answer::Subscribe(answer)) => {
            let Some(name) = name else { return Encoded::Nothing };
            let start = out.len();
            subscribed(&name, answer, out);
            cached(pusher, &name, answer, start, out)
        }
        Ok(Answer::Pong) => inner("pusher:pong", None, out, |_| {}),
        Ok(Answer::SignedIn { data }) => inner("pusher:signin_success", None, out, |fields| {
            json::text(data, fields.field("user_data"));
        }),
        Ok(_) => Encoded::Nothing,
        Err(refusal) => match (reply.id, name) {
            (id::CONNECT, _) => Encoded::Close(refusal.disconnect()),
            // The protocol has no reply to a failed sign-in for which the client waits, so that the connection is closed.
            (id::SIGN_IN, _) => Encoded::Close(match refusal.temporary {
                true => Disconnect::INTERNAL,
                false => Disconnect::INVALID_TOKEN.because(&refusal.message),
            }),
            // Libraries do not retry a subscription by themselves, except after a lost connection.
            (id::SUBSCRIBE, Some(_)) if refusal.is_outage() => Encoded::Close(refusal.disconnect()),
            (id::SUBSCRIBE, Some(name)) => {
                let (kind, status) = kind_of(refusal);
                subscription_error(&name, kind, &refusal.message, status, out)
            }
            (id::EMIT, _) if refusal.error_code() == Some(ErrorCode::TooManyRequests) => {
                error(Some(TOO_MANY_EVENTS), "client events come too fast", out)
            }
            (id::EMIT, _) => error(None, &format!("client event rejected: {}", refusal.message), out),
            (id::OTHER, _) if refusal.error_code() == Some(ErrorCode::MethodNotFound) => {
                error(None, "unknown event: clients may send pusher:* and client-* events", out)
            }
            (id::OTHER | id::SUBSCRIBE, _) if refusal.error_code() == Some(ErrorCode::BadRequest) => {
                error(None, "invalid channel name", out)
            }
            _ => error(None, &refusal.message, out),
        },
    }
}

fn established(pusher: &Pusher, connected: &Connected, out: &mut BytesMut) -> Encoded {
    inner("pusher:connection_established", None, out, |data| {
        json::string(&socket_id(connected.client), data.field("socket_id"));
        data.count("activity_timeout", u64::from(pusher.activity_timeout_s));
    })
}

/// Returns the kind of error and HTTP status with which the protocol reports a failed subscription.
fn kind_of(refusal: &Refusal) -> (&'static str, u16) {
    match refusal.error_code() {
        Some(ErrorCode::Unauthorized | ErrorCode::PermissionDenied | ErrorCode::TokenExpired) => {
            ("AuthError", 401)
        }
        Some(ErrorCode::LimitExceeded) => ("LimitReached", 403),
        Some(ErrorCode::TooManyRequests) => ("LimitReached", 429),
        Some(ErrorCode::Internal) => ("ServerError", 500),
        _ => ("SubscriptionError", 400),
    }
}

/// Writes that a subscription has succeeded, in a presence channel with its members.
pub(super) fn subscribed(channel: &str, answer: &Subscribed, out: &mut BytesMut) {
    inner("pusher_internal:subscription_succeeded", Some(channel), out, |data| {
        let Some(members) = &answer.members else { return };
        let mut presence = Object::begin(data.field("presence"));
        presence.count("count", members.len() as u64);
        json::list(members, presence.field("ids"), |member, out| json::string(member.user.as_str(), out));
        let mut hash = Object::begin(presence.field("hash"));
        for member in members {
            match &member.chan_info {
                Some(info) => json::raw(info, hash.key(member.user.as_str())),
                None => hash.key(member.user.as_str()).extend_from_slice(b"null"),
            }
        }
        hash.end();
        presence.end();
    });
}

/// Completes the success message that was written from `start` on: appends the retained event of a cache channel, or a
/// cache miss if it has none.
pub(super) fn cached(
    pusher: &Pusher,
    channel: &str,
    answer: &Subscribed,
    start: usize,
    out: &mut BytesMut,
) -> Encoded {
    let mut messages = vec![(MessageKind::Text, out.len() - start)];
    let mut next = |out: &mut BytesMut, write: &dyn Fn(&mut BytesMut)| {
        let before = out.len();
        write(out);
        messages.push((MessageKind::Text, out.len() - before));
    };
    let name = pusher.names.channel(channel);
    let seen = pusher.names.seen(&name).unwrap_or(SeenChannel::Channel(channel));
    for publication in &answer.publications {
        next(out, &|out| drop(event(publication, &seen, out)));
    }
    if answer.publications.is_empty() && PusherChannelKind::of(channel).cache {
        next(out, &|out| drop(inner("pusher:cache_miss", Some(channel), out, |_| {})));
    }
    match messages.len() {
        1 => Encoded::Message(MessageKind::Text),
        _ => Encoded::Messages(messages),
    }
}
