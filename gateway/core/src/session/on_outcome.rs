//! Outcomes of effects, each of which resumes the command or subscription that waited for it.

use shared::disconnect::Disconnect;
use shared::error::ErrorCode;
use shared::moment::Moment;
use shared::refusal::Refusal;
use shared::reply::Answer;

use super::Session;
use super::session_state::{JoiningStage, PendingCommand, PendingEffect, Phase};
use crate::effect::{Denial, Outcome, OutcomeResult, Ticket};

impl Session {
    /// Handles the outcome of an effect. An outcome that nothing waits for, or no longer, is ignored.
    pub fn handle_outcome(&mut self, now: Moment, outcome: Outcome) {
        let Outcome { ticket, result } = outcome;
        if self.phase == Phase::Closed {
            return;
        }
        if let Some(pending) = self.pending.take_if(|pending| pending.ticket == ticket) {
            self.finish(now, *pending, result);
        } else if let Some(at) = self.loading.as_ref().and_then(|loading| loading.find_awaiting(ticket)) {
            self.on_loaded(now, at, result);
        } else if let Some(at) = self.joining_with(ticket) {
            match (&self.subscriptions[at].stage, result) {
                (JoiningStage::Authorizing(_), OutcomeResult::Authorized(result)) => {
                    self.on_authorized(now, at, result);
                }
                (JoiningStage::Joining(_), OutcomeResult::Joined(result)) => self.on_joined(now, at, result),
                (JoiningStage::Joining(_), OutcomeResult::JoinedAmong(result)) => {
                    let result = result.map(|(page, members)| {
                        if let Some(joining) = self.subscriptions[at].joining_mut() {
                            joining.members = Some(members);
                        }
                        page
                    });
                    self.on_joined(now, at, result);
                }
                _ => self.fail_joining(now, at, ErrorCode::Internal),
            }
        } else if self.behind.as_ref().is_some_and(|behind| behind.awaits(ticket)) {
            self.on_behind(result);
        } else if self.renewals.as_ref().is_some_and(|renewals| renewals.awaits(ticket)) {
            let no_answer = Err(Denial::of(ErrorCode::Internal));
            let renewed = if let OutcomeResult::Renewed(renewed) = result { renewed } else { no_answer };
            self.on_renewed(now, ticket, renewed);
        } else {
            return;
        }
        self.go_on_handling(now);
        let was_congested = self.is_congested();
        self.resume(now);
        if was_congested && !self.is_congested() {
            self.give_time_for_pong(now);
        }
    }

    fn finish(&mut self, now: Moment, pending: PendingCommand, result: OutcomeResult) {
        let id = pending.id;
        match (pending.awaited, result) {
            (PendingEffect::Connect { subs }, OutcomeResult::Authenticated(result)) => {
                self.on_authenticated(now, id, subs, result)
            }
            (PendingEffect::Connect { .. }, _) => self.close(Disconnect::INTERNAL),
            (PendingEffect::Message, OutcomeResult::Messaged(result)) => self.on_messaged(now, id, result),
            (PendingEffect::Message, _) => self.on_messaged(now, id, Err(ErrorCode::Internal.into())),
            (PendingEffect::Rpc, OutcomeResult::Rpc(result)) => {
                self.conclude_or_close(now, id, result.map(|data| Answer::Rpc { data }));
            }
            (PendingEffect::Resolve { request }, OutcomeResult::Resolved(result)) => {
                self.on_resolved(now, id, *request, result);
            }
            (PendingEffect::Refresh, OutcomeResult::Authenticated(result)) => {
                self.on_reauthenticated(now, id, result)
            }
            (PendingEffect::SubRefresh { channel }, OutcomeResult::Authorized(result)) => {
                self.on_reauthorized(now, id, &channel, result);
            }
            (PendingEffect::SignIn { data }, OutcomeResult::SignedIn(result)) => {
                self.on_signed_in(now, id, data, result);
            }
            (PendingEffect::Event { channel }, OutcomeResult::Handled(result)) => {
                self.on_handled(now, id, channel, result);
            }
            (PendingEffect::Handling(handling), OutcomeResult::Published(result)) => {
                self.on_emitted(now, id, handling, result);
            }
            (PendingEffect::Publish, OutcomeResult::Published(result)) => {
                self.conclude_or_close(now, id, result.map(|()| Answer::Publish));
            }
            (PendingEffect::History { since }, OutcomeResult::History(result)) => {
                self.on_history_read(now, id, since, result);
            }
            (PendingEffect::Presence, OutcomeResult::Presence(result)) => {
                self.on_presence_read(now, id, result)
            }
            (PendingEffect::PresenceStats, OutcomeResult::PresenceStats(result)) => {
                let answer =
                    result.map(|stats| Answer::PresenceStats { clients: stats.clients, users: stats.users });
                self.conclude(now, id, answer);
            }
            (PendingEffect::Track { channel, untrack }, OutcomeResult::Verified(result)) => {
                self.on_verified(now, id, &channel, untrack, result);
            }
            // The outcome of another kind of effect.
            (_, _) => self.refuse(now, id, ErrorCode::Internal),
        }
    }

    pub(super) fn conclude(&mut self, now: Moment, id: u32, outcome: Result<Answer, impl Into<Refusal>>) {
        match outcome {
            Ok(answer) => self.answer(id, answer),
            Err(error) => self.refuse(now, id, error),
        }
    }

    /// Answers a command about which an application may have been asked. The application can also close the connection.
    fn conclude_or_close(&mut self, now: Moment, id: u32, outcome: Result<Answer, Denial>) {
        match outcome {
            Ok(answer) => self.answer(id, answer),
            Err(denial) => self.deny(now, id, denial),
        }
    }

    fn joining_with(&self, ticket: Ticket) -> Option<usize> {
        if self.joining == 0 {
            return None;
        }
        let is_it = |joining: &super::session_state::JoiningSubscription| joining.ticket == ticket;
        self.subscriptions.iter().position(|one| one.joining().is_some_and(is_it))
    }
}
