//! Publications held back while some subscribers of a channel were still joining, kept once for all of them.

use std::collections::VecDeque;
use std::sync::Arc;

use shared::position::StreamPosition;

use super::members::JoiningMember;
use super::prepared::Prepared;

/// Maximum number of publications held back in one channel.
pub const HELD_PUBLICATIONS_MAX: usize = 1024;
/// Maximum bytes held back in one channel, including joins and leaves.
pub const HELD_BYTES_MAX: usize = 1 << 20;
/// Maximum bytes held back in all channels of one hub.
pub const HELD_BYTES_TOTAL_MAX: usize = 64 << 20;

/// Bytes that a held publication takes beside its payload, roughly.
const HELD_OVERHEAD_BYTES: usize = 256;

/// How much is held back for joining subscribers before entries are dropped: the oldest publications first, and joins
/// and leaves only if no publication is left.
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

/// Events that came since the oldest joining subscriber joined, numbered by arrival.
#[derive(Debug, Default)]
pub(super) struct HoldBackQueue {
    entries: VecDeque<HeldEvent>,
    /// Number of entries that are publications.
    publications: usize,
    /// The number of the next entry.
    next: u64,
    bytes: usize,
}

#[derive(Debug)]
struct HeldEvent {
    number: u64,
    is_publication: bool,
    prepared: Arc<Prepared>,
}

/// The events of a channel that a subscriber missed while it joined.
#[derive(Debug)]
pub(super) struct CaughtUp<'a> {
    pub(super) publications: Vec<&'a Arc<Prepared>>,
    /// The subscriber's position after these events. `None` if it follows no stream.
    pub(super) now_at: Option<StreamPosition>,
}

impl HoldBackQueue {
    /// Returns the number of the next entry.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Holds events back, and drops old ones where the limits are exceeded. `total` counts the bytes of all channels.
    /// Returns how many events were dropped.
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

    /// Drops the oldest publication, which history may still have, or the oldest event if there is no publication.
    /// Returns how many bytes that frees.
    fn give_up(&mut self) -> Option<usize> {
        let oldest = self.entries.iter().position(|entry| entry.is_publication).unwrap_or(0);
        let HeldEvent { is_publication, prepared, .. } = self.entries.remove(oldest)?;
        self.publications -= usize::from(is_publication);
        self.bytes -= cost(&prepared);
        Some(cost(&prepared))
    }

    /// Returns the events to deliver to a subscriber that has the stream up to `position`. `None` if something between
    /// `position` and now is missing here.
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
                // An event without a position is always delivered, even if it came before a publication that the
                // subscriber has.
                (None, _) => {}
                // The subscriber has read history again since this event.
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

    /// Drops the publications of the stream, which all joining subscribers will read from history. Returns how many
    /// bytes that frees.
    pub(super) fn release_held_stream(&mut self) -> usize {
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

    /// Drops everything, because no subscriber is joining any more. Returns how many bytes that frees.
    pub(super) fn clear(&mut self) -> usize {
        self.entries = VecDeque::new();
        self.publications = 0;
        std::mem::take(&mut self.bytes)
    }
}

/// Returns whether `next` directly follows `position`.
pub(super) fn follows(position: StreamPosition, next: StreamPosition) -> bool {
    position.epoch == next.epoch && position.offset.checked_add(1) == Some(next.offset)
}

/// Returns whether a subscriber at `position` has the publication at `other`.
fn knows(position: StreamPosition, other: StreamPosition) -> bool {
    position.epoch == other.epoch && other.offset <= position.offset
}

fn cost(prepared: &Prepared) -> usize {
    prepared.bytes() + HELD_OVERHEAD_BYTES
}
