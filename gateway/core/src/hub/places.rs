//! The place of each connection in the lists of its channels, so that it can leave them without a search.

use smallvec::SmallVec;

/// The part of a list that a subscription is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(super) enum PlaceList {
    Live = 0,
    Joining = 1,
    Waiting = 2,
    Insufficient = 3,
}

/// A list and an index in it, in four bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ListPosition(u32);

const INDEX_BITS: u32 = 30;

impl ListPosition {
    /// Packs a list and an index. An index cannot exceed 2^30: a list holds a connection once, and a process has no
    /// room for that many.
    pub(super) fn new(list: PlaceList, index: usize) -> Self {
        debug_assert!(index < 1 << INDEX_BITS);
        Self((list as u32) << INDEX_BITS | index as u32)
    }

    pub(super) fn list(self) -> PlaceList {
        match self.0 >> INDEX_BITS {
            0 => PlaceList::Live,
            1 => PlaceList::Joining,
            2 => PlaceList::Waiting,
            _ => PlaceList::Insufficient,
        }
    }

    pub(super) fn index(self) -> usize {
        (self.0 & ((1 << INDEX_BITS) - 1)) as usize
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct SubscriptionPlace {
    pub(super) channel: u32,
    pub(super) at: ListPosition,
}

/// The places of one connection, by channel. Most connections have one or two, which need no allocation.
type Row = SmallVec<[SubscriptionPlace; 2]>;

const _: () = assert!(size_of::<Row>() <= 32, "every connection has one");

#[derive(Debug, Default)]
pub(super) struct Places {
    rows: Vec<Row>,
    count: usize,
}

impl Places {
    /// Returns the number of subscriptions.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn get(&self, key: u32, channel: u32) -> Option<ListPosition> {
        let row = self.rows.get(key as usize)?;
        let found = row.binary_search_by_key(&channel, |place| place.channel).ok()?;
        Some(row[found].at)
    }

    /// Adds a place, or changes the existing one.
    pub(super) fn set(&mut self, key: u32, channel: u32, at: ListPosition) {
        let key = key as usize;
        if key >= self.rows.len() {
            self.rows.resize_with(key + 1, Row::new);
        }
        let row = &mut self.rows[key];
        match row.binary_search_by_key(&channel, |place| place.channel) {
            Ok(found) => row[found].at = at,
            Err(free) => {
                row.insert(free, SubscriptionPlace { channel, at });
                self.count += 1;
            }
        }
    }

    pub(super) fn remove(&mut self, key: u32, channel: u32) -> Option<ListPosition> {
        let row = self.rows.get_mut(key as usize)?;
        let found = row.binary_search_by_key(&channel, |place| place.channel).ok()?;
        let place = row.remove(found);
        if row.is_empty() {
            *row = Row::new();
        }
        self.count -= 1;
        Some(place.at)
    }

    /// Removes and returns all places of a connection.
    pub(super) fn take(&mut self, key: u32) -> Row {
        let row = self.rows.get_mut(key as usize).map(std::mem::take).unwrap_or_default();
        self.count -= row.len();
        row
    }

    pub(super) fn channels(&self, key: u32) -> impl Iterator<Item = u32> + '_ {
        self.rows.get(key as usize).into_iter().flatten().map(|place| place.channel)
    }

    pub(super) fn row(&self, key: u32) -> &[SubscriptionPlace] {
        self.rows.get(key as usize).map_or(&[], |row| row)
    }

    /// Frees the rows after the last one in use.
    pub(super) fn shrink(&mut self) {
        let used = self.rows.iter().rposition(|row| !row.is_empty()).map_or(0, |last| last + 1);
        self.rows.truncate(used);
        self.rows.shrink_to_fit();
    }
}
