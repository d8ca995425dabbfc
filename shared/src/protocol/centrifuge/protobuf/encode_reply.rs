//! Encodes replies.

use bytes::BytesMut;

use super::write::{self, Fields, Sink};
use crate::id::ClientId;
use crate::position::StreamPosition;
use crate::publication::{ClientInfo, Payload, Publication};
use crate::refusal::Refusal;
use crate::reply::{Answer, Connected, Expiry, Reply, Subscribed};

pub(super) fn encode(reply: &Reply, out: &mut BytesMut) {
    write::write_with_length(reply, out);
}

/// Writes the connect push, which tells a unidirectional client that it has connected. Its fields have other numbers
/// than those of a connect reply.
pub(in crate::protocol::centrifuge) fn encode_connect_push(connected: &Connected, out: &mut BytesMut) {
    write::write_with_length(&ConnectPush(connected), out);
}

impl Fields for Reply {
    fn write(&self, out: &mut impl Sink) {
        out.number(1, u64::from(self.id));
        match &self.outcome {
            Err(refusal) => out.message(2, refusal),
            Ok(Answer::Connect(connected)) => out.message(5, &**connected),
            Ok(Answer::Subscribe(subscribed)) => out.message(6, subscribed),
            Ok(Answer::Unsubscribe) => out.message(7, &NoFields),
            // No command of this protocol has these answers.
            Ok(Answer::Pong | Answer::SignedIn { .. } | Answer::Acknowledged(_)) => {}
            Ok(Answer::Publish) => out.message(8, &NoFields),
            Ok(Answer::Presence { clients }) => out.message(9, &Presence(clients)),
            Ok(Answer::PresenceStats { clients, users }) => {
                out.message(10, &PresenceStats { clients: *clients, users: *users });
            }
            Ok(Answer::History { publications, top }) => out.message(11, &HistoryFields(publications, *top)),
            Ok(Answer::Rpc { data }) => out.message(13, &RpcFields(data)),
            Ok(Answer::Refresh { client, version, expires }) => {
                out.message(14, &RefreshFields { client: *client, version, expires: *expires });
            }
            Ok(Answer::SubRefresh { expires, items }) => out.message(15, &SubRefreshFields(*expires, items)),
        }
    }
}

impl Fields for Refusal {
    fn write(&self, out: &mut impl Sink) {
        out.number(1, u64::from(self.code));
        out.string(2, &self.message);
        out.flag(3, self.temporary);
    }
}

impl Fields for Connected {
    fn write(&self, out: &mut impl Sink) {
        out.client_id(1, self.client);
        out.string(2, self.version);
        out.expiry([3, 4], self.expires);
        out.payload(5, self.data.as_ref());
        put_subs(6, self, out);
        put_rest(self, out);
    }
}

struct ConnectPush<'a>(&'a Connected);

impl Fields for ConnectPush<'_> {
    fn write(&self, out: &mut impl Sink) {
        out.message(10, &ConnectPushBody(self.0));
    }
}

struct ConnectPushBody<'a>(&'a Connected);

impl Fields for ConnectPushBody<'_> {
    fn write(&self, out: &mut impl Sink) {
        out.client_id(1, self.0.client);
        out.string(2, self.0.version);
        out.payload(3, self.0.data.as_ref());
        put_subs(4, self.0, out);
        out.expiry([5, 6], self.0.expires);
        put_rest(self.0, out);
    }
}

fn put_subs(field: u32, connected: &Connected, out: &mut impl Sink) {
    let subs = connected.subs.iter();
    write::map(field, subs.map(|(channel, subscribed)| (channel.as_str(), subscribed)), out);
}

/// Writes the fields that have the same numbers in a connect reply and a connect push.
fn put_rest(connected: &Connected, out: &mut impl Sink) {
    out.number(7, u64::from(connected.ping_seconds));
    out.flag(8, connected.pong);
    out.string(9, connected.session.as_deref().unwrap_or_default());
    out.string(10, &connected.node);
    out.number(11, connected.time_ms.unwrap_or_default());
}

impl Fields for Subscribed {
    fn write(&self, out: &mut impl Sink) {
        out.expiry([1, 2], self.expires);
        out.flag(3, self.recoverable);
        if let Some(position) = self.position {
            out.string(6, position.epoch.as_str());
        }
        match self.delta {
            true => write::patched_publications(7, &self.publications, &self.patches, out),
            false => write::publications(7, &self.publications, out),
        }
        out.flag(8, self.recovered);
        if let Some(position) = self.position {
            out.number(9, position.offset);
        }
        out.flag(10, self.positioned);
        out.payload(11, self.data.as_deref());
        out.flag(12, self.was_recovering);
        out.flag(13, self.delta);
        if let Some(keyed) = &self.keyed {
            out.number(15, u64::from(keyed.kind.number()));
            out.number(16, u64::from(keyed.phase.number()));
            out.string(17, &keyed.cursor);
            write::publications(18, &keyed.state, out);
            out.number(19, u64::from(keyed.publish_debounce_ms));
        }
    }
}

struct NoFields;

impl Fields for NoFields {
    fn write(&self, _: &mut impl Sink) {}
}

struct Presence<'a>(&'a [ClientInfo]);

impl Fields for Presence<'_> {
    fn write(&self, out: &mut impl Sink) {
        write::map(1, self.0.iter().map(|info| (info.client.hyphenated(), info)), out);
    }
}

struct PresenceStats {
    clients: u32,
    users: u32,
}

impl Fields for PresenceStats {
    fn write(&self, out: &mut impl Sink) {
        out.number(1, u64::from(self.clients));
        out.number(2, u64::from(self.users));
    }
}

struct HistoryFields<'a>(&'a [Publication], StreamPosition);

impl Fields for HistoryFields<'_> {
    fn write(&self, out: &mut impl Sink) {
        write::publications(1, self.0, out);
        out.position([2, 3], Some(self.1));
    }
}

struct RpcFields<'a>(&'a Payload);

impl Fields for RpcFields<'_> {
    fn write(&self, out: &mut impl Sink) {
        out.payload(1, Some(self.0));
    }
}

struct RefreshFields<'a> {
    client: ClientId,
    version: &'a str,
    expires: Option<Expiry>,
}

impl Fields for RefreshFields<'_> {
    fn write(&self, out: &mut impl Sink) {
        out.client_id(1, self.client);
        out.string(2, self.version);
        out.expiry([3, 4], self.expires);
    }
}

struct SubRefreshFields<'a>(Option<Expiry>, &'a [Publication]);

impl Fields for SubRefreshFields<'_> {
    fn write(&self, out: &mut impl Sink) {
        out.expiry([1, 2], self.0);
        write::publications(3, self.1, out);
    }
}
