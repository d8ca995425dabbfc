//! A client's handling of the keys that it follows.

use bytes::BytesMut;
use shared::channel::Channel;
use shared::protocol::centrifuge::json::client::ReceivedPublication;

use crate::client::{Client, SentCommand};
use crate::network::{ClientEvent, Net};
use crate::polls::POLLED;
use crate::subscription::State;

impl Client {
    pub(crate) fn ask_for_polled(&mut self, frame: &mut BytesMut) {
        let is_connected = self.wire.is_some();
        let Some(follower) = self.follower.as_mut().filter(|one| one.state == State::Off && is_connected)
        else {
            return;
        };
        let request = follower.begin();
        self.command(request, SentCommand::SubscribePolled, frame);
    }

    pub(crate) fn on_polled_begun(&mut self, epoch: &str, net: &mut Net) {
        let follower = self.follower.as_mut().expect("it asked for it");
        let request = follower.on_subscribed(epoch, net);
        if !follower.wants.is_empty() {
            self.ask_at_once(request, SentCommand::Track, net);
        }
    }

    pub(crate) fn on_polled_news(&mut self, publication: &ReceivedPublication<'_>, net: &mut Net) {
        let follower = self.follower.as_mut().expect("it asked for it");
        if let Some(key) = follower.get(publication, net) {
            self.later(300..2000, ClientEvent::Follow(key), net);
        }
    }

    pub(crate) fn on_polled_ended(&mut self, code: u32, net: &mut Net) {
        assert_eq!(code, 2500, "nothing else ends it here");
        let follower = self.follower.as_mut().expect("it asked for it");
        assert_eq!(follower.state, State::On, "an end before the beginning");
        follower.state = State::Off;
        net.stats.count("followers told to come back");
        self.later(50..500, ClientEvent::Subscribe(Channel::parse(POLLED, 255).expect("valid")), net);
    }

    /// Follows a removed key again, since it may exist again.
    pub(crate) fn follow_again(&mut self, key: Box<str>, net: &mut Net) {
        let Some(follower) = &mut self.follower else { return };
        follower.wants.insert(key.clone());
        if follower.state == State::On {
            let request = follower.track(vec![key]);
            self.ask_at_once(request, SentCommand::Track, net);
        }
    }
}
