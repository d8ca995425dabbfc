//! Encodes replies.
//!
//! As in Protobuf's JSON mapping, fields that are zero, empty or false are left out. Some fields are written even then,
//! because the official libraries pass them to the application without a default: the counts of `presence_stats`, the
//! map of `presence`, the list of `history` and the offset of its top.

use bytes::{BufMut, BytesMut};

use super::write::{self, Object};
use crate::position::StreamPosition;
use crate::publication::{ClientInfo, Publication};
use crate::refusal::Refusal;
use crate::reply::{Answer, Connected, Expiry, KeyedAnswer, Reply, Subscribed};

/// Space to reserve for a reply without a list, so that the buffer grows once and not with every field.
const REPLY_BYTES_GUESS: usize = 192;

pub(super) fn encode(reply: &Reply, out: &mut BytesMut) {
    out.reserve(REPLY_BYTES_GUESS);
    out.put_slice(b"{\"id\":");
    write::number(u64::from(reply.id), out);
    match &reply.outcome {
        Ok(answer) => encode_answer(answer, out),
        Err(error) => encode_error(error, out),
    }
    out.put_u8(b'}');
}

fn encode_error(error: &Refusal, out: &mut BytesMut) {
    let mut object = body("error", out);
    object.number("code", u64::from(error.code));
    object.string("message", &error.message);
    object.flag("temporary", error.temporary);
    object.end();
}

fn encode_answer(answer: &Answer, out: &mut BytesMut) {
    match answer {
        Answer::Connect(connected) => encode_connected(connected, out),
        Answer::Subscribe(subscribed) => encode_subscribed(subscribed, out),
        Answer::Unsubscribe => out.put_slice(b",\"unsubscribe\":{}"),
        // No command of this protocol has these answers.
        Answer::Pong | Answer::SignedIn { .. } | Answer::Acknowledged(_) => {}
        Answer::Publish => out.put_slice(b",\"publish\":{}"),
        Answer::History { publications, top } => encode_history(publications, *top, out),
        Answer::Presence { clients } => encode_presence(clients, out),
        Answer::PresenceStats { clients, users } => {
            let mut object = body("presence_stats", out);
            object.count("num_clients", u64::from(*clients));
            object.count("num_users", u64::from(*users));
            object.end();
        }
        Answer::Refresh { client, version, expires } => {
            let mut object = body("refresh", out);
            write::client_id(*client, object.field("client"));
            object.string("version", version);
            expiry(*expires, &mut object);
            object.end();
        }
        Answer::SubRefresh { expires, items } => {
            let mut object = body("sub_refresh", out);
            expiry(*expires, &mut object);
            if !items.is_empty() {
                write::publications(items, object.field("items"));
            }
            object.end();
        }
        Answer::Rpc { data } => {
            let mut object = body("rpc", out);
            object.payload("data", Some(data));
            object.end();
        }
    }
}

fn encode_connected(connected: &Connected, out: &mut BytesMut) {
    out.put_slice(b",\"connect\":");
    write_connected(connected, out);
}

/// Writes the value of a connect reply, and of a connect push.
pub(in crate::protocol::centrifuge) fn write_connected(connected: &Connected, out: &mut BytesMut) {
    let mut object = Object::begin(out);
    write::client_id(connected.client, object.field("client"));
    object.string("version", connected.version);
    expiry(connected.expires, &mut object);
    object.payload("data", connected.data.as_ref());
    if !connected.subs.is_empty() {
        let mut subs = Object::begin(object.field("subs"));
        for (channel, subscribed) in &connected.subs {
            write_subscribed(subscribed, subs.key(channel.as_str()));
        }
        subs.end();
    }
    object.number("ping", u64::from(connected.ping_seconds));
    object.flag("pong", connected.pong);
    object.string("session", connected.session.as_deref().unwrap_or_default());
    object.string("node", &connected.node);
    object.number("time", connected.time_ms.unwrap_or_default());
    object.end();
}

fn encode_subscribed(subscribed: &Subscribed, out: &mut BytesMut) {
    out.put_slice(b",\"subscribe\":");
    write_subscribed(subscribed, out);
}

/// Writes the value of a subscribe reply, and of each server-side subscription in a connect reply.
fn write_subscribed(subscribed: &Subscribed, out: &mut BytesMut) {
    let mut object = Object::begin(out);
    expiry(subscribed.expires, &mut object);
    object.flag("recoverable", subscribed.recoverable);
    if let Some(StreamPosition { offset, epoch }) = subscribed.position {
        object.string("epoch", epoch.as_str());
        object.number("offset", offset);
    }
    if !subscribed.publications.is_empty() {
        let field = object.field("publications");
        match subscribed.delta {
            true => write::patched_publications(&subscribed.publications, &subscribed.patches, field),
            false => write::publications(&subscribed.publications, field),
        }
    }
    object.flag("recovered", subscribed.recovered);
    object.flag("positioned", subscribed.positioned);
    object.payload("data", subscribed.data.as_deref());
    object.flag("was_recovering", subscribed.was_recovering);
    object.flag("delta", subscribed.delta);
    if let Some(keyed) = &subscribed.keyed {
        put_keyed(keyed, subscribed.delta, &mut object);
    }
    object.end();
}

fn put_keyed(keyed: &KeyedAnswer, delta: bool, object: &mut Object<'_>) {
    object.number("type", u64::from(keyed.kind.number()));
    object.number("phase", u64::from(keyed.phase.number()));
    object.string("cursor", &keyed.cursor);
    if !keyed.state.is_empty() {
        let field = object.field("state");
        match delta {
            true => write::patched_publications(&keyed.state, &[], field),
            false => write::publications(&keyed.state, field),
        }
    }
    object.number("publish_debounce", u64::from(keyed.publish_debounce_ms));
}

fn encode_history(publications: &[Publication], top: StreamPosition, out: &mut BytesMut) {
    let mut object = body("history", out);
    write::publications(publications, object.field("publications"));
    object.string("epoch", top.epoch.as_str());
    object.count("offset", top.offset);
    object.end();
}

fn encode_presence(clients: &[ClientInfo], out: &mut BytesMut) {
    out.put_slice(b",\"presence\":{\"presence\":{");
    for (index, info) in clients.iter().enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        write::client_id(info.client, out);
        out.put_u8(b':');
        write::client_info(info, out);
    }
    out.put_slice(b"}}");
}

/// Begins the field of the reply that holds the answer.
fn body<'a>(name: &str, out: &'a mut BytesMut) -> Object<'a> {
    out.put_slice(b",\"");
    out.put_slice(name.as_bytes());
    out.put_slice(b"\":");
    Object::begin(out)
}

/// Writes `ttl` even if it is zero, as the libraries read it whenever `expires` is true.
pub(super) fn expiry(expires: Option<Expiry>, object: &mut Object<'_>) {
    if let Some(Expiry { seconds }) = expires {
        object.flag("expires", true);
        object.count("ttl", u64::from(seconds));
    }
}
