//! Events that a client sends to the other subscribers of a channel, either without a reply or as configured.

use shared::command::Forward;
use shared::error::ErrorCode;
use shared::moment::Moment;
use shared::publication::{EVENT_TAG, Payload, Publication, Tagged, Tags};

use super::Session;
use super::session_state::PendingEffect;
use crate::effect::Effect;
use crate::history::Retention;

impl Session {
    /// Handles an event of a subscriber whose subscription grants it the right to publish. History does not keep the
    /// event: what clients tell each other is of the moment.
    pub(super) fn on_emit(&mut self, now: Moment, id: u32, channel: &str, event: Box<str>, data: Payload) {
        let arguments = Tagged { data, tags: Tags::new() };
        let forward = Forward { channel: channel.into(), event, arguments, to_sender: false, only: None };
        self.emit(now, id, forward, true);
    }

    /// Handles an event that the configuration allows all subscribers to send. History keeps it.
    pub(super) fn on_forward(&mut self, now: Moment, id: u32, forward: Forward) {
        self.emit(now, id, forward, false);
    }

    fn emit(&mut self, now: Moment, id: u32, forward: Forward, is_passing: bool) {
        let Forward { channel, event, arguments: Tagged { data, mut tags }, to_sender, only } = forward;
        let Some(channel) = self.channel(now, id, &channel) else { return };
        let context = self.context.clone();
        let Some(options) = context.rules.options(&channel) else {
            return self.refuse_about(now, &channel, id, ErrorCode::UnknownChannel);
        };
        let Some(subscription) = self.find_live(channel.as_str()) else {
            return self.refuse_about(now, &channel, id, ErrorCode::PermissionDenied);
        };
        let granted = subscription.granted();
        if is_passing && !granted.is_some_and(|granted| granted.allow.publish) {
            return self.refuse_about(now, &channel, id, ErrorCode::PermissionDenied);
        }
        if options.keeps_keys() || options.is_polled() {
            return self.refuse_about(now, &channel, id, ErrorCode::NotAvailable);
        }
        if !options.publication_data_format.admits(&data) {
            return self.refuse_about(now, &channel, id, ErrorCode::BadRequest);
        }
        tags.insert(EVENT_TAG.into(), event);
        let publication = Publication {
            info: Some(self.info(granted)),
            tags,
            except: (!to_sender).then(|| Box::new(self.client)),
            only,
            ..Publication::new(data)
        };
        if is_passing && !self.rare.get_or_insert_default().events.allow(now, &context.settings) {
            return self.refuse_about(now, &channel, id, ErrorCode::TooManyRequests);
        }
        let ticket = self.ticket();
        self.wait(ticket, id, PendingEffect::Publish);
        let retention = if is_passing { Retention::default() } else { options.retention_of(&publication) };
        self.effects.push_back(Effect::Publish {
            ticket,
            channel,
            publication: Box::new(publication),
            retention,
        });
    }
}
