//! Another reader of a channel that the client is subscribed to already: what that reader missed is read while
//! publications go on.
//!
//! The subscription is joined again from where the new reader stopped. The recovered publications then go to all of the
//! channel's readers in this client, and the protocol leaves out those that a reader already has.

use shared::command::Subscribe;
use shared::error::ErrorCode;
use shared::moment::Moment;
use shared::reply::{Answer, Subscribed};

use super::Session;
use super::session_state::{JoiningStage, JoiningSubscription, LiveSubscription};
use super::terms::RecoveryRequest;
use crate::effect::{Denial, Grant};

impl Session {
    /// Answers a subscribe command of another reader. `grant`: what the application granted this reader, if it was
    /// asked.
    pub(super) fn add_reader(
        &mut self,
        now: Moment,
        id: u32,
        at: usize,
        request: Subscribe,
        grant: Option<Grant>,
    ) {
        let channel = self.subscriptions[at].channel.clone();
        let context = self.context.clone();
        let Some(options) = context.rules.options(&channel) else {
            return self.refuse_in(now, Some(&channel), id, ErrorCode::UnknownChannel);
        };
        let was_recovering = request.recover;
        if !was_recovering || !options.retention().keeps_history() || !self.subscriptions[at].is_live() {
            let subscribed = Subscribed { was_recovering, ..Subscribed::default() };
            return self.answer_in(Some(channel), id, Answer::Subscribe(subscribed));
        }
        let mut recovery = match RecoveryRequest::of(request, options) {
            Ok(recovery) => recovery,
            Err(Denial::Error(refusal)) => return self.refuse_in(now, Some(&channel), id, refusal),
            Err(Denial::Disconnect(disconnect)) => return self.close(disconnect),
        };
        self.narrow_to_audience(options, &channel, &mut recovery, true);
        let ticket = self.ticket();
        let subscription = &mut self.subscriptions[at];
        let JoiningStage::Live(mut live) =
            std::mem::replace(&mut subscription.stage, JoiningStage::Live(LiveSubscription::default()))
        else {
            return;
        };
        let joining = JoiningSubscription {
            ticket,
            id,
            server_side: live.server_side,
            recovery,
            overrides: grant.map(|grant| grant.overrides).unwrap_or_default(),
            granted: live.granted.take(),
            before: Some(live),
            ..JoiningSubscription::default()
        };
        subscription.stage = JoiningStage::Joining(Box::new(joining));
        self.joining += 1;
        self.join(at, options);
    }
}
