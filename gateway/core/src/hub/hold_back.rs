//! What a channel published while some of its subscribers were still joining: kept once for all of them.

use std::collections::VecDeque;
use std::sync::Arc;

use shared::position::StreamPosition;

use super::members::JoiningMember;
use super::prepared::Prepared;

/// Publications held back in one channel.
pub const HELD_PUBLICATIONS_MAX: usize = 1024;
/// Bytes held back in one channel, of joins and leaves too.
pub const HELD_BYTES_MAX: usize = 1 << 20;
/// Bytes held back in all channels of one hub.
pub const HELD_BYTES_TOTAL_MAX: usize = 64 << 20;

/// What a held publication costs beside its payload, roughly.
const HELD_OVERHEAD_BYTES: usize = 256;

/// How much is held back for joining subscribers before some is given up: the oldest publications, and joins and leaves
/// only if nothing else is left.
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

/// What came since the oldest joining subscriber did, numbered by arrival.
#[derive(Debug, Default)]
pub(super) struct HoldBackQueue {
    entries: VecDeque<HeldEvent>,
    /// How many of them are publications.
    publications: usize,
    /// The number that the next will get.
    next: u64,
    bytes: usize,
}

#[derive(Debug)]
struct HeldEvent {
    number: u64,
    is_publication: bool,
    prepared: Arc<Prepared>,
}

/// The part of a channel that a subscriber could not see while it joined.
#[derive(Debug)]
pub(super) struct CaughtUp<'a> {
    pub(super) publications: Vec<&'a Arc<Prepared>>,
    /// Where it stands then. `None` if it follows no stream.
    pub(super) now_at: Option<StreamPosition>,
}

impl HoldBackQueue {
    /// The number that the next will get.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Holds these back, as long as there is room. `total` counts the bytes of all channels.
    /// Returns how many were given up.
    pub(super) fn hold<'a>(
        &mut self,
        publications: impl Iterator<Item = &'a Arc<Prepared>>,
        limits: &HoldLimits,
        total: &mut usize,
    ) -> u64 {
        let mut given_up = 0;
        for prepared in publications {
            let bytes = cost(prepared);
            let is_publication = prepared.publication().is_some();
            self.bytes += bytes;
            *total += bytes;
            self.publications += usize::from(is_publication);
            self.entries.push_back(HeldEvent {
                number: self.next,
                is_publication,
                prepared: prepared.clone(),
            });
            self.next += 1;
            while self.publications > limits.publications
                || self.bytes > limits.bytes
                || *total > limits.bytes_total
            {
                let Some(freed) = self.give_up() else { break };
                *total -= freed;
                given_up += 1;
            }
        }
        given_up
    }

    /// Gives up the oldest publication, which history may have, or what is the oldest without any.
    /// Returns how many bytes that frees.
    fn give_up(&mut self) -> Option<usize> {
        let oldest = self.entries.iter().position(|entry| entry.is_publication).unwrap_or(0);
        let HeldEvent { is_publication, prepared, .. } = self.entries.remove(oldest)?;
        self.publications -= usize::from(is_publication);
        self.bytes -= cost(&prepared);
        Some(cost(&prepared))
    }

    /// What a subscriber is to get that knows the stream up to `position`. `None` if something between that and now is
    /// not here.
    pub(super) fn catch_up(
        &self,
        joining: &JoiningMember,
        position: Option<StreamPosition>,
    ) -> Option<CaughtUp<'_>> {
        let JoiningMember { subscriber, from, since, .. } = *joining;
        let (mut publications, mut now_at) = (Vec::new(), position);
        let skipped = self.entries.partition_point(|entry| entry.number < since);
        for HeldEvent { number, prepared, .. } in self.entries.range(skipped..) {
            match (prepared.position(), now_at) {
                // It has no place in the stream, and can stand before something that is known.
                (None, _) => {}
                // History was read anew since.
                (Some(_), _) if *number < from => continue,
                (Some(_), None) => {}
                (Some(stands), Some(at)) if knows(at, stands) => continue,
                (Some(stands), Some(at)) => {
                    if subscriber.is_positioned() && !follows(at, stands) {
                        return None;
                    }
                    now_at = Some(stands);
                }
            }
            publications.push(prepared);
        }
        Some(CaughtUp { publications, now_at })
    }

    /// Lets go of what has a place in the stream, which all who are joining will read from history. Returns how many
    /// bytes that frees.
    pub(super) fn let_go_of_stream(&mut self) -> usize {
        let before = self.bytes;
        self.entries.retain(|entry| {
            let is_to_go = entry.prepared.position().is_some();
            if is_to_go {
                self.bytes -= cost(&entry.prepared);
                self.publications -= usize::from(entry.is_publication);
            }
            !is_to_go
        });
        before - self.bytes
    }

    /// Lets go of everything: nobody is joining any more. Returns how many bytes that frees.
    pub(super) fn clear(&mut self) -> usize {
        self.entries = VecDeque::new();
        self.publications = 0;
        std::mem::take(&mut self.bytes)
    }
}

/// Whether nothing lies between the two.
pub(super) fn follows(position: StreamPosition, next: StreamPosition) -> bool {
    position.epoch == next.epoch && position.offset.checked_add(1) == Some(next.offset)
}

/// Whether someone at `position` has seen what stands at `other`.
fn knows(position: StreamPosition, other: StreamPosition) -> bool {
    position.epoch == other.epoch && other.offset <= position.offset
}

fn cost(prepared: &Prepared) -> usize {
    prepared.bytes() + HELD_OVERHEAD_BYTES
}
