//! The publish command.

use shared::error::ErrorCode;
use shared::moment::Moment;
use shared::publication::{Keyed, Payload, PayloadKind, Publication};

use super::Session;
use super::session_state::PendingEffect;
use crate::effect::Effect;

impl Session {
    /// `key` names the value of which the publication is the newest, if there is one.
    pub(super) fn on_publish(
        &mut self,
        now: Moment,
        id: u32,
        channel: &str,
        key: Option<&str>,
        data: Payload,
    ) {
        let Some(channel) = self.channel(now, id, channel) else { return };
        // No JSON value is empty, so the command had no payload. Text or bytes may well be empty.
        if data.kind == PayloadKind::Json && data.bytes.is_empty() {
            return self.refuse_about(now, &channel, id, ErrorCode::BadRequest);
        }
        let context = self.context.clone();
        let Some(options) = context.rules.options(&channel) else {
            return self.refuse_about(now, &channel, id, ErrorCode::UnknownChannel);
        };
        if options.is_polled() {
            return self.refuse_about(now, &channel, id, ErrorCode::NotAvailable);
        }
        // With a publish hook, the hook decides.
        if !options.publish_hook && !self.may_publish(options, &channel) {
            return self.refuse_about(now, &channel, id, ErrorCode::PermissionDenied);
        }
        // In a map, every publication needs a key.
        if options.keeps_keys() || !options.publication_data_format.admits(&data) {
            return self.refuse_about(now, &channel, id, ErrorCode::BadRequest);
        }
        let info = self.info(self.find_live(channel.as_str()).and_then(|one| one.granted()));
        let keyed = key.map(|key| Box::new(Keyed { key: key.into(), ..Keyed::default() }));
        let publication =
            Publication { info: Some(info), delta: options.delta_publish, keyed, ..Publication::new(data) };
        let ticket = self.ticket();
        self.wait(ticket, id, PendingEffect::Publish);
        self.effects.push_back(Effect::Publish {
            ticket,
            channel,
            publication: Box::new(publication),
            retention: options.retention(),
        });
    }
}
