//! Reads a channel's history for clients that join it: one read serves all that join at about the same time.

use std::sync::Arc;

use gateway_core::catch_up::{
    CatchUp, CatchUpAnswer, CatchUpRequest, ClientPosition, ReadRequest, ReadResult,
};
use gateway_core::effect::HistoryRequest;
use gateway_core::history::{HistoryFilter, HistoryPage, Retention};
use shared::channel::Channel;
use shared::position::StreamPosition;
use tokio::sync::oneshot;

use crate::broker::BrokerError;
use crate::node::Node;
use crate::node::interest::{ChannelRareState, LocalChannel};
use crate::telemetry::labels::HistorySource;

/// How often a client's request joins a shared read before it reads for itself. Each round but the last is a read made
/// for clients that came earlier.
const ROUNDS_MAX: u32 = 4;

/// The most bytes of retained history kept for further requests, over all channels. Beyond it, a read serves only the
/// requests that waited for it.
const RETAINED_BYTES_MAX: usize = 64 << 20;

/// The outcome of a read, sent to every request that waits for it.
pub(crate) type CatchUpResult = Result<ReadResult, BrokerError>;

/// What a request has to do next.
enum CatchUpTurn {
    Answered(HistoryPage),
    Read(ReadRequest),
    Wait(oneshot::Receiver<CatchUpResult>),
}

impl Node {
    /// Returns the history from memory, if it is known, for a client from which the channel's publications are held back
    /// already.
    pub(crate) fn retained_catch_up(
        &self,
        channel: &Channel,
        wanted: &HistoryRequest,
    ) -> Option<HistoryPage> {
        if wanted.part {
            return None;
        }
        let now = self.clock.now();
        let mut shard = self.interest.shard(channel.as_str());
        let aside = shard.get_mut(channel.as_str())?.aside();
        let known = aside.and_then(|ChannelRareState { catch_up, .. }| {
            catch_up.retained_page(now, &want(catch_up, wanted))
        });
        drop(shard);
        if known.is_some() {
            self.metrics.catch_up_answered(HistorySource::EarlierRead);
            return known;
        }
        // A client that begins at the top of the stream needs the position alone.
        let begins =
            wanted.filter.since.is_none() && wanted.sought.is_none() && !is_for_newest(&wanted.filter);
        let top = begins.then(|| self.broker.position_now(channel)).flatten()?;
        self.with_channel(channel, |local| local.feed.anchor(top));
        self.metrics.catch_up_answered(HistorySource::Read);
        Some(HistoryPage { publications: Vec::new(), top })
    }

    /// Returns the history from memory or from a read shared by all requests that wait for it.
    pub(crate) async fn catch_up(
        self: &Arc<Self>,
        channel: &Channel,
        wanted: &HistoryRequest,
        retention: Retention,
    ) -> Result<HistoryPage, BrokerError> {
        // Partial reads belong to different clients at different positions, so there is nothing to share.
        let shared = (!wanted.part).then(|| self.with_aside(channel, |aside| want(&aside.catch_up, wanted)));
        let request = shared.flatten();
        if let Some(want) = request {
            for _ in 0..ROUNDS_MAX {
                let outcome = match self.take_turn(channel, &want) {
                    None => break,
                    Some(CatchUpTurn::Answered(page)) => {
                        self.metrics.catch_up_answered(HistorySource::EarlierRead);
                        return Ok(page);
                    }
                    Some(CatchUpTurn::Wait(outcome)) => match outcome.await {
                        Ok(outcome) => (outcome?, HistorySource::EarlierRead),
                        // The reader was dropped without reporting an outcome.
                        Err(_) => break,
                    },
                    Some(CatchUpTurn::Read(reading)) => {
                        let in_flight = CatchUpReadInFlight { node: self, channel, reading };
                        (in_flight.read(retention).await?, HistorySource::Read)
                    }
                };
                match outcome {
                    (ReadResult::Shared(history), from) => {
                        if let Some(page) = history.answer(&want) {
                            self.metrics.catch_up_answered(from);
                            return Ok(page);
                        }
                    }
                    (ReadResult::Unshared, _) => break,
                }
            }
        }
        self.metrics.catch_up_answered(HistorySource::Read);
        let page = self.history(channel.clone(), wanted.filter, retention).await?;
        self.with_channel(channel, |local| local.feed.anchor(page.top));
        Ok(page)
    }

    /// Whether every publication up to `position` was handed to the workers that have subscribers of the channel.
    pub(crate) fn has_handed_out(&self, channel: &Channel, position: StreamPosition) -> bool {
        self.broker.hands_out_at_once() || {
            let shard = self.interest.shard(channel.as_str());
            shard.get(channel.as_str()).is_some_and(|local| local.feed.has_given_out(position))
        }
    }

    /// Discards the retained history of a channel because it no longer matches the broker's.
    pub(super) fn forget_catch_up(&self, channel: &Channel) {
        self.with_channel(channel, |local| {
            if let Some(aside) = local.aside() {
                aside.catch_up.forget();
            }
        });
    }

    /// Discards the retained history of one part of the broker, whose link was lost: the channels may have new streams by
    /// now.
    pub(super) fn forget_catch_ups(&self, part: usize) {
        self.interest.for_each(|local| {
            if self.broker.part_of(&local.channel) != part {
                return;
            }
            if let Some(aside) = local.aside() {
                aside.catch_up.forget();
                self.interest.weigh(local);
            }
        });
    }

    fn take_turn(&self, channel: &Channel, want: &CatchUpRequest<'_>) -> Option<CatchUpTurn> {
        let now = self.clock.now();
        self.with_aside(channel, |aside| match aside.catch_up.ask(now, want) {
            CatchUpAnswer::Answered(page) => CatchUpTurn::Answered(page),
            CatchUpAnswer::Read(reading) => CatchUpTurn::Read(reading),
            CatchUpAnswer::Wait => {
                let (sender, receiver) = oneshot::channel();
                aside.catch_up_waiting.push(sender);
                CatchUpTurn::Wait(receiver)
            }
        })
    }

    /// Runs `act` on the channel's rare state, which is created if need be.
    fn with_aside<T>(&self, channel: &Channel, act: impl FnOnce(&mut ChannelRareState) -> T) -> Option<T> {
        self.with_channel(channel, |local| act(self.interest.aside(local)))
    }

    fn with_channel<T>(&self, channel: &Channel, act: impl FnOnce(&mut LocalChannel) -> T) -> Option<T> {
        let mut shard = self.interest.shard(channel.as_str());
        let local = shard.get_mut(channel.as_str())?;
        let answer = act(local);
        self.interest.weigh(local);
        Some(answer)
    }

    /// Tells every request that waits the outcome of a read.
    fn share_read(
        &self,
        channel: &Channel,
        reading: ReadRequest,
        result: Result<&HistoryPage, &BrokerError>,
    ) -> CatchUpResult {
        let now = self.clock.now();
        let outcome = self.with_channel(channel, |local| {
            // The requests that wait now belong to a later read: the channel was unsubscribed and subscribed again
            // meanwhile.
            if !local.aside()?.catch_up.is_reading(reading) {
                return None;
            }
            if let Ok(page) = result {
                local.feed.anchor(page.top);
            }
            let aside = local.aside()?;
            let outcome = match result {
                Ok(page) => Ok(aside.catch_up.read(now, reading, page)),
                Err(error) => {
                    aside.catch_up.read_failed(reading);
                    Err(error.clone())
                }
            };
            if self.interest.retained_bytes() > RETAINED_BYTES_MAX.min(self.memory.catch_up_bytes_max()) {
                aside.catch_up.forget();
            }
            for waiting in aside.catch_up_waiting.drain(..) {
                // A client that is gone no longer listens.
                let _ = waiting.send(outcome.clone());
            }
            Some(outcome)
        });
        outcome.flatten().unwrap_or_else(|| result.map(|_| ReadResult::Unshared).map_err(Clone::clone))
    }
}

/// A read that other requests may wait for. Dropping it unfinished tells them so.
struct CatchUpReadInFlight<'n> {
    node: &'n Arc<Node>,
    channel: &'n Channel,
    reading: ReadRequest,
}

impl CatchUpReadInFlight<'_> {
    async fn read(self, retention: Retention) -> CatchUpResult {
        let page = self.node.history(self.channel.clone(), self.reading.filter, retention).await;
        let outcome = self.node.share_read(self.channel, self.reading, page.as_ref());
        std::mem::forget(self);
        outcome
    }
}

impl Drop for CatchUpReadInFlight<'_> {
    fn drop(&mut self) {
        let given_up = BrokerError::Unexpected("a read of history was given up".into());
        let _ = self.node.share_read(self.channel, self.reading, Err(&given_up));
    }
}

/// Whether the newest publication alone is asked for.
fn is_for_newest(filter: &HistoryFilter) -> bool {
    filter.reverse && filter.since.is_none() && filter.limit == 1
}

fn want<'a>(catch_up: &CatchUp, wanted: &'a HistoryRequest) -> CatchUpRequest<'a> {
    let HistoryFilter { since, limit, .. } = wanted.filter;
    if let Some(sought) = &wanted.sought {
        return catch_up.want_after(sought, limit);
    }
    if is_for_newest(&wanted.filter) {
        return catch_up.want_newest();
    }
    let stopped = since.map(|offset| ClientPosition { offset, epoch: wanted.epoch });
    catch_up.want(stopped, limit)
}
