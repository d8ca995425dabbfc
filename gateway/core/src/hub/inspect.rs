//! What a hub knows of one subscription, for whoever looks into it.

use std::sync::Arc;

use shared::position::StreamPosition;

use super::Hub;
use super::places::PlaceList;
use super::subscriber::Subscriber;
use crate::tag_filter::TagFilter;

/// How far a subscription has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SubscriptionStage {
    /// It gets publications as they come.
    Live,
    /// Publications are held back until its client is told that it has begun.
    Joining,
    /// It is ahead of this worker: what it has already is still on its way here.
    Ahead,
    /// Its client was told that it missed something, and is to subscribe again.
    Insufficient,
}

/// One subscription.
#[derive(Clone, Debug)]
pub struct Inspected {
    pub stage: SubscriptionStage,
    /// It follows the stream, and is told of gaps.
    pub positioned: bool,
    /// It is sent the newest value of each key.
    pub newest: bool,
    /// Up to where everything was handed to it, as far as it follows the stream. `None` before the first publication.
    pub position: Option<StreamPosition>,
    pub filter: Option<Arc<TagFilter>>,
}

impl Hub {
    /// The subscription of a connection to a channel, if there is one.
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
