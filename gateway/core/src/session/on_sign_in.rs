//! The sign-in command, by which a connected client says who it is.

use shared::error::ErrorCode;
use shared::moment::Moment;
use shared::publication::Payload;
use shared::reply::Answer;

use super::Session;
use super::session_state::PendingEffect;
use crate::effect::{Denial, Effect, Identity};

impl Session {
    pub(super) fn on_sign_in(&mut self, id: u32, token: Box<str>, data: Payload) {
        let ticket = self.ticket();
        self.wait(ticket, id, PendingEffect::SignIn { data: data.clone() });
        self.effects.push_back(Effect::SignIn { ticket, token, data });
    }

    /// Answers the client, and then subscribes it to the channels that come with the user.
    pub(super) fn on_signed_in(
        &mut self,
        now: Moment,
        id: u32,
        data: Payload,
        result: Result<Identity, Denial>,
    ) {
        let mut identity = match result {
            Ok(identity) => identity,
            Err(denial) => return self.deny(now, id, denial),
        };
        if !self.user().is_anonymous() {
            // Signing in again as the same user changes nothing; changing the user is not possible.
            return match identity.user == *self.user() {
                true => self.answer(id, Answer::SignedIn { data }),
                false => self.refuse(now, id, ErrorCode::BadRequest),
            };
        }
        let subs = std::mem::take(&mut identity.subs);
        if self.subscriptions.len() + subs.len() > self.context.settings.channels_max as usize {
            return self.refuse(now, id, ErrorCode::LimitExceeded);
        }
        let info = self.identity.take().and_then(|before| before.info);
        identity.info = identity.info.or(info);
        self.identity = Some(Box::new(identity));
        self.answer(id, Answer::SignedIn { data });
        for subscription in subs {
            // The client may already have subscribed to this channel itself.
            match self.handle_subscribe(now, subscription, None) {
                Ok(()) | Err(ErrorCode::AlreadySubscribed) => {}
                Err(error) => self.note_refusal(now, None, &error.into()),
            }
        }
        self.reckon_expiry();
    }
}
