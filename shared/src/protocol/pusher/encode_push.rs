//! Encodes pushes.

use bytes::{BufMut, BytesMut};

use super::encode_reply::{cached, subscribed};
use super::names::{Access, PusherChannelKind, SeenChannel, is_reserved};
use super::{Pusher, UNNAMED_EVENT};
use crate::disconnect::Disconnect;
use crate::framing::MessageKind;
use crate::protocol::Encoded;
use crate::protocol::json::{self, Object};
use crate::publication::Publication;
use crate::push::{Event, Push, UnsubscribeCode};

/// Space to reserve for the fields around an event's data.
const ENVELOPE_BYTES_GUESS: usize = 128;

const TEXT: Encoded = Encoded::Message(MessageKind::Text);

pub(super) fn encode(pusher: &Pusher, push: Push<'_>, out: &mut BytesMut) -> Encoded {
    let seen = push.channel.and_then(|channel| pusher.names.of(channel));
    match (push.event, seen) {
        (Event::Publication(publication, _), Some(seen)) => event(publication, &seen, out),
        (Event::Subscribed(answer), Some(SeenChannel::Channel(name))) => {
            let start = out.len();
            subscribed(name, answer, out);
            cached(pusher, name, answer, start, out)
        }
        (Event::Subscribed(answer), Some(SeenChannel::Online(user))) => match answer.members.as_deref() {
            Some([_, ..]) => watchlist("online", &user, out),
            _ => Encoded::Nothing,
        },
        (Event::MemberAdded(_), Some(SeenChannel::Online(user))) => watchlist("online", &user, out),
        (Event::MemberRemoved(_), Some(SeenChannel::Online(user))) => watchlist("offline", &user, out),
        (Event::MemberAdded(info), Some(SeenChannel::Channel(name))) => {
            inner("pusher_internal:member_added", Some(name), out, |data| {
                json::string(info.user.as_str(), data.field("user_id"));
                data.raw("user_info", info.chan_info.as_deref());
            })
        }
        (Event::MemberRemoved(user), Some(SeenChannel::Channel(name))) => {
            inner("pusher_internal:member_removed", Some(name), out, |data| {
                json::string(user.as_str(), data.field("user_id"));
            })
        }
        (Event::Counted(subscribers), Some(SeenChannel::Channel(name))) => {
            inner("pusher_internal:subscription_count", Some(name), out, |data| {
                data.count("subscription_count", u64::from(subscribers));
            })
        }
        (Event::Unsubscribed(UnsubscribeCode::Server), Some(seen)) => {
            subscription_error(&name(&seen), "Unsubscribed", UnsubscribeCode::Server.reason(), 410, out)
        }
        // Only a reconnect can tell the client that its subscription has expired.
        (Event::Unsubscribed(UnsubscribeCode::Expired), Some(_)) => {
            Encoded::Close(Disconnect::SUBSCRIPTION_EXPIRED)
        }
        (Event::Unsubscribed(_), Some(_)) => Encoded::Close(Disconnect::INSUFFICIENT_STATE),
        (Event::Disconnected(disconnect), _) => error(Some(disconnect.code), &disconnect.reason, out),
        // Joins and leaves are reported by user. The other pushes do not exist in this protocol.
        _ => Encoded::Nothing,
    }
}

/// Writes a publication as an event.
pub(super) fn event(publication: &Publication, seen: &SeenChannel<'_>, out: &mut BytesMut) -> Encoded {
    let name = name(seen);
    out.reserve(ENVELOPE_BYTES_GUESS + name.len() + publication.data.bytes.len());
    let mut object = Object::begin(out);
    let event = publication.event().filter(|event| !is_reserved(event)).unwrap_or(UNNAMED_EVENT);
    json::string(event, object.field("event"));
    json::string(&name, object.field("channel"));
    json::text(&publication.data, object.field("data"));
    // The sender, in channels that show their members to everyone.
    let by = publication.info.as_ref().map(|info| info.user.as_str()).filter(|user| !user.is_empty());
    if let Some(user) = by.filter(|_| PusherChannelKind::of(&name).access == Access::Presence) {
        json::string(user, object.field("user_id"));
    }
    object.end();
    TEXT
}

fn name<'a>(seen: &'a SeenChannel<'_>) -> std::borrow::Cow<'a, str> {
    match seen {
        SeenChannel::Channel(name) => (*name).into(),
        SeenChannel::User(user) | SeenChannel::Online(user) => format!("#server-to-user-{user}").into(),
    }
}

/// Writes an event of the protocol itself. Its data is a string that holds a JSON object.
pub(super) fn inner(
    event: &str,
    channel: Option<&str>,
    out: &mut BytesMut,
    fill: impl FnOnce(&mut Object<'_>),
) -> Encoded {
    let mut data = BytesMut::with_capacity(ENVELOPE_BYTES_GUESS);
    let mut object = Object::begin(&mut data);
    fill(&mut object);
    object.end();
    let mut object = Object::begin(out);
    json::string(event, object.field("event"));
    if let Some(channel) = channel {
        json::string(channel, object.field("channel"));
    }
    json::string(&String::from_utf8_lossy(&data), object.field("data"));
    object.end();
    TEXT
}

/// Writes that a user on the client's watchlist has come online or gone offline.
fn watchlist(what: &str, user: &str, out: &mut BytesMut) -> Encoded {
    inner("pusher_internal:watchlist_events", None, out, |data| {
        json::list([()], data.field("events"), |(), out| {
            let mut event = Object::begin(out);
            event.string("name", what);
            json::list([user], event.field("user_ids"), json::string);
            event.end();
        });
    })
}

/// Writes an error. Its data is an object, as opposed to a string that holds one.
pub(super) fn error(code: Option<u16>, message: &str, out: &mut BytesMut) -> Encoded {
    out.put_slice(br#"{"event":"pusher:error","data":"#);
    let mut data = Object::begin(out);
    match code {
        Some(code) => data.count("code", u64::from(code)),
        None => data.field("code").put_slice(b"null"),
    }
    json::string(message, data.field("message"));
    data.end();
    out.put_u8(b'}');
    TEXT
}

/// Writes that a subscription has failed or ended.
pub(super) fn subscription_error(
    channel: &str,
    kind: &str,
    message: &str,
    status: u16,
    out: &mut BytesMut,
) -> Encoded {
    inner("pusher:subscription_error", Some(channel), out, |data| {
        data.string("type", kind);
        data.string("error", message);
        data.count("status", u64::from(status));
    })
}
