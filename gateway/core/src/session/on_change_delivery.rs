//! Changing a live subscription between all publications and the newest values. This is a call (`rpc`) with a method of
//! the gateway's own, because the protocol has no command that changes a subscription.

use shared::channel::Channel;
use shared::delivery::DeliveryWanted;
use shared::error::ErrorCode;
use shared::moment::Moment;
use shared::publication::Payload;

use super::Session;
use super::session_state::{JoiningStage, PendingEffect};
use super::terms;
use crate::effect::Effect;

/// The method of the call. The application is never asked about it.
pub const CHANGE_DELIVERY: &str = "tidegate.delivery";

impl Session {
    /// Returns whether the client has a live subscription to a channel whose delivery it chose itself, and so may
    /// change.
    pub fn chooses_delivery(&self, channel: &Channel) -> bool {
        let subscription = self.find_live(channel.as_str());
        subscription.is_some_and(|one| matches!(&one.stage, JoiningStage::Live(live) if live.chooses))
    }

    pub(super) fn on_change_delivery(&mut self, now: Moment, id: u32, data: &Payload) {
        let Ok((channel, wanted)) = DeliveryWanted::of_change(&data.bytes) else {
            return self.refuse(now, id, ErrorCode::BadRequest);
        };
        let Some(channel) = self.channel(now, id, &channel) else { return };
        if self.find_live(channel.as_str()).is_none() {
            return self.refuse(now, id, ErrorCode::PermissionDenied);
        }
        let chooses = self.chooses_delivery(&channel);
        let latest = match self.context.rules.options(&channel) {
            // A client that relies on positions has not agreed to miss publications.
            Some(_) if !chooses => Err(ErrorCode::BadRequest),
            Some(options) => terms::latest(Some(wanted), &options.newest),
            None => Err(ErrorCode::UnknownChannel),
        };
        match latest {
            Ok(latest) => {
                let ticket = self.ticket();
                self.wait(ticket, id, PendingEffect::Rpc);
                self.effects.push_back(Effect::ChangeDelivery { ticket, channel, latest });
            }
            Err(error) => self.refuse(now, id, error),
        }
    }
}
