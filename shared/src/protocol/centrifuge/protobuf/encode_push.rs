//! Encodes pushes.

use bytes::BytesMut;

use super::write::{self, Fields, Published, Sink};
use crate::disconnect::Disconnect;
use crate::publication::{ClientInfo, Payload};
use crate::push::{Event, Push, UnsubscribeCode};
use crate::reply::{Expiry, Subscribed};

/// Writes the push as a reply without an id.
pub(super) fn encode(push: Push<'_>, out: &mut BytesMut) {
    write::write_with_length(&PushFields(push), out);
}

/// Writes the push itself, which is the whole message in the unidirectional protocol.
pub(in crate::protocol::centrifuge) fn encode_bare(push: Push<'_>, out: &mut BytesMut) {
    write::write_with_length(&push, out);
}

struct PushFields<'a>(Push<'a>);

impl Fields for PushFields<'_> {
    fn write(&self, out: &mut impl Sink) {
        out.message(4, &self.0);
    }
}

impl Fields for Push<'_> {
    fn write(&self, out: &mut impl Sink) {
        if let Some(channel) = self.channel {
            out.string(2, channel.as_str());
        }
        match self.event {
            // The first publication of a new stream tells its epoch to subscribers that have none yet.
            Event::Publication(publication, form) => {
                out.message(4, &Published { publication, form, with_epoch: publication.offset() == 1 });
            }
            Event::Joined(info) => out.message(5, &InfoField(info)),
            Event::Left(info) => out.message(6, &InfoField(info)),
            // Never written: see `Event::is_of_members`.
            Event::MemberAdded(_) | Event::MemberRemoved(_) | Event::Counted(_) => {}
            Event::Unsubscribed(code) => out.message(7, &UnsubscribeFields(code)),
            Event::Message(data) => out.message(8, &MessageField(data)),
            Event::Subscribed(subscribed) => out.message(9, &SubscribePushFields(subscribed)),
            Event::Disconnected(disconnect) => out.message(11, disconnect),
            Event::Refreshed(expires) => out.message(12, &Refreshed(expires)),
        }
    }
}

struct InfoField<'a>(&'a ClientInfo);

impl Fields for InfoField<'_> {
    fn write(&self, out: &mut impl Sink) {
        out.message(1, self.0);
    }
}

struct UnsubscribeFields(UnsubscribeCode);

impl Fields for UnsubscribeFields {
    fn write(&self, out: &mut impl Sink) {
        out.number(2, u64::from(self.0.code()));
        out.string(3, self.0.reason());
    }
}

struct MessageField<'a>(&'a Payload);

impl Fields for MessageField<'_> {
    fn write(&self, out: &mut impl Sink) {
        out.payload(1, Some(self.0));
    }
}

/// Has fewer fields than a subscribe reply: the client did not ask, so it has nothing to recover.
struct SubscribePushFields<'a>(&'a Subscribed);

impl Fields for SubscribePushFields<'_> {
    fn write(&self, out: &mut impl Sink) {
        out.flag(1, self.0.recoverable);
        out.position([4, 5], self.0.position);
        out.flag(6, self.0.positioned);
        out.payload(7, self.0.data.as_deref());
    }
}

impl Fields for Disconnect {
    fn write(&self, out: &mut impl Sink) {
        out.number(1, u64::from(self.code));
        out.string(2, &self.reason);
    }
}

struct Refreshed(Option<Expiry>);

impl Fields for Refreshed {
    fn write(&self, out: &mut impl Sink) {
        out.expiry([1, 2], self.0);
    }
}
