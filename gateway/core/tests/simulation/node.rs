//! One gateway node, wired as in a gateway: workers with their hubs, a feed for each channel, and requests to the broker.

use std::collections::BTreeMap;
use std::sync::Arc;

use gateway_core::catch_up::{
    CatchUp, CatchUpAnswer, CatchUpRequest, ClientPosition, ReadRequest, ReadResult,
};
use gateway_core::effect::{Join, Outcome, OutcomeResult, Ticket};
use gateway_core::feed::{Admission, Feed, FeedDelivery, GapCheck, GapState, RepairOutcome};
use gateway_core::history::{HistoryFilter, HistoryPage};
use gateway_core::hub::{HELD_PUBLICATIONS_MAX, HoldLimits, Prepared, PreviousPublication, Variants};
use gateway_core::namespace_id::NamespaceId;
use gateway_core::poll::Poller;
use gateway_core::session::Context;
use shared::channel::Channel;
use shared::error::ErrorCode;
use shared::position::StreamPosition;
use shared::protocol::Protocol;
use shared::publication::Publication;
use shared::push::OwnedEvent;

use crate::network::{Net, NodeEvent, Purpose, Question, trace};
use crate::worker::{Worker, WorkerRequest};

pub(crate) const WORKERS: usize = 2;
/// How many publications one read of history returns while a gap is repaired: few, so that several reads are needed.
const REPAIR_PAGE: u32 = 5;
/// Milliseconds between two checks of the positions of all channels.
const CHECK_EVERY: u64 = 3_000;

/// A channel on one node.
#[derive(Debug, Default)]
struct Local {
    feed: Feed,
    interest: [bool; WORKERS],
    subscribed: bool,
    /// The last publication that was delivered, for deltas.
    previous: Option<PreviousPublication>,
    /// The number of the last change of interest, so that an unsubscription that is no longer wanted is not made.
    generation: u32,
    /// Joins that wait for the broker to deliver the channel.
    waiting: Vec<(u64, Join)>,
    catch_up: CatchUp,
    /// Joins that wait for a read of the channel's retained history.
    askers: Vec<Asker>,
}

/// A subscriber that joins and is to get the retained history.
#[derive(Debug)]
struct Asker {
    wire: u64,
    ticket: Ticket,
    want: CatchUpRequest<'static>,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) index: usize,
    pub(crate) life: u32,
    pub(crate) workers: Vec<Worker>,
    channels: BTreeMap<Channel, Local>,
    pub(crate) pollers: BTreeMap<Channel, Poller>,
    /// The worker of each connection, and its key there.
    places: BTreeMap<u64, (usize, u32)>,
    pub(crate) variants: Arc<Variants>,
    pub(crate) context: Arc<Context>,
    /// Counts changes of interest over all channels. A channel that is forgotten and comes back does not start anew.
    generations: u32,
}

/// What all nodes share.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    pub(crate) context: Arc<Context>,
    pub(crate) protocol: Arc<dyn Protocol>,
    pub(crate) variants: Arc<Variants>,
}

impl Node {
    pub(crate) fn new(index: usize, life: u32, common: &Common, net: &mut Net) -> Self {
        let small = net.dice.chance(300);
        let publications = if small { 2 } else { HELD_PUBLICATIONS_MAX };
        let limits = HoldLimits { publications, ..HoldLimits::default() };
        let now = net.now;
        let workers = (0..WORKERS).map(|worker| Worker::new(index, life, worker, common, now, limits));
        net.send_to_node(index, life, 0..CHECK_EVERY, NodeEvent::Check);
        Self {
            index,
            life,
            workers: workers.collect(),
            channels: BTreeMap::new(),
            pollers: BTreeMap::new(),
            places: BTreeMap::new(),
            variants: common.variants.clone(),
            context: common.context.clone(),
            generations: 0,
        }
    }

    pub(crate) fn handle(&mut self, what: NodeEvent, link: u32, net: &mut Net) {
        match what {
            NodeEvent::Publication { link: over, channel, publication } if over == link => {
                let Some(local) = self.channels.get_mut(&channel) else { return };
                match local.feed.admit(publication) {
                    Admission::Deliver(publication) => {
                        self.deliver(&channel, vec![FeedDelivery::Publication(publication)], net);
                    }
                    Admission::Gap { since } => {
                        net.stats.count("gaps found by a publication");
                        self.read_missing(channel, since, net);
                    }
                    Admission::Doubtful { .. } => panic!("node {} was brought something twice", self.index),
                    Admission::Held | Admission::Duplicate => {}
                }
            }
            NodeEvent::Subscribed { link: over, channel } if over == link => {
                self.on_subscribed(&channel, net)
            }
            NodeEvent::Told { link: over, channel, event } if over == link => {
                let Some(local) = self.channels.get(&channel) else { return };
                let micros = net.now.0 * 1_000;
                let prepared =
                    Prepared::of(channel, NamespaceId::DEFAULT, event, None, micros, &self.variants);
                for worker in (0..WORKERS).filter(|&worker| local.interest[worker]) {
                    self.workers[worker].push(&prepared, net);
                }
            }
            NodeEvent::Compare { link: over, channel } if over == link => {
                self.look(Some(channel), GapCheck::AfterLoss, net);
            }
            NodeEvent::PollDue { channel } => self.poll(&channel, net),
            NodeEvent::Polled { channel, requested, answer } => {
                self.on_polled(&channel, &requested, answer, net)
            }
            NodeEvent::PolledPublished { link: over, channel, key, version, epoch } if over == link => {
                self.on_published(&channel, &key, version, epoch, net);
            }
            NodeEvent::PolledPublished { .. }
            | NodeEvent::Publication { .. }
            | NodeEvent::Subscribed { .. }
            | NodeEvent::Told { .. }
            | NodeEvent::Compare { .. } => {
                net.stats.count("lost with a link");
            }
            NodeEvent::Resumed => {
                self.channels.values_mut().for_each(|local| local.catch_up.forget());
                self.look(None, GapCheck::AfterLoss, net);
            }
            NodeEvent::Check => {
                self.look(None, GapCheck::Routine, net);
                net.send_to_node(self.index, self.life, CHECK_EVERY..CHECK_EVERY + 1, NodeEvent::Check);
            }
            NodeEvent::LookAgain { channel } => self.look(Some(channel), GapCheck::Routine, net),
            NodeEvent::Positions { look, tops } => {
                for (channel, before, top) in tops {
                    let Some(local) = self.channels.get_mut(&channel) else { continue };
                    match local.feed.check(before, top, look) {
                        GapState::Fine => {}
                        GapState::Suspicious => {
                            let again = NodeEvent::LookAgain { channel };
                            net.send_to_node(self.index, self.life, 500..501, again);
                        }
                        GapState::Missing { since } => {
                            net.stats.count("gaps found by a look");
                            self.read_missing(channel, since, net);
                        }
                        GapState::Lost(position) => {
                            net.stats.count("streams found replaced");
                            self.deliver(&channel, vec![FeedDelivery::Lost(position)], net);
                        }
                    }
                }
            }
            NodeEvent::History { channel, page, purpose: Purpose::Mend } => {
                let Some(local) = self.channels.get_mut(&channel) else { return };
                let failed = page.is_none();
                let repaired = match page {
                    Some(page) => local.feed.repair(page),
                    None => local.feed.repair_failed(),
                };
                self.on_repaired(channel, repaired, failed, net);
            }
            NodeEvent::LeftEpoch { channel, top } => {
                let Some(local) = self.channels.get_mut(&channel) else { return };
                let repaired = local.feed.left(top);
                self.on_repaired(channel, repaired, false, net);
            }
            NodeEvent::MendAgain { channel, since } => self.read_missing(channel, since, net),
            NodeEvent::History { channel, page, purpose: Purpose::CatchUp(reading) } => {
                self.on_history_read(channel, reading, page, net);
            }
            NodeEvent::History { page, channel, purpose: Purpose::Piece { wire, ticket } } => {
                net.piece_read(wire, &channel, page.is_some());
                if let Some((local, page)) = self.channels.get_mut(&channel).zip(page.as_ref()) {
                    local.feed.anchor(page.top);
                }
                let read = page.map(Some).ok_or(ErrorCode::Internal);
                self.answer(wire, ticket, OutcomeResult::Joined(read), net);
            }
            NodeEvent::History { page, purpose: Purpose::Page { wire, ticket }, .. } => {
                let result = OutcomeResult::History(page.ok_or(ErrorCode::Internal));
                self.answer(wire, ticket, result, net);
            }
            NodeEvent::State { channel, page, wire, ticket } => {
                if let Some(top) = page.as_ref().and_then(|page| page.top) {
                    self.begin_from(&channel, top, net);
                }
                self.answer(wire, ticket, OutcomeResult::State(page.ok_or(ErrorCode::Internal)), net);
            }
            NodeEvent::Room { wire, ticket } => self.answer(wire, ticket, OutcomeResult::Room, net),
            NodeEvent::Published { wire, ticket } => {
                self.answer(wire, ticket, OutcomeResult::Published(Ok(())), net);
            }
            NodeEvent::Linger { channel, generation } => {
                if self.channels.get(&channel).is_some_and(|local| local.generation == generation) {
                    self.channels.remove(&channel);
                    net.ask_broker(self.index, self.life, Question::Unsubscribe(channel));
                }
            }
            NodeEvent::WorkerRuns { worker } => {
                self.workers[worker].run(net);
                self.carry_out(worker, net);
            }
            NodeEvent::WorkerTimer { worker } => {
                self.workers[worker].on_timer(net);
                self.carry_out(worker, net);
            }
            NodeEvent::Opened { wire } => {
                let worker = net.dice.index(WORKERS);
                let key = self.workers[worker].open(wire, net);
                self.places.insert(wire, (worker, key));
                self.carry_out(worker, net);
            }
            NodeEvent::Reads { wire, message } => {
                let Some(&(worker, key)) = self.places.get(&wire) else { return };
                self.workers[worker].read(key, &message, net);
                self.carry_out(worker, net);
            }
            NodeEvent::ServerActs { wire, channel, subscribes } => {
                let Some(&(worker, key)) = self.places.get(&wire) else { return };
                self.workers[worker].server_acts(key, &channel, subscribes, net);
                self.carry_out(worker, net);
            }
            NodeEvent::Closed { wire } => {
                let Some(&(worker, key)) = self.places.get(&wire) else { return };
                self.workers[worker].remove(key);
                self.carry_out(worker, net);
            }
        }
    }

    /// Checks that nothing is left.
    pub(crate) fn check_empty(&self) {
        for worker in &self.workers {
            worker.check_empty();
        }
        assert!(self.channels.is_empty(), "node {} keeps {:?}", self.index, self.channels.keys());
        assert!(self.places.is_empty(), "node {} keeps connections", self.index);
        assert!(
            self.pollers.values().all(|poller| poller.keys() == 0),
            "node {} asks for nobody",
            self.index
        );
    }

    /// Carries out what a worker asked for while it ran.
    pub(crate) fn carry_out(&mut self, worker: usize, net: &mut Net) {
        while let Some(request) = self.workers[worker].requests.pop_front() {
            match request {
                WorkerRequest::Listen(channel) => {
                    let new = !self.channels.contains_key(&channel);
                    self.generations += 1;
                    let options = self.context.rules.options(&channel).expect("only these are used");
                    let catch_up = CatchUp::new(self.generations.into(), options.retention());
                    let fresh = || Local { catch_up, ..Local::default() };
                    let local = self.channels.entry(channel.clone()).or_insert_with(fresh);
                    local.interest[worker] = true;
                    local.generation = self.generations;
                    if new {
                        net.ask_broker(self.index, self.life, Question::Subscribe(channel));
                    }
                }
                WorkerRequest::Forget(channel) => {
                    let local = self.channels.get_mut(&channel).expect("a worker listened to it");
                    local.interest[worker] = false;
                    self.generations += 1;
                    local.generation = self.generations;
                    if local.interest == [false; WORKERS] {
                        let generation = local.generation;
                        let what = NodeEvent::Linger { channel, generation };
                        net.send_to_node(self.index, self.life, 200..2000, what);
                    }
                }
                WorkerRequest::Join(wire, join) => {
                    let local = self.channels.get_mut(&join.channel).expect("a worker listens to it");
                    if local.subscribed {
                        self.read_for_join(wire, join, net);
                    } else {
                        local.waiting.push((wire, join));
                    }
                }
                WorkerRequest::Publish(wire, ticket, channel, publication) => {
                    let question = Question::Publish(channel, publication, wire, ticket);
                    net.ask_broker(self.index, self.life, question);
                }
                WorkerRequest::ChangeKey(wire, ticket, channel, change) => {
                    let question = Question::ChangeKey(channel, change, wire, ticket);
                    net.ask_broker(self.index, self.life, question);
                }
                WorkerRequest::State(wire, ticket, channel, filter) => {
                    let question = Question::State(channel, filter, wire, ticket);
                    net.ask_broker(self.index, self.life, question);
                }
                WorkerRequest::History(wire, ticket, channel, filter) => {
                    let question = Question::History(channel, filter, Purpose::Page { wire, ticket });
                    net.ask_broker(self.index, self.life, question);
                }
                WorkerRequest::Follow(channel, keys) => self.follow(worker, &channel, &keys, net),
                WorkerRequest::Unfollow(channel, keys) => {
                    if let Some(poller) = self.pollers.get_mut(&channel) {
                        keys.iter().for_each(|key| poller.untrack(net.now, worker, key));
                    }
                }
                WorkerRequest::Announce(channel, event) => {
                    net.ask_broker(self.index, self.life, Question::Announce(channel, event));
                }
                WorkerRequest::Outcome(wire, outcome) => {
                    let Some(&(worker, key)) = self.places.get(&wire) else { continue };
                    self.workers[worker].outcome(key, outcome, net);
                }
                WorkerRequest::Gone(wire) => {
                    self.places.remove(&wire);
                }
            }
        }
    }

    fn on_subscribed(&mut self, channel: &Channel, net: &mut Net) {
        let Some(local) = self.channels.get_mut(channel) else { return };
        local.subscribed = true;
        for (wire, join) in std::mem::take(&mut local.waiting) {
            self.read_for_join(wire, join, net);
        }
    }

    fn read_for_join(&mut self, wire: u64, join: Join, net: &mut Net) {
        if join.history.as_ref().is_none_or(|wanted| !wanted.part) {
            net.told_since.insert((wire, join.channel.clone()), net.now);
        }
        let Some(wanted) = join.history else {
            let page = self.poll_position(&join.channel);
            return self.answer(wire, join.ticket, OutcomeResult::Joined(Ok(page)), net);
        };
        if wanted.part {
            let purpose = Purpose::Piece { wire, ticket: join.ticket };
            let question = Question::History(join.channel, wanted.filter, purpose);
            return net.ask_broker(self.index, self.life, question);
        }
        let since = wanted.filter.since.map(|offset| ClientPosition { offset, epoch: wanted.epoch });
        let local = self.channels.get(&join.channel).expect("a worker listens to it");
        let want = local.catch_up.want(since, wanted.filter.limit);
        self.ask_for_history(join.channel, Asker { wire, ticket: join.ticket, want }, net);
    }

    fn ask_for_history(&mut self, channel: Channel, asker: Asker, net: &mut Net) {
        let Some(local) = self.channels.get_mut(&channel) else { return };
        match local.catch_up.ask(net.now, &asker.want) {
            CatchUpAnswer::Answered(page) => {
                net.stats.count("pasts told without a read");
                self.answer(asker.wire, asker.ticket, OutcomeResult::Joined(Ok(Some(page))), net);
            }
            CatchUpAnswer::Wait => local.askers.push(asker),
            CatchUpAnswer::Read(reading) => {
                local.askers.push(asker);
                let question = Question::History(channel, reading.filter, Purpose::CatchUp(reading));
                net.ask_broker(self.index, self.life, question);
            }
        }
    }

    /// Handles a read that has returned, for all subscribers that waited.
    fn on_history_read(
        &mut self,
        channel: Channel,
        reading: ReadRequest,
        page: Option<HistoryPage>,
        net: &mut Net,
    ) {
        let Some(local) = self.channels.get_mut(&channel) else { return };
        // A read begun in an earlier life of the channel belongs to nobody any more.
        if !local.catch_up.is_reading(reading) {
            return;
        }
        let shared = match page {
            Some(page) => {
                local.feed.anchor(page.top);
                Ok(local.catch_up.read(net.now, reading, &page))
            }
            None => {
                local.catch_up.read_failed(reading);
                Err(())
            }
        };
        for asker in std::mem::take(&mut local.askers) {
            match &shared {
                Ok(ReadResult::Shared(history)) => match history.answer(&asker.want) {
                    Some(page) => {
                        net.stats.count("pasts told by a read");
                        self.answer(asker.wire, asker.ticket, OutcomeResult::Joined(Ok(Some(page))), net);
                    }
                    None => self.ask_for_history(channel.clone(), asker, net),
                },
                Ok(ReadResult::Unshared) => {
                    net.stats.count("pasts that nobody could share");
                    self.ask_for_history(channel.clone(), asker, net);
                }
                Err(()) => {
                    // The server's subscription fails, and its client has not heard of it.
                    net.ended.insert((asker.wire, channel.clone()));
                    let failed = OutcomeResult::Joined(Err(ErrorCode::Internal));
                    self.answer(asker.wire, asker.ticket, failed, net);
                }
            }
        }
    }

    /// Notes that a subscriber here may continue from a page of keys that was read.
    fn begin_from(&mut self, channel: &Channel, top: StreamPosition, net: &mut Net) {
        let Some(local) = self.channels.get_mut(channel).filter(|local| local.subscribed) else { return };
        local.feed.anchor(top);
        if let Some(at) = local.feed.position().filter(|at| at.epoch != top.epoch) {
            self.deliver(channel, vec![FeedDelivery::Lost(at)], net);
        }
    }

    fn on_repaired(&mut self, channel: Channel, repaired: RepairOutcome, failed: bool, net: &mut Net) {
        let RepairOutcome { deliveries, again, leave } = repaired;
        self.deliver(&channel, deliveries, net);
        match (again, leave) {
            (Some(since), _) if failed => {
                let again = NodeEvent::MendAgain { channel, since };
                net.send_to_node(self.index, self.life, 50..200, again);
            }
            (_, Some(epoch)) => {
                net.ask_broker(self.index, self.life, Question::LeaveEpoch(channel, epoch));
            }
            (Some(since), None) => self.read_missing(channel, since, net),
            (None, None) => net.stats.count("gaps dealt with"),
        }
    }

    fn read_missing(&mut self, channel: Channel, since: u64, net: &mut Net) {
        let filter =
            HistoryFilter { since: Some(since), limit: REPAIR_PAGE, reverse: false, enough_bytes: None };
        net.ask_broker(self.index, self.life, Question::History(channel, filter, Purpose::Mend));
    }

    fn look(&mut self, only: Option<Channel>, look: GapCheck, net: &mut Net) {
        let is_meant = |channel: &Channel| only.as_ref().is_none_or(|only| only == channel);
        let streamed = self.channels.iter().filter(|(channel, local)| {
            is_meant(channel) && (only.is_some() || local.feed.position().is_some())
        });
        let channels = streamed.map(|(channel, local)| (channel.clone(), local.feed.position())).collect();
        net.ask_broker(self.index, self.life, Question::Positions(channels, look));
    }

    fn answer(&mut self, wire: u64, ticket: Ticket, result: OutcomeResult, net: &mut Net) {
        let Some(&(worker, key)) = self.places.get(&wire) else { return };
        self.workers[worker].outcome(key, Outcome { ticket, result }, net);
        self.carry_out(worker, net);
    }

    /// Passes each delivery once to every worker with interest.
    fn deliver(&mut self, channel: &Channel, deliveries: Vec<FeedDelivery>, net: &mut Net) {
        let Some(local) = self.channels.get_mut(channel) else { return };
        for delivery in deliveries {
            let position = match &delivery {
                FeedDelivery::Publication(publication) => publication.position,
                FeedDelivery::Lost(position) => Some(*position),
            };
            for (worker, position) in self.workers.iter_mut().zip(std::iter::repeat(position)) {
                worker.handed_out.extend(position.map(|position| (channel.clone(), position)));
            }
            match &delivery {
                FeedDelivery::Publication(publication) => local.catch_up.handed_out(net.now, publication),
                FeedDelivery::Lost(_) => local.catch_up.forget(),
            }
            let kept = match &delivery {
                FeedDelivery::Publication(Publication { keyed: Some(_), .. }) => None,
                FeedDelivery::Publication(publication) => publication
                    .position
                    .map(|position| PreviousPublication { position, data: publication.data.clone() }),
                FeedDelivery::Lost(_) => None,
            };
            let previous = std::mem::replace(&mut local.previous, kept);
            trace(net.now, || format!("node {} delivers {channel} {delivery:?}", self.index));
            let prepared = match delivery {
                FeedDelivery::Publication(mut publication) => {
                    let micros = net.now.0 * 1_000;
                    let before = publication.keyed.as_mut().and_then(|keyed| keyed.before.take());
                    let before = publication.position.zip(before);
                    let previous =
                        before.map(|(position, data)| PreviousPublication { position, data }).or(previous);
                    let options = self.context.rules.options(channel).expect("only these are used");
                    if options.retention().keeps_history() {
                        let event = OwnedEvent::Publication(publication);
                        Ok(Prepared::of(
                            channel.clone(),
                            NamespaceId::DEFAULT,
                            event,
                            previous,
                            micros,
                            &self.variants,
                        ))
                    } else {
                        Ok(Prepared::unnumbered(
                            channel.clone(),
                            NamespaceId::DEFAULT,
                            publication,
                            previous,
                            micros,
                            &self.variants,
                        ))
                    }
                }
                FeedDelivery::Lost(position) => Err(position),
            };
            for worker in (0..WORKERS).filter(|&worker| local.interest[worker]) {
                match &prepared {
                    Ok(prepared) => self.workers[worker].push(prepared, net),
                    Err(position) => self.workers[worker].push_lost(channel, *position, net),
                }
            }
        }
    }
}
