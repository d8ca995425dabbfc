//! What a channel published while some of its subscribers were still joining: kept once for all of them.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;

use shared::position::StreamPosition;

use super::prepared::Prepared;
use super::subscriber::Subscriber;

/// Publications held back in one channel.
pub const HELD_PUBLICATIONS_MAX: usize = 1024;
/// Bytes held back in one channel.
pub const HELD_BYTES_MAX: usize = 1 << 20;
/// Bytes held back in all channels of one hub.
pub const HELD_BYTES_TOTAL_MAX: usize = 64 << 20;

/// What a held publication costs beside its payload, roughly.
const HELD_OVERHEAD_BYTES: usize = 256;

/// How much is held back for joining subscribers before the oldest is given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HoldLimits {
    pub publications: usize,
    pub bytes: usize,
    pub bytes_total: usize,
}

impl Default for HoldLimits {
    fn default() -> Self {
        Self { publications: HELD_PUBLICATIONS_MAX, bytes: HELD_BYTES_MAX, bytes_total: HELD_BYTES_TOTAL_MAX }
    }
}

/// The publications since the oldest joining subscriber came, numbered by arrival.
#[derive(Debug, Default)]
pub(super) struct Held {
    publications: VecDeque<Arc<Prepared>>,
    /// The number of the first publication in `publications`.
    first: u64,
    bytes: usize,
}

/// What became of the part of a channel that a subscriber could not see while it joined.
#[derive(Debug)]
pub(super) enum CaughtUp<'a> {
    /// These are its, and then it stands at this position; `None` if it follows no stream.
    Deliver { publications: Cow<'a, [Arc<Prepared>]>, now_at: Option<StreamPosition> },
    /// Something between its position and now is not there.
    Hole,
}

impl Held {
    /// The number that the next publication will get.
    pub(super) fn next(&self) -> u64 {
        self.first + self.publications.len() as u64
    }

    /// Holds these back, as long as there is room. `total` counts the bytes of all channels.
    /// Answers how many publications were given up.
    pub(super) fn hold<'a>(
        &mut self,
        publications: impl Iterator<Item = &'a Arc<Prepared>>,
        limits: &HoldLimits,
        total: &mut usize,
    ) -> u64 {
        let mut given_up = 0;
        for prepared in publications {
            let bytes = cost(prepared);
            self.bytes += bytes;
            *total += bytes;
            self.publications.push_back(prepared.clone());
            while self.publications.len() > limits.publications
                || self.bytes > limits.bytes
                || *total > limits.bytes_total
            {
                let Some(oldest) = self.publications.pop_front() else { break };
                self.first += 1;
                self.bytes -= cost(&oldest);
                *total -= cost(&oldest);
                given_up += 1;
            }
        }
        given_up
    }

    /// What a subscriber is to get that joined when the next number was `from` and knows all up to `position`.
    pub(super) fn catch_up(
        &mut self,
        from: u64,
        position: Option<StreamPosition>,
        subscriber: Subscriber,
    ) -> CaughtUp<'_> {
        let positioned = subscriber.is_positioned();
        if from < self.first && subscriber.does_need_all() {
            return CaughtUp::Hole;
        }
        let skipped = usize::try_from(from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let held: &[Arc<Prepared>] = self.publications.make_contiguous();
        let held = held.get(skipped..).unwrap_or_default();
        let Some(position) = position else {
            return CaughtUp::Deliver { publications: held.into(), now_at: None };
        };

        let known = held.iter().take_while(|prepared| knows(Some(position), prepared.position())).count();
        let rest = &held[known..];
        let (mut now_at, mut is_mixed) = (position, false);
        for stands in rest.iter().filter_map(|prepared| prepared.position()) {
            if knows(Some(now_at), Some(stands)) {
                is_mixed = true;
                continue;
            }
            if positioned && !follows(now_at, stands) {
                return CaughtUp::Hole;
            }
            now_at = stands;
        }
        let publications = if is_mixed { new_to(position, rest).into() } else { rest.into() };
        CaughtUp::Deliver { publications, now_at: Some(now_at) }
    }

    /// Lets go of everything: nobody is joining any more. Answers how many bytes that frees.
    pub(super) fn clear(&mut self) -> usize {
        self.first = self.next();
        self.publications = VecDeque::new();
        std::mem::take(&mut self.bytes)
    }
}

/// Those of these that come after `position` and each other. What has no place in the stream, such as a join, can stand
/// before something that is known.
fn new_to(mut position: StreamPosition, held: &[Arc<Prepared>]) -> Vec<Arc<Prepared>> {
    let is_new = |prepared: &&Arc<Prepared>| {
        let is_known = knows(Some(position), prepared.position());
        if !is_known {
            position = prepared.position().unwrap_or(position);
        }
        !is_known
    };
    held.iter().filter(is_new).cloned().collect()
}

/// Whether nothing lies between the two.
pub(super) fn follows(position: StreamPosition, next: StreamPosition) -> bool {
    position.epoch == next.epoch && position.offset.checked_add(1) == Some(next.offset)
}

/// Whether someone at `position` has seen what stands at `other`.
fn knows(position: Option<StreamPosition>, other: Option<StreamPosition>) -> bool {
    match (position, other) {
        (Some(position), Some(other)) => position.epoch == other.epoch && other.offset <= position.offset,
        _ => false,
    }
}

fn cost(prepared: &Prepared) -> usize {
    prepared.bytes() + HELD_OVERHEAD_BYTES
}
