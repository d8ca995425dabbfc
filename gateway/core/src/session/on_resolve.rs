//! A subscribe command for which the application decides whether the client may subscribe, and to which channel.

use shared::command::Subscribe;
use shared::error::ErrorCode;
use shared::moment::Moment;

use super::Session;
use super::session_state::{JoiningStage, JoiningSubscription, PendingEffect, Subscription};
use super::terms::RecoveryRequest;
use crate::effect::{Denial, Effect, Resolved};

impl Session {
    pub(super) fn resolve(&mut self, id: u32, mut request: Subscribe) {
        let Some(question) = request.ask.take() else { return };
        let (ticket, channel) = (self.ticket(), request.channel.clone());
        self.wait(ticket, id, PendingEffect::Resolve { request: Box::new(request) });
        self.effects.push_back(Effect::Resolve { ticket, channel, question: *question });
    }

    /// Subscribes the client to the channel the application named, as if it had shown a token.
    pub(super) fn on_resolved(
        &mut self,
        now: Moment,
        id: u32,
        request: Subscribe,
        result: Result<Resolved, Denial>,
    ) {
        let Resolved { channel, grant } = match result {
            Ok(resolved) => resolved,
            Err(denial) => return self.deny(now, id, denial),
        };
        if channel.is_empty() {
            return self.refuse(now, id, ErrorCode::UnknownChannel);
        }
        let Some(channel) = self.channel(now, id, &channel) else { return };
        let at = match self.find(channel.as_str()) {
            Ok(at) => return self.add_reader(now, id, at, request, Some(grant)),
            Err(at) => at,
        };
        let context = self.context.clone();
        if self.subscriptions.len() >= context.settings.channels_max as usize {
            return self.refuse_in(now, Some(&channel), id, ErrorCode::LimitExceeded);
        }
        let Some(options) = context.rules.options(&channel) else {
            return self.refuse_in(now, Some(&channel), id, ErrorCode::UnknownChannel);
        };
        if options.keeps_keys() {
            return self.refuse_in(now, Some(&channel), id, ErrorCode::NotAvailable);
        }
        let mut recovery = match RecoveryRequest::of(request, options) {
            Ok(recovery) => recovery,
            Err(denial) => return self.deny(now, id, denial),
        };
        self.narrow_to_audience(options, &channel, &mut recovery, true);
        let joining = Box::new(JoiningSubscription { id, recovery, ..JoiningSubscription::default() });
        self.joining += 1;
        self.insert(at, Subscription { channel, stage: JoiningStage::Authorizing(joining) });
        self.on_authorized(now, at, Ok(grant));
    }
}
