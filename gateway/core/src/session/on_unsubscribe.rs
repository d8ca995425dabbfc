//! The end of a subscription: the client's own wish, or the server's.

use shared::channel::Channel;
use shared::disconnect::Disconnect;
use shared::push::{Event, Push, UnsubscribeCode};
use shared::reply::Answer;

use super::Session;
use super::state::{Phase, Subscription};
use crate::effect::Effect;

impl Session {
    /// Not being subscribed is what the client wants, so it is no error not to have been.
    pub(super) fn on_unsubscribe(&mut self, id: u32, channel: &str) {
        if channel.is_empty() {
            return self.close(Disconnect::BAD_REQUEST.because("the command names no channel"));
        }
        if let Ok(at) = self.find(channel) {
            let channel = self.remove(at).channel;
            self.leave(channel);
            self.reckon_expiry();
        }
        self.answer(id, Answer::Unsubscribe);
    }

    /// The server ends a subscription and tells the client why. One that is still on its way ends as soon as the
    /// client knows of it.
    pub fn handle_unsubscribe(&mut self, channel: &Channel, code: UnsubscribeCode) {
        if self.phase == Phase::Closed {
            return;
        }
        let Ok(at) = self.find(channel.as_str()) else { return };
        if let Some(joining) = self.subscriptions[at].joining_mut() {
            // The reason that lets no client come back outweighs those that do.
            if joining.ended != Some(UnsubscribeCode::Server) {
                joining.ended = Some(code);
            }
            return;
        }
        self.remove(at);
        self.end(channel, code);
        self.reckon_expiry();
    }

    /// A subscription that is forgotten already.
    pub(super) fn end(&mut self, channel: &Channel, code: UnsubscribeCode) {
        self.leave(channel.clone());
        self.push(Push::to(channel, Event::Unsubscribed(code)));
    }

    pub(super) fn remove(&mut self, at: usize) -> Subscription {
        let subscription = self.subscriptions.remove(at);
        if !subscription.is_live() {
            self.joining -= 1;
        }
        if let Some(behind) = &mut self.behind {
            behind.forget(&subscription.channel);
        }
        if self.subscriptions.is_empty() {
            self.subscriptions.shrink_to_fit();
        }
        subscription
    }

    pub(super) fn leave(&mut self, channel: Channel) {
        // What was said of this channel so far, and its going live, come first.
        self.flush();
        self.effects.push_back(Effect::Leave { channel });
    }
}
