//! The emit command: an event for the other subscribers of a channel, without a reply.

use shared::error::ErrorCode;
use shared::moment::Moment;
use shared::publication::{EVENT_TAG, Payload, Publication, Tags};

use super::Session;
use super::state::Awaited;
use crate::effect::Effect;
use crate::history::Retention;

impl Session {
    /// Only for subscribers with the right to publish that their subscription has given them. It leaves nothing in the
    /// channel's history: what clients tell each other is of the moment.
    pub(super) fn on_emit(&mut self, now: Moment, id: u32, channel: &str, event: Box<str>, data: Payload) {
        let Some(channel) = self.channel(now, id, channel) else { return };
        let context = self.context.clone();
        let Some(options) = context.rules.options(&channel) else {
            return self.refuse(now, id, ErrorCode::UnknownChannel);
        };
        let Some(subscription) = self.find_live(channel.as_str()) else {
            return self.refuse(now, id, ErrorCode::PermissionDenied);
        };
        let granted = subscription.granted();
        if !granted.is_some_and(|granted| granted.allow.publish) {
            return self.refuse(now, id, ErrorCode::PermissionDenied);
        }
        if options.keeps_keys() || options.is_polled() {
            return self.refuse(now, id, ErrorCode::NotAvailable);
        }
        if !options.publication_data_format.admits(&data) {
            return self.refuse(now, id, ErrorCode::BadRequest);
        }
        let publication = Publication {
            info: Some(self.info(granted)),
            tags: Tags::from([(EVENT_TAG.into(), event)]),
            except: Some(Box::new(self.client)),
            ..Publication::new(data)
        };
        if !self.rare.get_or_insert_default().events.allow(now, &context.settings) {
            return self.refuse(now, id, ErrorCode::TooManyRequests);
        }
        let ticket = self.ticket();
        self.wait(ticket, id, Awaited::Publish);
        let retention = Retention::default();
        self.effects.push_back(Effect::Publish {
            ticket,
            channel,
            publication: Box::new(publication),
            retention,
        });
    }
}
