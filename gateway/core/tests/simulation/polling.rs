//! Polled channels on a node and its workers, wired as in a gateway: which keys are asked for, and which followers get the
//! results.

use std::sync::Arc;

use gateway_core::history::HistoryPage;
use gateway_core::hub::{Bundles, Prepared, Sink, Subscriber};
use gateway_core::namespace_id::NamespaceId;
use gateway_core::poll::{PolledItem, PolledKey, Poller, PollerStep, PollerUpdate};
use shared::channel::Channel;
use shared::disconnect::Disconnect;
use shared::moment::Moment;
use shared::position::{Epoch, StreamPosition};
use shared::publication::{Keyed, Payload, Publication};
use shared::push::UnsubscribeCode;

use crate::network::{Net, NodeEvent, Question, trace};
use crate::node::{Node, WORKERS};
use crate::polls::content;
use crate::worker::{Item, Worker, WorkerRequest, Writer};

/// How many followers are updated at a time.
const PIECE: usize = 2;

/// An update of a key.
#[derive(Debug)]
pub(crate) struct News {
    prepared: Arc<Prepared>,
    key: Arc<str>,
    version: u64,
    removed: bool,
}

pub(crate) fn named(keys: Vec<Arc<str>>) -> Vec<Box<str>> {
    keys.into_iter().map(|key| (&*key).into()).collect()
}

impl Node {
    pub(crate) fn follow(
        &mut self,
        worker: usize,
        channel: &Channel,
        keys: &[(Box<str>, u64)],
        net: &mut Net,
    ) {
        let options = self.context.rules.options(channel).expect("only these are used");
        let settings = options.shared_poll.settings();
        let seed = net.dice.roll();
        let poller =
            self.pollers.entry(channel.clone()).or_insert_with(|| Poller::new(net.now, settings, seed));
        keys.iter().for_each(|(key, version)| poller.track(net.now, worker, key, *version));
        self.poll(channel, net);
    }

    /// Asks for the keys that are due.
    pub(crate) fn poll(&mut self, channel: &Channel, net: &mut Net) {
        while let Some(poller) = self.pollers.get_mut(channel) {
            match poller.next(net.now) {
                PollerStep::Ask(requested) => {
                    net.stats.count("polls");
                    net.ask_broker(self.index, self.life, Question::Poll(channel.clone(), requested));
                }
                PollerStep::Wait(until) => {
                    let delay = until.since(net.now).as_millis().max(1) as u64;
                    let what = NodeEvent::PollDue { channel: channel.clone() };
                    return net.send_to_node(self.index, self.life, delay..delay + 1, what);
                }
                PollerStep::End => drop(self.pollers.remove(channel)),
            }
        }
    }

    pub(crate) fn on_polled(
        &mut self,
        channel: &Channel,
        requested: &[PolledKey],
        answer: Option<(Epoch, Vec<PolledItem>)>,
        net: &mut Net,
    ) {
        let Some(poller) = self.pollers.get_mut(channel) else { return };
        match answer {
            Some((epoch, items)) => {
                let taken =
                    poller.answered(net.now, requested, epoch, items, || panic!("the application counts"));
                self.spread(channel, taken, net);
            }
            None => {
                net.stats.count("polls without an answer");
                poller.failed(net.now, requested);
            }
        }
        self.poll(channel, net);
    }

    pub(crate) fn on_published(
        &mut self,
        channel: &Channel,
        key: &str,
        version: u64,
        epoch: Epoch,
        net: &mut Net,
    ) {
        let Some(poller) = self.pollers.get_mut(channel) else { return };
        let taken = poller.published(key, version, epoch, content(version));
        self.spread(channel, taken, net);
    }

    /// Returns what a new subscriber is told of the epoch of versions.
    pub(crate) fn poll_position(&self, channel: &Channel) -> Option<HistoryPage> {
        let epoch = self.pollers.get(channel)?.epoch();
        let top = StreamPosition { offset: 0, epoch };
        (!epoch.is_empty()).then(|| HistoryPage { publications: Vec::new(), top })
    }

    fn spread(&mut self, channel: &Channel, taken: PollerUpdate, net: &mut Net) {
        if taken.reset {
            for worker in &mut self.workers {
                worker.inbox.push(Item::Anew(channel.clone()));
                worker.wake(net);
            }
        }
        for news in taken.news {
            trace(net.now, || format!("node {} spreads {news:?}", self.index));
            let (key, version, removed) = (news.key, news.version, news.data.is_none());
            let mut publication = Publication::new(news.data.unwrap_or_else(|| Payload::json("")));
            let keyed = Keyed { key: (&*key).into(), removed, version, ..Keyed::default() };
            publication.keyed = Some(Box::new(keyed));
            let micros = Moment::ZERO.0;
            let prepared =
                Prepared::new(channel.clone(), NamespaceId::DEFAULT, publication, micros, &self.variants);
            let mut is_undelivered = false;
            for (index, worker) in self.workers.iter_mut().enumerate().take(WORKERS) {
                if news.workers & (1 << index) == 0 {
                    continue;
                }
                let news = News { prepared: prepared.clone(), key: key.clone(), version, removed };
                is_undelivered |= !worker.push_news(news, net);
            }
            if is_undelivered && let Some(poller) = self.pollers.get_mut(channel) {
                net.stats.count("news that found no room");
                poller.undelivered(&key);
            }
        }
    }
}

impl Worker {
    fn push_news(&mut self, news: News, net: &mut Net) -> bool {
        let fits = news.removed || self.inbox.len() < net.plan.inbox;
        if fits {
            self.inbox.push(Item::News(news));
            self.wake(net);
        }
        fits
    }

    pub(crate) fn tell_news(&mut self, news: &News, net: &mut Net) {
        let channel = news.prepared.channel().clone();
        if news.removed {
            loop {
                let (dismissed, any_left) = self.trackers.dismiss(channel.as_str(), &news.key, PIECE);
                for subscriber in &dismissed {
                    if let Some(connection) = self.connections.get_mut(subscriber.key as usize) {
                        connection.session.handle_key_removed(&channel, &news.key);
                    }
                }
                self.hand(&dismissed, news, net);
                if !any_left {
                    let key = (&*news.key).into();
                    return self.requests.push_back(WorkerRequest::Unfollow(channel, vec![key]));
                }
            }
        }
        let mut rest = self.trackers.followers(channel.as_str(), &news.key);
        while rest > 0 {
            let outdated;
            (outdated, rest) = self.trackers.outdated(channel.as_str(), &news.key, news.version, rest, PIECE);
            self.hand(&outdated, news, net);
        }
    }

    fn hand(&mut self, subscribers: &[Subscriber], news: &News, net: &mut Net) {
        let mut writer = Writer::new(&self.connections, net);
        if !subscribers.is_empty() {
            let mut bundles = Bundles::new(std::slice::from_ref(&news.prepared));
            writer.deliver(subscribers, &mut bundles);
        }
        for key in std::mem::take(&mut writer.slow) {
            self.disconnect(key, Disconnect::SLOW, net);
        }
    }

    pub(crate) fn tell_anew(&mut self, channel: &Channel, net: &mut Net) {
        let is_there =
            |session: &gateway_core::session::Session| session.subscriptions().any(|one| one == channel);
        let keys: Vec<u32> = self
            .connections
            .iter()
            .filter(|(_, connection)| is_there(&connection.session))
            .map(|(key, _)| key as u32)
            .collect();
        for key in keys {
            if let Some(connection) = self.connections.get_mut(key as usize) {
                connection.session.handle_unsubscribe(channel, UnsubscribeCode::InsufficientState);
                self.follow_up(key, net);
            }
        }
    }
}
