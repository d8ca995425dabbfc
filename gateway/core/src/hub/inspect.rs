//! The state of one subscription, for inspection.

use std::sync::Arc;

use shared::position::StreamPosition;

use super::Hub;
use super::places::PlaceList;
use super::subscriber::Subscriber;
use crate::tag_filter::TagFilter;

/// The stage of a subscription.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SubscriptionStage {
    /// The subscriber gets publications as they come.
    Live,
    /// Publications are held back until the client is told that its subscription has begun.
    Joining,
    /// The subscriber is ahead of this worker: publications that it has already are still on their way here.
    Ahead,
    /// The client was told of a gap, and is to subscribe again.
    Insufficient,
}

/// The state of one subscription.
#[derive(Clone, Debug)]
pub struct Inspected {
    pub stage: SubscriptionStage,
    /// Whether the subscription follows the stream and is told of gaps.
    pub positioned: bool,
    /// Whether the subscriber is sent the newest value of each key.
    pub newest: bool,
    /// The stream position up to which the subscriber was given everything, if it follows the stream. `None` before the
    /// first publication.
    pub position: Option<StreamPosition>,
    pub filter: Option<Arc<TagFilter>>,
}

impl Hub {
    /// Returns the state of a connection's subscription to a channel, if there is one.
    pub fn inspect(&self, channel: &str, key: u32) -> Option<Inspected> {
        let first = self.ids.find(&self.channels, channel)?;
        let (id, at) = self.find_place(first, key)?;
        let members = self.channels.get(id as usize)?;
        let of = |stage, subscriber: Subscriber, position| Inspected {
            stage,
            positioned: subscriber.is_positioned(),
            newest: subscriber.is_newest(),
            position,
            filter: members.filter().cloned(),
        };
        let aside = members.aside.as_deref();
        Some(match at.list() {
            PlaceList::Live => of(SubscriptionStage::Live, *members.live.get(at.index())?, members.stream),
            PlaceList::Joining => {
                of(SubscriptionStage::Joining, aside?.joining.get(at.index())?.subscriber, None)
            }
            PlaceList::Waiting => {
                let waiting = aside?.waiting.get(at.index())?;
                of(SubscriptionStage::Ahead, waiting.subscriber, Some(waiting.position))
            }
            PlaceList::Insufficient => Inspected {
                stage: SubscriptionStage::Insufficient,
                positioned: true,
                newest: false,
                position: None,
                filter: members.filter().cloned(),
            },
        })
    }
}
