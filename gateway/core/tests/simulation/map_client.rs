//! A client's handling of channels that keep state by key.

use bytes::BytesMut;
use shared::channel::Channel;
use shared::command::Request;

use crate::broker::Broker;
use crate::client::{Client, SentCommand};
use crate::map::Map;
use crate::network::{ClientEvent, Net};
use crate::subscription::State;

impl Client {
    pub(crate) fn has_map(&self, channel: &str) -> bool {
        self.maps.contains_key(channel)
    }

    pub(crate) fn map(&mut self, channel: &str) -> &mut Map {
        self.maps.get_mut(channel).expect("only what was asked for")
    }

    pub(crate) fn ask_for_map(&mut self, channel: &Channel, frame: &mut BytesMut) {
        let is_connected = self.wire.is_some();
        let Some(map) = self.maps.get_mut(channel) else { return };
        if map.wanted && map.state == State::Off && is_connected {
            let request = Request::Subscribe(map.begin());
            self.command(request, SentCommand::Map { channel: channel.clone() }, frame);
        }
    }

    pub(crate) fn ask_at_once(&mut self, request: Request, command: SentCommand, net: &mut Net) {
        let mut frame = BytesMut::new();
        self.command(request, command, &mut frame);
        self.send(frame, net);
    }

    pub(crate) fn on_map_refused(&mut self, command: SentCommand, code: u32, net: &mut Net) {
        let SentCommand::Map { channel } = command else { panic!("{command:?} is of no map") };
        let map = self.map(channel.as_str());
        if code == 112 {
            let request = Request::Subscribe(map.on_unrecoverable(net));
            return self.ask_at_once(request, SentCommand::Map { channel }, net);
        }
        assert_eq!(code, 100, "{channel} is refused");
        map.state = State::Off;
        net.stats.count("map subscribes refused");
        self.later(200..1500, ClientEvent::Subscribe(channel), net);
    }

    /// Handles that the server ended the subscription because something may be missing. There must be a reason.
    pub(crate) fn on_map_ended(&mut self, channel: &str, broker: &mut Broker, net: &mut Net) {
        let wire = self.wire.expect("it reads");
        let channel = Channel::parse(channel, 255).expect("a channel");
        let excused = net.excused.remove(&(wire, channel.clone()));
        let excused = excused || broker.epochs_of_overlap(&channel, net.now);
        let map = self.map(channel.as_str());
        assert_eq!(map.state, State::On, "the end of {channel} before its beginning");
        map.state = State::Off;
        if let Some((epoch, offset)) = map.position.clone() {
            let served = broker.could_serve(&channel, &epoch, offset, net);
            assert!(excused || !served, "{channel} ended at {offset} without need");
        }
        net.stats.count("maps told to be read anew");
        self.later(50..500, ClientEvent::Subscribe(channel), net);
    }

    /// Gives up a subscription for a while, or changes keys, now and then.
    pub(crate) fn churn_maps(&mut self, net: &mut Net) {
        if self.maps.is_empty() {
            return;
        }
        let at = net.dice.index(self.maps.len());
        let (channel, map) = self.maps.iter_mut().nth(at).expect("an index within");
        let channel = channel.clone();
        let name = channel.as_str().into();
        if net.dice.chance(700) {
            let (key, removed) = (Broker::any_key(net), net.dice.chance(250));
            let data = Broker::content(0);
            let request = Request::PublishKey { channel: name, key, data, removed };
            self.ask_at_once(request, SentCommand::Publish, net);
        } else if map.state == State::On && map.wanted {
            map.wanted = false;
            let request = Request::Unsubscribe { channel: name };
            self.ask_at_once(request, SentCommand::UnsubscribeMap { channel }, net);
        }
    }
}
